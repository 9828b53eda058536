//! The firmware configuration device: named and numbered items that firmware selects and reads, by a data port or by DMA
//! (QEMU documentation "docs/specs/fw_cfg").
//!
//! Talks to guest memory. It must not know what the items mean: whoever puts them in does. A file that the guest may
//! write has a [`Receiver`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bus::BusDevice;
use crate::memory::GuestRam;

/// First port: selector (16 bits), data (8 bits) at +1, DMA address (64 bits, big-endian) at +4.
pub(crate) const FW_CFG_BASE: u64 = 0x510;
/// Number of ports.
pub(crate) const FW_CFG_LENGTH: u64 = 12;

const SELECTOR: u64 = 0;
const DATA: u64 = 1;
const DMA_HIGH: u64 = 4;
const DMA_LOW: u64 = 8;

/// Numbers of the items that have one for good.
pub mod key {
    /// "QEMU".
    pub const SIGNATURE: u16 = 0x00;
    /// Which interfaces there are.
    pub const ID: u16 = 0x01;
    /// Number of processors, 16 bits.
    pub(crate) const CPU_COUNT: u16 = 0x05;
    /// Size of the kernel to boot, 32 bits.
    pub(crate) const KERNEL_SIZE: u16 = 0x08;
    /// Size of its initial RAM disk, 32 bits.
    pub(crate) const INITRD_SIZE: u16 = 0x0b;
    /// Most processors that there can be, 16 bits.
    pub(crate) const MAXIMUM_CPU_COUNT: u16 = 0x0f;
    /// The kernel behind its set-up part.
    pub(crate) const KERNEL_DATA: u16 = 0x11;
    /// The initial RAM disk.
    pub(crate) const INITRD_DATA: u16 = 0x12;
    /// Length of the kernel's command line with its zero, 32 bits.
    pub(crate) const COMMAND_LINE_SIZE: u16 = 0x14;
    /// The command line.
    pub(crate) const COMMAND_LINE_DATA: u16 = 0x15;
    /// Size of the kernel's set-up part, 32 bits.
    pub(crate) const SETUP_SIZE: u16 = 0x17;
    /// The kernel's set-up part.
    pub(crate) const SETUP_DATA: u16 = 0x18;
    /// Directory of the named items.
    pub(crate) const FILE_DIRECTORY: u16 = 0x19;
    /// The first named item.
    pub const FIRST_FILE: u16 = 0x20;
}

const SIGNATURE: &[u8] = b"QEMU";
/// The traditional interface and DMA.
const INTERFACES: u32 = 0b11;
/// What the DMA address register reads as.
const DMA_SIGNATURE: &[u8; 8] = b"QEMU CFG";
/// Length of a name in the directory, the terminating zero included.
const NAME_LENGTH: usize = 56;

/// FWCfgDmaAccess.control.
mod control {
    pub(super) const ERROR: u32 = 1 << 0;
    pub(super) const READ: u32 = 1 << 1;
    pub(super) const SKIP: u32 = 1 << 2;
    pub(super) const SELECT: u32 = 1 << 3;
    pub(super) const WRITE: u32 = 1 << 4;
}

/// FWCfgDmaAccess: control, length, address, all big-endian.
const DESCRIPTOR_LENGTH: usize = 16;
/// A read beyond the end of an item gives zeroes, but no more of them at once than this; else it fails.
const PADDING_LIMIT: u64 = 1 << 20;
/// Zeroes are written in pieces of this many bytes.
const PADDING_CHUNK: usize = 4096;

/// Takes what the guest writes to a file.
pub trait Receiver: Send + Sync {
    /// The file now holds `content`, as long as when it was added. Called on a vCPU's thread.
    fn written(&self, content: &[u8]);
}

/// One item.
struct Item {
    content: Vec<u8>,
    receiver: Option<Arc<dyn Receiver>>,
}

impl Item {
    fn constant(content: Vec<u8>) -> Self {
        Self {
            content,
            receiver: None,
        }
    }
}

/// What the guest can see and change, and the items.
struct FwCfgState {
    items: BTreeMap<u16, Item>,
    /// Names of the items from [`key::FIRST_FILE`] on.
    names: Vec<String>,
    selected: u16,
    offset: u64,
    dma_high: u32,
}

impl FwCfgState {
    /// The directory, made when it is selected.
    fn directory(&self) -> Vec<u8> {
        let mut bytes = (self.names.len() as u32).to_be_bytes().to_vec();
        for (key, name) in (key::FIRST_FILE..).zip(&self.names) {
            let length = self.items.get(&key).map_or(0, |item| item.content.len());
            bytes.extend((length as u32).to_be_bytes());
            bytes.extend(key.to_be_bytes());
            bytes.extend([0; 2]);
            let mut field = [0; NAME_LENGTH];
            field[..name.len()].copy_from_slice(name.as_bytes());
            bytes.extend(field);
        }
        bytes
    }

    fn select(&mut self, key: u16) {
        self.selected = key;
        self.offset = 0;
    }

    /// The rest of the selected item.
    fn rest(&self) -> &[u8] {
        let content = self.items.get(&self.selected).map_or(&[][..], |item| &item.content);
        usize::try_from(self.offset)
            .ok()
            .and_then(|offset| content.get(offset..))
            .unwrap_or_default()
    }

    fn advance(&mut self, bytes: u64) {
        self.offset = self.offset.saturating_add(bytes);
    }
}

/// The device.
pub struct FwCfg {
    ram: GuestRam,
    state: Mutex<FwCfgState>,
}

/// Why a file cannot be added: an error of the machine's builder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be the name of one more firmware configuration file")]
pub struct FileNameError(String);

impl FwCfg {
    /// With the items that every machine has.
    #[must_use]
    pub fn new(ram: GuestRam) -> Self {
        let state = FwCfgState {
            items: BTreeMap::new(),
            names: Vec::new(),
            selected: key::SIGNATURE,
            offset: 0,
            dma_high: 0,
        };
        let device = Self {
            ram,
            state: Mutex::new(state),
        };
        device.set(key::SIGNATURE, SIGNATURE.to_vec());
        device.set(key::ID, INTERFACES.to_le_bytes().to_vec());
        let directory = device.lock().directory();
        device.set(key::FILE_DIRECTORY, directory);
        device
    }

    fn lock(&self) -> MutexGuard<'_, FwCfgState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the item with a number of its own; see [`key`].
    pub fn set(&self, key: u16, content: Vec<u8>) {
        self.lock().items.insert(key, Item::constant(content));
    }

    /// Adds a file.
    ///
    /// # Errors
    /// [`FileNameError`] if the name is longer than 55 bytes or taken.
    pub fn add_file(&self, name: &str, content: Vec<u8>) -> Result<(), FileNameError> {
        self.add(name, Item::constant(content))
    }

    /// Adds a file that the guest may write, filled with zeroes.
    ///
    /// # Errors
    /// As [`FwCfg::add_file`].
    pub fn add_writable_file(
        &self,
        name: &str,
        length: usize,
        receiver: Arc<dyn Receiver>,
    ) -> Result<(), FileNameError> {
        let content = vec![0; length];
        self.add(
            name,
            Item {
                content,
                receiver: Some(receiver),
            },
        )
    }

    fn add(&self, name: &str, item: Item) -> Result<(), FileNameError> {
        let mut state = self.lock();
        let key = u16::try_from(state.names.len())
            .ok()
            .and_then(|count| key::FIRST_FILE.checked_add(count));
        let (Some(key), true, false) = (
            key,
            name.len() < NAME_LENGTH,
            state.names.iter().any(|other| other == name),
        ) else {
            return Err(FileNameError(name.to_owned()));
        };
        state.items.insert(key, item);
        state.names.push(name.to_owned());
        let directory = state.directory();
        state.items.insert(key::FILE_DIRECTORY, Item::constant(directory));
        Ok(())
    }

    /// Reads through the data port: one byte; zero behind the end.
    fn read_data(&self) -> u8 {
        let mut state = self.lock();
        let byte = state.rest().first().copied().unwrap_or(0);
        state.advance(1);
        byte
    }

    /// Carries out the request whose descriptor is at guest-physical `address`.
    fn dma(&self, address: u64) {
        let mut descriptor = [0; DESCRIPTOR_LENGTH];
        if let Err(error) = self.ram.read(address, &mut descriptor) {
            tracing::debug!(%error, "the guest's firmware configuration request is not in RAM; it is dropped");
            return;
        }
        let [c0, c1, c2, c3, l0, l1, l2, l3, target @ ..] = descriptor;
        let request = u32::from_be_bytes([c0, c1, c2, c3]);
        let length = u64::from(u32::from_be_bytes([l0, l1, l2, l3]));
        let target = u64::from_be_bytes(target);
        let mut state = self.lock();
        if request & control::SELECT != 0 {
            state.select((request >> 16) as u16);
        }
        let done = if request & control::READ != 0 {
            self.dma_read(&mut state, target, length)
        } else if request & control::WRITE != 0 {
            self.dma_write(&mut state, target, length)
        } else {
            if request & control::SKIP != 0 {
                state.advance(length);
            }
            true
        };
        let answer = if done { 0 } else { control::ERROR };
        if let Err(error) = self.ram.write(address, &answer.to_be_bytes()) {
            tracing::debug!(%error, "the answer to a firmware configuration request is lost");
        }
    }

    /// Copies the next `length` bytes of the item to guest memory.
    fn dma_read(&self, state: &mut FwCfgState, target: u64, length: u64) -> bool {
        let rest = state.rest();
        let available = length.min(rest.len() as u64);
        let padding = length - available;
        if padding > PADDING_LIMIT || self.ram.write(target, &rest[..available as usize]).is_err() {
            return false;
        }
        let zeroes = [0; PADDING_CHUNK];
        let mut done = 0;
        while done < padding {
            let piece = (padding - done).min(PADDING_CHUNK as u64);
            let at = target.checked_add(available + done);
            let written = at.is_some_and(|at| self.ram.write(at, &zeroes[..piece as usize]).is_ok());
            if !written {
                return false;
            }
            done += piece;
        }
        state.advance(length);
        true
    }

    /// Copies from guest memory into a writable item; a write that does not fit it fails and changes nothing.
    fn dma_write(&self, state: &mut FwCfgState, source: u64, length: u64) -> bool {
        let offset = state.offset;
        let Some(Item {
            content,
            receiver: Some(receiver),
        }) = state.items.get_mut(&state.selected)
        else {
            return false;
        };
        let Some(end) = offset.checked_add(length).filter(|end| *end <= content.len() as u64) else {
            return false;
        };
        let mut bytes = vec![0; length as usize];
        if self.ram.read(source, &mut bytes).is_err() {
            return false;
        }
        content[offset as usize..end as usize].copy_from_slice(&bytes);
        receiver.written(content);
        state.advance(length);
        true
    }
}

impl BusDevice for FwCfg {
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (byte, port) in data.iter_mut().zip(offset..) {
            *byte = match port {
                DATA => self.read_data(),
                DMA_HIGH.. => DMA_SIGNATURE.get((port - DMA_HIGH) as usize).copied().unwrap_or(0xff),
                _ => 0xff,
            };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (SELECTOR, &[low, high]) => self.lock().select(u16::from_le_bytes([low, high])),
            // Firmware that writes the selector as a byte means one of the low numbers.
            (SELECTOR, &[low]) => self.lock().select(low.into()),
            (DMA_HIGH, &[a, b, c, d]) => self.lock().dma_high = u32::from_be_bytes([a, b, c, d]),
            (DMA_LOW, &[a, b, c, d]) => {
                let low = u32::from_be_bytes([a, b, c, d]);
                let high = std::mem::take(&mut self.lock().dma_high);
                self.dma(u64::from(high) << 32 | u64::from(low));
            }
            (DMA_HIGH, data) if data.len() == 8 => {
                let mut address = [0; 8];
                address.copy_from_slice(data);
                self.dma(u64::from_be_bytes(address));
            }
            // Writing by the data port was given up long ago.
            _ => {}
        }
    }

    fn reset(&self) {
        let mut state = self.lock();
        state.select(key::SIGNATURE);
        state.dma_high = 0;
        for item in state.items.values_mut() {
            if let Some(receiver) = &item.receiver {
                item.content.fill(0);
                receiver.written(&item.content);
            }
        }
    }
}

#[cfg(test)]
mod tests;
