//! Makes a report from the rows of a night: which findings are new, how often each comes, which are gone, and the exit
//! code.
//!
//! Talks to nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::baseline::{Baseline, Date, Known};
use super::coverage::{SiteCoverage, SiteKey};
use super::finding::{Finding, FindingKind, Weight};
use super::rate::Rate;
use super::report::{
    Accepted, CaseReference, Counts, DriverInfo, Execution, FindingReport, GoneReport, JobReport, PlanReport,
    ReasonCount, SCHEMA, Status, case_directory,
};
use crate::outcome::{Condition, Outcome, exit_code};
use crate::report::Report;

/// Reasons for inconclusive iterations that are listed.
const MOST_REASONS: usize = 20;

/// What an iteration came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The guest ran to its end and nothing was found.
    Completed,
    /// Something was found.
    Found,
    /// The guest never came to where a fault was planned; else nothing was found.
    NotReached,
    /// The run did not show enough.
    Inconclusive,
    /// The host or this program failed.
    HostFailed,
}

impl Verdict {
    const ALL: [Self; 5] = [
        Self::Completed,
        Self::Found,
        Self::NotReached,
        Self::Inconclusive,
        Self::HostFailed,
    ];

    /// The word for programs.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Found => "found",
            Self::NotReached => "not_reached",
            Self::Inconclusive => "inconclusive",
            Self::HostFailed => "host_failed",
        }
    }

    /// The verdict with this word.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.text() == text)
    }
}

/// What a run with these findings came to.
#[must_use]
pub(crate) fn verdict(report: &Report, findings: &[Finding]) -> Verdict {
    let failures = || findings.iter().filter(|finding| finding.weight == Weight::Failure);
    let missed = report.faults.iter().filter(|fault| fault.injected == 0).count();
    let doubts = &report.conditions;
    if failures().any(|finding| finding.kind == FindingKind::Host) {
        Verdict::HostFailed
    } else if failures().next().is_some() {
        Verdict::Found
    } else if report.outcome == Outcome::Completed {
        Verdict::Completed
    } else if missed > 0
        && doubts.len() == missed
        && doubts.iter().all(|note| note.condition == Condition::Inconclusive)
    {
        Verdict::NotReached
    } else {
        Verdict::Inconclusive
    }
}

/// A run of this night.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Number of the iteration.
    pub iteration: u64,
    /// 0, or the number of a further run of the same case.
    pub attempt: u32,
    /// Name of the plan.
    pub plan: String,
    /// What a systematic plan tried.
    pub point: Option<String>,
    /// Seed of the guest.
    pub seed: u64,
    /// vCPUs.
    pub cpus: u32,
    /// Faults.
    pub faults: Vec<String>,
    /// What it came to.
    pub verdict: Verdict,
    /// Why it was inconclusive.
    pub reason: Option<String>,
    /// Signatures of what was found.
    pub findings: Vec<String>,
}

/// What earlier nights of the job say of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Earlier {
    /// Night in which it was seen first.
    pub(crate) first_night: u64,
    /// Night in which it was seen last.
    pub last_night: u64,
    /// How often, in the nights in which it was.
    pub seen: Rate,
}

/// All that is known of a night.
#[derive(Debug, Clone, Default)]
pub struct Night {
    /// Name of the job.
    pub job: String,
    /// Number of the night.
    pub number: u64,
    /// The driver under test.
    pub driver: Option<DriverInfo>,
    /// Shards that have not come to their end, or are not here.
    pub missing_shards: Vec<String>,
    /// The share of whoever asks, who does not answer for the others; `None`: all are asked for.
    pub(crate) own_shard: Option<String>,
    /// Its runs, by iteration and attempt.
    pub rows: Vec<Row>,
    /// What each finding is, of this and earlier nights.
    pub findings: BTreeMap<String, Finding>,
    /// Earlier nights.
    pub earlier: BTreeMap<String, Earlier>,
    /// What its runs have shown of the driver's lock call sites.
    pub(crate) coverage: SiteCoverage,
    /// Those that earlier nights with the same driver have reached; `None`: there was none.
    pub(crate) reached_before: Option<BTreeSet<SiteKey>>,
    /// When and how long.
    pub execution: Execution,
}

/// The report of a night; `interrupted` if the user ended it.
#[must_use]
pub(crate) fn triage(night: &Night, baseline: &Baseline, today: Date, interrupted: bool) -> JobReport {
    let complete = night.missing_shards.is_empty();
    let findings = found(night, baseline, today);
    let mut report = JobReport {
        schema: SCHEMA.to_owned(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        job: night.job.clone(),
        night: night.number,
        driver: night.driver.clone(),
        exit_code: 0,
        complete,
        missing_shards: night.missing_shards.clone(),
        iterations: counts(night.rows.iter()),
        plans: plans(&night.rows),
        coverage: (!night.coverage.sites.is_empty()).then(|| night.coverage.told(night.reached_before.as_ref())),
        gone: gone(night, baseline, today, complete),
        warnings: warnings(&findings),
        findings,
        inconclusive: reasons(&night.rows),
        execution: night.execution.clone(),
    };
    let lacks = |missing: &String| night.own_shard.as_ref().is_none_or(|own| own == missing);
    let lacking = night.missing_shards.iter().any(lacks);
    report.exit_code = job_exit_code(&report, lacking, interrupted);
    report
}

fn counts<'a>(rows: impl Iterator<Item = &'a Row>) -> Counts {
    let mut counts = Counts::default();
    for row in rows {
        if row.attempt > 0 {
            counts.confirmations += 1;
            continue;
        }
        counts.total += 1;
        *match row.verdict {
            Verdict::Completed => &mut counts.completed,
            Verdict::Found => &mut counts.found,
            Verdict::NotReached => &mut counts.not_reached,
            Verdict::Inconclusive => &mut counts.inconclusive,
            Verdict::HostFailed => &mut counts.host_failed,
        } += 1;
    }
    counts
}

fn plans(rows: &[Row]) -> Vec<PlanReport> {
    let names: BTreeSet<&str> = rows.iter().map(|row| row.plan.as_str()).collect();
    let plan = |name: &str| {
        let of_plan = || rows.iter().filter(|row| row.plan == name);
        let points: BTreeSet<&str> = of_plan().filter_map(|row| row.point.as_deref()).collect();
        PlanReport {
            name: name.to_owned(),
            iterations: counts(of_plan()),
            points: (!points.is_empty()).then_some(points.len() as u64),
        }
    };
    names.into_iter().map(plan).collect()
}

fn found(night: &Night, baseline: &Baseline, today: Date) -> Vec<FindingReport> {
    let mut rows: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in &night.rows {
        for signature in &row.findings {
            rows.entry(signature).or_default().push(row);
        }
    }
    let sizes = plan_sizes(&night.rows);
    let cases = cases(&night.rows);
    let mut all: Vec<FindingReport> = rows
        .into_iter()
        .filter_map(|(signature, rows)| {
            let finding = night.findings.get(signature)?;
            let accepted = baseline.get(signature).map(|known| accept(known, today));
            let earlier = night.earlier.get(signature);
            let first = rows
                .iter()
                .min_by_key(|row| (row.attempt > 0, row.iteration, row.attempt))?;
            let plans: BTreeSet<&str> = rows.iter().map(|row| row.plan.as_str()).collect();
            let seen = Rate {
                hits: rows.iter().filter(|row| row.attempt == 0).count() as u64,
                runs: plans.iter().map(|plan| sizes.get(plan).copied().unwrap_or(0)).sum(),
            };
            let (same_case, flaky) = at_the_same_case(signature, &rows, &cases);
            Some(FindingReport {
                signature: signature.to_owned(),
                kind: finding.kind,
                weight: finding.weight,
                status: match (&accepted, earlier) {
                    (Some(_), _) => Status::Known,
                    (None, Some(_)) => Status::Open,
                    (None, None) => Status::New,
                },
                title: finding.title.clone(),
                seen,
                same_case,
                flaky,
                first: reference(night.number, first),
                plans: plans.into_iter().map(str::to_owned).collect(),
                first_night: earlier.map_or(night.number, |earlier| earlier.first_night),
                accepted,
            })
        })
        .collect();
    let heavy = |finding: &FindingReport| finding.weight == Weight::Warning;
    all.sort_by(|a, b| {
        (heavy(a), a.status, a.kind, a.first.iteration, &a.signature).cmp(&(
            heavy(b),
            b.status,
            b.kind,
            b.first.iteration,
            &b.signature,
        ))
    });
    all
}

/// Runs of each plan that can have shown something.
fn plan_sizes(rows: &[Row]) -> HashMap<&str, u64> {
    let mut sizes = HashMap::new();
    for row in rows.iter().filter(|row| row.attempt == 0) {
        *sizes.entry(row.plan.as_str()).or_default() += 1;
    }
    sizes
}

/// All that a guest is given: the same runs are repetitions.
type CaseKey<'a> = (u64, u32, &'a [String]);

fn case(row: &Row) -> CaseKey<'_> {
    (row.seed, row.cpus, &row.faults)
}

fn cases(rows: &[Row]) -> HashMap<CaseKey<'_>, Vec<&Row>> {
    let mut cases: HashMap<CaseKey<'_>, Vec<&Row>> = HashMap::new();
    for row in rows {
        cases.entry(case(row)).or_default().push(row);
    }
    cases
}

/// How often a finding came in cases that were run several times and showed it, and whether it did not always.
fn at_the_same_case(signature: &str, rows: &[&Row], cases: &HashMap<CaseKey<'_>, Vec<&Row>>) -> (Rate, bool) {
    let shown: BTreeSet<CaseKey<'_>> = rows.iter().map(|row| case(row)).collect();
    let rates: Vec<Rate> = shown
        .iter()
        .filter_map(|key| cases.get(key))
        .filter(|runs| runs.len() > 1)
        .map(|runs| Rate {
            hits: runs
                .iter()
                .filter(|row| row.findings.iter().any(|one| one == signature))
                .count() as u64,
            runs: runs.len() as u64,
        })
        .collect();
    let all = rates.iter().fold(Rate::default(), |all, rate| all.and(*rate));
    (all, rates.iter().any(|rate| rate.is_partial()))
}

fn reference(night: u64, row: &Row) -> CaseReference {
    CaseReference {
        iteration: row.iteration,
        case: case_directory(night, row.iteration, row.attempt),
        seed: row.seed,
        cpus: row.cpus,
        faults: row.faults.clone(),
    }
}

fn accept(known: &Known, today: Date) -> Accepted {
    Accepted {
        reason: known.reason.clone(),
        reference: known.reference.clone(),
        expires: known.expires,
        expired: known.expires.is_some_and(|expires| expires < today),
    }
}

/// What was not seen, if the night came to its end.
fn gone(night: &Night, baseline: &Baseline, today: Date, complete: bool) -> Vec<GoneReport> {
    let seen: BTreeSet<&str> = night
        .rows
        .iter()
        .flat_map(|row| row.findings.iter().map(String::as_str))
        .collect();
    let runs = night.rows.iter().filter(|row| row.attempt == 0).count() as u64;
    if !complete || runs == 0 {
        return Vec::new();
    }
    let listed = baseline.all().iter().map(|known| known.signature.as_str());
    let candidates: BTreeSet<&str> = night.earlier.keys().map(String::as_str).chain(listed).collect();
    let gone = candidates.into_iter().filter(|signature| !seen.contains(signature));
    gone.map(|signature| {
        let earlier = night.earlier.get(signature);
        let rate = earlier.map(|earlier| earlier.seen).unwrap_or_default();
        GoneReport {
            signature: signature.to_owned(),
            title: night.findings.get(signature).map(|finding| finding.title.clone()),
            last_night: earlier.map(|earlier| earlier.last_night),
            seen: rate,
            missed: rate.chance_to_miss(runs),
            accepted: baseline.get(signature).map(|known| accept(known, today)),
        }
    })
    .collect()
}

fn warnings(findings: &[FindingReport]) -> Vec<String> {
    let expired = findings.iter().filter_map(|finding| {
        let accepted = finding.accepted.as_ref().filter(|accepted| accepted.expired)?;
        let expires = accepted.expires?;
        Some(format!(
            "the baseline's entry for {} ({}) expired on {expires}, and it was seen",
            finding.signature, accepted.reference
        ))
    });
    expired.collect()
}

fn reasons(rows: &[Row]) -> Vec<ReasonCount> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let inconclusive = rows
        .iter()
        .filter(|row| row.attempt == 0 && row.verdict == Verdict::Inconclusive);
    for reason in inconclusive.filter_map(|row| row.reason.as_deref()) {
        *counts.entry(reason).or_default() += 1;
    }
    let mut list: Vec<(&str, u64)> = counts.into_iter().collect();
    list.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    list.truncate(MOST_REASONS);
    let count = |(reason, count): (&str, u64)| ReasonCount {
        reason: reason.to_owned(),
        count,
    };
    list.into_iter().map(count).collect()
}

/// By the same rules as that of one run. What is known does not count; a night that has shown nothing is inconclusive.
fn job_exit_code(report: &JobReport, lacking: bool, interrupted: bool) -> u8 {
    let mut conditions = Vec::new();
    let fails = |finding: &&FindingReport| finding.weight == Weight::Failure && finding.status != Status::Known;
    for finding in report.findings.iter().filter(fails) {
        conditions.push(match finding.kind {
            FindingKind::Violation => Condition::Defect,
            FindingKind::Host => Condition::Infrastructure,
            _ => Condition::GuestFailed,
        });
    }
    let counts = &report.iterations;
    if counts.inconclusive > 0 || counts.completed + counts.found == 0 || (lacking && !interrupted) {
        conditions.push(Condition::Inconclusive);
    }
    if interrupted {
        conditions.push(Condition::Interrupted);
    }
    exit_code(&conditions)
}

#[cfg(test)]
#[allow(unreachable_pub, reason = "what tests of this and of the formats share")]
pub(super) mod tests;
