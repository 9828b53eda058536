//! What the controller tells of the requests that it owes its host.

use super::faults::{completion, driver_with};
use super::harness::*;
use super::task_management::task;
use crate::irq::InterruptMode;
use crate::storage::fault::CompletionFault;
use crate::storage::in_flight::{Announced, KeptBack, Outstanding};
use crate::storage::sas::registers::{GLOBAL_CREDITS, REPLY_QUEUE_DEPTH};
use crate::storage::sas::spec::{function, his, ioc_state, offset};

fn outstanding(driver: &Driver) -> Vec<Outstanding> {
    driver.controller.observed().in_flight.snapshot().outstanding
}

#[test]
fn a_request_is_outstanding_until_the_host_has_read_its_reply() {
    let mut driver = Driver::new();
    assert_eq!(outstanding(&driver), []);
    driver.post(&read(1, 0x20, 3));
    driver.settle();
    let all = outstanding(&driver);
    let [request] = &all[..] else { panic!("{all:?}") };
    assert_eq!((request.asked.disk, request.asked.blocks), (Some(1), Some((0x20, 3))));
    assert!(request.posted.is_some(), "{request:?}");
    assert!(
        matches!(request.announced, Some((_, Announced::Message(0) | Announced::Pin))),
        "{request:?}"
    );
    driver.reap().unwrap();
    assert_eq!(outstanding(&driver), []);
}

#[test]
fn what_a_fault_keeps_back_is_told_and_a_reset_cuts_it_off() {
    let drop = completion(0x28, CompletionFault::Drop, 1);
    let mut driver = driver_with(&[drop]);
    driver.post(&read(0, 0, 1));
    driver.settle();
    assert_eq!(outstanding(&driver)[0].kept_back, Some(KeptBack::Dropped));
    driver.diagnostic_reset();
    driver.settle();
    let snapshot = driver.controller.observed().in_flight.snapshot();
    assert_eq!((snapshot.outstanding.len(), snapshot.cut_off.unwrap().1.len()), (0, 1));
}

/// Something that the host does.
type Way<'a> = &'a dyn Fn(&mut Driver);

#[test]
fn every_way_into_fault_state_is_told() {
    let later = CompletionFault::Delay(std::time::Duration::from_secs(3600));
    // Written at once, before the controller looks.
    let overflow = |driver: &mut Driver, place, value: u64, limit: u16| {
        for _ in 0..=limit {
            driver.registers.write(place, &(value as u32).to_le_bytes());
        }
    };
    let ways: [(&str, Way<'_>); 4] = [
        ("a request that is not in memory", &|driver| {
            driver.put(offset::REQUEST_QUEUE, 0xffff_ff00);
        }),
        ("more requests than there may be", &|driver| {
            overflow(driver, offset::REQUEST_QUEUE, REQUESTS, GLOBAL_CREDITS);
        }),
        ("more reply frames than there may be", &|driver| {
            overflow(driver, offset::REPLY_QUEUE, REPLIES, REPLY_QUEUE_DEPTH);
        }),
        ("a reply frame that is not in memory", &|driver| {
            driver.put(offset::DOORBELL, u32::from(function::REPLY_FRAME_REMOVAL) << 24);
            driver.put(offset::REPLY_QUEUE, 0xffff_ff00);
            driver.post(&message(function::IOC_FACTS));
        }),
    ];
    for (name, way) in ways {
        let mut driver = driver_with(&[completion(0x28, later, 1)]);
        driver.post(&read(0, 0, 1));
        assert_eq!(outstanding(&driver)[0].kept_back, Some(KeptBack::Delayed));
        way(&mut driver);
        driver.settle();
        assert_eq!(driver.get(offset::DOORBELL) & 0xf000_0000, ioc_state::FAULT, "{name}");
        let all = outstanding(&driver);
        let fatal = |one: &Outstanding| one.kept_back == Some(KeptBack::Fatal);
        assert!(all.iter().all(fatal), "{name}: {all:?}");
    }
}

#[test]
fn what_task_management_ends_is_given_up_and_not_owed() {
    const RESET_BUS: u8 = 4;
    for kind in 1..=6 {
        let mut driver = driver_with(&[completion(0x28, CompletionFault::Drop, 2)]);
        for target in [0, 1] {
            let mut request = read(target, 0, 1);
            request[8] = 0x11 + target;
            driver.post(&request);
        }
        let context = 0x0001_0011;
        let request = driver.place(&task(kind, 0, context));
        driver.put(offset::HI_PRI_REQUEST_QUEUE, request);
        while driver.reap().is_some() {}
        let ledger = driver.controller.observed().in_flight;
        let of = |list: &[Outstanding]| list.iter().map(|one| one.asked.disk).collect::<Vec<_>>();
        let snapshot = ledger.snapshot();
        let told = (of(&snapshot.given_up), of(&snapshot.outstanding));
        let (first, second) = (Some(0), Some(1));
        let expected = if kind == RESET_BUS {
            (vec![first, second], vec![])
        } else {
            (vec![first], vec![second])
        };
        assert_eq!(told, expected, "{kind}");
        driver.diagnostic_reset();
        driver.settle();
        assert_eq!(ledger.snapshot().cut_off.is_some(), kind != RESET_BUS, "{kind}");
    }
}

/// Masks interrupts, or takes the mask away.
type Mask<'a> = &'a dyn Fn(&mut Driver, bool);

#[test]
fn an_interrupt_that_the_host_masks_is_sent_when_the_mask_goes() {
    let by_message = |driver: &mut Driver, masked| driver.interrupts.set_masked(masked);
    let by_register = |driver: &mut Driver, masked| {
        let mask = if masked { his::REPLY_MESSAGE_INTERRUPT } else { 0 };
        driver.put(offset::HOST_INTERRUPT_MASK, mask);
    };
    let modes: [(_, Mask<'_>, _); 3] = [
        (InterruptMode::Msix, &by_message, Announced::Message(0)),
        (InterruptMode::Msix, &by_register, Announced::Message(0)),
        (InterruptMode::Intx, &by_register, Announced::Pin),
    ];
    for (mode, mask, by) in modes {
        let mut driver = Driver::new();
        driver.interrupts.set_mode(mode);
        driver.registers.interrupts_changed();
        mask(&mut driver, true);
        for _ in 0..2 {
            driver.post(&read(0, 0, 1));
        }
        driver.settle();
        // The doorbell interrupts meanwhile.
        driver.put(offset::DOORBELL, u32::from(function::HANDSHAKE) << 24 | 3 << 16);
        let told = |driver: &Driver| -> Vec<_> {
            let all = outstanding(driver);
            all.iter().map(|one| one.announced.map(|(_, by)| by)).collect()
        };
        assert_eq!(told(&driver), [None; 2], "{mode:?}");
        assert!(outstanding(&driver).iter().all(|one| one.due.is_some()));
        mask(&mut driver, false);
        assert_eq!(told(&driver), [Some(by); 2], "{mode:?}");
    }
}
