//! Tests of what the controller tells of commands that it refused.

use super::harness::*;
use crate::storage::nvme::spec::command::{SubmissionEntry, admin, nvm};
use crate::storage::nvme::spec::status::Status;

fn told(driver: &Driver) -> Vec<(String, u32, String, u64)> {
    let (refused, others) = driver.controller.observed().refusals.in_words();
    assert_eq!(others, 0);
    let told = refused.into_iter();
    told.map(|refused| (refused.command, refused.status, refused.meaning, refused.count))
        .collect()
}

#[test]
fn commands_that_fail_are_told_by_what_they_were_about_and_those_that_succeed_are_not() {
    let mut driver = Driver::with_io_queue();
    let set = |feature: u32| SubmissionEntry {
        dword10: feature.into(),
        ..command(admin::SET_FEATURES)
    };
    driver.admin_ok(set(0x0b));
    driver.admin_fails(set(0x0d), Status::INVALID_FIELD);
    driver.admin_fails(set(0x0d), Status::INVALID_FIELD);
    driver.admin_fails(identify(0x1f, 0), Status::INVALID_FIELD);
    driver.admin_fails(command(0xc1), Status::INVALID_OPCODE);
    driver.io_ok(blocks(nvm::READ, 0, 1));
    // Wrong wherever it is sent.
    driver.io_fails(blocks(nvm::READ, 1 << 30, 1), Status::LBA_OUT_OF_RANGE);
    let line = |command: &str, status: Status, meaning: &str, count| {
        (command.to_owned(), u32::from(status), meaning.to_owned(), count)
    };
    let expected = [
        line(
            "identify, CNS 0x1f",
            Status::INVALID_FIELD,
            "Invalid Field in Command",
            1,
        ),
        line(
            "set-features, feature 0xd",
            Status::INVALID_FIELD,
            "Invalid Field in Command",
            2,
        ),
        line("admin.0xc1", Status::INVALID_OPCODE, "Invalid Command Opcode", 1),
    ];
    assert_eq!(told(&driver), expected);
}

#[test]
fn what_the_fault_plan_has_fail_is_not_refused() {
    let kind = FaultKind::Fetch(io(nvm::READ), FetchFault::Fail(Status::INTERNAL_ERROR.into()));
    let plan = Fault {
        kind,
        after: 0,
        count: 1,
    };
    let mut driver = Driver::with_faults(&[plan]);
    driver.io_fails(blocks(nvm::READ, 0, 1), Status::INTERNAL_ERROR);
    assert_eq!(told(&driver), []);
}
