//! The job's loop: starts runs, stores their results, and ends at a limit, a signal or a finding.
//!
//! Talks to the children, the history and the output directory. All of it is on one thread, which is the parent of all
//! children.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::output::OutputDirectory;
use super::schedule::Schedule;
use super::{Begun, Child, Digests, Outcome, RunnerError, io, now, write_case};
use crate::notices::Notices;
use crate::stress::case::{Case, SCHEMA};
use crate::stress::history::{History, HistoryError, ShardState};
use crate::stress::planning::{Choice, Chosen, Job, Shard};
use crate::stress::triage::finding::FindingKind;
use crate::stress::triage::report::{case_directory, fault_options};
use crate::stress::triage::{Baseline, Date, Finding, JobReport, Row, Verdict, Weight, render, triage};

/// After so many runs at the start that the host failed, and none that it did not, nothing more is tried.
const MOST_FAILURES: u32 = 5;
/// How often the job says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// New findings that are run again to see whether they come again.
const MOST_CONFIRMED: usize = 20;

/// Why a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its time was over.
    Duration,
    /// There was nothing left to do.
    Exhausted,
    /// It stops at the first finding that is new.
    FirstNew,
    /// The user ended it.
    Interrupted,
    /// No run can be carried out here.
    HostFails(String),
    /// The history can grow no more.
    Full,
}

impl Ending {
    fn text(&self) -> String {
        match self {
            Self::Duration => "its time was over".to_owned(),
            Self::Exhausted => "there was nothing left to do".to_owned(),
            Self::FirstNew => "it stopped at the first new finding".to_owned(),
            Self::Interrupted => "interrupted".to_owned(),
            Self::HostFails(reason) => format!("the first {MOST_FAILURES} runs failed: {reason}"),
            Self::Full => "the output has reached its limit".to_owned(),
        }
    }

    fn state(&self) -> ShardState {
        match self {
            Self::Duration | Self::Exhausted | Self::FirstNew | Self::Full => ShardState::Complete,
            Self::Interrupted | Self::HostFails(_) => ShardState::Interrupted,
        }
    }
}

/// A job at work.
#[derive(Debug)]
pub(crate) struct Supervisor {
    /// The job.
    pub job: Job,
    /// Its files.
    pub(crate) digests: Digests,
    /// Known findings.
    pub baseline: Baseline,
    /// The database.
    pub history: History,
    /// Whether that is in the output directory, and counts for its size.
    pub(crate) history_inside: bool,
    /// The output directory.
    pub output: OutputDirectory,
    /// The night and this machine's share of it.
    pub begun: Begun,
    /// This machine's share.
    pub shard: Shard,
    /// Child processes at a time.
    pub jobs: u32,
    /// Takes lines for the user.
    pub notices: Arc<dyn Notices>,
}

/// A run that is carried out or is to be.
#[derive(Debug, Clone)]
struct Task {
    iteration: u64,
    attempt: u32,
    chosen: Chosen,
}

/// A run that has ended.
struct Done {
    task: Task,
    directory: PathBuf,
    outcome: std::io::Result<Outcome>,
}

/// What has happened since this process began.
struct Progress {
    began: Instant,
    /// Milliseconds of running before that.
    before_ms: u64,
    runs: u64,
    failures: u32,
    told: Instant,
}

impl Progress {
    fn active_ms(&self) -> u64 {
        self.before_ms + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Supervisor {
    /// Carries out the job until it ends, or `stop` does; gives why.
    ///
    /// # Errors
    /// [`RunnerError`]. What was written before stays.
    pub(crate) async fn run(&mut self, stop: impl Future<Output = ()>) -> Result<Ending, RunnerError> {
        let mut stop = std::pin::pin!(stop);
        let done = self.check(History::done)?;
        let tried = self.check(|history, _| history.tried(&self.job.name, &self.digests.setup))?;
        // A kill may have left a case whose run does not count.
        self.keep_only_wanted()?;
        let first: HashSet<u64> = done
            .iter()
            .filter(|(_, attempt)| *attempt == 0)
            .map(|(iteration, _)| *iteration)
            .collect();
        let mut progress = Progress {
            began: Instant::now(),
            before_ms: self.begun.shard.active_ms,
            runs: 0,
            failures: 0,
            told: Instant::now(),
        };
        let job = self.job.clone();
        let schedule = Schedule::new(&job, self.begun.night.number, self.shard, first, tried);
        let tasks = schedule.map(|(iteration, chosen)| Task {
            iteration,
            attempt: 0,
            chosen,
        });
        let deadline = job.duration.map(|duration| {
            let left = duration.saturating_sub(Duration::from_millis(progress.before_ms));
            progress.began + left
        });
        let mut ending = self.carry_out(tasks, deadline, &mut stop, &mut progress).await?;
        if matches!(ending, Ending::Duration | Ending::Exhausted | Ending::FirstNew) {
            let again = self.confirmations(&done)?;
            if self
                .carry_out(again.into_iter(), None, &mut stop, &mut progress)
                .await?
                == Ending::Interrupted
            {
                ending = Ending::Interrupted;
            }
        }
        self.begun.shard.state = ending.state();
        self.begun.shard.ended = ending.text();
        self.save_shard(&progress)?;
        Ok(ending)
    }

    /// Carries out tasks, several at a time.
    async fn carry_out(
        &mut self,
        mut tasks: impl Iterator<Item = Task>,
        deadline: Option<Instant>,
        stop: &mut (impl Future<Output = ()> + Unpin),
        progress: &mut Progress,
    ) -> Result<Ending, RunnerError> {
        let (cancel, cancelled) = watch::channel(false);
        let mut running = JoinSet::new();
        let mut ending = None;
        loop {
            while ending.is_none() && running.len() < self.jobs as usize {
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    ending = Some(Ending::Duration);
                } else if let Some(task) = tasks.next() {
                    self.start(task, &mut running, &cancelled)?;
                } else {
                    ending = Some(Ending::Exhausted);
                }
            }
            if running.is_empty() {
                return Ok(ending.unwrap_or(Ending::Exhausted));
            }
            let joined = tokio::select! {
                joined = running.join_next() => joined,
                () = &mut *stop, if ending != Some(Ending::Interrupted) => {
                    let text = "which will not count; once more ends at once";
                    self.notices.say(&format!("interrupted: ending {} runs, {text}", running.len()));
                    // Nobody is left to be told if all have ended.
                    let _ = cancel.send(true);
                    ending = Some(Ending::Interrupted);
                    continue;
                }
                () = tokio::time::sleep(TELL_EVERY.saturating_sub(progress.told.elapsed())) => {
                    self.tell_progress(progress, running.len());
                    continue;
                }
            };
            if let Some(joined) = joined {
                let done =
                    joined.map_err(|error| RunnerError::Other(format!("a task of the job panicked: {error}")))?;
                let why = self.finish(done, progress)?;
                ending = ending.or(why);
            }
        }
    }

    fn start(
        &self,
        task: Task,
        running: &mut JoinSet<Done>,
        cancelled: &watch::Receiver<bool>,
    ) -> Result<(), RunnerError> {
        let directory = self.output.begin(task.iteration, task.attempt)?;
        let child = Child {
            run: self.job.describe(&task.chosen),
            directory: directory.clone(),
            serial: self.job.serial.clone(),
        };
        let cancelled = cancelled.clone();
        running.spawn(async move {
            Done {
                outcome: child.run(cancelled).await,
                task,
                directory,
            }
        });
        Ok(())
    }

    /// Writes what a run came to; says whether the job is to end for it.
    fn finish(&mut self, done: Done, progress: &mut Progress) -> Result<Option<Ending>, RunnerError> {
        let Done {
            task,
            directory,
            outcome,
        } = done;
        let (verdict, reason, findings, coverage, timing) = match outcome.map_err(io("a run cannot be started"))? {
            Outcome::Result {
                verdict,
                reason,
                findings,
                coverage,
                timing,
            } => (verdict, reason, findings, coverage, timing),
            Outcome::Impossible(text) => return Err(RunnerError::Usage(text)),
            Outcome::Cancelled => {
                OutputDirectory::discard(&directory);
                return Ok(None);
            }
        };
        progress.runs += 1;
        if verdict != Verdict::HostFailed {
            progress.failures = 0;
        } else if u64::from(progress.failures) + 1 == progress.runs {
            progress.failures += 1;
            if progress.failures == MOST_FAILURES {
                return Ok(Some(Ending::HostFails(reason.unwrap_or_default())));
            }
        }
        let row = row(&task, verdict, reason, &findings);
        let new = self.tell_findings(&row, &findings)?;
        self.begun.shard.active_ms = progress.active_ms();
        self.begun.shard.ended_at = now();
        let kept = self.keep(&directory, &task, &findings)?;
        let night = self.begun.night.id;
        let coverage = coverage.of_run(task.iteration, task.attempt);
        let shard = &self.begun.shard;
        match self.history.record(night, &row, &findings, &coverage, timing, shard) {
            Err(error) if error.is_full() => return Ok(Some(Ending::Full)),
            written => written.map_err(|error| self.failed(error))?,
        }
        if kept {
            self.keep_only_wanted()?;
        }
        OutputDirectory::discard(&directory);
        Ok((new && self.job.stop_at_first_new && row.attempt == 0).then_some(Ending::FirstNew))
    }

    /// Says what is new, and whether something is.
    fn tell_findings(&self, row: &Row, findings: &[Finding]) -> Result<bool, RunnerError> {
        let mut new = false;
        for finding in findings.iter().filter(|finding| finding.weight == Weight::Failure) {
            let (job, night) = (&self.job.name, self.begun.night.number);
            let signature = &finding.signature;
            let known = self.baseline.get(signature).is_some();
            let before = self.check(|history, _| history.seen_before(job, night, signature))?;
            let tonight = self.check(|history, _| history.first_runs(job, signature, 1))?;
            if !known && !before {
                new = true;
                if tonight.is_empty() {
                    let faults = fault_options(&row.faults);
                    self.notices.say(&format!(
                        "new: {signature} {} (iteration {}, --seed {} --cpus {}{faults})",
                        finding.title, row.iteration, row.seed, row.cpus
                    ));
                }
            }
        }
        Ok(new)
    }

    /// Keeps a run's files if it is among the first that show one of its findings.
    fn keep(&mut self, directory: &Path, task: &Task, findings: &[Finding]) -> Result<bool, RunnerError> {
        let mut wanted = false;
        let number = self.begun.night.number;
        let me = (task.attempt > 0, number, task.iteration, task.attempt);
        for finding in findings {
            let (job, most) = (&self.job.name, self.job.keep);
            let first = self.check(|history, _| history.first_runs(job, &finding.signature, most))?;
            wanted |= (first.len() as u64) < u64::from(most)
                || first
                    .last()
                    .is_some_and(|&(night, iteration, attempt)| me < (attempt > 0, night, iteration, attempt));
        }
        if !wanted || self.job.keep == 0 {
            return Ok(false);
        }
        let case = Case {
            schema: SCHEMA.to_owned(),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            job: self.job.name.clone(),
            night: number,
            iteration: task.iteration,
            attempt: task.attempt,
            plan: task.chosen.plan.clone(),
            run: self.job.describe(&task.chosen),
            files: self.digests.files.clone(),
            findings: findings.to_vec(),
            serial: self.job.serial.clone(),
        };
        write_case(directory, &case)?;
        let name = case_directory(number, task.iteration, task.attempt);
        self.output.keep(directory, &name, self.history_size())
    }

    /// Bytes of the database, if they count.
    fn history_size(&self) -> u64 {
        if !self.history_inside {
            return 0;
        }
        std::fs::metadata(self.history.path()).map_or(0, |found| found.len())
    }

    /// Removes cases that others have taken the place of.
    fn keep_only_wanted(&mut self) -> Result<(), RunnerError> {
        let (job, most) = (self.job.name.clone(), self.job.keep);
        let wanted = self.check(|history, _| history.kept_cases(&job, most))?;
        self.output.keep_only(&wanted);
        Ok(())
    }

    /// The first case of each finding that is not known is run again, as often as the job says.
    fn confirmations(&self, done: &HashSet<(u64, u32)>) -> Result<VecDeque<Task>, RunnerError> {
        let report = self.report(false)?;
        let mut tasks: VecDeque<Task> = VecDeque::new();
        let failing = report.findings.iter().filter(|finding| {
            finding.weight == Weight::Failure && finding.accepted.is_none() && finding.kind != FindingKind::Host
        });
        let mut cases: Vec<u64> = failing.map(|finding| finding.first.iteration).collect();
        cases.sort_unstable();
        cases.dedup();
        for iteration in cases
            .into_iter()
            .filter(|&iteration| self.shard.has(iteration))
            .take(MOST_CONFIRMED)
        {
            let Choice::Run(chosen) = self.job.choice(self.begun.night.number, iteration) else {
                continue;
            };
            let attempts = (1..=self.job.confirm).filter(|&attempt| !done.contains(&(iteration, attempt)));
            tasks.extend(attempts.map(|attempt| Task {
                iteration,
                attempt,
                chosen: chosen.clone(),
            }));
        }
        Ok(tasks)
    }

    fn tell_progress(&self, progress: &mut Progress, running: usize) {
        progress.told = Instant::now();
        let minutes = progress.began.elapsed().as_secs() / 60;
        self.notices
            .say(&format!("{} runs in {minutes} min, {running} at work", progress.runs));
    }

    fn save_shard(&mut self, progress: &Progress) -> Result<(), RunnerError> {
        self.begun.shard.active_ms = progress.active_ms();
        self.begun.shard.ended_at = now();
        let shard = self.begun.shard.clone();
        match self.history.set_shard(self.begun.night.id, &shard) {
            // What was written before says enough.
            Err(error) if error.is_full() => Ok(()),
            written => written.map_err(|error| self.failed(error)),
        }
    }

    /// The report of the night as far as it is.
    ///
    /// # Errors
    /// [`RunnerError`]
    pub(crate) fn report(&self, interrupted: bool) -> Result<JobReport, RunnerError> {
        let mut night = self
            .history
            .load(&self.job.name, &self.begun.night)
            .map_err(|error| self.failed(error))?;
        night.own_shard = Some(self.shard.to_string());
        Ok(triage(&night, &self.baseline, Date::of(now()), interrupted))
    }

    /// Puts a report into the output directory, in all formats.
    ///
    /// # Errors
    /// [`RunnerError`]
    pub(crate) fn write(&self, report: &JobReport) -> Result<(), RunnerError> {
        write_reports(&self.output, report)
    }

    fn check<T>(&self, ask: impl FnOnce(&History, i64) -> Result<T, HistoryError>) -> Result<T, RunnerError> {
        ask(&self.history, self.begun.night.id).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: HistoryError) -> RunnerError {
        RunnerError::History(self.history.path().display().to_string(), error)
    }
}

/// Puts a report into an output directory, in all formats.
///
/// # Errors
/// [`RunnerError`]
pub(crate) fn write_reports(output: &OutputDirectory, report: &JobReport) -> Result<(), RunnerError> {
    let json = render::json(report).map_err(io("report.json"))?;
    let junit = render::junit::render(report).map_err(|error| RunnerError::Other(format!("junit.xml: {error}")))?;
    output.write("report.txt", render::text::render(report).as_bytes())?;
    output.write("report.json", json.as_bytes())?;
    output.write("junit.xml", junit.as_bytes())
}

fn row(task: &Task, verdict: Verdict, reason: Option<String>, findings: &[Finding]) -> Row {
    let mut signatures: Vec<String> = findings.iter().map(|finding| finding.signature.clone()).collect();
    signatures.sort();
    Row {
        iteration: task.iteration,
        attempt: task.attempt,
        plan: task.chosen.plan.clone(),
        point: task.chosen.point.clone(),
        seed: task.chosen.seed,
        cpus: task.chosen.cpus,
        faults: task.chosen.faults.clone(),
        verdict,
        reason,
        findings: signatures,
    }
}
