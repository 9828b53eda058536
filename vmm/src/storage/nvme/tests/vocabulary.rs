//! Every pair of a fault and what it is about that a plan can say happens, and is seen by the driver.

use std::time::Duration;

use super::harness::*;
use crate::storage::fault::{CommandCode, WordKind};
use crate::storage::nvme::faults::VOCABULARY;
use crate::storage::nvme::spec::command::{SubmissionEntry, admin, nvm};
use crate::storage::nvme::spec::status::Status;

const TIME: Duration = Duration::from_secs(1);

/// The commands that words name: class, opcode, and what a plan has for them.
fn commands() -> Vec<(&'static str, u8, u8, CommandMatch)> {
    let mut all = vec![("any", 1, nvm::READ, CommandMatch::Any)];
    for class in VOCABULARY.classes {
        let (_, first) = class.commands[0];
        all.push((class.name, class.class, first as u8, CommandMatch::Class(class.class)));
        for &(name, code) in class.commands {
            let wanted = CommandMatch::Code(CommandCode {
                class: class.class,
                code,
            });
            all.push((name, class.class, code as u8, wanted));
        }
    }
    all
}

/// A driver of a controller that does this once, to the first thing that it is about behind the start.
fn driver(kind: FaultKind) -> Driver {
    let plan = |after| [Fault { kind, after, count: 1 }];
    let start = Driver::with_faults(&plan(u64::MAX));
    let matched = start.controller.faults().unwrap().counts()[0].matched;
    Driver::with_faults(&plan(matched))
}

/// Sends the command; one that waits for an event gets one.
fn send(driver: &mut Driver, class: u8, opcode: u8) -> (usize, u16) {
    let queue = usize::from(class);
    let command = if class == 1 {
        blocks(opcode, 0, 1)
    } else {
        command(opcode)
    };
    let id = driver.submit(queue, command);
    driver.ring_tail(queue);
    driver.settle();
    if (class, opcode) == (0, admin::ASYNC_EVENT_REQUEST) && driver.read(0x1c) == 1 {
        // A doorbell that there is not.
        driver.write(0x1000 + 8 * 2, 1);
        driver.settle();
    }
    (queue, id)
}

/// What the driver sees of a fault at a command; an error says what it sees instead.
fn happens(kind: WordKind, (class, opcode): (u8, u8), wanted: CommandMatch) -> Result<(), String> {
    let fault = match kind {
        WordKind::Fail => FaultKind::Fetch(wanted, FetchFault::Fail(VOCABULARY.default_status)),
        WordKind::Delay => FaultKind::Completion(wanted, CompletionFault::Delay(TIME)),
        WordKind::Fetch(fault) => FaultKind::Fetch(wanted, fault),
        WordKind::Completion(fault) => FaultKind::Completion(wanted, fault),
        WordKind::Remove | WordKind::Register(_) => unreachable!("none of its faults of commands"),
    };
    let mut driver = driver(fault);
    let (queue, id) = send(&mut driver, class, opcode);
    let done: Vec<Done> = std::iter::from_fn(|| driver.reap(queue)).collect();
    let seen = match fault {
        FaultKind::Fetch(_, FetchFault::Fail(_)) => {
            done.len() == 1 && done[0].status == Status::INTERNAL_ERROR.with_more()
        }
        FaultKind::Fetch(_, FetchFault::Fatal) => done.is_empty() && driver.read(0x1c) & 2 != 0,
        FaultKind::Fetch(_, FetchFault::ReadOnly) => {
            driver.ring_head(1);
            driver.run(1, blocks(nvm::WRITE, 0, 1)).status == Status::NAMESPACE_WRITE_PROTECTED.with_more()
        }
        FaultKind::Completion(_, CompletionFault::Delay(_)) => {
            let ticket = driver.controller.take_delays()[0].0;
            driver.controller.release(ticket);
            driver.settle();
            done.is_empty() && driver.reap(queue).is_some_and(|done| done.command_id == id)
        }
        FaultKind::Completion(_, CompletionFault::Drop) => done.is_empty(),
        FaultKind::Completion(_, CompletionFault::Duplicate) => done.len() == 2 && done[0] == done[1],
        FaultKind::Completion(_, CompletionFault::Stray) => {
            done.len() == 2 && done[0].command_id == id && done[1].command_id != id
        }
        _ => false,
    };
    let counts = driver.controller.faults().unwrap().counts();
    if seen && counts[0].injected == 1 {
        return Ok(());
    }
    Err(format!("{counts:?} {done:?}"))
}

#[test]
fn each_fault_happens_to_each_command_that_it_can_be_said_of() {
    let mut pairs = 0;
    let of_commands = |kind| !matches!(kind, WordKind::Register(_));
    for word in VOCABULARY.kinds.iter().filter(|word| of_commands(word.kind)) {
        for (name, class, opcode, wanted) in commands() {
            if word.except.iter().any(|(except, _)| except.covers(wanted)) {
                continue;
            }
            if let Err(seen) = happens(word.kind, (class, opcode), wanted) {
                panic!("{}:{name}: {seen}", word.name);
            }
            pairs += 1;
        }
    }
    assert!(pairs > 120, "{pairs}");
}

#[test]
fn a_medium_becomes_read_only_at_a_command_that_is_about_one() {
    let kind = FaultKind::Fetch(CommandMatch::Any, FetchFault::ReadOnly);
    let flush = |nsid: u32| SubmissionEntry {
        namespace_id: nsid.into(),
        ..command(nvm::FLUSH)
    };
    let mut driver = driver(kind);
    driver.admin_ok(identify(0, 1));
    driver.run(1, flush(2));
    let counts = driver.controller.faults().unwrap().counts();
    assert_eq!(counts[0], FaultCount::default(), "none was for a medium that is there");
    driver.io_ok(blocks(nvm::READ, 0, 1));
    driver.io_fails(blocks(nvm::WRITE, 0, 1), Status::NAMESPACE_WRITE_PROTECTED);
    let mut driver = self::driver(kind);
    driver.io_ok(flush(u32::MAX));
    driver.io_fails(blocks(nvm::WRITE, 0, 1), Status::NAMESPACE_WRITE_PROTECTED);
}

/// A write that each register heeds: while the controller is on, or (AQA, ASQ, ACQ) off.
fn write(driver: &mut Driver, place: u64) {
    match place {
        0x1000 => drop(driver.write(place, 1)),
        0x14 => drop(driver.write(place, 0)),
        // "NVMe".
        0x20 => drop(driver.write(place, 0x4e56_4d65)),
        0x24 => drop(driver.write(place, 0x0003_0003)),
        _ => drop(driver.write64(place, 0x5000)),
    }
}

#[test]
fn each_register_fault_happens_to_each_register() {
    for (name, wanted) in VOCABULARY.registers {
        let state = |driver: &Driver| format!("{:?}", driver.registers.lock());
        let prepared = |faults: &[Fault]| {
            let mut driver = Driver::with_faults(faults);
            if (0x24..=0x30).contains(&wanted.first) {
                driver.write(0x14, 0);
                driver.settle();
            }
            driver
        };
        let mut without = prepared(&[]);
        let before = state(&without);
        write(&mut without, wanted.first);
        assert_ne!(state(&without), before, "a write to {name} has no effect anyway");
        for word in VOCABULARY.kinds {
            let WordKind::Register(fault) = word.kind else { continue };
            let plan = |after| Fault {
                kind: FaultKind::Register(*wanted, fault),
                after,
                count: 1,
            };
            let matched = prepared(&[plan(u64::MAX)]).controller.faults().unwrap().counts()[0].matched;
            let mut driver = prepared(&[plan(matched)]);
            let before = state(&driver);
            write(&mut driver, wanted.first);
            match fault {
                RegisterFault::Drop => assert_eq!(state(&driver), before, "drop:{name}"),
                RegisterFault::Fatal => {
                    driver.settle();
                    assert_ne!(driver.read(0x1c) & 2, 0, "fatal:{name}");
                }
            }
            let injected = driver.controller.faults().unwrap().counts()[0].injected;
            assert_eq!(injected, 1, "{}:{name}", word.name);
        }
    }
}
