//! Locks that the port driver holds around a callback: which callback makes a call, and what the port driver holds then.

use super::golden::play;
use crate::report::Cause;

const IMPORTS: &str = "imports StorPortInitialize StorPortNotification StorPortExtendedFunction\n";
const START_IO_LOCK: &str =
    "call StorPortAcquireSpinLock adapter=60000 kind=2 context=0 handle=4800 irql=2 at 1100 from 1400 storport+1200";

/// What is found when the driver registers so, and then makes these calls.
fn found(initialize: &str, rest: &[&str]) -> Vec<(Cause, Option<String>)> {
    let configure = "configure find=1790 model=1 mode=1\nmemory 4800=0\n";
    let scene = format!(
        "{IMPORTS}initialize {initialize} 20=1790\n{configure}{}",
        rest.join("\n")
    );
    let findings = play(&scene).findings.into_iter();
    findings.map(|finding| (finding.cause, finding.callback)).collect()
}

#[test]
fn a_lock_that_the_port_driver_holds_is_found_in_its_callback_only() {
    let held = |callback: &str| vec![(Cause::HeldByPortDriver, Some(callback.to_owned()))];
    assert_eq!(found("10=1000", &[START_IO_LOCK]), held("HwStorStartIo"));
    assert_eq!(found("28=1000", &[START_IO_LOCK]), held("HwStorResetBus"));
    assert_eq!(found("80=1000", &[START_IO_LOCK]), [], "HwStorBuildIo");
    // Where one function is both, nobody knows which runs.
    assert_eq!(found("10=1000 80=1000", &[START_IO_LOCK]), []);
    let interrupt_lock = START_IO_LOCK.replace("kind=2", "kind=3");
    assert_eq!(found("10=1000", &[&interrupt_lock]), [], "the full duplex model");
}

#[test]
fn an_interrupt_routine_may_be_called_by_the_kernel_itself() {
    let by_kernel = START_IO_LOCK.replace("storport+", "nt+");
    let interrupt_lock = by_kernel.replace("kind=2", "kind=3").replace("irql=2", "irql=5");
    let held = vec![(Cause::HeldByPortDriver, Some("HwStorInterrupt".to_owned()))];
    assert_eq!(found("18=1000", &[&interrupt_lock]), held);
    assert_eq!(
        found("10=1000", &[&by_kernel]),
        [],
        "HwStorStartIo is the port driver's to call"
    );
}

#[test]
fn a_virtual_miniport_may_take_the_lock() {
    assert_eq!(found("10=1000 b8=1", &[START_IO_LOCK]), []);
}

#[test]
fn a_callback_that_is_named_by_a_call_is_known_from_then_on() {
    let timer = "tell StorPortNotification code=6 routine=1000 irql=2 at 1300";
    let held = vec![(Cause::HeldByPortDriver, Some("HwStorTimer".to_owned()))];
    assert_eq!(found("", &[timer, START_IO_LOCK]), held);
    let dpc = "tell StorPortNotification code=1001 routine=1000 irql=2 at 1300";
    assert_eq!(found("", &[dpc, START_IO_LOCK]), []);
}

#[test]
fn a_driver_that_has_asked_for_several_channels_may_take_the_lock_in_start_io() {
    let ask = "tell StorPortExtendedFunction code=e data=72000 irql=0 at 1300";
    for (channels, flags, expected) in [(4_u64, 2_u64, 0), (1, 2, 1), (4, 1, 1)] {
        let data = format!("memory 72000=2 72008={:x}", channels << 32 | flags);
        let found = found("10=1000", &[&data, ask, START_IO_LOCK]);
        assert_eq!(found.len(), expected, "{channels} {flags}: {found:?}");
    }
}

#[test]
fn a_function_that_the_port_driver_has_not_called_or_not_so_is_no_callback() {
    let elsewhere = START_IO_LOCK.replace("from 1400 storport+1200", "from 1400 other+1200");
    assert_eq!(found("10=1000", &[&elsewhere]), [], "the port driver has not called it");
    let below = START_IO_LOCK.replace("irql=2", "irql=1");
    assert_eq!(
        found("10=1000", &[&below]),
        [],
        "below DISPATCH_LEVEL that lock is not held"
    );
}

/// A register that the lock routines leave waits for the call by which the driver asks for channels.
#[test]
fn a_driver_that_asks_for_channels_by_an_export_that_is_no_lock_routine_is_waited_for_there() {
    let head = "imports StorPortInitialize StorPortNotification StorPortExtendedFunction=e\ninitialize 10=1000 20=1790";
    let configure = "configure find=1790 model=1 mode=1";
    let ask = |adapter: &str, channels: u64, flags: u64| {
        let data = format!("memory 72000=2 72008={:x}", channels << 32 | flags);
        format!("{data}\ntell StorPortExtendedFunction code=e data=72000 adapter={adapter} irql=0 at 1300")
    };
    let found = |lines: &[&str]| {
        let scene = format!("{head}\nmemory 4800=0\n{}\n{START_IO_LOCK}", lines.join("\n"));
        play(&scene).findings.len()
    };
    assert_eq!(found(&[configure]), 1, "it has not asked");
    assert_eq!(found(&[configure, &ask("60000", 1, 2)]), 1, "for one channel");
    assert_eq!(found(&[configure, &ask("60000", 4, 1)]), 1, "for something else");
    assert_eq!(found(&[configure, &ask("60000", 4, 2)]), 0);
    assert_eq!(found(&[configure, &ask("68000", 4, 2)]), 1, "for another adapter");
    assert_eq!(found(&[]), 0, "its HwStorFindAdapter was not seen");
    let other = START_IO_LOCK.replace("adapter=60000", "adapter=68000");
    let scene = format!("{head}\nmemory 4800=0\n{configure}\n{other}");
    assert_eq!(play(&scene).findings.len(), 0, "nothing is known of another adapter");
}

#[test]
fn the_adapter_control_routine_has_the_interrupt_lock_above_dispatch_level() {
    let lock = |irql: &str| START_IO_LOCK.replace("kind=2", "kind=3").replace("irql=2", irql);
    let held = vec![(Cause::HeldByPortDriver, Some("HwStorAdapterControl".to_owned()))];
    assert_eq!(found("78=1000", &[&lock("irql=5")]), held);
    assert_eq!(found("78=1000", &[&lock("irql=0")]), []);
    assert_eq!(found("78=1000", &[START_IO_LOCK]), []);
}

#[test]
fn the_interrupt_mode_that_a_driver_has_asked_for_is_told_of_its_own_adapter_only() {
    let of = |mode: u32, adapter: &str| {
        let lock =
            format!("call StorPortAcquireMSISpinLock adapter={adapter} message=1 irql=2 at 1100 from storport+1200");
        let configure = format!("configure find=1790 model=1 mode={mode}");
        let scene = format!("{IMPORTS}\ninitialize 10=1000 20=1790\n{configure}\n{lock}");
        play(&scene).findings.len()
    };
    assert_eq!([of(0, "60000"), of(1, "60000"), of(2, "60000")], [1, 1, 0]);
    // Its HwStorFindAdapter has not set it yet.
    let early = "call StorPortAcquireMSISpinLock adapter=60000 message=1 irql=2 at 1610 from storport+1200";
    let scene = format!("{IMPORTS}\ninitialize 10=1000 20=1600\nconfigure find=1600 model=1 mode=0\n{early}");
    assert_eq!(play(&scene).findings.len(), 0);
    // The memory may be something else's; another adapter may have another mode.
    assert_eq!([of(3, "60000"), of(0, "68000")], [0, 0]);
}
