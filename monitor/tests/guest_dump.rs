//! Crash dumps at a violation: runs of the guest images, and what an independent reader finds in the file.
#![allow(clippy::print_stdout, reason = "what a test measured is shown on demand")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

#[path = "support/rsp.rs"]
mod rsp;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kdmp_parser::parse::KernelDumpParser;
use kdmp_parser::structs::{Context, KdDebuggerData64};
use kdmp_parser::{phys, virt};
use serde_json::Value;

use rsp::{Client, unhex};
use support::zoo::bug;
use support::{
    Run, assert_found_once_at_its_place, assert_nothing_found, assert_replays_to_the_same_report, command,
    debugger_address, finish, images, run, violations,
};

/// A workload that is short wherever it runs.
const SHORT: &str = "ops=16 threads=2";
const MINIPORT: &str = "nvme-release-without-acquire";
const CODE: u32 = 0xe053_4c4b;
/// Guest memory where every page of it is compared.
const SMALL: &str = "32M";

/// How many pages there are to each that is compared: a page takes the debugger's server some time where every instruction
/// is emulated.
fn compared_pages() -> u64 {
    let emulated = std::env::var("STORLOCK_TEST_PLATFORM").is_ok_and(|platform| platform != "native");
    if emulated {
        println!("one of 61 pages is compared here");
    }
    if emulated { 61 } else { 1 }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// The machine at the violation, as it is in the file.
struct Dump {
    parser: KernelDumpParser,
}

impl Dump {
    fn open(path: &Path) -> Self {
        Self {
            parser: KernelDumpParser::new(path).unwrap(),
        }
    }

    fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let reader = virt::Reader::new(&self.parser);
        reader
            .read_exact(address.into(), &mut bytes)
            .unwrap_or_else(|error| panic!("{address:#x}: {error}"));
        bytes
    }

    fn read_u64(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.read(address, 8).try_into().unwrap())
    }

    /// The base of a loaded module.
    fn module(&self, name: &str) -> u64 {
        let found = self.parser.kernel_modules().find(|(_, path)| path.ends_with(name));
        let (range, _) =
            found.unwrap_or_else(|| panic!("no {name}: {:?}", self.parser.kernel_modules().collect::<Vec<_>>()));
        range.start.into()
    }

    /// Where the registers of each processor are kept, by the processor blocks.
    fn context_places(&self, cpus: u64) -> Vec<u64> {
        let reader = virt::Reader::new(&self.parser);
        let block = self.parser.headers().kd_debugger_data_block;
        let data: KdDebuggerData64 = reader.read_struct(block.into()).unwrap();
        assert_eq!(data.header.owner_tag, u32::from_le_bytes(*b"KDBG"));
        let place = |cpu: u64| {
            let prcb = self.read_u64(data.ki_processor_block + 8 * cpu);
            self.read_u64(prcb + u64::from(data.offset_prcb_context))
        };
        (0..cpus).map(place).collect()
    }
}

/// Offset of the NT headers in an image, and its time stamp and size, which name the build.
fn build_of(headers: &[u8]) -> (Vec<u8>, Vec<u8>) {
    assert_eq!(&headers[..2], b"MZ");
    let nt = u32::from_le_bytes(headers[0x3c..0x40].try_into().unwrap()) as usize;
    assert_eq!(&headers[nt..nt + 4], b"PE\0\0");
    (
        headers[nt + 8..nt + 12].to_vec(),
        headers[nt + 0x50..nt + 0x54].to_vec(),
    )
}

/// The arguments of a short run that writes its dump there.
fn dumping_to(path: &Path) -> [&str; 6] {
    let path = path.to_str().unwrap();
    ["--seed", "7", "--append", SHORT, "--dump-on-violation", path]
}

#[test]
fn a_reset_and_the_time_limit_are_dumped_when_that_is_asked_for() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("x.dmp");
    let common = [
        "--seed",
        "7",
        "--fault",
        "drop:write,after=3",
        "--dump",
        path.to_str().unwrap(),
    ];
    let dumped = |more: &[&str], code, reason: &str, of_reason: u64| {
        let run = run("nvme-ok", &[&common[..], more].concat());
        let told = &run.report()["dump"];
        assert_eq!((run.code(), told["on"].as_str()), (code, Some(reason)), "{run}");
        let parser = Dump::open(&path).parser;
        let header = parser.headers();
        assert_eq!(header.bug_check_code, CODE);
        assert_eq!(
            header.bug_check_code_parameters,
            [of_reason << 16, 0, 0, number(&told["event"])]
        );
        assert!(header.comment.starts_with(format!("storlock {reason}").as_bytes()));
    };
    let gives_up = if compared_pages() > 1 {
        "ops=16 threads=2 timeout=20"
    } else {
        "ops=16 threads=2 timeout=4"
    };
    dumped(
        &["--append", gives_up, "--dump-on", "reset", "--dump-on", "hang"],
        0,
        "reset",
        1,
    );
    let waits = ["--append", "ops=16 threads=2 timeout=600", "--time-limit", "20s"];
    dumped(&waits, 3, "timeout", 2);
}

#[test]
fn the_first_violation_is_dumped_and_the_run_goes_on() {
    let files = tempfile::tempdir().unwrap();
    let (path, recording) = (files.path().join("x.dmp"), files.path().join("run.rec"));
    let run = run(
        MINIPORT,
        &[&dumping_to(&path)[..], &["--record", recording.to_str().unwrap()]].concat(),
    );
    assert_found_once_at_its_place(bug(MINIPORT), &run);
    assert_replays_to_the_same_report(&run, &recording);
    let report = run.report();
    let violation = &violations(&report)[0];
    let told = &report["dump"];
    assert_eq!(told["event"], violation["event"], "{run}");
    assert_eq!(told["missing"], serde_json::json!([]), "{run}");
    assert_eq!(number(&told["bytes"]), fs::metadata(&path).unwrap().len(), "{run}");
    assert_eq!(fs::read_dir(files.path()).unwrap().count(), 2, "{run}");

    let dump = Dump::open(&path);
    let header = dump.parser.headers();
    assert_eq!((header.bug_check_code, header.number_processors), (CODE, 2));
    let [what, lock, caller, event] = header.bug_check_code_parameters;
    // StorPortSpinLock4, release without acquire.
    assert_eq!((what, event), (0x301, number(&violation["event"])));
    assert_eq!(
        number(&violation["operand"]["stor_port_handle"]["handle"]),
        lock,
        "{run}"
    );
    assert!(header.comment.starts_with(b"storlock StorPortSpinLock4"));
    assert!(header.system_time > 0 && header.system_up_time > 0);

    // It stands before the routine's first instruction, with the arguments of the call.
    let registers = dump.parser.context_record();
    let watched = report["watch"]["routines"].as_array().unwrap();
    assert!(
        watched
            .iter()
            .any(|routine| number(&routine["address"]) == registers.rip),
        "{run}"
    );
    assert_eq!(dump.parser.exception_record().exception_address, registers.rip);
    assert_eq!((registers.rcx & 0xffff_ffff, registers.r8), (0x1004, lock));
    assert_eq!(dump.read_u64(registers.rsp), caller);

    // Modules are where the monitor saw them, and are what the run was started with.
    let miniport = format!("{MINIPORT}.sys");
    for (name, file) in [
        ("ntoskrnl.exe", images().join("ntoskrnl.exe")),
        ("storport.sys", images().join("storport.sys")),
        (&miniport, images().join("miniports").join(&miniport)),
    ] {
        let base = dump.module(name);
        assert_eq!(
            build_of(&dump.read(base, 0x400)),
            build_of(&fs::read(file).unwrap()),
            "{name}"
        );
    }
    assert_eq!(dump.module(&miniport), number(&report["target"]["base"]));
}

#[test]
fn every_page_and_every_processor_is_as_a_debugger_sees_the_stopped_machine() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("x.dmp");
    let directory = tempfile::tempdir().unwrap();
    let arguments = [&dumping_to(&path)[..], &["--gdb", "127.0.0.1:0", "--memory", SMALL]].concat();
    let mut child = command(directory.path(), MINIPORT, &arguments)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut client = Client::connect(&debugger_address(directory.path(), &mut child));
    // The machine stands at the violation, or will soon.
    assert!(client.ask("?").starts_with('T') || client.receive().unwrap().starts_with('T'));
    while client.monitor("storlock violation").contains("has not been stopped") {
        client.send(b"c");
        client.receive().unwrap();
    }
    let dump = Dump::open(&path);
    let virtual_memory = virt::Reader::new(&dump.parser);
    let places = dump.context_places(2);
    let contexts = places
        .iter()
        .map(|&at| virtual_memory.read_struct::<Context>(at.into()).unwrap());
    let contexts: Vec<Context> = contexts.collect();
    for (cpu, context) in (0..).zip(&contexts) {
        assert_eq!(context.rip, client.pc(cpu), "vCPU {cpu}");
    }
    assert!(contexts.contains(dump.parser.context_record()));
    // Only they are in the file and not in the guest.
    let ends = places.iter().flat_map(|&at| [at, at + size_of::<Context>() as u64 - 1]);
    let pages = ends.map(|at| u64::from(virtual_memory.translate(at.into()).unwrap().gpa()) & !0xfff);
    let patched: BTreeSet<u64> = pages.collect();

    assert_eq!(client.ask("Qqemu.PhyMemMode:1"), "OK");
    let reader = phys::Reader::new(&dump.parser);
    let (mut compared, mut skipped) = (0, 0);
    let every = compared_pages();
    for (address, _) in dump.parser.physmem() {
        let number = u64::from(address) / 0x1000;
        if number % every != 0 && !patched.contains(&address.into()) {
            continue;
        }
        let mut page = [0; 0x1000];
        reader.read_exact(address, &mut page).unwrap();
        let live = physical(&mut client, address.into(), page.len());
        if live != page {
            assert!(patched.contains(&address.into()), "page {address:?} differs");
            skipped += 1;
        }
        compared += 1;
    }
    let pages = (32 << 20) / 0x1000;
    assert_eq!(dump.parser.physmem().len(), pages);
    assert!(
        compared >= pages / every as usize && skipped == patched.len(),
        "{compared} {skipped}"
    );

    assert_eq!(client.ask("Qqemu.PhyMemMode:0"), "OK");
    assert_eq!(client.ask("D"), "OK");
    let run = Run {
        output: finish(child),
        directory,
    };
    assert_found_once_at_its_place(bug(MINIPORT), &run);
}

/// Physical memory as the debugger's server gives it.
fn physical(client: &mut Client, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let at = address + bytes.len() as u64;
        let answer = client.ask(&format!("m{at:x},{:x}", length - bytes.len()));
        let part = unhex(&answer);
        assert!(!part.is_empty(), "{at:#x}: {answer}");
        bytes.extend(part);
    }
    bytes
}

#[test]
fn a_debugger_that_only_wants_reports_is_not_told_of_the_stop_for_the_dump() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("x.dmp");
    let debugged = ["--gdb", "127.0.0.1:0", "--on-violation", "report"];
    let run = run(MINIPORT, &[&dumping_to(&path)[..], &debugged].concat());
    assert_found_once_at_its_place(bug(MINIPORT), &run);
    assert_eq!(Dump::open(&path).parser.headers().bug_check_code, CODE);
}

#[test]
fn a_dump_that_does_not_fit_is_told_and_the_run_goes_on_to_a_whole_report() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("x.dmp");
    let directory = tempfile::tempdir().unwrap();
    let storlock = command(directory.path(), MINIPORT, &dumping_to(&path));
    // No file may become larger than 4 MiB, which is as good as a full disk for what is larger.
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 8192; exec \"$@\"", "sh"])
        .arg(storlock.get_program())
        .args(storlock.get_args());
    for (name, value) in storlock.get_envs() {
        limited.env(name, value.unwrap());
    }
    let child = limited
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let run = Run {
        output: finish(child),
        directory,
    };
    assert_eq!(run.code(), 5, "{run}");
    let report = run.report();
    assert_eq!(violations(&report).len(), 1, "{run}");
    let error = report["dump"]["error"].as_str().unwrap();
    assert!(error.contains("x.dmp"), "{run}");
    assert!(report["conditions"].to_string().contains(error), "{run}");
    assert!(String::from_utf8_lossy(&run.output.stderr).contains(error), "{run}");
    assert!(run.serial().contains("workload: PASS"), "{run}");
    assert_eq!(fs::read_dir(files.path()).unwrap().count(), 0, "{run}");
}

#[test]
fn without_a_violation_there_is_no_dump_and_an_earlier_one_is_gone() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("x.dmp");
    fs::write(&path, "PAGEDU64: an earlier one").unwrap();
    let run = run("nvme-ok", &dumping_to(&path));
    assert_nothing_found(&run);
    assert_eq!(run.report()["dump"], Value::Null, "{run}");
    assert_eq!(fs::read_dir(files.path()).unwrap().count(), 0, "{run}");
}

#[test]
fn the_guests_clock_is_judged_without_the_time_of_the_dump() {
    let files = tempfile::tempdir().unwrap();
    let pipe = files.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || {
            let mut pipe = fs::File::open(pipe).unwrap();
            // From the first byte on the machine stands still.
            let first = pipe.read(&mut [0]).unwrap();
            std::thread::sleep(Duration::from_secs(6));
            first as u64 + io::copy(&mut pipe, &mut io::sink()).unwrap()
        }
    });
    let run = run(MINIPORT, &[&dumping_to(&pipe)[..], &["--check-guest"]].concat());
    assert_found_once_at_its_place(bug(MINIPORT), &run);
    let report = run.report();
    assert_eq!(number(&report["dump"]["bytes"]), reader.join().unwrap(), "{run}");
    let rows = report["guest_checks"].as_array().unwrap();
    let clock = rows.iter().find(|row| row["name"] == "clock").unwrap();
    assert_eq!(clock["ok"], true, "{run}");
}
