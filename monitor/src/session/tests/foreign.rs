//! Kernels that are not as Windows 10 is: the module list is not exported, a driver has no driver object.

use super::*;
use crate::report::{Note, Report};

/// Where the driver's entry of the module list is, see `load_kernel_and_driver`.
const ENTRY: u64 = 0xffff_9000_0003_0000;
const OTHER_OBJECT: u64 = OBJECT + 0x8000;
const BLOCK: u64 = KERNEL + 0x2080;
const INTERRUPT_TIME: u64 = 0xffff_f780_0000_0008;

/// A guest whose kernel does not export the head of its module list.
fn guest() -> Fake {
    let guest = Fake::new();
    let mut image = PeBuilder::new(KERNEL);
    image.section(".text", CODE, vec![0x90; 0x1000]);
    image.section(".data", DATA, vec![0; 0x1000]);
    image.exports(
        "ntoskrnl.exe",
        &[
            ("KeAcquireSpinLockRaiseToDpc", Ok(ACQUIRE)),
            ("KeReleaseSpinLock", Ok(RELEASE)),
            ("ObInsertObject", Ok(INSERT)),
        ],
    );
    image.map(&mut guest.space.borrow_mut());
    guest.space.borrow_mut().write(OTHER_OBJECT, &[0; 0x100]);
    guest
}

/// The debugger data block, for a module list with this head.
fn write_block(guest: &Fake, head: u64) {
    let mut space = guest.space.borrow_mut();
    space.write(BLOCK, &[0; 0x318]);
    space.write(BLOCK + 0x10, b"KDBG");
    space.write(BLOCK + 0x14, &0x318u32.to_le_bytes());
    space.write_u64(BLOCK + 0x18, KERNEL);
    space.write_u64(BLOCK + 0x48, head);
}

fn insert(guest: &mut Fake, session: &Session, object: u64) {
    guest.registers.gpr[1] = object;
    guest.hit(session, INSERT);
}

/// One good pair, and one release too many.
fn break_a_contract(guest: &mut Fake, session: &Session) -> Report {
    guest.call(session, ACQUIRE, 0x1100, 0, 0);
    guest.call(session, RELEASE, 0x1110, 2, 1);
    guest.call(session, RELEASE, 0x1120, 2, 0);
    session.report(&power_off())
}

fn head() -> u64 {
    KERNEL + u64::from(list_rva())
}

#[test]
fn a_driver_object_leads_to_a_module_list_that_is_not_exported() {
    let session = Session::new(config(), None, None);
    let mut guest = guest();
    guest.boot(&session);
    guest.load_kernel_and_driver();
    guest.space.borrow_mut().write_u64(OBJECT + 0x28, ENTRY);
    insert(&mut guest, &session, OTHER_OBJECT);
    insert(&mut guest, &session, OBJECT);
    let report = break_a_contract(&mut guest, &session);
    assert_eq!(report.outcome, Outcome::Defect, "{:?}", report.conditions);
    let told = session.milestones(0);
    assert!(
        told.iter()
            .any(|text| text.contains("found by the first driver object")),
        "{told:?}"
    );
    assert!(
        told.iter().any(|text| text.starts_with("armed before its DriverEntry")),
        "{told:?}"
    );
}

#[test]
fn the_debugger_data_block_leads_to_it_too_even_if_it_comes_late() {
    let session = Session::new(config(), None, None);
    let mut guest = guest();
    guest.boot(&session);
    insert(&mut guest, &session, OTHER_OBJECT);
    guest.load_kernel_and_driver();
    for _ in 0..6 {
        insert(&mut guest, &session, OTHER_OBJECT);
    }
    write_block(&guest, head());
    insert(&mut guest, &session, OBJECT);
    let report = break_a_contract(&mut guest, &session);
    assert_eq!(report.outcome, Outcome::Defect, "{:?}", report.conditions);
    let told = session.milestones(0);
    assert!(told.iter().any(|text| text.contains("debugger data block")), "{told:?}");
}

#[test]
fn witnesses_that_agree_are_both_told_and_such_that_do_not_leave_the_run_inconclusive() {
    for (block, outcome) in [(head(), Outcome::Completed), (head() + 0x40, Outcome::Inconclusive)] {
        let session = Session::new(config(), None, None);
        let mut guest = guest();
        guest.boot(&session);
        guest.load_kernel_and_driver();
        guest.space.borrow_mut().write_u64(OBJECT + 0x28, ENTRY);
        if block != head() {
            // Another ring that has the kernel.
            let (other, entry) = (head() + 0x40, 0xffff_9000_0003_c000_u64);
            let mut space = guest.space.borrow_mut();
            space.write(entry, &[0; 0x100]);
            for (at, value) in [(other, entry), (other + 8, entry), (entry, other), (entry + 8, other)] {
                space.write_u64(at, value);
            }
            space.write_u64(entry + 0x30, KERNEL);
        }
        write_block(&guest, block);
        insert(&mut guest, &session, OBJECT);
        guest.call(&session, ACQUIRE, 0x1100, 0, 0);
        guest.call(&session, RELEASE, 0x1110, 2, 1);
        assert_eq!(session.report(&power_off()).outcome, outcome, "{block:#x}");
        let told = session.milestones(0);
        let both = "found by the first driver object and the debugger data block";
        assert_eq!(told.iter().any(|text| text.contains(both)), block == head(), "{told:?}");
    }
}

#[test]
fn a_list_that_nothing_leads_to_is_said_to_be_what_is_missing() {
    let session = Session::new(config(), None, None);
    let mut guest = guest();
    guest.boot(&session);
    guest.load_kernel_and_driver();
    insert(&mut guest, &session, OBJECT);
    let report = session.report(&power_off());
    assert_eq!(report.exit_code, 4);
    let export = "PsLoadedModuleList".to_owned();
    assert_eq!(report.watch.not_armed, Some(NotArmed::ModulesUnknown { export }));
}

#[test]
fn a_driver_without_a_driver_object_is_said_to_be_one() {
    let session = Session::new(config(), None, None);
    let mut guest = Fake::new();
    guest.boot(&session);
    guest.load_driver();
    guest.space.borrow_mut().write(OTHER_OBJECT, &[0; 0x100]);
    insert(&mut guest, &session, OTHER_OBJECT);
    let not_armed = session.report(&power_off()).watch.not_armed;
    let driver = "target.sys".to_owned();
    assert_eq!(not_armed, Some(NotArmed::NoDriverObject { driver, base: DRIVER }));
}

#[test]
fn after_a_minute_without_a_driver_object_the_driver_is_watched_all_the_same() {
    let session = Session::new(config(), None, None);
    let mut guest = Fake::new();
    guest.boot(&session);
    guest.load_driver();
    guest.space.borrow_mut().write(OTHER_OBJECT, &[0; 0x100]);
    for (second, armed) in [(30_u64, false), (89, false), (91, true)] {
        guest.space.borrow_mut().write_u64(INTERRUPT_TIME, second * 10_000_000);
        insert(&mut guest, &session, OTHER_OBJECT);
        let report = session.report(&power_off());
        assert_eq!(report.watch.not_armed.is_none(), armed, "{second}");
    }
    let report = break_a_contract(&mut guest, &session);
    assert_eq!(report.outcome, Outcome::Defect);
    assert!(
        report
            .notes
            .iter()
            .any(|note| matches!(note, Note::NoDriverObject { .. })),
        "{:?}",
        report.notes
    );
}

#[test]
fn a_bug_check_code_has_32_bits() {
    let session = Session::new(config(), None, None);
    let mut guest = Fake::new();
    guest.boot_and_arm(&session);
    guest.space.borrow_mut().write_u64(head() + 0x20, 0xffff_f800_0000_00d1);
    session.look(&mut guest);
    let end = End {
        kind: EndKind::Crash,
        ..End::default()
    };
    assert_eq!(session.report(&end).end.bug_check.unwrap().code, 0xd1);
}
