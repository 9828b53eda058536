//! Driver files as another linker, or an editor, could have made them: their headers say less than those of the
//! project's own build, or say it differently, and Windows' loader accepts them. They load in the test guest, run, and
//! are watched as the files that they were made of. Needs a usable /dev/kvm, of whatever kind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use storlock::vmi::GuestMemory as _;
use storlock::windows::{Exports, FileImage, ImportName, Imports};
use support::{Run, assert_nothing_found, finish, images};

const WORKLOAD: [&str; 4] = ["--seed", "5", "--append", "ops=8 threads=2"];
const IMPORT: usize = 1;

/// A driver's file that is changed field by field.
struct Driver {
    bytes: Vec<u8>,
}

impl Driver {
    fn new(miniport: &str) -> Self {
        let bytes = fs::read(images().join("miniports").join(format!("{miniport}.sys"))).unwrap();
        Self { bytes }
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(*self.bytes[at..].first_chunk().unwrap())
    }

    fn put(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn optional(&self) -> usize {
        self.word(0x3c) as usize + 24
    }

    fn directory(&self, index: usize) -> usize {
        self.optional() + 112 + 8 * index
    }

    /// Places of the section headers.
    fn sections(&self) -> Vec<usize> {
        let first = self.optional() + 240;
        let count = usize::from(self.bytes[self.word(0x3c) as usize + 6]);
        (0..count).map(|index| first + 40 * index).collect()
    }

    fn image(&self) -> FileImage {
        FileImage::parse(self.bytes.clone()).unwrap()
    }

    /// Where an address of the image is in the file.
    fn place(&self, rva: u32) -> usize {
        let image = self.image();
        let section = image.image().section(rva).unwrap();
        (section.file_offset + rva - section.rva) as usize
    }

    fn run(&self, name: &str) -> Run {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("images")).unwrap();
        let driver = directory.path().join("images").join(format!("{name}.sys"));
        fs::write(&driver, &self.bytes).unwrap();
        let mut command = support::command(directory.path(), "vdisk-ok", &WORKLOAD);
        // The last that is given counts.
        let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        command = std::process::Command::new(env!("CARGO_BIN_EXE_storlock"));
        let own = images().join("miniports/vdisk-ok.sys");
        command.args(arguments.iter().map(|argument| {
            if Path::new(argument) == own {
                driver.as_os_str()
            } else {
                argument
            }
        }));
        command
            .env("STORLOCK_IMAGES", images())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        Run {
            output: finish(command.spawn().unwrap()),
            directory,
        }
    }
}

#[test]
fn guest_driver_whose_headers_give_no_sizes_runs() {
    let mut driver = Driver::new("vdisk-ok");
    let directory = driver.directory(IMPORT);
    driver.put(directory + 4, 0);
    for header in driver.sections() {
        let (size, raw) = (driver.word(header + 8), driver.word(header + 16));
        if raw == 0 {
            // A pointer to nothing.
            driver.put(header + 20, 0x7fff_fe00);
        } else if size <= raw {
            driver.put(header + 8, 0);
            let pointer = driver.word(header + 20);
            driver.put(header + 20, pointer | 0x1ff);
        }
    }
    assert_nothing_found(&driver.run("sizes"));
}

#[test]
fn guest_driver_whose_sections_are_closer_than_a_page_runs() {
    let mut driver = Driver::new("vdisk-ok");
    let image = driver.image();
    let mut memory = vec![0; image.image().size as usize];
    image.read(image.image().base, &mut memory).unwrap();
    driver.bytes = memory;
    let optional = driver.optional();
    driver.put(optional + 32, 32);
    driver.put(optional + 36, 32);
    for header in driver.sections() {
        let (size, rva) = (driver.word(header + 8), driver.word(header + 12));
        driver.put(header + 16, size);
        driver.put(header + 20, rva);
    }
    assert_nothing_found(&driver.run("close"));
}

#[test]
fn guest_driver_that_imports_its_lock_routines_by_ordinal_is_found_out() {
    let mut driver = Driver::new("nvme-release-without-acquire");
    let exporter = FileImage::parse(fs::read(images().join("storport.sys")).unwrap()).unwrap();
    let exports = Exports::read(&exporter, exporter.image()).unwrap();
    let image = driver.image();
    let imports = Imports::read(&image, image.image()).unwrap();
    // The names of an import directory by mingw are in the order of its slots, in a table of their own.
    let descriptor = image.image().table(IMPORT).unwrap().rva;
    let mut changed = 0;
    for index in 0..2u32 {
        let at = driver.place(descriptor + 20 * index);
        let (names, slots) = (driver.word(at), driver.word(at + 16));
        for import in imports
            .entries()
            .iter()
            .filter(|import| import.module == "storport.sys")
        {
            let ImportName::Name(name) = &import.name else {
                panic!("{import:?}")
            };
            let Some(offset) = import.slot.checked_sub(slots).filter(|offset| *offset < 0x400) else {
                continue;
            };
            if driver.word(driver.place(names + offset)) == 0 || changed >= imports.entries().len() {
                continue;
            }
            let ordinal = u64::from(exports.get(name).unwrap().ordinal);
            let place = driver.place(names + offset);
            driver.bytes[place..place + 8].copy_from_slice(&(1 << 63 | ordinal).to_le_bytes());
            changed += 1;
        }
    }
    let image = driver.image();
    let by_ordinal = Imports::read(&image, image.image()).unwrap();
    let unnamed = by_ordinal
        .entries()
        .iter()
        .filter(|import| import.module == "storport.sys");
    assert!(
        unnamed.clone().count() > 0
            && unnamed
                .clone()
                .all(|import| matches!(import.name, ImportName::Ordinal(_)))
    );
    let run = driver.run("nvme-release-without-acquire");
    assert_eq!(run.code(), 1, "{run}");
    let report = run.report();
    let watched = report["watch"]["routines"].as_array().unwrap().iter();
    let watched: Vec<_> = watched.map(|watched| watched["routine"].as_str().unwrap()).collect();
    assert_eq!(
        watched,
        ["storport!StorPortNotification", "storport!StorPortExtendedFunction"],
        "{run}"
    );
}

#[test]
fn guest_driver_gets_the_registers_that_its_code_needs() {
    let run = Driver::new("vdisk-ok").run("vdisk-ok");
    assert_eq!(run.code(), 0, "{run}");
    let watch = &run.report()["watch"];
    let watched = watch["routines"].as_array().unwrap().iter();
    let watched: Vec<_> = watched.map(|watched| watched["routine"].as_str().unwrap()).collect();
    assert!(
        watched.len() == 4 && watched.iter().all(|name| name.starts_with("nt!Ke")),
        "{watched:?}"
    );
    assert_eq!(watch["gaps"].as_array().unwrap().len(), 0, "{watch}");
    let uses = watch["choice"]["uses"].as_array().unwrap().iter();
    let notification = uses.filter(|told| told["import"] == "storport!StorPortNotification");
    let told: Vec<_> = notification.map(|told| (&told["kind"], &told["routines"])).collect();
    assert_eq!(told, [(&"known".into(), &serde_json::json!([]))], "{watch}");

    // What the code asks for is watched, and a register is left in which the callbacks are learnt.
    let run = Driver::new("nvme-release-without-acquire").run("nvme");
    assert_eq!(run.code(), 1, "{run}");
    let report = run.report();
    assert_eq!(report["watch"]["routines"].as_array().unwrap().len(), 2, "{run}");
    assert_eq!(report["violations"][0]["callback"], "HwStorBuildIo", "{run}");
}

#[test]
fn guest_driver_without_relocations_is_refused_with_that_reason() {
    let mut driver = Driver::new("vdisk-ok");
    let characteristics = driver.word(0x3c) as usize + 22;
    driver.bytes[characteristics] |= 1;
    let run = driver.run("fixed");
    assert_eq!(run.code(), 5, "{run}");
    let told = String::from_utf8_lossy(&run.output.stderr).into_owned();
    assert!(told.contains("fixed.sys: it has no relocations"), "{told}");
}
