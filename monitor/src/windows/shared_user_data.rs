//! `KUSER_SHARED_DATA`: the page that Windows maps at the same address in every process (ntddk.h).
//!
//! Talks to [`GuestMemory`]; must not know what the data are read for.

use crate::vmi::GuestMemory;

/// Where the kernel has it.
const ADDRESS: u64 = 0xffff_f780_0000_0000;
const INTERRUPT_TIME: u64 = 0x8;
const SYSTEM_TIME: u64 = 0x14;
const NT_BUILD_NUMBER: u64 = 0x260;
const NT_PRODUCT_TYPE: u64 = 0x264;
const SUITE_MASK: u64 = 0x2d0;
const KD_DEBUGGER_ENABLED: u64 = 0x2d4;
/// Bits of `KdDebuggerEnabled`: debugging is on, and a debugger is connected.
const DEBUGGER_CONNECTED: u8 = 0b11;

/// What the page says of the system. What cannot be read is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SharedUserData {
    /// Time since the start, in units of 100 ns.
    pub(crate) interrupt_time: u64,
    /// Time of day, in units of 100 ns since the year 1601.
    pub system_time: u64,
    /// Build number; bits 28 to 31 may say whether the build is free or checked.
    pub build: u32,
    /// 1 workstation, 2 domain controller, 3 server.
    pub(crate) product_type: u32,
    /// `VER_SUITE_*` bits.
    pub(crate) suite_mask: u32,
}

impl SharedUserData {
    /// Reads it.
    #[must_use]
    pub fn read(memory: &(impl GuestMemory + ?Sized)) -> Self {
        let quad = |offset| memory.read_u64(ADDRESS + offset).unwrap_or(0);
        let word = |offset| memory.read_u32(ADDRESS + offset).unwrap_or(0);
        Self {
            interrupt_time: quad(INTERRUPT_TIME),
            system_time: quad(SYSTEM_TIME),
            build: word(NT_BUILD_NUMBER),
            product_type: word(NT_PRODUCT_TYPE),
            suite_mask: word(SUITE_MASK),
        }
    }
}

/// `KUSER_SHARED_DATA.InterruptTime`: time since the guest started in units of 100 ns; `None` if it cannot be read.
pub(crate) fn interrupt_time(memory: &(impl GuestMemory + ?Sized)) -> Option<u64> {
    let low = memory.read_u32(ADDRESS + INTERRUPT_TIME).ok()?;
    let high = memory.read_u32(ADDRESS + INTERRUPT_TIME + 4).ok()?;
    Some(u64::from(high) << 32 | u64::from(low))
}

/// Whether a kernel debugger is connected to the guest, by `KUSER_SHARED_DATA.KdDebuggerEnabled`.
pub(crate) fn has_debugger(memory: &(impl GuestMemory + ?Sized)) -> bool {
    let enabled = memory.read_u8(ADDRESS + KD_DEBUGGER_ENABLED);
    enabled.is_ok_and(|enabled| enabled & DEBUGGER_CONNECTED == DEBUGGER_CONNECTED)
}
