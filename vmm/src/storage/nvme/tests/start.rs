//! The start of a host's driver that takes the controller at its word, step by step: what is announced is there, what is
//! not announced is refused for good, and registers read as they were written. `docs/nvme-start.md` has the steps
//! with the public reports that each comes from.

use super::harness::*;
use crate::storage::nvme::spec::command::{SubmissionEntry, admin, nvm};
use crate::storage::nvme::spec::status::Status;

const AQA: u64 = 0x24;
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;

fn feature(opcode: u8, feature: u32, value: u32) -> SubmissionEntry {
    SubmissionEntry {
        dword10: feature.into(),
        dword11: value.into(),
        ..command(opcode)
    }
}

fn log(page: u32, dwords: u32) -> SubmissionEntry {
    SubmissionEntry {
        namespace_id: u32::MAX.into(),
        dword10: (page | (dwords - 1) << 16).into(),
        ..command(admin::GET_LOG_PAGE)
    }
}

/// Identify Controller.
fn identified(driver: &mut Driver) -> Vec<u8> {
    driver.admin_ok(identify(1, 0));
    driver.bytes(DATA, 4096)
}

fn number(data: &[u8], at: usize, length: usize) -> u64 {
    data[at..at + length]
        .iter()
        .rev()
        .fold(0, |all, byte| all << 8 | u64::from(*byte))
}

#[test]
fn the_admin_queues_registers_read_as_they_were_written_while_the_controller_is_enabled() {
    let mut driver = Driver::enabled();
    for _ in 0..2 {
        let queues = (ADMIN_ENTRIES - 1) << 16 | (ADMIN_ENTRIES - 1);
        assert_eq!(driver.read(AQA), queues);
        for (register, base) in [(ASQ, ADMIN_SQ), (ACQ, ADMIN_CQ)] {
            let mut whole = [0; 8];
            driver.registers.read(register, &mut whole);
            assert_eq!(u64::from_le_bytes(whole), base);
            assert_eq!((u64::from(driver.read(register)), driver.read(register + 4)), (base, 0));
        }
        // Some driver looks right behind its first command.
        identified(&mut driver);
    }
}

#[test]
fn requests_for_events_are_held_over_other_commands_and_end_with_a_reset() {
    let mut driver = Driver::with_io_queue();
    let limit = usize::from(identified(&mut driver)[259]) + 1;
    assert_eq!(limit, 4);
    for _ in 0..limit {
        driver.submit(0, command(admin::ASYNC_EVENT_REQUEST));
        driver.ring_tail(0);
        driver.settle();
        assert_eq!(driver.reap(0), None, "held, not refused");
    }
    driver.admin_fails(
        command(admin::ASYNC_EVENT_REQUEST),
        Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED,
    );
    for lba in 0..64 {
        driver.io_ok(blocks(nvm::READ, lba, 1));
    }
    driver.admin_ok(log(2, 128));
    assert_eq!(driver.reap(0), None);
    driver.write(0x14, 0);
    driver.settle();
    driver.enable();
    driver.submit(0, command(admin::ASYNC_EVENT_REQUEST));
    driver.ring_tail(0);
    driver.settle();
    assert_eq!(driver.reap(0), None, "there is room again");
}

#[test]
fn a_driver_that_goes_by_what_is_announced_gets_through_its_start() {
    let mut driver = Driver::enabled();
    let controller = identified(&mut driver);
    assert_eq!(number(&controller, 80, 4), 0x1_0400, "VER as the register");
    assert_eq!(driver.read(8), 0x1_0400);
    assert_eq!(controller[111], 1, "an I/O controller");
    assert_eq!(number(&controller, 516, 4), 1, "namespaces");
    // The logs that are mandatory, and that of commands, which LPA bit 1 announces.
    assert_eq!(controller[261] & 0b10, 0b10);
    driver.admin_ok(log(2, 128));
    driver.admin_ok(log(1, 16));
    driver.admin_ok(log(5, 1024));
    let effects = driver.bytes(DATA, 4096);
    for opcode in [admin::IDENTIFY, admin::GET_LOG_PAGE, admin::ASYNC_EVENT_REQUEST] {
        assert_eq!(effects[4 * usize::from(opcode)] & 1, 1, "{opcode:#x}");
    }
    // Firmware: slot 1 is active, has the revision of Identify, and cannot be written.
    assert_eq!(controller[260] & 0b1111, 0b11, "one slot, read-only");
    driver.admin_ok(log(3, 128));
    let slots = driver.bytes(DATA, 512);
    assert_eq!((slots[0], &slots[8..16]), (1, &controller[64..72]));
    // As many queues as there are, whatever is asked for.
    let queues = driver.admin_ok(feature(admin::SET_FEATURES, 7, 0xfffe_fffe));
    assert_eq!((queues & 0xffff, queues >> 16), (3, 3));
    driver.create_queue_pair(1);
    driver.admin_ok(identify(2, 0));
    assert_eq!(number(&driver.bytes(DATA, 8), 0, 8), 1, "namespace 1 and no other");
    driver.admin_ok(identify(0, 1));
    assert_eq!(number(&driver.bytes(DATA, 8), 0, 8), DISK as u64 / 512);
    driver.admin_ok(identify(3, 1));
    assert_eq!(driver.bytes(DATA, 2), [1, 8], "an EUI64");
    // Coalescing of interrupts, for all vectors but one.
    driver.admin_ok(feature(admin::SET_FEATURES, 8, 0x0a04));
    assert_eq!(driver.admin_ok(feature(admin::GET_FEATURES, 8, 0)), 0x0a04);
    driver.admin_ok(feature(admin::SET_FEATURES, 9, 1 << 16));
    assert_eq!(driver.admin_ok(feature(admin::GET_FEATURES, 9, 0)), 1 << 16);
    // The write cache, the events.
    assert_eq!(controller[525] & 1, 1);
    assert_eq!(driver.admin_ok(feature(admin::GET_FEATURES, 6, 0)), 1);
    driver.admin_ok(feature(admin::SET_FEATURES, 0xb, 0x1ff));
    driver.io_ok(blocks(nvm::READ, 0, 1));
    // The end of the run.
    driver.write(0x14, CC_ENABLE | 1 << 14);
    driver.settle();
    assert_eq!(driver.read(0x1c) >> 2 & 3, 2, "shut down");
}

/// An optional part: what announces it, and a command that needs it.
struct Optional {
    name: &'static str,
    announced: fn(&[u8]) -> bool,
    command: SubmissionEntry,
    refusal: Status,
}

fn optional_parts() -> Vec<Optional> {
    let set = |id| feature(admin::SET_FEATURES, id, 1);
    let part = |name, announced, command, refusal| Optional {
        name,
        announced,
        command,
        refusal,
    };
    let (field, opcode) = (Status::INVALID_FIELD, Status::INVALID_OPCODE);
    vec![
        part("Host Memory Buffer", |data| number(data, 272, 4) != 0, set(0xd), field),
        part(
            "autonomous power state transitions",
            |data| data[265] & 1 != 0,
            set(0xc),
            field,
        ),
        part("timestamp", |data| data[520] & 1 << 6 != 0, set(0xe), field),
        part("thermal management", |data| data[322] & 1 != 0, set(0x10), field),
        part("reservations", |data| data[520] & 1 << 5 != 0, set(0x83), field),
        part("Keep Alive", |data| number(data, 320, 2) != 0, set(0xf), field),
        part("security", |data| data[256] & 1 != 0, command(0x82), opcode),
        part("Format NVM", |data| data[256] & 1 << 1 != 0, command(0x80), opcode),
        part("firmware update", |data| data[256] & 1 << 2 != 0, command(0x10), opcode),
        part(
            "namespace management",
            |data| data[256] & 1 << 3 != 0,
            command(0x0d),
            opcode,
        ),
        part("self-test", |data| data[256] & 1 << 4 != 0, command(0x14), opcode),
        part("directives", |data| data[256] & 1 << 5 != 0, command(0x1a), opcode),
        part("sanitize", |data| number(data, 328, 4) != 0, command(0x84), opcode),
    ]
}

#[test]
fn what_is_not_announced_is_refused_for_good() {
    let mut driver = Driver::enabled();
    let controller = identified(&mut driver);
    for part in optional_parts() {
        assert!(!(part.announced)(&controller), "{}", part.name);
        assert!(part.refusal.do_not_retry());
        driver.admin_fails(part.command, part.refusal);
    }
    // None of it has disturbed what comes next.
    driver.create_queue_pair(1);
    driver.io_ok(blocks(nvm::READ, 0, 1));
}
