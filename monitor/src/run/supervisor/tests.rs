//! Tests of the loop on a machine whose stops are given in advance.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::notices::Silent;

/// What was done to the machine.
#[derive(Debug, Clone, PartialEq)]
enum Done {
    Wait(Duration),
    Resume,
    ResumeBy(Vec<ResumeAction>),
    Interrupt,
    PowerButton,
}

/// A machine that stops as it is told to, each time after some milliseconds, or at its limit.
struct Script {
    stops: RefCell<VecDeque<(u64, MachineStop)>>,
    done: RefCell<Vec<Done>>,
    has_power: bool,
    /// An interruption is for a dump.
    for_dump: Cell<bool>,
}

impl Script {
    fn new(stops: impl IntoIterator<Item = (u64, MachineStop)>) -> Self {
        Self {
            stops: RefCell::new(stops.into_iter().collect()),
            done: RefCell::default(),
            has_power: true,
            for_dump: Cell::new(false),
        }
    }

    fn run(&self, limit: u64, grace: Option<u64>, at_violation: &mut dyn FnMut(u32) -> AtViolation) -> Ending {
        self.run_until(limit, grace, at_violation, &|| false)
    }

    fn run_until(
        &self,
        limit: u64,
        grace: Option<u64>,
        at_violation: &mut dyn FnMut(u32) -> AtViolation,
        interrupted: &dyn Fn() -> bool,
    ) -> Ending {
        self.run_with(None, (limit, grace), at_violation, interrupted)
    }

    fn run_with(
        &self,
        debugger: Option<DebuggerLink>,
        (limit, grace): (u64, Option<u64>),
        at_violation: &mut dyn FnMut(u32) -> AtViolation,
        interrupted: &dyn Fn() -> bool,
    ) -> Ending {
        let supervisor = Supervisor {
            machine: self,
            limit: Duration::from_millis(limit),
            grace: grace.map(Duration::from_millis),
            interrupted,
            debugger,
            at_violation,
            at_stop: &mut || self.for_dump.take(),
            notices: &Silent,
        };
        supervisor.run()
    }

    fn count(&self, what: &Done) -> usize {
        self.done.borrow().iter().filter(|done| *done == what).count()
    }
}

impl SupervisedMachine for Script {
    fn wait(&self, limit: Duration) -> MachineStop {
        self.done.borrow_mut().push(Done::Wait(limit));
        let Some((after, stop)) = self.stops.borrow_mut().pop_front() else {
            return MachineStop::TimeLimit;
        };
        let after = Duration::from_millis(after);
        if after > limit {
            self.stops.borrow_mut().push_front((0, stop));
            return MachineStop::TimeLimit;
        }
        thread::sleep(after);
        stop
    }

    fn resume(&self) {
        self.done.borrow_mut().push(Done::Resume);
    }

    fn resume_by(&self, actions: &[ResumeAction], _: Duration) -> Result<Option<MachineStop>, ()> {
        self.done.borrow_mut().push(Done::ResumeBy(actions.to_vec()));
        Ok(None)
    }

    fn interrupt(&self) {
        self.done.borrow_mut().push(Done::Interrupt);
        self.stops.borrow_mut().push_front((0, MachineStop::Interrupted));
    }

    fn press_power_button(&self) -> bool {
        self.done.borrow_mut().push(Done::PowerButton);
        self.has_power
    }
}

fn name(stop: &MachineStop) -> String {
    format!("{stop:?}")
}

const VIOLATION: MachineStop = MachineStop::Breakpoint { cpu: 1 };

#[test]
fn the_limit_counts_the_time_in_which_the_machine_runs_and_no_other() {
    let machine = Script::new([(30, VIOLATION), (0, VIOLATION), (0, MachineStop::PowerOff)]);
    let ending = machine.run(10_000, None, &mut |cpu| {
        assert_eq!(cpu, 1);
        thread::sleep(Duration::from_millis(200));
        AtViolation::default()
    });
    assert!(matches!(ending.stop, MachineStop::PowerOff) && ending.shutdown.is_none());
    let done = machine.done.borrow();
    let waits: Vec<Duration> = done
        .iter()
        .filter_map(|done| {
            if let Done::Wait(limit) = done {
                Some(*limit)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(waits.len(), 3);
    let ran = waits[0].checked_sub(waits[2]).unwrap();
    assert!(ran >= Duration::from_millis(30), "{ran:?}");
    assert!(
        ran < Duration::from_millis(200),
        "the violations' time is not counted: {ran:?}"
    );
}

#[test]
fn a_dump_that_has_used_up_the_limit_ends_the_run() {
    let machine = Script::new([(0, VIOLATION), (1, MachineStop::PowerOff)]);
    let late = AtViolation {
        debugger: false,
        time_is_over: true,
        deadlock: false,
    };
    assert!(matches!(
        machine.run(10_000, None, &mut |_| late).stop,
        MachineStop::TimeLimit
    ));
    assert_eq!(machine.done.borrow().last(), Some(&Done::Wait(Duration::ZERO)));
}

#[test]
fn a_processor_that_would_wait_for_ever_ends_the_run() {
    let machine = Script::new([(0, VIOLATION), (1, MachineStop::PowerOff)]);
    let deadlock = AtViolation {
        deadlock: true,
        ..AtViolation::default()
    };
    let ending = machine.run(10_000, None, &mut |_| deadlock);
    assert!(matches!(ending.stop, MachineStop::Breakpoint { .. }));
    assert_eq!(machine.count(&Done::Resume), 1, "it was only started");
}

#[test]
fn the_power_button_is_pressed_once_and_what_comes_of_it_is_told() {
    for (then, told) in [
        (MachineStop::PowerOff, "the guest shut down"),
        (MachineStop::TimeLimit, "did not shut down in time"),
        (MachineStop::Interrupted, "ended otherwise"),
        (MachineStop::Stopped, "ended otherwise"),
    ] {
        let machine = Script::new([(0, MachineStop::TimeLimit), (0, then.clone())]);
        let ending = machine.run(10_000, Some(5000), &mut |_| AtViolation::default());
        let shutdown = ending.shutdown.unwrap();
        assert!(
            shutdown.contains("at the time limit") && shutdown.contains(told),
            "{shutdown}"
        );
        assert_eq!(
            (name(&ending.stop), machine.count(&Done::PowerButton)),
            (name(&then), 1)
        );
        assert_eq!(machine.done.borrow().last(), Some(&Done::Wait(Duration::from_secs(5))));
    }
}

#[test]
fn a_machine_that_cannot_go_on_after_the_button_was_never_asked_to_shut_down() {
    let machine = Script {
        has_power: false,
        ..Script::new([(0, MachineStop::Interrupted)])
    };
    let ending = machine.run(10_000, Some(5000), &mut |_| AtViolation::default());
    assert!(matches!(ending.stop, MachineStop::Interrupted) && ending.shutdown.is_none());
}

#[test]
fn a_machine_that_was_interrupted_for_a_dump_goes_on() {
    let machine = Script::new([(0, MachineStop::Interrupted), (0, MachineStop::PowerOff)]);
    machine.for_dump.set(true);
    let ending = machine.run(10_000, Some(5), &mut |_| AtViolation::default());
    assert_eq!(name(&ending.stop), "PowerOff");
    assert_eq!(
        (machine.count(&Done::Resume), machine.count(&Done::PowerButton)),
        (2, 0)
    );
    // One by the user ends the run, whatever else it was for.
    let machine = Script::new([(0, MachineStop::Interrupted), (0, MachineStop::PowerOff)]);
    machine.for_dump.set(true);
    let ending = machine.run_until(10_000, None, &mut |_| AtViolation::default(), &|| true);
    assert_eq!(name(&ending.stop), "Interrupted");
}

#[test]
fn an_interruption_while_the_machine_stands_still_is_repeated_to_it() {
    let interrupted = Cell::new(false);
    let machine = Script::new([(0, VIOLATION), (0, VIOLATION), (0, MachineStop::PowerOff)]);
    let mut at_violation = |_| {
        interrupted.set(true);
        AtViolation::default()
    };
    let ending = machine.run_until(10_000, None, &mut at_violation, &|| interrupted.get());
    assert_eq!(
        (name(&ending.stop), machine.count(&Done::Interrupt)),
        ("Interrupted".into(), 1)
    );
    // One that came while it ran was heard: the guest is shutting down since.
    let machine = Script::new([
        (0, MachineStop::Interrupted),
        (0, VIOLATION),
        (0, MachineStop::PowerOff),
    ]);
    let ending = machine.run_until(10_000, Some(5_000), &mut |_| AtViolation::default(), &|| true);
    assert_eq!(
        (name(&ending.stop), machine.count(&Done::Interrupt)),
        ("PowerOff".into(), 0)
    );
}

#[test]
fn an_interruption_while_the_machine_is_about_to_stop_is_repeated_to_it() {
    // The machine does not hear it, and the thread that waits learns of it only when it is told of the violation.
    let machine = Script::new([(0, VIOLATION), (0, MachineStop::PowerOff)]);
    let ending = machine.run_until(10_000, None, &mut |_| AtViolation::default(), &|| true);
    assert_eq!(
        (name(&ending.stop), machine.count(&Done::Interrupt)),
        ("Interrupted".into(), 1)
    );
}

#[test]
fn a_dump_that_is_asked_for_while_the_machine_stops_for_something_else_is_made_then() {
    for stop in [VIOLATION, MachineStop::PowerOff, MachineStop::TimeLimit] {
        let machine = Script::new([(0, stop.clone()), (0, MachineStop::PowerOff)]);
        machine.for_dump.set(true);
        machine.run(10_000, None, &mut |_| {
            assert!(!machine.for_dump.get(), "it comes first");
            AtViolation::default()
        });
        assert!(!machine.for_dump.get(), "{stop:?}");
    }
}

#[test]
fn a_guest_that_shuts_down_goes_on_after_a_dump() {
    let machine = Script::new([
        (0, MachineStop::Interrupted),
        (0, VIOLATION),
        (0, MachineStop::Interrupted),
        (0, MachineStop::PowerOff),
    ]);
    let mut at_violation = |_| {
        machine.for_dump.set(true);
        AtViolation::default()
    };
    let ending = machine.run_until(10_000, Some(5000), &mut at_violation, &|| true);
    assert_eq!(name(&ending.stop), "PowerOff");
    assert!(!machine.for_dump.get() && machine.count(&Done::PowerButton) == 1);
}

/// A debugger that has one processor step and the other one held when the run begins, and is then told of stops.
fn stepping() -> (
    DebuggerLink,
    tokio::sync::mpsc::UnboundedReceiver<DebuggeeStop>,
    Vec<ResumeAction>,
) {
    let actions = vec![ResumeAction::Step { range: Some((1, 9)) }, ResumeAction::Hold];
    let commands = [actions.clone(), Vec::new()].map(DebuggerCommand::Resume);
    let (link, told) = DebuggerLink::scripted(commands.into());
    (link, told, actions)
}

#[test]
fn a_debugger_s_step_goes_on_after_a_dump() {
    let (link, mut told, actions) = stepping();
    let stepped = MachineStop::Stepped { cpu: 0 };
    let machine = Script::new([(0, MachineStop::Interrupted), (0, stepped), (0, MachineStop::PowerOff)]);
    machine.for_dump.set(true);
    let ending = machine.run_with(Some(link), (10_000, None), &mut |_| AtViolation::default(), &|| false);
    assert_eq!(name(&ending.stop), "PowerOff");
    assert_eq!(machine.count(&Done::ResumeBy(actions)), 2);
    assert_eq!(told.try_recv(), Ok(DebuggeeStop::Start));
    assert_eq!(told.try_recv(), Ok(DebuggeeStop::Stepped(0)));
}

#[test]
fn a_violation_that_is_not_told_to_the_debugger_ends_the_step_of_its_processor_only() {
    let (link, mut told, actions) = stepping();
    let machine = Script::new([
        (0, MachineStop::Breakpoint { cpu: 1 }),
        (0, MachineStop::Breakpoint { cpu: 0 }),
        (0, MachineStop::PowerOff),
    ]);
    let mut at_violation = |_| AtViolation::default();
    machine.run_with(Some(link), (10_000, None), &mut at_violation, &|| false);
    assert_eq!(machine.count(&Done::ResumeBy(actions)), 2);
    assert_eq!(told.try_recv(), Ok(DebuggeeStop::Start));
    assert_eq!(told.try_recv(), Ok(DebuggeeStop::Stepped(0)));
    assert!(told.try_recv().is_err());
}

fn stops() -> impl Strategy<Value = MachineStop> {
    prop_oneof![
        4 => Just(VIOLATION),
        1 => Just(MachineStop::TimeLimit),
        1 => Just(MachineStop::Interrupted),
        1 => Just(MachineStop::PowerOff),
        1 => Just(MachineStop::Stopped),
        1 => Just(MachineStop::Reset),
    ]
}

proptest! {
    /// Whatever the machine does: a machine is waited for only after it was let go, each violation is handled once, and the
    /// run ends with the first stop that is neither a violation nor answered by the power button.
    #[test]
    fn every_run_ends_with_the_stop_that_ends_it(stops in prop::collection::vec(stops(), 0..20), grace in any::<bool>()) {
        let mut button = grace;
        let mut violations = 0;
        let mut expected = MachineStop::TimeLimit;
        let script = stops.iter().chain(std::iter::repeat(&MachineStop::TimeLimit));
        for stop in script {
            match stop {
                MachineStop::Breakpoint { .. } => violations += 1,
                MachineStop::TimeLimit | MachineStop::Interrupted if std::mem::take(&mut button) => {}
                other => {
                    expected = other.clone();
                    break;
                }
            }
        }
        let machine = Script::new(stops.into_iter().map(|stop| (0, stop)));
        let mut seen = 0;
        let ending = machine.run(60_000, grace.then_some(60_000), &mut |_| {
            seen += 1;
            AtViolation::default()
        });
        prop_assert_eq!(name(&ending.stop), name(&expected));
        prop_assert_eq!(seen, violations);
        let mut running = false;
        for done in machine.done.borrow().iter() {
            match done {
                Done::Wait(_) => prop_assert!(std::mem::replace(&mut running, false)),
                Done::Resume | Done::ResumeBy(_) | Done::PowerButton => running = true,
                Done::Interrupt => {}
            }
        }
    }
}
