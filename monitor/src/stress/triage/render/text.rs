//! The report of a job for people.

use std::fmt::Write as _;

use crate::escape;
use crate::stress::triage::finding::Weight;
use crate::stress::triage::report::{Accepted, Counts, FindingReport, GoneReport, JobReport, Status, fault_options};

/// Findings that are described at length.
const MOST_FINDINGS: usize = 200;
/// Lock call sites that are named as not reached.
const MOST_SITES: usize = 20;

/// The report as text, with a line feed at the end. What could act on a terminal is escaped.
#[must_use]
pub(crate) fn render(report: &JobReport) -> String {
    let mut out = String::new();
    head(report, &mut out);
    let failing = |finding: &&FindingReport| finding.weight == Weight::Failure && finding.status != Status::Known;
    let known = |finding: &&FindingReport| finding.weight == Weight::Failure && finding.status == Status::Known;
    let warning = |finding: &&FindingReport| finding.weight == Weight::Warning;
    let list = |filter: &dyn Fn(&&FindingReport) -> bool| report.findings.iter().filter(filter).collect::<Vec<_>>();
    findings("findings", &list(&failing), report.night, &mut out);
    findings("known findings", &list(&known), report.night, &mut out);
    findings(
        "too little evidence for a verdict",
        &list(&warning),
        report.night,
        &mut out,
    );
    gone(&report.gone, &mut out);
    for warning in &report.warnings {
        line(&mut out, &format!("warning      {warning}"));
    }
    let execution = &report.execution;
    line(
        &mut out,
        &format!(
            "\nexecution    {} to {}, {} s running, {} s of runs",
            execution.started, execution.ended, execution.seconds, execution.run_seconds
        ),
    );
    for shard in &execution.shards {
        line(
            &mut out,
            &format!("execution    shard {} on {}: {}", shard.shard, shard.host, shard.ended),
        );
    }
    escape::lines(&out).into_owned()
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn head(report: &JobReport, out: &mut String) {
    line(
        out,
        &format!("Storlock stress job {}, night {}", report.job, report.night),
    );
    if let Some(driver) = &report.driver {
        let hash = driver.sha256.as_deref().unwrap_or("in the guest only");
        line(out, &format!("driver       {} ({hash})", driver.name));
    }
    line(out, &format!("verdict      {}", sentence(report)));
    if !report.missing_shards.is_empty() {
        let missing = report.missing_shards.join(", ");
        line(
            out,
            &format!("incomplete   shards that have not come to their end: {missing}"),
        );
    }
    line(out, &format!("iterations   {}", counts(&report.iterations)));
    for plan in &report.plans {
        let points = plan
            .points
            .map_or_else(String::new, |points| format!(", {points} different faults tried"));
        line(
            out,
            &format!("plan         {}: {}{points}", plan.name, counts(&plan.iterations)),
        );
    }
    if let Some(coverage) = &report.coverage {
        line(out, &format!("coverage     {}", coverage.sentence()));
        for site in coverage.not_reached.iter().take(MOST_SITES) {
            line(out, &format!("             not reached: {site}"));
        }
        if coverage.not_reached.len() > MOST_SITES {
            let more = coverage.not_reached.len() - MOST_SITES;
            line(out, &format!("             and {more} more; report.json names them"));
        }
    }
    for reason in &report.inconclusive {
        line(out, &format!("inconclusive {} times: {}", reason.count, reason.reason));
    }
}

fn sentence(report: &JobReport) -> String {
    let number = |status| {
        let of = |finding: &&FindingReport| finding.weight == Weight::Failure && finding.status == status;
        report.findings.iter().filter(of).count()
    };
    let (new, open, known) = (number(Status::New), number(Status::Open), number(Status::Known));
    format!(
        "{new} new, {open} open, {known} known, {} gone; exit code {}",
        report.gone.len(),
        report.exit_code
    )
}

fn counts(counts: &Counts) -> String {
    let mut text = format!("{}", counts.total);
    for (number, what) in [
        (counts.completed, "completed"),
        (counts.found, "with findings"),
        (counts.not_reached, "that did not reach their fault"),
        (counts.inconclusive, "inconclusive"),
        (counts.host_failed, "in which the host failed"),
        (counts.confirmations, "further runs to confirm"),
    ] {
        if number > 0 {
            let _ = write!(text, ", {number} {what}");
        }
    }
    text
}

fn findings(title: &str, list: &[&FindingReport], night: u64, out: &mut String) {
    if list.is_empty() {
        return;
    }
    line(out, &format!("\n{title}"));
    for finding in list.iter().take(MOST_FINDINGS) {
        one(finding, night, out);
    }
    if list.len() > MOST_FINDINGS {
        line(
            out,
            &format!("  and {} more; report.json has all", list.len() - MOST_FINDINGS),
        );
    }
}

fn one(finding: &FindingReport, night: u64, out: &mut String) {
    let status = match finding.status {
        Status::New => "new",
        Status::Open => "open",
        Status::Known => "known",
    };
    let flaky = if finding.flaky { ", flaky" } else { "" };
    line(
        out,
        &format!("  {} {status}{flaky}: {}", finding.signature, finding.title),
    );
    line(
        out,
        &format!(
            "      seen in {} iterations of {}",
            finding.seen,
            finding.plans.join(", ")
        ),
    );
    if finding.same_case.runs > 0 {
        line(out, &format!("      with the same case again: {}", finding.same_case));
    }
    if finding.first_night != night {
        line(out, &format!("      first seen in night {}", finding.first_night));
    }
    if let Some(accepted) = &finding.accepted {
        line(out, &format!("      {}", acceptance(accepted)));
    }
    let first = &finding.first;
    let faults = fault_options(&first.faults);
    line(
        out,
        &format!(
            "      first in {}: --seed {} --cpus {}{faults}",
            first.case, first.seed, first.cpus
        ),
    );
}

fn acceptance(accepted: &Accepted) -> String {
    let expires = match accepted.expires {
        None => String::new(),
        Some(date) if accepted.expired => format!(", expired on {date}"),
        Some(date) => format!(", until {date}"),
    };
    format!("accepted: {} ({}{expires})", accepted.reason, accepted.reference)
}

fn gone(list: &[GoneReport], out: &mut String) {
    if !list.is_empty() {
        line(out, "\ngone");
    }
    for gone in list {
        let title = gone
            .title
            .as_deref()
            .unwrap_or("listed in the baseline, never seen in this history");
        line(out, &format!("  {}: {title}", gone.signature));
        if let Some(night) = gone.last_night {
            let percent = gone.missed * 100.0;
            line(
                out,
                &format!(
                    "      last seen in night {night}; it came in {}: the chance that it is still there and was missed is \
                     {percent:.1} %",
                    gone.seen
                ),
            );
        }
        if let Some(accepted) = &gone.accepted {
            line(out, &format!("      {}", acceptance(accepted)));
        }
    }
}
