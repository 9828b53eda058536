//! What the controller tells of the requests that it owes its host.

use super::harness::*;
use crate::irq::InterruptMode;
use crate::storage::fault::{CompletionFault, Fault, FaultKind, FetchFault};
use crate::storage::in_flight::{Announced, KeptBack, Outstanding};
use crate::storage::nvme::spec::command::{SubmissionEntry, admin, nvm};

fn outstanding(driver: &Driver) -> Vec<Outstanding> {
    driver.controller.observed().in_flight.snapshot().outstanding
}

fn send(driver: &mut Driver, command: SubmissionEntry) -> u16 {
    let id = driver.submit(1, command);
    driver.ring_tail(1);
    driver.settle();
    id
}

#[test]
fn a_request_is_outstanding_until_the_host_has_moved_the_head() {
    let mut driver = Driver::with_io_queue();
    assert_eq!(outstanding(&driver), [], "the commands that made the queues are over");
    let id = send(&mut driver, blocks(nvm::READ, 0x1234, 8));
    let all = outstanding(&driver);
    let [request] = &all[..] else { panic!("{all:?}") };
    assert_eq!((request.id.queue, request.id.id), (1, u32::from(id)));
    assert_eq!((request.asked.disk, request.asked.blocks), (Some(1), Some((0x1234, 8))));
    let by = request.announced.map(|(_, by)| by);
    assert_eq!((request.posted.is_some(), by), (true, Some(Announced::Message(1))));
    driver.reap(1).unwrap();
    assert_eq!(outstanding(&driver).len(), 1, "it was seen, and nobody was told");
    driver.ring_head(1);
    driver.settle();
    assert_eq!(outstanding(&driver), []);
    // One that is meant to wait is not owed.
    driver.submit(0, command(admin::ASYNC_EVENT_REQUEST));
    driver.ring_tail(0);
    driver.settle();
    assert_eq!(outstanding(&driver), []);
}

#[test]
fn heads_that_are_told_in_memory_only_are_known_when_the_controller_rests_or_is_reset() {
    for reset in [false, true] {
        let mut driver = Driver::with_io_queue();
        driver.admin_ok(SubmissionEntry {
            prp1: SHADOW.into(),
            prp2: EVENT_INDEX.into(),
            ..command(admin::DOORBELL_BUFFER_CONFIG)
        });
        for _ in 0..2 {
            driver.submit(1, blocks(nvm::READ, 0, 1));
        }
        driver.put(SHADOW + 8, &driver.submission[1].index.to_le_bytes());
        driver.settle();
        assert_eq!(outstanding(&driver).len(), 2);
        driver.reap(1).unwrap();
        driver.put(SHADOW + 12, &driver.completion[1].index.to_le_bytes());
        if reset {
            driver.write(0x14, 0);
            driver.settle();
            let cut_off = driver.controller.observed().in_flight.snapshot().cut_off;
            assert_eq!(cut_off.unwrap().1.len(), 1);
        } else {
            driver.controller.come_to_rest();
            assert_eq!(outstanding(&driver).len(), 1);
        }
    }
}

#[test]
fn heads_that_are_written_right_before_a_reset_or_shutdown_count() {
    // CC: disabled, and enabled with a normal shutdown.
    for (configuration, shutdown) in [(0, false), (0x0046_4001, true)] {
        let mut driver = Driver::with_io_queue();
        for _ in 0..2 {
            driver.submit(1, blocks(nvm::READ, 0, 1));
        }
        driver.ring_tail(1);
        driver.settle();
        driver.reap(1).unwrap();
        driver.ring_head(1);
        driver.write(0x14, configuration);
        driver.settle();
        let snapshot = driver.controller.observed().in_flight.snapshot();
        let left = if shutdown {
            snapshot.outstanding.len()
        } else {
            snapshot.cut_off.unwrap().1.len()
        };
        assert_eq!(left, 1, "shutdown: {shutdown}");
    }
}

#[test]
fn a_queue_that_is_made_again_owes_nothing_of_the_one_before() {
    let mut driver = Driver::with_io_queue();
    send(&mut driver, blocks(nvm::READ, 0, 1));
    for opcode in [admin::DELETE_SUBMISSION_QUEUE, admin::DELETE_COMPLETION_QUEUE] {
        driver.admin_ok(SubmissionEntry {
            dword10: 1.into(),
            ..command(opcode)
        });
    }
    driver.submission.truncate(1);
    driver.completion.truncate(1);
    driver.create_queue_pair(1);
    send(&mut driver, blocks(nvm::READ, 0, 1));
    driver.reap(1).unwrap();
    driver.ring_head(1);
    driver.settle();
    assert_eq!(outstanding(&driver), []);
}

#[test]
fn each_way_to_interrupt_is_told() {
    for (mode, expected) in [
        (InterruptMode::Msi { messages: 4 }, Some(Announced::Message(1))),
        (InterruptMode::Intx, Some(Announced::Pin)),
    ] {
        let mut driver = Driver::with_io_queue();
        driver.interrupts.set_mode(mode);
        send(&mut driver, blocks(nvm::READ, 0, 1));
        let all = outstanding(&driver);
        assert_eq!(all[0].announced.map(|(_, by)| by), expected, "{mode:?}");
    }
}

#[test]
fn what_a_fault_keeps_back_is_told_apart() {
    let of_read = |what| {
        let kind = FaultKind::Completion(io(nvm::READ), what);
        Fault {
            kind,
            after: 0,
            count: 1,
        }
    };
    let fatal = Fault {
        kind: FaultKind::Fetch(io(nvm::FLUSH), FetchFault::Fatal),
        after: 0,
        count: 1,
    };
    let mut driver = Driver::with_faults(&[of_read(CompletionFault::Drop), fatal]);
    send(&mut driver, blocks(nvm::READ, 0, 1));
    send(&mut driver, command(nvm::FLUSH));
    let why: Vec<_> = outstanding(&driver).iter().map(|request| request.kept_back).collect();
    assert_eq!(why, [Some(KeptBack::Dropped), Some(KeptBack::Fatal)]);
    // The reset that the host answers with cuts both off.
    driver.write(0x14, 0);
    driver.settle();
    let snapshot = driver.controller.observed().in_flight.snapshot();
    assert_eq!((snapshot.outstanding.len(), snapshot.cut_off.unwrap().1.len()), (0, 2));

    let time = std::time::Duration::from_secs(1);
    let mut driver = Driver::with_faults(&[of_read(CompletionFault::Delay(time))]);
    send(&mut driver, blocks(nvm::READ, 0, 1));
    assert_eq!(outstanding(&driver)[0].kept_back, Some(KeptBack::Delayed));
}

#[test]
fn duplicates_and_strays_do_not_shift_what_the_host_takes() {
    for what in [CompletionFault::Duplicate, CompletionFault::Stray] {
        let fault = Fault {
            kind: FaultKind::Completion(io(nvm::READ), what),
            after: 0,
            count: 1,
        };
        let mut driver = Driver::with_faults(&[fault]);
        send(&mut driver, blocks(nvm::READ, 0, 1));
        let second = send(&mut driver, blocks(nvm::WRITE, 0, 1));
        for _ in 0..2 {
            driver.reap(1).unwrap();
        }
        driver.ring_head(1);
        driver.settle();
        let left: Vec<u32> = outstanding(&driver).iter().map(|request| request.id.id).collect();
        assert_eq!(left, [u32::from(second)], "{what:?}");
    }
}

/// Masks interrupts, or takes the mask away.
type Mask<'a> = &'a dyn Fn(&mut Driver, bool);

#[test]
fn an_interrupt_that_the_host_masks_is_sent_when_the_mask_goes() {
    const INTMS: u64 = 0x0c;
    const INTMC: u64 = 0x10;
    let by_message = |driver: &mut Driver, masked| driver.interrupts.set_masked(masked);
    let by_register = |driver: &mut Driver, masked| {
        driver.write(if masked { INTMS } else { INTMC }, 0xffff_ffff);
    };
    let modes: [(_, Mask<'_>, _); 3] = [
        (InterruptMode::Msix, &by_message, Announced::Message(1)),
        (InterruptMode::Msi { messages: 4 }, &by_register, Announced::Message(1)),
        (InterruptMode::Intx, &by_register, Announced::Pin),
    ];
    for (mode, mask, by) in modes {
        let mut driver = Driver::with_io_queue();
        driver.interrupts.set_mode(mode);
        mask(&mut driver, true);
        for _ in 0..2 {
            send(&mut driver, blocks(nvm::READ, 0, 1));
        }
        let told = |driver: &Driver| -> Vec<_> {
            let all = outstanding(driver);
            all.iter()
                .map(|one| (one.due, one.announced.map(|(_, by)| by)))
                .collect()
        };
        assert_eq!(told(&driver), [(Some(by), None); 2], "{mode:?}");
        mask(&mut driver, false);
        driver.settle();
        assert_eq!(told(&driver), [(Some(by), Some(by)); 2], "{mode:?}");
    }
    // A host that wants no interrupts has none masked.
    let mut driver = Driver::with_io_queue();
    driver.create_queue_pair_with(2, 1);
    driver.submit(2, blocks(nvm::READ, 0, 1));
    driver.ring_tail(2);
    driver.settle();
    assert_eq!(outstanding(&driver)[0].due, None);
}

#[test]
fn a_command_that_the_host_has_asked_to_be_aborted_is_owed_and_told_as_given_up() {
    let drop = Fault {
        kind: FaultKind::Completion(io(nvm::READ), CompletionFault::Drop),
        after: 0,
        count: 1,
    };
    let mut driver = Driver::with_faults(&[drop]);
    let id = send(&mut driver, blocks(nvm::READ, 0, 1));
    assert!(outstanding(&driver)[0].given_up.is_none());
    driver.admin_ok(SubmissionEntry {
        dword10: (1 | u32::from(id) << 16).into(),
        ..command(admin::ABORT)
    });
    let all = outstanding(&driver);
    assert!(all.len() == 1 && all[0].given_up.is_some(), "{all:?}");
    driver.write(0x14, 0);
    driver.settle();
    let cut_off = driver.controller.observed().in_flight.snapshot().cut_off.unwrap().1;
    assert!(cut_off.len() == 1 && cut_off[0].given_up.is_some());
}
