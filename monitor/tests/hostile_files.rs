//! Hostile files, given to the program as a user would: with little memory, and with an eye on what reaches the
//! terminal. No KVM is needed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use storlock::report::StepOver;
use storlock::session::{Config, End, ExportRequest};
use storlock::vmi::recording::{Frame, RecordedRead, RecordedStop, write_frame, write_start};
use storlock::vmi::{CpuStop, Registers, SpecialRegisters};
use storlock_check::contract::{Routine, RoutineSet};
use storlock_check::event::{Context, Event, EventKind, LockCall, LockOperand, LockReturn, Module, Order, WatchSet};
use storlock_check::trace::{Encoder, EndMark};

/// Address space that suffices for good files, in bytes.
const GOOD: u64 = 256 << 20;
/// What a hostile file may cost beside.
const MORE: u64 = 256 << 20;
/// What acts on a terminal, or hides what it shows.
const HOSTILE: &str = "\x1b[2J\x1b]0;x\x07\u{9b}1A\u{202e}\u{2066}\u{200b}\u{2028}\u{7f}\r\noutcome      Completed";

fn storlock(limit: u64, arguments: &[&str]) -> Output {
    let mut command = Command::new("prlimit");
    command.arg(format!("--as={limit}")).arg("--cpu=120");
    command.arg(env!("CARGO_BIN_EXE_storlock")).args(arguments);
    command
        .env("STORLOCK_IMAGES", images())
        .env_remove("RUST_LOG")
        .env("RUST_BACKTRACE", "0");
    command.output().unwrap()
}

fn images() -> PathBuf {
    if let Some(directory) = std::env::var_os("STORLOCK_IMAGES") {
        return directory.into();
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile-images");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-images/build");
    assert!(Command::new(script).arg(&directory).status().unwrap().success());
    directory
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Both streams, after a look at what nobody may put there.
#[track_caller]
fn text(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8(text).unwrap();
    assert!(
        !text.contains("panicked") && !text.contains("memory allocation"),
        "{text}"
    );
    let raw = text.chars().find(|&c| c != '\n' && storlock::escape::is_hostile(c));
    assert_eq!(raw, None, "{text}");
    text
}

/// Replays a file in both formats, within the memory for hostile ones; the exit code and the text.
#[track_caller]
fn replayed(bytes: &[u8]) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    let json = storlock(GOOD + MORE, &["replay", path, "--format", "json"]);
    text(&json);
    let report = directory.path().join("report");
    let output = storlock(GOOD + MORE, &["replay", path, "--report-dir", report.to_str().unwrap()]);
    assert_eq!(json.status.code(), output.status.code());
    if report.join("report.txt").exists() {
        let written = fs::read_to_string(report.join("report.txt")).unwrap();
        assert!(!written.contains(|c| c != '\n' && storlock::escape::is_hostile(c)));
        assert!(fs::metadata(report.join("report.json")).unwrap().len() < 256 << 20);
    }
    (output.status.code(), text(&output))
}

#[test]
fn good_files_are_read_with_little_memory() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("events.trace");
    fs::write(&trace, trace_of(&defect(), Some(EndMark::Complete))).unwrap();
    for (file, code) in [(data("session.rec"), 1), (trace, 1)] {
        let output = storlock(GOOD, &["replay", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        assert!(text(&output).contains("Defect"));
    }
    let output = storlock(GOOD, &["symbols", data("kernel.dll").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let pdb = pdb(&fs::read(data("kernel.pdb")).unwrap(), GOOD);
    assert!(pdb.1.contains("the kernel names no PDB"), "{}", pdb.1);
}

fn trace_of(events: &[EventKind], end: Option<EndMark>) -> Vec<u8> {
    let (mut bytes, mut encoder) = (Encoder::header().to_vec(), Encoder::new());
    for (number, kind) in events.iter().enumerate() {
        let event = Event {
            sequence: number as u64 + 1,
            order: Order::Total,
            kind: kind.clone(),
        };
        encoder.event(&event, &mut bytes);
    }
    if let Some(end) = end {
        encoder.end(end, &mut bytes);
    }
    bytes
}

fn module(name: &str, base: u64) -> EventKind {
    EventKind::ModuleLoad(Module {
        base,
        size: 0x1000,
        target: true,
        name: name.to_owned(),
    })
}

fn watch() -> EventKind {
    EventKind::WatchSetChanged(WatchSet {
        watched: RoutineSet::from_bits(u64::MAX),
        imported: RoutineSet::from_bits(u64::MAX),
        processors: 64,
        before_target: true,
        ..WatchSet::default()
    })
}

fn call(routine: Routine, operand: LockOperand, processor: u32, address: u64, word: Option<u64>) -> EventKind {
    let context = Context {
        processor,
        irql: 2,
        thread: 0x1000,
        stack_pointer: 0x8000,
        return_address: address,
        ..Context::default()
    };
    EventKind::LockCall(LockCall {
        routine,
        context,
        operand,
        old_irql: None,
        word,
    })
}

fn release(lock: u64, address: u64) -> EventKind {
    call(
        Routine::KeReleaseSpinLockFromDpcLevel,
        LockOperand::Address(lock),
        0,
        address,
        Some(0),
    )
}

fn defect() -> Vec<EventKind> {
    vec![module("driver.sys", 0x10_0000), watch(), release(0x2000, 0x10_0010)]
}

#[test]
fn names_in_a_trace_cannot_act_on_a_terminal_nor_make_lines() {
    let events = [
        module(&format!("a{HOSTILE}.sys"), 0x10_0000),
        watch(),
        release(0x2000, 0x10_0010),
    ];
    let (code, text) = replayed(&trace_of(&events, Some(EndMark::Complete)));
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains(r"a\x1b[2J\x1b]0;x\x07\u{9b}1A\u{202e}\u{2066}\u{200b}\u{2028}\x7f\r\noutcome"),
        "{text}"
    );
    assert_eq!(
        text.lines()
            .filter(|line| line.trim_start().starts_with("outcome"))
            .count(),
        1,
        "{text}"
    );
    let plain = [module("драйвер.sys", 0x10_0000), watch(), release(0x2000, 0x10_0010)];
    assert!(replayed(&trace_of(&plain, None)).1.contains("драйвер.sys"));
}

#[test]
fn a_trace_that_fills_every_table_stays_within_bounds() {
    let mut events = vec![watch()];
    // Locks with as many open acquires each as they keep, and releases that are under way.
    for number in 0..300_000_u64 {
        let lock = LockOperand::Address(0x10_0000 + number / 6 * 8);
        let processor = (number % 256) as u32;
        events.push(call(
            Routine::KeAcquireSpinLockAtDpcLevel,
            lock,
            processor,
            0x40_0000,
            Some(1),
        ));
    }
    // Returns of calls that were never made, all of one lock.
    for number in 0..50_000_u64 {
        events.push(EventKind::LockReturn(LockReturn {
            call: number,
            routine: Routine::KeAcquireSpinLockAtDpcLevel,
            operand: LockOperand::Address(0x10_0000),
            value: 1,
            context: Context {
                irql: 2,
                thread: number,
                ..Context::default()
            },
        }));
    }
    // Handles, modules with long names, and violations from as many places.
    for number in 0..70_000_u64 {
        let operand = LockOperand::Queued {
            lock: number * 8,
            handle: 0x9000_0000 + number * 32,
        };
        events.push(call(
            Routine::KeAcquireInStackQueuedSpinLockAtDpcLevel,
            operand,
            1,
            0x40_0000,
            None,
        ));
    }
    for number in 0..6_000_u64 {
        events.push(module(
            &"n".repeat(200).replace('n', &format!("{}", number % 10)),
            0x100_0000 + number * 0x1000,
        ));
        events.push(release(0x8000_0000 + number, 0x100_0000 + number * 0x1000));
    }
    let (code, text) = replayed(&trace_of(&events, Some(EndMark::Complete)));
    assert_eq!(code, Some(1), "{}", &text[text.len().saturating_sub(2000)..]);
}

/// Records that a reader skips, behind those of a defect: more than there is memory.
#[test]
fn a_long_trace_takes_no_more_memory_than_a_short_one() {
    use std::io::Write as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("long.trace");
    let mut file = fs::File::create(&path).unwrap();
    let whole = trace_of(&defect(), None);
    file.write_all(&whole).unwrap();
    let mut skipped = vec![0x80, 0x08, 0x80];
    skipped.resize(3 + 1024, 0);
    let skipped = skipped.repeat(1024);
    for _ in 0..(GOOD >> 20) + 4 {
        file.write_all(&skipped).unwrap();
    }
    let ended = trace_of(&[], Some(EndMark::Complete));
    file.write_all(&ended[storlock_check::trace::HEADER..]).unwrap();
    drop(file);
    let output = storlock(GOOD, &["replay", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
}

#[test]
fn a_trace_with_impossible_values_is_read_up_to_them() {
    let mut events = defect();
    let whole = trace_of(&events, None).len();
    events.push(EventKind::IrqlSeen { processor: 0, irql: 77 });
    let (code, text) = replayed(&trace_of(&events, Some(EndMark::Complete)));
    assert_eq!(code, Some(5), "{text}");
    let place = format!("record 3 (at byte {whole:#x})");
    assert!(text.contains(&place) && text.contains("an IRQL above 15"), "{text}");
    assert!(
        text.contains("SpinLockRelease"),
        "what comes before is reported: {text}"
    );
}

fn stop(vcpu: u32, reason: Option<CpuStop>, reads: Vec<RecordedRead>) -> Frame {
    Frame::Stop(Box::new(RecordedStop {
        vcpu,
        reason,
        registers: Registers::default(),
        special: SpecialRegisters::default(),
        reads,
        arms: Vec::new(),
    }))
}

fn recording(config: &Config, frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_start(&mut bytes).unwrap();
    write_frame(&mut bytes, &Frame::Header(serde_json::to_vec(config).unwrap())).unwrap();
    for frame in frames {
        write_frame(&mut bytes, frame).unwrap();
    }
    bytes
}

fn config() -> Config {
    Config {
        target: "driver.sys".to_owned(),
        processors: 2,
        breakpoints: 4,
        ..Config::default()
    }
}

#[test]
fn strings_of_a_recording_cannot_act_on_a_terminal_nor_make_lines() {
    let mut hostile = Config {
        target: HOSTILE.to_owned(),
        ..config()
    };
    hostile.exports.push(ExportRequest {
        module: HOSTILE.to_owned(),
        name: HOSTILE.to_owned(),
        length: 8,
    });
    hostile.run.command_line = vec!["storlock".into(), HOSTILE.into()];
    let end = End {
        detail: Some(HOSTILE.to_owned()),
        failures: vec![HOSTILE.to_owned()],
        activities: vec![(0, HOSTILE.to_owned())],
        ..End::default()
    };
    let frames = [stop(0, None, Vec::new()), Frame::End(serde_json::to_vec(&end).unwrap())];
    let (code, text) = replayed(&recording(&hostile, &frames));
    assert_eq!(code, Some(5), "{text}");
    assert_eq!(
        text.lines()
            .filter(|line| line.trim_start().starts_with("outcome"))
            .count(),
        1,
        "{text}"
    );
    // An error that quotes the file, before there is a report.
    hostile.target = HOSTILE.repeat(200);
    let mut wrong = recording(&hostile, &[]);
    assert!(replayed(&wrong).1.contains("the length of a name"));
    wrong.truncate(20);
    assert_eq!(replayed(&wrong).0, Some(5));
    let mut odd = Vec::new();
    write_start(&mut odd).unwrap();
    write_frame(
        &mut odd,
        &Frame::Header(format!("{{\"target\":{HOSTILE:?},\"processors\":\"{HOSTILE}\"}}").into()),
    )
    .unwrap();
    assert_eq!(replayed(&odd).0, Some(5));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table: a claim a case")]
fn a_recording_that_claims_much_stays_within_bounds() {
    let good = recording(&config(), &[]);
    // A frame of 4 GiB, of 64 MiB, and of none.
    for length in [u32::MAX, 64 << 20, 0] {
        let mut bytes = good.clone();
        bytes.extend(length.to_le_bytes());
        bytes.extend([0; 100]);
        assert_eq!(replayed(&bytes).0, Some(5));
    }
    // As many reads in one stop, and as many bytes, as there can be.
    let read = |number: u64, bytes: usize| RecordedRead {
        address: number * 8,
        length: bytes as u32,
        physical: None,
        result: Ok(vec![0; bytes]),
    };
    let small = stop(
        0,
        Some(CpuStop::LstarWrite(8)),
        (0..1 << 18).map(|number| read(number, 8)).collect(),
    );
    let large = stop(
        1,
        Some(CpuStop::LstarWrite(8)),
        (0..15).map(|number| read(number, 4 << 20)).collect(),
    );
    let (code, text) = replayed(&recording(&config(), &[small.clone(), large, small]));
    assert_eq!(code, Some(5), "{text}");
    // JSON that is small in a file and large in memory.
    let mut bomb = Vec::new();
    write_start(&mut bomb).unwrap();
    let many = format!(
        "{{\"exports\":[{}]}}",
        vec!["{\"module\":\"\",\"name\":\"\",\"length\":1}"; 1 << 20].join(",")
    );
    write_frame(&mut bomb, &Frame::Header(many.into_bytes())).unwrap();
    let (code, text) = replayed(&bomb);
    assert_eq!(code, Some(5));
    assert!(text.contains("the number of values in its JSON"), "{text}");
    let deep = format!("{{\"target\":{}", "[".repeat(1 << 20));
    let mut bytes = Vec::new();
    write_start(&mut bytes).unwrap();
    write_frame(&mut bytes, &Frame::Header(deep.into_bytes())).unwrap();
    assert_eq!(replayed(&bytes).0, Some(5));
    // What a run does once, over and over.
    let (code, text) = replayed(&recording(&config(), &vec![stop(0, None, Vec::new()); 100_000]));
    assert!(
        code == Some(5) && text.contains("second last look at processor 0"),
        "{text}"
    );
    let (code, text) = replayed(&recording(&config(), &[stop(2, None, Vec::new())]));
    assert!(
        code == Some(5) && text.contains("processor 2 of a machine with 2"),
        "{text}"
    );
    let end = Frame::End(serde_json::to_vec(&End::default()).unwrap());
    assert!(
        replayed(&recording(&config(), &[end.clone(), end]))
            .1
            .contains("follows the end")
    );
    assert!(
        replayed(&recording(&config(), &[Frame::End(b"{".to_vec())]))
            .1
            .contains("makes no sense")
    );
}

/// Numbers that once overflowed: the clock of the guest and of the host, and counts of exits.
#[test]
fn an_end_with_the_largest_numbers_is_reported() {
    let end = End {
        duration_ms: u64::MAX,
        armed_ms: u64::MAX,
        kvm_runs: u64::MAX,
        debug_exits: u64::MAX,
        other_exits: u64::MAX,
        queue_waits: u64::MAX,
        hits: u64::MAX,
        hit_requests: u64::MAX,
        ..End::default()
    };
    let whole = fs::read(data("session.rec")).unwrap();
    let mut reader = storlock::vmi::recording::Reader::new(&whole[..]).unwrap();
    let mut bytes = Vec::new();
    write_start(&mut bytes).unwrap();
    while let Some(frame) = reader.next().unwrap() {
        let frame = match frame {
            Frame::End(_) => Frame::End(serde_json::to_vec(&end).unwrap()),
            Frame::Header(json) => {
                let mut config: Config = serde_json::from_slice(&json).unwrap();
                config.check_guest = true;
                config.step_over = StepOver::ResumeFlag;
                Frame::Header(serde_json::to_vec(&config).unwrap())
            }
            other => other,
        };
        write_frame(&mut bytes, &frame).unwrap();
    }
    let (code, text) = replayed(&bytes);
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("guest check"), "{text}");
}

/// An image whose import table, at the end of its only section, names one long string over and over: `SpinLock`, then
/// `filler`.
fn hostile_imports(modules: usize, each: usize, filler: u8) -> Vec<u8> {
    let mut image = fs::read(data("kernel.dll")).unwrap();
    let field = |image: &[u8], at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
    let header = field(&image, 0x3c) as usize;
    let sections = u16::from_le_bytes(image[header + 6..header + 8].try_into().unwrap()) as usize;
    let table = header + 24 + u16::from_le_bytes(image[header + 20..header + 22].try_into().unwrap()) as usize;
    let last = table + (sections - 1) * 40;
    let (rva, raw) = (field(&image, last + 12), field(&image, last + 20) as usize);
    image.truncate(raw);
    let mut tail = vec![0; 0x1000];
    let name = rva + 0x10;
    tail[0x10..0x12].copy_from_slice(b"\0\0");
    tail[0x12..0x12 + 1000].fill(filler);
    tail[0x12..0x12 + 8].copy_from_slice(b"SpinLock");
    let descriptors = rva + tail.len() as u32;
    let thunks = descriptors + (modules as u32 + 1) * 20;
    for _ in 0..modules {
        for word in [thunks, 0, 0, name + 2, thunks] {
            tail.extend(word.to_le_bytes());
        }
    }
    tail.extend([0; 20]);
    for _ in 0..each {
        tail.extend(u64::from(name).to_le_bytes());
    }
    tail.extend([0; 4096]);
    let size = tail.len() as u32;
    image.extend(&tail);
    let mut put = |at: usize, value: u32| image[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(last + 8, size);
    put(last + 16, size);
    put(header + 24 + 56, (rva + size).next_multiple_of(0x1000));
    put(header + 24 + 112 + 8, descriptors);
    put(header + 24 + 112 + 12, (modules as u32 + 1) * 20);
    image
}

#[test]
fn an_image_with_endless_names_is_refused_with_little_memory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("odd.sys");
    // A name that is no text is no import's, and is shown escaped, which takes four times its room.
    for (modules, each, filler, code) in [
        (1, 100, b'x', 0),
        (200, 80, b'x', 2),
        (1, 16_000, b'x', 2),
        (1, 100, 0x9b, 2),
        (1, 16_000, 0x9b, 2),
    ] {
        fs::write(&path, hostile_imports(modules, each, filler)).unwrap();
        for format in ["text", "json"] {
            let output = storlock(GOOD + MORE, &["symbols", path.to_str().unwrap(), "--format", format]);
            let text = text(&output);
            assert_eq!(output.status.code(), Some(code), "{}", &text[..text.len().min(2000)]);
            assert!(code == 2 || text.contains("SpinLock"));
        }
    }
}

/// What a run says of these bytes as the kernel's PDB: nothing is started, since the test guest's kernel names none.
fn pdb(bytes: &[u8], limit: u64) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("kernel.pdb"), bytes).unwrap();
    let driver = images().join("miniports/vdisk-ok.sys");
    let output = storlock(
        limit,
        &[
            "run",
            "--driver",
            driver.to_str().unwrap(),
            "--report-dir",
            &path("report"),
            "--dump-on-violation",
            &path("dump"),
            "--symbols",
            &path("kernel.pdb"),
            "--time-limit",
            "60s",
        ],
    );
    (output.status.code(), text(&output))
}

#[test]
fn a_hostile_pdb_is_refused_with_little_memory() {
    let good = fs::read(data("kernel.pdb")).unwrap();
    // The fields of the header: block size, free map, blocks, directory, unknown, block map.
    for at in (32..56).step_by(4) {
        for value in [0, 1, 0x7fff_ffff, u32::MAX, 0x1000_0000] {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            let (code, text) = pdb(&bytes, GOOD);
            assert_eq!(code, Some(2), "{at} {value:#x}: {text}");
        }
    }
    // The directory's sizes and blocks, and the numbers in the header of the debug information (stream 3).
    let field = |at: usize| u32::from_le_bytes(good[at..at + 4].try_into().unwrap()) as usize;
    let (block, directory) = (field(32), field(field(52) * field(32)) * field(32));
    let streams = field(directory);
    let blocks_before: usize = (1..4).map(|number| field(directory + 4 * number).div_ceil(block)).sum();
    let debug = field(directory + 4 * (streams + 1 + blocks_before)) * block;
    let sizes = (0..=streams.min(12)).map(|word| directory + 4 * word);
    let numbers = (0..16).map(|word| debug + 4 * word);
    for at in sizes.chain(numbers) {
        for value in [0xaf00_0000, u32::MAX] {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            let (code, text) = pdb(&bytes, GOOD);
            assert_eq!(code, Some(2), "{at:#x} {value:#x}: {text}");
        }
    }
    // Anything else, at places that a fixed sequence chooses.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        random >> 33
    };
    for _ in 0..40 {
        let mut bytes = good.clone();
        for _ in 0..3 {
            let at = next() as usize % bytes.len();
            bytes[at] = next() as u8;
        }
        let (code, text) = pdb(&bytes, GOOD);
        assert_eq!(code, Some(2), "{text}");
    }
}

/// Read only, like every device that a file may be taken for.
#[test]
fn a_device_without_an_end_is_refused_with_little_memory() {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report");
    let driver = images().join("miniports/vdisk-ok.sys");
    let driver = driver.to_str().unwrap();
    for named in [
        &["--driver", "/dev/zero"][..],
        &["--driver", driver, "--registry", "/dev/zero"],
        &["--driver", driver, "--kernel", "/dev/zero"],
        &["--driver", driver, "--load", "/dev/zero"],
        &["--firmware", "/dev/zero"],
    ] {
        let ends = ["--report-dir", report.to_str().unwrap(), "--time-limit", "5s"];
        let output = storlock(GOOD, &[&["run"], named, &ends].concat());
        let text = text(&output);
        assert_eq!(output.status.code(), Some(5), "{named:?}: {text}");
        assert!(text.contains("no regular file"), "{named:?}: {text}");
    }
}
