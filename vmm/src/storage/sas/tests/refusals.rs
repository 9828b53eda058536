//! Requests that are refused are told; what every driver meets while it looks around is not.

use super::faults::driver_with;
use super::harness::*;
use crate::storage::fault::{CommandCode, CommandMatch, Fault, FaultKind, FetchFault};
use crate::storage::sas::faults::IO;

fn told(driver: &Driver) -> Vec<(String, String, u64)> {
    let (refused, others) = driver.controller.observed().refusals.in_words();
    assert_eq!(others, 0);
    let told = refused.into_iter();
    told.map(|refused| (refused.command, refused.meaning, refused.count))
        .collect()
}

#[test]
fn requests_that_a_disk_or_the_controller_refuses_are_told() {
    let mut driver = Driver::new();
    driver.ok(&read(0, 0, 1));
    // Behind the end, which any disk refuses; an unknown operation code; a target that is not there; a message that there
    // is not.
    driver.run(&read(0, 0x1000_0000, 1));
    driver.run(&scsi(0, &[0xff, 0, 0, 0, 0, 0], Way::None, 0));
    driver.run(&read(7, 0, 1));
    driver.run(&message(0x60));
    let line = |command: &str, meaning: &str| (command.to_owned(), meaning.to_owned(), 1);
    let expected = [
        line("io.0xff", "CHECK CONDITION, sense key 5h, 20h/00h"),
        line("message.0x60", "IOCStatus 0001h"),
    ];
    assert_eq!(told(&driver), expected);
}

#[test]
fn what_the_fault_plan_has_fail_is_not_refused() {
    let reads = CommandMatch::Code(CommandCode { class: IO, code: 0x28 });
    let mut driver = driver_with(&[Fault {
        kind: FaultKind::Fetch(reads, FetchFault::Fail(0x0203_1100)),
        after: 0,
        count: 1,
    }]);
    driver.run(&read(0, 0, 1));
    assert_eq!(told(&driver), []);
}
