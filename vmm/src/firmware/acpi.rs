//! The ACPI tables: RSDP, XSDT, FADT, FACS, DSDT, MADT, WAET (ACPI Specification 6.4, chapter 5; WAET: Microsoft,
//! "Windows ACPI Emulated Devices Table").

use acpi_tables::aml_as_bytes;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use zerocopy::{Immutable, IntoBytes};

use super::dsdt::dsdt;
use super::table_loader::{TABLES_ALIGNMENT, TableFiles};
use super::{IO_APIC_BASE, LOCAL_APIC_BASE, Platform};
use crate::devices::power::{GPE0, GPE0_LENGTH, PM_TMR, PM1_CNT, POWER_MANAGEMENT_BASE, SCI_IRQ};
use crate::devices::reset::{RESET_CONTROL_PORT, RESET_CONTROL_VALUE};
use crate::devices::rtc::CENTURY_REGISTER;

pub(super) const OEM_ID: [u8; 6] = *b"STRLCK";
pub(super) const OEM_TABLE_ID: [u8; 8] = *b"STORLOCK";
pub(super) const OEM_REVISION: u32 = 1;

/// Inputs of the I/O APIC that are level-triggered and active high: the SCI and what the PIRQ links may use.
pub(super) const LEVEL_INPUTS: [u8; 4] = [5, SCI_IRQ as u8, 10, 11];

/// Common header of all tables but FACS and RSDP (ACPI 5.2.6).
const HEADER_LENGTH: u32 = 36;
/// Offset of the revision in the header of a table.
const REVISION: usize = 8;
const MADT_REVISION: u8 = 6;
const FADT_FACS: u32 = 36;
const FADT_DSDT: u32 = 40;
const FADT_X_DSDT: u32 = 140;
/// FADT.IAPC_BOOT_ARCH: there are devices on an ISA bus, an 8042 among them, and no VGA.
const LEGACY_DEVICES: u16 = 1 << 0;
const BOOT_8042: u16 = 1 << 1;
const VGA_NOT_PRESENT: u16 = 1 << 2;
/// Latencies in microseconds by which an operating system knows that C2 and C3 do not exist.
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;
/// Flat logical addressing of APICs ends with this many processors.
const FLAT_LIMIT: u32 = 8;
/// MADT.Flags: there are 8259s too.
const PCAT_COMPAT: u32 = 1 << 0;
/// MPS INTI flags: active high, level-triggered.
const ACTIVE_HIGH_LEVEL: u16 = 0b1101;
/// WAET.Emulated Device Flags: the RTC needs no acknowledging by register C, the PM timer needs to be read only once.
const WAET_RTC_GOOD: u32 = 1 << 0;
const WAET_PM_TIMER_GOOD: u32 = 1 << 1;

/// Interrupt Source Override Structure (ACPI 5.2.12.5).
#[repr(C, packed)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct InterruptSourceOverride {
    kind: u8,
    length: u8,
    bus: u8,
    source: u8,
    global_system_interrupt: u32,
    flags: u16,
}

aml_as_bytes!(InterruptSourceOverride);

impl InterruptSourceOverride {
    fn new(source: u8, global_system_interrupt: u32, flags: u16) -> Self {
        Self {
            kind: 2,
            length: 10,
            bus: 0,
            source,
            global_system_interrupt,
            flags,
        }
    }
}

/// Local APIC NMI Structure (ACPI 5.2.12.7).
#[repr(C, packed)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct LocalApicNmi {
    kind: u8,
    length: u8,
    processor_uid: u8,
    flags: u16,
    input: u8,
}

aml_as_bytes!(LocalApicNmi);

/// All tables of a platform, to be placed by firmware or by [`TableFiles::place`].
#[must_use]
pub(crate) fn acpi_tables(platform: &Platform) -> TableFiles {
    let mut files = TableFiles::default();
    let facs = files.append(&bytes(&FACS::new()), TABLES_ALIGNMENT as usize);
    let dsdt = files.append(dsdt(platform).as_slice(), 16);
    files.sum(dsdt);
    let fadt = files.append(&bytes(&fadt(platform)), 16);
    files.point(fadt + FADT_FACS, 4, facs);
    files.point(fadt + FADT_DSDT, 4, dsdt);
    files.point(fadt + FADT_X_DSDT, 8, dsdt);
    files.sum(fadt);
    let madt = files.append(&madt(platform), 16);
    files.sum(madt);
    let waet = files.append(waet().as_slice(), 16);
    files.sum(waet);
    let listed = [fadt, madt, waet];
    let mut root = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for _ in listed {
        root.add_entry(0);
    }
    let xsdt = files.append(&bytes(&root), 16);
    for (entry, table) in (xsdt + HEADER_LENGTH..).step_by(8).zip(listed) {
        files.point(entry, 8, table);
    }
    files.sum(xsdt);
    files.set_root(bytes(&Rsdp::new(OEM_ID, 0)), xsdt);
    files
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// The fixed description: the register blocks of the PIIX4, reset by the PIIX3. There is no SMI command port: ACPI is
/// always on.
fn fadt(platform: &Platform) -> impl Aml + use<> {
    let port = |bits: u8, size, port: u64| GAS::new(AddressSpace::SystemIo, bits, 0, size, port);
    let (events, control, timer) = (
        POWER_MANAGEMENT_BASE,
        POWER_MANAGEMENT_BASE + PM1_CNT,
        POWER_MANAGEMENT_BASE + PM_TMR,
    );
    let mut table = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .preferred_pm_profile(PmProfile::Desktop)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    if platform.cpus > FLAT_LIMIT {
        table = table.flag(Flags::ForceApicClusterModel);
    }
    table.sci_int = (SCI_IRQ as u16).into();
    table.pm1a_evt_blk = (events as u32).into();
    table.pm1a_cnt_blk = (control as u32).into();
    table.pm_tmr_blk = (timer as u32).into();
    (table.pm1_evt_len, table.pm1_cnt_len, table.pm_tmr_len) = (4, 2, 4);
    // There are no such events; systems take it for granted that the registers are there.
    let general = POWER_MANAGEMENT_BASE + GPE0;
    (table.gpe0_blk, table.gpe0_blk_len) = ((general as u32).into(), GPE0_LENGTH as u8);
    table.x_gpe0_blk = port(8 * GPE0_LENGTH as u8, AccessSize::ByteAccess, general);
    table.x_pm1a_evt_blk = port(32, AccessSize::WordAccess, events);
    table.x_pm1a_cnt_blk = port(16, AccessSize::WordAccess, control);
    table.x_pm_tmr_blk = port(32, AccessSize::DwordAccess, timer);
    table.p_lvl2_lat = NO_C2.into();
    table.p_lvl3_lat = NO_C3.into();
    table.century = CENTURY_REGISTER;
    table.iapc_boot_arch = (LEGACY_DEVICES | BOOT_8042 | VGA_NOT_PRESENT).into();
    table.reset_reg = port(8, AccessSize::ByteAccess, RESET_CONTROL_PORT);
    table.reset_value = RESET_CONTROL_VALUE;
    table.finalize()
}

fn madt(platform: &Platform) -> Vec<u8> {
    let controller = LocalInterruptController::Address(LOCAL_APIC_BASE);
    let mut table = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, controller);
    for id in 0..platform.cpus as u8 {
        table.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    table.add_structure(IoApic::new(0, IO_APIC_BASE, 0));
    // The timer is on input 2, as on every PC.
    table.add_structure(InterruptSourceOverride::new(0, 2, 0));
    for input in LEVEL_INPUTS {
        table.add_structure(InterruptSourceOverride::new(input, input.into(), ACTIVE_HIGH_LEVEL));
    }
    table.add_structure(LocalApicNmi {
        kind: 4,
        length: 6,
        processor_uid: 0xff,
        flags: 0,
        input: 1,
    });
    // The crate has no way to set the flags behind the address of the local APICs, and calls the table by its first
    // revision: that of the FADT's version is 6 (ACPI 6.5, 5.2.12). What the table has is the same in both.
    let mut bytes = bytes(&table);
    bytes[REVISION] = MADT_REVISION;
    let flags = HEADER_LENGTH as usize + 4;
    bytes[flags..flags + 4].copy_from_slice(&PCAT_COMPAT.to_le_bytes());
    bytes
}

fn waet() -> Sdt {
    let mut table = Sdt::new(*b"WAET", HEADER_LENGTH, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append(WAET_RTC_GOOD | WAET_PM_TIMER_GOOD);
    table
}
