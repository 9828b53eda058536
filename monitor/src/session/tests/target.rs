//! Which driver is watched, and where its imports are known from.

use super::*;
use crate::report::{ImportsFile, StepOver, WhyWatched, text};

impl Fake {
    /// Makes the kernel and the driver the modules of the list.
    pub(super) fn load_kernel_and_driver(&self) {
        const ENTRY: u64 = 0xffff_9000_0003_8000;
        self.load_driver();
        let (head, driver) = (KERNEL + u64::from(list_rva()), 0xffff_9000_0003_0000);
        let mut space = self.space.borrow_mut();
        space.write(ENTRY, &[0; 0x100]);
        for (address, value) in [(head, ENTRY), (ENTRY, driver), (ENTRY + 8, head), (driver + 8, ENTRY)] {
            space.write_u64(address, value);
        }
        space.write_u64(ENTRY + 0x30, KERNEL);
        space.write_u64(ENTRY + 0x40, u64::from(kernel().next_rva()));
        space.write_u64(driver + 0x40, 0x3000);
    }
}

/// A driver whose imports are named in `INIT`, which is thrown away.
fn discardable_driver(base: u64, imports: &[&str]) -> PeBuilder {
    let mut image = PeBuilder::new(base);
    image.section(".text", CODE, vec![0x90; 0x800]);
    image.discardable_imports(&[("ntoskrnl.exe", imports)]);
    image
}

/// Arms only when the guest's patience is at its end: whether the driver has run is unknown then.
pub(super) fn arm_late(session: &Session, image: &PeBuilder) -> Fake {
    let mut guest = Fake::new();
    image.map(&mut guest.space.borrow_mut());
    guest.boot(session);
    guest.load_driver();
    guest.registers.gpr[1] = OBJECT + 0x8000;
    guest.space.borrow_mut().write(OBJECT + 0x8000, &[0; 0x100]);
    let witness = KERNEL + u64::from(INSERT);
    for _ in 0..5000 {
        if guest.breakpoints.iter().all(|breakpoint| breakpoint.address != witness) {
            break;
        }
        guest.hit(session, INSERT);
    }
    guest
}

fn file_of(image: &PeBuilder) -> DriverFile {
    let file = crate::windows::FileImage::parse(image.file()).unwrap();
    DriverFile::read(&file).unwrap()
}

#[test]
fn imports_that_may_be_gone_are_taken_from_the_drivers_file() {
    let image = discardable_driver(DRIVER, &PAIR);
    let session = Session::new(
        Config {
            target_file: Some(file_of(&image)),
            ..config()
        },
        None,
        None,
    );
    arm_late(&session, &image);
    let report = session.report(&power_off());
    let watched: Vec<_> = report.watch.routines.iter().map(|w| w.routine.as_str()).collect();
    assert_eq!(watched, ["nt!KeAcquireSpinLockRaiseToDpc", "nt!KeReleaseSpinLock"]);
    assert!(
        report
            .notes
            .iter()
            .any(|note| matches!(note, Note::Imports(from) if from.file == ImportsFile::Taken)),
        "{:?}",
        report.notes
    );
}

#[test]
fn without_imports_every_lock_export_counts_as_imported() {
    let image = discardable_driver(DRIVER, &PAIR);
    let mut other = discardable_driver(DRIVER, &["KeReleaseSpinLock"]);
    other.section(".more", DATA, vec![0; 8]);
    let other = Some(file_of(&other));
    for target_file in [None, other] {
        let session = Session::new(
            Config {
                target_file,
                ..config()
            },
            None,
            None,
        );
        let mut guest = arm_late(&session, &image);
        let report = session.report(&power_off());
        assert_eq!(
            report.watch.routines.len(),
            2,
            "the guest exports two: {:?}",
            report.watch
        );
        let [WhyWatched::LockExport(purpose)] = &report.watch.routines[0].why[..] else {
            panic!("{:?}", report.watch.routines)
        };
        assert!(!purpose.imported);
        let unknown = [ImportsFile::NotGiven, ImportsFile::AnotherBuild];
        assert!(
            report
                .notes
                .iter()
                .any(|note| matches!(note, Note::Imports(from) if unknown.contains(&from.file))),
            "{:?}",
            report.notes
        );
        guest.call(&session, ACQUIRE, 0x1100, 0, 0);
        guest.call(&session, RELEASE, 0x1110, 2, 1);
        assert_eq!(session.report(&power_off()).calls.len(), 2);
    }
}

#[test]
fn a_wrapper_that_an_import_leads_to_is_watched_in_place_of_the_export() {
    const WRAPPER: u32 = 0x1400;
    let session = Session::new(config(), None, None);
    let mut guest = Fake::new();
    let mut image = PeBuilder::new(DRIVER);
    image.section(".text", CODE, vec![0x90; 0x800]);
    let slots = image.imports(&[("ntoskrnl.exe", &PAIR)]);
    image.map(&mut guest.space.borrow_mut());
    for (slot, rva) in slots.iter().zip([WRAPPER, RELEASE]) {
        guest
            .space
            .borrow_mut()
            .write_u64(DRIVER + u64::from(*slot), KERNEL + u64::from(rva));
    }
    // The wrapper's module has to be a known one.
    guest.boot(&session);
    guest.load_kernel_and_driver();
    guest.registers.gpr[1] = OBJECT;
    guest.hit(&session, INSERT);
    guest.call(&session, WRAPPER, 0x1100, 0, 0);
    guest.call(&session, RELEASE, 0x1110, 2, 1);
    let report = session.report(&power_off());
    assert_eq!(report.outcome, Outcome::Completed, "{:#?}", report.conditions);
    assert_eq!(report.watch.routines[0].address, KERNEL + u64::from(WRAPPER));
    let detours = report.notes.iter().filter_map(|note| match note {
        Note::Detour { routine, place } => Some((routine.as_str(), place)),
        _ => None,
    });
    let detours: Vec<_> = detours.collect();
    let [("nt!KeAcquireSpinLockRaiseToDpc", place)] = detours[..] else {
        panic!("{:?}", report.notes)
    };
    let [WhyWatched::LockExport(purpose)] = &report.watch.routines[0].why[..] else {
        panic!("{:?}", report.watch.routines)
    };
    assert_eq!(purpose.leads_to.as_ref(), Some(place));
}

#[test]
fn a_kernel_that_is_no_pe_image_is_told_plainly() {
    let session = Session::new(config(), None, None);
    let mut guest = Fake::new();
    for _ in 0..40 {
        session.handle(&mut guest, CpuStop::LstarWrite(0xffff_ffff_81e0_0080));
    }
    let report = session.report(&power_off());
    assert_eq!(report.outcome, Outcome::Inconclusive);
    let Some(NotArmed::NoKernel { last: Some(last) }) = &report.watch.not_armed else {
        panic!("{:?}", report.watch.not_armed)
    };
    assert_eq!(last.lstar, 0xffff_ffff_81e0_0080);
    let told = text::render(&report);
    assert!(told.contains("only an NT-compatible kernel"), "{told}");
    assert!(report.notes.len() <= 16);
}

#[test]
fn a_driver_that_is_never_loaded_is_told_with_what_may_have_been_meant() {
    let session = Session::new(
        Config {
            target: "target.exe".to_owned(),
            ..config()
        },
        None,
        None,
    );
    let mut guest = Fake::new();
    guest.boot(&session);
    guest.load_driver();
    guest.registers.gpr[1] = OBJECT;
    guest.hit(&session, INSERT);
    let not_armed = session.report(&power_off()).watch.not_armed;
    let Some(NotArmed::NeverLoaded { driver, similar, .. }) = not_armed else {
        panic!("{not_armed:?}")
    };
    assert_eq!(
        (driver.as_str(), similar.as_deref()),
        ("target.exe", Some("Target.sys"))
    );
}

const IDT: u64 = 0xffff_9000_0006_0000;
const INTERRUPT_TIME: u64 = 0xffff_f780_0000_0008;

/// A guest that is as Windows is, watched for two seconds of its own; `change` makes it another before that.
fn checked(change: impl Fn(&mut Fake)) -> Vec<(String, bool)> {
    let session = Session::new(
        Config {
            check_guest: true,
            ..config()
        },
        None,
        None,
    );
    let mut guest = Fake::new();
    (guest.special.idt_base, guest.special.idt_limit) = (IDT, 0xfff);
    {
        let mut space = guest.space.borrow_mut();
        let handler = (KERNEL + 0x1500).to_le_bytes();
        space.write(IDT, &[0; 0x1000]);
        space.write(IDT + 14 * 16, &[handler[0], handler[1], 0x10, 0, 0, 0x8e]);
        space.write(IDT + 14 * 16 + 6, &handler[2..]);
        space.write_u64(KPCR + 0x18, KPCR);
        space.write_u64(KPCR + 0x20, KPCR + 0x180);
        space.write_u64(THREAD, 6);
        space.write_u64(INTERRUPT_TIME, 50_000_000);
    }
    change(&mut guest);
    guest.boot(&session);
    guest.load_kernel_and_driver();
    guest.registers.gpr[1] = OBJECT;
    guest.hit(&session, INSERT);
    guest.call(&session, ACQUIRE, 0x1100, 0, 0);
    guest.call(&session, RELEASE, 0x1110, 2, 1);
    guest.space.borrow_mut().write_u64(INTERRUPT_TIME, 70_000_000);
    session.look(&mut guest);
    let end = End {
        armed_ms: 2100,
        ..power_off()
    };
    let report = session.report(&end);
    let rows = report.guest_checks.iter();
    rows.map(|check| (check.name.clone(), check.ok)).collect()
}

#[test]
fn a_guest_that_is_as_windows_is_passes_every_check() {
    let rows = checked(|_| ());
    assert_eq!(rows.len(), 8, "{rows:?}");
    assert!(rows.iter().all(|(_, ok)| *ok), "{rows:?}");
}

#[test]
fn each_check_fails_when_what_it_is_about_is_otherwise() {
    let fails = |name: &str, change: &dyn Fn(&mut Fake)| {
        let rows = checked(change);
        let failed: Vec<_> = rows
            .iter()
            .filter(|(_, ok)| !ok)
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(failed, [name]);
    };
    fails("kernel by two ways", &|guest| guest.special.idt_limit = 0);
    fails("processor control regions", &|guest| {
        guest.space.borrow_mut().write_u64(KPCR + 0x1a4, 3);
    });
    fails("processor control regions", &|guest| {
        guest.space.borrow_mut().write_u64(KPCR + 0x188, 0x1000);
    });
    fails("clock", &|guest| guest.space.borrow_mut().write_u64(INTERRUPT_TIME, 0));
}

#[test]
fn the_clock_of_a_guest_that_was_held_or_has_crashed_is_not_judged() {
    let passes = |change: &dyn Fn(&mut Fake)| {
        let rows = checked(|guest| {
            guest.space.borrow_mut().write_u64(INTERRUPT_TIME, 0);
            change(guest);
        });
        assert!(rows.iter().all(|(_, ok)| *ok), "{rows:?}");
    };
    passes(&|guest| guest.space.borrow_mut().write(INTERRUPT_TIME - 8 + 0x2d4, &[3]));
    passes(&|guest| {
        guest
            .space
            .borrow_mut()
            .write_u64(KERNEL + u64::from(list_rva()) + 0x20, 0xd1);
    });
}

#[test]
fn exits_for_returns_are_no_second_exits_of_a_hit() {
    let stepping = |returns: u64| {
        let config = Config {
            step_over: StepOver::ResumeFlag,
            check_guest: true,
            ..config()
        };
        let session = Session::new(config, None, None);
        let mut guest = Fake::new();
        guest.boot_and_arm(&session);
        let end = End {
            hits: 1492,
            debug_exits: 1646,
            returns,
            ..power_off()
        };
        let rows = session.report(&end).guest_checks;
        rows.iter().find(|row| row.name == "stepping over").map(|row| row.ok)
    };
    assert_eq!((stepping(0), stepping(154)), (Some(false), Some(true)));
}
