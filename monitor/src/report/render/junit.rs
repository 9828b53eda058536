//! The report as JUnit XML, for continuous integration: a test case for each rule, and one for the run itself.
//!
//! The case of a rule fails if the driver under test broke the rule, and is skipped if the run allows no verdict.

use std::io::{self, Write};
use std::time::Duration;

use quick_junit::{NonSuccessKind, Report as Junit, TestCase, TestCaseStatus, TestSuite};

use super::{Renderer, text};
use crate::escape;
use crate::outcome::{Condition, Outcome};
use crate::report::{Finding, Report, Rule, Verdict, word};

/// JUnit XML.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JunitXml;

impl Renderer for JunitXml {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        let target = report
            .target
            .as_ref()
            .map_or("driver under test", |module| module.name.as_str());
        let target = escape::line(target);
        let mut suite = TestSuite::new(format!("storlock {target}"));
        suite.set_time(Duration::from_millis(report.run.duration_ms));
        suite.add_property(("seed", report.run.seed.to_string().as_str()));
        suite.add_property(("outcome", report.outcome.text()));
        suite.add_property(("command line", word::shell_words(&report.run.command_line).as_str()));
        let cases = std::iter::once(run(report)).chain(report.rules.iter().map(|rule| case(report, rule)));
        suite.add_test_cases(cases.map(|mut case| {
            case.set_classname(format!("storlock.{target}"));
            case
        }));
        let mut junit = Junit::new("storlock");
        junit.add_test_suite(suite);
        junit.serialize(out).map_err(io::Error::other)
    }
}

/// Why the rules have no verdict in this run, as far as they found nothing.
fn no_verdict(report: &Report) -> Option<String> {
    let unfinished = [
        Condition::Infrastructure,
        Condition::Usage,
        Condition::Interrupted,
        Condition::GuestFailed,
        Condition::Inconclusive,
        Condition::NotApplicable,
    ];
    let reasons = report
        .conditions
        .iter()
        .filter(|note| unfinished.contains(&note.condition));
    let reasons: Vec<_> = reasons
        .map(|note| escape::line(&note.reason.to_string()).into_owned())
        .collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// The run itself: without it a report of skipped cases alone would count as a success.
fn run(report: &Report) -> TestCase {
    let broken = [
        Condition::Infrastructure,
        Condition::Usage,
        Condition::Interrupted,
        Condition::GuestFailed,
    ];
    let failed = report.conditions.iter().find(|note| broken.contains(&note.condition));
    let status = match (failed, report.outcome) {
        (Some(note), _) => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
            status.set_type(format!("{:?}", note.condition));
            status.set_message(escape::line(&note.reason.to_string()).as_ref());
            status
        }
        (None, Outcome::Completed | Outcome::Defect) => TestCaseStatus::success(),
        (None, Outcome::NotApplicable | Outcome::Inconclusive) => skipped(report.outcome.text(), no_verdict(report)),
    };
    let mut case = TestCase::new("run", status);
    case.set_time(Duration::from_millis(report.run.duration_ms));
    let counts = format!(
        "{} hits of breakpoints, {} by the driver; {} releases matched",
        report.cost.hits, report.cost.target_hits, report.locks.matched
    );
    case.set_system_out(counts);
    case
}

fn case(report: &Report, rule: &Rule) -> TestCase {
    let found: Vec<&Finding> = report
        .findings
        .iter()
        .filter(|v| v.rule.meta().name == rule.name)
        .collect();
    let of = |verdict| {
        found
            .iter()
            .copied()
            .filter(move |v| v.concerns_target && v.verdict == verdict)
    };
    let status = if of(Verdict::Semantic).next().is_some() {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        status.set_type("semantic");
        status.set_message(titles(of(Verdict::Semantic)));
        status.set_description(texts(of(Verdict::Semantic)));
        status
    } else if of(Verdict::Suspect).next().is_some() {
        skipped("suspect", Some(titles(of(Verdict::Suspect))))
    } else if report.outcome == Outcome::Defect {
        // What another rule found does not keep this one from having seen every call.
        let unseen = no_verdict(report);
        unseen.map_or_else(TestCaseStatus::success, |reason| skipped("inconclusive", Some(reason)))
    } else {
        match no_verdict(report) {
            Some(reason) => skipped(report.outcome.text(), Some(reason)),
            None => TestCaseStatus::success(),
        }
    };
    let mut case = TestCase::new(rule.name.as_str(), status);
    case.add_property(("number", rule.number.to_string().as_str()));
    let failures = found
        .iter()
        .filter(|v| !(v.concerns_target && v.verdict == Verdict::Semantic));
    let others = texts(failures.copied());
    let told = format!("{} ({})\n{others}", rule.text, rule.source);
    case.set_system_out(told);
    case
}

fn skipped(kind: &str, message: Option<String>) -> TestCaseStatus {
    let mut status = TestCaseStatus::skipped();
    status.set_type(kind);
    if let Some(message) = message {
        status.set_message(message);
    }
    status
}

/// One line for all.
fn titles<'a>(found: impl Iterator<Item = &'a Finding>) -> String {
    let titles = found.map(|v| {
        let title = format!("{} at {} [{}]", v.cause.text(), v.caller, v.signature.id);
        escape::line(&title).into_owned()
    });
    titles.collect::<Vec<_>>().join("; ")
}

fn texts<'a>(found: impl Iterator<Item = &'a Finding>) -> String {
    found.map(text::finding).collect()
}
