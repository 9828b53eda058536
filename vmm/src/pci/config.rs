//! Configuration space of one function: the 256 bytes that every PCI function shows (type 0 header, PCI 6.1).
//!
//! A byte array with a mask of what software may change. It must not know what a change means: the function compares
//! the registers before and after a write, and acts.

use thiserror::Error;

use super::bar::{Bar, BarKind, BarWindow};

/// Bytes of the configuration space reachable by ports 0xCF8 and 0xCFC.
pub const CONFIG_SPACE_SIZE: usize = 256;

/// Offsets of the type 0 header (PCI figure 6-1).
mod register {
    pub(super) const VENDOR_ID: usize = 0x00;
    pub(super) const DEVICE_ID: usize = 0x02;
    pub(super) const COMMAND: usize = 0x04;
    pub(super) const STATUS: usize = 0x06;
    pub(super) const REVISION_ID: usize = 0x08;
    pub(super) const CLASS_CODE: usize = 0x09;
    pub(super) const CACHE_LINE_SIZE: usize = 0x0c;
    pub(super) const LATENCY_TIMER: usize = 0x0d;
    pub(super) const HEADER_TYPE: usize = 0x0e;
    pub(super) const BASE_ADDRESS_0: usize = 0x10;
    pub(super) const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
    pub(super) const SUBSYSTEM_ID: usize = 0x2e;
    pub(super) const CAPABILITIES_POINTER: usize = 0x34;
    pub(super) const INTERRUPT_LINE: usize = 0x3c;
    pub(super) const INTERRUPT_PIN: usize = 0x3d;
    pub(super) const FIRST_CAPABILITY: usize = 0x40;
}

/// STATUS: the function has a list of capabilities (PCI table 6-2).
const STATUS_CAPABILITIES_LIST: u8 = 1 << 4;
/// HEADER_TYPE: more than one function at this device number.
const HEADER_MULTI_FUNCTION: u8 = 1 << 7;

bitflags::bitflags! {
    /// The COMMAND register (PCI table 6-1): the bits that mean something here.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Command: u16 {
        /// I/O BARs are decoded.
        const IO_SPACE = 1 << 0;
        /// Memory BARs are decoded.
        const MEMORY_SPACE = 1 << 1;
        /// The function may access memory and send messages.
        const BUS_MASTER = 1 << 2;
        /// Report parity errors; kept, without effect.
        const PARITY_ERROR_RESPONSE = 1 << 6;
        /// Drive SERR#; kept, without effect.
        const SERR_ENABLE = 1 << 8;
        /// The function must not assert INTx.
        const INTERRUPT_DISABLE = 1 << 10;
    }
}

/// A capability after its two-byte header (ID and next pointer).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// Capability ID (PCI appendix H).
    pub id: u8,
    /// Initial bytes from offset 2 of the capability.
    pub body: Vec<u8>,
    /// Which bits of the body software may write; missing bytes are read-only.
    pub writable: Vec<u8>,
}

/// A register that only this function has, outside the header and the capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnRegister {
    /// Offset, 0x40 or more.
    pub offset: u8,
    /// Initial value.
    pub value: u8,
    /// Bits that software may write.
    pub writable: u8,
}

/// Everything that a function says of itself in configuration space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FunctionDescription {
    /// Vendor ID.
    pub vendor_id: u16,
    /// Device ID.
    pub device_id: u16,
    /// Revision ID.
    pub revision_id: u8,
    /// Base class, sub-class and programming interface (PCI appendix D), e.g. `[0x01, 0x08, 0x02]` for NVMe.
    pub class_code: [u8; 3],
    /// Subsystem vendor ID.
    pub subsystem_vendor_id: u16,
    /// Subsystem ID.
    pub subsystem_id: u16,
    /// Further functions live at the same device number.
    pub multi_function: bool,
    /// Base address registers; the one after a 64-bit BAR has to be `None`.
    pub bars: [Option<Bar>; 6],
    /// INTx pin: 0 none, 1 to 4 for INTA# to INTD#.
    pub interrupt_pin: u8,
    /// Capabilities in the order of the list.
    pub capabilities: Vec<Capability>,
    /// Registers of its own.
    pub own_registers: Vec<OwnRegister>,
}

/// Why a [`FunctionDescription`] makes no configuration space: an error of the device model, never of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigSpaceError {
    /// A BAR has a size that the register cannot express, or lies in the upper half of a 64-bit BAR.
    #[error("base address register {0} is not possible")]
    BadBar(usize),
    /// The capabilities do not fit into 192 bytes.
    #[error("the capabilities do not fit into configuration space")]
    CapabilitiesTooLarge,
    /// A register of the function's own lies in the header or in a capability.
    #[error("register {0:#x} is taken")]
    BadOwnRegister(u8),
    /// The MSI-X table or pending bit array is not possible as declared.
    #[error("MSI-X with {vectors} vectors does not fit into base address register {bar}")]
    BadMsix {
        /// Vectors asked for.
        vectors: u16,
        /// BAR that was to hold them.
        bar: u8,
    },
}

/// The configuration space of one function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSpace {
    /// All that the guest can change is in here.
    bytes: [u8; CONFIG_SPACE_SIZE],
    /// Fixed by the description.
    writable: [u8; CONFIG_SPACE_SIZE],
    bars: [Option<Bar>; 6],
}

impl ConfigSpace {
    /// Builds the registers that `description` asks for, with all decoding off.
    ///
    /// # Errors
    /// [`ConfigSpaceError`] if the description contradicts itself or does not fit.
    pub fn new(description: &FunctionDescription) -> Result<Self, ConfigSpaceError> {
        let mut space = Self {
            bytes: [0; CONFIG_SPACE_SIZE],
            writable: [0; CONFIG_SPACE_SIZE],
            bars: description.bars,
        };
        space.set_header(description);
        space.set_bars()?;
        let end = space.set_capabilities(&description.capabilities)?;
        for own in &description.own_registers {
            let offset = usize::from(own.offset);
            if offset < end {
                return Err(ConfigSpaceError::BadOwnRegister(own.offset));
            }
            space.bytes[offset] = own.value;
            space.writable[offset] = own.writable;
        }
        Ok(space)
    }

    fn set_header(&mut self, description: &FunctionDescription) {
        let [base_class, sub_class, interface] = description.class_code;
        self.set(register::VENDOR_ID, &description.vendor_id.to_le_bytes());
        self.set(register::DEVICE_ID, &description.device_id.to_le_bytes());
        self.set(register::REVISION_ID, &[description.revision_id]);
        self.set(register::CLASS_CODE, &[interface, sub_class, base_class]);
        self.set(
            register::HEADER_TYPE,
            &[if description.multi_function {
                HEADER_MULTI_FUNCTION
            } else {
                0
            }],
        );
        self.set(
            register::SUBSYSTEM_VENDOR_ID,
            &description.subsystem_vendor_id.to_le_bytes(),
        );
        self.set(register::SUBSYSTEM_ID, &description.subsystem_id.to_le_bytes());
        self.set(register::INTERRUPT_PIN, &[description.interrupt_pin]);
        self.allow(register::COMMAND, &Command::all().bits().to_le_bytes());
        self.allow(register::CACHE_LINE_SIZE, &[0xff]);
        self.allow(register::LATENCY_TIMER, &[0xff]);
        self.allow(register::INTERRUPT_LINE, &[0xff]);
    }

    fn set_bars(&mut self) -> Result<(), ConfigSpaceError> {
        let mut taken = [false; 6];
        for (index, bar) in self.bars.into_iter().enumerate() {
            let Some(bar) = bar else { continue };
            let registers = taken
                .get_mut(index..index + bar.registers())
                .ok_or(ConfigSpaceError::BadBar(index))?;
            if !bar.is_valid() || registers.contains(&true) {
                return Err(ConfigSpaceError::BadBar(index));
            }
            registers.fill(true);
            let offset = register::BASE_ADDRESS_0 + 4 * index;
            self.set(offset, &bar.type_bits().to_le_bytes());
            self.allow(offset, &bar.writable_bits().to_le_bytes()[..4 * bar.registers()]);
        }
        Ok(())
    }

    /// Lays the capabilities out one after the other; returns the offset behind the last.
    fn set_capabilities(&mut self, capabilities: &[Capability]) -> Result<usize, ConfigSpaceError> {
        let mut pointer = register::CAPABILITIES_POINTER;
        let mut offset = register::FIRST_CAPABILITY;
        for capability in capabilities {
            // Capabilities are aligned to four bytes (PCI 6.7).
            let end = (offset + 2 + capability.body.len()).next_multiple_of(4);
            if end > CONFIG_SPACE_SIZE || capability.writable.len() > capability.body.len() {
                return Err(ConfigSpaceError::CapabilitiesTooLarge);
            }
            self.set(register::STATUS, &[STATUS_CAPABILITIES_LIST]);
            self.set(pointer, &[offset as u8]);
            self.set(offset, &[capability.id]);
            self.set(offset + 2, &capability.body);
            self.allow(offset + 2, &capability.writable);
            pointer = offset + 1;
            offset = end;
        }
        Ok(offset)
    }

    fn set(&mut self, offset: usize, value: &[u8]) {
        self.bytes[offset..offset + value.len()].copy_from_slice(value);
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }

    /// Reads the bytes from `offset` on; those behind the end are all ones.
    pub fn read(&self, offset: u8, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = self.bytes.get(usize::from(offset) + index).copied().unwrap_or(0xff);
        }
    }

    /// Writes the writable bits of the bytes from `offset` on; those behind the end are dropped.
    pub fn write(&mut self, offset: u8, data: &[u8]) {
        let registers = self.bytes.iter_mut().zip(&self.writable).skip(usize::from(offset));
        for ((byte, writable), value) in registers.zip(data) {
            *byte = (*byte & !writable) | (value & writable);
        }
    }

    fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.bytes[offset], self.bytes[offset + 1]])
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from(self.u16(offset)) | u32::from(self.u16(offset + 2)) << 16
    }

    /// The COMMAND register.
    #[must_use]
    pub fn command(&self) -> Command {
        Command::from_bits_truncate(self.u16(register::COMMAND))
    }

    /// The declaration of base address register `index`, if there is one.
    #[must_use]
    pub fn bar(&self, index: u8) -> Option<Bar> {
        self.bars.get(usize::from(index)).copied().flatten()
    }

    /// Offset of the first capability with this ID.
    #[must_use]
    pub(crate) fn find_capability(&self, id: u8) -> Option<u8> {
        let mut offset = self.bytes[register::CAPABILITIES_POINTER];
        // The list cannot be longer than the space has room for, whatever the pointers say.
        for _ in 0..CONFIG_SPACE_SIZE / 4 {
            if offset == 0 {
                return None;
            }
            if self.bytes[usize::from(offset)] == id {
                return Some(offset);
            }
            offset = *self.bytes.get(usize::from(offset) + 1)?;
        }
        None
    }

    /// What the BARs decode now: those that are assigned and whose decoding COMMAND allows.
    pub fn windows(&self) -> impl Iterator<Item = BarWindow> + '_ {
        let command = self.command();
        (0..6u8).filter_map(move |index| {
            let bar = self.bar(index)?;
            let enable = if bar.kind == BarKind::Io {
                Command::IO_SPACE
            } else {
                Command::MEMORY_SPACE
            };
            let base = bar.decode(self.bar_value(index, bar))?;
            command.contains(enable).then_some(BarWindow { index, bar, base })
        })
    }

    fn bar_value(&self, index: u8, bar: Bar) -> u64 {
        let offset = register::BASE_ADDRESS_0 + 4 * usize::from(index);
        let low = u64::from(self.u32(offset));
        if bar.registers() == 2 {
            low | u64::from(self.u32(offset + 4)) << 32
        } else {
            low
        }
    }

    /// Does what firmware does: puts a base address into a BAR. Bits that the BAR does not have are dropped.
    pub(crate) fn assign_bar(&mut self, index: u8, base: u64) {
        let Some(bar) = self.bar(index) else { return };
        let offset = register::BASE_ADDRESS_0 as u8 + 4 * index;
        self.write(offset, &base.to_le_bytes()[..4 * bar.registers()]);
    }

    /// Interrupt Pin: 0 none, 1 to 4 for INTA# to INTD#.
    #[must_use]
    pub(crate) fn interrupt_pin(&self) -> u8 {
        self.bytes[register::INTERRUPT_PIN]
    }

    /// Does what firmware does: notes the input that the pin leads to.
    pub(crate) fn set_interrupt_line(&mut self, input: u8) {
        self.write(register::INTERRUPT_LINE as u8, &[input]);
    }

    /// Does what firmware does: sets the COMMAND register.
    pub(crate) fn set_command(&mut self, command: Command) {
        self.write(register::COMMAND as u8, &command.bits().to_le_bytes());
    }
}
