//! Handshakes, initialisation, resets and faults of the IOC.

use super::harness::*;
use crate::storage::backend::{Backend, MemoryBackend};
use crate::storage::sas::spec::{doorbell, function, his, ioc_state, offset};
use crate::storage::sas::{SasConfig, SasConfigError};
use crate::storage::worker::StorageController;

fn state(driver: &mut Driver) -> u32 {
    driver.get(offset::DOORBELL) & 0xf000_0000
}

fn cold() -> Driver {
    Driver::cold(SasConfig::default(), 2)
}

#[test]
fn facts_are_told_by_the_doorbell_before_anything_is_initialised() {
    let mut driver = cold();
    assert_eq!(state(&mut driver), ioc_state::READY);
    let facts = driver.handshake(&message(function::IOC_FACTS)[..12]);
    assert_eq!((facts.len(), u16_at(&facts, 0), ioc_status(&facts)), (0x50, 0x0105, 0));
    assert_eq!((u16_at(&facts, 0x1a), u16_at(&facts, 0x24)), (32, 256));
    assert_eq!((facts[0x26], u32_at(&facts, 8)), (1, 0x0001_0007));
    let port = driver.handshake(&message(function::PORT_FACTS)[..12]);
    assert_eq!((port.len(), port[0x15], u16_at(&port, 0x1a)), (0x28, 0x30, 8));
    let mut other_port = message(function::PORT_FACTS);
    other_port[6] = 1;
    assert_eq!(ioc_status(&driver.handshake(&other_port[..12])), 7);
}

#[test]
fn initialisation_has_an_order_and_sensible_values() {
    let mut driver = cold();
    let enable = message(function::PORT_ENABLE);
    assert_eq!(ioc_status(&driver.handshake(&enable[..12])), 8, "not yet");
    let mut init = message(function::IOC_INIT);
    (init[0], init[5], init[6], init[0x0c]) = (4, 8, 1, 80);
    for (at, value) in [(0, 0), (0, 6), (0x0c, 3)] {
        let mut wrong = init.clone();
        wrong[at] = value;
        assert_eq!(ioc_status(&driver.handshake(&wrong[..0x2c])), 7);
        assert_eq!(state(&mut driver), ioc_state::READY);
    }
    assert_eq!(ioc_status(&driver.handshake(&init[..0x2c])), 0);
    assert_eq!(state(&mut driver), ioc_state::OPERATIONAL);
    assert_eq!(driver.get(offset::DOORBELL) >> 24 & 7, 4, "WhoInit");
    assert_eq!(ioc_status(&driver.handshake(&init[..0x2c])), 8, "once");
    assert_eq!(ioc_status(&driver.handshake(&enable[..12])), 0);
}

#[test]
fn a_message_unit_reset_forgets_requests_and_replies() {
    let mut driver = Driver::new();
    driver.post(&read(0, 0, 1));
    driver.put(offset::DOORBELL, 0x40 << 24);
    assert_eq!(driver.get(offset::HOST_INTERRUPT_STATUS), 0);
    assert_eq!(state(&mut driver), ioc_state::READY);
    assert_eq!(driver.reap(), None);
    driver.initialise();
    driver.ok(&read(0, 0, 1));
}

#[test]
fn a_driver_need_not_wait_for_a_reset_before_it_begins_a_handshake() {
    let mut driver = Driver::new();
    driver.post(&message(0x7f));
    // The controller does not get to look in between.
    driver.registers.write(offset::DOORBELL, &(0x40u32 << 24).to_le_bytes());
    let mut data = [0; 4];
    driver.registers.read(offset::HOST_INTERRUPT_STATUS, &mut data);
    assert_eq!(u32::from_le_bytes(data), his::IOP_DOORBELL_STATUS);
    let facts = message(function::IOC_FACTS);
    driver
        .registers
        .write(offset::DOORBELL, &(0x42 << 24 | 3u32 << 16).to_le_bytes());
    for word in facts[..12].chunks_exact(4) {
        driver.registers.write(offset::DOORBELL, word);
    }
    driver.settle();
    assert_eq!(driver.get(offset::HOST_INTERRUPT_STATUS), his::DOORBELL_INTERRUPT);
    assert_eq!(
        driver.get(offset::DOORBELL),
        ioc_state::READY | doorbell::ACTIVE | 0x0105
    );
}

#[test]
fn an_io_unit_reset_resets_the_disks_as_well() {
    let mut driver = Driver::new();
    driver.put(offset::DOORBELL, 0x41 << 24);
    driver.initialise();
    let reply = driver.run(&read(0, 0, 1)).frame();
    assert_eq!((reply[0x0c], driver.bytes(SENSE + 12, 2)), (2, vec![0x29, 3]));
}

#[test]
fn a_diagnostic_reset_needs_the_keys_in_their_order() {
    let mut driver = Driver::new();
    driver.put(offset::DIAGNOSTIC, 4);
    assert_eq!(state(&mut driver), ioc_state::OPERATIONAL);
    for key in [4, 0xb, 2, 4, 7, 0xd] {
        driver.put(offset::WRITE_SEQUENCE, key);
    }
    assert_eq!(driver.get(offset::DIAGNOSTIC), 0);
    driver.diagnostic_reset();
    assert_eq!(state(&mut driver), ioc_state::READY);
    assert_eq!(driver.get(offset::DIAGNOSTIC), 0x20, "reset history; closed");
    for key in [0xff, 4, 0xb, 2, 7, 0xd] {
        driver.put(offset::WRITE_SEQUENCE, key);
    }
    assert_eq!(driver.get(offset::DIAGNOSTIC), 0xa0);
    driver.put(offset::DIAGNOSTIC, 0x80);
    driver.put(offset::WRITE_SEQUENCE, u32::MAX);
    assert_eq!(driver.get(offset::DIAGNOSTIC), 0);
    driver.initialise();
}

#[test]
fn a_stuck_handshake_is_ended_by_a_reset() {
    let mut driver = cold();
    driver.put(offset::DOORBELL, 0x42 << 24 | 5 << 16);
    driver.put(offset::DOORBELL, 1);
    assert_ne!(driver.get(offset::DOORBELL) & doorbell::ACTIVE, 0);
    driver.diagnostic_reset();
    assert_eq!(driver.get(offset::DOORBELL), ioc_state::READY);
    driver.put(offset::DOORBELL, 0x42 << 24);
    assert_eq!(
        driver.get(offset::HOST_INTERRUPT_STATUS),
        0,
        "a handshake of nothing is none"
    );
    driver.initialise();
}

#[test]
fn what_a_driver_does_too_early_or_too_often_is_a_fault() {
    let fault = |driver: &mut Driver| {
        assert_eq!(driver.get(offset::DOORBELL) & 0xf000_ffff, ioc_state::FAULT | 0x8180);
        // Only the diagnostic reset helps.
        driver.put(offset::DOORBELL, 0x40 << 24);
        driver.put(offset::DOORBELL, 0x42 << 24 | 3 << 16);
        assert_eq!(driver.get(offset::DOORBELL) & 0xf000_ffff, ioc_state::FAULT | 0x8180);
        driver.diagnostic_reset();
        driver.initialise();
        driver.run(&read(0, 0, 1)).frame();
        driver.ok(&read(0, 0, 1));
    };
    let mut driver = cold();
    driver.put(offset::REQUEST_QUEUE, 0x1000);
    fault(&mut driver);
    for frame in 0..256 {
        driver.put(offset::REPLY_QUEUE, 0x8000 + 0x100 * frame);
    }
    fault(&mut driver);
}

#[test]
fn requests_that_come_while_the_controller_is_initialised_are_served_if_it_is() {
    for good in [true, false] {
        let mut driver = cold();
        let mut init = message(function::IOC_INIT);
        (init[0], init[5], init[6], init[0x0c]) = (u8::from(good), 8, 1, 80);
        let request = driver.place(&scsi(0, &[0x12, 0, 0, 0, 36, 0], Way::In, 36));
        // The controller has not looked yet.
        driver
            .registers
            .write(offset::DOORBELL, &(0x42 << 24 | 11u32 << 16).to_le_bytes());
        for word in init[..0x2c].chunks_exact(4) {
            driver.registers.write(offset::DOORBELL, word);
        }
        driver.registers.write(offset::REQUEST_QUEUE, &request.to_le_bytes());
        driver.settle();
        if good {
            assert_eq!(driver.reap(), Some(Got::Context(0x0001_0007)));
        } else {
            assert_eq!(driver.get(offset::DOORBELL) & 0xf000_ffff, ioc_state::FAULT | 0x8180);
        }
    }
}

#[test]
fn a_request_that_is_nowhere_is_a_bus_fault() {
    let mut driver = Driver::new();
    driver.put(offset::REQUEST_QUEUE, MEMORY as u32 - 0x40);
    assert_eq!(driver.get(offset::DOORBELL) & 0xf000_ffff, ioc_state::FAULT | 0x8112);
    let mut driver = Driver::new();
    for _ in 0..REPLY_FRAMES {
        driver.controller.registers().lock().take_free();
    }
    driver.put(offset::REPLY_QUEUE, MEMORY as u32);
    driver.post(&message(0x7f));
    assert_eq!(driver.get(offset::DOORBELL) & 0xf000_ffff, ioc_state::FAULT | 0x8114);
}

#[test]
fn functions_that_there_are_not_are_refused() {
    let mut driver = Driver::new();
    // Firmware download and upload, RAID, toolbox, SMP, SATA, target mode, LAN.
    for function in [0x09, 0x12, 0x15, 0x17, 0x1a, 0x1c, 0x0a, 0x20, 0x7f, 0xff] {
        let reply = driver.run(&message(function)).frame();
        assert_eq!((reply.len(), reply[3], ioc_status(&reply)), (20, function, 1));
        assert_eq!(u32_at(&reply, 8), 0x0001_0007);
    }
    // By the doorbell as well.
    assert_eq!(ioc_status(&driver.handshake(&message(0x12)[..20])), 1);
}

#[test]
fn links_can_be_reset_and_nothing_else() {
    let mut driver = Driver::new();
    let mut control = |operation, phy| {
        let mut request = message(function::SAS_IO_UNIT_CONTROL);
        (request[0], request[0x0e]) = (operation, phy);
        ioc_status(&driver.run(&request).frame())
    };
    assert_eq!([1, 2, 6, 8, 0x0d].map(|operation| control(operation, 0)), [0; 5]);
    assert_eq!([control(6, 8), control(7, 8), control(9, 0), control(0, 0)], [7; 4]);
    assert_eq!(control(7, 1), 0);
    driver.ok(&read(0, 0, 1));
    assert_eq!(driver.run(&read(1, 0, 1)).frame()[0x0c], 2, "was reset");
}

#[test]
fn nothing_is_served_without_bus_mastering_and_all_of_it_afterwards() {
    let mut driver = Driver::new();
    driver.controller.set_bus_master(false);
    driver.post(&read(0, 0, 1));
    assert_eq!(driver.reap(), None);
    driver.controller.set_bus_master(true);
    driver.settle();
    assert_eq!(driver.reap(), Some(Got::Context(0x0001_0007)));
}

#[test]
fn without_frames_replies_wait_and_so_do_requests() {
    let mut driver = Driver::new();
    let mut frames = Vec::new();
    while let Some(frame) = driver.registers.lock().take_free() {
        frames.push(frame);
    }
    driver.post(&message(0x7f));
    driver.post(&read(0, 0, 1));
    assert_eq!(driver.get(offset::REPLY_QUEUE), u32::MAX);
    driver.put(offset::REPLY_QUEUE, frames[0]);
    assert_eq!(driver.get(offset::REPLY_QUEUE), frames[0] >> 1 | 1 << 31);
    assert_eq!(driver.reap(), Some(Got::Context(0x0001_0007)));
}

#[test]
fn only_whole_dwords_are_registers() {
    let mut driver = Driver::new();
    driver.post(&read(0, 0, 1));
    for (place, length) in [(0x44, 2), (0x44, 1), (0x45, 4), (0x46, 2)] {
        let mut data = [0; 4];
        driver.registers.read(place, &mut data[..length]);
        assert_eq!(data[..length], [0xff; 4][..length]);
        driver.registers.write(place, &data[..length]);
    }
    assert_eq!(driver.reap(), Some(Got::Context(0x0001_0007)));
    assert_eq!(driver.get(0x1000), 0);
    driver.put(0x1000, 5);
}

#[test]
fn a_reset_of_the_function_is_one_of_everything() {
    let mut driver = Driver::new();
    driver.post(&message(0x7f));
    assert!(driver.interrupts.pin());
    driver.registers.reset_function();
    assert!(!driver.interrupts.pin());
    driver.settle();
    assert_eq!(driver.get(offset::DOORBELL), ioc_state::READY);
    assert_eq!(driver.get(offset::HOST_INTERRUPT_MASK), 9);
    driver.initialise();
    assert_ne!(
        driver.get(offset::HOST_INTERRUPT_STATUS) & his::IOP_DOORBELL_STATUS,
        his::IOP_DOORBELL_STATUS
    );
}

#[test]
fn names_are_the_same_for_the_same_seed_and_index() {
    let of = |seed, index| SasConfig {
        index,
        seed,
        ..SasConfig::default()
    };
    assert_eq!(of(7, 1).disk_address(3), of(7, 1).disk_address(3));
    let mut names: Vec<u64> = Vec::new();
    for config in [of(0, 0), of(0, 1), of(1, 0)] {
        names.extend([config.address(), config.enclosure()]);
        names.extend((0..16).flat_map(|disk| [config.disk_address(disk), config.unit_name(disk)]));
    }
    assert!(names.iter().all(|name| name >> 60 == 3), "locally assigned");
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn controllers_that_cannot_be_are_refused() {
    let make = |sizes: &[usize]| {
        let backends = sizes
            .iter()
            .map(|&size| Box::new(MemoryBackend::new(size)) as Box<dyn Backend>);
        let memory = vm_memory::GuestMemoryMmap::<()>::from_ranges(&[(vm_memory::GuestAddress(0), 4096)]).unwrap();
        let interrupts = std::sync::Arc::new(cold().interrupts);
        let made = crate::storage::sas::Controller::new(
            SasConfig::default(),
            Box::new(memory),
            interrupts,
            backends.collect(),
        );
        made.err()
    };
    assert_eq!(make(&[]), Some(SasConfigError::Disks(0)));
    assert_eq!(make(&[512; 17]), Some(SasConfigError::Disks(17)));
    assert_eq!(make(&[512; 16]), None);
    assert!(matches!(make(&[512, 100]), Some(SasConfigError::Disk { index: 1, .. })));
}
