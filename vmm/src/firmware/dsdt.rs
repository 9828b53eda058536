//! The differentiated system description table: what an operating system cannot detect by itself (ACPI Specification
//! 6.4, chapters 6 and 19).
//!
//! PCI bus 0 with its windows and interrupt routing, the PIRQ links of the PIIX3, the devices at fixed ports, the
//! processors, and how to switch off.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Field, FieldAccessType,
    FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Method, Name, OpRegion, OpRegionSpace, Or, Package,
    PackageBuilder, Path, ResourceTemplate, Return, Scope, Store, ZERO,
};
use acpi_tables::sdt::Sdt;

use super::Platform;
use super::acpi::{LEVEL_INPUTS, OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::devices::chipset::PIRQ_ROUTE_CONTROL;
use crate::devices::debugcon::DEBUG_CONSOLE_PORT;
use crate::devices::fw_cfg::{FW_CFG_BASE, FW_CFG_LENGTH};
use crate::devices::keyboard::{KEYBOARD_COMMAND_PORT, KEYBOARD_DATA_PORT, KEYBOARD_IRQ};
use crate::devices::reset::PORT_A;
use crate::devices::rtc::{RTC_BASE, RTC_IRQ, RTC_LENGTH};
use crate::devices::serial::{COM1_BASE, COM1_IRQ, COM2_BASE, COM2_IRQ, UART_LENGTH};

/// Revision of the table from which integers have 64 bits.
const DSDT_REVISION: u8 = 2;
/// Slots of bus 0 and pins of a slot.
const SLOTS: u32 = 32;
const PINS: u32 = 4;
/// The PIRQ links by the pin of the router.
const LINKS: [&str; 4] = ["LNKA", "LNKB", "LNKC", "LNKD"];
const ROUTES: [&str; 4] = ["PRQA", "PRQB", "PRQC", "PRQD"];
/// PIRQRC: routing is off.
const ROUTE_OFF: u8 = 0x80;
/// PIRQRC: the input routed to.
const ROUTE_INPUT: u8 = 0x0f;
/// Inputs that a PIRQ may be routed to.
const LINK_INPUTS: [u32; 3] = [LEVEL_INPUTS[0] as u32, LEVEL_INPUTS[2] as u32, LEVEL_INPUTS[3] as u32];
/// _STA: present, enabled and working, but nothing for a user to see.
const HIDDEN: u8 = 0x0b;
/// _STA of a link: as above if it is routed, else present only.
const LINK_ON: u8 = 0x0b;
const LINK_OFF: u8 = 0x09;
/// Offset of the interrupt number in a resource template that begins with an extended interrupt descriptor.
const NUMBER_OFFSET: u8 = 5;

/// The whole table, without its checksum.
pub(super) fn dsdt(platform: &Platform) -> Sdt {
    let mut table = Sdt::new(*b"DSDT", 36, DSDT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    pci_root(platform, &mut table);
    links(&mut table);
    processors(platform.cpus, &mut table);
    // SLP_TYP is 0 for S5 on a PIIX4.
    Name::new("_S5_".into(), &Package::new(vec![&ZERO, &ZERO, &ZERO, &ZERO])).to_aml_bytes(&mut table);
    table
}

fn name(name: &str, value: &dyn Aml) -> Name {
    Name::new(name.into(), value)
}

fn hid(id: &str) -> Name {
    name("_HID", &EISAName::new(id))
}

fn pci_root(platform: &Platform, table: &mut Sdt) {
    let (first, end) = platform.pci_window();
    let buses = AddressSpace::new_bus_number(0u16, 0xff);
    let configuration = IO::new(0xcf8, 0xcf8, 1, 8);
    let low_ports = AddressSpace::new_io(0u16, 0xcf7, None);
    let high_ports = AddressSpace::new_io(0xd00u16, 0xffff, None);
    let memory = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        first as u32,
        (end - 1) as u32,
        None,
    );
    let mut resources: Vec<&dyn Aml> = vec![&buses, &configuration, &low_ports, &high_ports, &memory];
    let high = platform
        .pci_high_window()
        .map(|(first, end)| AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first, end - 1, None));
    resources.extend(high.iter().map(|window| window as &dyn Aml));
    let resources = name("_CRS", &ResourceTemplate::new(resources));
    let (id, unique) = (hid("PNP0A03"), name("_UID", &ZERO));
    let routing = name("_PRT", &routing_table());
    let bridge = isa_bridge();
    Scope::new(
        "\\_SB_".into(),
        vec![&Device::new(
            "PCI0".into(),
            vec![&id, &unique, &resources, &routing, &bridge],
        )],
    )
    .to_aml_bytes(table);
}

/// Which link each pin of each slot goes to: they rotate, so that not all devices share one.
fn routing_table() -> PackageBuilder {
    let mut routing = PackageBuilder::new();
    for (slot, pin) in (0..SLOTS).flat_map(|slot| (0..PINS).map(move |pin| (slot, pin))) {
        let link = Path::new(&format!(
            "\\_SB_.{}",
            LINKS[crate::devices::pirq::link(slot as u8, pin as u8)]
        ));
        routing.add_element(&Package::new(vec![&(slot << 16 | 0xffff), &(pin as u8), &link, &ZERO]));
    }
    routing
}

/// Bytes that are AML already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// A device at fixed ports.
struct IsaDevice {
    path: &'static str,
    /// `_HID`: 7 characters are an EISA identifier, 8 an ACPI one (ACPI 6.1.5).
    id: &'static str,
    /// `_UID`: tells devices with the same identifier apart.
    unique: u8,
    /// First port and number of ports.
    ports: &'static [(u64, u64)],
    irq: Option<u32>,
    /// `_STA`, where it is not that of an ordinary device.
    status: Option<u8>,
}

impl IsaDevice {
    const fn new(
        path: &'static str,
        id: &'static str,
        unique: u8,
        ports: &'static [(u64, u64)],
        irq: Option<u32>,
        status: Option<u8>,
    ) -> Self {
        Self {
            path,
            id,
            unique,
            ports,
            irq,
            status,
        }
    }

    fn aml(&self) -> Raw {
        let ports = self.ports.iter();
        let ports: Vec<_> = ports
            .map(|&(base, length)| IO::new(base as u16, base as u16, 1, length as u8))
            .collect();
        let interrupt = self.irq.map(|irq| Interrupt::new(true, true, false, false, irq));
        let mut resources: Vec<&dyn Aml> = ports.iter().map(|ports| ports as &dyn Aml).collect();
        resources.extend(interrupt.iter().map(|interrupt| interrupt as &dyn Aml));
        let resources = name("_CRS", &ResourceTemplate::new(resources));
        let id = match self.id.len() {
            7 => hid(self.id),
            _ => name("_HID", &self.id),
        };
        let unique = name("_UID", &self.unique);
        let status = self.status.map(|status| name("_STA", &status));
        let mut children: Vec<&dyn Aml> = vec![&id, &unique, &resources];
        children.extend(status.iter().map(|status| status as &dyn Aml));
        let mut bytes = Vec::new();
        Device::new(self.path.into(), children).to_aml_bytes(&mut bytes);
        Raw(bytes)
    }
}

/// The devices behind the ISA bridge, in the order of the table. The power management ports are not among them: they
/// belong to a PCI function, which operating systems know.
#[rustfmt::skip]
const ISA_DEVICES: [IsaDevice; 9] = [
    IsaDevice::new("COM1", "PNP0501", 1, &[(COM1_BASE, UART_LENGTH)], Some(COM1_IRQ), None),
    IsaDevice::new("COM2", "PNP0501", 2, &[(COM2_BASE, UART_LENGTH)], Some(COM2_IRQ), None),
    IsaDevice::new("KBD_", "PNP0303", 0, &[(KEYBOARD_DATA_PORT, 1), (KEYBOARD_COMMAND_PORT, 1)], Some(KEYBOARD_IRQ), None),
    IsaDevice::new("RTC_", "PNP0B00", 0, &[(RTC_BASE, RTC_LENGTH)], Some(RTC_IRQ), None),
    IsaDevice::new("PIC_", "PNP0000", 0, &[(0x20, 2), (0xa0, 2), (0x4d0, 2)], None, None),
    IsaDevice::new("TIMR", "PNP0100", 0, &[(0x40, 4)], None, None),
    IsaDevice::new("SPKR", "PNP0800", 0, &[(0x61, 1)], None, None),
    IsaDevice::new("BORD", "PNP0C02", 1, &[(PORT_A, 1), (DEBUG_CONSOLE_PORT, 1)], None, None),
    IsaDevice::new("FWCF", "QEMU0002", 0, &[(FW_CFG_BASE, FW_CFG_LENGTH)], None, Some(HIDDEN)),
];

/// The PIIX3: its route control registers, and the devices on the ISA bus behind it.
fn isa_bridge() -> Raw {
    let address = name("_ADR", &0x0001_0000u32);
    let registers = OpRegion::new("P40C".into(), OpRegionSpace::PCIConfig, &PIRQ_ROUTE_CONTROL, &4u8);
    let entries = ROUTES.map(|route| {
        let mut letters = [0; 4];
        letters.copy_from_slice(route.as_bytes());
        FieldEntry::Named(letters, 8)
    });
    let fields = Field::new(
        "P40C".into(),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        entries.to_vec(),
    );
    let devices: Vec<Raw> = ISA_DEVICES.iter().map(IsaDevice::aml).collect();
    let mut children: Vec<&dyn Aml> = vec![&address, &registers, &fields];
    children.extend(devices.iter().map(|device| device as &dyn Aml));
    let mut bytes = Vec::new();
    Device::new("ISA_".into(), children).to_aml_bytes(&mut bytes);
    Raw(bytes)
}

/// An extended interrupt descriptor (ACPI 6.4.3.6): level-triggered, active high, shared, one of `numbers`.
fn level_interrupt(numbers: &[u32]) -> Raw {
    const CONSUMER_SHARED: u8 = 0b1001;
    let length = 2 + 4 * numbers.len();
    let mut bytes = vec![0x89];
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend([CONSUMER_SHARED, numbers.len() as u8]);
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    Raw(bytes)
}

/// The PIRQ link devices: where each is routed to is kept in the PIIX3 alone.
fn links(table: &mut Sdt) {
    for (index, (link, route)) in LINKS.into_iter().zip(ROUTES).enumerate() {
        let route = Path::new(&format!("\\_SB_.PCI0.ISA_.{route}"));
        let is_off = And::new(&ZERO, &route, &ROUTE_OFF);
        let (id, unique) = (hid("PNP0C0F"), name("_UID", &(index as u8 + 1)));
        let possible = level_interrupt(&LINK_INPUTS);
        let possible = name("_PRS", &ResourceTemplate::new(vec![&possible]));
        let (off, on) = (Return::new(&LINK_OFF), Return::new(&LINK_ON));
        let when_off = If::new(&is_off, vec![&off]);
        let status = Method::new("_STA".into(), 0, false, vec![&when_off, &on]);
        let turn_off = Or::new(&route, &route, &ROUTE_OFF);
        let disable = Method::new("_DIS".into(), 0, false, vec![&turn_off]);
        // _CRS: the number is the low half of the register, or none.
        let (buffer, number) = (Path::new("BUF0"), Path::new("NUMB"));
        let empty = level_interrupt(&[0]);
        let template = name("BUF0", &ResourceTemplate::new(vec![&empty]));
        let field = CreateDWordField::new(&number, &buffer, &NUMBER_OFFSET);
        let get = And::new(&number, &route, &ROUTE_INPUT);
        let clear = Store::new(&number, &ZERO);
        let when_off = If::new(&is_off, vec![&clear]);
        let answer = Return::new(&buffer);
        let current = Method::new(
            "_CRS".into(),
            0,
            true,
            vec![&template, &field, &get, &when_off, &answer],
        );
        let field = CreateDWordField::new(&number, &Arg(0), &NUMBER_OFFSET);
        let put = Store::new(&route, &number);
        let set = Method::new("_SRS".into(), 1, true, vec![&field, &put]);
        let children: Vec<&dyn Aml> = vec![&id, &unique, &possible, &status, &disable, &current, &set];
        let device = Device::new(link.into(), children);
        Scope::new("\\_SB_".into(), vec![&device]).to_aml_bytes(table);
    }
}

fn processors(count: u32, table: &mut Sdt) {
    for index in 0..count {
        let (id, unique) = (name("_HID", &"ACPI0007"), name("_UID", &index));
        let device = Device::new(Path::new(&format!("C{index:03X}")), vec![&id, &unique]);
        Scope::new("\\_SB_".into(), vec![&device]).to_aml_bytes(table);
    }
}
