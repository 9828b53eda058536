//! When the pin is asserted and messages are sent.

use super::harness::*;
use crate::irq::InterruptMode;
use crate::storage::sas::SasConfig;
use crate::storage::sas::spec::{his, offset};

#[test]
fn the_pin_follows_the_replies_unless_they_are_masked() {
    let mut driver = Driver::new();
    assert!(!driver.interrupts.pin());
    driver.post(&read(0, 0, 1));
    driver.post(&read(0, 0, 1));
    assert!(driver.interrupts.pin());
    driver.put(offset::HOST_INTERRUPT_MASK, his::REPLY_MESSAGE_INTERRUPT);
    assert!(!driver.interrupts.pin());
    assert_eq!(driver.get(offset::HOST_INTERRUPT_STATUS), his::REPLY_MESSAGE_INTERRUPT);
    driver.put(offset::HOST_INTERRUPT_MASK, 0);
    assert!(driver.interrupts.pin());
    driver.reap();
    assert!(driver.interrupts.pin(), "one is left");
    driver.reap();
    assert!(!driver.interrupts.pin());
}

#[test]
fn the_doorbell_interrupts_if_it_may() {
    let mut driver = Driver::cold(SasConfig::default(), 1);
    driver.put(offset::DOORBELL, 0x42 << 24 | 3 << 16);
    assert!(!driver.interrupts.pin(), "masked after power-on");
    driver.put(offset::HOST_INTERRUPT_MASK, his::REPLY_MESSAGE_INTERRUPT);
    assert!(driver.interrupts.pin());
    driver.put(offset::HOST_INTERRUPT_STATUS, 0);
    assert!(!driver.interrupts.pin());
}

#[test]
fn a_message_is_sent_when_there_come_to_be_replies() {
    for mode in [InterruptMode::Msi { messages: 1 }, InterruptMode::Msix] {
        let mut driver = Driver::new();
        driver.interrupts.set_mode(mode);
        driver.registers.interrupts_changed();
        assert_eq!(driver.interrupts.messages(), 0);
        driver.post(&read(0, 0, 1));
        driver.post(&read(0, 0, 1));
        assert_eq!(driver.interrupts.messages(), 1);
        assert!(!driver.interrupts.pin());
        driver.reap();
        driver.post(&read(0, 0, 1));
        assert_eq!(driver.interrupts.messages(), 0, "the host has not come to the end");
        driver.reap();
        driver.reap();
        driver.post(&read(0, 0, 1));
        assert_eq!(driver.interrupts.messages(), 1);
        // Taking the mask away tells of what came meanwhile.
        driver.reap();
        driver.put(offset::HOST_INTERRUPT_MASK, 9);
        driver.post(&read(0, 0, 1));
        assert_eq!(driver.interrupts.messages(), 0);
        driver.put(offset::HOST_INTERRUPT_MASK, 0);
        assert_eq!(driver.interrupts.messages(), 1);
        // So does a change of the way.
        driver.interrupts.set_mode(InterruptMode::Intx);
        driver.registers.interrupts_changed();
        assert!(driver.interrupts.pin());
        driver.interrupts.set_mode(mode);
        driver.registers.interrupts_changed();
        assert_eq!((driver.interrupts.pin(), driver.interrupts.messages()), (false, 1));
    }
}
