//! The PCI functions that every PC has and that do nothing here but be found: the host bridge of the i440FX and the ISA
//! bridge of the PIIX3 (Intel 82441FX and 82371SB data sheets).

use std::sync::Arc;

use crate::pci::{ConfigError, FunctionDescription, OwnRegister, PciDevice, PciFunction};

/// Vendor ID of Intel.
const INTEL: u16 = 0x8086;

/// A function without BARs.
struct NoBars;

impl PciDevice for NoBars {
    fn bar_read(&self, _bar: u8, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&self, _bar: u8, _offset: u64, _data: &[u8]) {}
}

/// The 82441FX host bridge, 8086:1237.
///
/// # Errors
/// None in practice: the description is fixed.
pub fn host_bridge() -> Result<PciFunction, ConfigError> {
    let description = FunctionDescription {
        vendor_id: INTEL,
        device_id: 0x1237,
        revision_id: 2,
        class_code: [0x06, 0x00, 0x00],
        ..FunctionDescription::default()
    };
    PciFunction::new(description, None, Arc::new(NoBars))
}

/// The 82371SB ISA bridge, 8086:7000, with the PIRQ route control registers: kept for guests that set them, without
/// effect as no device here has an INTx pin.
///
/// # Errors
/// None in practice: the description is fixed.
pub fn isa_bridge() -> Result<PciFunction, ConfigError> {
    // PIRQRC[A:D]: routing disabled after reset; bits 7 and 3:0 exist.
    let route = |offset| OwnRegister {
        offset,
        value: 0x80,
        writable: 0x8f,
    };
    let description = FunctionDescription {
        vendor_id: INTEL,
        device_id: 0x7000,
        class_code: [0x06, 0x01, 0x00],
        own_registers: (0x60..0x64).map(route).collect(),
        ..FunctionDescription::default()
    };
    PciFunction::new(description, None, Arc::new(NoBars))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(function: &PciFunction, offset: u8) -> u32 {
        let mut data = [0; 4];
        function.config_read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn bridges_show_their_ids_and_classes() {
        let (host, isa) = (host_bridge().unwrap(), isa_bridge().unwrap());
        assert_eq!((read(&host, 0), read(&host, 8)), (0x1237_8086, 0x0600_0002));
        assert_eq!((read(&isa, 0), read(&isa, 8)), (0x7000_8086, 0x0601_0000));
        assert_eq!((read(&host, 0x3c) >> 8, read(&isa, 0x60)), (0, 0x8080_8080));
    }
}
