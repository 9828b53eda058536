//! `storlock stress`: makes many runs of one driver and reports on all of them.
//!
//! Talks to the job's parts in the library, and to the terminal. It must not know what a run does.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use toml::Spanned;

use super::diagnostics::{self, StandardError, tell};
use super::interrupt::Signals;
use super::options::ListFormat;
use super::options::Switch;
use super::output;
use crate::outcome::Condition;
use crate::run::spec::{DiskPlace, FilePath, Firmware, Limit, RunSpec};
use crate::run::{Failure, Lines, input};
use crate::stress::history::{self, History};
use crate::stress::planning::settings::{OneOrMany, PlanSettings};
use crate::stress::planning::{Job, JobFile, Profile, Shard, shard};
use crate::stress::runner::{
    Begun, Capacity, Ending, OutputDirectory, RunnerError, Supervisor, Wish, begin, digests, host_name,
};
use crate::stress::triage::{Baseline, JobReport, render};

/// Output directory if neither the job nor the command line says which.
const OUTPUT: &str = "storlock-stress";
/// Largest job or baseline, in bytes.
const TEXT_LIMIT: u64 = 4 << 20;
/// How long what was said may take at a signal that waits for nothing.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Options of `storlock stress`. What they say comes before what the job says.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The job (TOML); docs/nightly.md has its keys
    #[arg(value_name = "JOB.toml")]
    pub job: Option<PathBuf>,
    /// Driver under test
    #[arg(long, value_name = "FILE|NAME")]
    pub driver: Option<PathBuf>,
    /// Command line of the guest's kernel
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Numbers of virtual processors to choose from
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',')]
    pub cpus: Vec<u32>,
    /// Time limit of each run, as for `storlock run`
    #[arg(long, value_name = "DURATION")]
    pub time_limit: Option<Limit>,
    /// A fault for every run, as for `storlock run`, instead of the job's plans; may be given several times
    #[arg(long, value_name = "SPEC")]
    pub fault: Vec<String>,
    /// Use these seeds, the same ones every night
    #[arg(long, value_name = "FIRST-LAST", value_parser = seeds, conflicts_with = "seed_base")]
    pub seeds: Option<(u64, u64)>,
    /// Choose other seeds every night, by this number and the number of the night [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) seed_base: Option<u64>,
    /// Begin no run after this time [default: by the profile]
    #[arg(long, value_name = "DURATION")]
    pub(crate) duration: Option<Limit>,
    /// Number of runs, over all shards [default: as many as fit into the duration, or all of --seeds]
    #[arg(long, value_name = "N")]
    pub iterations: Option<u64>,
    /// Number of runs at a time [default: as many as this machine's processors and memory allow]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub jobs: Option<u32>,
    /// Do only this share of the job: INDEX/TOTAL, counted from 1, or hash:INDEX/TOTAL [default: what the environment
    /// variables of Kubernetes, Slurm, GitLab, Buildkite, CircleCI, Azure Pipelines, Bitbucket or Semaphore say; else
    /// all]
    #[arg(long, value_name = "SHARD")]
    pub shard: Option<Shard>,
    /// Defaults of the job for one purpose [default: nightly]
    #[arg(long, value_enum)]
    pub profile: Option<Profile>,
    /// Stop at the first finding that is new [default: by the profile]
    #[arg(long, value_enum, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    pub(crate) stop_at_first_new: Option<Switch>,
    /// Output directory, which belongs to this job alone [default: storlock-stress]
    #[arg(long, short, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Findings that are known and accepted (TOML)
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Database of all nights [default: history.sqlite in the output directory]
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Number of the night [default: that of the last night if it is not finished, else the next]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..1 << 62))]
    pub night: Option<u64>,
    /// Begin a new night even if the last one is not finished
    #[arg(long, conflicts_with = "night")]
    pub new: bool,
    /// How the report is printed on standard output
    #[arg(long, value_enum, default_value_t = ListFormat::Text)]
    pub format: ListFormat,
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let form = || format!("`{text}` is not of the form FIRST-LAST, such as 1-200");
    let (first, last) = text.split_once('-').ok_or_else(form)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| form());
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(form());
    }
    Ok((first, last))
}

/// Carries out the job and reports.
///
/// # Errors
/// [`Failure`] if it cannot be begun, or not gone on with.
pub fn execute(arguments: &Arguments) -> Result<u8, Failure> {
    let job = read_job(arguments)?;
    let shard = which_shard(arguments)?;
    let mut supervisor = prepare(arguments, job, shard)?;
    let report = if supervisor.begun.complete {
        tell!(
            "night {} is done already: its report follows; --new begins another",
            supervisor.begun.night.number
        );
        supervisor.report(false).map_err(failure)?
    } else {
        run(&mut supervisor)?
    };
    supervisor.write(&report).map_err(failure)?;
    print(&report, arguments.format)?;
    Ok(report.exit_code)
}

/// Prints a report.
///
/// # Errors
/// [`Failure`] if standard output fails.
pub(super) fn print(report: &JobReport, format: ListFormat) -> Result<(), Failure> {
    let text = match format {
        ListFormat::Text => render::text::render(report),
        ListFormat::Json => render::json(report).map_err(Failure::infrastructure)?,
    };
    output::print(&text)
}

/// An error of the library, with whose fault it is.
pub(super) fn failure(error: RunnerError) -> Failure {
    match error {
        RunnerError::Usage(text) => Failure::usage(Lines(text)),
        other => Failure::infrastructure(other),
    }
}

fn read_job(arguments: &Arguments) -> Result<Job, Failure> {
    let (mut file, text, directory, name) = match &arguments.job {
        None => {
            let directory = std::env::current_dir().map_err(Failure::infrastructure)?;
            (JobFile::default(), String::new(), directory, None)
        }
        Some(path) => {
            let text = read_text(path, " as the job")?;
            let file = JobFile::parse(&text).map_err(|error| in_file(path, &error))?;
            let absolute = std::path::absolute(path).map_err(Failure::infrastructure)?;
            let directory = absolute.parent().unwrap_or(Path::new("/")).to_owned();
            let mut file = file;
            from_directory(&mut file.guest, &directory);
            (
                file,
                text,
                directory,
                path.file_stem().map(|stem| stem.to_string_lossy().into_owned()),
            )
        }
    };
    overlay(&mut file, arguments).map_err(Failure::infrastructure)?;
    let driver = file.guest.driver.as_ref().and_then(|driver| driver.file_stem());
    let name = name.or_else(|| driver.map(|stem| stem.to_string_lossy().into_owned()));
    let job = Job::new(&file, &text, &directory, name.as_deref().unwrap_or("stress"));
    job.map_err(|error| match &arguments.job {
        Some(path) => in_file(path, &error),
        None => Failure::usage(error),
    })
}

fn in_file(path: &Path, error: &crate::stress::planning::JobError) -> Failure {
    Failure::usage(Lines(format!("{}: {error}", path.display())))
}

/// A small text file.
///
/// # Errors
/// [`Failure`] if it cannot be read.
pub(super) fn read_text(path: &Path, what: &str) -> Result<String, Failure> {
    let bytes = input::read_small(path, what, TEXT_LIMIT).map_err(Failure::usage)?;
    String::from_utf8(bytes).map_err(|_| Failure::usage(anyhow!("{} is not UTF-8", path.display())))
}

/// Has the paths of a guest begin in the directory of its job: a run is started anywhere.
fn from_directory(guest: &mut RunSpec, directory: &Path) {
    let join = |path: &mut FilePath| *path = FilePath(directory.join(&path.0));
    // With firmware the driver may be in the guest only, by its name.
    if guest.firmware.is_none()
        || guest
            .driver
            .as_ref()
            .is_some_and(|driver| driver.components().count() > 1)
    {
        guest.driver.iter_mut().for_each(join);
    }
    let single = [
        &mut guest.kernel,
        &mut guest.initrd,
        &mut guest.port_driver,
        &mut guest.registry,
        &mut guest.symbols,
    ];
    single.into_iter().flatten().for_each(join);
    guest.load.iter_mut().for_each(join);
    if let Some(Firmware::File(code)) = &mut guest.firmware {
        join(code);
    }
    for disk in &mut guest.disk {
        if let DiskPlace::Image(file, options) = &mut disk.place {
            *file = directory.join(&*file);
            if let Some(backing) = &mut options.backing {
                *backing = directory.join(&*backing);
            }
        }
    }
}

/// What the command line says comes first. Its paths begin where the program was started.
fn overlay(file: &mut JobFile, arguments: &Arguments) -> std::io::Result<()> {
    fn set<T: Clone>(target: &mut Option<T>, given: Option<&T>) {
        if let Some(given) = given {
            *target = Some(given.clone());
        }
    }
    let path = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
    // A driver that is in the guest only has no path.
    let driver = match &arguments.driver {
        Some(driver) if driver.components().count() == 1 && !driver.exists() => Some(driver.clone()),
        driver => path(driver)?,
    };
    set(&mut file.guest.driver, driver.map(FilePath).as_ref());
    if let Some(append) = &arguments.append {
        append.clone_into(&mut file.guest.append);
    }
    file.guest.time_limit = arguments.time_limit.unwrap_or(file.guest.time_limit);
    if !arguments.cpus.is_empty() {
        file.cpus = Some(OneOrMany::Many(arguments.cpus.clone()));
    }
    if !arguments.fault.is_empty() {
        let plan = PlanSettings {
            faults: Some(arguments.fault.clone()),
            ..PlanSettings::default()
        };
        file.plan = vec![Spanned::new(0..0, plan)];
    }
    if let Some((first, last)) = arguments.seeds {
        file.seeds.base = None;
        file.seeds.first = Some(first);
        file.seeds.count = Some((last - first).saturating_add(1));
    }
    if let Some(base) = arguments.seed_base {
        file.seeds.first = None;
        file.seeds.count = None;
        file.seeds.base = Some(base);
    }
    set(&mut file.duration, arguments.duration.as_ref());
    set(&mut file.iterations, arguments.iterations.as_ref());
    set(&mut file.jobs, arguments.jobs.as_ref());
    set(&mut file.profile, arguments.profile.as_ref());
    let stop = arguments.stop_at_first_new.map(|switch| switch == Switch::On);
    set(&mut file.stop_at_first_new, stop.as_ref());
    set(&mut file.output, path(&arguments.output)?.as_ref());
    set(&mut file.baseline, path(&arguments.baseline)?.as_ref());
    set(&mut file.history, path(&arguments.history)?.as_ref());
    Ok(())
}

fn which_shard(arguments: &Arguments) -> Result<Shard, Failure> {
    if let Some(shard) = arguments.shard {
        return Ok(shard);
    }
    let found = shard::from_environment(|name| std::env::var(name).ok());
    match found.map_err(|reason| Failure::usage(anyhow!(reason)))? {
        None => Ok(Shard::WHOLE),
        Some((shard, place)) => {
            tell!("shard {shard}, by {place}");
            Ok(shard)
        }
    }
}

/// The baseline in a file.
///
/// # Errors
/// [`Failure`] if it cannot be read, or makes no sense.
pub(super) fn read_baseline(path: Option<&Path>) -> Result<Baseline, Failure> {
    let Some(path) = path else {
        return Ok(Baseline::default());
    };
    let text = read_text(path, " as the baseline")?;
    Baseline::parse(&text).map_err(|what| Failure::usage(Lines(format!("{}: {what}", path.display()))))
}

fn prepare(arguments: &Arguments, job: Job, shard: Shard) -> Result<Supervisor, Failure> {
    let baseline = read_baseline(job.baseline.as_deref())?;
    let run = job.guest.clone();
    let digests = digests(&job, &run).map_err(|error| Failure::usage(anyhow!(error)))?;
    let output = job.output.clone().unwrap_or_else(|| PathBuf::from(OUTPUT));
    let output = OutputDirectory::claim(&output, &job.name, job.output_limit).map_err(failure)?;
    let inside = output.path().join(history::FILE);
    let path = job.history.clone().unwrap_or_else(|| inside.clone());
    let mut history = History::open(&path)
        .with_context(|| format!("the history {}", path.display()))
        .map_err(Failure::infrastructure)?;
    let history_inside = path == inside;
    if history_inside {
        history.limit(job.output_limit).map_err(Failure::infrastructure)?;
    }
    let wish = Wish {
        night: arguments.night,
        anew: arguments.new,
        shard,
    };
    let begun = begin(&mut history, &job, &digests, &run, &host_name(), wish).map_err(failure)?;
    begun.notes.iter().for_each(|note| tell!("note: {note}"));
    let jobs = job.jobs.unwrap_or_else(|| guests(&job));
    tell_start(&job, &begun, shard, jobs, &output);
    Ok(Supervisor {
        job,
        digests,
        baseline,
        history,
        history_inside,
        output,
        begun,
        shard,
        jobs,
        notices: Arc::new(StandardError),
    })
}

fn tell_start(job: &Job, begun: &Begun, shard: Shard, jobs: u32, output: &OutputDirectory) {
    if begun.complete {
        return;
    }
    let how = if begun.resumed { "goes on with" } else { "begins" };
    let part = if shard == Shard::WHOLE {
        String::new()
    } else {
        format!(", shard {shard}")
    };
    tell!(
        "job {} {how} night {}{part}: {jobs} runs at a time, output in {}",
        job.name,
        begun.night.number,
        output.path().display()
    );
}

/// How many runs this machine can do at a time.
fn guests(job: &Job) -> u32 {
    let memory = job.guest.memory_or_usual().0;
    let cpus = job.cpus.iter().copied().max().unwrap_or(1);
    Capacity::here().guests(cpus, memory)
}

fn run(supervisor: &mut Supervisor) -> Result<JobReport, Failure> {
    let (runtime, mut cancel) = runtime().map_err(Failure::infrastructure)?;
    let stop = async move {
        // The sender may be gone; then nobody cancels.
        if cancel.wait_for(|&cancel| cancel).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let ended = runtime.block_on(supervisor.run(Box::pin(stop)));
    let interrupted = matches!(ended, Ok(Ending::Interrupted));
    let mut report = supervisor.report(interrupted).map_err(failure)?;
    match ended {
        Ok(Ending::HostFails(reason)) => {
            tell!("nothing more is tried: {reason}");
            report.exit_code = Condition::Infrastructure.exit_code();
        }
        Ok(Ending::Full) => {
            tell!("the history can grow no more: the disk is full, or `output-limit` is reached");
            report.exit_code = Condition::Infrastructure.exit_code();
        }
        Ok(_) => {}
        Err(error) => {
            // Report on what was done so far.
            supervisor.write(&report).map_err(failure)?;
            return Err(failure(error));
        }
    }
    Ok(report)
}

/// A run-time on this thread, and what becomes true at the first signal that ends a run; the second one ends the process at
/// once, and its children with it.
///
/// # Errors
/// If the system gives no descriptors for it.
pub(super) fn runtime() -> std::io::Result<(Runtime, watch::Receiver<bool>)> {
    // The run-time takes it for granted that it gets them.
    let descriptors: Vec<_> = (0..8).map(|_| UnixStream::pair()).collect::<Result<_, _>>()?;
    drop(descriptors);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _guard = runtime.enter();
        Signals::catch()?
    };
    let (cancel, cancelled) = watch::channel(false);
    runtime.spawn(async move {
        signals.next().await;
        // Nobody may be left to be told.
        let _ = cancel.send(true);
        signals.next().await;
        diagnostics::drain(LAST_WORDS);
        std::process::exit(i32::from(Condition::Interrupted.exit_code()));
    });
    Ok((runtime, cancelled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_seeds_has_a_first_and_a_last() {
        assert_eq!(seeds("1-200"), Ok((1, 200)));
        assert_eq!(seeds("7-7"), Ok((7, 7)));
        for wrong in ["", "7", "2-1", "a-b", "1-2-3", "-1"] {
            assert!(seeds(wrong).is_err(), "{wrong}");
        }
    }
}
