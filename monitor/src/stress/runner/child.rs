//! Runs one run as a process of its own: starts it, waits for it, and reads its report.
//!
//! Talks to the operating system. A child can spoil only its own result: if it ends by a signal, hangs or leaves no
//! report, that is a finding. However the parent ends, its children end too.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::process::Command;
use tokio::sync::watch;

use super::now;
use crate::outcome::Condition;
use crate::report::Report;
use crate::run::spec::RunSpec;
use crate::stress::case::RUN_FILE;
use crate::stress::history::Timing;
use crate::stress::planning::SerialFinding;
use crate::stress::triage::{Finding, SiteCoverage, Verdict, findings, verdict};

/// Tells a child the process with which it ends.
pub(crate) const PARENT_VARIABLE: &str = "STORLOCK_PARENT";
/// This program, also if its file has been replaced since it was started.
const PROGRAM: &str = "/proc/self/exe";
/// Names of files in a run's directory.
const REPORT: &str = "report.json";
const SERIAL: &str = "serial.log";
const STDERR: &str = "stderr.log";
/// Largest report that is read, and most of the serial log and of standard error.
const REPORT_LIMIT: u64 = 64 << 20;
const LOG_LIMIT: u64 = 16 << 20;
/// How long after its time limit a run may take to end by itself.
const GRACE: Duration = Duration::from_secs(60);
/// How much later than its children the job may get a signal that is meant for all.
const HEARSAY: Duration = Duration::from_secs(1);
/// How long a child may take to end after it was asked to.
const LAST_GRACE: Duration = Duration::from_secs(5);

/// A run to be carried out.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    /// The run.
    pub run: RunSpec,
    /// Its directory, where report and logs go.
    pub directory: PathBuf,
    /// Findings by what the guest says.
    pub serial: Vec<SerialFinding>,
}

/// What a run came to.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// It counts.
    Result {
        /// What it came to.
        verdict: Verdict,
        /// Why it was inconclusive, or how the host failed.
        reason: Option<String>,
        /// What was found.
        findings: Vec<Finding>,
        /// Which lock call sites it has reached.
        coverage: SiteCoverage,
        /// When it was.
        timing: Timing,
    },
    /// The command line that was put together asks for something impossible: so would every other run.
    Impossible(String),
    /// It was cancelled.
    Cancelled,
}

/// Has this process end with the one that started it, if that one asked for it.
pub(crate) fn end_with_parent() {
    let Some(parent) = std::env::var(PARENT_VARIABLE).ok().and_then(|text| text.parse().ok()) else {
        return;
    };
    // SIGKILL is one that there is, and the call takes nothing else.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let now = getppid().map(|pid| pid.as_raw_nonzero().get());
    // A child of this process has the variable, too, and another parent: it is not meant. One whose parent ended before
    // the call has been given to process 1 or a reaper, and its own variable names nobody.
    if now != Some(parent) && Pid::from_raw(parent).is_none_or(|pid| rustix::process::test_kill_process(pid).is_err()) {
        std::process::exit(i32::from(Condition::Interrupted.exit_code()));
    }
}

impl Child {
    /// Runs it to its end.
    ///
    /// # Errors
    /// If no process can be started.
    pub(crate) async fn run(&self, mut cancel: watch::Receiver<bool>) -> std::io::Result<Outcome> {
        let (began, started_at) = (Instant::now(), now());
        let mut child = self.command()?.spawn()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let limit = self
            .run
            .time_limit
            .0
            .saturating_add(self.run.grace_or_usual().map_or(Duration::ZERO, |grace| grace.0))
            .saturating_add(GRACE);
        let mut cancelled = std::pin::pin!(async {
            // If the sender is gone, nobody can cancel: that is no reason to end.
            if cancel.wait_for(|&cancel| cancel).await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        let ended = tokio::select! {
            status = child.wait() => Some(status?),
            () = tokio::time::sleep(limit) => None,
            () = &mut cancelled => {
                end(&mut child, pid).await?;
                return Ok(Outcome::Cancelled);
            }
        };
        match ended {
            None => end(&mut child, pid).await?,
            // A signal that ends the job may also reach its children: the job is about to get it.
            Some(status) if status.code() == Some(i32::from(Condition::Interrupted.exit_code())) => {
                if tokio::time::timeout(HEARSAY, &mut cancelled).await.is_ok() {
                    return Ok(Outcome::Cancelled);
                }
            }
            Some(_) => {}
        }
        let timing = Timing {
            started_at,
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        Ok(self.result(ended, timing))
    }

    fn command(&self) -> std::io::Result<Command> {
        let spec = self.directory.join(RUN_FILE);
        std::fs::write(&spec, self.run.to_json().map_err(std::io::Error::other)?)?;
        let mut command = Command::new(PROGRAM);
        command
            .args(["run", "--format", "json", "--spec"])
            .arg(spec)
            .arg("--report-dir")
            .arg(&self.directory)
            .env(PARENT_VARIABLE, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.directory.join(STDERR))?)
            // A Ctrl-C at the terminal is for the job, which tells its children.
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }

    /// What a run came to that ended with `status`, or hung.
    fn result(&self, status: Option<ExitStatus>, timing: Timing) -> Outcome {
        let failed = |class: &str, reason: String| Outcome::Result {
            verdict: Verdict::HostFailed,
            reason: Some(reason),
            findings: vec![Finding::host(class)],
            coverage: SiteCoverage::default(),
            timing,
        };
        let said = last_line(&self.directory.join(STDERR));
        let Some(status) = status else {
            return failed("the process hung and was killed", said);
        };
        if let Some(signal) = status.signal() {
            return failed(&format!("the process was killed by signal {signal}"), said);
        }
        let code = status.code().unwrap_or(-1);
        if code == i32::from(Condition::Usage.exit_code()) {
            let text = read(&self.directory.join(STDERR), LOG_LIMIT).unwrap_or_default();
            return Outcome::Impossible(String::from_utf8_lossy(&text).trim().to_owned());
        }
        let report = read(&self.directory.join(REPORT), REPORT_LIMIT);
        let report = report
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Report>(&bytes).ok());
        let Some(report) = report else {
            return failed(&format!("the process left no report and exit code {code}"), said);
        };
        if code == i32::from(Condition::Interrupted.exit_code()) {
            return failed("the process was interrupted by somebody else", said);
        }
        let serial = read(&self.directory.join(SERIAL), LOG_LIMIT).unwrap_or_default();
        let mut found = findings(&report, &String::from_utf8_lossy(&serial), &self.serial);
        if code != i32::from(report.exit_code) {
            found.push(Finding::host(&format!(
                "the process ended with exit code {code}, which its report does not say"
            )));
        }
        let verdict = verdict(&report, &found);
        let why = matches!(verdict, Verdict::Inconclusive | Verdict::HostFailed);
        let reason = report
            .conditions
            .first()
            .filter(|_| why)
            .map(|note| note.reason.to_string());
        Outcome::Result {
            verdict,
            reason,
            findings: found,
            coverage: SiteCoverage::of(&report),
            timing,
        }
    }
}

/// Has a child end, which has a little time for it.
async fn end(child: &mut tokio::process::Child, pid: Option<Pid>) -> std::io::Result<()> {
    if let Some(pid) = pid {
        // Not waited for yet: the number is still its own.
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(LAST_GRACE, child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(())
}

fn read(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last line of a log, for a person who wants to know why.
fn last_line(path: &Path) -> String {
    let bytes = read(path, LOG_LIMIT).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let line = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing");
    line.chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(directory: &Path) -> Child {
        Child {
            run: RunSpec::default(),
            directory: directory.to_owned(),
            serial: Vec::new(),
        }
    }

    #[track_caller]
    fn failed(outcome: Outcome, class: &str, said: &str) {
        match outcome {
            Outcome::Result {
                verdict: Verdict::HostFailed,
                reason,
                findings,
                ..
            } => assert_eq!((findings[0].class.as_str(), reason.as_deref()), (class, Some(said))),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_way_to_end_without_a_report_is_a_finding() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(STDERR), "one\nout of luck\n\n").unwrap();
        let child = child(directory.path());
        let with = |status| child.result(status, Timing::default());
        failed(with(None), "the process hung and was killed", "out of luck");
        failed(
            with(Some(ExitStatus::from_raw(9))),
            "the process was killed by signal 9",
            "out of luck",
        );
        failed(
            with(Some(ExitStatus::from_raw(101 << 8))),
            "the process left no report and exit code 101",
            "out of luck",
        );
        std::fs::write(directory.path().join(REPORT), "{\"schema\": ").unwrap();
        failed(
            with(Some(ExitStatus::from_raw(0))),
            "the process left no report and exit code 0",
            "out of luck",
        );
        assert!(
            matches!(with(Some(ExitStatus::from_raw(2 << 8))), Outcome::Impossible(text) if text.starts_with("one"))
        );
    }
}
