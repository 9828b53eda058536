//! Task management, over commands that a fault keeps back.

use std::time::Duration;

use super::faults::{completion, driver_with};
use super::harness::*;
use crate::storage::fault::CompletionFault;
use crate::storage::sas::spec::{function, offset};

const LATER: CompletionFault = CompletionFault::Delay(Duration::from_secs(3600));

pub(super) fn task(kind: u8, target: u8, context: u32) -> Vec<u8> {
    let mut request = message(function::SCSI_TASK_MGMT);
    (request[0], request[5], request[8]) = (target, kind, 0x99);
    request[0x30..0x34].copy_from_slice(&context.to_le_bytes());
    request
}

/// Posts a read that is kept back.
fn outstanding(driver: &mut Driver, target: u8, context: u32) {
    let mut request = read(target, 0, 1);
    request[8..12].copy_from_slice(&context.to_le_bytes());
    driver.post(&request);
    assert_eq!(driver.reap(), None);
}

/// Commands that ended, with their IOCStatus, and at last the reply: ResponseCode and TerminationCount.
fn manage(driver: &mut Driver, request: &[u8]) -> (Vec<(u32, u16)>, u8, u32) {
    let address = driver.place(request);
    driver.put(offset::HI_PRI_REQUEST_QUEUE, address);
    let mut replies: Vec<Vec<u8>> = std::iter::from_fn(|| driver.reap()).map(Got::frame).collect();
    let last = replies.pop().expect("a reply");
    assert_eq!((last.len(), last[5], u32_at(&last, 8) as u8), (0x18, request[5], 0x99));
    let ended = replies
        .iter()
        .map(|reply| (u32_at(reply, 8), ioc_status(reply)))
        .collect();
    (ended, last[4], u32_at(&last, 0x14))
}

#[test]
fn a_command_is_aborted_by_its_context() {
    let mut driver = driver_with(&[completion(0x28, LATER, 9)]);
    outstanding(&mut driver, 0, 0x11);
    outstanding(&mut driver, 0, 0x12);
    assert_eq!(manage(&mut driver, &task(7, 0, 0x11)), (vec![], 8, 0), "is there");
    assert_eq!(
        manage(&mut driver, &task(1, 1, 0x11)),
        (vec![], 0, 0),
        "not of that disk"
    );
    assert_eq!(manage(&mut driver, &task(1, 0, 0x11)), (vec![(0x11, 0x48)], 0, 1));
    assert_eq!(
        manage(&mut driver, &task(7, 0, 0x11)),
        (vec![], 0, 0),
        "is not there any more"
    );
    assert_eq!(manage(&mut driver, &task(2, 0, 0)), (vec![(0x12, 0x48)], 0, 1));
}

#[test]
fn resets_end_what_they_are_about_and_tell_the_disks() {
    let attention = |driver: &mut Driver, target| {
        let got = driver.run(&scsi(target, &[0; 6], Way::None, 0));
        matches!(got, Got::Frame(frame) if frame[0x0c] == 2)
    };
    for (kind, ended, attentions) in [
        (3, vec![(0x11, 0x48)], [true, false]),
        (5, vec![(0x11, 0x48)], [true, false]),
        (4, vec![(0x11, 0x48), (0x12, 0x48)], [true, true]),
        (6, vec![(0x11, 0x48)], [false, false]),
    ] {
        let mut driver = driver_with(&[completion(0x28, LATER, 9)]);
        outstanding(&mut driver, 0, 0x11);
        outstanding(&mut driver, 1, 0x12);
        let count = ended.len() as u32;
        assert_eq!(manage(&mut driver, &task(kind, 0, 0)), (ended, 0, count), "{kind}");
        assert_eq!(
            [0, 1].map(|target| attention(&mut driver, target)),
            attentions,
            "{kind}"
        );
    }
}

#[test]
fn what_cannot_be_done_is_told() {
    let mut driver = Driver::new();
    assert_eq!(manage(&mut driver, &task(8, 0, 0)).1, 4, "CLEAR ACA");
    assert_eq!(manage(&mut driver, &task(0, 0, 0)).1, 4);
    let mut unit = task(5, 0, 0);
    unit[0x0d] = 1;
    assert_eq!(manage(&mut driver, &unit).1, 9);
    for (target, expected) in [(2, 0x43), (9, 0x42)] {
        assert_eq!(ioc_status(&driver.run(&task(3, target, 0)).frame()), expected);
    }
}

#[test]
fn by_the_doorbell_it_is_answered_in_the_reply_queue() {
    let mut driver = Driver::new();
    driver.send_by_doorbell(&task(3, 0, 0)[..0x34]);
    let reply = driver.reap().expect("a reply").frame();
    assert_eq!((reply[3], ioc_status(&reply)), (1, 0));
    assert_eq!(driver.get(offset::DOORBELL) >> 24, 0x24);
}
