//! Asynchronous events and Abort.

use super::harness::*;
use crate::storage::nvme::queues::DoorbellOf;
use crate::storage::nvme::spec::command::{SubmissionEntry, admin};
use crate::storage::nvme::spec::status::Status;

const INVALID_REGISTER: u32 = 0x01_00_00;
const INVALID_VALUE: u32 = 0x01_01_00;
const TEMPERATURE: u32 = 0x02_01_01;

fn request(driver: &mut Driver, command_id: u16) {
    driver.submit(
        0,
        SubmissionEntry {
            command_id: command_id.into(),
            ..command(admin::ASYNC_EVENT_REQUEST)
        },
    );
    driver.ring_tail(0);
    driver.settle();
}

fn event(driver: &mut Driver) -> Option<(u16, u32)> {
    let done = driver.reap(0)?;
    driver.ring_head(0);
    driver.settle();
    assert_eq!(done.status, Status::SUCCESS);
    Some((done.command_id, done.dword0))
}

fn read_log(driver: &mut Driver, page: u32, retain: bool) {
    let dword10 = page | 15 << 16 | u32::from(retain) << 15;
    driver.admin_ok(SubmissionEntry {
        dword10: dword10.into(),
        ..command(admin::GET_LOG_PAGE)
    });
}

fn abort(queue: u16, command_id: u16) -> SubmissionEntry {
    let dword10 = u32::from(queue) | u32::from(command_id) << 16;
    SubmissionEntry {
        dword10: dword10.into(),
        ..command(admin::ABORT)
    }
}

#[test]
fn requests_are_held_until_something_happens() {
    let mut driver = Driver::enabled();
    request(&mut driver, 1);
    assert_eq!(event(&mut driver), None);
    driver.write(0x1000 + 8 * 3, 1);
    driver.settle();
    assert_eq!(event(&mut driver), Some((1, INVALID_REGISTER)));
    assert_eq!(driver.controller.admin().errors().count(), 1);
}

#[test]
fn events_wait_for_a_request() {
    let mut driver = Driver::enabled();
    driver.write(0x1000 + 8 * 70, 1);
    driver.settle();
    assert_eq!(event(&mut driver), None);
    request(&mut driver, 1);
    assert_eq!(event(&mut driver), Some((1, INVALID_REGISTER)));
}

#[test]
fn wrong_doorbell_values_are_reported_and_ignored() {
    // Outside the queue, more entries than there is room for, a head beyond the tail.
    for (offset, value) in [
        (0x1008, IO_ENTRIES),
        (0x100c, IO_ENTRIES),
        (0x100c, 1),
        (0x1008, 0xffff),
    ] {
        let mut driver = Driver::with_io_queue();
        request(&mut driver, 1);
        driver.write(offset, value);
        driver.settle();
        assert_eq!(event(&mut driver), Some((1, INVALID_VALUE)), "{offset:#x} {value}");
        driver.io_ok(blocks(2, 0, 1));
    }
}

#[test]
fn a_tail_that_overtakes_the_head_is_wrong() {
    let mut driver = Driver::with_io_queue();
    request(&mut driver, 1);
    // Seven commands wait because the controller does not look; then the tail goes round.
    driver.controller.set_bus_master(false);
    driver.write(0x1008, 7);
    driver.controller.set_bus_master(true);
    let tail = DoorbellOf::Tail(1);
    driver.controller.queues().ring(tail, 7).unwrap().unwrap();
    driver.write(0x1008, 2);
    driver.controller.take_doorbell_registers();
    assert_eq!(driver.controller.queues().doorbell(tail), Some(7));
    assert_eq!(driver.controller.admin().events().waiting().1, 1);
}

#[test]
fn a_type_is_masked_until_its_log_is_read() {
    let mut driver = Driver::enabled();
    for command_id in 1..=3 {
        request(&mut driver, command_id);
    }
    let ring = |driver: &mut Driver| {
        driver.write(0x1018, 1);
        driver.settle();
        event(driver)
    };
    assert_eq!(ring(&mut driver), Some((1, INVALID_REGISTER)));
    assert_eq!(ring(&mut driver), None);
    read_log(&mut driver, 1, true);
    assert_eq!(ring(&mut driver), None, "retained");
    read_log(&mut driver, 2, false);
    assert_eq!(ring(&mut driver), None, "another log");
    read_log(&mut driver, 1, false);
    assert_eq!(ring(&mut driver), Some((2, INVALID_REGISTER)));
}

/// Set Features; an event may follow.
fn set(driver: &mut Driver, feature: u32, value: u32) {
    let opcode = admin::SET_FEATURES;
    driver.submit(
        0,
        SubmissionEntry {
            dword10: feature.into(),
            dword11: value.into(),
            ..command(opcode)
        },
    );
    driver.ring_tail(0);
    driver.settle();
    assert_eq!(event(driver).unwrap().1, 0);
}

/// Makes an event happen.
type Happening = fn(&mut Driver);

#[test]
fn an_event_whose_log_was_read_does_not_complete_a_later_request() {
    // Each event, the page that clears it, and another one.
    let ring = |driver: &mut Driver| {
        driver.write(0x1018, 1);
        driver.settle();
    };
    let heat = |driver: &mut Driver| {
        set(driver, 0x0b, 2);
        set(driver, 4, 300);
    };
    let protect = |driver: &mut Driver| {
        set(driver, 0x0b, 0x100);
        driver.controller.make_read_only(1);
    };
    let cases: [(Happening, u32, u32); 3] = [(ring, 1, 2), (heat, 2, 1), (protect, 4, 2)];
    for (raise, page, other) in cases {
        for (read, retain, told) in [
            (Some(page), false, false),
            (Some(page), true, true),
            (Some(other), false, true),
            (None, false, true),
        ] {
            let mut driver = Driver::enabled();
            raise(&mut driver);
            if let Some(read) = read {
                read_log(&mut driver, read, retain);
            }
            request(&mut driver, 1);
            let event = event(&mut driver);
            assert_eq!(event.is_some(), told, "page {page}, {read:?} read, retain {retain}");
            assert!(event.is_none_or(|(_, dword0)| dword0 >> 16 == page));
        }
    }
    // It may happen again afterwards.
    let mut driver = Driver::enabled();
    ring(&mut driver);
    read_log(&mut driver, 1, false);
    ring(&mut driver);
    request(&mut driver, 1);
    assert_eq!(event(&mut driver), Some((1, INVALID_REGISTER)));
}

#[test]
fn what_is_wanted_no_longer_is_not_sent() {
    let mut driver = Driver::enabled();
    set(&mut driver, 0x0b, 0x102);
    set(&mut driver, 4, 300);
    driver.controller.make_read_only(1);
    set(&mut driver, 0x0b, 0x100);
    request(&mut driver, 1);
    assert_eq!(event(&mut driver), Some((1, 0x04_00_02)), "the other one still is");
    read_log(&mut driver, 4, false);
    request(&mut driver, 2);
    assert_eq!(event(&mut driver), None);
}

#[test]
fn temperature_is_reported_if_wanted() {
    let mut driver = Driver::enabled();
    request(&mut driver, 1);
    set(&mut driver, 4, 300);
    assert_eq!(event(&mut driver), None, "not wanted");
    set(&mut driver, 0x0b, 2);
    assert_eq!(event(&mut driver), Some((1, TEMPERATURE)));
    read_log(&mut driver, 2, false);
    assert_eq!(driver.bytes(DATA, 1), [2], "critical warning");
    set(&mut driver, 4, 400);
    request(&mut driver, 2);
    assert_eq!(event(&mut driver), None);
    set(&mut driver, 4, 0x10_0000 + 313);
    assert_eq!(event(&mut driver), Some((2, TEMPERATURE)), "under the lower threshold");
}

#[test]
fn four_requests_are_the_limit() {
    let mut driver = Driver::enabled();
    for command_id in 1..=4 {
        request(&mut driver, command_id);
    }
    driver.admin_fails(
        command(admin::ASYNC_EVENT_REQUEST),
        Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED,
    );
}

#[test]
fn the_identifier_of_a_held_request_is_taken() {
    let mut driver = Driver::enabled();
    request(&mut driver, 9);
    driver.admin_fails(
        SubmissionEntry {
            command_id: 9.into(),
            ..identify(1, 0)
        },
        Status::COMMAND_ID_CONFLICT,
    );
}

#[test]
fn held_requests_can_be_aborted() {
    let mut driver = Driver::enabled();
    request(&mut driver, 9);
    let id = driver.submit(0, abort(0, 9));
    driver.ring_tail(0);
    driver.settle();
    let (first, second) = (driver.reap(0).unwrap(), driver.reap(0).unwrap());
    assert_eq!((first.command_id, first.dword0, first.status), (id, 0, Status::SUCCESS));
    assert_eq!((second.command_id, second.status), (9, Status::ABORT_REQUESTED));
}

#[test]
fn other_commands_are_not_aborted() {
    let mut driver = Driver::with_io_queue();
    request(&mut driver, 9);
    for (queue, command_id) in [(0, 10), (1, 9)] {
        assert_eq!(driver.admin_ok(abort(queue, command_id)), 1);
    }
    driver.admin_fails(abort(3, 9), Status::INVALID_FIELD);
}

#[test]
fn events_wait_for_room_in_the_completion_queue() {
    let mut driver = Driver::enabled();
    request(&mut driver, 0x99);
    // 15 entries fill the admin completion queue of 16.
    for _ in 0..ADMIN_ENTRIES - 1 {
        driver.submit(0, identify(1, 0));
    }
    driver.ring_tail(0);
    driver.settle();
    driver.write(0x1018, 1);
    driver.settle();
    let ids: Vec<u16> = std::iter::from_fn(|| driver.reap(0))
        .map(|done| done.command_id)
        .collect();
    assert!(ids.len() == 15 && !ids.contains(&0x99));
    driver.ring_head(0);
    driver.settle();
    assert_eq!(event(&mut driver), Some((0x99, INVALID_REGISTER)));
}

#[test]
fn a_reset_forgets_requests_and_events() {
    let mut driver = Driver::enabled();
    request(&mut driver, 1);
    driver.write(0x14, 0);
    driver.settle();
    driver.enable();
    driver.write(0x1018, 1);
    driver.settle();
    assert_eq!(event(&mut driver), None);
}

#[test]
fn a_wrong_shadow_doorbell_is_reported_once() {
    let mut driver = Driver::with_io_queue();
    driver.admin_ok(SubmissionEntry {
        prp1: SHADOW.into(),
        prp2: EVENT_INDEX.into(),
        ..command(admin::DOORBELL_BUFFER_CONFIG)
    });
    request(&mut driver, 1);
    driver.put(SHADOW + 8, &100_000u32.to_le_bytes());
    driver.settle();
    driver.settle();
    assert_eq!(event(&mut driver), Some((1, INVALID_VALUE)));
    assert_eq!(driver.controller.admin().errors().count(), 1);
}
