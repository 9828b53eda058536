//! SCSI I/O: data both ways, sense data, residuals, disks that are not there.

use super::harness::*;
use crate::storage::sas::SasConfig;
use crate::storage::sas::spec::{function, offset};

#[test]
fn what_was_written_is_read_and_each_disk_has_its_own() {
    let mut driver = Driver::new();
    let data: Vec<u8> = (0..3 * BLOCK).map(|at| (at % 251) as u8).collect();
    driver.fill(DATA, &data);
    driver.ok(&write(1, 7, 3));
    driver.fill(DATA, &[0; 3 * BLOCK]);
    driver.ok(&read(1, 7, 3));
    assert!(driver.bytes(DATA, 3 * BLOCK) == data);
    driver.ok(&read(0, 7, 3));
    assert_eq!(driver.bytes(DATA, 3 * BLOCK), [0; 3 * BLOCK]);
}

#[test]
fn sense_data_come_with_the_reply_as_far_as_there_is_room() {
    let mut driver = Driver::new();
    for (room, expected) in [(96, 18), (10, 10), (0, 0)] {
        driver.fill(SENSE, &[0xaa; 32]);
        let mut request = read(0, 0x1000_0000, 1);
        request[5] = room;
        let reply = driver.run(&request).frame();
        assert_eq!((reply.len(), reply[0x0c], reply[0x0d]), (0x24, 2, u8::from(room > 0)));
        assert_eq!((ioc_status(&reply), u32_at(&reply, 0x14)), (0x45, 0), "no data");
        assert_eq!(u32_at(&reply, 0x18), expected);
        let sense = driver.bytes(SENSE, 32);
        assert!(sense[expected as usize..].iter().all(|byte| *byte == 0xaa));
        if room == 96 {
            assert_eq!((sense[2], sense[12]), (5, 0x21));
        }
    }
    let mut nowhere = read(0, 0x1000_0000, 1);
    nowhere[0x2c..0x30].copy_from_slice(&(MEMORY as u32).to_le_bytes());
    assert_eq!(driver.run(&nowhere).frame()[0x0d], 2, "AUTOSENSE_FAILED");
}

#[test]
fn residuals_are_told_both_ways() {
    let mut driver = Driver::new();
    let inquiry = scsi(0, &[0x12, 0, 0, 0, 36, 0], Way::In, 100);
    driver.fill(DATA, &[0xaa; 100]);
    let reply = driver.run(&inquiry).frame();
    assert_eq!((ioc_status(&reply), reply[0x0c], u32_at(&reply, 0x14)), (0x45, 0, 36));
    assert_eq!(driver.bytes(DATA + 36, 64), [0xaa; 64]);
    assert_eq!(driver.bytes(DATA + 8, 8), b"STORLOCK");
    let reply = driver.run(&scsi(0, &cdb10(0x28, 0, 2), Way::In, 700)).frame();
    assert_eq!((ioc_status(&reply), u32_at(&reply, 0x14)), (0x44, 700));
    let reply = driver.run(&scsi(0, &cdb10(0x28, 0, 1), Way::None, 512)).frame();
    assert_eq!((ioc_status(&reply), u32_at(&reply, 0x14)), (0x44, 0));
    // The wrong way is none.
    let reply = driver.run(&scsi(0, &cdb10(0x2a, 0, 1), Way::In, 512)).frame();
    assert_eq!((reply[0x0c], u32_at(&reply, 0x14)), (2, 0));
    // What needs no data may say so.
    driver.ok(&scsi(0, &[0; 6], Way::None, 4096));
}

#[test]
fn disks_that_are_not_there_are_told_by_kind() {
    let mut driver = Driver::new();
    for (target, bus, status) in [(2, 0, 0x43), (7, 0, 0x43), (8, 0, 0x42), (255, 0, 0x42), (0, 1, 0x41)] {
        let mut request = read(target, 0, 1);
        request[1] = bus;
        let reply = driver.run(&request).frame();
        assert_eq!((ioc_status(&reply), reply[0x0d] & 4), (status, 4));
    }
    // Another unit of a disk is the disk's to answer.
    let mut request = scsi(0, &[0; 6], Way::None, 0);
    request[0x0d] = 1;
    assert_eq!(driver.run(&request).frame()[0x0c], 2);
    assert_eq!(driver.bytes(SENSE + 12, 1), [0x25]);
}

#[test]
fn a_block_that_is_too_long_for_the_message_is_refused() {
    let mut driver = Driver::new();
    let mut request = read(0, 0, 1);
    request[4] = 17;
    assert_eq!(ioc_status(&driver.run(&request).frame()), 7);
    request[4] = 0;
    assert_eq!(driver.run(&request).frame()[0x0c], 2);
    request[0x14..0x18].copy_from_slice(&0x0300_0000_u32.to_le_bytes());
    assert_eq!(ioc_status(&driver.run(&request).frame()), 7, "both ways");
}

#[test]
fn a_frame_is_posted_where_a_context_would_not_do() {
    let mut driver = Driver::new();
    let mut request = read(0, 0, 1);
    // A context is posted as it is, unless it would be taken for an address.
    request[8..12].copy_from_slice(&0x7fff_fffe_u32.to_le_bytes());
    assert_eq!(driver.run(&request), Got::Context(0x7fff_fffe));
    request[11] = 0x80;
    let reply = driver.run(&request).frame();
    assert_eq!((ioc_status(&reply), u32_at(&reply, 0x14), reply[11]), (0, 512, 0x80));
    // IOC page 1 can ask for frames.
    let mut page = message(function::CONFIG);
    (page[0], page[0x16], page[0x17]) = (2, 1, 1);
    page[0x1c..0x24].copy_from_slice(&simple(DATA, 16));
    driver.fill(DATA, &[0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0]);
    assert_eq!(ioc_status(&driver.run(&page).frame()), 0);
    assert_eq!(ioc_status(&driver.run(&read(0, 0, 1)).frame()), 0);
    page[0] = 3;
    assert_eq!(ioc_status(&driver.run(&page).frame()), 0, "back to the default");
    driver.ok(&read(0, 0, 1));
}

#[test]
fn a_frame_may_be_at_any_multiple_of_four_bytes() {
    let mut driver = Driver::new();
    for offset_of_frame in [0, 4, 8, 12] {
        for flags in 0..4 {
            let address = CHAINS + offset_of_frame;
            driver.fill(address, &read(0, 0, 1));
            driver.put(offset::REQUEST_QUEUE, address as u32 | flags);
            assert_eq!(driver.reap(), Some(Got::Context(0x0001_0007)), "{address:#x} {flags}");
        }
    }
}

/// SeaBIOS leaves what its stack held in the other bytes.
#[test]
fn the_second_byte_of_a_lun_says_which_unit() {
    let mut driver = Driver::new();
    let mut request = read(0, 0, 1);
    request[0x0c..0x14].copy_from_slice(&[0xd2, 0, 0x80, 0, 0, 3, 0, 1]);
    driver.ok(&request);
    request[0x0d] = 1;
    let reply = driver.run(&request).frame();
    assert_eq!((reply[0x0c], driver.bytes(SENSE + 12, 2)), (2, vec![0x25, 0]));
    let mut abort = message(function::SCSI_TASK_MGMT);
    (abort[5], abort[0x0c]) = (1, 0xd2);
    assert_eq!(driver.run(&abort).frame()[4], 0);
    abort[0x0d] = 1;
    assert_eq!(driver.run(&abort).frame()[4], 9, "TM_INVALID_LUN");
}

#[test]
fn sixteen_disks_have_a_phy_each() {
    let mut driver = Driver::with_config(SasConfig::default(), 16);
    for target in 0..16 {
        driver.fill(DATA, &[target; BLOCK]);
        driver.ok(&write(target, 0, 1));
    }
    for target in 0..16 {
        driver.ok(&read(target, 0, 1));
        assert_eq!(driver.bytes(DATA, BLOCK), [target; BLOCK]);
    }
}

#[test]
fn many_requests_at_once_are_answered_in_order() {
    let mut driver = Driver::new();
    for context in 0..100_u32 {
        let mut request = read(0, context, 1);
        request[8..12].copy_from_slice(&context.to_le_bytes());
        let address = driver.place(&request);
        driver.registers.write(offset::REQUEST_QUEUE, &address.to_le_bytes());
        if context % 60 == 59 {
            driver.settle();
        }
    }
    driver.settle();
    for context in 0..100 {
        assert_eq!(driver.reap(), Some(Got::Context(context)));
    }
    assert_eq!(driver.reap(), None);
}
