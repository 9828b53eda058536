//! A session on a guest made of bytes: a kernel, a port driver and a driver under test that only exist in memory.

mod callbacks;
mod coverage;
mod golden;
mod odd_guests;
mod signatures;
mod standstill;
mod stops;

use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;
use storlock_vmm::sandbox::Sandbox;

use super::recording::Recording;
use super::*;
use crate::outcome::Outcome;
use crate::output::OutputFile;
use crate::report::{Doubt, NotArmed, Note, Reason, Report, RuleId, RunInfo, Verdict, WatchGap};
use crate::vmi::fake::{FakeCpu, Space};
use crate::vmi::{ReadError, Registers, SpecialRegisters};
use crate::windows::testing::{CODE, DATA, EXCEPTION, PeBuilder};

mod debug_print;
mod edits;
mod foreign;
mod formats;
mod hang;
mod hiding;
mod hooked;
mod killed;
mod target;
mod turns;

const KERNEL: u64 = 0xffff_f800_1000_0000;
const DRIVER: u64 = 0xffff_f800_5000_0000;
const OBJECT: u64 = 0xffff_9000_0000_1000;
const STACK: u64 = 0xffff_9000_0000_4000;
const KPCR: u64 = 0xffff_9000_0000_8000;
const THREAD: u64 = 0xffff_9000_0001_0000;
const LOCK: u64 = 0xffff_9000_0002_0000;
/// Offsets in the kernel's code.
const SYSCALL: u32 = 0x1000;
const INSERT: u32 = 0x1100;
const ACQUIRE: u32 = 0x1200;
const RELEASE: u32 = 0x1300;
const PRINT: u32 = 0x1600;
const ALLOCATE: u32 = 0x1700;

/// A guest of one processor.
type Fake = FakeCpu;

impl Fake {
    fn new() -> Self {
        let mut space = Space::default();
        kernel().map(&mut space);
        driver(DRIVER, &PAIR).map(&mut space);
        space.write(STACK - 0x1000, &[0; 0x2000]);
        space.write(KPCR, &[0; 0x1000]);
        space.write_u64(KPCR + 0x188, THREAD);
        space.write_u64(LOCK, 0);
        // The driver object: type 4, size 150h, DriverStart, DriverInit.
        space.write(OBJECT, &[0; 0x150]);
        space.write(OBJECT, &[4, 0, 0x50, 1]);
        space.write_u64(OBJECT + 0x18, DRIVER);
        space.write_u64(OBJECT + 0x58, DRIVER + 0x1000);
        let mut registers = Registers::default();
        registers.gpr[4] = STACK;
        registers.rflags = 0x202;
        let special = SpecialRegisters {
            gs_base: KPCR,
            ..SpecialRegisters::default()
        };
        Self {
            index: 0,
            space: Rc::new(RefCell::new(space)),
            registers,
            special,
            breakpoints: Vec::new(),
            refuse: false,
            no_code: false,
        }
    }

    /// Puts the driver into the guest's module list.
    fn load_driver(&self) {
        self.load_driver_at(DRIVER, 0xffff_9000_0003_0000);
    }

    /// Makes the driver at this address, with this list entry, the only module of the list.
    fn load_driver_at(&self, base: u64, entry: u64) {
        let head = KERNEL + u64::from(list_rva());
        let name = entry + 0x1000;
        let mut space = self.space.borrow_mut();
        space.write(entry, &[0; 0x100]);
        let text: Vec<u8> = "Target.sys".encode_utf16().flat_map(u16::to_le_bytes).collect();
        space.write(name, &text);
        for (address, value) in [
            (head, entry),
            (head + 8, entry),
            (entry, head),
            (entry + 8, head),
            (entry + 0x30, base),
        ] {
            space.write_u64(address, value);
        }
        space.write_u64(entry + 0x40, 0x4000);
        space.write_u64(entry + 0x58, text.len() as u64 | (text.len() as u64) << 16);
        space.write_u64(entry + 0x60, name);
    }

    fn hit(&mut self, session: &Session, rva: u32) -> Action {
        self.registers.rip = KERNEL + u64::from(rva);
        let breakpoint = self
            .breakpoints
            .iter()
            .find(|breakpoint| breakpoint.address == self.registers.rip);
        let breakpoint = breakpoint.unwrap_or_else(|| panic!("nothing is armed at {rva:#x}: {:?}", self.breakpoints));
        let id = breakpoint.id;
        session.handle(self, CpuStop::Breakpoint(id))
    }

    /// A call of a lock routine on `LOCK` that returns to this offset of the driver.
    fn call(&mut self, session: &Session, rva: u32, returns_to: u64, irql: u64, word: u64) -> Action {
        self.call_from(session, rva, DRIVER + returns_to, irql, word)
    }

    fn call_from(&mut self, session: &Session, rva: u32, return_address: u64, irql: u64, word: u64) -> Action {
        self.space.borrow_mut().write_u64(STACK, return_address);
        self.space.borrow_mut().write_u64(LOCK, word);
        self.registers.gpr[1] = LOCK;
        self.special.cr8 = irql;
        self.hit(session, rva)
    }

    fn boot(&mut self, session: &Session) {
        session.handle(self, CpuStop::LstarWrite(KERNEL + u64::from(SYSCALL)));
    }

    fn boot_and_arm(&mut self, session: &Session) {
        self.boot(session);
        self.load_driver();
        self.registers.gpr[1] = OBJECT;
        self.hit(session, INSERT);
    }
}

/// Code, then data with the list head, then exports.
fn kernel() -> PeBuilder {
    let mut image = PeBuilder::new(KERNEL);
    image.section(".text", CODE, vec![0x90; 0x1000]);
    image.section(".data", DATA, vec![0; 0x100]);
    image.exports(
        "ntoskrnl.exe",
        &[
            ("DbgPrint", Ok(PRINT)),
            ("ExAllocatePoolWithTag", Ok(ALLOCATE)),
            ("KeAcquireSpinLockRaiseToDpc", Ok(ACQUIRE)),
            ("KeReleaseSpinLock", Ok(RELEASE)),
            ("KiBugCheckData", Ok(list_rva() + 0x20)),
            ("ObInsertObject", Ok(INSERT)),
            ("PsLoadedModuleList", Ok(list_rva())),
        ],
    );
    image
}

fn list_rva() -> u32 {
    0x2000
}

const PAIR: [&str; 2] = ["KeAcquireSpinLockRaiseToDpc", "KeReleaseSpinLock"];

fn driver(base: u64, imports: &[&str]) -> PeBuilder {
    let mut image = PeBuilder::new(base);
    image.section(".text", CODE, code());
    image.directory(EXCEPTION, UNWIND, UNWIND_SIZE);
    image.imports(&[("ntoskrnl.exe", imports)]);
    image
}

/// Bytes of every frame but for its return address.
const FRAME: u64 = 0x38;
/// Where the table of functions is that [`code`] holds, and its size.
const UNWIND: u32 = 0x17e8;
const UNWIND_SIZE: u32 = 24;

/// A section at 1000h with two functions, at 1000h and 1600h, their frames of [`FRAME`] bytes, and the tables to unwind them.
fn code() -> Vec<u8> {
    let mut code = vec![0x90; 0x7e0];
    // UNWIND_INFO: version 1, a prologue of 4 bytes and one code, UWOP_ALLOC_SMALL.
    code.extend([1, 4, 1, 0, 4, (((FRAME - 8) / 8) << 4) as u8 | 2]);
    code.resize(0x7e8, 0);
    for value in [0x1000_u32, 0x1600, 0x17e0, 0x1600, 0x17e0, 0x17e0] {
        code.extend(value.to_le_bytes());
    }
    code.resize(0x800, 0);
    code
}

fn config() -> Config {
    Config {
        target: "target.sys".to_owned(),
        processors: 1,
        breakpoints: 4,
        exports: vec![ExportRequest {
            module: "nt".to_owned(),
            name: "KiBugCheckData".to_owned(),
            length: 8,
        }],
        run: RunInfo {
            seed: 7,
            cpus: 1,
            ..RunInfo::default()
        },
        ..Config::default()
    }
}

fn power_off() -> End {
    End {
        kind: EndKind::PowerOff,
        ..End::default()
    }
}

/// One good pair, one release too many (twice from the same place).
fn scenario(session: &Session) -> Fake {
    let mut guest = Fake::new();
    guest.boot_and_arm(session);
    guest.call(session, ACQUIRE, 0x1100, 0, 0);
    guest.call(session, RELEASE, 0x1110, 2, 1);
    guest.call(session, RELEASE, 0x1120, 2, 0);
    guest.call(session, RELEASE, 0x1120, 2, 0);
    session.look(&mut guest);
    guest
}

#[test]
fn a_release_without_acquire_is_a_defect_at_its_caller_and_reported_once() {
    let session = Session::new(config(), None, None);
    scenario(&session);
    let report = session.report(&power_off());
    assert_eq!((report.outcome, report.exit_code), (Outcome::Defect, 1));
    let semantic: Vec<_> = report
        .findings
        .iter()
        .filter(|v| v.verdict == Verdict::Semantic)
        .collect();
    assert_eq!(semantic.len(), 1, "{semantic:#?}");
    let violation = semantic[0];
    assert_eq!((violation.rule, violation.count), (RuleId::SpinLockRelease, 2));
    assert_eq!(violation.caller.module.as_deref(), Some("Target.sys"));
    assert_eq!(violation.caller.offset, Some(0x1120));
    assert_eq!((violation.thread, violation.irql, violation.vcpu), (THREAD, 2, 0));
    assert!(
        violation
            .history
            .iter()
            .any(|entry| entry.call.caller.offset == Some(0x1100)),
        "{:?}",
        violation.history
    );
}

#[test]
fn a_rule_can_be_off_or_held_against_some_modules_only_and_the_report_says_so() {
    for (setting, outcome) in [
        ("SpinLockRelease=off", Outcome::Completed),
        ("SpinLockRelease=other.sys", Outcome::Completed),
        ("SpinLockRelease=target.sys", Outcome::Defect),
        ("LockOrder=off", Outcome::Defect),
    ] {
        let config = Config {
            rules: crate::report::RuleSettings::new([setting.parse().unwrap()]),
            ..config()
        };
        let session = Session::new(config, None, None);
        scenario(&session);
        let report = session.report(&power_off());
        assert_eq!(report.outcome, outcome, "{setting}: {:?}", report.conditions);
        let (name, value) = setting.split_once('=').unwrap();
        let rule = report.rules.iter().find(|rule| rule.name == name).unwrap();
        assert_eq!(
            (rule.off, rule.modules.len()),
            (value == "off", usize::from(value != "off"))
        );
        let label = if rule.off { "rule off" } else { "rule limited" };
        assert!(crate::report::text::render(&report).contains(label));
    }
}

#[test]
fn calls_are_counted_by_routine_and_by_the_module_they_return_to() {
    let session = Session::new(config(), None, None);
    let mut guest = scenario(&session);
    guest.space.borrow_mut().write_u64(STACK, 0xffff_f900_0000_0000);
    guest.hit(&session, RELEASE);
    let report = session.report(&power_off());
    let calls: Vec<_> = report
        .calls
        .iter()
        .map(|c| (c.routine.to_string(), c.module.clone(), c.calls))
        .collect();
    let expected = [
        ("nt!KeAcquireSpinLockRaiseToDpc", "Target.sys", 1),
        ("nt!KeReleaseSpinLock", "(unknown)", 1),
        ("nt!KeReleaseSpinLock", "Target.sys", 3),
    ]
    .map(|(routine, module, calls)| (routine.to_owned(), module.to_owned(), calls));
    assert_eq!(calls, expected);
    assert_eq!((report.cost.hits, report.cost.target_hits), (5, 4));
}

#[test]
fn a_driver_that_keeps_its_contracts_completes() {
    let session = Session::new(config(), None, None);
    let mut guest = Fake::new();
    guest.boot_and_arm(&session);
    for _ in 0..10 {
        guest.call(&session, ACQUIRE, 0x1100, 0, 0);
        guest.call(&session, RELEASE, 0x1110, 2, 1);
    }
    let report = session.report(&power_off());
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::Completed, 0),
        "{:#?}",
        report.conditions
    );
    assert!(report.findings.is_empty());
}

#[test]
fn a_driver_that_takes_no_lock_is_not_applicable() {
    let session = Session::new(config(), None, None);
    Fake::new().boot_and_arm(&session);
    let report = session.report(&power_off());
    assert_eq!((report.outcome, report.exit_code), (Outcome::NotApplicable, 4));
}

#[test]
fn a_driver_that_is_never_loaded_leaves_the_run_inconclusive() {
    let session = Session::new(config(), None, None);
    Fake::new().boot(&session);
    let report = session.report(&power_off());
    assert_eq!((report.outcome, report.exit_code), (Outcome::Inconclusive, 4));
    let not_armed = report.watch.not_armed.unwrap();
    assert!(
        matches!(&not_armed, NotArmed::NeverLoaded { driver, similar: None, .. } if driver == "target.sys"),
        "{not_armed:?}"
    );
    assert_eq!(report.conditions[0].reason, Reason::NeverArmed { not_armed });
}

#[test]
fn a_bug_check_is_a_guest_failure() {
    let session = Session::new(config(), None, None);
    let mut guest = Fake::new();
    guest.boot_and_arm(&session);
    guest
        .space
        .borrow_mut()
        .write_u64(KERNEL + u64::from(list_rva()) + 0x20, 0xd1);
    session.look(&mut guest);
    let report = session.report(&End {
        kind: EndKind::Reset,
        ..End::default()
    });
    assert_eq!(report.exit_code, 3);
    assert_eq!(report.end.bug_check.unwrap().code, 0xd1);
    assert_eq!(report.exports[0].at_end.as_deref(), Some("d100000000000000"));
    assert_eq!(report.exports[0].at_arming.as_deref(), Some("0000000000000000"));
}

#[test]
fn breakpoints_that_are_refused_leave_the_run_inconclusive() {
    let session = Session::new(config(), None, None);
    let mut guest = Fake::new();
    guest.boot(&session);
    guest.load_driver();
    guest.registers.gpr[1] = OBJECT;
    guest.refuse = true;
    guest.hit(&session, INSERT);
    assert_eq!(session.report(&power_off()).exit_code, 4);
}

#[test]
fn the_number_of_guest_reads_of_a_hit_is_fixed() {
    let session = Session::new(config(), None, None);
    let mut guest = scenario(&session);
    for _ in 0..3 {
        let before = guest.space.borrow().reads.get();
        guest.call(&session, ACQUIRE, 0x1100, 0, 0);
        // Return address, thread, lock word, end of the module list.
        assert_eq!(guest.space.borrow().reads.get() - before, 4);
        guest.call(&session, RELEASE, 0x1110, 2, 1);
    }
}

/// The driver loaded a second time, and one good pair from there.
fn reloaded(session: &Session, base: u64, entry: u64, imports: &[&str]) -> Fake {
    let mut guest = Fake::new();
    guest.boot_and_arm(session);
    guest.call(session, ACQUIRE, 0x1100, 0, 0);
    guest.call(session, RELEASE, 0x1110, 2, 1);
    for page in 0..4 {
        guest.space.borrow_mut().unmap(DRIVER + page * 0x1000);
    }
    driver(base, imports).map(&mut guest.space.borrow_mut());
    guest.load_driver_at(base, entry);
    guest.call_from(session, ACQUIRE, base + 0x1100, 0, 0);
    guest.call_from(session, RELEASE, base + 0x1110, 2, 1);
    guest
}

const AGAIN: u64 = DRIVER + 0x10_0000;

#[test]
fn a_driver_that_is_loaded_again_elsewhere_is_still_the_driver_under_test() {
    // In a new list entry, and in the memory of the old one.
    for entry in [0xffff_9000_0003_4000, 0xffff_9000_0003_0000] {
        let session = Session::new(config(), None, None);
        let mut guest = reloaded(&session, AGAIN, entry, &PAIR);
        assert_eq!(session.report(&power_off()).outcome, Outcome::Completed);
        guest.call_from(&session, RELEASE, AGAIN + 0x1120, 2, 0);
        let report = session.report(&power_off());
        assert_eq!(report.outcome, Outcome::Defect, "{entry:#x}");
        let caller = &report.findings[0].caller;
        assert_eq!(
            (caller.module.as_deref(), caller.offset),
            (Some("Target.sys"), Some(0x1120))
        );
        assert_eq!(report.target.unwrap().base, AGAIN);
        assert_eq!((report.cost.hits, report.cost.target_hits), (5, 5));
        assert_eq!(
            report
                .notes
                .iter()
                .filter(|note| matches!(note, Note::LoadedAgain { .. }))
                .count(),
            1
        );
    }
}

#[test]
fn what_a_driver_imports_since_it_was_loaded_again_is_a_gap() {
    let session = Session::new(config(), None, None);
    let imports = [PAIR[0], PAIR[1], "KeAcquireSpinLockAtDpcLevel"];
    reloaded(&session, AGAIN, 0xffff_9000_0003_4000, &imports);
    let report = session.report(&power_off());
    let routine = "nt!KeAcquireSpinLockAtDpcLevel".to_owned();
    assert_eq!(report.watch.gaps, [WatchGap::Reloaded { routine }]);
    assert_eq!(report.outcome, Outcome::Inconclusive, "{:?}", report.conditions);
}

#[test]
fn a_guest_that_only_loads_and_unloads_is_followed_for_a_while() {
    let session = Session::new(config(), None, None);
    let mut guest = reloaded(&session, AGAIN, 0xffff_9000_0003_4000, &PAIR);
    driver(DRIVER, &PAIR).map(&mut guest.space.borrow_mut());
    for round in 0..20_000_u64 {
        let (base, entry) = [(DRIVER, 0xffff_9000_0003_0000), (AGAIN, 0xffff_9000_0003_4000)][round as usize % 2];
        guest.load_driver_at(base, entry);
        guest.call_from(&session, ACQUIRE, base + 0x1100, 0, 0);
        guest.call_from(&session, RELEASE, base + 0x1110, 2, 1);
    }
    let report = session.report(&power_off());
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(report.outcome, Outcome::Inconclusive);
    let mut reasons = report.conditions.iter().map(|note| &note.reason);
    assert!(
        reasons.any(|reason| matches!(reason, Reason::Missed(Doubt::TooManyModuleChanges { .. }))),
        "{:?}",
        report.conditions
    );
    assert!(report.conditions.len() < 10, "{:?}", report.conditions);
    assert!(report.notes.len() < 10, "{:?}", report.notes);
}

fn output(path: &std::path::Path) -> OutputFile {
    OutputFile::open(path, std::time::Duration::ZERO).unwrap()
}

fn recorded() -> (Vec<u8>, Report) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run.rec");
    let header = serde_json::to_vec(&config()).unwrap();
    let session = Session::new(
        config(),
        None,
        Some(Recording::create(output(&path), u64::MAX, header, Sandbox::none()).unwrap()),
    );
    scenario(&session);
    let mut end = power_off();
    session.close(&mut end);
    // What a recording cannot repeat.
    let mut report = session.report(&end);
    report.run.replayed = true;
    (std::fs::read(&path).unwrap(), report)
}

#[test]
fn a_recording_replays_to_the_same_report() {
    let (bytes, live) = recorded();
    let replayed = replay::recording(&bytes[..]).unwrap();
    assert_eq!(
        serde_json::to_value(replayed).unwrap(),
        serde_json::to_value(live).unwrap()
    );
}

#[test]
fn a_trace_replays_to_the_same_verdicts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.trace");
    let trace = Trace::create(output(&path), &path, u64::MAX, Sandbox::none()).unwrap();
    let session = Session::new(config(), Some(trace), None);
    scenario(&session);
    let mut end = power_off();
    session.close(&mut end);
    let live = session.report(&end);
    let replayed = replay::trace(&std::fs::read(&path).unwrap()[..]).unwrap();
    assert_eq!(replayed.exit_code, live.exit_code);
    assert_eq!(replayed.calls, live.calls);
    assert_eq!(without_names(&replayed), without_names(&live));
}

/// The violations of a report as JSON, but for what only memory holds: names of functions, and most of the stack.
fn without_names(report: &Report) -> serde_json::Value {
    fn strip(value: &mut serde_json::Value) {
        if let Some(object) = value.as_object_mut() {
            for key in ["symbol", "stack", "stack_note", "stack_end", "called"] {
                object.remove(key);
            }
            object.values_mut().for_each(strip);
        } else if let Some(list) = value.as_array_mut() {
            list.iter_mut().for_each(strip);
        }
    }
    let mut value = serde_json::to_value(&report.findings).unwrap();
    strip(&mut value);
    value
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_recording_gives_a_report_that_says_so_or_an_error(cut in any::<prop::sample::Index>(), flip in any::<u8>()) {
        let (mut bytes, _) = recorded();
        let at = cut.index(bytes.len());
        if flip == 0 { bytes.truncate(at) } else { bytes[at] ^= flip }
        if let Ok(report) = replay::recording(&bytes[..]) {
            prop_assert_eq!(report.exit_code, 5);
        }
    }
}

#[test]
fn a_fault_that_finds_the_session_busy_waits_for_nobody_and_is_not_lost() {
    let session = Session::new(Config::default(), None, None);
    let busy = session.lock();
    // Would wait for ever if it took the lock.
    session.fault_injected(3);
    assert_eq!(busy.ledger.statistics().faults, 0);
    drop(busy);
    assert_eq!(session.lock().ledger.statistics().faults, 1);
    session.fault_injected(4);
    assert_eq!(session.lock().ledger.statistics().faults, 2);
}

#[test]
fn a_reset_forgets_the_kernel_and_the_locks_and_keeps_what_was_found() {
    let session = Session::new(config(), None, None);
    let mut guest = Fake::new();
    guest.boot_and_arm(&session);
    // Held over the reset: forgotten, so that the release of the second life is one too many.
    guest.call(&session, ACQUIRE, 0x1100, 0, 0);
    let armed = std::mem::take(&mut guest.breakpoints);
    assert_eq!(session.handle(&mut guest, CpuStop::Reset), Action::Resume);
    // A hit that was under way finds nothing.
    assert_eq!(
        session.handle(&mut guest, CpuStop::Breakpoint(armed[0].id)),
        Action::Resume
    );
    guest.boot_and_arm(&session);
    assert!(
        guest
            .breakpoints
            .iter()
            .all(|new| armed.iter().all(|old| old.id != new.id))
    );
    guest.call(&session, ACQUIRE, 0x1100, 0, 0);
    guest.call(&session, RELEASE, 0x1110, 2, 1);
    guest.call(&session, RELEASE, 0x1120, 2, 0);
    let report = session.report(&power_off());
    assert_eq!(report.outcome, Outcome::Defect);
    assert!(report.notes.contains(&Note::Reset { watched: true }));
    let hits: Vec<_> = report.watch.routines.iter().map(|watched| watched.hits).collect();
    assert_eq!(hits, [3, 2], "those of both lives, and the one that found nothing");
}
