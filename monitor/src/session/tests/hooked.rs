//! Hooks in the driver's imports: how they come into force, and what refuses them.

use super::*;
use crate::vmi::GuestMemory as _;

/// Memory that the guest gives, a few bytes into a page.
const GIVEN: u64 = 0xffff_9500_0000_0040;
const BYTES: u64 = 2 << 20;

/// A guest whose driver calls both routines, and its slots for them.
fn guest(imports: &[&str]) -> (Fake, Vec<u64>) {
    let guest = Fake::new();
    let mut image = PeBuilder::new(DRIVER);
    image.section(".text", CODE, code());
    image.directory(EXCEPTION, UNWIND, 12);
    let slots = image.imports(&[("ntoskrnl.exe", imports)]);
    image.calls("PAGE", &[(0, slots[0]), (0, slots[1])]);
    let mut space = guest.space.borrow_mut();
    image.map(&mut space);
    let slots: Vec<u64> = slots.into_iter().map(|slot| DRIVER + u64::from(slot)).collect();
    for (slot, routine) in slots.iter().zip([ACQUIRE, RELEASE]) {
        space.write_u64(*slot, KERNEL + u64::from(routine));
    }
    for page in (GIVEN & !0xfff..(GIVEN & !0xfff) + BYTES).step_by(0x1000) {
        space.back(page, page & 0xffff_ffff | 0x40_0000_0000);
    }
    drop(space);
    (guest, slots)
}

fn session() -> Session {
    let config = Config {
        import_hooks: true,
        ..config()
    };
    Session::new(config, None, None)
}

/// The driver's object is inserted: the guest is asked for memory.
fn ask(guest: &mut Fake, session: &Session) -> Registers {
    guest.boot(session);
    guest.load_driver();
    for (number, register) in guest
        .registers
        .gpr
        .iter_mut()
        .enumerate()
        .filter(|(number, _)| *number != 4)
    {
        *register = 0x100 + number as u64;
    }
    guest.registers.gpr[1] = OBJECT;
    guest.registers.rip = KERNEL + u64::from(INSERT);
    let before = guest.registers;
    guest.hit(session, INSERT);
    before
}

/// The allocator returns that.
fn answer(guest: &mut Fake, session: &Session, memory: u64) {
    let back = guest.space.borrow().read_u64(guest.registers.rsp()).unwrap();
    assert_eq!(back, KERNEL + u64::from(INSERT));
    guest.registers.gpr[4] += 8;
    guest.registers.gpr[0] = memory;
    guest.registers.gpr[10] = 0xdead;
    guest.hit(session, INSERT);
}

fn slot(guest: &Fake, slot: u64) -> u64 {
    guest.space.borrow().read_u64(slot).unwrap()
}

#[test]
fn the_guest_gives_memory_goes_on_as_it_was_and_the_slots_lead_to_stubs() {
    let (mut guest, slots) = guest(&PAIR);
    let session = session();
    let before = ask(&mut guest, &session);
    assert_eq!(guest.registers.rip, KERNEL + u64::from(ALLOCATE));
    assert_eq!((guest.registers.rcx(), guest.registers.rsp() % 16), (0, 8));
    assert!(guest.registers.rsp() < before.rsp() && guest.registers.rdx() < BYTES);
    // Another thread inserts an object meanwhile.
    let (asked, elsewhere) = (guest.registers, STACK - 0x800);
    guest.registers.gpr[4] = elsewhere;
    guest.hit(&session, INSERT);
    assert_eq!(
        (guest.registers.rsp(), slot(&guest, slots[0])),
        (elsewhere, KERNEL + u64::from(ACQUIRE))
    );
    guest.registers = asked;
    answer(&mut guest, &session, GIVEN);
    assert_eq!(guest.registers, before);
    let entries = [slot(&guest, slots[0]), slot(&guest, slots[1])];
    assert!(entries.iter().all(|entry| (GIVEN..GIVEN + BYTES).contains(entry)) && entries[0] != entries[1]);
    let (exit, witness) = (guest.breakpoints[0], guest.breakpoints[1]);
    assert_eq!(
        (guest.breakpoints.len(), witness.address),
        (2, KERNEL + u64::from(INSERT))
    );
    assert!((GIVEN..GIVEN + BYTES).contains(&exit.address));
    // A call leaves the guest: it stands at the routine then, as at a breakpoint.
    let call = |guest: &mut Fake, stub: u64, routine: u32, word: u64| {
        let mut space = guest.space.borrow_mut();
        space.write_u64(STACK, DRIVER + 0x1100);
        space.write_u64(STACK - 8, stub);
        space.write_u64(STACK - 16, KERNEL + u64::from(routine));
        space.write_u64(LOCK, word);
        drop(space);
        (guest.registers.gpr[1], guest.registers.gpr[2]) = (LOCK, 0);
        guest.registers.gpr[4] = STACK - 16;
        guest.registers.rip = exit.address;
        guest.special.cr8 = 2 * (1 - u64::from(routine == ACQUIRE));
        session.handle(guest, CpuStop::Breakpoint(exit.id));
        guest.registers
    };
    let entered = call(&mut guest, 0, ACQUIRE, 0);
    assert_eq!((entered.rip, entered.rsp()), (KERNEL + u64::from(ACQUIRE), STACK));
    call(&mut guest, 1, RELEASE, 1);
    call(&mut guest, 1, RELEASE, 0);
    // Whoever jumps there with nonsense on the stack goes where that says.
    let nowhere = call(&mut guest, 7, RELEASE, 0);
    assert_eq!((nowhere.rip, nowhere.rsp()), (exit.address, STACK - 16));
    let mut end = power_off();
    session.close(&mut end);
    let report = session.report(&end);
    assert_eq!(
        (report.outcome, report.findings.len()),
        (Outcome::Defect, 1),
        "{:#?}",
        report.conditions
    );
    let Some(Note::ImportHooks { imports, exits, .. }) = report.notes.last() else {
        panic!("{:?}", report.notes);
    };
    assert_eq!((*imports, *exits), (2, 3));
}

#[test]
fn a_driver_that_is_loaded_again_is_hooked_again_before_it_runs() {
    let (mut guest, slots) = guest(&PAIR);
    let session = session();
    ask(&mut guest, &session);
    answer(&mut guest, &session, GIVEN);
    let entries = [slot(&guest, slots[0]), slot(&guest, slots[1])];
    for (slot, routine) in slots.iter().zip([ACQUIRE, RELEASE]) {
        guest.space.borrow_mut().write_u64(*slot, KERNEL + u64::from(routine));
    }
    guest.registers.gpr[1] = OBJECT;
    guest.hit(&session, INSERT);
    assert_eq!([slot(&guest, slots[0]), slot(&guest, slots[1])], entries);
    assert!(
        session
            .report(&power_off())
            .conditions
            .iter()
            .all(|note| !matches!(note.reason, Reason::Missed(_)))
    );
}

/// Breakpoints are on the routines, the driver is as it was, and the report says why.
#[track_caller]
fn assert_breakpoints(guest: &Fake, session: &Session, slots: &[u64], why: &str) {
    let addresses: Vec<u64> = guest.breakpoints.iter().map(|breakpoint| breakpoint.address).collect();
    assert_eq!(
        addresses[..2],
        [KERNEL + u64::from(ACQUIRE), KERNEL + u64::from(RELEASE)],
        "{why}"
    );
    assert_eq!(slot(guest, slots[1]), KERNEL + u64::from(RELEASE), "{why}");
    let report = session.report(&power_off());
    let told = report.notes.iter().filter_map(|note| match note {
        Note::NoImportHooks { why } => Some(why.clone()),
        _ => None,
    });
    let told: Vec<String> = told.collect();
    assert!(told.len() == 1 && told[0].contains(why), "{told:?}");
}

#[test]
fn whatever_is_not_as_it_has_to_be_leaves_breakpoints_and_the_guest_as_it_was() {
    let refused = |prepare: fn(&mut Fake), memory: u64, why: &str| {
        let (mut guest, slots) = guest(&PAIR);
        let session = session();
        prepare(&mut guest);
        let before = ask(&mut guest, &session);
        if guest.registers.rip == KERNEL + u64::from(ALLOCATE) {
            answer(&mut guest, &session, memory);
        }
        assert_eq!(guest.registers, before, "{why}");
        assert_breakpoints(&guest, &session, &slots, why);
    };
    refused(|_| {}, 0, "nonpaged memory");
    refused(|_| {}, 0x1000, "nonpaged memory");
    refused(|guest| guest.no_code = true, GIVEN, "is not executable");
    refused(|guest| guest.special.cr8 = 2, GIVEN, "IRQL 2");
    refused(|guest| guest.registers.rflags = 2, GIVEN, "IRQL 0");
    refused(|_| {}, GIVEN + BYTES, "is not mapped");
}

#[test]
fn a_driver_that_may_call_by_other_ways_is_watched_by_breakpoints() {
    let imports = [PAIR[0], PAIR[1], "MmGetSystemRoutineAddress"];
    let (mut guest, slots) = guest(&imports);
    let session = session();
    ask(&mut guest, &session);
    answer(&mut guest, &session, GIVEN);
    assert_breakpoints(&guest, &session, &slots, "by another way than its import table");
}
