//! Tests of fault plans: each kind of fault comes when its count is reached and does what it says, and the controller
//! goes on as specified.

use std::time::Duration;

use super::harness::*;
use crate::storage::nvme::life::Activity;
use crate::storage::nvme::spec::command::{SubmissionEntry, admin, nvm};
use crate::storage::nvme::spec::log_page::{ErrorEntry, SmartHealth};
use crate::storage::nvme::spec::status::Status;
use zerocopy::FromBytes;

fn fault(kind: FaultKind, after: u64, count: u64) -> Fault {
    Fault { kind, after, count }
}

fn completion(wanted: CommandMatch, what: CompletionFault, after: u64, count: u64) -> Fault {
    fault(FaultKind::Completion(wanted, what), after, count)
}

fn fetch(wanted: CommandMatch, what: FetchFault, after: u64, count: u64) -> Fault {
    fault(FaultKind::Fetch(wanted, what), after, count)
}

fn register(wanted: RegisterMatch, what: RegisterFault, after: u64) -> Fault {
    fault(FaultKind::Register(wanted, what), after, 1)
}

impl Driver {
    fn injected(&self) -> Vec<u64> {
        let counts = self.controller.faults().unwrap().counts();
        counts.iter().map(|count| count.injected).collect()
    }

    /// Sends a command of queue 1 and lets the controller work; returns its identifier.
    fn send(&mut self, command: SubmissionEntry) -> u16 {
        let id = self.submit(1, command);
        self.ring_tail(1);
        self.settle();
        id
    }
}

#[test]
fn a_controller_without_a_plan_has_no_injector() {
    assert!(Driver::cold().controller.faults().is_none());
}

#[test]
fn a_command_that_is_to_fail_is_not_executed_and_logged_as_any_failure() {
    let plan = [fetch(
        io(nvm::WRITE),
        FetchFault::Fail(Status::WRITE_FAULT.into()),
        1,
        2,
    )];
    let mut driver = Driver::with_faults(&plan);
    for fill in 1..=4u8 {
        driver.put(DATA, &[fill; 512]);
        let expected = if [2, 3].contains(&fill) {
            Status::WRITE_FAULT.with_more()
        } else {
            Status::SUCCESS
        };
        assert_eq!(driver.run(1, blocks(nvm::WRITE, u64::from(fill), 1)).status, expected);
    }
    for (lba, expected) in [(1, 1), (2, 0), (3, 0), (4, 4)] {
        driver.io_ok(blocks(nvm::READ, lba, 1));
        assert_eq!(driver.bytes(DATA, 512), vec![expected; 512], "block {lba}");
    }
    let expected = FaultCount {
        matched: 4,
        injected: 2,
    };
    assert_eq!(driver.controller.faults().unwrap().counts(), [expected]);

    driver.admin_ok(SubmissionEntry {
        dword10: (1 | 15 << 16).into(),
        ..command(admin::GET_LOG_PAGE)
    });
    let entry = ErrorEntry::read_from_bytes(&driver.bytes(DATA, 64)).unwrap();
    assert_eq!((entry.error_count.get(), entry.lba.get()), (2, 3));
    assert_eq!(Status::from_completion(entry.status.get()), Status::WRITE_FAULT);
    driver.admin_ok(SubmissionEntry {
        dword10: (2 | 127 << 16).into(),
        ..command(admin::GET_LOG_PAGE)
    });
    let smart = SmartHealth::read_from_bytes(&driver.bytes(DATA, 512)).unwrap();
    assert_eq!((smart.media_errors.get(), smart.host_write_commands.get()), (2, 2));
}

#[test]
fn admin_commands_can_fail_too() {
    let identify_only = admin_command(admin::IDENTIFY);
    let status = Status::failure(0x4006).unwrap();
    let mut driver = Driver::with_faults(&[fetch(identify_only, FetchFault::Fail(status.into()), 0, 1)]);
    driver.admin_fails(identify(1, 0), status);
    driver.admin_ok(identify(1, 0));
    assert_eq!(driver.injected(), [1]);
}

#[test]
fn a_dropped_completion_never_comes_though_the_command_was_executed() {
    let mut driver = Driver::with_faults(&[completion(io(nvm::WRITE), CompletionFault::Drop, 0, 1)]);
    driver.put(DATA, &[7; 512]);
    driver.send(blocks(nvm::WRITE, 3, 1));
    assert_eq!((driver.reap(1), driver.interrupts.take()), (None, vec![]));
    driver.io_ok(blocks(nvm::READ, 3, 1));
    assert_eq!(driver.bytes(DATA, 512), [7; 512]);
    assert_eq!(driver.injected(), [1]);
}

#[test]
fn a_lost_command_is_no_more_after_a_reset() {
    let mut driver = Driver::with_faults(&[completion(io(nvm::READ), CompletionFault::Drop, 0, u64::MAX)]);
    driver.send(blocks(nvm::READ, 0, 1));
    assert_eq!(driver.reap(1), None);
    driver.write(0x14, 0);
    driver.settle();
    driver.enable();
    driver.create_queue_pair(1);
    driver.io_ok(blocks(nvm::WRITE, 0, 1));
}

#[test]
fn a_delayed_completion_comes_when_it_is_released_and_is_overtaken() {
    let time = Duration::from_millis(250);
    let mut driver = Driver::with_faults(&[completion(io(nvm::READ), CompletionFault::Delay(time), 0, 1)]);
    let slow = driver.send(blocks(nvm::READ, 0, 1));
    assert_eq!((driver.reap(1), driver.interrupts.take()), (None, vec![]));
    let fast = driver.send(blocks(nvm::READ, 1, 1));
    assert_eq!(driver.reap(1).unwrap().command_id, fast);
    driver.interrupts.take();
    let delays = driver.controller.take_delays();
    assert_eq!(delays.iter().map(|delay| delay.1).collect::<Vec<_>>(), [time]);
    assert_eq!(driver.controller.take_delays(), []);
    driver.controller.release(delays[0].0);
    driver.settle();
    let done = driver.reap(1).unwrap();
    assert_eq!((done.command_id, done.status, done.head), (slow, Status::SUCCESS, 2));
    assert_eq!(driver.interrupts.take(), [1]);
    driver.controller.release(delays[0].0);
    driver.settle();
    assert_eq!(driver.reap(1), None, "a ticket is good once");
}

#[test]
fn a_released_completion_waits_for_room() {
    let time = Duration::from_millis(1);
    let mut driver = Driver::with_faults(&[completion(io(nvm::READ), CompletionFault::Delay(time), 0, 1)]);
    let slow = driver.send(blocks(nvm::READ, 0, 1));
    for _ in 0..IO_ENTRIES - 1 {
        driver.send(blocks(nvm::FLUSH, 0, 1));
    }
    let ticket = driver.controller.take_delays()[0].0;
    driver.controller.release(ticket);
    driver.settle();
    for _ in 0..IO_ENTRIES - 1 {
        assert_ne!(driver.reap(1).unwrap().command_id, slow);
    }
    assert_eq!(driver.reap(1), None, "the queue was full");
    driver.ring_head(1);
    driver.settle();
    assert_eq!(driver.reap(1).unwrap().command_id, slow);
}

#[test]
fn delayed_completions_go_with_their_queue_and_with_a_reset() {
    let time = Duration::from_secs(1);
    let mut driver = Driver::with_faults(&[completion(io(nvm::READ), CompletionFault::Delay(time), 0, 2)]);
    driver.send(blocks(nvm::READ, 0, 1));
    driver.admin_ok(SubmissionEntry {
        dword10: 1.into(),
        ..command(admin::DELETE_SUBMISSION_QUEUE)
    });
    let (sq, _) = Driver::queue_addresses(1);
    driver.admin_ok(create_sq(sq, 1 | (IO_ENTRIES - 1) << 16, 1 | 1 << 16));
    driver.submission[1] = Ring::new(sq, IO_ENTRIES);
    let first = driver.controller.take_delays()[0].0;
    driver.controller.release(first);
    driver.settle();
    assert_eq!(driver.reap(1), None);

    driver.send(blocks(nvm::READ, 0, 1));
    let second = driver.controller.take_delays()[0].0;
    assert_ne!(first, second);
    driver.write(0x14, 0);
    driver.settle();
    driver.enable();
    driver.submission.truncate(1);
    driver.create_queue_pair(1);
    driver.controller.release(second);
    driver.settle();
    assert_eq!(driver.reap(1), None);
}

#[test]
fn so_many_delayed_completions_stop_the_fetching_and_no_more() {
    let time = Duration::from_secs(1);
    let mut driver = Driver::with_faults(&[completion(io(nvm::READ), CompletionFault::Delay(time), 0, u64::MAX)]);
    let mut sent = 0;
    while driver.is_all_fetched() {
        driver.send(blocks(nvm::READ, 0, 1));
        sent += 1;
        assert!(sent < 2000, "the delayed completions are not bounded");
    }
    assert_eq!(driver.controller.completions().withheld().0, sent - 1);
    assert_eq!(driver.controller.process(), Progress::Idle);
    let ticket = driver.controller.take_delays()[0].0;
    driver.controller.release(ticket);
    driver.settle();
    assert!(driver.reap(1).is_some());
    assert!(driver.is_all_fetched());
}

#[test]
fn a_duplicate_is_the_same_completion_again() {
    let mut driver = Driver::with_faults(&[completion(io(nvm::READ), CompletionFault::Duplicate, 0, 1)]);
    driver.send(blocks(nvm::READ, 0, 1));
    let first = driver.reap(1).unwrap();
    assert_eq!(driver.reap(1), Some(first));
    assert_eq!(driver.reap(1), None);
    driver.ring_head(1);
    driver.io_ok(blocks(nvm::READ, 0, 1));
}

#[test]
fn a_duplicate_waits_for_room() {
    let mut driver = Driver::with_faults(&[completion(io(nvm::READ), CompletionFault::Duplicate, 0, 1)]);
    for _ in 0..IO_ENTRIES - 2 {
        driver.send(blocks(nvm::FLUSH, 0, 1));
    }
    let id = driver.send(blocks(nvm::READ, 0, 1));
    for _ in 0..IO_ENTRIES - 2 {
        driver.reap(1).unwrap();
    }
    assert_eq!(driver.reap(1).unwrap().command_id, id);
    assert_eq!(driver.reap(1), None);
    driver.ring_head(1);
    driver.settle();
    assert_eq!(driver.reap(1).unwrap().command_id, id);
}

#[test]
fn a_stray_completion_names_a_command_that_nobody_sent() {
    let mut driver = Driver::with_faults(&[completion(io(nvm::READ), CompletionFault::Stray, 0, 1)]);
    let taken = SubmissionEntry {
        command_id: 0xfffe.into(),
        ..blocks(nvm::FLUSH, 0, 1)
    };
    // The flush is outstanding when the read completes: its turn is over after one command.
    driver.admin_ok(SubmissionEntry {
        dword10: 1.into(),
        dword11: 0.into(),
        ..command(admin::SET_FEATURES)
    });
    let id = driver.submit(1, blocks(nvm::READ, 0, 1));
    driver.submit(1, taken);
    driver.ring_tail(1);
    driver.settle();
    let ids: Vec<u16> = std::iter::from_fn(|| driver.reap(1))
        .map(|done| done.command_id)
        .collect();
    assert_eq!(ids, [id, 0xfffd, 0xfffe]);
}

#[test]
fn a_fatal_error_at_a_command_stops_everything_until_a_reset() {
    let mut driver = Driver::with_faults(&[fetch(io(nvm::WRITE), FetchFault::Fatal, 1, 1)]);
    driver.put(DATA, &[1; 512]);
    driver.io_ok(blocks(nvm::WRITE, 0, 1));
    driver.put(DATA, &[2; 512]);
    driver.send(blocks(nvm::WRITE, 0, 1));
    assert_eq!(driver.read(0x1c), 3, "CFS");
    assert_eq!(driver.controller.activity(), Activity::Fatal);
    driver.send(blocks(nvm::READ, 0, 1));
    assert_eq!(driver.reap(1), None);
    driver.write(0x14, 0);
    driver.settle();
    assert_eq!(driver.read(0x1c), 0);
    driver.enable();
    driver.submission.truncate(1);
    driver.completion.truncate(1);
    driver.create_queue_pair(1);
    driver.io_ok(blocks(nvm::READ, 0, 1));
    assert_eq!(driver.bytes(DATA, 512), [1; 512], "the second write was not executed");
    assert_eq!(driver.injected(), [1]);
}

#[test]
fn a_fatal_error_at_a_register_write() {
    let at_enable = register(RegisterMatch::at(0x14), RegisterFault::Fatal, 0);
    let config = crate::storage::nvme::NvmeConfig {
        faults: vec![at_enable],
        ..Default::default()
    };
    let backend = crate::storage::backend::MemoryBackend::new(DISK);
    let mut driver = Driver::with_config(config, vec![Box::new(backend)]);
    assert!(driver.write(0x14, CC_ENABLE));
    driver.settle();
    assert_eq!(driver.read(0x1c), 2, "CFS, and never ready");
    driver.write(0x14, 0);
    driver.settle();
    driver.enable();
    assert_eq!(driver.injected(), [1]);
}

#[test]
fn a_dropped_register_write_has_no_effect() {
    let mut driver = Driver::with_faults(&[register(ANY_DOORBELL, RegisterFault::Drop, 4)]);
    // The two commands that create the queues have rung four doorbells.
    let first = driver.submit(1, blocks(nvm::READ, 0, 1));
    assert!(!driver.ring_tail(1), "the worker is not even woken");
    driver.settle();
    assert_eq!(driver.reap(1), None);
    let second = driver.send(blocks(nvm::READ, 0, 1));
    assert_eq!(driver.reap(1).unwrap().command_id, first);
    assert_eq!(driver.reap(1).unwrap().command_id, second);
    assert_eq!(driver.injected(), [1]);
}

#[test]
fn asynchronous_events_are_completions_like_others() {
    let requests = admin_command(admin::ASYNC_EVENT_REQUEST);
    let mut driver = Driver::with_faults(&[completion(requests, CompletionFault::Drop, 0, 1)]);
    for _ in 0..2 {
        driver.submit(0, command(admin::ASYNC_EVENT_REQUEST));
    }
    driver.ring_tail(0);
    driver.write(0x1000 + 8 * 2, 1);
    driver.settle();
    assert_eq!(driver.reap(0), None);
    assert_eq!(
        (driver.injected(), driver.controller.admin().events().waiting().0),
        (vec![1], 1)
    );
}
