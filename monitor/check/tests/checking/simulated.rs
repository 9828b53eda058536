//! The checker against the truth: no alarm on right programs, every bug found in wrong ones.

use storlock_check::checker::{Checker, Limits};
use storlock_check::contract::RoutineSet;
use storlock_check::rules::{Cause, RuleId, Verdict, Violation};

use crate::kernel::{Config, Kernel, Run};
use crate::program::{Bug, Class, LOCKS, Random};

const TRACES: u64 = 10_000;

fn config(random: &mut Random, bug: Option<Bug>) -> Config {
    let processors = 1 + random.below(4);
    Config {
        processors,
        threads: processors + 1 + random.below(4),
        events: 150,
        returns: random.pick(&[0, 30, 100]),
        nested: random.percent(50),
        dpc_stack: random.percent(50),
        bug,
        watched: RoutineSet::ALL,
        unwatched_calls: 0,
    }
}

fn check(run: &Run) -> Vec<(u64, Verdict, Violation)> {
    let mut checker = Checker::new(Limits::default(), 7);
    let mut found = Vec::new();
    for event in &run.events {
        for hit in checker.apply(event).findings() {
            let index = hit.index.expect("few violations");
            found.push((event.sequence, hit.verdict, checker.violations()[index].clone()));
        }
    }
    found
}

#[track_caller]
fn assert_quiet(run: &Run, found: &[(u64, Verdict, Violation)], allow: &[Verdict], seed: u64) {
    let alarm = found.iter().find(|(_, verdict, _)| !allow.contains(verdict));
    if let Some((sequence, _, violation)) = alarm {
        for event in run.events.iter().filter(|event| event.sequence <= *sequence) {
            eprintln!("{event:x?}");
        }
        panic!("seed {seed}: {violation:#x?}");
    }
}

#[test]
fn right_programs_raise_no_alarm() {
    let mut seen = [0; 3];
    for seed in 0..TRACES {
        let mut random = Random(seed);
        let run = Kernel::run(config(&mut random, None), seed);
        assert!(run.wrong.is_none(), "seed {seed}: {:?}", run.wrong);
        assert_quiet(&run, &check(&run), &[Verdict::Literal], seed);
        for (total, one) in seen.iter_mut().zip(run.seen) {
            *total += one;
        }
    }
    assert!(
        seen.iter().all(|&count| count > 10_000),
        "contended, interrupted, migrated: {seen:?}"
    );
}

#[test]
fn right_programs_raise_no_semantic_alarm_whatever_is_not_watched() {
    for seed in 0..TRACES {
        let mut random = Random(seed);
        let mut config = config(&mut random, None);
        config.watched = RoutineSet::from_bits(random.next() | random.next());
        let run = Kernel::run(config, seed);
        assert_quiet(&run, &check(&run), &[Verdict::Literal, Verdict::Suspect], seed);
    }
}

#[test]
fn right_programs_raise_no_semantic_alarm_if_the_watch_begins_late() {
    for seed in 0..TRACES {
        let mut random = Random(seed);
        let mut config = config(&mut random, None);
        config.unwatched_calls = 1 + random.below(100);
        let run = Kernel::run(config, seed);
        assert_quiet(&run, &check(&run), &[Verdict::Literal, Verdict::Suspect], seed);
    }
}

#[test]
fn every_bug_is_found_where_it_is() {
    let bugs = [Bug::Stray, Bug::Twice, Bug::Other, Bug::WrongRoutine, Bug::Double];
    let (mut found_by_kind, mut named) = ([0; 5], [0; 5]);
    for seed in 0..TRACES {
        let mut random = Random(seed);
        let kind = random.below(bugs.len());
        let run = Kernel::run(config(&mut random, Some(bugs[kind])), seed);
        let found = check(&run);
        let Some(wrong) = run.wrong else {
            assert_quiet(&run, &found, &[Verdict::Literal], seed);
            continue;
        };
        let before: Vec<_> = found.iter().filter(|(at, ..)| *at < wrong.sequence).cloned().collect();
        assert_quiet(&run, &before, &[Verdict::Literal], seed);
        let hit = found.iter().find(|(at, verdict, violation)| {
            let pairing = violation.rule != RuleId::LockRoutineIrql;
            *at == wrong.sequence && *verdict != Verdict::Literal && pairing
        });
        found_by_kind[kind] += usize::from(hit.is_some());
        let word = !matches!(LOCKS[wrong.lock], Class::StorPort | Class::Msi);
        // What must be certain: a clear word; no word and nothing in the way; a proved hold.
        let certain = match wrong.what {
            Bug::Double => wrong.proved && LOCKS[wrong.lock] != Class::Ex,
            Bug::WrongRoutine => true,
            _ => (word && !wrong.held) || (!word && !wrong.masked),
        };
        let expected = match wrong.what {
            Bug::Double => certain && word,
            _ => certain || !wrong.masked,
        };
        if let Some((_, _, violation)) = hit.filter(|_| !wrong.masked) {
            named[kind] += usize::from(violation.cause == name_of(bugs[kind]));
            let allowed = allowed_names(bugs[kind], LOCKS[wrong.lock]);
            assert!(
                allowed.contains(&violation.cause),
                "seed {seed}: {wrong:?}: {violation:#?}"
            );
        }
        let verdict = hit.map(|(_, verdict, _)| *verdict);
        let right = if certain && expected {
            verdict == Some(Verdict::Semantic)
        } else {
            !expected || hit.is_some()
        };
        if !right {
            for event in run.events.iter().filter(|event| event.sequence <= wrong.sequence) {
                eprintln!("{event:?}");
            }
            panic!("seed {seed}: {wrong:?} gave {verdict:?}");
        }
    }
    assert!(
        found_by_kind.iter().all(|&count| count > 300),
        "{bugs:?}: {found_by_kind:?}"
    );
    for (found, named) in found_by_kind.iter().zip(named) {
        assert!(
            named * 2 > *found,
            "{bugs:?}: {found_by_kind:?} found, rightly named {named:?}"
        );
    }
}

const fn name_of(bug: Bug) -> Cause {
    match bug {
        Bug::Stray => Cause::ReleaseWithoutAcquire,
        Bug::Twice => Cause::ReleasedTwice,
        Bug::Other => Cause::OtherLock,
        Bug::WrongRoutine => Cause::WrongRoutine,
        Bug::Double => Cause::DoubleAcquire,
    }
}

/// The names that a bug may be given: its own; that somebody else holds the lock, where that is so too; and the plain
/// one, where the evidence is short. A stray release by address looks like a second one if a release came before.
fn allowed_names(bug: Bug, class: Class) -> Vec<Cause> {
    let mut names = vec![name_of(bug), Cause::WrongOwner];
    match (bug, class) {
        (Bug::Stray, Class::StorPort | Class::Queued) | (Bug::Double | Bug::WrongRoutine, _) => {}
        (Bug::Stray, _) => names.push(Cause::ReleasedTwice),
        (Bug::Twice | Bug::Other, _) => names.push(Cause::ReleaseWithoutAcquire),
    }
    names
}
