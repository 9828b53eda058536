//! What the configuration pages say (MPI: mpi_cnfg.h). Everything follows from the configuration and from which disks are
//! there; changes by the host are kept elsewhere.

use super::config::{PCI_DEVICE_ID, PCI_VENDOR_ID, SasConfig};
use super::config_pages::PageName;
use super::disks::Disks;
use super::spec::{ext_page_type, ioc_status, link_rate, page_type, sas_device_info, sas_device0_flags};
use super::topology::{CONTROLLER_HANDLE, ENCLOSURE_HANDLE, disk_handle, disk_of_handle};
use crate::storage::controllers::PCI_SUBSYSTEM_VENDOR_ID;

/// Version of non-volatile data: pages are what they are, not stored.
const NVDATA_VERSION: u16 = 0x0001;
/// The form of a page address is in its highest bits.
const FORM_SHIFT: u32 = 28;
/// The handle before the first.
const NO_HANDLE: u16 = 0xffff;

/// A configuration page with its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    bytes: Vec<u8>,
    changeable: bool,
    extended: bool,
    /// DevHandle, for a page that there is one of for each device.
    device: Option<u16>,
}

impl Page {
    fn new(name: PageName, version: u8, attributes: u8) -> Self {
        let kind = if name.extended { page_type::EXTENDED } else { name.kind };
        let mut bytes = vec![version, 0, name.number, attributes | kind];
        if name.extended {
            bytes.extend([0, 0, name.kind, 0]);
        }
        Self {
            bytes,
            changeable: attributes != 0,
            extended: name.extended,
            device: None,
        }
    }

    fn of_device(self, handle: u16) -> Self {
        Self {
            device: Some(handle),
            ..self
        }
    }

    fn u8(mut self, values: &[u8]) -> Self {
        self.bytes.extend(values);
        self
    }

    fn u16(self, value: u16) -> Self {
        self.u8(&value.to_le_bytes())
    }

    fn u32(self, value: u32) -> Self {
        self.u8(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.u8(&value.to_le_bytes())
    }

    fn zeroes(mut self, count: usize) -> Self {
        self.bytes.resize(self.bytes.len() + count, 0);
        self
    }

    /// A string of `length` bytes, padded with zeroes.
    fn text(self, text: &str, length: usize) -> Self {
        let shown = &text.as_bytes()[..text.len().min(length)];
        self.u8(shown).zeroes(length - shown.len())
    }

    /// Puts the length into the header.
    fn finish(mut self) -> Self {
        let dwords = (self.bytes.len() / 4) as u16;
        if self.extended {
            self.bytes[4..6].copy_from_slice(&dwords.to_le_bytes());
        } else {
            self.bytes[1] = dwords as u8;
        }
        self
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn is_changeable(&self) -> bool {
        self.changeable
    }

    /// Which of several pages of its kind and number it is.
    pub(super) fn device(&self) -> Option<u16> {
        self.device
    }

    /// CONFIG_PAGE_HEADER.
    pub(super) fn header(&self) -> [u8; 4] {
        [self.bytes[0], self.bytes[1], self.bytes[2], self.bytes[3]]
    }

    /// ExtPageLength, of an extended page.
    pub(super) fn extended_length(&self) -> Option<u16> {
        self.extended
            .then(|| u16::from_le_bytes([self.bytes[4], self.bytes[5]]))
    }
}

/// What a page of a device is about.
enum Device {
    Controller,
    Disk(usize),
}

/// What pages are made of.
pub(super) struct PageContents<'a> {
    pub(super) config: &'a SasConfig,
    pub(super) disks: &'a Disks,
}

impl PageContents<'_> {
    /// A page as it is without changes. With `any_address` the address is not looked at: only the header is wanted.
    pub(super) fn page(&self, name: PageName, any_address: bool) -> Result<Page, u16> {
        let page = match (name.extended, name.kind) {
            (false, page_type::MANUFACTURING) => self.manufacturing(name),
            (false, page_type::IO_UNIT) => self.io_unit(name),
            (false, page_type::IOC) => self.ioc(name),
            (false, page_type::BIOS) => bios(name),
            (true, ext_page_type::SAS_IO_UNIT) => self.sas_io_unit(name),
            (true, ext_page_type::SAS_DEVICE) => self.sas_device(name, any_address),
            (true, ext_page_type::SAS_PHY) => self.sas_phy(name, any_address),
            (true, ext_page_type::ENCLOSURE) => self.enclosure(name, any_address),
            // There is no expander; no log is kept.
            (true, ext_page_type::SAS_EXPANDER | ext_page_type::LOG) => None,
            _ => return Err(ioc_status::CONFIG_INVALID_TYPE),
        };
        page.map(Page::finish).ok_or(ioc_status::CONFIG_INVALID_PAGE)
    }

    fn manufacturing(&self, name: PageName) -> Option<Page> {
        let page = Page::new(name, 0, 0);
        Some(match name.number {
            0 => page
                .text("C1068", 16)
                .text("B0", 8)
                .text("STORLOCK SAS1068", 16)
                .text("", 16)
                .text("", 16),
            // Vital product data of the board: none.
            1 => page.zeroes(256),
            2 | 3 => page.u16(PCI_DEVICE_ID).zeroes(2).u32(0),
            4 => Page::new(name, 5, 0).zeroes(0x70 - 4),
            5 => Page::new(name, 2, 0).u64(self.config.address()).zeroes(12).u64(0),
            6 | 8 | 9 | 10 => page.u32(0),
            7 => {
                let phys = self.disks.limit();
                let page = page.zeroes(12).text("STORLOCK", 16).u8(&[phys, 0, 0, 0]);
                // Pinout and location of each connector are not known.
                (0..phys).fold(page, |page, phy| {
                    page.u32(1).text("", 16).u8(&[1, 0]).u16(phy.into()).u32(0)
                })
            }
            _ => return None,
        })
    }

    fn io_unit(&self, name: PageName) -> Option<Page> {
        let changeable = page_type::ATTR_PERSISTENT;
        Some(match name.number {
            0 => Page::new(name, 0, 0).u64(self.config.address()),
            // MPI_IOUNITPAGE1_SINGLE_FUNCTION.
            1 => Page::new(name, 2, changeable).u32(1),
            2 => Page::new(name, 2, changeable).u32(0).u32(0).zeroes(20),
            3 => Page::new(name, 1, page_type::ATTR_CHANGEABLE).zeroes(8),
            4 => Page::new(name, 0, page_type::ATTR_CHANGEABLE).zeroes(16),
            _ => return None,
        })
    }

    fn ioc(&self, name: PageName) -> Option<Page> {
        let subsystem = u32::from(self.config.subsystem_id) << 16 | u32::from(PCI_SUBSYSTEM_VENDOR_ID);
        Some(match name.number {
            0 => Page::new(name, 1, 0)
                .u32(0)
                .u32(0)
                .u16(PCI_VENDOR_ID)
                .u16(PCI_DEVICE_ID)
                .u8(&[1, 0, 0, 0])
                .u32(0x0001_0700)
                .u32(subsystem),
            // No coalescing; PCISlotNum is not known.
            1 => Page::new(name, 3, page_type::ATTR_PERSISTENT)
                .u32(0)
                .u32(0)
                .u8(&[0, 0xff, 0, 0]),
            // No volumes and no disks of volumes.
            2 => Page::new(name, 4, 0).u32(0).zeroes(4),
            3 => Page::new(name, 0, 0).zeroes(4),
            4 => Page::new(name, 0, page_type::ATTR_PERSISTENT).zeroes(4),
            5 => Page::new(name, 0, 0).zeroes(8),
            6 => Page::new(name, 1, 0).zeroes(0x3c - 4),
            _ => return None,
        })
    }

    fn sas_io_unit(&self, name: PageName) -> Option<Page> {
        let phys = self.disks.limit();
        let numbers = 0..usize::from(phys);
        let changeable = page_type::ATTR_PERSISTENT;
        Some(match name.number {
            0 => {
                let page = Page::new(name, 4, 0)
                    .u16(NVDATA_VERSION)
                    .u16(NVDATA_VERSION)
                    .u8(&[phys, 0, 0, 0]);
                numbers.fold(page, |page, phy| {
                    let there = self.disks.is_there(phy);
                    let rate = if there { link_rate::RATE_3_0 } else { link_rate::UNKNOWN };
                    let attached = if there { disk_handle(phy) } else { 0 };
                    // Port, PortFlags (auto port configuration), PhyFlags.
                    page.u8(&[phy as u8, 1, 0, rate])
                        .u32(sas_device_info::INITIATOR)
                        .u16(attached)
                        .u16(CONTROLLER_HANDLE)
                        .u32(0)
                })
            }
            1 => {
                let page = Page::new(name, 7, changeable).zeroes(8).u8(&[phys, 0, 0, 0]);
                numbers.fold(page, |page, phy| {
                    page.u8(&[phy as u8, 1, 0, link_rate::RANGE])
                        .u32(sas_device_info::INITIATOR)
                        .u32(0)
                })
            }
            // Each disk has its identifier for good; none is mapped by its place in an enclosure.
            2 => Page::new(name, 6, changeable)
                .zeroes(4)
                .u16(phys.into())
                .u16(self.disks.count() as u16)
                .zeroes(4),
            // No limits of the link's error counters.
            3 => Page::new(name, 0, 0).zeroes(36),
            _ => return None,
        })
    }

    /// The device that a page address of SAS Device pages means.
    fn device(&self, address: u32) -> Option<Device> {
        let handle = address as u16;
        let of_handle = |handle| match disk_of_handle(handle, self.disks.count()) {
            Some(disk) => self.disks.is_there(disk).then_some(Device::Disk(disk)),
            None => (handle == CONTROLLER_HANDLE).then_some(Device::Controller),
        };
        match address >> FORM_SHIFT {
            // The device with the next handle.
            0 => {
                let first = handle.wrapping_add(u16::from(handle != NO_HANDLE));
                let first = if handle == NO_HANDLE { 0 } else { first };
                (first..disk_handle(self.disks.count())).find_map(of_handle)
            }
            1 => {
                let (target, bus) = (usize::from(address as u8), address >> 8 & 0xff);
                (bus == 0 && self.disks.is_there(target)).then_some(Device::Disk(target))
            }
            2 => of_handle(handle),
            _ => None,
        }
    }

    fn sas_device(&self, name: PageName, any_address: bool) -> Option<Page> {
        let device = self
            .device(name.address)
            .or(any_address.then_some(Device::Controller))?;
        let (handle, place, address) = match device {
            Device::Controller => (CONTROLLER_HANDLE, 0, self.config.address()),
            Device::Disk(disk) => (disk_handle(disk), disk as u8, self.config.disk_address(disk)),
        };
        let (parent, info, flags) = match device {
            Device::Controller => (0, sas_device_info::INITIATOR, sas_device0_flags::DEVICE_PRESENT),
            Device::Disk(_) => {
                let mapped = sas_device0_flags::DEVICE_MAPPED | sas_device0_flags::MAPPING_PERSISTENT;
                let flags = sas_device0_flags::DEVICE_PRESENT | mapped;
                (CONTROLLER_HANDLE, sas_device_info::DISK, flags)
            }
        };
        Some(match name.number {
            0 => Page::new(name, 5, 0)
                .u16(place.into())
                .u16(ENCLOSURE_HANDLE)
                .u64(address)
                .u16(parent)
                .u8(&[place, 0])
                .u16(handle)
                .u8(&[place, 0])
                .u32(info)
                .u16(flags)
                .u8(&[place, 0]),
            1 => Page::new(name, 0, 0)
                .u32(0)
                .u64(address)
                .u32(0)
                .u16(handle)
                .u8(&[place, 0])
                .zeroes(20),
            2 => Page::new(name, 1, page_type::ATTR_PERSISTENT)
                .of_device(handle)
                .u64(address)
                .u32(0),
            _ => return None,
        })
    }

    fn sas_phy(&self, name: PageName, any_address: bool) -> Option<Page> {
        let phy = match name.address >> FORM_SHIFT {
            0 => usize::from(name.address as u8),
            1 => usize::from(name.address as u16),
            _ => usize::MAX,
        };
        if phy >= SasConfig::phys(self.disks.count()) && !any_address {
            return None;
        }
        let there = self.disks.is_there(phy);
        let (handle, info, rate) = if there {
            (disk_handle(phy), sas_device_info::DISK, link_rate::RATE_3_0)
        } else {
            (0, 0, link_rate::UNKNOWN)
        };
        Some(match name.number {
            0 => Page::new(name, 1, 0)
                .u16(CONTROLLER_HANDLE)
                .u16(0)
                .u64(self.config.address())
                .u16(handle)
                .u8(&[0, 0])
                .u32(info)
                .u8(&[link_rate::RANGE, link_rate::RANGE, 0, 0])
                .u32(rate.into()),
            // No errors of the link.
            1 => Page::new(name, 0, 0).zeroes(20),
            _ => return None,
        })
    }

    fn enclosure(&self, name: PageName, any_address: bool) -> Option<Page> {
        let handle = name.address as u16;
        let there = match name.address >> FORM_SHIFT {
            0 => handle == NO_HANDLE || handle < ENCLOSURE_HANDLE,
            1 => handle == ENCLOSURE_HANDLE,
            _ => false,
        };
        if name.number != 0 || !there && !any_address {
            return None;
        }
        let slots = self.disks.limit().into();
        // Nobody manages it, and it has no processor of its own.
        Some(
            Page::new(name, 1, 0)
                .u32(0)
                .u64(self.config.enclosure())
                .u16(0)
                .u16(ENCLOSURE_HANDLE)
                .u16(slots)
                .u16(0)
                .zeroes(12),
        )
    }
}

fn bios(name: PageName) -> Option<Page> {
    let changeable = page_type::ATTR_PERSISTENT;
    Some(match name.number {
        1 => Page::new(name, 3, changeable).zeroes(0x20 - 4),
        2 => Page::new(name, 2, changeable).zeroes(0x34 - 4),
        4 => Page::new(name, 0, changeable).u64(0),
        _ => return None,
    })
}
