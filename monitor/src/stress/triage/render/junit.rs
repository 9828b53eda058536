//! The report of a job as JUnit XML, for continuous integration: a test case for each plan, which passes, and one for
//! each finding, which fails unless the finding is known.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::stress::triage::finding::{FindingKind, Weight};
use crate::stress::triage::report::{FindingReport, JobReport, PlanReport, Status};

/// The report as XML.
///
/// # Errors
/// None that a report of this program can cause.
pub(crate) fn render(report: &JobReport) -> Result<String, quick_junit::SerializeError> {
    let mut suite = TestSuite::new(format!("storlock.{}", report.job));
    suite.add_property(("night", report.night.to_string().as_str()));
    suite.add_test_cases(report.plans.iter().map(|one| {
        let mut case = plan(one);
        case.set_classname(class(report, "plans"));
        case
    }));
    suite.add_test_cases(report.findings.iter().map(finding));
    suite.add_test_cases(report.gone.iter().map(|gone| {
        let title = gone.title.as_deref().unwrap_or("known from the baseline");
        let mut case = TestCase::new(format!("{} {title}", gone.signature), TestCaseStatus::success());
        case.set_classname(class(report, "gone"));
        case
    }));
    for case in &mut suite.test_cases {
        if case.classname.is_none() {
            case.set_classname(class(report, "findings"));
        }
    }
    if !report.complete {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        let missing = report.missing_shards.join(", ");
        status.set_message(format!("shards that have not come to their end: {missing}"));
        let mut case = TestCase::new("all shards came to their end", status);
        case.set_classname(class(report, "shards"));
        suite.add_test_case(case);
    }
    let mut junit = Report::new("storlock stress");
    junit.add_test_suite(suite);
    junit.to_string()
}

fn class(report: &JobReport, what: &str) -> String {
    format!("storlock.{}.{what}", report.job)
}

fn plan(plan: &PlanReport) -> TestCase {
    let counts = &plan.iterations;
    let mut case = TestCase::new(format!("plan {}", plan.name), TestCaseStatus::success());
    case.set_system_out(format!(
        "{} iterations: {} completed, {} with findings, {} did not reach their fault, {} inconclusive, in {} the host failed",
        counts.total, counts.completed, counts.found, counts.not_reached, counts.inconclusive, counts.host_failed
    ));
    case
}

fn finding(finding: &FindingReport) -> TestCase {
    let name = format!("{} {}", finding.signature, finding.title);
    let rate = format!(
        "seen in {} iterations; with the same case again: {}{}",
        finding.seen,
        finding.same_case,
        if finding.flaky { "; flaky" } else { "" }
    );
    let mut status = match (finding.weight, finding.status) {
        (Weight::Warning, _) | (_, Status::Known) => TestCaseStatus::skipped(),
        (Weight::Failure, _) if finding.kind == FindingKind::Host => TestCaseStatus::non_success(NonSuccessKind::Error),
        (Weight::Failure, _) => TestCaseStatus::non_success(NonSuccessKind::Failure),
    };
    match &finding.accepted {
        Some(accepted) => status.set_message(format!("known: {} ({})", accepted.reason, accepted.reference)),
        None => status.set_message(format!("{}; {rate}", finding.title)),
    };
    status.set_type(finding.kind.text());
    let mut case = TestCase::new(name, status);
    let faults = finding.first.faults.join(" ");
    case.set_system_out(format!(
        "{rate}\nfirst in {}, seed {}, {} vCPUs, faults: {faults}",
        finding.first.case, finding.first.seed, finding.first.cpus
    ));
    case
}

#[cfg(test)]
mod tests {
    use crate::stress::triage::judge::tests::{known_and_new, one_of_each};
    use crate::stress::triage::render::{json, junit, text};
    use crate::stress::triage::report::JobReport;

    fn count(text: &str, what: &str) -> usize {
        text.matches(what).count()
    }

    #[test]
    fn a_new_finding_fails_and_a_known_one_is_skipped() {
        let xml = junit::render(&known_and_new()).unwrap();
        assert_eq!(
            (count(&xml, "<failure"), count(&xml, "<skipped"), count(&xml, "<error")),
            (1, 1, 0),
            "{xml}"
        );
        assert!(xml.contains("tests=\"3\"") && xml.contains("failures=\"1\""), "{xml}");
        assert!(xml.contains("BUG-1"), "{xml}");
    }

    #[test]
    fn every_format_names_every_finding_and_nothing_acts_on_a_terminal() {
        let report = one_of_each("title\x1b[31m \u{202e}<&\"");
        let (text, json, xml) = (
            text::render(&report),
            json(&report).unwrap(),
            junit::render(&report).unwrap(),
        );
        for finding in &report.findings {
            assert!([&text, &json, &xml].iter().all(|all| all.contains(&finding.signature)));
        }
        assert!(
            ![&text, &json]
                .iter()
                .any(|all| all.contains('\x1b') || all.contains('\u{202e}'))
        );
        assert!(!xml.contains('\x1b') && xml.contains("&lt;&amp;"), "{xml}");
        let again: JobReport = serde_json::from_str(&json).unwrap();
        assert_eq!(again, report);
    }
}
