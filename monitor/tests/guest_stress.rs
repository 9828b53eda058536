//! Stress jobs of the built binary on the test guest: what they find, that a kill costs only what is in flight, and that
//! shards together are one job.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use storlock::stress::history::{FILE, History};

/// What every job has: the test guest with a short workload.
const SHORT: &str = "ops=16 threads=2";
const BUG: &str = "nvme-release-on-error-path";

/// The lab emulates every instruction: there one job has to do.
fn is_lab() -> bool {
    let lab = std::env::var("STORLOCK_TEST_PLATFORM").is_ok_and(|platform| platform == "svm");
    if lab {
        eprintln!("NOTE: this test runs many guests, and only natively");
    }
    lab
}

/// A directory with a job.
struct Job {
    directory: tempfile::TempDir,
}

impl Job {
    /// `settings` come before the guest, which has the driver `miniport`.
    fn new(miniport: &str, settings: &str, guest: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let driver = support::images().join("miniports").join(format!("{miniport}.sys"));
        let driver = driver.display();
        let text = format!(
            "{settings}\n[guest]\ndriver = \"{driver}\"\nappend = \"{SHORT}\"\ntime_limit = \"200s\"\n{guest}\n"
        );
        fs::write(directory.path().join("job.toml"), text).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start(&self, output: &str, arguments: &[&str]) -> Child {
        let mut command = storlock(&["stress"]);
        command
            .arg(self.path("job.toml"))
            .arg("-o")
            .arg(self.path(output))
            .args(arguments);
        command.spawn().unwrap()
    }

    fn run(&self, output: &str, arguments: &[&str]) -> Ran {
        let ended = support::finish(self.start(output, arguments));
        Ran {
            directory: self.path(output),
            output: ended,
        }
    }
}

struct Ran {
    directory: PathBuf,
    output: Output,
}

impl Ran {
    fn code(&self) -> i32 {
        self.output.status.code().unwrap_or_else(|| panic!("{self}"))
    }

    fn report(&self) -> Value {
        report(&self.directory)
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = fs::read_to_string(self.directory.join("report.txt")).unwrap_or_default();
        write!(
            f,
            "{}\n{}\n{text}",
            self.output.status,
            String::from_utf8_lossy(&self.output.stderr)
        )
    }
}

fn report(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("report.json")).unwrap()).unwrap()
}

fn storlock(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_storlock"));
    command
        .args(arguments)
        .env("STORLOCK_IMAGES", support::images())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Processes of runs whose files are below `directory`.
fn runs(directory: &Path) -> Vec<u32> {
    let mark = directory.join("work").display().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_run = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&mark)
    };
    numbers.filter(is_run).collect()
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([name, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < support::LIMIT, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Iterations that count in the last night.
fn counted(directory: &Path) -> BTreeSet<(u64, u32)> {
    let Ok(history) = History::open_existing(&directory.join(FILE)) else {
        return BTreeSet::new();
    };
    let name = fs::read_to_string(directory.join("job")).unwrap();
    let name = name.trim().rsplit(' ').next().unwrap();
    match history.last_night(name).unwrap() {
        Some(night) => history.done(night.id).unwrap().into_iter().collect(),
        None => BTreeSet::new(),
    }
}

fn finding<'a>(report: &'a Value, kind: &str) -> &'a Value {
    let findings = report["findings"].as_array().unwrap();
    findings
        .iter()
        .find(|finding| finding["kind"] == kind)
        .unwrap_or_else(|| panic!("no {kind}: {report:#}"))
}

#[test]
fn guest_a_job_finds_a_bug_and_what_it_keeps_shows_it_again() {
    let job = Job::new(BUG, "iterations = 2\nconfirm = 1", "");
    let first = job.run("out", &[]);
    assert_eq!(first.code(), 1, "{first}");
    let report = first.report();
    let found = finding(&report, "violation");
    assert_eq!(
        (&found["status"], &found["seen"]["hits"], &found["seen"]["runs"]),
        (&"new".into(), &2.into(), &2.into())
    );
    assert_eq!(
        (&found["same_case"]["hits"], &found["same_case"]["runs"]),
        (&2.into(), &2.into())
    );
    let coverage = &report["coverage"];
    assert!(
        coverage["reached"].as_u64() > Some(2) && coverage["new"].is_null(),
        "{first}"
    );
    assert_eq!(coverage["growth"][0]["iteration"], 0, "{first}");
    let signature = found["signature"].as_str().unwrap();
    let case = first.directory.join(found["first"]["case"].as_str().unwrap());
    let again = support::finish(storlock(&["replay-case", "--times", "1"]).arg(&case).spawn().unwrap());
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    // What it keeps is a run like any other.
    let plain = storlock(&["run", "--format", "json", "--spec"])
        .arg(case.join("run.json"))
        .arg("--report-dir")
        .arg(job.path("plain"))
        .spawn()
        .unwrap();
    assert_eq!(support::finish(plain).status.code(), Some(1));
    assert_eq!(
        support::violations(&self::report(&job.path("plain")))[0]["signature"]["id"],
        signature
    );
    if is_lab() {
        return;
    }
    // Accepted, it fails no more; another night knows it.
    let known = format!("[[known]]\nsignature = \"{signature}\"\nreason = \"for a test\"\nreference = \"BUG-1\"\n");
    fs::write(job.path("known.toml"), known).unwrap();
    let second = job.run(
        "out",
        &["--baseline", job.path("known.toml").to_str().unwrap(), "--new"],
    );
    assert_eq!(second.code(), 0, "{second}");
    assert_eq!(
        (&second.report()["night"], &second.report()["findings"][0]["status"]),
        (&1.into(), &"known".into())
    );
    let third = job.run("out", &[]);
    assert_eq!(third.report()["findings"][0]["status"], "open", "{third}");
    assert_covered_over_nights(&job, &third);
    // A night that is done is not done again.
    let done = job.run("out", &["--night", "2"]);
    assert_eq!((done.code(), done.report()), (1, third.report()));
}

/// The last of three nights says that others came before, and the history has the sites of each and of all.
fn assert_covered_over_nights(job: &Job, third: &Ran) {
    assert!(
        third.report()["coverage"]["new"].is_u64(),
        "nights with this driver came before: {third}"
    );
    let mut history = storlock(&["history"]);
    let told = support::finish(history.arg(job.path("out")).stdout(Stdio::piped()).spawn().unwrap());
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let sites = third.report()["coverage"]["sites"].to_string();
    assert_eq!(
        told.matches(&format!(" of {sites} lock call sites reached")).count(),
        4,
        "{told}"
    );
}

#[test]
fn guest_a_killed_job_goes_on_where_it_was_and_its_runs_end_with_it() {
    if is_lab() {
        return;
    }
    let job = Job::new(
        BUG,
        "iterations = 5\nconfirm = 0\njobs = 2\nplan = [{ mode = \"random\" }]",
        "",
    );
    let mut killed = job.start("out", &[]);
    let out = job.path("out");
    wait_until("no iteration counts", || {
        counted(&out).len() >= 2 && runs(&out).len() == 2
    });
    killed.kill().unwrap();
    killed.wait().unwrap();
    wait_until("the runs of a killed job go on", || runs(&out).is_empty());
    let before = counted(&out);
    let rest = job.run("out", &[]);
    assert_eq!(rest.code(), 1, "{rest}");
    let said = String::from_utf8_lossy(&rest.output.stderr).into_owned();
    assert!(said.contains("goes on with night 0"), "{said}");
    let after = counted(&out);
    assert_eq!(after, (0..5).map(|iteration| (iteration, 0)).collect());
    assert!(before.len() < 5 && after.is_superset(&before));
    assert!(fs::read_dir(out.join("work")).unwrap().next().is_none());
    History::open_existing(&out.join(FILE)).unwrap().check().unwrap();
}

#[test]
fn guest_a_database_is_intact_whenever_its_job_is_killed() {
    if is_lab() {
        return;
    }
    // A run that is over at once: it hangs, as far as its limit tells.
    let settings = "iterations = 100000\nconfirm = 0\njobs = 2\nkeep = 1";
    let job = Job::new("nvme-ok", settings, "");
    let text = fs::read_to_string(job.path("job.toml"))
        .unwrap()
        .replace("200s", "30ms");
    fs::write(job.path("job.toml"), text).unwrap();
    let out = job.path("out");
    let mut counts = BTreeSet::new();
    for kill in 0..60u64 {
        if kill >= 12 && counts.len() > 3 {
            break;
        }
        let mut child = job.start("out", &[]);
        thread::sleep(Duration::from_millis(150 + kill * 373 % 2900));
        child.kill().unwrap();
        child.wait().unwrap();
        if out.join("job").exists() && out.join(FILE).exists() {
            History::open_existing(&out.join(FILE)).unwrap().check().unwrap();
        }
        let now = counted(&out);
        assert!(now.is_superset(&counts), "a kill took what counted: {counts:?} {now:?}");
        counts = now;
    }
    assert!(counts.len() > 3, "{counts:?}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "one job, of which each step needs those before it")]
fn guest_two_shards_merged_are_one_job() {
    if is_lab() {
        return;
    }
    let settings = "iterations = 6\nconfirm = 0\nname = \"both\"\nplan = [{ faults = [] }, { mode = \"systematic\", occurrences = 1, \
                    what = [\"read\"], kinds = [\"fail\", \"stray\", \"duplicate\"] }]";
    let job = Job::new(BUG, settings, "");
    let whole = job.run("whole", &[]);
    let mut parts = Vec::new();
    for (index, name) in [("1", "one"), ("2", "two")] {
        let mut command = storlock(&["stress"]);
        command.arg(job.path("job.toml")).arg("-o").arg(job.path(name));
        let child = command
            .env("CI_NODE_INDEX", index)
            .env("CI_NODE_TOTAL", "2")
            .spawn()
            .unwrap();
        let ended = support::finish(child);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(said.contains(&format!("shard {index}/2, by CI_NODE_INDEX")), "{said}");
        parts.push(job.path(name));
    }
    let merged = storlock(&["merge"])
        .args(&parts)
        .arg("-o")
        .arg(job.path("merged"))
        .spawn()
        .unwrap();
    let merged = Ran {
        output: support::finish(merged),
        directory: job.path("merged"),
    };
    assert_eq!((merged.code(), whole.code()), (1, 1), "{merged}");
    let without_times = |directory: &Path, name: &str| {
        let text = fs::read_to_string(directory.join(name)).unwrap();
        if name == "report.json" {
            let mut report: Value = serde_json::from_str(&text).unwrap();
            report.as_object_mut().unwrap().remove("execution").unwrap();
            // Which run reaches a site first may differ from time to time; that merging loses nothing is tried without guests.
            report["coverage"] = report["coverage"]["sites"].clone();
            return serde_json::to_string_pretty(&report).unwrap();
        }
        text.lines()
            .filter(|line| {
                !line.starts_with("execution ") && !line.starts_with("coverage ") && !line.contains(" not reached: ")
            })
            .collect::<Vec<_>>()
            .join("\n")
    };
    for name in ["report.json", "report.txt", "junit.xml"] {
        assert_eq!(
            without_times(&merged.directory, name),
            without_times(&whole.directory, name),
            "{name}"
        );
    }
    let cases = |directory: &Path| -> BTreeSet<_> {
        fs::read_dir(directory.join("cases"))
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .collect()
    };
    assert_eq!(cases(&merged.directory), cases(&whole.directory));
    // One part alone is not the job, and says so.
    let half = storlock(&["merge"])
        .arg(&parts[0])
        .arg("-o")
        .arg(job.path("half"))
        .spawn()
        .unwrap();
    support::finish(half);
    assert_eq!(report(&job.path("half"))["missing_shards"], serde_json::json!(["2/2"]));
}

#[test]
fn guest_a_run_that_is_killed_costs_one_iteration_and_is_a_finding() {
    if is_lab() {
        return;
    }
    let job = Job::new("nvme-ok", "iterations = 2\njobs = 1", "");
    let child = job.start("out", &[]);
    let out = job.path("out");
    wait_until("no run begins", || !runs(&out).is_empty());
    signal(runs(&out)[0], "-KILL");
    let ran = Ran {
        output: support::finish(child),
        directory: out,
    };
    assert_eq!(ran.code(), 5, "{ran}");
    let report = ran.report();
    let found = finding(&report, "host");
    assert_eq!(
        (&found["title"], &found["seen"]["hits"]),
        (&"the process was killed by signal 9".into(), &1.into())
    );
    assert_eq!(
        (&report["iterations"]["completed"], &report["iterations"]["host_failed"]),
        (&1.into(), &1.into())
    );
}

#[test]
fn guest_a_signal_ends_a_job_with_a_partial_report() {
    if is_lab() {
        return;
    }
    let job = Job::new("nvme-ok", "iterations = 1000\njobs = 1", "");
    let child = job.start("out", &[]);
    let out = job.path("out");
    wait_until("no iteration counts", || {
        !counted(&out).is_empty() && !runs(&out).is_empty()
    });
    signal(child.id(), "-TERM");
    let ran = Ran {
        output: support::finish(child),
        directory: out.clone(),
    };
    assert_eq!(ran.code(), 130, "{ran}");
    let report = ran.report();
    assert_eq!(report["complete"], false);
    assert_eq!(report["iterations"]["total"], counted(&out).len());
    assert!(runs(&out).is_empty());
}

#[test]
fn a_job_that_makes_no_sense_is_refused_and_leaves_nothing() {
    let job = Job::new("nvme-ok", "iteration = 2", "");
    let refused = job.run("out", &[]);
    let said = String::from_utf8_lossy(&refused.output.stderr).into_owned();
    assert_eq!(refused.code(), 2, "{said}");
    assert!(
        said.contains("line 1") && said.contains("unknown field `iteration`"),
        "{said}"
    );
    assert!(!refused.directory.exists());
}
