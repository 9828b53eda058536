//! What the tests of whole runs share: starting the built binary on a guest image, and reading what it left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    dead_code,
    reason = "a test that cannot go on has failed; each test program uses a part"
)]

pub(crate) mod zoo;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use self::zoo::{Bug, assert_found_alone};

/// Longest that one run may take; far more than it needs.
pub(crate) const LIMIT: Duration = Duration::from_secs(600);
/// After this time storlock itself ends a run and shows where the processors are.
const TIME_LIMIT: &str = "400s";
/// The guest's tables of exact counters: of calls by routine, and of what happened around them.
pub(crate) const CALL_COUNTERS: [&str; 2] = ["nt!KiLockCallCounters:1792", "storport.sys!RaidLockCallCounters:504"];
pub(crate) const EVENT_COUNTERS: &str = "nt!KiLockEventCounters:336";
/// An entry of these tables: a name of 48 bytes and a count.
pub(crate) const COUNTER_ENTRY: usize = 56;

pub(crate) fn images() -> &'static Path {
    static IMAGES: OnceLock<PathBuf> = OnceLock::new();
    IMAGES.get_or_init(|| {
        if let Some(directory) = std::env::var_os("STORLOCK_IMAGES") {
            return directory.into();
        }
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest-images");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-images/build");
        let built = Command::new(script).arg(&directory).status().unwrap();
        assert!(built.success(), "the guest images cannot be built");
        directory
    })
}

/// One run of the binary with a report directory of its own.
pub(crate) struct Run {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) output: Output,
}

pub(crate) fn command(directory: &Path, miniport: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_storlock"));
    command
        .args(["run", "--format", "json", "--report-dir"])
        .arg(directory.join("report"));
    if !arguments.contains(&"--time-limit") {
        command.args(["--time-limit", TIME_LIMIT]);
    }
    command
        .arg("--driver")
        .arg(images().join("miniports").join(format!("{miniport}.sys")))
        .args(arguments)
        .env("STORLOCK_IMAGES", images())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Where a run that serves a debugger can be reached; waits for it. `directory` is that of [`command`].
pub(crate) fn debugger_address(directory: &Path, child: &mut Child) -> String {
    let script = directory.join("report/attach.gdb");
    let began = Instant::now();
    loop {
        let text = fs::read_to_string(&script).unwrap_or_default();
        if let Some(address) = text.lines().find_map(|line| line.strip_prefix("target remote ")) {
            return address.to_owned();
        }
        if let Some(status) = child.try_wait().unwrap() {
            panic!("no debugger is served: {status}");
        }
        assert!(began.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits, but not for ever.
pub(crate) fn finish(mut child: Child) -> Output {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > LIMIT {
            let _ = child.kill();
            panic!("storlock did not end: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

pub(crate) fn run(miniport: &str, arguments: &[&str]) -> Run {
    let directory = tempfile::tempdir().unwrap();
    // The report is taken from its file: a full pipe would stop the process.
    let child = command(directory.path(), miniport, arguments)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Run {
        output: finish(child),
        directory,
    }
}

impl Run {
    pub(crate) fn report(&self) -> Value {
        let text = fs::read(self.directory.path().join("report/report.json"));
        serde_json::from_slice(&text.unwrap_or_else(|error| panic!("no report: {error}\n{self}"))).unwrap()
    }

    pub(crate) fn code(&self) -> i32 {
        self.output
            .status
            .code()
            .unwrap_or_else(|| panic!("killed by a signal: {self}"))
    }

    pub(crate) fn serial(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.path().join("report/serial.log")).unwrap_or_default()).into()
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let report = fs::read_to_string(self.directory.path().join("report/report.txt")).unwrap_or_default();
        let errors = String::from_utf8_lossy(&self.output.stderr);
        write!(
            f,
            "{}\n{errors}\n{report}\nserial log:\n{}",
            self.output.status,
            self.serial()
        )
    }
}

pub(crate) fn violations(report: &Value) -> &Vec<Value> {
    report["violations"].as_array().unwrap()
}

/// The bug was found once, nothing else was, and the guest ran to its end.
#[track_caller]
pub(crate) fn assert_found_once_at_its_place(bug: &Bug, run: &Run) {
    assert_found_alone(bug, run);
    assert_eq!(violations(&run.report()).len(), 1, "{bug:?}: {run}");
    assert!(run.serial().contains("workload: PASS"), "{bug:?}: {run}");
}

/// The signature of the first violation, and where the driver was loaded.
pub(crate) fn signature(run: &Run) -> (Value, u64) {
    let report = run.report();
    let signature = &violations(&report)[0]["signature"];
    assert!(signature["id"].as_str().is_some_and(|id| id.len() == 16), "{run}");
    (signature.clone(), report["target"]["base"].as_u64().unwrap())
}

/// A bug has one signature in all runs, and the runs are not all alike.
#[track_caller]
pub(crate) fn assert_same_wherever_it_was_loaded(bug: &str, runs: &[(Value, u64)]) {
    assert!(
        runs.iter().all(|(signature, _)| *signature == runs[0].0),
        "{bug}: {runs:#?}"
    );
    assert!(runs.iter().any(|(_, base)| *base != runs[0].1), "{bug}: {runs:#?}");
}

/// The guest ran to its end, its data were right, and nothing was found.
pub(crate) fn assert_nothing_found(run: &Run) {
    let report = run.report();
    assert_eq!(
        (run.code(), report["outcome"].as_str()),
        (0, Some("completed")),
        "{run}"
    );
    assert_eq!(report["end"]["kind"], "power_off", "{run}");
    assert!(violations(&report).is_empty(), "{run}");
    assert!(run.serial().contains("workload: PASS"), "{run}");
}

/// The recording of a run that found a violation gives the same report again, but for saying that it is a replay.
#[track_caller]
pub(crate) fn assert_replays_to_the_same_report(run: &Run, recording: &Path) {
    let files = tempfile::tempdir().unwrap();
    let mut live = run.report();
    let mut replay = Command::new(env!("CARGO_BIN_EXE_storlock"));
    replay
        .arg("replay")
        .arg(recording)
        .arg("--report-dir")
        .arg(files.path());
    let child = replay.stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(finish(child).status.code(), Some(1));
    let replayed: Value = serde_json::from_slice(&fs::read(files.path().join("report.json")).unwrap()).unwrap();
    live["run"]["replayed"] = Value::Bool(true);
    assert_eq!(replayed, live);
}

/// The event trace of a run that found a violation gives the same violations again, but for names, lines of source, the
/// callback that ran and most of the stack, and the same counts of calls.
#[track_caller]
pub(crate) fn assert_trace_replays_to_the_same_violations(run: &Run) {
    fn without_names(value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let kept = fields.iter().filter(|(key, _)| {
                    ![
                        "symbol",
                        "source",
                        "callback",
                        "stack",
                        "stack_note",
                        "stack_end",
                        "called",
                    ]
                    .contains(&key.as_str())
                });
                kept.map(|(key, value)| (key.clone(), without_names(value))).collect()
            }
            Value::Array(list) => list.iter().map(without_names).collect(),
            other => other.clone(),
        }
    }
    let files = tempfile::tempdir().unwrap();
    let mut replay = Command::new(env!("CARGO_BIN_EXE_storlock"));
    let trace = run.directory.path().join("report/events.trace");
    replay.arg("replay").arg(trace).arg("--report-dir").arg(files.path());
    let child = replay.stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(finish(child).status.code(), Some(1));
    let replayed: Value = serde_json::from_slice(&fs::read(files.path().join("report.json")).unwrap()).unwrap();
    let live = run.report();
    assert!(!violations(&live).is_empty(), "{run}");
    for part in ["violations", "calls", "locks", "rules"] {
        assert_eq!(without_names(&replayed[part]), without_names(&live[part]), "{part}");
    }
}

/// As [`run`], and the guest's own counters are in the report.
pub(crate) fn run_counted(miniport: &str, arguments: &[&str]) -> Run {
    let mut arguments = arguments.to_vec();
    for counter in CALL_COUNTERS.iter().chain([&EVENT_COUNTERS]) {
        arguments.extend(["--dump-export", counter]);
    }
    run(miniport, &arguments)
}

/// The counters in a dump, by name.
fn counters(hex: &str) -> BTreeMap<String, u64> {
    let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..hex.len() / 2).map(byte).collect();
    let entries = bytes.chunks_exact(COUNTER_ENTRY).take_while(|entry| entry[0] != 0);
    let parse = |entry: &[u8]| {
        let name = entry[..48].split(|&b| b == 0).next().unwrap();
        (
            String::from_utf8(name.to_vec()).unwrap(),
            u64::from_le_bytes(entry[48..].try_into().unwrap()),
        )
    };
    entries.map(parse).collect()
}

/// By how much the guest's counters, of the tables that `wanted` takes, grew from arming to the end.
fn counted(run: &Run, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, u64> {
    let report = run.report();
    let mut counts = BTreeMap::new();
    let exports = report["exports"].as_array().unwrap().iter();
    for export in exports.filter(|export| wanted(&export.to_string())) {
        let at = |when: &str| counters(export[when].as_str().unwrap_or_else(|| panic!("{export}: {run}")));
        let before = at("at_arming");
        counts.extend(at("at_end").into_iter().map(|(name, count)| {
            let earlier = before.get(&name).copied().unwrap_or(0);
            (name, count - earlier)
        }));
    }
    counts
}

/// What happened around lock calls, as the guest counted it. The run is one of [`run_counted`].
pub(crate) fn events(run: &Run) -> BTreeMap<String, u64> {
    counted(run, |export| export.contains("KiLockEventCounters"))
}

/// What the guest calls the `StorPort` routines in its own table.
fn guest_name(routine: &str) -> String {
    match routine.split_once('!').unwrap() {
        ("storport", "StorPortAcquireSpinLock") => "StorPortNotification.AcquireSpinLock",
        ("storport", "StorPortReleaseSpinLock") => "StorPortNotification.ReleaseSpinLock",
        ("storport", "StorPortAcquireMSISpinLock") => "StorPortExtendedFunction.AcquireMSISpinLock",
        ("storport", "StorPortReleaseMSISpinLock") => "StorPortExtendedFunction.ReleaseMSISpinLock",
        ("storport", "StorPortAcquireSpinLockEx") => "StorPortExtendedFunction.AcquireSpinLock",
        (_, name) => name,
    }
    .to_owned()
}

/// The calls by routine, which are exactly those that the guest counted. The run is one of [`run_counted`].
pub(crate) fn assert_counts_agree(run: &Run) -> BTreeMap<String, u64> {
    let report = run.report();
    let guest = counted(run, |export| export.contains("LockCallCounters"));
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for call in report["calls"].as_array().unwrap() {
        *seen.entry(guest_name(call["routine"].as_str().unwrap())).or_default() += call["calls"].as_u64().unwrap();
    }
    for (routine, count) in &seen {
        assert_eq!(guest.get(routine), Some(count), "{routine}: {run}");
    }
    seen
}

/// OVMF uses SSE and x87 instructions, on which a KVM without hardware behind it gives up.
#[allow(clippy::print_stdout, reason = "a test that cannot be run says why")]
pub(crate) fn test_platform_boots_firmware() -> bool {
    let platform = std::env::var("STORLOCK_TEST_PLATFORM").unwrap_or_default();
    let virtualization =
        fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains(" svm") || text.contains(" vmx"));
    let can = platform == "svm" || virtualization;
    if !can {
        println!(
            "not run on this test platform: its KVM has no hardware behind it and gives up on instructions that OVMF uses"
        );
    }
    can
}
