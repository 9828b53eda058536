//! Faults that a plan has the controller inject.

use std::time::Duration;

use super::events::listen;
use super::harness::*;
use crate::storage::fault::{
    CommandCode, CommandMatch, CompletionFault, Fault, FaultKind, FetchFault, RegisterFault, RegisterMatch,
};
use crate::storage::sas::SasConfig;
use crate::storage::sas::faults::{IO, MESSAGE, TASK_MANAGEMENT, VOCABULARY};
use crate::storage::sas::spec::{function, ioc_state, offset};
use crate::storage::worker::{StorageController, Ticket};

fn of(class: u8, code: u16) -> CommandMatch {
    CommandMatch::Code(CommandCode { class, code })
}

/// The first so many SCSI commands of that code have their completion spoilt.
pub(super) fn completion(opcode: u8, fault: CompletionFault, count: u64) -> Fault {
    Fault {
        kind: FaultKind::Completion(of(IO, opcode.into()), fault),
        after: 0,
        count,
    }
}

fn fetch(what: CommandMatch, fault: FetchFault) -> Fault {
    Fault {
        kind: FaultKind::Fetch(what, fault),
        after: 0,
        count: 1,
    }
}

pub(super) fn driver_with(faults: &[Fault]) -> Driver {
    let config = SasConfig {
        faults: faults.to_vec(),
        ..SasConfig::default()
    };
    Driver::with_config(config, 2)
}

const READS: CommandMatch = CommandMatch::Code(CommandCode { class: IO, code: 0x28 });

fn failing(status: u64) -> Driver {
    let status = (VOCABULARY.status)(status).unwrap();
    driver_with(&[fetch(READS, FetchFault::Fail(status))])
}

#[test]
fn a_command_fails_with_the_status_that_was_given() {
    for (status, scsi_status, ioc, sense) in [
        (0x0203_1100, 2, 0x45, Some([3, 0x11, 0])),
        (0x08, 8, 0x45, None),
        (0x28, 0x28, 0x45, None),
        (0x40, 0x40, 0x45, None),
        (0x8000_004b, 0, 0x4b, None),
    ] {
        let mut driver = failing(status);
        driver.fill(DATA, &[0xaa; BLOCK]);
        // Any form of READ.
        let request = scsi(0, &[0x08, 0, 0, 0, 1, 0], Way::In, BLOCK);
        let reply = driver.run(&request).frame();
        assert_eq!(
            (reply[0x0c], ioc_status(&reply), u32_at(&reply, 0x14)),
            (scsi_status, ioc, 0)
        );
        assert_eq!(driver.bytes(DATA, BLOCK), [0xaa; BLOCK], "not executed");
        if let Some([key, code, qualifier]) = sense {
            let found = driver.bytes(SENSE, 18);
            assert_eq!((found[2], found[12], found[13], reply[0x0d]), (key, code, qualifier, 1));
        }
        driver.ok(&request);
    }
}

/// A plan names one form of a command, and means all.
#[test]
fn all_forms_of_a_command_are_one_to_a_plan() {
    for (named, forms) in [
        (0x28, vec![0x08, 0x28, 0xa8, 0x88]),
        (0x2a, vec![0x0a, 0x2a, 0xaa, 0x8a]),
        (0x2f, vec![0x2f, 0xaf, 0x8f]),
        (0x35, vec![0x35, 0x91]),
        (0x41, vec![0x41, 0x93]),
        (0x5a, vec![0x1a, 0x5a]),
        (0x55, vec![0x15, 0x55]),
        (0x12, vec![0x12]),
    ] {
        for form in forms {
            let mut driver = driver_with(&[fetch(of(IO, named), FetchFault::Fail(0x08))]);
            let mut cdb = [0; 16];
            cdb[0] = form;
            let reply = driver.run(&scsi(0, &cdb, Way::None, 0)).frame();
            assert_eq!(reply[0x0c], 8, "{form:#x}");
        }
    }
}

#[test]
fn only_failures_are_statuses() {
    for status in [
        0,
        0x02,
        0x03,
        0x100,
        0x0210_0000,
        0x0400_0000,
        0x8000_0000,
        0x8001_0004,
        0x8000_8004,
        1 << 32,
    ] {
        assert_eq!((VOCABULARY.status)(status), None, "{status:#x}");
    }
    let default = VOCABULARY.default_status;
    assert_eq!((VOCABULARY.status)(default.into()), Some(default));
}

#[test]
fn replies_are_lost_doubled_and_made_up() {
    let mut driver = driver_with(&[completion(0x28, CompletionFault::Drop, 1)]);
    driver.post(&read(0, 0, 1));
    assert_eq!(driver.reap(), None);
    driver.ok(&read(0, 0, 1));
    let mut driver = driver_with(&[completion(0x28, CompletionFault::Duplicate, 1)]);
    driver.post(&read(0, 0, 1));
    assert_eq!(driver.reap(), Some(Got::Context(0x0001_0007)));
    assert_eq!(driver.reap(), Some(Got::Context(0x0001_0007)));
    let mut driver = driver_with(&[completion(0x28, CompletionFault::Stray, 1)]);
    let mut request = write(0, 0, 1);
    request[8] = 0x33;
    assert_eq!(driver.run(&request), Got::Context(0x0001_0033));
    driver.post(&read(0, 0, 1));
    assert_eq!(driver.reap(), Some(Got::Context(0x0001_0007)));
    assert_eq!(
        driver.reap(),
        Some(Got::Context(0x0001_0033)),
        "nothing is outstanding for it"
    );
    assert_eq!(driver.reap(), None);
}

#[test]
fn a_delayed_reply_comes_when_its_time_has_come() {
    let time = Duration::from_millis(50);
    let mut driver = driver_with(&[completion(0x28, CompletionFault::Delay(time), 1)]);
    driver.post(&read(0, 0, 1));
    assert_eq!(driver.reap(), None);
    let [(ticket, told)] = driver.controller.take_delays()[..] else {
        panic!("one ticket");
    };
    assert!(told == time && driver.controller.is_delayed(ticket));
    driver.controller.release(ticket);
    driver.settle();
    assert_eq!(driver.reap(), Some(Got::Context(0x0001_0007)));
    driver.controller.release(ticket);
    driver.settle();
    assert_eq!(driver.reap(), None);
    // A reset makes a ticket mean nothing.
    let mut driver = driver_with(&[completion(0x28, CompletionFault::Delay(time), 1)]);
    driver.post(&read(0, 0, 1));
    let ticket = driver.controller.take_delays()[0].0;
    driver.put(offset::DOORBELL, 0x40 << 24);
    assert!(!driver.controller.is_delayed(ticket));
    driver.controller.release(ticket);
    driver.settle();
    driver.initialise();
    assert_eq!(driver.reap(), None);
}

#[test]
fn a_fatal_fault_stops_the_ioc() {
    let mut driver = driver_with(&[fetch(READS, FetchFault::Fatal)]);
    driver.post(&read(0, 0, 1));
    assert_eq!(driver.get(offset::DOORBELL) & 0xf000_ffff, ioc_state::FAULT | 0x81ff);
    assert_eq!(driver.reap(), None);
    driver.diagnostic_reset();
    driver.initialise();
}

#[test]
fn a_disk_goes_in_mid_flight_and_comes_back() {
    let back = Some(Duration::from_secs(5));
    let mut driver = driver_with(&[
        completion(0x28, CompletionFault::Delay(Duration::from_secs(60)), 1),
        fetch(of(IO, 0x2a), FetchFault::Remove(back)),
    ]);
    listen(&mut driver, true);
    driver.post(&read(1, 0, 1));
    driver.controller.take_delays();
    driver.post(&write(1, 0, 1));
    let replies: Vec<Vec<u8>> = std::iter::from_fn(|| driver.reap()).map(Got::frame).collect();
    let seen: Vec<(u8, u16)> = replies.iter().map(|reply| (reply[3], ioc_status(reply))).collect();
    let event = (function::EVENT_NOTIFICATION, 0);
    assert_eq!(seen, [(0, 0x4b), (0, 0x43), event, event, event, event]);
    assert_eq!(ioc_status(&driver.run(&read(1, 0, 1)).frame()), 0x43);
    driver.ok(&read(0, 0, 1));
    let [(ticket, time)] = driver.controller.take_delays()[..] else {
        panic!("one ticket");
    };
    assert!(Some(time) == back && driver.controller.is_delayed(ticket));
    // It comes back through a reset as well, and tells of the loss.
    driver.controller.release(ticket);
    driver.settle();
    assert_eq!(std::iter::from_fn(|| driver.reap()).count(), 4);
    assert_eq!(driver.run(&read(1, 0, 1)).frame()[0x0c], 2);
    assert_eq!(driver.bytes(SENSE + 12, 2), [0x29, 7]);
    driver.ok(&read(1, 0, 1));
}

#[test]
fn task_management_and_messages_fail_too() {
    let mut driver = driver_with(&[
        fetch(of(TASK_MANAGEMENT, 1), FetchFault::Fail(0x28)),
        fetch(of(MESSAGE, 4), FetchFault::Fail(0x8000_0002)),
        fetch(of(MESSAGE, 4), FetchFault::Fail(0x28)),
        fetch(of(MESSAGE, 3), FetchFault::Fatal),
    ]);
    let mut abort = message(function::SCSI_TASK_MGMT);
    abort[5] = 1;
    let reply = driver.run(&abort).frame();
    assert_eq!((reply[4], ioc_status(&reply)), (5, 0x4a));
    let reply = driver.run(&message(function::CONFIG)).frame();
    assert_eq!((reply[3], ioc_status(&reply)), (4, 2));
    driver.send_by_doorbell(&message(function::IOC_FACTS)[..12]);
    assert_eq!(driver.get(offset::DOORBELL) & 0xf000_ffff, ioc_state::FAULT | 0x81ff);
}

#[test]
fn register_writes_are_lost_or_fatal() {
    let register = |place, fault, after| Fault {
        kind: FaultKind::Register(RegisterMatch::at(place), fault),
        after,
        count: 1,
    };
    // Two of the harness.
    let mut driver = driver_with(&[register(offset::REQUEST_QUEUE, RegisterFault::Drop, 2)]);
    driver.post(&read(0, 0, 1));
    assert_eq!(driver.reap(), None);
    driver.ok(&read(0, 0, 1));
    let mut driver = driver_with(&[register(offset::REQUEST_QUEUE, RegisterFault::Fatal, 2)]);
    driver.post(&read(0, 0, 1));
    assert_eq!(driver.get(offset::DOORBELL) & 0xf000_0000, ioc_state::FAULT);
}

#[test]
fn every_word_of_the_vocabulary_is_said_once() {
    let mut names: Vec<&str> = VOCABULARY.registers.iter().map(|(name, _)| *name).collect();
    for class in VOCABULARY.classes {
        names.push(class.name);
        names.extend(class.commands.iter().map(|(name, _)| *name));
        assert!(class.commands.iter().all(|(_, code)| *code <= class.last_code));
    }
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

/// A delayed reply, and its ticket.
fn delayed() -> (Driver, Ticket) {
    let mut driver = driver_with(&[completion(0x28, CompletionFault::Delay(Duration::from_secs(1)), 1)]);
    driver.post(&read(0, 0, 1));
    let (ticket, _) = driver.controller.take_delays()[0];
    (driver, ticket)
}

#[test]
fn a_reply_that_is_due_without_bus_mastering_waits_for_it() {
    let (mut driver, ticket) = delayed();
    driver.controller.set_bus_master(false);
    driver.controller.release(ticket);
    // A handshake is answered by the doorbell, and has no reply posted.
    driver.handshake(&message(function::IOC_FACTS)[..12]);
    assert_eq!(driver.reap(), None);
    driver.controller.set_bus_master(true);
    driver.settle();
    assert_eq!(driver.reap(), Some(Got::Context(0x0001_0007)));
}

#[test]
fn a_reply_that_is_due_in_fault_state_is_posted_no_more() {
    let (mut driver, ticket) = delayed();
    driver.put(offset::REQUEST_QUEUE, 0xffff_ff00);
    assert_eq!(driver.get(offset::DOORBELL) & 0xf000_0000, ioc_state::FAULT);
    driver.controller.release(ticket);
    driver.settle();
    assert_eq!(driver.reap(), None);
}
