//! Event notification.

use super::harness::*;
use crate::storage::sas::SasConfig;
use crate::storage::sas::spec::function;

pub(super) fn listen(driver: &mut Driver, on: bool) -> Vec<u8> {
    let mut request = message(function::EVENT_NOTIFICATION);
    request[0] = u8::from(on);
    request[8] = 0x55;
    driver.run(&request).frame()
}

#[test]
fn the_first_reply_tells_whether_more_will_come() {
    let mut driver = Driver::new();
    let reply = listen(&mut driver, true);
    assert_eq!((reply.len(), u16_at(&reply, 0), reply[7]), (0x20, 1, 0x80));
    assert_eq!((u32_at(&reply, 0x14), reply[0x1c], ioc_status(&reply)), (0x0a, 1, 0));
    let facts = driver.handshake(&message(function::IOC_FACTS)[..12]);
    assert_eq!(facts[0x27], 1, "EventState");
    let reply = listen(&mut driver, false);
    assert_eq!((reply[7], reply[0x1c]), (0, 0));
    // By the doorbell as well, which is where Linux turns it on.
    let mut request = message(function::EVENT_NOTIFICATION);
    request[0] = 1;
    let reply = driver.handshake(&request[..12]);
    assert_eq!((u32_at(&reply, 0x14), reply[0x1c], ioc_status(&reply)), (0x0a, 1, 0));
    assert_eq!(driver.reap(), None);
    let ack = driver.run(&message(function::EVENT_ACK)).frame();
    assert_eq!(ioc_status(&ack), 0);
}

#[test]
fn a_disk_that_goes_and_comes_is_told_with_its_link() {
    let mut driver = Driver::new();
    listen(&mut driver, true);
    for (there, reason, rates) in [(false, 4, 0x09), (true, 3, 0x90)] {
        driver
            .controller
            .events()
            .tell_of_disk(1, SasConfig::default().disk_address(1), there);
        driver.controller.tell_events();
        let events: Vec<Vec<u8>> = std::iter::from_fn(|| driver.reap()).map(Got::frame).collect();
        let codes: Vec<u32> = events.iter().map(|event| u32_at(event, 0x14)).collect();
        assert_eq!(codes, [0x16, 0x12, 0x0f, 0x16]);
        assert!(
            events
                .iter()
                .all(|event| event[7] == 0x80 && u32_at(event, 8) == 0x0001_0055)
        );
        assert_eq!([u32_at(&events[0], 0x1c), u32_at(&events[3], 0x1c)], [0x0002_0001, 0]);
        let link = &events[1][0x1c..];
        assert_eq!((link[0], link[1], u16_at(link, 2)), (1, rates, 0x11));
        let device = &events[2][0x1c..];
        assert_eq!(
            (device.len(), device[0], device[2], u16_at(device, 6)),
            (0x24, 1, reason, 0x11)
        );
        assert_eq!((u32_at(device, 8), u16_at(device, 0x0c), device[0x0e]), (0xc01, 1, 1));
        let address = u64::from_le_bytes(device[0x10..0x18].try_into().unwrap());
        assert_eq!(address, SasConfig::default().disk_address(1));
    }
}

#[test]
fn events_wait_for_frames_and_only_so_many_are_kept() {
    let mut driver = Driver::new();
    driver
        .controller
        .events()
        .tell_of_disk(1, SasConfig::default().disk_address(1), false);
    listen(&mut driver, true);
    assert_eq!(driver.reap(), None, "nobody listened");
    for _ in 0..100 {
        driver
            .controller
            .events()
            .tell_of_disk(1, SasConfig::default().disk_address(1), false);
    }
    assert_eq!(driver.controller.events().waiting(), 64);
    driver.settle();
    let mut count = 0;
    while driver.reap().is_some() {
        driver.settle();
        count += 1;
    }
    assert_eq!(count, 64);
}
