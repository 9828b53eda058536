//! A job that has been checked: its settings make sense, and defaults are filled in.
//!
//! Talks to nothing. All settings that decide what the iterations are make up a job's identity. A night can be
//! continued, and shards can be united, only if the identity is the same.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::faults::{Faults, Plan};
use super::settings::{JobError, JobFile, OneOrMany, SeedSettings, SerialFinding};
use crate::run::spec::{RunSpec, target_kind};

/// How long a job runs for a change that waits to be reviewed.
const PR_DURATION: Duration = Duration::from_secs(600);
/// How long one runs at night.
const NIGHT_DURATION: Duration = Duration::from_secs(8 * 3600);
/// Largest size of an output directory without being told.
const OUTPUT_LIMIT: u64 = 4 << 30;
/// Smallest one: the database and a case.
const LEAST_OUTPUT: u64 = 1 << 20;
/// Cases that are kept of a finding.
const KEEP: u32 = 3;
/// How often the first case of a new finding is run again.
const CONFIRM: u32 = 2;
/// Most of any of these.
const MOST_RUNS: u32 = 1000;
/// Most vCPUs of a guest.
const MOST_CPUS: u32 = 64;

/// What a job is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// A change that waits to be reviewed: 10 minutes, stops at the first new finding.
    Pr,
    /// A night: 8 hours, goes on.
    #[default]
    Nightly,
}

/// Seeds of the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seeds {
    /// Chosen anew for each iteration and night.
    Base(u64),
    /// These, the same every night.
    Range {
        /// First.
        first: u64,
        /// How many.
        count: u64,
    },
}

/// A checked job.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// What reports and the history call it.
    pub name: String,
    /// What is run, but for what an iteration chooses.
    pub guest: RunSpec,
    /// Numbers of vCPUs to choose from.
    pub cpus: Vec<u32>,
    /// Seeds.
    pub seeds: Seeds,
    /// How often each case is run.
    pub repeat: u32,
    /// Fault plans, at least one.
    pub plans: Vec<Plan>,
    /// The plan of each case, by its number modulo the length.
    pub(super) schedule: Vec<usize>,
    /// Findings by what the guest says.
    pub serial: Vec<SerialFinding>,
    /// After so long no iteration is begun.
    pub(crate) duration: Option<Duration>,
    /// So many iterations, over all shards.
    pub iterations: Option<u64>,
    /// Child processes at a time, if that is said.
    pub jobs: Option<u32>,
    /// End at the first finding that is new.
    pub(crate) stop_at_first_new: bool,
    /// How often the first case of a new finding is run again.
    pub(crate) confirm: u32,
    /// Cases that are kept of each finding.
    pub keep: u32,
    /// Largest size of the output directory.
    pub(crate) output_limit: u64,
    /// The output directory, if the job says it.
    pub output: Option<PathBuf>,
    /// Findings that are known.
    pub baseline: Option<PathBuf>,
    /// The database, if it is not to be in the output directory.
    pub history: Option<PathBuf>,
}

impl Job {
    /// Checks a job. `text` is what it was read from, `directory` where the paths of its outputs begin, `name` what it is
    /// called if it does not say.
    ///
    /// # Errors
    /// [`JobError`]
    pub(crate) fn new(file: &JobFile, text: &str, directory: &Path, name: &str) -> Result<Self, JobError> {
        let plans = plans(file, text)?;
        let wrong = |what: String| JobError::Job(what);
        let seeds = seeds(&file.seeds).map_err(wrong)?;
        let repeat = bounded(file.repeat, 1, 1, "repeat").map_err(wrong)?;
        check_guest(&file.guest).map_err(wrong)?;
        let schedule = schedule(&plans);
        let profile = file.profile.unwrap_or_default();
        let (duration, iterations) = limits(file, profile, seeds, schedule.len() as u64 * u64::from(repeat));
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| directory.join(path));
        let output_limit = file.output_limit.as_ref().map_or(OUTPUT_LIMIT, |size| size.0);
        if output_limit < LEAST_OUTPUT {
            return Err(JobError::Job("`output_limit` is at least 1M".to_owned()));
        }
        if iterations == Some(0) || file.jobs == Some(0) {
            return Err(JobError::Job("`iterations` and `jobs` are at least 1".to_owned()));
        }
        Ok(Self {
            name: job_name(file.name.as_deref().unwrap_or(name)).map_err(wrong)?,
            guest: file.guest.clone(),
            cpus: cpus(file.cpus.as_ref(), file.guest.cpus).map_err(wrong)?,
            seeds,
            repeat,
            plans,
            schedule,
            serial: serial(&file.serial).map_err(wrong)?,
            duration,
            iterations,
            jobs: file.jobs,
            stop_at_first_new: file.stop_at_first_new.unwrap_or(profile == Profile::Pr),
            confirm: bounded(file.confirm, CONFIRM, 0, "confirm").map_err(wrong)?,
            keep: bounded(file.keep, KEEP, 0, "keep").map_err(wrong)?,
            output_limit,
            output: path(&file.output),
            baseline: path(&file.baseline),
            history: path(&file.history),
        })
    }

    /// All that decides what the iterations are, but for the contents of files: the same wherever the job is.
    #[must_use]
    pub(crate) fn identity(&self) -> serde_json::Value {
        let plan = |plan: &Plan| {
            let faults = match &plan.faults {
                Faults::Fixed(list) | Faults::Systematic(list) => list.join(" "),
                Faults::Random(random) => format!("{random:?}"),
            };
            serde_json::json!([plan.name, plan.faults.mode(), plan.weight, faults])
        };
        serde_json::json!({
            "name": self.name,
            "guest": guest_identity(&self.guest),
            "cpus": self.cpus,
            "seeds": format!("{:?}", self.seeds),
            "repeat": self.repeat,
            "plans": self.plans.iter().map(plan).collect::<Vec<_>>(),
            "serial": self.serial,
        })
    }
}

/// Refuses a guest that cannot be one of many: what belongs to one run, or what the job decides itself.
fn check_guest(guest: &RunSpec) -> Result<(), String> {
    if guest.driver.is_none() {
        return Err("no driver: say which by `driver` in [guest], or --driver".to_owned());
    }
    let default = RunSpec::default();
    let of_one_run = [
        ("seed", guest.seed.is_some()),
        ("fault", !guest.fault.is_empty()),
        ("report_dir", guest.report_dir != default.report_dir),
        ("record", guest.record.is_some()),
        ("format", guest.format != default.format),
        ("report", !guest.report.is_empty() || guest.report_format.is_some()),
        ("serial", guest.serial.is_some()),
        ("screenshot", guest.screenshot.is_some()),
        ("variables", guest.variables.is_some()),
        ("dump_on_violation", guest.dump_on_violation.is_some()),
        ("dump", guest.dump.is_some() || !guest.dump_on.is_empty()),
        ("gdb", guest.gdb.is_some() || guest.gdb_wait || guest.gdb_expose),
        ("on_violation", guest.on_violation.is_some()),
        ("on_disconnect", guest.on_disconnect.is_some()),
    ];
    if let Some((key, _)) = of_one_run.iter().find(|(_, given)| *given) {
        let instead = match *key {
            "seed" => ": use [seeds]",
            "fault" => ": use [[plan]]",
            _ => ": it belongs to one run, and a job has many",
        };
        return Err(format!("[guest]: `{key}` is not for a job{instead}"));
    }
    let mut tried = guest.clone();
    tried.seed = Some(0);
    tried
        .check(false, 0)
        .map(drop)
        .map_err(|reason| format!("[guest]: {reason}"))
}

/// A description without what differs from machine to machine or from run to run.
fn guest_identity(guest: &RunSpec) -> serde_json::Value {
    let mut value = guest.to_value().unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        for key in [
            "symbols",
            "kvm",
            "no_sandbox",
            "report_dir",
            "output_limit",
            "cpus",
            "seed",
            "fault",
            "format",
        ] {
            fields.remove(key);
        }
        // The command line of the kernel is no path, whatever is in it.
        for (_, field) in fields.iter_mut().filter(|(key, _)| *key != "append") {
            without_directories(field);
        }
    }
    value
}

fn without_directories(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => {
            if let Some((_, name)) = text.rsplit_once('/') {
                *text = name.to_owned();
            }
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(without_directories),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(without_directories),
        _ => {}
    }
}

fn plans(file: &JobFile, text: &str) -> Result<Vec<Plan>, JobError> {
    let controller = target_kind(&file.guest.disk);
    let mut plans: Vec<Plan> = Vec::new();
    for (number, (line, settings)) in file.plans(text).enumerate() {
        let at = |what| match line {
            Some(line) => JobError::Line { line, what },
            None => JobError::Job(what),
        };
        let plan = Plan::new(settings, number + 1, controller).map_err(at)?;
        if plans.iter().any(|other| other.name == plan.name) {
            return Err(at(format!("two plans are called `{}`", plan.name)));
        }
        plans.push(plan);
    }
    if plans.is_empty() {
        plans.push(Plan::none());
    }
    Ok(plans)
}

/// In which order plans take turns: each as often as its weight says, spread evenly.
fn schedule(plans: &[Plan]) -> Vec<usize> {
    let divisor = plans.iter().fold(0, |divisor, plan| gcd(divisor, plan.weight));
    let weights: Vec<i64> = plans
        .iter()
        .map(|plan| i64::from(plan.weight / divisor.max(1)))
        .collect();
    let sum: i64 = weights.iter().sum();
    let mut credit = vec![0i64; plans.len()];
    (0..sum)
        .map(|_| {
            for (credit, weight) in credit.iter_mut().zip(&weights) {
                *credit += weight;
            }
            // The first of those with the most credit.
            let chosen = (0..plans.len()).rev().max_by_key(|&plan| credit[plan]).unwrap_or(0);
            credit[chosen] -= sum;
            chosen
        })
        .collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn seeds(seeds: &SeedSettings) -> Result<Seeds, String> {
    match (seeds.base, seeds.first, seeds.count) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => Err("seeds: either `base`, or `first` and `count`".to_owned()),
        (base, None, None) => Ok(Seeds::Base(base.unwrap_or(1))),
        (None, Some(_), None) => Err("seeds: `first` needs `count`".to_owned()),
        (None, first, Some(count)) => {
            let first = first.unwrap_or(1);
            if count == 0 || first.checked_add(count).is_none() {
                return Err(format!("seeds: {count} from {first} is no range"));
            }
            Ok(Seeds::Range { first, count })
        }
    }
}

/// When the job ends. A range of seeds ends by itself.
fn limits(file: &JobFile, profile: Profile, seeds: Seeds, round: u64) -> (Option<Duration>, Option<u64>) {
    let duration = file.duration.as_ref().map(|limit| limit.0);
    let usual = match profile {
        Profile::Pr => PR_DURATION,
        Profile::Nightly => NIGHT_DURATION,
    };
    match (duration, file.iterations, seeds) {
        (None, None, Seeds::Range { count, .. }) => (Some(usual), Some(count.saturating_mul(round))),
        (None, None, Seeds::Base(_)) => (Some(usual), None),
        (duration, iterations, _) => (duration, iterations),
    }
}

fn cpus(cpus: Option<&OneOrMany>, of_guest: u32) -> Result<Vec<u32>, String> {
    let list = match cpus {
        None => vec![of_guest],
        Some(OneOrMany::One(number)) => vec![*number],
        Some(OneOrMany::Many(list)) => list.clone(),
    };
    if list.is_empty() || list.len() > 100 || list.iter().any(|number| !(1..=MOST_CPUS).contains(number)) {
        return Err(format!("`cpus`: 1 to {MOST_CPUS}, or a list of such numbers"));
    }
    Ok(list)
}

fn bounded(given: Option<u32>, default: u32, least: u32, key: &str) -> Result<u32, String> {
    let value = given.unwrap_or(default);
    if (least..=MOST_RUNS).contains(&value) {
        return Ok(value);
    }
    Err(format!("`{key}` is {least} to {MOST_RUNS}"))
}

fn job_name(name: &str) -> Result<String, String> {
    if name.is_empty() || name.len() > 100 || name.contains(crate::escape::is_hostile) {
        return Err("the name of a job has 1 to 100 bytes and no control characters".to_owned());
    }
    Ok(name.to_owned())
}

fn serial(findings: &[SerialFinding]) -> Result<Vec<SerialFinding>, String> {
    for finding in findings {
        let texts = [&finding.finding, &finding.contains];
        if texts
            .iter()
            .any(|text| text.is_empty() || text.len() > 200 || text.contains(crate::escape::is_hostile))
        {
            return Err("[[serial]]: `finding` and `contains` have 1 to 200 bytes on one line".to_owned());
        }
    }
    if findings.len() > 100 {
        return Err("[[serial]]: at most 100".to_owned());
    }
    Ok(findings.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(in crate::stress) fn job(text: &str) -> Result<Job, JobError> {
        let text = format!("{text}\n[guest]\ndriver = \"/a/b.sys\"\n");
        let file = JobFile::parse(&text)?;
        Job::new(&file, &text, Path::new("/jobs"), "nightly-nvme")
    }

    #[test]
    fn what_is_not_said_is_filled_in() {
        let one = job("").unwrap();
        assert_eq!(one.name, "nightly-nvme");
        assert_eq!((one.duration, one.iterations), (Some(NIGHT_DURATION), None));
        assert!(!one.stop_at_first_new && one.plans == [Plan::none()] && one.cpus == [2]);
        let pr = job("profile = \"pr\"\nbaseline = \"known.toml\"").unwrap();
        assert!(pr.stop_at_first_new && pr.duration == Some(PR_DURATION));
        assert_eq!(pr.baseline, Some("/jobs/known.toml".into()));
        let said = job("profile = \"pr\"\niterations = 5\nstop_at_first_new = false").unwrap();
        assert_eq!(
            (said.duration, said.iterations, said.stop_at_first_new),
            (None, Some(5), false)
        );
    }

    #[test]
    fn a_range_of_seeds_meets_every_plan_and_ends() {
        let text =
            "seeds = { first = 10, count = 4 }\nrepeat = 3\nplan = [{ faults = [] }, { faults = [\"drop:read\"] }]";
        assert_eq!(job(text).unwrap().iterations, Some(4 * 2 * 3));
    }

    #[test]
    fn plans_take_turns_by_weight() {
        let text = "plan = [{ faults = [], weight = 20 }, { faults = [\"drop:read\"], weight = 60 }]";
        assert_eq!(job(text).unwrap().schedule, [1, 0, 1, 1]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("seeds = { base = 1, count = 2 }", "either `base`"),
            ("seeds = { first = 1 }", "needs `count`"),
            ("seeds = { count = 0 }", "no range"),
            ("repeat = 0", "`repeat` is 1 to"),
            ("iterations = 0", "at least 1"),
            ("jobs = 0", "at least 1"),
            ("output_limit = \"1K\"", "at least 1M"),
            ("name = \"\"", "name of a job"),
            ("plan = [{ faults = [] }, { faults = [] }]", "line 1: two plans"),
            ("\nplan = [{ mode = \"random\", most = 99 }]", "line 2: "),
            ("serial = [{ finding = \"\", contains = \"x\" }]", "[[serial]]"),
        ] {
            let error = job(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        let file = JobFile::parse("cpus = [1, 65]\n[guest]\ndriver = \"a.sys\"").unwrap();
        assert!(Job::new(&file, "", Path::new("/"), "x").is_err());
        for (line, why) in [
            ("seed = 3", "use [seeds]"),
            ("fault = [\"drop:read\"]", "use [[plan]]"),
            ("record = \"x\"", "`record` is not for a job"),
            ("gdb_wait = true", "`gdb` is not for a job"),
            ("reboot_at_triple_fault = true", "--firmware"),
        ] {
            let text = format!("[guest]\ndriver = \"a.sys\"\n{line}");
            let error = Job::new(&JobFile::parse(&text).unwrap(), &text, Path::new("/"), "x")
                .unwrap_err()
                .to_string();
            assert!(error.contains(why), "{line}: {error}");
        }
        let error = Job::new(&JobFile::default(), "", Path::new("/"), "x").unwrap_err();
        assert!(error.to_string().contains("--driver"));
    }

    #[test]
    fn the_identity_is_what_decides_the_iterations_and_nothing_else() {
        let identity = |text: &str| job(text).unwrap().identity();
        let one = identity("");
        for same in [
            "duration = \"5m\"",
            "jobs = 7",
            "keep = 1",
            "output = \"/x\"",
            "confirm = 0",
        ] {
            assert_eq!(identity(same), one, "{same}");
        }
        for other in [
            "name = \"x\"",
            "seeds = { base = 2 }",
            "repeat = 2",
            "plan = [{ mode = \"random\" }]",
        ] {
            assert_ne!(identity(other), one, "{other}");
        }
        let moved = |directory: &str| {
            let text = format!(
                "[guest]\ndriver = \"{directory}/b.sys\"\ndisk = [{{ file = \"{directory}/d.img\", snapshot = \"1G\" }}]\nappend = \"a=/b/c\""
            );
            let file = JobFile::parse(&text).unwrap();
            Job::new(&file, &text, Path::new(directory), "x").unwrap().identity()
        };
        assert_eq!(moved("/one"), moved("/two/three"));
    }
}
