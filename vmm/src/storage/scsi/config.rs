//! What is chosen when a unit is made.
//!
//! Plain values; nothing here changes while a guest runs.

/// Why a unit cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not 512 or 4096.
    #[error("the logical block size is 512 or 4096 bytes, not {0}")]
    BlockSize(u32),
    /// A backend is empty or its size is not a multiple of the block size.
    #[error("the backend has {length} bytes; the size has to be a multiple of {block_size} and not 0")]
    OddBackend {
        /// Size of the backend in bytes.
        length: u64,
        /// Logical block size in bytes.
        block_size: u32,
    },
}

/// The name of the port by which initiators reach a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortName {
    /// PROTOCOL IDENTIFIER.
    pub protocol: u8,
    /// Its NAA name, for SAS the SAS address.
    pub name: u64,
}

/// How a unit is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitConfig {
    /// Logical block size in bytes, 512 or 4096.
    pub block_size: u32,
    /// Serial number; of other than printable ASCII characters, and of what is more than 20, nothing is told.
    pub(crate) serial_number: String,
    /// NAA name of the logical unit.
    pub name: u64,
    /// Name of the port, if it has one.
    pub port: Option<PortName>,
}

impl Default for UnitConfig {
    fn default() -> Self {
        Self {
            block_size: 512,
            serial_number: "STORLOCK0".into(),
            name: 0x3000_0000_0000_0001,
            port: None,
        }
    }
}

/// Most characters of a serial number.
const SERIAL_LIMIT: usize = 20;

impl UnitConfig {
    pub(super) fn check(&self, length: u64) -> Result<(), UnitError> {
        let block_size = self.block_size;
        if ![512, 4096].contains(&block_size) {
            return Err(UnitError::BlockSize(block_size));
        }
        if length == 0 || length % u64::from(block_size) != 0 {
            return Err(UnitError::OddBackend { length, block_size });
        }
        Ok(())
    }

    /// The serial number as it is told.
    pub(super) fn serial(&self) -> Vec<u8> {
        let graphic = self.serial_number.bytes().filter(u8::is_ascii_graphic);
        graphic.take(SERIAL_LIMIT).collect()
    }
}
