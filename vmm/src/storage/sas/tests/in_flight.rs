//! What the controller tells of the requests that it owes its host.

use super::faults::{completion, driver_with};
use super::harness::*;
use crate::storage::fault::CompletionFault;
use crate::storage::in_flight::{Announced, KeptBack, Outstanding};

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
