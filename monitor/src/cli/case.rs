//! `storlock replay-case`, `minimise` and `bisect`: runs one case of a stress job again.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use tokio::runtime::Runtime;

use super::diagnostics::tell;
use super::output;
use super::stress::{failure, runtime};
use crate::outcome::Condition;
use crate::run::Failure;
use crate::run::input::read_small;
use crate::run::spec::{FilePath, RunSpec, SIZE_LIMIT};
use crate::stress::case::{self, Case};
use crate::stress::runner::{Repeated, Repeater, RunnerError, Sought, changed_files, meant, read_case, write_case};
use crate::stress::search::{self, Bisected, Candidate};
use crate::stress::triage::{Finding, FindingKind};

/// Options of `storlock replay-case`.
#[derive(Debug, Args)]
pub struct ReplayArguments {
    /// A directory below `cases` in a job's output, or its case.json
    #[arg(value_name = "CASE")]
    pub case: PathBuf,
    /// Serve gdb; the machine stops at the violation (docs/gdb.md)
    #[arg(long, value_name = "ADDR:PORT|unix:PATH", conflicts_with = "times")]
    pub gdb: Option<OsString>,
    /// Run the case this many times, and report how often it shows its finding
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub times: Option<u32>,
    /// Look for this signature [default: the case's first]
    #[arg(long, value_name = "SIGNATURE", requires = "times")]
    pub signature: Option<String>,
    /// Directory for the reports of the run
    #[arg(
        long,
        value_name = "DIR",
        default_value = "storlock-report",
        conflicts_with = "times"
    )]
    pub report_dir: PathBuf,
}

/// Options of `storlock minimise`.
#[derive(Debug, Args)]
pub(crate) struct MinimiseArguments {
    /// A directory below `cases` in a job's output, or its case.json
    #[arg(value_name = "CASE")]
    pub case: PathBuf,
    /// Directory for the smaller case; it must not exist
    #[arg(long, short, value_name = "DIR", default_value = "storlock-minimised")]
    pub output: PathBuf,
    /// How often a smaller case is run before it counts as not showing the finding
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub times: u32,
    /// Largest number of runs
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub runs: u64,
    /// Look for this signature [default: the case's first]
    #[arg(long, value_name = "SIGNATURE")]
    pub signature: Option<String>,
}

/// When a build counts as bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Match {
    /// It breaks the same rule in the same way by the same routine, or ends with the same bug check, or hangs, too.
    /// Places in the code are not compared: they differ from build to build.
    Class,
    /// It shows a finding with the same signature.
    Signature,
    /// It shows any finding that fails a job.
    Any,
}

/// Options of `storlock bisect`.
#[derive(Debug, Args)]
pub(crate) struct BisectArguments {
    /// A directory below `cases` in a job's output, or its case.json
    #[arg(value_name = "CASE")]
    pub case: PathBuf,
    /// Builds of the driver, oldest first
    #[arg(long, value_name = "A.sys,B.sys,...", value_delimiter = ',', required = true)]
    pub drivers: Vec<PathBuf>,
    /// How often a build is run before it counts as good
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub times: u32,
    /// When a build counts as bad
    #[arg(long = "match", value_enum, default_value_t = Match::Class)]
    pub by: Match,
    /// Look for this signature [default: the case's first]
    #[arg(long, value_name = "SIGNATURE")]
    pub signature: Option<String>,
}

/// Runs of a case, with all that they need.
struct Runs {
    runtime: Runtime,
    repeater: Repeater,
    case: Case,
    error: Option<RunnerError>,
    interrupted: bool,
    /// For the runs' files; removed at the end.
    _directory: Scratch,
}

/// A directory that goes when it is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nobody misses it if it is gone already.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("storlock-case-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Runs {
    fn new(path: &std::path::Path, budget: u64) -> Result<Self, Failure> {
        let case = read_case(path).map_err(failure)?;
        for note in changed_files(&case).map_err(failure)? {
            tell!("note: {note}");
        }
        let directory = Scratch::new().map_err(Failure::infrastructure)?;
        let (runtime, cancel) = runtime().map_err(Failure::infrastructure)?;
        Ok(Self {
            runtime,
            repeater: Repeater {
                directory: directory.0.clone(),
                budget,
                cancel,
            },
            case,
            error: None,
            interrupted: false,
            _directory: directory,
        })
    }

    fn repeat(
        &mut self,
        run: &RunSpec,
        sought: &Sought,
        times: u32,
        until_seen: bool,
    ) -> Result<Repeated, RunnerError> {
        let repeating = self.repeater.repeat(&self.case, run, sought, times, until_seen);
        let repeated = self.runtime.block_on(repeating)?;
        self.interrupted |= repeated.interrupted;
        Ok(repeated)
    }

    /// Whether a run shows it; `None`: it is not known, and nothing more is to be tried.
    fn shows(&mut self, run: &RunSpec, sought: &Sought, times: u32) -> Option<Repeated> {
        match self.repeat(run, sought, times, true) {
            Err(error) => {
                self.error = Some(error);
                None
            }
            Ok(repeated) if repeated.interrupted || repeated.rate.runs == 0 => None,
            Ok(repeated) => Some(repeated),
        }
    }

    /// What kept a search from its end.
    fn check(&mut self) -> Result<(), Failure> {
        self.error.take().map_or(Ok(()), |error| Err(failure(error)))
    }
}

/// Runs a case again.
///
/// # Errors
/// [`Failure`]
pub fn replay(arguments: &ReplayArguments) -> Result<u8, Failure> {
    if let Some(times) = arguments.times {
        return replay_often(arguments, times);
    }
    let case = read_case(&arguments.case).map_err(failure)?;
    for note in changed_files(&case).map_err(failure)? {
        tell!("note: {note}");
    }
    let report_dir = std::path::absolute(&arguments.report_dir).map_err(Failure::infrastructure)?;
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["run", "--format=text", "--spec"])
        .arg(run_file(&arguments.case, &case)?);
    command.arg("--report-dir").arg(report_dir);
    if let Some(address) = &arguments.gdb {
        let mut option = OsString::from("--gdb=");
        option.push(address);
        command.arg(option);
    }
    // It becomes that run: it comes back only if it cannot.
    let error = command.exec();
    Err(Failure::infrastructure(
        anyhow!(error).context("the run cannot be started"),
    ))
}

/// The run of a case alone, which is beside it.
fn run_file(path: &std::path::Path, case: &Case) -> Result<PathBuf, Failure> {
    let directory = if path.is_dir() { Some(path) } else { path.parent() };
    let file = directory.map_or_else(|| case::RUN_FILE.into(), |directory| directory.join(case::RUN_FILE));
    let same = read_small(&file, "", SIZE_LIMIT)
        .ok()
        .and_then(|text| RunSpec::from_json(&text).ok());
    if same.is_some_and(|(run, _)| run == case.run) {
        return Ok(file);
    }
    Err(Failure::usage(anyhow!(
        "{} is not there or is not the case's run: a case is a directory with both files",
        file.display()
    )))
}

fn replay_often(arguments: &ReplayArguments, times: u32) -> Result<u8, Failure> {
    let mut runs = Runs::new(&arguments.case, u64::MAX)?;
    let finding = meant(&runs.case, arguments.signature.as_deref())
        .map_err(failure)?
        .clone();
    let run = runs.case.run.clone();
    let sought = Sought::Signature(finding.signature.clone());
    let repeated = runs.repeat(&run, &sought, times, false).map_err(failure)?;
    let mut text = format!(
        "{} {}\nshown in {} runs\n",
        finding.signature, finding.title, repeated.rate
    );
    for other in &repeated.others {
        text.push_str("also shown: ");
        text.push_str(other);
        text.push('\n');
    }
    output::print(&text)?;
    Ok(exit_code(&finding, &repeated))
}

/// As of a run that shows it, if one did.
fn exit_code(finding: &Finding, repeated: &Repeated) -> u8 {
    let condition = if repeated.interrupted {
        Condition::Interrupted
    } else if repeated.rate.hits > 0 && finding.kind == FindingKind::Violation {
        Condition::Defect
    } else if repeated.rate.hits > 0 && finding.kind != FindingKind::Host {
        Condition::GuestFailed
    } else if repeated.host_failures > 0 || repeated.rate.hits > 0 {
        Condition::Infrastructure
    } else {
        return 0;
    };
    condition.exit_code()
}

/// Makes a case smaller.
///
/// # Errors
/// [`Failure`]
pub(crate) fn minimise(arguments: &MinimiseArguments) -> Result<u8, Failure> {
    if std::fs::symlink_metadata(&arguments.output).is_ok() {
        return Err(Failure::usage(anyhow!(
            "{} is there already: name a directory that is not",
            arguments.output.display()
        )));
    }
    let mut runs = Runs::new(&arguments.case, arguments.runs)?;
    let finding = meant(&runs.case, arguments.signature.as_deref())
        .map_err(failure)?
        .clone();
    let sought = Sought::Signature(finding.signature.clone());
    let original = runs.case.run.clone();
    let began = candidate(&original);
    let shown = runs.shows(&original, &sought, arguments.times);
    runs.check()?;
    if shown.is_none_or(|repeated| repeated.rate.hits == 0) {
        if runs.interrupted {
            return Ok(Condition::Interrupted.exit_code());
        }
        tell!(
            "the case did not show {} in {} runs: try more, by --times",
            finding.signature,
            arguments.times
        );
        return Ok(Condition::Inconclusive.exit_code());
    }
    let smallest = search::minimise(&began, |candidate| {
        let repeated = runs.shows(&with(&original, candidate), &sought, arguments.times)?;
        let shown = repeated.rate.hits > 0;
        let word = if shown { "shows it:" } else { "does not:" };
        tell!("{word} {candidate}");
        Some(shown)
    });
    runs.check()?;
    let run = with(&original, &smallest);
    let rate = rate_of(&mut runs, &run, &sought, arguments.times)?;
    let case = Case {
        run,
        findings: vec![finding.clone()],
        ..runs.case.clone()
    };
    std::fs::create_dir_all(&arguments.output).map_err(Failure::infrastructure)?;
    write_case(&arguments.output, &case).map_err(failure)?;
    output::print(&format!(
        "{} {}\nfrom {began}\nto   {smallest}\n{rate}the case is in {}\n",
        finding.signature,
        finding.title,
        arguments.output.display()
    ))?;
    Ok(if runs.interrupted {
        Condition::Interrupted.exit_code()
    } else {
        0
    })
}

/// The line that says how often a run shows it; empty if the search was interrupted.
fn rate_of(runs: &mut Runs, run: &RunSpec, sought: &Sought, times: u32) -> Result<String, Failure> {
    if runs.interrupted {
        return Ok(String::new());
    }
    runs.repeater.budget = u64::from(times);
    let repeated = runs.repeat(run, sought, times, false).map_err(failure)?;
    Ok(format!("shown in {} runs\n", repeated.rate))
}

fn candidate(run: &RunSpec) -> Candidate {
    Candidate {
        faults: run.fault.iter().map(|fault| fault.text.clone()).collect(),
        cpus: run.cpus,
        append: run.append.clone(),
    }
}

fn with(run: &RunSpec, candidate: &Candidate) -> RunSpec {
    let mut run = run.clone();
    // What is left of a fault's keys is still a fault.
    run.fault = candidate.faults.iter().filter_map(|fault| fault.parse().ok()).collect();
    run.cpus = candidate.cpus;
    candidate.append.clone_into(&mut run.append);
    run
}

/// Finds the build that brought what a case shows.
///
/// # Errors
/// [`Failure`]
pub(crate) fn bisect(arguments: &BisectArguments) -> Result<u8, Failure> {
    let case = read_case(&arguments.case).map_err(failure)?;
    if case.run.firmware.is_some() {
        return Err(Failure::usage(anyhow!(
            "this case's guest loads its driver from its own disk: builds cannot be put in its place"
        )));
    }
    let finding = meant(&case, arguments.signature.as_deref()).map_err(failure)?.clone();
    let sought = match arguments.by {
        Match::Class => Sought::Class(finding.class.clone()),
        Match::Signature => Sought::Signature(finding.signature.clone()),
        Match::Any => Sought::Any,
    };
    let mut drivers = Vec::new();
    for driver in &arguments.drivers {
        let path = std::path::absolute(driver).map_err(Failure::infrastructure)?;
        std::fs::metadata(&path)
            .map_err(|error| Failure::usage(anyhow!(error).context(driver.display().to_string())))?;
        drivers.push(path);
    }
    let mut runs = Runs::new(&arguments.case, u64::MAX)?;
    let found = search::bisect(drivers.len(), |build| {
        let mut run = case.run.clone();
        run.driver = Some(FilePath(drivers[build].clone()));
        let repeated = runs.shows(&run, &sought, arguments.times)?;
        let word = if repeated.rate.hits > 0 { "bad " } else { "good" };
        tell!("{word} {}: shown in {} runs", drivers[build].display(), repeated.rate);
        Some(repeated.rate.hits > 0)
    });
    runs.check()?;
    let name = |build: usize| arguments.drivers[build].display().to_string();
    let (text, code) = match found {
        None => ("interrupted\n".to_owned(), Condition::Interrupted.exit_code()),
        Some(Bisected::First(build)) => (
            format!(
                "{}\nfirst shown by {}, not by {}\n",
                finding.class,
                name(build),
                name(build - 1)
            ),
            0,
        ),
        Some(Bisected::InOldest) => (
            format!("{}\nthe oldest build, {}, shows it already\n", finding.class, name(0)),
            Condition::Inconclusive.exit_code(),
        ),
        Some(Bisected::NotInNewest) => (
            format!(
                "{}\nthe newest build, {}, does not show it\n",
                finding.class,
                name(drivers.len() - 1)
            ),
            Condition::Inconclusive.exit_code(),
        ),
    };
    output::print(&text)?;
    Ok(code)
}
