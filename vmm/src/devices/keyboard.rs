//! The keyboard controller, an 8042, with a keyboard on which nobody types (IBM PC/AT and PS/2 hardware interface
//! technical references, "keyboard and auxiliary device controller" and "keyboard").
//!
//! Talks to an interrupt line (IRQ 1) and, for the reset that the controller can pulse, to the machine's power control.
//! There is no auxiliary device. It is here because firmware and operating systems look for it on every PC.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{PowerControl, PowerEvent};
use crate::bus::BusDevice;
use crate::irq::InterruptLine;

/// Data port.
pub(crate) const KEYBOARD_DATA_PORT: u64 = 0x60;
/// Command and status port.
pub(crate) const KEYBOARD_COMMAND_PORT: u64 = 0x64;
/// Interrupt request line of the keyboard.
pub(crate) const KEYBOARD_IRQ: u32 = 1;

/// Status register.
mod status {
    pub(super) const OUTPUT_FULL: u8 = 1 << 0;
    pub(super) const SYSTEM_FLAG: u8 = 1 << 2;
    pub(super) const LAST_WAS_COMMAND: u8 = 1 << 3;
    pub(super) const NOT_LOCKED: u8 = 1 << 4;
}

/// Controller command byte.
mod command_byte {
    pub(super) const KEYBOARD_INTERRUPT: u8 = 1 << 0;
    pub(super) const SYSTEM_FLAG: u8 = 1 << 2;
    pub(super) const DISABLE_KEYBOARD: u8 = 1 << 4;
    pub(super) const DISABLE_AUXILIARY: u8 = 1 << 5;
    pub(super) const TRANSLATE: u8 = 1 << 6;
    /// As PC firmware leaves it.
    pub(super) const DEFAULT: u8 = KEYBOARD_INTERRUPT | SYSTEM_FLAG | DISABLE_AUXILIARY | TRANSLATE;
    pub(super) const DEFINED: u8 = 0x7f;
}

/// Commands of the controller.
mod command {
    pub(super) const READ_COMMAND_BYTE: u8 = 0x20;
    pub(super) const WRITE_COMMAND_BYTE: u8 = 0x60;
    pub(super) const DISABLE_AUXILIARY: u8 = 0xa7;
    pub(super) const ENABLE_AUXILIARY: u8 = 0xa8;
    pub(super) const TEST_AUXILIARY: u8 = 0xa9;
    pub(super) const SELF_TEST: u8 = 0xaa;
    pub(super) const TEST_KEYBOARD: u8 = 0xab;
    pub(super) const DISABLE_KEYBOARD: u8 = 0xad;
    pub(super) const ENABLE_KEYBOARD: u8 = 0xae;
    pub(super) const READ_INPUT_PORT: u8 = 0xc0;
    pub(super) const READ_OUTPUT_PORT: u8 = 0xd0;
    pub(super) const WRITE_OUTPUT_PORT: u8 = 0xd1;
    pub(super) const WRITE_KEYBOARD_OUTPUT: u8 = 0xd2;
    pub(super) const WRITE_AUXILIARY_OUTPUT: u8 = 0xd3;
    pub(super) const WRITE_AUXILIARY: u8 = 0xd4;
    /// F0h to FFh pulse the output lines whose bits are 0; line 0 is the processor's reset.
    pub(super) const PULSE_OUTPUT: u8 = 0xf0;
    pub(super) const KEEP_RESET_LINE: u8 = 1 << 0;
}

const SELF_TEST_PASSED: u8 = 0x55;
const INTERFACE_GOOD: u8 = 0x00;
/// Test of the auxiliary interface: the clock line is stuck, as where nothing is plugged in.
const CLOCK_STUCK_LOW: u8 = 0x01;
/// Input port: the keyboard is not locked.
const INPUT_PORT: u8 = 0x80;
/// Output port: the processor is not reset, A20 is on.
const OUTPUT_PORT: u8 = 0x03;
const OUTPUT_RESET_LINE: u8 = 1 << 0;

/// Commands of the keyboard, and its answers.
mod device {
    pub(super) const SET_LEDS: u8 = 0xed;
    pub(super) const ECHO: u8 = 0xee;
    pub(super) const SCAN_CODE_SET: u8 = 0xf0;
    pub(super) const IDENTIFY: u8 = 0xf2;
    pub(super) const SET_RATE: u8 = 0xf3;
    pub(super) const ENABLE: u8 = 0xf4;
    pub(super) const DISABLE: u8 = 0xf5;
    pub(super) const SET_DEFAULTS: u8 = 0xf6;
    pub(super) const RESEND: u8 = 0xfe;
    pub(super) const RESET: u8 = 0xff;
    pub(super) const ACKNOWLEDGE: u8 = 0xfa;
    pub(super) const TEST_PASSED: u8 = 0xaa;
    pub(super) const ID: [u8; 2] = [0xab, 0x83];
    /// What the second byte of the ID becomes with translation on.
    pub(super) const ID_TRANSLATED: u8 = 0x41;
}

/// Most bytes that wait to be read; more are lost, as on the wire.
const QUEUE_LIMIT: usize = 16;

/// What the next byte at the data port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// A command of the keyboard.
    Keyboard,
    /// The parameter of this keyboard command.
    KeyboardParameter(u8),
    /// The parameter of this controller command.
    Controller(u8),
}

/// Everything that the guest can see or change.
#[derive(Debug, Clone)]
struct KeyboardState {
    command_byte: u8,
    expect: Expect,
    last_was_command: bool,
    scan_code_set: u8,
    /// Bytes for the guest, the first one in the output buffer.
    queue: VecDeque<u8>,
    last_read: u8,
}

impl KeyboardState {
    /// As after power-on and the firmware's tests.
    fn powered() -> Self {
        Self {
            command_byte: command_byte::DEFAULT,
            expect: Expect::Keyboard,
            last_was_command: false,
            scan_code_set: 2,
            queue: VecDeque::new(),
            last_read: 0,
        }
    }
}

/// The controller; offset 0 of [`KeyboardController::data_port`] is port 60h, of `command_port` port 64h.
pub(crate) struct KeyboardController {
    interrupt: Arc<dyn InterruptLine>,
    power: Arc<dyn PowerControl>,
    state: Mutex<KeyboardState>,
}

impl KeyboardController {
    /// As firmware leaves it: tested, the keyboard on.
    #[must_use]
    pub(crate) fn new(interrupt: Arc<dyn InterruptLine>, power: Arc<dyn PowerControl>) -> Arc<Self> {
        Arc::new(Self {
            interrupt,
            power,
            state: Mutex::new(KeyboardState::powered()),
        })
    }

    /// What answers at port 60h.
    #[must_use]
    pub(crate) fn data_port(self: &Arc<Self>) -> Arc<dyn BusDevice> {
        Arc::new(DataPort(Arc::clone(self)))
    }

    /// What answers at port 64h.
    #[must_use]
    pub(crate) fn command_port(self: &Arc<Self>) -> Arc<dyn BusDevice> {
        Arc::new(CommandPort(Arc::clone(self)))
    }

    fn lock(&self) -> MutexGuard<'_, KeyboardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One edge for the byte that has come to the front of the queue.
    fn announce(&self, state: &KeyboardState) {
        if !state.queue.is_empty() && state.command_byte & command_byte::KEYBOARD_INTERRUPT != 0 {
            self.interrupt.pulse();
        }
    }

    fn send(&self, state: &mut KeyboardState, bytes: &[u8]) {
        let was_empty = state.queue.is_empty();
        for byte in bytes {
            if state.queue.len() < QUEUE_LIMIT {
                state.queue.push_back(*byte);
            }
        }
        if was_empty {
            self.announce(state);
        }
    }

    fn read_data(&self) -> u8 {
        let mut state = self.lock();
        if let Some(byte) = state.queue.pop_front() {
            state.last_read = byte;
            self.announce(&state);
        }
        state.last_read
    }

    fn read_status(&self) -> u8 {
        let state = self.lock();
        let mut value = status::NOT_LOCKED;
        for (set, bit) in [
            (!state.queue.is_empty(), status::OUTPUT_FULL),
            (state.command_byte & command_byte::SYSTEM_FLAG != 0, status::SYSTEM_FLAG),
            (state.last_was_command, status::LAST_WAS_COMMAND),
        ] {
            if set {
                value |= bit;
            }
        }
        value
    }

    fn write_command(&self, value: u8) {
        let mut state = self.lock();
        state.last_was_command = true;
        state.expect = Expect::Keyboard;
        match value {
            command::READ_COMMAND_BYTE => {
                let byte = state.command_byte;
                self.send(&mut state, &[byte]);
            }
            command::WRITE_COMMAND_BYTE
            | command::WRITE_OUTPUT_PORT
            | command::WRITE_KEYBOARD_OUTPUT
            | command::WRITE_AUXILIARY_OUTPUT
            | command::WRITE_AUXILIARY => state.expect = Expect::Controller(value),
            command::DISABLE_AUXILIARY => state.command_byte |= command_byte::DISABLE_AUXILIARY,
            command::ENABLE_AUXILIARY => state.command_byte &= !command_byte::DISABLE_AUXILIARY,
            command::DISABLE_KEYBOARD => state.command_byte |= command_byte::DISABLE_KEYBOARD,
            command::ENABLE_KEYBOARD => state.command_byte &= !command_byte::DISABLE_KEYBOARD,
            command::TEST_AUXILIARY => self.send(&mut state, &[CLOCK_STUCK_LOW]),
            command::SELF_TEST => {
                state.command_byte |= command_byte::SYSTEM_FLAG;
                self.send(&mut state, &[SELF_TEST_PASSED]);
            }
            command::TEST_KEYBOARD => self.send(&mut state, &[INTERFACE_GOOD]),
            command::READ_INPUT_PORT => self.send(&mut state, &[INPUT_PORT]),
            command::READ_OUTPUT_PORT => self.send(&mut state, &[OUTPUT_PORT]),
            command::PULSE_OUTPUT.. if value & command::KEEP_RESET_LINE == 0 => self.power.request(PowerEvent::Reset),
            _ => {}
        }
    }

    fn write_data(&self, value: u8) {
        let mut state = self.lock();
        state.last_was_command = false;
        match std::mem::replace(&mut state.expect, Expect::Keyboard) {
            Expect::Keyboard => self.keyboard_command(&mut state, value),
            Expect::KeyboardParameter(of) => {
                self.send(&mut state, &[device::ACKNOWLEDGE]);
                match (of, value) {
                    (device::SCAN_CODE_SET, 0) => {
                        let set = state.scan_code_set;
                        self.send(&mut state, &[set]);
                    }
                    (device::SCAN_CODE_SET, 1..=3) => state.scan_code_set = value,
                    _ => {}
                }
            }
            Expect::Controller(command::WRITE_COMMAND_BYTE) => {
                state.command_byte = value & command_byte::DEFINED;
                // A byte that waits already is announced once interrupts are on.
                self.announce(&state);
            }
            Expect::Controller(command::WRITE_OUTPUT_PORT) => {
                if value & OUTPUT_RESET_LINE == 0 {
                    self.power.request(PowerEvent::Reset);
                }
            }
            // Without an auxiliary device its buffer is the keyboard's.
            Expect::Controller(command::WRITE_KEYBOARD_OUTPUT | command::WRITE_AUXILIARY_OUTPUT) => {
                self.send(&mut state, &[value]);
            }
            // Nobody is there to take it.
            Expect::Controller(_) => {}
        }
    }

    fn keyboard_command(&self, state: &mut KeyboardState, value: u8) {
        // Sending to the keyboard turns its interface on.
        state.command_byte &= !command_byte::DISABLE_KEYBOARD;
        match value {
            device::SET_LEDS | device::SCAN_CODE_SET | device::SET_RATE => {
                state.expect = Expect::KeyboardParameter(value);
                self.send(state, &[device::ACKNOWLEDGE]);
            }
            device::ECHO => self.send(state, &[device::ECHO]),
            device::IDENTIFY => {
                let [first, mut second] = device::ID;
                if state.command_byte & command_byte::TRANSLATE != 0 {
                    second = device::ID_TRANSLATED;
                }
                self.send(state, &[device::ACKNOWLEDGE, first, second]);
            }
            device::RESET => {
                state.scan_code_set = 2;
                self.send(state, &[device::ACKNOWLEDGE, device::TEST_PASSED]);
            }
            device::ENABLE | device::DISABLE | device::SET_DEFAULTS => {
                self.send(state, &[device::ACKNOWLEDGE]);
            }
            _ => self.send(state, &[device::RESEND]),
        }
    }
}

struct DataPort(Arc<KeyboardController>);

impl BusDevice for DataPort {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill_with(|| self.0.read_data());
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        for &value in data {
            self.0.write_data(value);
        }
    }
}

struct CommandPort(Arc<KeyboardController>);

impl BusDevice for CommandPort {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(self.0.read_status());
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        for &value in data {
            self.0.write_command(value);
        }
    }

    /// The data port is the same device's.
    fn reset(&self) {
        *self.0.lock() = KeyboardState::powered();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::{LineProbe, PowerProbe};

    fn controller() -> (Arc<KeyboardController>, Arc<LineProbe>, Arc<PowerProbe>) {
        let (line, power) = (Arc::new(LineProbe::default()), Arc::new(PowerProbe::default()));
        (KeyboardController::new(line.clone(), power.clone()), line, power)
    }

    /// Everything that waits to be read.
    fn drain(controller: &KeyboardController) -> Vec<u8> {
        let mut bytes = Vec::new();
        while controller.read_status() & status::OUTPUT_FULL != 0 {
            bytes.push(controller.read_data());
        }
        bytes
    }

    #[test]
    fn the_controller_passes_its_tests_and_has_no_auxiliary_device() {
        let (controller, ..) = controller();
        assert_eq!(controller.read_status(), 0x14);
        for (command, answer) in [(0xaa, 0x55), (0xab, 0x00), (0xa9, 0x01), (0xd0, 0x03), (0x20, 0x65)] {
            controller.write_command(command);
            assert_eq!(drain(&controller), [answer], "command {command:#x}");
        }
        controller.write_command(0x60);
        controller.write_data(0x44);
        controller.write_command(0x20);
        assert_eq!(drain(&controller), [0x44]);
        controller.write_command(0xd4);
        controller.write_data(0xff);
        assert_eq!(drain(&controller), [0u8; 0], "nobody answers for the auxiliary device");
    }

    #[test]
    fn the_keyboard_answers_with_an_interrupt_for_each_byte() {
        let (controller, line, _) = controller();
        controller.write_data(0xff);
        assert_eq!((drain(&controller), line.pulses()), (vec![0xfa, 0xaa], 2));
        controller.write_data(0xf2);
        assert_eq!(drain(&controller), [0xfa, 0xab, 0x41], "translated");
        controller.write_command(0x60);
        controller.write_data(0);
        controller.write_data(0xf2);
        assert_eq!(
            (drain(&controller), line.pulses()),
            (vec![0xfa, 0xab, 0x83], 5),
            "interrupts are off"
        );
    }

    #[test]
    fn keyboard_parameters_are_no_commands() {
        let (controller, ..) = controller();
        for (command, parameter) in [(0xed, 0xff), (0xf3, 0xf2), (0xf0, 1)] {
            controller.write_data(command);
            controller.write_data(parameter);
            assert_eq!(drain(&controller), [0xfa, 0xfa], "command {command:#x}");
        }
        controller.write_data(0xf0);
        controller.write_data(0);
        assert_eq!(drain(&controller), [0xfa, 0xfa, 1]);
        controller.write_data(0x12);
        assert_eq!(drain(&controller), [0xfe]);
    }

    #[test]
    fn the_reset_line_can_be_pulsed_or_held() {
        let (controller, _, power) = controller();
        controller.write_command(0xff);
        assert!(power.events().is_empty());
        controller.write_command(0xfe);
        controller.write_command(0xd1);
        controller.write_data(0x02);
        assert_eq!(power.events(), [PowerEvent::Reset, PowerEvent::Reset]);
    }

    #[test]
    fn nothing_that_is_written_fills_memory() {
        let (controller, ..) = controller();
        for value in (0..100).flat_map(|_| 0..=0xff) {
            controller.write_data(value);
            controller.write_command(value);
            assert!(controller.lock().queue.len() <= QUEUE_LIMIT);
        }
    }
}
