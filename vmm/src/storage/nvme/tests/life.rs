//! Registers, enable, reset, shutdown, fatal errors.

use super::harness::*;
use crate::storage::nvme::life::Activity;
use crate::storage::nvme::spec::command::nvm;
use crate::storage::nvme::spec::status::Status;

#[test]
fn capabilities_are_those_of_nvme_1_4() {
    let driver = Driver::cold();
    assert_eq!(driver.read(0x08), 0x0001_0400, "VS");
    let cap = u64::from(driver.read(0)) | u64::from(driver.read(4)) << 32;
    assert_eq!(cap & 0xffff, 1023, "MQES");
    assert_eq!(cap >> 16 & 1, 1, "CQR");
    assert_eq!(cap >> 32 & 0xf, 0, "DSTRD");
    assert_eq!(cap >> 37 & 0xff, 1, "CSS: NVM command set");
    assert_eq!(cap >> 48 & 0xff, 0, "MPSMIN, MPSMAX: 4 KiB");
    assert_eq!(cap >> 17 & 3, 0, "AMS: round robin only");
    assert_eq!(cap >> 24 & 0xff, 30, "TO: 15 s");
    assert_eq!(cap >> 36 & 1, 1, "NSSRS");
}

#[test]
fn reads_of_any_width_agree() {
    let driver = Driver::cold();
    let mut eight = [0; 8];
    driver.registers.read(4, &mut eight);
    for (at, expected) in eight.iter().enumerate() {
        let mut one = [0];
        driver.registers.read(4 + at as u64, &mut one);
        assert_eq!(one[0], *expected);
    }
}

#[test]
fn reserved_and_read_only_registers_stay() {
    let driver = Driver::cold();
    for offset in [0, 4, 8, 0x1c, 0x20, 0x38, 0x3c, 0xffc] {
        let before = driver.read(offset);
        assert!(!driver.write(offset, !before));
        assert_eq!(driver.read(offset), before);
    }
}

#[test]
fn writes_of_wrong_width_or_alignment_are_dropped() {
    let driver = Driver::cold();
    assert!(!driver.registers.write(0x24, &[1, 2]));
    assert!(!driver.registers.write(0x26, &[1, 2, 3, 4]));
    assert!(!driver.registers.write(0x2c, &[1; 8]));
    assert!(!driver.registers.write(0x1000, &[1; 8]));
    assert_eq!((driver.read(0x24), driver.read(0x2c)), (0, 0));
}

#[test]
fn interrupt_mask_is_set_and_cleared_by_bits() {
    let driver = Driver::cold();
    driver.write(0x0c, 0b1011);
    driver.write(0x10, 0b0010);
    assert_eq!((driver.read(0x0c), driver.read(0x10)), (0b1001, 0b1001));
}

#[test]
fn admin_queue_registers_are_frozen_while_enabled() {
    let driver = Driver::enabled();
    for offset in [0x24, 0x28, 0x2c, 0x30, 0x34] {
        let before = driver.read(offset);
        driver.write(offset, 0x00ff_5000);
        assert_eq!(driver.read(offset), before);
    }
}

#[test]
fn halves_and_whole_of_the_queue_addresses_agree() {
    let driver = Driver::cold();
    driver.write(0x28, 0x1234_5fff);
    driver.write(0x2c, 0x7);
    driver.write64(0x30, 0x9_8765_4321);
    assert_eq!((driver.read(0x28), driver.read(0x2c)), (0x1234_5000, 7));
    assert_eq!((driver.read(0x30), driver.read(0x34)), (0x8765_4000, 9));
}

#[test]
fn unusable_configuration_is_fatal_until_reset() {
    let cases: [(&str, u32, u64, u64, u32); 8] = [
        (
            "admin submission queue of one entry",
            15 << 16,
            ADMIN_SQ,
            ADMIN_CQ,
            CC_ENABLE,
        ),
        ("admin completion queue of one entry", 15, ADMIN_SQ, ADMIN_CQ, CC_ENABLE),
        (
            "submission queue outside memory",
            15 << 16 | 15,
            MEMORY,
            ADMIN_CQ,
            CC_ENABLE,
        ),
        (
            "completion queue outside memory",
            15 << 16 | 15,
            ADMIN_SQ,
            !0xfff,
            CC_ENABLE,
        ),
        (
            "submission queue that leaves memory",
            0xfff,
            MEMORY - 0x1000,
            ADMIN_CQ,
            CC_ENABLE,
        ),
        ("command set", 15 << 16 | 15, ADMIN_SQ, ADMIN_CQ, CC_ENABLE | 6 << 4),
        ("page size", 15 << 16 | 15, ADMIN_SQ, ADMIN_CQ, CC_ENABLE | 1 << 7),
        ("arbitration", 15 << 16 | 15, ADMIN_SQ, ADMIN_CQ, CC_ENABLE | 1 << 11),
    ];
    for (what, attributes, sq, cq, configuration) in cases {
        let mut driver = Driver::cold();
        driver.write(0x24, attributes);
        driver.write64(0x28, sq);
        driver.write64(0x30, cq);
        assert!(driver.write(0x14, configuration));
        driver.settle();
        assert_eq!(driver.read(0x1c), 2, "CFS: {what}");
        assert!(!driver.write(0x1000, 1), "no doorbells: {what}");
        driver.write(0x14, 0);
        driver.settle();
        assert_eq!(driver.read(0x1c), 0, "reset clears CFS: {what}");
        driver.enable();
    }
}

#[test]
fn reset_deletes_queues_and_forgets_features_but_keeps_admin_addresses() {
    let mut driver = Driver::with_io_queue();
    driver.admin_ok(crate::storage::nvme::spec::command::SubmissionEntry {
        dword10: 1.into(),
        dword11: 5.into(),
        ..command(0x09)
    });
    driver.submit(1, blocks(nvm::READ, 0, 1));
    driver.ring_tail(1);
    driver.write(0x14, 0);
    assert_eq!(driver.read(0x1c), 1, "ready until the controller has quiesced");
    driver.settle();
    assert_eq!(driver.read(0x1c), 0);
    assert_eq!(driver.reap(1), None, "no completion after the reset");
    assert_eq!(driver.read(0x28), ADMIN_SQ as u32);
    assert_eq!(driver.controller.activity(), Activity::Disabled);
    assert!((0..5).all(|id| driver.controller.queues().submission(id).is_none()));
    assert_eq!(driver.controller.admin().features().arbitration_burst(), 8);
    driver.enable();
    driver.create_queue_pair(1);
    driver.io_ok(blocks(nvm::READ, 0, 1));
}

#[test]
fn enable_right_after_disable_is_still_a_reset() {
    let mut driver = Driver::with_io_queue();
    driver.write(0x14, 0);
    driver.write(0x14, CC_ENABLE);
    driver.settle();
    assert_eq!(driver.read(0x1c), 1);
    assert!(driver.controller.queues().submission(1).is_none());
}

#[test]
fn shutdown_completes_and_stops_fetching_until_reset() {
    for notification in [1, 2] {
        let mut driver = Driver::with_io_queue();
        driver.write(0x14, CC_ENABLE | notification << 14);
        driver.settle();
        assert_eq!(driver.read(0x1c), 2 << 2 | 1, "SHST complete");
        driver.submit(1, blocks(nvm::READ, 0, 1));
        driver.ring_tail(1);
        driver.settle();
        assert_eq!(driver.reap(1), None);
        driver.write(0x14, 0);
        driver.settle();
        assert_eq!(driver.read(0x1c), 0);
        driver.enable();
    }
}

#[test]
fn reserved_shutdown_notification_asks_for_nothing() {
    let mut driver = Driver::enabled();
    driver.write(0x14, CC_ENABLE | 3 << 14);
    driver.settle();
    assert_eq!(driver.read(0x1c), 1);
}

#[test]
fn without_bus_mastering_memory_is_left_alone() {
    let mut driver = Driver::with_io_queue();
    driver.controller.set_bus_master(false);
    driver.submit(1, blocks(nvm::READ, 0, 1));
    driver.ring_tail(1);
    driver.settle();
    assert_eq!(driver.reap(1), None);
    driver.controller.set_bus_master(true);
    driver.settle();
    assert_eq!(driver.reap(1).unwrap().status, Status::SUCCESS);
}

#[test]
fn a_controller_at_work_can_be_interrupted_between_commands() {
    let mut driver = Driver::with_io_queue();
    for _ in 0..3 {
        driver.submit(1, blocks(nvm::READ, 0, 1));
    }
    driver.ring_tail(1);
    driver.controller.attention().set(true);
    // The admin queue has its turn first and ends the round; the I/O queue's next turn gives one command.
    for _ in 0..4 {
        let _ = driver.controller.process();
        if driver.reap(1).is_some() {
            break;
        }
    }
    assert_eq!(driver.reap(1), None, "one command and no more");
    driver.controller.attention().set(false);
    driver.settle();
    assert!(driver.reap(1).is_some() && driver.reap(1).is_some());
}

#[test]
fn doorbells_written_before_a_reset_mean_nothing_after_it() {
    let mut driver = Driver::enabled();
    driver.submit(0, identify(1, 0));
    driver.ring_tail(0);
    driver.write(0x14, 0);
    driver.write(0x14, CC_ENABLE);
    driver.settle();
    assert_eq!(driver.read(0x1c), 1);
    assert_eq!(driver.reap(0), None);
}

const NVM_SUBSYSTEM_RESET: u32 = 0x4e56_4d65;

#[test]
fn a_subsystem_reset_clears_every_register_and_says_so() {
    let mut driver = Driver::with_io_queue();
    driver.submit(1, blocks(nvm::READ, 0, 1));
    driver.ring_tail(1);
    driver.write(0x0c, 0b101);
    assert!(
        !driver.write(0x20, NVM_SUBSYSTEM_RESET + 1),
        "any other value has no effect"
    );
    assert!(driver.write(0x20, NVM_SUBSYSTEM_RESET));
    assert_eq!(driver.read(0x1c) & 1, 1, "ready until the controller has quiesced");
    driver.settle();
    assert_eq!(driver.read(0x1c), 1 << 4, "NSSRO and nothing else");
    for offset in [0x0c, 0x14, 0x20, 0x24, 0x28, 0x2c, 0x30, 0x34] {
        assert_eq!(driver.read(offset), 0, "{offset:#x}");
    }
    assert_eq!(driver.controller.activity(), Activity::Disabled);
    assert_eq!(driver.reap(1), None);

    driver.write(0x1c, !(1 << 4));
    driver.write(0x14, CC_ENABLE);
    driver.settle();
    assert_eq!(driver.read(0x1c), 1 << 4 | 2, "no admin queues: CFS");
    driver.write(0x14, 0);
    driver.settle();
    assert_eq!(driver.read(0x1c), 1 << 4, "stays in a controller reset");
    driver.write(0x1c, 1 << 4);
    assert_eq!(driver.read(0x1c), 0, "cleared by a 1");
    driver.enable();
}

#[test]
fn a_subsystem_reset_helps_out_of_a_fatal_error_and_a_shutdown() {
    let mut driver = Driver::cold();
    driver.write(0x14, CC_ENABLE);
    driver.settle();
    assert_eq!(driver.read(0x1c), 2);
    driver.write(0x20, NVM_SUBSYSTEM_RESET);
    driver.settle();
    driver.write(0x1c, 1 << 4);
    driver.enable();
    driver.write(0x14, CC_ENABLE | 1 << 14);
    driver.settle();
    driver.write(0x20, NVM_SUBSYSTEM_RESET);
    driver.write(0x1c, 1 << 4);
    driver.settle();
    assert_eq!(driver.read(0x1c), 1 << 4, "it had not occurred yet when it was cleared");
}

#[test]
fn after_a_reset_of_the_function_the_controller_is_as_new_but_for_its_logs() {
    let mut driver = Driver::with_io_queue();
    driver.write(0x0c, 0xff);
    // A command is waiting, and one more doorbell is written before the reset.
    driver.write(0x1000, 1);
    let counters = driver.controller.namespaces().counters().clone();
    driver.registers.reset_function();
    let new = Driver::cold();
    assert_eq!(driver.read(0x1c), 0, "CSTS, before the controller has looked");
    driver.settle();
    let registers = |driver: &Driver| (0..0x40).step_by(4).map(|at| driver.read(at)).collect::<Vec<_>>();
    assert_eq!(registers(&driver), registers(&new));
    assert_eq!(driver.controller.memory(), new.controller.memory());
    assert_eq!(*driver.controller.namespaces().counters(), counters);
    driver.enable();
    driver.create_queue_pair(1);
}

#[test]
fn a_controller_that_is_enabled_right_after_a_reset_forgets_first() {
    let mut driver = Driver::with_io_queue();
    driver.registers.reset_function();
    driver.enable();
    assert!(driver.controller.queues().submission(1).is_none());
}
