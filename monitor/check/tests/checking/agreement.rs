//! The checker and the slow reference say the same of random traces, right and wrong, watched in part and from late on.

use storlock_check::checker::{Checker, Limits};
use storlock_check::contract::RoutineSet;

use crate::kernel::{Config, Kernel};
use crate::program::{Bug, Random};
use crate::reference::Reference;

const TRACES: u64 = 100_000;
const BUGS: [Option<Bug>; 6] = [
    None,
    Some(Bug::Stray),
    Some(Bug::Twice),
    Some(Bug::Other),
    Some(Bug::WrongRoutine),
    Some(Bug::Double),
];

fn config(random: &mut Random) -> Config {
    let processors = 1 + random.below(3);
    Config {
        processors,
        threads: processors + 1 + random.below(3),
        events: 40 + random.below(80),
        returns: random.pick(&[0, 30, 100]),
        nested: random.percent(50),
        dpc_stack: random.percent(50),
        bug: random.pick(&BUGS),
        watched: RoutineSet::from_bits(if random.percent(50) {
            u64::MAX
        } else {
            random.next() | random.next()
        }),
        unwatched_calls: if random.percent(70) { 0 } else { 1 + random.below(60) },
    }
}

#[test]
fn checker_agrees_with_the_reference() {
    let mut verdicts = [0_u64; 3];
    for seed in 0..TRACES {
        let mut random = Random(seed ^ 0xa9ee);
        let run = Kernel::run(config(&mut random), seed);
        let (mut checker, mut reference) = (Checker::new(Limits::default(), seed), Reference::default());
        for event in &run.events {
            let found = checker.apply(event).found.map(|found| found.verdict);
            let expected = reference.apply(event);
            if found != expected {
                for earlier in run.events.iter().filter(|earlier| earlier.sequence <= event.sequence) {
                    eprintln!("{earlier:?}");
                }
                panic!(
                    "seed {seed}: checker {found:?}, reference {expected:?}: {:?}",
                    checker.violations().last()
                );
            }
            if let Some(verdict) = found {
                verdicts[verdict as usize] += 1;
            }
        }
    }
    assert!(
        verdicts.iter().all(|&count| count > 1_000),
        "semantic, literal, suspect: {verdicts:?}"
    );
}
