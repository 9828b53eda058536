//! Making, deleting and wrapping queues; doorbells; shadow doorbells; interrupts.

use std::sync::{Arc, Mutex};

use vm_memory::{GuestMemoryMmap, VolatileSlice};

use super::harness::*;
use crate::storage::nvme::rings::{InvalidDoorbellValue, SubmissionQueue};
use crate::storage::nvme::spec::command::{SubmissionEntry, admin, nvm};
use crate::storage::nvme::spec::status::Status;

const CQ: u64 = 0x5_0000;
const SIZE: u32 = 7 << 16;

fn delete(opcode: u8, id: u32) -> SubmissionEntry {
    SubmissionEntry {
        dword10: id.into(),
        ..command(opcode)
    }
}

#[test]
fn create_completion_queue_checks_every_field() {
    let mut driver = Driver::with_io_queue();
    let cases = [
        ("identifier 0", create_cq(CQ, SIZE, 1), Status::INVALID_QUEUE_IDENTIFIER),
        (
            "identifier in use",
            create_cq(CQ, SIZE | 1, 1),
            Status::INVALID_QUEUE_IDENTIFIER,
        ),
        (
            "identifier above the queues there are",
            create_cq(CQ, SIZE | 5, 1),
            Status::INVALID_QUEUE_IDENTIFIER,
        ),
        (
            "identifier ffffh",
            create_cq(CQ, SIZE | 0xffff, 1),
            Status::INVALID_QUEUE_IDENTIFIER,
        ),
        ("one entry", create_cq(CQ, 2, 1), Status::INVALID_QUEUE_SIZE),
        (
            "more than MQES",
            create_cq(CQ, 1024 << 16 | 2, 1),
            Status::INVALID_QUEUE_SIZE,
        ),
        ("not contiguous", create_cq(CQ, SIZE | 2, 2), Status::INVALID_FIELD),
        ("offset", create_cq(CQ + 16, SIZE | 2, 1), Status::PRP_OFFSET_INVALID),
        ("outside memory", create_cq(MEMORY, SIZE | 2, 1), Status::INVALID_FIELD),
        (
            "end of the address space",
            create_cq(!0xfff, 1023 << 16 | 2, 1),
            Status::INVALID_FIELD,
        ),
        (
            "vector",
            create_cq(CQ, SIZE | 2, 3 | 5 << 16),
            Status::INVALID_INTERRUPT_VECTOR,
        ),
    ];
    for (what, command, status) in cases {
        assert_eq!(driver.admin(command).status, status.with_more(), "{what}");
    }
    driver.admin_ok(create_cq(CQ, SIZE | 2, 3 | 4 << 16));
}

#[test]
fn create_submission_queue_checks_every_field() {
    let mut driver = Driver::with_io_queue();
    let cases = [
        (
            "identifier 0",
            create_sq(CQ, SIZE, 1 | 1 << 16),
            Status::INVALID_QUEUE_IDENTIFIER,
        ),
        (
            "identifier in use",
            create_sq(CQ, SIZE | 1, 1 | 1 << 16),
            Status::INVALID_QUEUE_IDENTIFIER,
        ),
        (
            "identifier too high",
            create_sq(CQ, SIZE | 5, 1 | 1 << 16),
            Status::INVALID_QUEUE_IDENTIFIER,
        ),
        ("one entry", create_sq(CQ, 2, 1 | 1 << 16), Status::INVALID_QUEUE_SIZE),
        (
            "more than MQES",
            create_sq(CQ, 1024 << 16 | 2, 1 | 1 << 16),
            Status::INVALID_QUEUE_SIZE,
        ),
        (
            "not contiguous",
            create_sq(CQ, SIZE | 2, 1 << 16),
            Status::INVALID_FIELD,
        ),
        (
            "offset",
            create_sq(CQ + 64, SIZE | 2, 1 | 1 << 16),
            Status::PRP_OFFSET_INVALID,
        ),
        (
            "outside memory",
            create_sq(MEMORY - 0x1000, 1023 << 16 | 2, 1 | 1 << 16),
            Status::INVALID_FIELD,
        ),
        (
            "admin completion queue",
            create_sq(CQ, SIZE | 2, 1),
            Status::INVALID_QUEUE_IDENTIFIER,
        ),
        (
            "completion queue too high",
            create_sq(CQ, SIZE | 2, 1 | 5 << 16),
            Status::INVALID_QUEUE_IDENTIFIER,
        ),
        (
            "no such completion queue",
            create_sq(CQ, SIZE | 2, 1 | 3 << 16),
            Status::COMPLETION_QUEUE_INVALID,
        ),
    ];
    for (what, command, status) in cases {
        assert_eq!(driver.admin(command).status, status.with_more(), "{what}");
    }
    driver.admin_ok(create_sq(CQ, SIZE | 2, 1 | 1 << 16));
}

#[test]
fn entry_sizes_in_cc_have_to_be_right_for_io_queues() {
    let mut driver = Driver::cold();
    driver.enable();
    driver.write(0x14, 0x0036_0001);
    driver.settle();
    driver.admin_fails(create_cq(CQ, SIZE | 1, 1), Status::INVALID_QUEUE_SIZE);
    driver.write(0x14, 0x0045_0001);
    driver.admin_ok(create_cq(CQ, SIZE | 1, 1));
    driver.admin_fails(create_sq(CQ, SIZE | 1, 1 | 1 << 16), Status::INVALID_QUEUE_SIZE);
}

#[test]
fn queues_are_deleted_submission_queue_first() {
    let mut driver = Driver::with_io_queue();
    for id in [0, 2, 5, 0xffff] {
        driver.admin_fails(
            delete(admin::DELETE_COMPLETION_QUEUE, id),
            Status::INVALID_QUEUE_IDENTIFIER,
        );
        driver.admin_fails(
            delete(admin::DELETE_SUBMISSION_QUEUE, id),
            Status::INVALID_QUEUE_IDENTIFIER,
        );
    }
    driver.admin_fails(
        delete(admin::DELETE_COMPLETION_QUEUE, 1),
        Status::INVALID_QUEUE_DELETION,
    );
    driver.admin_ok(delete(admin::DELETE_SUBMISSION_QUEUE, 1));
    driver.admin_ok(delete(admin::DELETE_COMPLETION_QUEUE, 1));
    driver.submission.truncate(1);
    driver.completion.truncate(1);
    driver.create_queue_pair(1);
    driver.io_ok(blocks(nvm::READ, 0, 1));
}

#[test]
fn every_queue_pair_can_be_used() {
    let backend = crate::storage::backend::MemoryBackend::new(DISK);
    let mut driver = Driver::with_backends(vec![Box::new(backend)], 64);
    driver.enable();
    for id in 1..=64 {
        driver.create_queue_pair(id);
    }
    for id in 1..=64 {
        assert_eq!(driver.run(id, blocks(nvm::READ, 0, 1)).status, Status::SUCCESS);
        assert_eq!(driver.interrupts.take(), [id as u16]);
    }
    driver.admin_fails(create_cq(CQ, SIZE | 0x41, 1), Status::INVALID_QUEUE_IDENTIFIER);
}

#[test]
fn phase_tag_flips_on_every_round() {
    let mut driver = Driver::with_io_queue();
    for _ in 0..5 * IO_ENTRIES {
        driver.io_ok(blocks(nvm::READ, 0, 1));
    }
    assert!(!driver.completion[1].phase || driver.completion[1].index < IO_ENTRIES);
}

#[test]
fn a_full_completion_queue_holds_commands_back() {
    let mut driver = Driver::with_io_queue();
    // Two submission queues feed one completion queue of 8 entries, which takes 7.
    driver.admin_ok(create_sq(CQ, SIZE | 2, 1 | 1 << 16));
    driver.submission.push(Ring::new(CQ, IO_ENTRIES));
    for queue in [1, 2] {
        for _ in 0..IO_ENTRIES - 1 {
            driver.submit(queue, blocks(nvm::READ, 0, 1));
        }
        driver.ring_tail(queue);
    }
    driver.settle();
    let first = std::iter::from_fn(|| driver.reap(1)).count();
    assert_eq!(first, 7);
    driver.ring_head(1);
    driver.settle();
    assert_eq!(std::iter::from_fn(|| driver.reap(1)).count(), 7);
}

#[test]
fn queues_without_interrupts_send_none() {
    let mut driver = Driver::enabled();
    let (sq, cq) = Driver::queue_addresses(1);
    driver.admin_ok(create_cq(cq, SIZE | 1, 1 | 1 << 16));
    driver.admin_ok(create_sq(sq, SIZE | 1, 1 | 1 << 16));
    driver.submission.push(Ring::new(sq, IO_ENTRIES));
    driver.completion.push(Ring::new(cq, IO_ENTRIES));
    driver.interrupts.take();
    driver.io_ok(blocks(nvm::READ, 0, 1));
    assert!(driver.interrupts.take().is_empty());
}

#[test]
fn round_robin_gives_each_queue_a_burst() {
    let mut driver = Driver::with_io_queue();
    driver.create_queue_pair(2);
    driver.admin_ok(SubmissionEntry {
        dword10: 1.into(),
        dword11: 0.into(),
        ..command(admin::SET_FEATURES)
    });
    driver.interrupts.take();
    for queue in [1, 2] {
        for _ in 0..3 {
            driver.submit(queue, blocks(nvm::READ, 0, 1));
        }
        driver.ring_tail(queue);
    }
    driver.settle();
    assert_eq!(driver.interrupts.take(), [1, 2, 1, 2, 1, 2]);
}

#[test]
fn doorbells_before_ready_are_ignored() {
    let driver = Driver::cold();
    assert!(!driver.write(0x1000, 3));
    let mut written = Vec::new();
    assert!(!driver.registers.lock().take_doorbells(&mut written));
    assert_eq!(written, []);
}

fn configure_shadow(driver: &mut Driver) {
    let config = SubmissionEntry {
        prp1: SHADOW.into(),
        prp2: EVENT_INDEX.into(),
        ..command(admin::DOORBELL_BUFFER_CONFIG)
    };
    driver.admin_ok(config);
}

fn dword(driver: &Driver, address: u64) -> u32 {
    u32::from_le_bytes(driver.bytes(address, 4).try_into().unwrap())
}

#[test]
fn doorbell_buffer_config_refuses_bad_pages() {
    let mut driver = Driver::enabled();
    for (shadow, event_index) in [
        (SHADOW + 4, EVENT_INDEX),
        (SHADOW, EVENT_INDEX + 8),
        (0, EVENT_INDEX),
        (SHADOW, 0),
        (MEMORY, EVENT_INDEX),
        (SHADOW, !0xfff),
    ] {
        let opcode = admin::DOORBELL_BUFFER_CONFIG;
        let config = SubmissionEntry {
            prp1: shadow.into(),
            prp2: event_index.into(),
            ..command(opcode)
        };
        driver.admin_fails(config, Status::INVALID_FIELD);
    }
    assert!(driver.route.0.lock().unwrap().is_empty());
}

#[test]
fn shadow_doorbells_replace_the_values_of_io_doorbells() {
    let mut driver = Driver::with_io_queue();
    configure_shadow(&mut driver);
    assert_eq!(*driver.route.0.lock().unwrap(), [true]);
    for round in 1..=20u32 {
        let before = driver.submission[1].index;
        driver.submit(1, blocks(nvm::READ, 0, 1));
        let tail = driver.submission[1].index;
        driver.put(SHADOW + 8, &tail.to_le_bytes());
        assert_eq!(
            dword(&driver, EVENT_INDEX + 8),
            before,
            "the host has to ring for the first command"
        );
        // The register's value does not matter.
        driver.write(0x1008, 0xffff);
        driver.settle();
        assert_eq!(driver.reap(1).unwrap().status, Status::SUCCESS, "round {round}");
        let head = driver.completion[1].index;
        driver.put(SHADOW + 12, &head.to_le_bytes());
    }
    // The admin queue goes on by register.
    driver.admin_ok(identify(1, 0));
    driver.write(0x14, 0);
    driver.settle();
    assert_eq!(*driver.route.0.lock().unwrap(), [true, false]);
}

#[test]
fn queues_made_after_the_config_start_at_zero() {
    let mut driver = Driver::enabled();
    driver.put(SHADOW, &[0x55; 0x1000]);
    configure_shadow(&mut driver);
    driver.create_queue_pair(1);
    assert_eq!((dword(&driver, SHADOW + 8), dword(&driver, SHADOW + 12)), (0, 0));
    driver.submit(1, blocks(nvm::READ, 0, 1));
    driver.put(SHADOW + 8, &1u32.to_le_bytes());
    driver.settle();
    assert!(driver.reap(1).is_some());
}

#[test]
fn a_host_may_use_the_shadow_of_the_admin_queue() {
    let mut driver = Driver::enabled();
    configure_shadow(&mut driver);
    driver.submit(0, identify(1, 0));
    driver.put(SHADOW, &driver.submission[0].index.to_le_bytes());
    driver.settle();
    assert_eq!(driver.reap(0).unwrap().status, Status::SUCCESS);
    // From now on the register's value is a nudge.
    driver.write(0x1000, 0);
    driver.settle();
    assert_eq!(driver.reap(0), None);
}

/// Memory in which the host moves a shadow doorbell at the moment at which the controller asks for a nudge.
struct RacingHost {
    memory: GuestMemoryMmap,
    tail: Arc<Mutex<Option<u32>>>,
}

impl DmaMemory for RacingHost {
    fn contains(&self, address: u64, length: usize) -> bool {
        DmaMemory::contains(&self.memory, address, length)
    }
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), NotMemory> {
        DmaMemory::read(&self.memory, address, buffer)
    }
    fn write(&self, address: u64, data: &[u8]) -> Result<(), NotMemory> {
        DmaMemory::write(&self.memory, address, data)
    }
    fn slices(&self, segments: &[Segment]) -> Result<Vec<VolatileSlice<'_>>, NotMemory> {
        DmaMemory::slices(&self.memory, segments)
    }
    fn load(&self, address: u64) -> Result<u32, NotMemory> {
        DmaMemory::load(&self.memory, address)
    }
    fn store(&self, address: u64, value: u32) -> Result<(), NotMemory> {
        if address == EVENT_INDEX + 8 {
            if let Some(tail) = self.tail.lock().unwrap().take() {
                // Just before: the host has seen the old EventIdx and does not ring.
                DmaMemory::store(&self.memory, SHADOW + 8, tail)?;
            }
        }
        DmaMemory::store(&self.memory, address, value)
    }
}

#[test]
fn a_command_that_comes_while_the_controller_goes_idle_is_not_lost() {
    let tail = Arc::new(Mutex::new(None));
    let mut driver = Driver::cold();
    let racing = RacingHost {
        memory: driver.memory.clone(),
        tail: Arc::clone(&tail),
    };
    driver.controller.replace_memory(Box::new(racing));
    driver.enable();
    driver.create_queue_pair(1);
    configure_shadow(&mut driver);
    driver.submit(1, blocks(nvm::READ, 0, 1));
    *tail.lock().unwrap() = Some(1);
    driver.settle();
    assert_eq!(driver.reap(1).unwrap().status, Status::SUCCESS);
}

#[test]
fn a_tail_may_reach_the_entry_before_the_head_and_no_further() {
    let mut queue = SubmissionQueue::new(0, 8, 1);
    assert_eq!(queue.ring(7), Ok(()));
    assert_eq!(queue.ring(7), Ok(()), "the same value again is harmless");
    assert_eq!(queue.ring(0), Err(InvalidDoorbellValue));
    assert_eq!(queue.ring(8), Err(InvalidDoorbellValue));
    assert_eq!(queue.tail(), 7);
}

#[test]
fn a_full_completion_queue_asks_for_the_head_doorbell() {
    let mut driver = Driver::with_io_queue();
    configure_shadow(&mut driver);
    driver.put(EVENT_INDEX + 12, &0x77u32.to_le_bytes());
    for _ in 0..IO_ENTRIES - 1 {
        driver.submit(1, blocks(nvm::READ, 0, 1));
    }
    driver.put(SHADOW + 8, &driver.submission[1].index.to_le_bytes());
    driver.settle();
    assert_eq!(dword(&driver, EVENT_INDEX + 12), 0, "armed at the head");
}

#[test]
fn deleting_the_queue_in_service_ends_its_turn() {
    let mut driver = Driver::with_io_queue();
    driver.submit(0, delete(admin::DELETE_SUBMISSION_QUEUE, 1));
    driver.submit(0, delete(admin::DELETE_COMPLETION_QUEUE, 1));
    driver.submit(1, blocks(nvm::READ, 0, 1));
    driver.ring_tail(1);
    driver.ring_tail(0);
    driver.settle();
    assert_eq!(driver.reap(0).unwrap().status, Status::SUCCESS);
    assert_eq!(driver.reap(0).unwrap().status, Status::SUCCESS);
    assert_eq!(driver.controller.admin().errors().count(), 0);
}
