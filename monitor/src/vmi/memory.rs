//! Guest memory as the monitor reads it: by guest virtual address, in the address space of the stopped processor.
//!
//! Talks to nothing: backends implement [`GuestMemory`], readers of Windows structures take it. It must not know where
//! the bytes come from (a stopped vCPU, a recording, an array in a test).

use super::cpu::SpecialRegisters;

/// Size of the pages by which a guest maps its memory, in bytes. Larger pages are made of these.
pub const PAGE_SIZE: u64 = 4096;

/// Why guest memory could not be read. Nothing was written to the part of the buffer from `address` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The guest's page tables have no present translation for this address.
    #[error("guest address {0:#x} is not mapped")]
    NotMapped(u64),
    /// The address translates to a physical address behind which there is no memory.
    #[error("guest address {0:#x} is mapped to no memory")]
    NoMemory(u64),
    /// The address is not canonical, or the range runs past the end of the address space.
    #[error("guest address {0:#x} is no valid address")]
    Invalid(u64),
    /// A recording holds no bytes for this address.
    #[error("guest address {0:#x} was not recorded")]
    NotRecorded(u64),
    /// It is of the stack of a processor that has run on, and was not kept.
    #[error("guest address {0:#x} is on a stack of which no more was kept")]
    NotKept(u64),
}

impl ReadError {
    /// The first guest virtual address that could not be read.
    #[must_use]
    pub fn address(self) -> u64 {
        match self {
            Self::NotMapped(address)
            | Self::NoMemory(address)
            | Self::Invalid(address)
            | Self::NotRecorded(address)
            | Self::NotKept(address) => address,
        }
    }
}

/// Reads guest memory by guest virtual address.
///
/// The guest is hostile: what comes back is data to validate, and two reads of one address may differ.
pub trait GuestMemory {
    /// Fills `buf` with the bytes at `gva`. A read may cross pages.
    ///
    /// # Errors
    /// [`ReadError`] with the first address that could not be read; the contents of `buf` are then unspecified.
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError>;

    /// As [`GuestMemory::read`], and tells the guest physical address of the byte at `gva`, which comes from the same walk
    /// of the page tables. `None` where the bytes have no physical address (a file), or none is known (a recording of format
    /// version 1).
    ///
    /// # Errors
    /// As [`GuestMemory::read`].
    fn read_at(&self, gva: u64, buf: &mut [u8]) -> Result<Option<u64>, ReadError> {
        self.read(gva, buf).map(|()| None)
    }

    /// The byte at `gva`.
    ///
    /// # Errors
    /// As [`GuestMemory::read`].
    fn read_u8(&self, gva: u64) -> Result<u8, ReadError> {
        let mut bytes = [0; 1];
        self.read(gva, &mut bytes)?;
        Ok(bytes[0])
    }

    /// The little-endian 16-bit value at `gva`.
    ///
    /// # Errors
    /// As [`GuestMemory::read`].
    fn read_u16(&self, gva: u64) -> Result<u16, ReadError> {
        let mut bytes = [0; 2];
        self.read(gva, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    /// The little-endian 32-bit value at `gva`.
    ///
    /// # Errors
    /// As [`GuestMemory::read`].
    fn read_u32(&self, gva: u64) -> Result<u32, ReadError> {
        let mut bytes = [0; 4];
        self.read(gva, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// The little-endian 64-bit value at `gva`.
    ///
    /// # Errors
    /// As [`GuestMemory::read`].
    fn read_u64(&self, gva: u64) -> Result<u64, ReadError> {
        let mut bytes = [0; 8];
        self.read(gva, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Reads guest memory by guest physical address.
pub trait PhysicalMemory {
    /// The stretches of memory, each by its first address and its length in bytes, in ascending order; both are
    /// multiples of [`PAGE_SIZE`].
    fn stretches(&self) -> Vec<(u64, u64)>;

    /// Fills `buf` with the bytes at `gpa`; `false` if some of them are no memory, then the contents are unspecified.
    fn read_physical(&self, gpa: u64, buf: &mut [u8]) -> bool;
}

/// A running guest's memory that the host shares with it: read and written from any thread.
pub trait SharedMemory: PhysicalMemory + Send + Sync {
    /// Writes bytes at `gpa`; `false` if some of them are no memory.
    fn write_physical(&self, gpa: u64, data: &[u8]) -> bool;

    /// The naturally aligned quadword at `gpa`, read in one piece; what the guest wrote before it is seen too. `None` if it
    /// is no memory.
    fn load(&self, gpa: u64) -> Option<u64>;

    /// Writes that quadword in one piece, after everything that was written before; `false` if it is no memory.
    fn store(&self, gpa: u64, value: u64) -> bool;

    /// Sets or clears bits of that quadword, in one step that no processor comes between; `false` if it is no memory.
    fn change_bits(&self, gpa: u64, bits: u64, set: bool) -> bool;

    /// Fills `buf` from guest virtual memory, by the page tables of a processor with these registers; tells the physical
    /// address of the first byte as [`GuestMemory::read_at`] does.
    ///
    /// # Errors
    /// [`ReadError`] with the first address that cannot be read.
    fn read_virtual(&self, processor: &SpecialRegisters, gva: u64, buf: &mut [u8]) -> Result<Option<u64>, ReadError>;
}

impl<M: GuestMemory + ?Sized> GuestMemory for &M {
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        (**self).read(gva, buf)
    }

    fn read_at(&self, gva: u64, buf: &mut [u8]) -> Result<Option<u64>, ReadError> {
        (**self).read_at(gva, buf)
    }
}
