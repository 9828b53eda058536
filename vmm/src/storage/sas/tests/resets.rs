//! A host that gives up in the middle of something, and resets in each state.

use std::time::Duration;

use super::faults::{completion, driver_with};
use super::harness::*;
use crate::storage::fault::{CommandCode, CommandMatch, CompletionFault, Fault, FaultKind, FetchFault};
use crate::storage::sas::faults::IO;
use crate::storage::sas::spec::{doorbell, function, ioc_state, offset};
use crate::storage::worker::{Progress, StorageController};

const LATER: CompletionFault = CompletionFault::Delay(Duration::from_secs(3600));

/// A register is written, and the controller does not get to look.
fn write(driver: &Driver, place: u64, value: u32) {
    driver.registers.write(place, &value.to_le_bytes());
}

fn begin_handshake(driver: &Driver, request: &[u8], words: usize) {
    write(driver, offset::DOORBELL, 0x42 << 24 | (request.len() as u32 / 4) << 16);
    for word in request.chunks_exact(4).take(words) {
        write(driver, offset::DOORBELL, u32_at(word, 0));
    }
}

/// Fresh, and works: whatever was under way is not answered any more.
#[track_caller]
fn assert_works(driver: &mut Driver, what: &str) {
    driver.settle();
    assert_eq!(driver.get(offset::DOORBELL), ioc_state::READY, "{what}");
    assert_eq!(driver.get(offset::HOST_INTERRUPT_STATUS), 0, "{what}");
    assert_eq!(driver.reap(), None, "{what}");
    driver.initialise();
    for target in 0..2 {
        // A unit attention may come first.
        driver.run(&scsi(target, &[0; 6], Way::None, 0));
        driver.ok(&scsi(target, &[0; 6], Way::None, 0));
    }
}

#[test]
fn a_handshake_may_be_given_up_at_each_word() {
    let facts = &message(function::IOC_FACTS)[..12];
    let init = &message(function::IOC_INIT)[..0x2c];
    for request in [facts, init] {
        for words in 0..=request.len() / 4 {
            let mut driver = Driver::new();
            begin_handshake(&driver, request, words);
            driver.diagnostic_reset();
            assert_works(&mut driver, "words of the request");
        }
    }
    for halves in 0..=0x50 / 2 {
        for soft in [true, false] {
            let mut driver = Driver::new();
            begin_handshake(&driver, facts, 3);
            driver.settle();
            for _ in 0..halves {
                driver.put(offset::HOST_INTERRUPT_STATUS, 0);
            }
            let active = driver.get(offset::DOORBELL) & doorbell::ACTIVE != 0;
            assert_eq!(active, halves < 0x50 / 2);
            if soft {
                driver.put(offset::DOORBELL, 0x40 << 24);
            } else {
                driver.diagnostic_reset();
            }
            assert_works(&mut driver, "halves of the reply");
        }
    }
}

/// How a driver gets there, or what it does.
type Step = fn(&mut Driver);

/// States: the name, how to get there, and whether the doorbell takes a reset.
const STATES: [(&str, Step, bool); 9] = [
    ("idle", |_| {}, true),
    (
        "a handshake's words come",
        |driver| begin_handshake(driver, &[0; 40], 3),
        false,
    ),
    (
        "a message was not looked at",
        |driver| begin_handshake(driver, &message(function::IOC_FACTS)[..12], 3),
        true,
    ),
    (
        "a message is answered",
        |driver| {
            begin_handshake(driver, &message(function::IOC_FACTS)[..12], 3);
            driver.settle();
        },
        true,
    ),
    (
        "requests were not looked at",
        |driver| {
            let request = driver.place(&read(0, 0, 1));
            (0..100).for_each(|_| write(driver, offset::REQUEST_QUEUE, request));
            (0..16).for_each(|_| write(driver, offset::HI_PRI_REQUEST_QUEUE, request));
        },
        true,
    ),
    (
        "there are no frames for replies",
        |driver| {
            while driver.registers.lock().take_free().is_some() {}
            driver.post(&message(0x7f));
            driver.post(&message(0x7f));
        },
        true,
    ),
    (
        "the host takes no replies",
        |driver| {
            for _ in 0..1100 {
                driver.post(&read(0, 0, 1));
            }
        },
        true,
    ),
    (
        "a command is kept back",
        |driver| {
            driver.post(&scsi(0, &cdb10(0x2f, 0, 1), Way::None, 0));
            driver.post(&scsi(1, &cdb10(0x2f, 0, 1), Way::None, 0));
        },
        true,
    ),
    (
        "FAULT",
        |driver| driver.put(offset::REQUEST_QUEUE, MEMORY as u32),
        false,
    ),
];

/// Resets, and whether they come by the doorbell.
const RESETS: [(&str, Step, bool); 4] = [
    (
        "message unit",
        |driver| write(driver, offset::DOORBELL, 0x40 << 24),
        true,
    ),
    ("I/O unit", |driver| write(driver, offset::DOORBELL, 0x41 << 24), true),
    ("diagnostic", Driver::diagnostic_reset, false),
    ("function", |driver| driver.registers.reset_function(), false),
];

#[test]
fn every_reset_leads_out_of_every_state_that_it_may() {
    for (state, reach, heeds_doorbell) in STATES {
        for (reset, cause, by_doorbell) in RESETS {
            let mut driver = driver_with(&[completion(0x2f, LATER, 9)]);
            reach(&mut driver);
            cause(&mut driver);
            if by_doorbell && !heeds_doorbell {
                driver.settle();
                assert_ne!(
                    driver.get(offset::DOORBELL) & 0xf000_0000,
                    ioc_state::READY,
                    "{state}, {reset}"
                );
                driver.diagnostic_reset();
            }
            assert_works(&mut driver, &format!("{state}, {reset}"));
            // And what was kept back comes for nobody.
            for ticket in 0..4 {
                driver.controller.release(ticket);
                driver.settle();
            }
            assert_eq!(driver.reap(), None, "{state}, {reset}");
        }
    }
}

/// Two resets at once: the harder one is carried out.
#[test]
fn the_harder_of_two_resets_counts() {
    for order in [[0x40u32 << 24, 0x41 << 24], [0x41 << 24, 0x40 << 24]] {
        let mut driver = Driver::new();
        for value in order {
            write(&driver, offset::DOORBELL, value);
        }
        driver.settle();
        driver.initialise();
        assert_eq!(driver.run(&read(0, 0, 1)).frame()[0x0c], 2, "the disks were reset");
    }
}

fn task(kind: u8, target: u8, context: u32) -> Vec<u8> {
    let mut request = message(function::SCSI_TASK_MGMT);
    (request[0], request[5], request[8]) = (target, kind, 0x99);
    request[0x30..0x34].copy_from_slice(&context.to_le_bytes());
    request
}

#[test]
fn task_management_of_a_disk_that_is_gone_does_nothing() {
    let remove = FetchFault::Remove(Some(Duration::from_secs(5)));
    let writes = CommandMatch::Code(CommandCode { class: IO, code: 0x2a });
    for kind in 1..=8 {
        let removed = Fault {
            kind: FaultKind::Fetch(writes, remove),
            after: 0,
            count: 1,
        };
        let mut driver = driver_with(&[completion(0x28, LATER, 1), removed]);
        driver.post(&read(1, 0, 1));
        driver.post(&write_of(1));
        let ended: Vec<u16> = std::iter::from_fn(|| driver.reap())
            .map(|got| ioc_status(&got.frame()))
            .collect();
        assert_eq!(ended, [0x4b, 0x43], "the read was ended, and the write found nothing");
        let reply = driver.run(&task(kind, 1, 0x0001_0007)).frame();
        // A reset of the bus is not about one disk.
        assert_eq!(ioc_status(&reply), if kind == 4 { 0 } else { 0x43 }, "{kind}");
        assert_eq!(u32_at(&reply, 0x14), 0, "nothing was there to be ended");
        let tickets = driver.controller.take_delays();
        for (ticket, _) in tickets {
            driver.controller.release(ticket);
            driver.settle();
        }
        driver.settle();
        assert_eq!(driver.run(&read(1, 0, 1)).frame()[0x0c], 2, "is back, and tells");
        driver.ok(&read(1, 0, 1));
    }
}

fn write_of(target: u8) -> Vec<u8> {
    super::harness::write(target, 0, 1)
}

/// As many commands as the host may have outstanding are kept back, whatever it sends.
#[test]
fn no_more_is_kept_back_than_the_host_has_credit_for() {
    let mut driver = driver_with(&[completion(0x28, LATER, u64::MAX)]);
    for context in 0..256_u32 {
        let mut request = read(0, 0, 1);
        request[8..12].copy_from_slice(&context.to_le_bytes());
        driver.post(&request);
    }
    assert_eq!(driver.controller.take_delays().len(), 256);
    driver.fill(DATA, &[0x5a; BLOCK]);
    driver.post(&write_of(0));
    for _ in 0..60 {
        driver.post(&read(0, 0, 1));
    }
    assert_eq!(
        driver.controller.process(),
        Progress::Idle,
        "nothing to do until one ends"
    );
    assert_eq!((driver.reap(), driver.controller.take_delays().len()), (None, 0));
    // Task management has a queue of its own, and ends one: then the next ones are served.
    let abort = driver.place(&task(1, 0, 17));
    driver.put(offset::HI_PRI_REQUEST_QUEUE, abort);
    let ended = driver.reap().expect("the command that ended").frame();
    assert_eq!((u32_at(&ended, 8), ioc_status(&ended)), (17, 0x48));
    assert_eq!(driver.reap().expect("task management").frame()[3], 1);
    assert_eq!(driver.reap(), Some(Got::Context(0x0001_0007)), "the write");
    assert_eq!(driver.controller.take_delays().len(), 1, "and one read");
    // More than the FIFO holds is the host's mistake.
    for _ in 0..197 {
        driver.post(&read(0, 0, 1));
    }
    assert_eq!(driver.get(offset::DOORBELL) & 0xf000_0000, ioc_state::OPERATIONAL);
    driver.post(&read(0, 0, 1));
    assert_eq!(driver.get(offset::DOORBELL) & 0xf000_ffff, ioc_state::FAULT | 0x8180);
}
