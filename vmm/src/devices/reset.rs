//! The ways to reset a PC: the reset control register at 0xCF9 (PIIX3 data sheet, RC), system control port A at 0x92
//! (IBM PS/2), and command 0xFE of the keyboard controller at 0x64 (IBM PC/AT).
//!
//! Each asks the machine for the reset and changes nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::{PowerControl, PowerEvent};
use crate::bus::BusDevice;

/// Port of system control port A.
pub const PORT_A: u64 = 0x92;
/// Command and status port of the keyboard controller.
pub const KEYBOARD_COMMAND_PORT: u64 = 0x64;

/// RC: the reset is a hard one.
const SYSTEM_RESET: u8 = 1 << 1;
/// RC: changing this bit from 0 to 1 resets.
const RESET_CPU: u8 = 1 << 2;

/// The reset control register. It is among the ports of PCI configuration, which hand accesses on.
pub struct ResetControl {
    power: Arc<dyn PowerControl>,
    register: AtomicU8,
}

impl ResetControl {
    /// As after power-on.
    #[must_use]
    pub fn new(power: Arc<dyn PowerControl>) -> Self {
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
}

/// Port A: changing this bit from 0 to 1 resets the processor.
const ALTERNATE_RESET: u8 = 1 << 0;
/// Port A: address line 20 is not forced to zero. Always so in effect; the bit is kept for guests that set it.
const ALTERNATE_A20: u8 = 1 << 1;

/// System control port A.
pub struct PortA {
    power: Arc<dyn PowerControl>,
    register: AtomicU8,
}

impl PortA {
    /// As firmware leaves it: A20 on.
    #[must_use]
    pub fn new(power: Arc<dyn PowerControl>) -> Self {
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
}

/// Keyboard controller status: self-test passed, keyboard not locked, nothing to read, ready for a command.
const STATUS_IDLE: u8 = 0x14;
/// Keyboard controller command: pulse output line 0, which is the processor's reset.
const PULSE_RESET: u8 = 0xfe;

/// The command port of a keyboard controller without keyboard: all that it can do is reset.
pub struct ResetKeyboardController {
    power: Arc<dyn PowerControl>,
}

impl ResetKeyboardController {
    /// To be put at port 0x64 only.
    #[must_use]
    pub fn new(power: Arc<dyn PowerControl>) -> Self {
        Self { power }
    }
}

impl BusDevice for ResetKeyboardController {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(STATUS_IDLE);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if data.contains(&PULSE_RESET) {
            self.power.request(PowerEvent::Reset);
        }
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

    #[test]
    fn the_keyboard_controller_is_ready_and_resets_on_fe() {
        let power = Arc::new(PowerProbe::default());
        let controller = ResetKeyboardController::new(power.clone());
        assert_eq!(read(&controller) & 3, 0);
        controller.write(0, &[0xaa]);
        assert!(power.events().is_empty());
        controller.write(0, &[0xfe]);
        assert_eq!(power.events(), [PowerEvent::Reset]);
    }
}
