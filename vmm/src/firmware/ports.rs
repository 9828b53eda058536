//! The ports that the ACPI tables name. An operating system takes them for granted: its ACPI interpreter and its drivers
//! use them unasked.

use crate::devices::debugcon::DEBUG_CONSOLE_PORT;
use crate::devices::fw_cfg::{FW_CFG_BASE, FW_CFG_LENGTH};
use crate::devices::keyboard::{KEYBOARD_COMMAND_PORT, KEYBOARD_DATA_PORT};
use crate::devices::power::{GPE0, GPE0_LENGTH, PM_TMR, PM1_CNT, POWER_MANAGEMENT_BASE};
use crate::devices::reset::{PORT_A, RESET_CONTROL_PORT};
use crate::devices::rtc::{RTC_BASE, RTC_LENGTH};
use crate::devices::serial::{COM1_BASE, COM2_BASE, UART_LENGTH};

/// Ports that a table names for one purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TablePorts {
    /// What they are for.
    pub purpose: &'static str,
    /// The first one.
    pub first: u16,
    /// How many, not 0.
    pub length: u16,
    /// KVM answers them without an exit.
    pub(crate) is_in_kernel: bool,
}

impl TablePorts {
    /// All of them.
    pub fn range(&self) -> impl Iterator<Item = u16> + use<> {
        let Self { first, length, .. } = *self;
        (0..length).map(move |offset| first.wrapping_add(offset))
    }
}

/// Purpose, first port, number of ports.
type Named = (&'static str, u64, u64);

const BY_DEVICES: [Named; 14] = [
    ("PM1 events", POWER_MANAGEMENT_BASE, 4),
    ("PM1 control", POWER_MANAGEMENT_BASE + PM1_CNT, 2),
    ("PM timer", POWER_MANAGEMENT_BASE + PM_TMR, 4),
    ("general-purpose events", POWER_MANAGEMENT_BASE + GPE0, GPE0_LENGTH),
    ("reset", RESET_CONTROL_PORT, 1),
    ("PCI configuration", 0xcf8, 8),
    ("COM1", COM1_BASE, UART_LENGTH),
    ("COM2", COM2_BASE, UART_LENGTH),
    ("keyboard data", KEYBOARD_DATA_PORT, 1),
    ("keyboard commands", KEYBOARD_COMMAND_PORT, 1),
    ("RTC", RTC_BASE, RTC_LENGTH),
    ("port A", PORT_A, 1),
    ("debug console", DEBUG_CONSOLE_PORT, 1),
    ("firmware configuration", FW_CFG_BASE, FW_CFG_LENGTH),
];
const BY_KVM: [Named; 5] = [
    ("first PIC", 0x20, 2),
    ("second PIC", 0xa0, 2),
    ("levels of the PICs", 0x4d0, 2),
    ("timer", 0x40, 4),
    ("speaker", 0x61, 1),
];

/// All ports that the FADT and the DSDT name.
pub(crate) fn table_ports() -> impl Iterator<Item = TablePorts> {
    let devices = BY_DEVICES.iter().map(|named| (named, false));
    let ports = devices.chain(BY_KVM.iter().map(|named| (named, true)));
    ports.map(|(&(purpose, first, length), is_in_kernel)| TablePorts {
        purpose,
        first: first as u16,
        length: length as u16,
        is_in_kernel,
    })
}
