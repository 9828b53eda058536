use proptest::prelude::*;

use super::*;
use crate::stress::planning::Shard;
use crate::stress::triage::coverage::tests::run;
use crate::stress::triage::finding::FindingKind;
use crate::stress::triage::{Baseline, Date, JobReport, Verdict, triage};

fn finding(signature: &str) -> Finding {
    Finding {
        signature: signature.to_owned(),
        kind: FindingKind::Violation,
        weight: Weight::Failure,
        class: "class".to_owned(),
        title: format!("title {signature}"),
    }
}

fn row(iteration: u64, findings: &[&str]) -> Row {
    Row {
        iteration,
        attempt: 0,
        plan: "plan".to_owned(),
        point: Some(format!("drop:read,after={iteration}")),
        seed: u64::MAX - iteration,
        cpus: 2,
        faults: vec![format!("drop:read,after={iteration}")],
        verdict: if findings.is_empty() {
            Verdict::Completed
        } else {
            Verdict::Found
        },
        reason: None,
        findings: findings.iter().map(|&signature| signature.to_owned()).collect(),
    }
}

fn shard(shard: Shard, state: ShardState) -> ShardRecord {
    ShardRecord {
        shard: shard.to_string(),
        host: "host".to_owned(),
        state,
        ended: "done".to_owned(),
        started_at: 100,
        ended_at: 200,
        active_ms: 5000,
    }
}

fn new_night(number: u64) -> NewNight {
    NewNight {
        job: "job".to_owned(),
        number,
        identity: "identity".to_owned(),
        setup: "setup".to_owned(),
        definition: "{}".to_owned(),
        driver: Some(("a.sys".to_owned(), Some("00".to_owned()))),
    }
}

/// What a run has shown of lock call sites: each reaches others, some only after a fault.
fn coverage(iteration: u64) -> SiteCoverage {
    let reached = |site: u64| (iteration % (site + 2) == 0).then_some(site % 2 == 1);
    let sites: Vec<_> = (0..6).map(|site| (site, iteration % 5 > 1, reached(site))).collect();
    run(iteration, 0, &sites)
}

/// A history in memory, with these iterations of a night.
fn history(number: u64, share: Shard, rows: &[Row]) -> History {
    let mut history = History::open(Path::new(":memory:")).unwrap();
    add(&mut history, number, share, rows);
    history
}

fn add(history: &mut History, number: u64, share: Shard, rows: &[Row]) {
    let night = history.begin(&new_night(number)).unwrap();
    for row in rows {
        let findings: Vec<Finding> = row.findings.iter().map(|signature| finding(signature)).collect();
        let timing = Timing {
            started_at: 5,
            duration_ms: row.iteration,
        };
        let running = shard(share, ShardState::Running);
        let coverage = coverage(row.iteration);
        history
            .record(night.id, row, &findings, &coverage, timing, &running)
            .unwrap();
    }
    history
        .set_shard(night.id, &shard(share, ShardState::Complete))
        .unwrap();
}

fn report(history: &History, number: u64) -> JobReport {
    let key = history.night("job", number).unwrap().unwrap();
    let night = history.load("job", &key).unwrap();
    triage(&night, &Baseline::default(), Date::of(0), false)
}

#[test]
fn what_is_written_is_what_is_read() {
    let rows = [row(0, &[]), row(3, &["aa", "bb"]), row(7, &["bb"])];
    let history = history(2, Shard::WHOLE, &rows);
    let key = history.last_night("job").unwrap().unwrap();
    assert_eq!((key.number, key.identity.as_str()), (2, "identity"));
    let night = history.load("job", &key).unwrap();
    assert_eq!(night.rows, rows);
    assert!(night.missing_shards.is_empty());
    assert_eq!(
        (night.execution.seconds, night.execution.started.as_str()),
        (5, "1970-01-01T00:01:40Z")
    );
    assert_eq!(night.findings["aa"], finding("aa"));
    assert_eq!(history.done(key.id).unwrap(), [(0, 0), (3, 0), (7, 0)].into());
    assert_eq!(history.tried("job", "setup").unwrap().len(), 3);
    assert!(history.tried("job", "other build").unwrap().is_empty());
    assert!(history.night("job", 1).unwrap().is_none() && history.last_night("other").unwrap().is_none());
    history.check().unwrap();
}

#[test]
fn an_iteration_counts_once() {
    let mut history = history(0, Shard::WHOLE, &[row(0, &["aa"])]);
    let key = history.night("job", 0).unwrap().unwrap();
    let again = history.record(
        key.id,
        &row(0, &[]),
        &[],
        &coverage(7),
        Timing::default(),
        &shard(Shard::WHOLE, ShardState::Running),
    );
    assert!(again.is_err());
    assert_eq!(history.load("job", &key).unwrap().rows, [row(0, &["aa"])]);
    // Neither what it reached nor the share's state was written.
    assert_eq!(history.load("job", &key).unwrap().coverage, coverage(0));
    assert_eq!(history.shards(key.id).unwrap()[0].state, ShardState::Complete);
}

#[test]
fn earlier_nights_say_what_is_open_and_what_is_gone() {
    let mut history = history(0, Shard::WHOLE, &[row(0, &["aa"]), row(1, &["bb"])]);
    add(
        &mut history,
        1,
        Shard::WHOLE,
        &[row(0, &["bb"]), row(1, &["cc"]), row(2, &[])],
    );
    let report = report(&history, 1);
    let status: Vec<_> = report
        .findings
        .iter()
        .map(|one| (one.signature.as_str(), one.first_night))
        .collect();
    assert_eq!(status, [("cc", 1), ("bb", 0)], "new ones first");
    assert_eq!(
        report.gone.iter().map(|one| one.signature.as_str()).collect::<Vec<_>>(),
        ["aa"]
    );
    assert!(history.seen_before("job", 1, "aa").unwrap() && !history.seen_before("job", 1, "cc").unwrap());
    let view = history.view("job").unwrap();
    let statuses: Vec<_> = view
        .findings
        .iter()
        .map(|one| (one.signature.as_str(), one.status))
        .collect();
    let expected = [
        ("cc", ViewStatus::New),
        ("bb", ViewStatus::Open),
        ("aa", ViewStatus::Gone),
    ];
    assert_eq!(statuses, expected);
    assert_eq!(view.findings[1].nights.len(), 2);
    assert_eq!(history.first_runs("job", "bb", 1).unwrap(), [(0, 1, 0)]);
    assert_eq!(history.first_runs("job", "bb", 9).unwrap(), [(0, 1, 0), (1, 0, 0)]);
}

#[test]
fn the_sites_that_nights_have_reached_add_up_for_one_build_of_the_driver() {
    let mut history = history(0, Shard::WHOLE, &[row(1, &[])]);
    add(&mut history, 1, Shard::WHOLE, &[row(4, &[]), row(2, &[])]);
    let told = report(&history, 1).coverage.unwrap();
    assert_eq!((told.sites, told.reached, told.new), (6, 2, Some(2)), "{told:?}");
    let growth: Vec<_> = told
        .growth
        .iter()
        .map(|point| (point.iteration, point.reached))
        .collect();
    assert_eq!(
        growth,
        [(2, 1), (4, 2)],
        "the first run counts, not the first that was written"
    );
    let first = report(&history, 0).coverage.unwrap();
    assert_eq!((first.reached, first.new), (0, None), "no night came before");
    let driver = Some(("a.sys".to_owned(), Some("11".to_owned())));
    let other = NewNight { driver, ..new_night(2) };
    let key = history.begin(&other).unwrap();
    let running = shard(Shard::WHOLE, ShardState::Running);
    let one = run(3, 0, &[(0, true, Some(false))]);
    history
        .record(key.id, &row(3, &[]), &[], &one, Timing::default(), &running)
        .unwrap();
    let told = report(&history, 2).coverage.unwrap();
    assert_eq!(
        (told.sites, told.reached, told.new),
        (1, 1, None),
        "another build has other offsets"
    );
    let view = history.view("job").unwrap();
    assert_eq!(view.coverage.unwrap().sites, 1);
    let nights: Vec<_> = view
        .nights
        .iter()
        .map(|night| (night.sites_reached, night.sites))
        .collect();
    assert_eq!(nights, [(0, 6), (2, 6), (1, 1)]);
}

#[test]
fn what_comes_and_goes_at_one_case_is_flaky() {
    let again = |attempt, findings: &[&str]| Row {
        attempt,
        ..row(4, findings)
    };
    let history = history(0, Shard::WHOLE, &[again(0, &["aa", "bb"]), again(1, &["bb"])]);
    let flaky: Vec<_> = history
        .view("job")
        .unwrap()
        .findings
        .into_iter()
        .map(|one| (one.signature, one.flaky))
        .collect();
    assert_eq!(flaky, [("aa".to_owned(), true), ("bb".to_owned(), false)]);
}

#[test]
fn the_first_cases_of_each_finding_are_kept_and_no_more() {
    let rows = [
        row(1, &["A"]),
        row(2, &["A", "B"]),
        row(3, &["A"]),
        row(4, &["C"]),
        row(5, &[]),
    ];
    let history = history(1, Shard::WHOLE, &rows);
    for (most, kept) in [(1, &[1, 2, 4][..]), (2, &[1, 2, 4]), (3, &[1, 2, 3, 4])] {
        let kept: HashSet<String> = kept.iter().map(|&iteration| case_directory(1, iteration, 0)).collect();
        assert_eq!(history.kept_cases("job", most).unwrap(), kept, "{most}");
    }
    assert!(history.kept_cases("another job", 3).unwrap().is_empty());
}

#[test]
fn parts_that_do_not_belong_together_are_refused_and_change_nothing() {
    let part = |index, rows: &[Row]| history(0, Shard::new(index, 2).unwrap(), rows);
    let mut one = part(1, &[row(0, &[])]);
    let refused = |one: &mut History, other: &History, why: &str| {
        let before = one.load("job", &one.night("job", 0).unwrap().unwrap()).unwrap().rows;
        let error = one.merge(other).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(
            one.load("job", &one.night("job", 0).unwrap().unwrap()).unwrap().rows,
            before
        );
    };
    refused(&mut one, &part(2, &[row(0, &["aa"])]), "iteration 0 was run twice");
    refused(
        &mut one,
        &history(0, Shard::new(3, 4).unwrap(), &[]),
        "cut in different ways",
    );
    let mut elsewhere = part(1, &[row(2, &[])]);
    let night = elsewhere.night("job", 0).unwrap().unwrap();
    let other_host = ShardRecord {
        host: "other".to_owned(),
        ..shard(Shard::new(1, 2).unwrap(), ShardState::Complete)
    };
    elsewhere.set_shard(night.id, &other_host).unwrap();
    refused(&mut one, &elsewhere, "shard 1/2 was done twice, by host and by other");
    let mut changed = History::open(Path::new(":memory:")).unwrap();
    changed
        .begin(&NewNight {
            identity: "another".to_owned(),
            ..new_night(0)
        })
        .unwrap();
    refused(&mut one, &changed, "different jobs or drivers");
    // Twice the same is once.
    let same = part(1, &[row(0, &[])]);
    one.merge(&same).unwrap();
    assert_eq!(report(&one, 0).iterations.total, 1);
    assert_eq!(report(&one, 0).missing_shards, ["2/2"]);
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let findings = prop::sample::subsequence(vec!["aa", "bb", "cc"], 0..=3);
    proptest::collection::vec(findings, 1..40).prop_map(|list| {
        let numbered = list.into_iter().enumerate();
        numbered
            .map(|(number, findings)| row(number as u64, &findings))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn shards_merged_in_any_order_say_what_one_machine_says(rows in rows(), total in 1u32..6, first in 0u32..6, earlier in rows()) {
        let mut whole = history(0, Shard::WHOLE, &earlier);
        add(&mut whole, 1, Shard::WHOLE, &rows);
        let mut merged = History::open(Path::new(":memory:")).unwrap();
        for index in 0..total {
            let share = Shard::new((index + first) % total + 1, total).unwrap();
            let part = |rows: &[Row]| rows.iter().filter(|row| share.has(row.iteration)).cloned().collect::<Vec<_>>();
            let mut one = history(0, share, &part(&earlier));
            add(&mut one, 1, share, &part(&rows));
            merged.merge(&one).unwrap();
        }
        for night in 0..2 {
            let (mut one, mut many) = (report(&whole, night), report(&merged, night));
            (one.execution, many.execution) = Default::default();
            prop_assert_eq!(one, many);
        }
        merged.check().unwrap();
    }
}

#[test]
fn a_database_that_may_not_grow_says_that_it_is_full() {
    let directory = tempfile::tempdir().unwrap();
    let mut history = History::open(&directory.path().join(FILE)).unwrap();
    history.limit(200_000).unwrap();
    let night = history.begin(&new_night(0)).unwrap();
    let record = shard(Shard::WHOLE, ShardState::Running);
    let mut written = 0;
    let error = (0..10_000).find_map(|iteration| {
        let error = history
            .record(
                night.id,
                &row(iteration, &["aa"]),
                &[finding("aa")],
                &coverage(iteration),
                Timing::default(),
                &record,
            )
            .err();
        written += u64::from(error.is_none());
        error
    });
    assert!(error.unwrap().is_full());
    history.check().unwrap();
    assert_eq!(history.done(night.id).unwrap().len() as u64, written);
}

#[test]
fn a_file_without_tables_is_no_history_and_stays_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("empty");
    std::fs::write(&path, "").unwrap();
    let refused = History::open_existing(&path).unwrap_err();
    assert!(matches!(refused, HistoryError::Empty), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), b"");
    // A job makes one of it.
    History::open(&path).unwrap();
    History::open_existing(&path).unwrap();
}

#[test]
fn what_sqlite_refuses_is_told_with_what_to_do() {
    let told =
        |code| HistoryError::from(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None)).to_string();
    let busy = told(rusqlite::ffi::SQLITE_BUSY);
    assert!(busy.contains("another process") && busy.contains("60 s"), "{busy}");
    let unwritable = told(rusqlite::ffi::SQLITE_READONLY);
    assert!(unwritable.contains("make it writable"), "{unwritable}");
}

/// A job that writes while its history is taken over: what is taken is how it was at one moment.
#[test]
fn a_history_that_is_being_written_is_taken_over_as_it_is_at_one_moment() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("running");
    let mut running = History::open(&path).unwrap();
    add(&mut running, 0, Shard::WHOLE, &[row(0, &["aa"])]);
    let key = running.last_night("job").unwrap().unwrap();
    let reaches = |iteration| run(iteration, 0, &[(100 + iteration, true, Some(false))]);
    let writer = std::thread::spawn(move || {
        running.connection.pragma_update(None, "synchronous", false).unwrap();
        for iteration in 1..1000 {
            let new = row(iteration, &["bb"]);
            let shard = shard(Shard::WHOLE, ShardState::Running);
            running
                .record(
                    key.id,
                    &new,
                    &[finding("bb")],
                    &reaches(iteration),
                    Timing::default(),
                    &shard,
                )
                .unwrap();
        }
    });
    let reader = History::open_existing(&path).unwrap();
    while !writer.is_finished() {
        let mut whole = History::open(Path::new(":memory:")).unwrap();
        whole.merge(&reader).unwrap();
        let key = whole.last_night("job").unwrap().unwrap();
        let taken = whole.load("job", &key).unwrap();
        let last = taken.rows.last().unwrap().iteration;
        let shown = (1..=last).fold(coverage(0), |mut all, iteration| {
            all.add(reaches(iteration));
            all
        });
        assert_eq!(
            whole.coverage(key.id).unwrap().reached,
            shown.reached,
            "after iteration {last}"
        );
    }
    writer.join().unwrap();
}
