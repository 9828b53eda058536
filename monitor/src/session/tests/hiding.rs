//! Tests of drivers that hide or disguise themselves: the range of addresses identifies the driver, whatever it writes
//! into the guest's module list, and a run in which it tried is never Completed.

use super::*;
use crate::report::{Doubt, Reason, UnnamedImports};
use crate::windows::{ImportName, Imports};

const ENTRY: u64 = 0xffff_9000_0003_0000;
const HEAD: u64 = KERNEL + 0x2000;

impl Fake {
    fn rename(&self, name: &str) {
        let text: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut space = self.space.borrow_mut();
        space.write(ENTRY + 0x1000, &text);
        space.write_u64(ENTRY + 0x58, text.len() as u64 | (text.len() as u64) << 16);
    }

    fn set_entry(&self, field: u64, value: u64) {
        self.space.borrow_mut().write_u64(ENTRY + field, value);
    }

    /// Another module at the end of the list, after the driver's entry if that is still there.
    fn load_other(&self, name: &str, base: u64, listed: bool) {
        const OTHER: u64 = 0xffff_9000_0003_8000;
        let text: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut space = self.space.borrow_mut();
        space.write(OTHER, &[0; 0x100]);
        space.write(OTHER + 0x1000, &text);
        let before = if listed { ENTRY } else { HEAD };
        for (address, value) in [
            (HEAD, if listed { ENTRY } else { OTHER }),
            (HEAD + 8, OTHER),
            (before, OTHER),
            (OTHER, HEAD),
            (OTHER + 8, before),
            (OTHER + 0x30, base),
            (OTHER + 0x40, 0x4000),
            (OTHER + 0x58, text.len() as u64 | (text.len() as u64) << 16),
            (OTHER + 0x60, OTHER + 0x1000),
        ] {
            space.write_u64(address, value);
        }
    }

    fn unlink(&self) {
        let mut space = self.space.borrow_mut();
        space.write_u64(HEAD, HEAD);
        space.write_u64(HEAD + 8, HEAD);
    }

    fn unmap(&self, base: u64) {
        for page in 0..4 {
            self.space.borrow_mut().unmap(base + page * 0x1000);
        }
    }

    fn pair(&mut self, session: &Session) {
        self.call(session, ACQUIRE, 0x1100, 0, 0);
        self.call(session, RELEASE, 0x1110, 2, 1);
    }
}

const OTHER_BASE: u64 = 0xffff_f800_7000_0000;

/// A run with one good pair before and after `hide`; the report, and what may have been missed in it.
fn hidden(hide: impl Fn(&mut Fake)) -> (Report, Vec<Doubt>) {
    let session = Session::new(config(), None, None);
    let mut guest = Fake::new();
    guest.boot_and_arm(&session);
    guest.pair(&session);
    hide(&mut guest);
    guest.pair(&session);
    session.look(&mut guest);
    let report = session.report(&power_off());
    let missed = doubts(&report).cloned().collect();
    (report, missed)
}

fn doubts(report: &Report) -> impl Iterator<Item = &Doubt> {
    report.conditions.iter().filter_map(|note| match &note.reason {
        Reason::Missed(doubt) => Some(doubt),
        _ => None,
    })
}

#[test]
fn a_driver_that_changes_its_entry_is_the_driver_still_and_the_run_inconclusive() {
    type Case<'a> = (Option<&'a str>, &'a dyn Fn(&mut Fake));
    // What the list has in the driver's place; if it has the driver, too, there are two of its name.
    let cases: [Case<'_>; 6] = [
        (Some("innocent.sys"), &|guest| guest.rename("innocent.sys")),
        (Some("Target.sys"), &|guest| guest.set_entry(0x40, 0x1000)),
        (Some("Target.sys"), &|guest| guest.set_entry(0x30, DRIVER + 0x1000)),
        (Some("innocent.sys"), &|guest| {
            guest.rename("innocent.sys");
            guest.load_other("late.sys", OTHER_BASE, true);
        }),
        (None, &|guest| {
            guest.load_other("Target.sys", OTHER_BASE, true);
        }),
        // Its own headers are no way to become another driver.
        (Some("innocent.sys"), &|guest| {
            guest.rename("innocent.sys");
            guest.space.borrow_mut().write(DRIVER, &[0; 0x400]);
        }),
    ];
    for (in_its_place, hide) in cases {
        let (report, missed) = hidden(hide);
        assert_eq!(
            (report.outcome, report.exit_code),
            (Outcome::Inconclusive, 4),
            "{in_its_place:?}: {missed:?}"
        );
        let told = |doubt: &Doubt| match doubt {
            Doubt::EntryChanged { driver, listed } => {
                driver.name == "Target.sys" && Some(listed.name.as_str()) == in_its_place
            }
            Doubt::TwoOfOneName { name, bases } => {
                name == "Target.sys" && *bases == [DRIVER, OTHER_BASE] && in_its_place.is_none()
            }
            _ => false,
        };
        assert!(missed.iter().any(told), "{in_its_place:?}: {missed:?}");
        let counted: Vec<_> = report
            .calls
            .iter()
            .map(|call| (call.module.as_str(), call.calls))
            .collect();
        assert_eq!(counted, [("Target.sys", 2), ("Target.sys", 2)], "{in_its_place:?}");
        assert_eq!(report.cost.target_hits, 4, "{in_its_place:?}");
    }
}

#[test]
fn a_driver_that_leaves_the_list_is_told_by_its_image_and_by_its_calls() {
    let (report, missed) = hidden(|guest| guest.unlink());
    assert_eq!(report.exit_code, 4, "{missed:?}");
    let called = |doubt: &Doubt| matches!(doubt, Doubt::CalledUnlisted { offset: 0x1100, .. });
    let stays = |doubt: &Doubt| matches!(doubt, Doubt::ImageStays { base: DRIVER, .. });
    assert!(missed.iter().any(called) && missed.iter().any(stays), "{missed:?}");
    // Back in the list before the end: the call in between stays said.
    let session = Session::new(config(), None, None);
    let mut guest = Fake::new();
    guest.boot_and_arm(&session);
    guest.unlink();
    guest.pair(&session);
    guest.load_driver();
    guest.pair(&session);
    session.look(&mut guest);
    let report = session.report(&power_off());
    assert_eq!(report.exit_code, 4, "{:?}", report.conditions);
}

#[test]
fn what_a_hidden_driver_breaks_is_its_defect() {
    for hide in [
        Fake::unlink,
        |guest: &Fake| guest.rename("innocent.sys"),
        |guest: &Fake| {
            guest.load_other("innocent.sys", DRIVER, false);
        },
    ] {
        let session = Session::new(config(), None, None);
        let mut guest = Fake::new();
        guest.boot_and_arm(&session);
        guest.pair(&session);
        hide(&guest);
        guest.call(&session, RELEASE, 0x1120, 2, 0);
        let report = session.report(&power_off());
        assert_eq!(report.outcome, Outcome::Defect, "{:?}", report.conditions);
        let caller = &report.findings[0].caller;
        assert_eq!(
            (caller.module.as_deref(), caller.offset),
            (Some("Target.sys"), Some(0x1120))
        );
    }
}

#[test]
fn a_driver_that_was_unloaded_hides_nothing_whoever_has_its_place_then() {
    let unload: [&dyn Fn(&mut Fake); 2] = [
        &|guest| {
            guest.unlink();
            guest.unmap(DRIVER);
        },
        &|guest| {
            guest.unmap(DRIVER);
            let mut other = PeBuilder::new(DRIVER - 0x1000);
            other.section(".text", CODE, vec![0xcc; 0x800]);
            other.map(&mut guest.space.borrow_mut());
            guest.load_other("other.sys", DRIVER - 0x1000, false);
        },
    ];
    for unload in unload {
        let session = Session::new(config(), None, None);
        let mut guest = Fake::new();
        guest.boot_and_arm(&session);
        guest.pair(&session);
        unload(&mut guest);
        guest.call_from(&session, ACQUIRE, KERNEL + 0x1700, 0, 0);
        session.look(&mut guest);
        let report = session.report(&power_off());
        assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.conditions);
    }
}

#[test]
fn a_list_that_cannot_be_read_to_its_end_leaves_the_run_inconclusive() {
    let (report, missed) = hidden(|guest| guest.set_entry(0, 0xffff_9000_0bad_0000));
    assert_eq!(report.exit_code, 4, "{missed:?}");
    let unreadable = |doubt: &Doubt| matches!(doubt, Doubt::ModuleListUnreadable { .. });
    assert!(missed.iter().any(unreadable), "{missed:?}");
}

#[test]
fn releases_that_could_not_be_judged_are_named_and_keep_the_run_from_being_completed() {
    const HANDLE: u64 = 0xffff_9000_00ff_0000;
    let session = Session::new(config(), None, None);
    let mut guest = super::target::arm_late(&session, &driver(DRIVER, &PAIR));
    // The lock word cannot be read, and the driver may have taken the lock before it was watched.
    let call = |guest: &mut Fake, returns_to: u64| {
        guest.space.borrow_mut().write_u64(STACK, returns_to);
        guest.registers.gpr[1] = HANDLE;
        guest.special.cr8 = 2;
        guest.hit(&session, RELEASE);
    };
    for _ in 0..3 {
        call(&mut guest, DRIVER + 0x1130);
    }
    call(&mut guest, KERNEL + 0x1700);
    let report = session.report(&power_off());
    let unknown: Vec<_> = report
        .locks
        .unknown
        .iter()
        .map(|place| {
            (
                place.routine.to_string(),
                place.caller.offset,
                place.by_target,
                place.count,
            )
        })
        .collect();
    assert_eq!(report.exit_code, 4, "{:?}", report.conditions);
    assert_eq!(
        unknown[0],
        ("nt!KeReleaseSpinLock".to_owned(), Some(0x1130), true, 3),
        "{unknown:?}"
    );
    assert!(!unknown[1].2, "{unknown:?}");
    let told = report.conditions.iter().any(|note| {
        let Reason::UnknownReleases {
            releases: 3,
            driver,
            places,
            more: false,
        } = &note.reason
        else {
            return false;
        };
        let from: Vec<_> = places.iter().map(|place| (place.caller.offset, place.count)).collect();
        driver == "target.sys" && from == [(Some(0x1130), 3)]
    });
    assert!(told, "{:?}", report.conditions);
}

#[test]
fn two_images_that_may_be_the_kernel_leave_the_run_inconclusive() {
    const IDT: u64 = 0xffff_9000_0006_0000;
    const SECOND: u64 = 0xffff_f800_3000_0000;
    let gate = |guest: &Fake, handler: u64| {
        let handler = handler.to_le_bytes();
        let mut space = guest.space.borrow_mut();
        space.write(IDT, &[0; 0x1000]);
        space.write(IDT + 14 * 16, &[handler[0], handler[1], 0x10, 0, 0, 0x8e]);
        space.write(IDT + 14 * 16 + 6, &handler[2..]);
    };
    // At the first write of LSTAR, and only at the end.
    let two = Doubt::TwoKernels {
        watched: KERNEL,
        other: SECOND,
    };
    let another = Doubt::OtherKernel {
        vcpu: 0,
        watched: KERNEL,
    };
    for (lstar, at_start, at_end, doubt) in [(SECOND, KERNEL, KERNEL, two), (KERNEL, KERNEL, SECOND, another)] {
        let session = Session::new(config(), None, None);
        let mut guest = Fake::new();
        let mut second = PeBuilder::new(SECOND);
        second.section(".text", CODE, vec![0x90; 0x1000]);
        second.map(&mut guest.space.borrow_mut());
        (guest.special.idt_base, guest.special.idt_limit) = (IDT, 0xfff);
        gate(&guest, at_start + 0x1500);
        session.handle(&mut guest, CpuStop::LstarWrite(lstar + u64::from(SYSCALL)));
        guest.load_driver();
        guest.registers.gpr[1] = OBJECT;
        guest.hit(&session, INSERT);
        guest.pair(&session);
        gate(&guest, at_end + 0x1500);
        session.look(&mut guest);
        let report = session.report(&power_off());
        assert_eq!(report.exit_code, 4, "{:?}", report.conditions);
        assert!(doubts(&report).any(|told| *told == doubt), "{:?}", report.conditions);
    }
}

/// A driver that imports the pair and one routine more by ordinals, and what is to be watched of it.
fn by_ordinal(bind: impl Fn(&mut Fake, &[u32])) -> Report {
    let session = Session::new(config(), None, None);
    let mut guest = Fake::new();
    let mut image = PeBuilder::new(DRIVER);
    image.section(".text", CODE, vec![0x90; 0x800]);
    let slots = image.imports(&[("alias.sys", &["#2", "#3", "#900"])]);
    image.map(&mut guest.space.borrow_mut());
    bind(&mut guest, &slots);
    guest.boot_and_arm(&session);
    guest.pair(&session);
    session.look(&mut guest);
    session.report(&power_off())
}

#[test]
fn imports_by_ordinal_are_known_by_where_they_lead() {
    let report = by_ordinal(|guest, slots| {
        for (slot, target) in slots.iter().zip([ACQUIRE, RELEASE, SYSCALL]) {
            let target = KERNEL + u64::from(target);
            guest.space.borrow_mut().write_u64(DRIVER + u64::from(*slot), target);
        }
    });
    let watched: Vec<_> = report.watch.routines.iter().map(|w| w.routine.as_str()).collect();
    assert_eq!(watched, ["nt!KeAcquireSpinLockRaiseToDpc", "nt!KeReleaseSpinLock"]);
    // The third leads to what nobody exports: it may be anything.
    assert_eq!(report.exit_code, 4, "{:?}", report.conditions);
    let unnamed = UnnamedImports {
        imports: 1,
        modules: vec!["alias.sys".to_owned()],
        more: false,
    };
    let doubt = Doubt::ImportsUnrecognised { unnamed };
    assert_eq!(report.conditions[0].reason, Reason::Missed(doubt));
}

#[test]
fn ordinals_are_looked_up_in_the_exporters_table() {
    let session = Session::new(config(), None, None);
    let mut guest = Fake::new();
    guest.boot_and_arm(&session);
    let state = session.lock();
    let imports = |module: &str, ordinals: &[u16]| -> Imports {
        let import = |ordinal: &u16| crate::windows::Import {
            module: module.to_owned(),
            name: ImportName::Ordinal(*ordinal),
            slot: 0x3ff0,
            delayed: false,
        };
        ordinals.iter().map(import).collect()
    };
    let names =
        |imports: &Imports| -> Vec<String> { imports.entries().iter().map(|import| import.name.text()).collect() };
    // Ordinals of the kernel's exports begin with 1, in the order of its address table.
    let known = state
        .guest
        .recognise(&guest, DRIVER, &imports("NTOSKRNL.EXE", &[3, 4, 77]));
    assert_eq!(
        names(&known),
        ["KeAcquireSpinLockRaiseToDpc", "KeReleaseSpinLock", "#77"]
    );
    let known = state.guest.recognise(&guest, DRIVER, &imports("hal.dll", &[4]));
    assert_eq!(names(&known), ["KeReleaseSpinLock"]);
    let known = state.guest.recognise(&guest, DRIVER, &imports("nowhere.sys", &[3]));
    assert_eq!(names(&known), ["#3"]);
}
