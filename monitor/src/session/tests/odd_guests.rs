//! Guests in which a hit is not what it seems: user mode, a crash, a reset, routines that share an address.

use super::*;
use crate::outcome::Condition;
use crate::report::{ConditionNote, Reason};

/// A guest that is watched and has made one good pair of calls.
fn watched(session: &Session) -> Fake {
    let mut guest = Fake::new();
    guest.boot_and_arm(session);
    guest.pair_from(session, DRIVER);
    guest
}

impl Fake {
    /// One good pair of calls by the driver at this address.
    fn pair_from(&mut self, session: &Session, base: u64) {
        self.call_from(session, ACQUIRE, base + 0x1100, 0, 0);
        self.call_from(session, RELEASE, base + 0x1110, 2, 1);
    }
}

#[test]
fn a_jump_from_user_mode_to_a_routine_is_no_call() {
    let session = Session::new(config(), None, None);
    let mut guest = watched(&session);
    guest.special.cpl = 3;
    guest.special.gs_base = 0x7ff0_0000;
    let reads = guest.space.borrow().reads.get();
    guest.call_from(&session, RELEASE, 0x7ff6_0000_1000, 0, 0);
    assert_eq!(guest.space.borrow().reads.get(), reads);
    let report = session.report(&power_off());
    assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.findings);
    assert_eq!((report.watch.ignored.user_mode, report.cost.hits), (1, 2));
    assert_eq!(report.watch.routines[1].hits, 1);
}

#[test]
fn a_guest_that_has_crashed_is_not_judged() {
    const HIGH_LEVEL: u64 = 15;
    let session = Session::new(config(), None, None);
    let mut guest = watched(&session);
    // High, but alive: judged.
    guest.call(&session, ACQUIRE, 0x1100, HIGH_LEVEL, 0);
    guest.call(&session, RELEASE, 0x1110, HIGH_LEVEL, 1);
    let before = session.report(&power_off());
    guest
        .space
        .borrow_mut()
        .write_u64(KERNEL + u64::from(list_rva()) + 0x20, 0xd1);
    guest.call(&session, RELEASE, 0x1120, HIGH_LEVEL, 0);
    // Whatever runs afterwards belongs to the crash.
    guest.call(&session, RELEASE, 0x1120, 2, 0);
    session.look(&mut guest);
    let report = session.report(&End {
        kind: EndKind::Reset,
        ..End::default()
    });
    // The acquire at that level is one.
    assert!(!before.findings.is_empty());
    assert_eq!(report.findings, before.findings);
    assert_eq!((report.watch.ignored.after_bug_check, report.cost.hits), (2, 4));
    assert!(
        report
            .conditions
            .iter()
            .any(|note| note.condition == Condition::GuestFailed)
    );
}

#[test]
fn after_a_reset_the_drivers_old_place_is_anybodys() {
    let session = Session::new(config(), None, None);
    let mut guest = watched(&session);
    session.handle(&mut guest, CpuStop::Reset);
    guest.boot(&session);
    driver(AGAIN, &PAIR).map(&mut guest.space.borrow_mut());
    guest.load_driver_at(AGAIN, 0xffff_9000_0003_4000);
    for offset in [0x18, 0x58] {
        let start = AGAIN + if offset == 0x58 { 0x1000 } else { 0 };
        guest.space.borrow_mut().write_u64(OBJECT + offset, start);
    }
    guest.registers.gpr[1] = OBJECT;
    guest.hit(&session, INSERT);
    guest.pair_from(&session, AGAIN);
    // Somebody else's code, and a lock of its own.
    guest.space.borrow_mut().write_u64(STACK, DRIVER + 0x1120);
    guest.space.borrow_mut().write_u64(LOCK + 0x100, 0);
    (guest.registers.gpr[1], guest.special.cr8) = (LOCK + 0x100, 2);
    guest.hit(&session, RELEASE);
    let report = session.report(&power_off());
    assert_eq!(report.target.as_ref().unwrap().base, AGAIN);
    assert_eq!(report.outcome, Outcome::Completed, "{:#?}", report.findings);
    assert!(report.findings.iter().all(|found| !found.concerns_target));
}

/// A guest whose kernel exports these lock routines at these places, watched with so many debug registers.
fn exporting(breakpoints: usize, exports: &[(&str, u32)]) -> (Session, Fake) {
    let session = Session::new(
        Config {
            breakpoints,
            ..config()
        },
        None,
        None,
    );
    let mut guest = Fake::new();
    let mut image = PeBuilder::new(KERNEL);
    image.section(".text", CODE, vec![0x90; 0x1000]);
    image.section(".data", DATA, vec![0; 0x100]);
    let fixed = [
        ("ObInsertObject", INSERT),
        ("KiBugCheckData", list_rva() + 0x20),
        ("PsLoadedModuleList", list_rva()),
    ];
    let all = exports.iter().chain(&fixed).map(|&(name, rva)| (name, Ok(rva)));
    image.exports("ntoskrnl.exe", &all.collect::<Vec<_>>());
    image.map(&mut guest.space.borrow_mut());
    let names: Vec<&str> = exports.iter().map(|(name, _)| *name).collect();
    driver(DRIVER, &names).map(&mut guest.space.borrow_mut());
    guest.boot_and_arm(&session);
    (session, guest)
}

const ACQUIRE_AT_DPC: u32 = ACQUIRE + 0x10;
const SHARED: [(&str, u32); 4] = [
    ("KeAcquireSpinLockRaiseToDpc", ACQUIRE),
    ("KeAcquireSpinLockAtDpcLevel", ACQUIRE_AT_DPC),
    ("KeReleaseSpinLock", RELEASE),
    ("KeReleaseSpinLockFromDpcLevel", RELEASE),
];

#[test]
fn a_release_at_a_shared_address_is_the_one_that_its_acquire_asks_for() {
    let (session, mut guest) = exporting(4, &SHARED);
    let mut addresses: Vec<u64> = guest.breakpoints.iter().map(|breakpoint| breakpoint.address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), guest.breakpoints.len(), "{:?}", guest.breakpoints);
    for (acquire, irql) in [(ACQUIRE_AT_DPC, 2), (ACQUIRE, 0), (ACQUIRE_AT_DPC, 2)] {
        guest.call(&session, acquire, 0x1100, irql, 0);
        guest.call(&session, RELEASE, 0x1110, 2, 1);
    }
    let report = session.report(&power_off());
    assert_eq!(report.outcome, Outcome::Completed, "{:#?}", report.findings);
    assert!(report.findings.is_empty());
    let calls = |name: &str| -> u64 {
        let calls = report
            .calls
            .iter()
            .filter(|call| call.routine.to_string().ends_with(name));
        calls.map(|call| call.calls).sum()
    };
    assert_eq!((calls("!KeReleaseSpinLock"), calls("FromDpcLevel")), (1, 2));
    let shared = report.watch.routines.iter().find(|watched| watched.hits == 3).unwrap();
    assert_eq!(shared.same_address, ["nt!KeReleaseSpinLockFromDpcLevel"]);
    // And one too many is one too many.
    guest.call(&session, RELEASE, 0x1120, 2, 0);
    assert_eq!(session.report(&power_off()).outcome, Outcome::Defect);
}

#[test]
fn what_another_module_calls_at_a_shared_address_is_known_too() {
    // The driver imports one name only; the other one's rows are seen at the same breakpoint.
    let session = Session::new(config(), None, None);
    let (_, template) = exporting(4, &SHARED);
    let mut guest = Fake {
        breakpoints: Vec::new(),
        ..template
    };
    driver(DRIVER, &["KeAcquireSpinLockAtDpcLevel", "KeReleaseSpinLock"]).map(&mut guest.space.borrow_mut());
    guest.boot_and_arm(&session);
    guest.call(&session, ACQUIRE_AT_DPC, 0x1100, 2, 0);
    guest.call(&session, RELEASE, 0x1110, 2, 1);
    assert!(session.report(&power_off()).findings.is_empty());
}

#[test]
fn a_register_that_a_shared_address_spares_is_used_for_another_routine() {
    let (session, guest) = exporting(3, &SHARED);
    assert_eq!(guest.breakpoints.len(), 3);
    let report = session.report(&power_off());
    assert!(report.watch.gaps.is_empty(), "{:?}", report.watch.gaps);
    let (session, guest) = exporting(2, &SHARED);
    assert_eq!(guest.breakpoints.len(), 2);
    // The third one waits for its turn, which has not come.
    assert_eq!(session.lock().watching.not_yet_watched().len(), 1);
    let report = session.report(&power_off());
    let not_yet = |condition: &ConditionNote| matches!(condition.reason, Reason::NotYetWatched { .. });
    assert!(report.conditions.iter().any(not_yet), "{:?}", report.conditions);
}

#[test]
fn printing_routines_leave_a_register_for_caught_returns() {
    for (debug_print, breakpoints, logs) in [(false, 3, false), (true, 3, false), (true, 4, true)] {
        let session = Session::new(
            Config {
                breakpoints,
                debug_print,
                ..config()
            },
            None,
            None,
        );
        let mut guest = Fake::new();
        driver(DRIVER, &[PAIR[0], PAIR[1], "DbgPrint"]).map(&mut guest.space.borrow_mut());
        guest.boot_and_arm(&session);
        assert!(session.lock().watching.can_catch(), "{debug_print}, {breakpoints}");
        let log = session.report(&power_off()).debug_print;
        assert_eq!(log.is_some_and(|log| !log.routines.is_empty()), logs);
    }
}

#[test]
fn a_driver_that_may_reach_routines_unseen_is_suspected_at_most_of_a_double_acquire() {
    // Looked up by name at run time, by ordinal, by another module; and by the import table only.
    let open: [(&str, &[&str]); 2] = [
        ("ntoskrnl.exe", &["MmGetSystemRoutineAddress"]),
        ("helper.sys", &["HelperUnlock"]),
    ];
    let closed: [(&str, &[&str]); 1] = [("ntoskrnl.exe", &["ExAllocatePoolWithTag"])];
    for (others, outcome) in [
        (&open[..1], Outcome::Inconclusive),
        (&open[1..], Outcome::Inconclusive),
        (&closed[..], Outcome::Defect),
    ] {
        let session = Session::new(config(), None, None);
        let mut guest = Fake::new();
        let mut image = PeBuilder::new(DRIVER);
        image.section(".text", CODE, code());
        let all: Vec<(&str, &[&str])> = std::iter::once(("ntoskrnl.exe", &PAIR[..]))
            .chain(others.iter().copied())
            .collect();
        image.imports(&all);
        image.map(&mut guest.space.borrow_mut());
        guest.boot_and_arm(&session);
        guest.call(&session, ACQUIRE, 0x1100, 2, 0);
        // If it was released unseen, another processor has it now.
        guest.call(&session, ACQUIRE, 0x1200, 2, 1);
        let report = session.report(&power_off());
        assert_eq!(report.outcome, outcome, "{others:?}: {:#?}", report.findings);
    }
}

#[test]
fn a_lock_whose_memory_is_another_page_is_another_lock() {
    for (second, outcome) in [(0x7000, Outcome::Defect), (0x9000, Outcome::Inconclusive)] {
        let session = Session::new(config(), None, None);
        let mut guest = Fake::new();
        guest.boot_and_arm(&session);
        guest.space.borrow_mut().back(LOCK, 0x7000);
        guest.call(&session, ACQUIRE, 0x1100, 0, 0);
        guest.call(&session, RELEASE, 0x1110, 2, 1);
        // A hold that ends with its memory: the lock that is there now was not acquired twice, and nobody knows how the hold
        // ended.
        guest.call(&session, ACQUIRE, 0x1100, 2, 0);
        guest.space.borrow_mut().back(LOCK, second);
        guest.call(&session, ACQUIRE, 0x1120, 2, 1);
        // NewIrql: the acquire was made at DISPATCH_LEVEL.
        guest.registers.gpr[2] = 2;
        guest.call(&session, RELEASE, 0x1130, 2, 1);
        let report = session.report(&power_off());
        assert_eq!(report.outcome, outcome, "{second:#x}: {:?}", report.conditions);
    }
}

#[test]
fn memory_that_is_mapped_twice_has_one_lock() {
    const ALIAS: u64 = 0xffff_9000_00a0_0000 + LOCK % 0x1000;
    for (second, outcome) in [(0x7000, Outcome::Completed), (0x9000, Outcome::Inconclusive)] {
        let session = Session::new(config(), None, None);
        let mut guest = Fake::new();
        guest.boot_and_arm(&session);
        guest.space.borrow_mut().back(LOCK, 0x7000);
        guest.space.borrow_mut().back(ALIAS, second);
        guest.call(&session, ACQUIRE, 0x1100, 0, 0);
        guest.space.borrow_mut().write_u64(STACK, DRIVER + 0x1110);
        guest.space.borrow_mut().write_u64(ALIAS, 1);
        (guest.registers.gpr[1], guest.registers.gpr[2], guest.special.cr8) = (ALIAS, 0, 2);
        guest.hit(&session, RELEASE);
        // Low again: what is still held would be left behind.
        guest.call(&session, ACQUIRE, 0x1100, 0, 0);
        guest.call(&session, RELEASE, 0x1110, 2, 1);
        let report = session.report(&power_off());
        let matched = u64::from(second == 0x7000) + 1;
        assert_eq!(
            (report.outcome, report.locks.matched),
            (outcome, matched),
            "{:#?}",
            report.findings
        );
    }
}
