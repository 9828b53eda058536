//! Two ways to reset a PC: the reset control register at 0xCF9 (PIIX3 data sheet, RC) and system control port A at 0x92
//! (IBM PS/2). The third is the keyboard controller.
//!
//! Each asks the machine for the reset and changes nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::{PowerControl, PowerEvent};
use crate::bus::BusDevice;

/// Port of system control port A.
pub const PORT_A: u64 = 0x92;
/// The reset control register.
pub(crate) const RESET_CONTROL_PORT: u64 = 0xcf9;
/// What to write there for a hard reset.
pub(crate) const RESET_CONTROL_VALUE: u8 = SYSTEM_RESET | RESET_CPU;

/// RC: the reset is a hard one.
const SYSTEM_RESET: u8 = 1 << 1;
/// RC: changing this bit from 0 to 1 resets.
const RESET_CPU: u8 = 1 << 2;

/// The reset control register. It is among the ports of PCI configuration, which hand accesses on.
pub(crate) struct ResetControl {
    power: Arc<dyn PowerControl>,
    register: AtomicU8,
}

impl ResetControl {
    /// As after power-on.
    #[must_use]
    pub(crate) fn new(power: Arc<dyn PowerControl>) -> Self {
        Self {
            power,
            register: AtomicU8::new(0),
        }
    }
}

impl BusDevice for ResetControl {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(self.register.load(Ordering::Relaxed));
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        for byte in data {
            let before = self.register.swap(byte & (SYSTEM_RESET | RESET_CPU), Ordering::Relaxed);
            if byte & !before & RESET_CPU != 0 {
                self.power.request(PowerEvent::Reset);
            }
        }
    }

    fn reset(&self) {
        self.register.store(0, Ordering::Relaxed);
    }
}

/// Port A: changing this bit from 0 to 1 resets the processor.
const ALTERNATE_RESET: u8 = 1 << 0;
/// Port A: address line 20 is not forced to zero. Always so in effect; the bit is kept for guests that set it.
const ALTERNATE_A20: u8 = 1 << 1;

/// System control port A.
pub(crate) struct PortA {
    power: Arc<dyn PowerControl>,
    register: AtomicU8,
}

impl PortA {
    /// As firmware leaves it: A20 on.
    #[must_use]
    pub(crate) fn new(power: Arc<dyn PowerControl>) -> Self {
        Self {
            power,
            register: AtomicU8::new(ALTERNATE_A20),
        }
    }
}

impl BusDevice for PortA {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(self.register.load(Ordering::Relaxed));
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        for byte in data {
            let before = self
                .register
                .swap(byte & (ALTERNATE_RESET | ALTERNATE_A20), Ordering::Relaxed);
            if byte & !before & ALTERNATE_RESET != 0 {
                self.power.request(PowerEvent::Reset);
            }
        }
    }

    fn reset(&self) {
        self.register.store(ALTERNATE_A20, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::PowerProbe;

    fn read(device: &impl BusDevice) -> u8 {
        let mut byte = [0];
        device.read(0, &mut byte);
        byte[0]
    }

    #[test]
    fn reset_control_resets_when_the_cpu_bit_rises() {
        let power = Arc::new(PowerProbe::default());
        let control = ResetControl::new(power.clone());
        control.write(0, &[2]);
        assert_eq!((power.events(), read(&control)), (vec![], 2));
        control.write(0, &[6]);
        control.write(0, &[6]);
        assert_eq!(power.events(), [PowerEvent::Reset]);
    }

    #[test]
    fn port_a_can_be_read_and_resets_when_its_bit_rises() {
        let power = Arc::new(PowerProbe::default());
        let port = PortA::new(power.clone());
        port.write(0, &[read(&port) | 0xf0]);
        assert_eq!((power.events(), read(&port)), (vec![], 2));
        port.write(0, &[3]);
        assert_eq!(power.events(), [PowerEvent::Reset]);
    }
}
