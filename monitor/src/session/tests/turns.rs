//! A miniport: what it imports more than fits, of whose code nobody can say what it wants; and the callbacks that it
//! registers.

use std::collections::HashSet;

use super::*;

const STORPORT: u64 = 0xffff_f800_6000_0000;
const NOTIFICATION: u32 = 0x1100;
const INITIALIZE: u32 = 0x1200;
const SLOT_OF_NOTIFICATION: u32 = 0x2000 + 60 + 6 * 8;

/// Its list entries: the kernel's structures of [`Fake::load_driver_at`], and one more.
fn guest(code: &[u8]) -> Fake {
    let guest = Fake::new();
    guest.load_driver();
    let mut storport = PeBuilder::new(STORPORT);
    storport.section(".text", CODE, vec![0x90; 0x1000]);
    let exports = [
        ("StorPortInitialize", Ok(INITIALIZE)),
        ("StorPortNotification", Ok(NOTIFICATION)),
    ];
    storport.exports("storport.sys", &exports);
    let mut text = super::code();
    text[0x200..0x200 + code.len()].copy_from_slice(code);
    let mut driver = PeBuilder::new(DRIVER);
    driver.section(".text", CODE, text);
    driver.directory(EXCEPTION, UNWIND, 12);
    let slots = driver.imports(&[
        ("ntoskrnl.exe", &PAIR),
        ("storport.sys", &["StorPortNotification", "StorPortInitialize"]),
    ]);
    assert_eq!(slots[2], SLOT_OF_NOTIFICATION + 24);
    let mut space = guest.space.borrow_mut();
    storport.map(&mut space);
    driver.map(&mut space);
    let (head, first, entry) = (
        KERNEL + u64::from(list_rva()),
        0xffff_9000_0003_0000,
        0xffff_9000_0004_0000,
    );
    let name: Vec<u8> = "storport.sys".encode_utf16().flat_map(u16::to_le_bytes).collect();
    space.write(entry, &[0; 0x100]);
    space.write(entry + 0x1000, &name);
    for (address, value) in [(head + 8, entry), (first, entry), (entry, head), (entry + 8, first)] {
        space.write_u64(address, value);
    }
    space.write_u64(entry + 0x30, STORPORT);
    space.write_u64(entry + 0x40, 0x4000);
    space.write_u64(entry + 0x58, name.len() as u64 | (name.len() as u64) << 16);
    space.write_u64(entry + 0x60, entry + 0x1000);
    drop(space);
    guest
}

fn arm(session: &Session, code: &[u8]) -> Fake {
    let mut guest = guest(code);
    guest.boot(session);
    guest.registers.gpr[1] = OBJECT;
    guest.hit(session, INSERT);
    guest
}

/// `call [StorPortNotification]` at 1200h of the driver, with what is before it.
fn calling(before: &[u8]) -> Vec<u8> {
    let mut code = before.to_vec();
    code.extend([0xff, 0x15]);
    let next = 0x1200 + code.len() as u32 + 4;
    code.extend((SLOT_OF_NOTIFICATION + 24 - next).to_le_bytes());
    code
}

fn notify(guest: &mut Fake, session: &Session) {
    let before = guest.registers.gpr[1];
    guest.registers.rip = STORPORT + u64::from(NOTIFICATION);
    guest.registers.gpr[1] = 0;
    guest.space.borrow_mut().write_u64(STACK, DRIVER + 0x1220);
    guest.special.cr8 = 0;
    let breakpoint = guest
        .breakpoints
        .iter()
        .find(|breakpoint| breakpoint.address == guest.registers.rip);
    let id = breakpoint.expect("it is watched in every turn").id;
    session.handle(guest, CpuStop::Breakpoint(id));
    guest.registers.gpr[1] = before;
}

fn armed(guest: &Fake, rva: u32) -> bool {
    guest
        .breakpoints
        .iter()
        .any(|breakpoint| breakpoint.address == KERNEL + u64::from(rva))
}

fn few_registers() -> Session {
    let config = Config {
        breakpoints: 2,
        ..config()
    };
    Session::new(config, None, None)
}

#[test]
fn sets_take_turns_and_the_report_has_what_each_has_seen() {
    let session = few_registers();
    let mut guest = arm(&session, &calling(&[])); // ECX is the function's own argument
    assert_eq!(guest.breakpoints.len(), 2);
    let mut seen = [0u32; 2];
    for _ in 0..5000 {
        for (count, rva) in seen.iter_mut().zip([ACQUIRE, RELEASE]) {
            *count += u32::from(armed(&guest, rva));
        }
        notify(&mut guest, &session);
    }
    assert!(seen.iter().all(|&count| count > 1000), "{seen:?}");
    let report = session.report(&power_off());
    let sets = &report.watch.sets;
    assert_eq!(sets.len(), 2, "{sets:?}");
    assert_eq!(sets.iter().map(|set| set.hits).sum::<u64>(), 5000);
    assert!(sets.iter().all(|set| set.turns >= 2), "{sets:?}");
    assert_eq!(report.watch.routines.len(), 3);
    let notified = report
        .watch
        .routines
        .iter()
        .find(|watched| watched.routine.contains("Notification"));
    assert_eq!(notified.unwrap().hits, 5000);
    assert!(report.watch.gaps.is_empty(), "{:?}", report.watch.gaps);
}

#[test]
fn a_turn_is_short_even_if_all_routines_have_been_called() {
    let session = few_registers();
    let mut guest = arm(&session, &calling(&[]));
    let mut called = HashSet::new();
    let mut turns = Vec::new();
    for _ in 0..10_000 {
        let now = [ACQUIRE, RELEASE].into_iter().find(|&rva| armed(&guest, rva)).unwrap();
        if called.insert(now) {
            // By another module: what the driver holds would keep the turn.
            let irql = if now == ACQUIRE { 0 } else { 2 };
            guest.call_from(&session, now, KERNEL + 0x1800, irql, u64::from(now == RELEASE));
        }
        match turns.last_mut() {
            Some((last, hits)) if *last == now => *hits += 1,
            _ => turns.push((now, 1)),
        }
        notify(&mut guest, &session);
    }
    assert_eq!(called.len(), 2);
    let longest = turns.iter().map(|(_, hits)| *hits).max();
    assert!(
        turns.len() >= 10 && longest.is_some_and(|hits| hits <= 1024),
        "{turns:?}"
    );
}

#[test]
fn no_turn_ends_while_the_driver_holds_a_lock() {
    let session = few_registers();
    let mut guest = arm(&session, &calling(&[]));
    for _ in 0..3000 {
        if armed(&guest, ACQUIRE) {
            break;
        }
        notify(&mut guest, &session);
    }
    guest.call(&session, ACQUIRE, 0x1100, 0, 0);
    for _ in 0..3000 {
        // Its frame may be the one of before: nothing says that the hold is over.
        guest.special.cr8 = 2;
        notify_at(&mut guest, &session, 2);
        assert!(armed(&guest, ACQUIRE));
    }
}

fn notify_at(guest: &mut Fake, session: &Session, irql: u64) {
    let stack = guest.registers.gpr[4];
    guest.registers.gpr[4] = stack - 0x100;
    guest.space.borrow_mut().write_u64(stack - 0x100, DRIVER + 0x1220);
    guest.registers.rip = STORPORT + u64::from(NOTIFICATION);
    guest.registers.gpr[1] = 0;
    guest.special.cr8 = irql;
    let breakpoint = guest
        .breakpoints
        .iter()
        .find(|breakpoint| breakpoint.address == guest.registers.rip);
    let id = breakpoint.expect("it is watched in every turn").id;
    session.handle(guest, CpuStop::Breakpoint(id));
    guest.registers.gpr[4] = stack;
}

#[test]
fn an_export_whose_lock_codes_no_code_passes_leaves_its_register() {
    for explain in [false, true] {
        let config = Config {
            breakpoints: 2,
            explain,
            ..config()
        };
        let session = Session::new(config, None, None);
        // mov ecx, 5
        let guest = arm(&session, &calling(&[0xb9, 5, 0, 0, 0]));
        assert!(
            armed(&guest, ACQUIRE) && armed(&guest, RELEASE),
            "{:?}",
            guest.breakpoints
        );
        let report = session.report(&power_off());
        assert!(
            report.watch.gaps.is_empty() && report.watch.sets.is_empty(),
            "{:?}",
            report.watch
        );
        let told = session
            .milestones(0)
            .iter()
            .any(|line| line.contains("1 call passes 0x5"));
        assert_eq!(told, explain, "{:?}", session.milestones(0));
    }
}

fn stop_at(guest: &mut Fake, session: &Session, address: u64) {
    guest.registers.rip = address;
    let breakpoint = guest
        .breakpoints
        .iter()
        .find(|breakpoint| breakpoint.address == address);
    let id = breakpoint
        .unwrap_or_else(|| panic!("nothing is armed at {address:#x}: {:?}", guest.breakpoints))
        .id;
    assert_eq!(session.handle(guest, CpuStop::Breakpoint(id)), Action::Resume);
}

/// `HW_INITIALIZATION_DATA` with HwStorStartIo and HwStorFindAdapter.
fn register(guest: &mut Fake, session: &Session, object: u64, start_io: u64, find_adapter: u64) {
    const DATA: u64 = 0xffff_9000_0005_0000;
    {
        let mut space = guest.space.borrow_mut();
        space.write(DATA, &[0; 0xd0]);
        space.write(DATA, &0xd0u32.to_le_bytes());
        space.write_u64(DATA + 0x10, start_io);
        space.write_u64(DATA + 0x20, find_adapter);
    }
    (guest.registers.gpr[1], guest.registers.gpr[8]) = (object, DATA);
    stop_at(guest, session, STORPORT + u64::from(INITIALIZE));
}

#[test]
fn the_callback_that_runs_is_told_with_a_violation() {
    let session = Session::new(config(), None, None);
    let mut guest = arm(&session, &calling(&[0xb9, 5, 0, 0, 0]));
    let waits = |guest: &Fake, at: u64| guest.breakpoints.iter().any(|breakpoint| breakpoint.address == at);
    let (initialize, find_adapter) = (STORPORT + u64::from(INITIALIZE), DRIVER + 0x1700);
    guest.space.borrow_mut().write(OBJECT + 0x800, &[0; 0x150]);
    register(&mut guest, &session, OBJECT + 0x800, DRIVER + 0x1000, find_adapter);
    assert!(waits(&guest, initialize), "that was another miniport");
    register(&mut guest, &session, OBJECT, DRIVER + 0x1000, find_adapter);
    assert!(!waits(&guest, initialize) && waits(&guest, find_adapter));
    // ConfigInfo is its fifth argument; a message routine in it lies in the driver, or is none.
    guest.space.borrow_mut().write_u64(STACK + 0x28, 0xffff_9000_0005_0100);
    guest.space.borrow_mut().write(0xffff_9000_0005_0100, &[0; 0x100]);
    stop_at(&mut guest, &session, find_adapter);
    assert_eq!(guest.breakpoints.len(), 2, "the register is given back");
    guest.space.borrow_mut().write_u64(STACK + 0x28, 0);
    guest.call(&session, RELEASE, 0x1120, 2, 0);
    let report = session.report(&power_off());
    assert_eq!(
        report.findings[0].callback.as_deref(),
        Some("HwStorStartIo"),
        "{:?}",
        report.findings[0].stack
    );
    assert!(crate::report::text::render(&report).contains("| callback HwStorStartIo"));
}

#[test]
fn a_registration_that_makes_no_sense_is_no_callback() {
    let session = Session::new(config(), None, None);
    let mut guest = arm(&session, &calling(&[0xb9, 5, 0, 0, 0]));
    register(&mut guest, &session, OBJECT, 0x1234, KERNEL);
    assert_eq!(guest.breakpoints.len(), 2, "the register is given back");
    guest.call(&session, RELEASE, 0x1120, 2, 0);
    assert_eq!(session.report(&power_off()).findings[0].callback, None);
}
