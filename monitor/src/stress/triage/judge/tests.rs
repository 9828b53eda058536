use proptest::prelude::*;

use super::*;
use crate::report::{ConditionNote, Cost, EndKind, EndOfRun, FaultInfo, LockSummary, Reason, RunInfo, WatchInfo};

/// A run to its end in which nothing was found.
pub(in crate::stress::triage) fn report() -> Report {
    Report {
        schema: crate::report::SCHEMA.to_owned(),
        tool_version: String::new(),
        outcome: Outcome::Completed,
        exit_code: 0,
        conditions: Vec::new(),
        run: RunInfo::default(),
        end: EndOfRun {
            kind: EndKind::PowerOff,
            ..EndOfRun::default()
        },
        target: None,
        modules: Vec::new(),
        watch: WatchInfo::default(),
        rules: Vec::new(),
        findings: Vec::new(),
        calls: Vec::new(),
        coverage: None,
        in_flight: None,
        locks: LockSummary::default(),
        cost: Cost::default(),
        trace: None,
        dump: None,
        faults: Vec::new(),
        exports: Vec::new(),
        machine: None,
        guest_checks: Vec::new(),
        debug_print: None,
        notes: Vec::new(),
        timeline: None,
    }
}

fn fault(injected: u64) -> FaultInfo {
    FaultInfo {
        spec: "drop:read".to_owned(),
        matched: 1,
        injected,
    }
}

fn doubts(count: usize) -> Vec<ConditionNote> {
    let note = ConditionNote {
        condition: Condition::Inconclusive,
        reason: Reason::Stopped,
    };
    vec![note; count]
}

#[test]
fn a_run_that_is_doubtful_only_for_faults_that_never_came_did_not_reach_them() {
    let mut run = report();
    assert_eq!(verdict(&run, &[]), Verdict::Completed);
    (run.outcome, run.faults) = (Outcome::Inconclusive, vec![fault(0), fault(3), fault(0)]);
    run.conditions = doubts(2);
    assert_eq!(verdict(&run, &[]), Verdict::NotReached);
    run.conditions = doubts(3);
    assert_eq!(verdict(&run, &[]), Verdict::Inconclusive, "something else, too");
    run.faults = vec![fault(1)];
    run.conditions = doubts(1);
    assert_eq!(verdict(&run, &[]), Verdict::Inconclusive);
}

#[test]
fn what_was_found_wins_over_everything_but_the_host() {
    let run = report();
    let mut warning = finding("a", FindingKind::Violation);
    warning.weight = Weight::Warning;
    assert_eq!(verdict(&run, &[warning]), Verdict::Completed);
    let hang = finding("a", FindingKind::Hang);
    assert_eq!(verdict(&run, std::slice::from_ref(&hang)), Verdict::Found);
    assert_eq!(verdict(&run, &[hang, Finding::host("killed")]), Verdict::HostFailed);
}

fn finding(signature: &str, kind: FindingKind) -> Finding {
    Finding {
        signature: signature.to_owned(),
        kind,
        weight: Weight::Failure,
        class: "class".to_owned(),
        title: format!("title of {signature}"),
    }
}

fn row(iteration: u64, findings: &[&str]) -> Row {
    Row {
        iteration,
        attempt: 0,
        plan: "plan".to_owned(),
        point: None,
        seed: iteration,
        cpus: 2,
        faults: Vec::new(),
        verdict: if findings.is_empty() {
            Verdict::Completed
        } else {
            Verdict::Found
        },
        reason: None,
        findings: findings.iter().map(|&signature| signature.to_owned()).collect(),
    }
}

/// Signatures have 16 digits in a baseline.
const A: &str = "aaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbb";

fn night(rows: Vec<Row>) -> Night {
    let findings = [(A, FindingKind::Violation), (B, FindingKind::Hang)];
    Night {
        job: "job".to_owned(),
        rows,
        findings: findings
            .iter()
            .map(|&(signature, kind)| (signature.to_owned(), finding(signature, kind)))
            .collect(),
        ..Night::default()
    }
}

const TODAY: Date = Date {
    year: 2026,
    month: 11,
    day: 30,
};

fn known(signature: &str, expires: &str) -> Baseline {
    let text =
        format!("[[known]]\nsignature = \"{signature}\"\nreason = \"r\"\nreference = \"BUG-1\"\nexpires = {expires}");
    Baseline::parse(&text).unwrap()
}

fn judged(night: &Night, baseline: &Baseline) -> JobReport {
    triage(night, baseline, TODAY, false)
}

#[test]
fn a_finding_is_new_open_or_known() {
    let mut night = night(vec![row(0, &[]), row(1, &[A]), row(2, &[A])]);
    let new = judged(&night, &Baseline::default());
    let found = &new.findings[0];
    assert_eq!(
        (found.status, found.seen, found.flaky),
        (Status::New, Rate { hits: 2, runs: 3 }, false)
    );
    assert_eq!((found.first.iteration, found.first.case.as_str()), (1, "cases/0-1"));
    assert_eq!(new.exit_code, 1);
    let earlier = Earlier {
        first_night: 0,
        last_night: 2,
        seen: Rate { hits: 1, runs: 9 },
    };
    night.number = 3;
    night.earlier.insert(A.to_owned(), earlier);
    let open = judged(&night, &Baseline::default());
    assert_eq!(
        (open.findings[0].status, open.findings[0].first_night, open.exit_code),
        (Status::Open, 0, 1)
    );
    let accepted = judged(&night, &known(A, "2026-11-30"));
    assert_eq!((accepted.findings[0].status, accepted.exit_code), (Status::Known, 0));
    assert!(accepted.warnings.is_empty());
}

#[test]
fn an_expired_entry_still_counts_and_warns() {
    let report = judged(&night(vec![row(0, &[A]), row(1, &[])]), &known(A, "2026-11-29"));
    assert_eq!((report.findings[0].status, report.exit_code), (Status::Known, 0));
    assert!(
        report.warnings[0].contains("BUG-1") && report.warnings[0].contains("2026-11-29"),
        "{:?}",
        report.warnings
    );
}

#[test]
fn what_was_not_seen_is_gone_only_after_the_whole_night() {
    let mut night = night(vec![row(0, &[]), row(1, &[A])]);
    night.number = 5;
    let earlier = Earlier {
        first_night: 1,
        last_night: 4,
        seen: Rate { hits: 5, runs: 10 },
    };
    night.earlier.insert(B.to_owned(), earlier);
    let report = judged(&night, &Baseline::default());
    assert_eq!(
        (
            report.gone.len(),
            report.gone[0].signature.as_str(),
            report.gone[0].last_night
        ),
        (1, B, Some(4))
    );
    assert!((report.gone[0].missed - 0.25).abs() < 1e-9);
    night.missing_shards = vec!["2/2".to_owned()];
    let partial = judged(&night, &Baseline::default());
    assert!(partial.gone.is_empty() && !partial.complete && partial.exit_code == 1);
}

#[test]
fn a_finding_that_comes_and_goes_at_one_case_is_flaky() {
    let again = |attempt, findings: &[&str]| Row {
        attempt,
        ..row(7, findings)
    };
    let report = judged(
        &night(vec![row(6, &[]), again(0, &[A]), again(1, &[]), again(2, &[A])]),
        &Baseline::default(),
    );
    let found = &report.findings[0];
    assert!(found.flaky);
    assert_eq!(
        (found.same_case, found.seen),
        (Rate { hits: 2, runs: 3 }, Rate { hits: 1, runs: 2 })
    );
    assert_eq!((report.iterations.total, report.iterations.confirmations), (2, 2));
    let always = judged(&night(vec![again(0, &[A]), again(1, &[A])]), &Baseline::default());
    assert!(!always.findings[0].flaky && always.findings[0].same_case == Rate { hits: 2, runs: 2 });
}

#[test]
fn the_exit_code_is_that_of_a_run_with_all_of_it() {
    let code = |rows: Vec<Row>| judged(&night(rows), &Baseline::default()).exit_code;
    assert_eq!(code(vec![row(0, &[])]), 0);
    assert_eq!(code(vec![row(0, &[B])]), 3);
    assert_eq!(code(vec![row(0, &[B]), row(1, &[A])]), 1);
    assert_eq!(code(vec![]), 4, "nothing was shown");
    let with = |verdict| Row { verdict, ..row(1, &[]) };
    assert_eq!(code(vec![row(0, &[]), with(Verdict::NotReached)]), 0);
    assert_eq!(code(vec![with(Verdict::NotReached)]), 4);
    assert_eq!(code(vec![row(0, &[]), with(Verdict::Inconclusive)]), 4);
    let interrupted = triage(&night(vec![row(0, &[A])]), &Baseline::default(), TODAY, true);
    assert_eq!(interrupted.exit_code, 130);
}

#[test]
fn a_shard_does_not_answer_for_the_others() {
    let mut night = night(vec![row(0, &[])]);
    night.missing_shards = vec!["2/2".to_owned()];
    assert_eq!(judged(&night, &Baseline::default()).exit_code, 4);
    night.own_shard = Some("1/2".to_owned());
    assert_eq!(judged(&night, &Baseline::default()).exit_code, 0);
    night.own_shard = Some("2/2".to_owned());
    assert_eq!(judged(&night, &Baseline::default()).exit_code, 4);
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let one = (0u64..6, prop::sample::subsequence(vec![A, B], 0..=2), any::<bool>());
    proptest::collection::vec(one, 0..60).prop_map(|list| {
        let row = |(number, (seed, findings, other)): (usize, (u64, Vec<&str>, bool))| Row {
            seed,
            plan: if other { "one" } else { "two" }.to_owned(),
            ..row(number as u64, &findings)
        };
        list.into_iter().enumerate().map(row).collect()
    })
}

proptest! {
    #[test]
    fn the_report_does_not_depend_on_the_order_in_which_runs_ended(rows in rows(), swaps in proptest::collection::vec(any::<prop::sample::Index>(), 60)) {
        let straight = judged(&night(rows.clone()), &Baseline::default());
        let mut mixed = rows;
        for (index, other) in swaps.iter().enumerate() {
            if index < mixed.len() {
                let other = other.index(mixed.len());
                mixed.swap(index, other);
            }
        }
        prop_assert_eq!(judged(&night(mixed), &Baseline::default()), straight);
    }

    #[test]
    fn rates_add_up(rows in rows()) {
        let report = judged(&night(rows.clone()), &Baseline::default());
        prop_assert_eq!(report.iterations.total, rows.len() as u64);
        let by_plan: u64 = report.plans.iter().map(|plan| plan.iterations.total).sum();
        prop_assert_eq!(by_plan, rows.len() as u64);
        for finding in &report.findings {
            let hits = rows.iter().filter(|row| row.findings.contains(&finding.signature)).count() as u64;
            prop_assert_eq!(finding.seen.hits, hits);
            prop_assert!(finding.seen.hits <= finding.seen.runs && finding.same_case.hits <= finding.same_case.runs);
            prop_assert!(!finding.flaky || finding.same_case.is_partial());
        }
    }
}

/// One finding that is new, one that is known.
pub(in crate::stress::triage) fn known_and_new() -> JobReport {
    judged(
        &night(vec![row(0, &[A]), row(1, &[B]), row(2, &[])]),
        &known(A, "2030-01-01"),
    )
}

/// A violation and a hang with this title.
pub(in crate::stress::triage) fn one_of_each(title: &str) -> JobReport {
    let mut night = night(vec![row(0, &[A, B])]);
    night
        .findings
        .values_mut()
        .for_each(|finding| title.clone_into(&mut finding.title));
    judged(&night, &Baseline::default())
}
