//! The PCI functions that every PC has: the host bridge of the i440FX, the ISA bridge of the PIIX3 and the power
//! management function of the PIIX4 (Intel 82441FX, 82371SB and 82371AB data sheets).
//!
//! Only their configuration space is here. What the ISA bridge's route control registers do is in [`super::pirq`]; the
//! ports of power management are in [`super::power`].

use std::sync::Arc;

use super::pirq::PirqRouter;
use super::power::POWER_MANAGEMENT_BASE;
use crate::pci::{ConfigSpaceError, FunctionDescription, Interrupts, OwnRegister, PciDevice, PciFunction};

/// Vendor ID of Intel.
const INTEL: u16 = 0x8086;
/// PIRQRC[A:D] of the ISA bridge: the first of four registers of a byte each.
pub(crate) const PIRQ_ROUTE_CONTROL: u8 = 0x60;
const PIRQS: u8 = 4;
/// PMBA: base of the power management ports, with the bit that says "ports".
const PMBA: u8 = 0x40;
/// PMREGMISC: whether those ports are decoded.
const PMREGMISC: u8 = 0x80;
const PMIOSE: u8 = 1 << 0;
/// DEVACTB: the byte with APMC_EN, which says that writes to the APM control port raise an SMI.
const DEVACTB_3: u8 = 0x5b;
const APMC_EN: u8 = 1 << 1;
/// Subsystem of the host bridge: what 16-bit firmware (SeaBIOS) takes for the sign of a virtual PC whose devices it is to
/// set up.
const VIRTUAL_PC: (u16, u16) = (0x1af4, 0x1100);

/// A function without BARs.
pub(super) struct NoBars;

impl PciDevice for NoBars {
    fn bar_read(&self, _bar: u8, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&self, _bar: u8, _offset: u64, _data: &[u8]) {}
}

/// Hands the route control registers to the router.
struct IsaBridge(Arc<PirqRouter>);

impl PciDevice for IsaBridge {
    fn bar_read(&self, _bar: u8, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&self, _bar: u8, _offset: u64, _data: &[u8]) {}

    fn own_register_changed(&self, offset: u8, value: u8) {
        if let Some(index) = offset.checked_sub(PIRQ_ROUTE_CONTROL) {
            self.0.set_route(usize::from(index), value);
        }
    }
}

/// The 82441FX host bridge, 8086:1237.
///
/// # Errors
/// None in practice: the description is fixed.
pub(crate) fn host_bridge() -> Result<PciFunction, ConfigSpaceError> {
    let description = FunctionDescription {
        vendor_id: INTEL,
        device_id: 0x1237,
        revision_id: 2,
        class_code: [0x06, 0x00, 0x00],
        subsystem_vendor_id: VIRTUAL_PC.0,
        subsystem_id: VIRTUAL_PC.1,
        ..FunctionDescription::default()
    };
    PciFunction::new(description, Interrupts::default(), Arc::new(NoBars))
}

/// The 82371SB ISA bridge, 8086:7000, whose PIRQ route control registers set the routes of `router`.
///
/// # Errors
/// None in practice: the description is fixed.
pub(crate) fn isa_bridge(router: Arc<PirqRouter>) -> Result<PciFunction, ConfigSpaceError> {
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
        multi_function: true,
        own_registers: (PIRQ_ROUTE_CONTROL..PIRQ_ROUTE_CONTROL + PIRQS).map(route).collect(),
        ..FunctionDescription::default()
    };
    PciFunction::new(description, Interrupts::default(), Arc::new(IsaBridge(router)))
}

/// The 82371AB power management function, 8086:7113. Its ports are where firmware for this chip set puts them, OVMF at
/// the base that the register names and SeaBIOS at another; they are decoded at both from the start, and cannot be moved.
///
/// # Errors
/// None in practice: the description is fixed.
pub(crate) fn power_management() -> Result<PciFunction, ConfigSpaceError> {
    let [low, high] = (POWER_MANAGEMENT_BASE as u16 | 1).to_le_bytes();
    let constant = |offset, value| OwnRegister {
        offset,
        value,
        writable: 0,
    };
    let description = FunctionDescription {
        vendor_id: INTEL,
        device_id: 0x7113,
        // From this revision on the timer counts evenly.
        revision_id: 3,
        class_code: [0x06, 0x80, 0x00],
        own_registers: vec![
            constant(PMBA, low),
            constant(PMBA + 1, high),
            constant(PMREGMISC, PMIOSE),
            // Nothing raises an SMI: firmware finds that somebody has set system management mode up before, and waits for
            // no answer from there.
            constant(DEVACTB_3, APMC_EN),
        ],
        ..FunctionDescription::default()
    };
    PciFunction::new(description, Interrupts::default(), Arc::new(NoBars))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Bus;
    use crate::devices::testing::LineProbe;
    use crate::irq::InterruptLine;
    use crate::pci::{PciAddress, PciBus};

    fn read(function: &PciFunction, offset: u8) -> u32 {
        let mut data = [0; 4];
        function.config_read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn router() -> (Arc<PirqRouter>, Arc<LineProbe>) {
        let probe = Arc::new(LineProbe::default());
        let inputs = std::array::from_fn(|_| probe.clone() as Arc<dyn InterruptLine>);
        (PirqRouter::new(inputs), probe)
    }

    #[test]
    fn functions_show_their_ids_and_classes() {
        let (host, isa, power) = (
            host_bridge().unwrap(),
            isa_bridge(router().0).unwrap(),
            power_management().unwrap(),
        );
        assert_eq!((read(&host, 0), read(&host, 8)), (0x1237_8086, 0x0600_0002));
        assert_eq!((read(&isa, 0), read(&isa, 8)), (0x7000_8086, 0x0601_0000));
        assert_eq!((read(&power, 0), read(&power, 8)), (0x7113_8086, 0x0680_0003));
        assert_eq!((read(&host, 0x3c) >> 8, read(&isa, 0x60)), (0, 0x8080_8080));
        assert_eq!((read(&power, 0x40), read(&power, 0x80)), (0xb001, 1));
        assert_eq!(read(&isa, 0x0c) >> 16 & 0xff, 0x80, "multi-function");
    }

    #[test]
    fn a_write_to_a_route_control_register_routes() {
        let (pio, mmio) = (Arc::new(Bus::pio()), Arc::new(Bus::mmio()));
        let pci = PciBus::new(&pio, &mmio);
        let (router, probe) = router();
        pci.add(PciAddress::ISA_BRIDGE, Arc::new(isa_bridge(router.clone()).unwrap()))
            .unwrap();
        router.pin(1, 0).set_level(true);
        assert!(!probe.level());
        pci.config_write(PciAddress::ISA_BRIDGE, 0x60, &[0x0a, 0x0a, 0x0b, 0x0b]);
        assert!(probe.level());
        pci.config_write(PciAddress::ISA_BRIDGE, 0x60, &[0x80]);
        assert!(!probe.level());
    }
}
