//! What a unit says of itself: INQUIRY with its vital product data pages, REPORT LUNS, READ CAPACITY.

use super::blocks::{MAX_TRANSFER_BLOCKS, MAX_WRITE_SAME_BLOCKS};
use super::cdb::Cdb;
use super::exchange::{Exchange, Outcome};
use super::provisioning::{MAX_UNMAP_BLOCKS, MAX_UNMAP_DESCRIPTORS};
use super::sense::Sense;
use super::spec::vpd;
use super::unit::LogicalUnit;

/// T10 VENDOR IDENTIFICATION, PRODUCT IDENTIFICATION and PRODUCT REVISION LEVEL.
const VENDOR: &[u8; 8] = b"STORLOCK";
const PRODUCT: &[u8; 16] = b"DISK            ";
const REVISION: &[u8; 4] = b"0001";
/// VERSION: SPC-4.
const VERSION: u8 = 0x06;
/// HISUP: unit numbers are those of SAM-5; RESPONSE DATA FORMAT.
const RESPONSE_FORMAT: u8 = 0x10 | 0x02;
const COMMAND_QUEUING: u8 = 0x02;
/// VERSION DESCRIPTORs: SAM-4, SPC-4, SBC-3.
const STANDARDS: [u16; 3] = [0x0080, 0x0460, 0x04c0];
const INQUIRY_LENGTH: usize = 96;
/// Bytes of the pages of SBC-3.
const BLOCK_PAGE_LENGTH: usize = 64;
/// Designation descriptors (SPC-4, 7.8.6): CODE SET and ASSOCIATION with DESIGNATOR TYPE.
const CODE_SET_BINARY: u8 = 1;
const CODE_SET_ASCII: u8 = 2;
const TYPE_T10_VENDOR: u8 = 1;
const TYPE_NAA: u8 = 3;
const TYPE_RELATIVE_PORT: u8 = 4;
/// PIV, and the association with the target port.
const OF_PORT: u8 = 0x80 | 0x10;
/// A unit without rotating parts.
const NON_ROTATING: u16 = 1;
/// Blocks on which UNMAP best begins and ends are this many bytes.
const UNMAP_GRANULARITY: u32 = 4096;

impl LogicalUnit {
    /// INQUIRY (SPC-4, 6.6).
    pub(super) fn inquiry(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        let (wants_page, page) = (cdb.bit(1, 0), cdb.byte(2));
        let data = match (wants_page, page) {
            (false, 0) => self.standard_inquiry(),
            (false, _) => return Err(Sense::cdb_byte(2).into()),
            (true, _) => self.vital_product_data(page).ok_or(Sense::cdb_byte(2))?,
        };
        exchange.send(&data, cdb.u16(3).into());
        Ok(())
    }

    fn standard_inquiry(&self) -> Vec<u8> {
        let mut data = vec![0; INQUIRY_LENGTH];
        (data[2], data[3], data[4]) = (VERSION, RESPONSE_FORMAT, INQUIRY_LENGTH as u8 - 5);
        data[7] = COMMAND_QUEUING;
        data[8..16].copy_from_slice(VENDOR);
        data[16..32].copy_from_slice(PRODUCT);
        data[32..36].copy_from_slice(REVISION);
        let serial = self.config.serial();
        // 20 bytes of the vendor's own.
        data[36..36 + serial.len()].copy_from_slice(&serial);
        for (descriptor, standard) in data[58..].chunks_exact_mut(2).zip(STANDARDS) {
            descriptor.copy_from_slice(&standard.to_be_bytes());
        }
        data
    }

    fn vital_product_data(&self, page: u8) -> Option<Vec<u8>> {
        let content = match page {
            vpd::SUPPORTED_PAGES => vec![
                vpd::SUPPORTED_PAGES,
                vpd::UNIT_SERIAL_NUMBER,
                vpd::DEVICE_IDENTIFICATION,
                vpd::BLOCK_LIMITS,
                vpd::BLOCK_DEVICE_CHARACTERISTICS,
                vpd::LOGICAL_BLOCK_PROVISIONING,
            ],
            vpd::UNIT_SERIAL_NUMBER => self.config.serial(),
            vpd::DEVICE_IDENTIFICATION => self.designators(),
            vpd::BLOCK_LIMITS => self.block_limits(),
            vpd::BLOCK_DEVICE_CHARACTERISTICS => {
                let mut content = vec![0; BLOCK_PAGE_LENGTH - 4];
                content[..2].copy_from_slice(&NON_ROTATING.to_be_bytes());
                content
            }
            // LBPU, LBPWS, LBPWS10 and LBPRZ; thin provisioning.
            vpd::LOGICAL_BLOCK_PROVISIONING => vec![0, 0x80 | 0x40 | 0x20 | 0x04, 2, 0],
            _ => return None,
        };
        let mut data = vec![0, page];
        data.extend((content.len() as u16).to_be_bytes());
        data.extend(content);
        Some(data)
    }

    /// Device Identification (SPC-4, 7.8.6): the unit's names, and those of the port.
    fn designators(&self) -> Vec<u8> {
        let mut content = Vec::new();
        let mut add = |code_set: u8, kind: u8, name: &[u8]| {
            content.extend([code_set, kind, 0, name.len() as u8]);
            content.extend(name);
        };
        add(CODE_SET_BINARY, TYPE_NAA, &self.config.name.to_be_bytes());
        let vendor_and_serial = [VENDOR.as_slice(), &self.config.serial()].concat();
        add(CODE_SET_ASCII, TYPE_T10_VENDOR, &vendor_and_serial);
        if let Some(port) = self.config.port {
            let code_set = port.protocol << 4 | CODE_SET_BINARY;
            add(code_set, OF_PORT | TYPE_NAA, &port.name.to_be_bytes());
            add(code_set, OF_PORT | TYPE_RELATIVE_PORT, &[0, 0, 0, 1]);
        }
        content
    }

    /// Block Limits (SBC-3, 6.5.3). Offsets are those of the page, which has four bytes in front of this.
    fn block_limits(&self) -> Vec<u8> {
        let mut page = vec![0; BLOCK_PAGE_LENGTH];
        let mut put = |at: usize, value: u32| page[at..at + 4].copy_from_slice(&value.to_be_bytes());
        put(8, MAX_TRANSFER_BLOCKS);
        put(20, MAX_UNMAP_BLOCKS);
        put(24, MAX_UNMAP_DESCRIPTORS);
        put(28, UNMAP_GRANULARITY / self.config.block_size);
        put(40, MAX_WRITE_SAME_BLOCKS);
        // WSNZ: WRITE SAME of no blocks is none of all blocks.
        page[4] = 1;
        page.split_off(4)
    }

    /// REPORT LUNS (SPC-4, 6.33).
    pub(super) fn report_luns(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        let units: &[[u8; 8]] = match cdb.byte(2) {
            0 | 2 => &[[0; 8]],
            // The well known units, of which there is none.
            1 => &[],
            _ => return Err(Sense::cdb_byte(2).into()),
        };
        let allocation = cdb.u32(6);
        if allocation < 16 {
            return Err(Sense::cdb_byte(6).into());
        }
        let mut data = (8 * units.len() as u32).to_be_bytes().to_vec();
        data.extend([0; 4]);
        data.extend(units.concat());
        exchange.send(&data, allocation as usize);
        Ok(())
    }

    /// READ CAPACITY(10) (SBC-3, 5.15).
    pub(super) fn read_capacity_10(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        if cdb.u32(2) != 0 && !cdb.bit(8, 0) {
            return Err(Sense::cdb_byte(2).into());
        }
        // What does not fit is told as all ones: READ CAPACITY(16) has it.
        let last = u32::try_from(self.blocks() - 1).unwrap_or(u32::MAX);
        let mut data = last.to_be_bytes().to_vec();
        data.extend(self.config.block_size.to_be_bytes());
        exchange.send(&data, data.len());
        Ok(())
    }

    /// READ CAPACITY(16) (SBC-3, 5.16).
    pub(super) fn read_capacity_16(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        if cdb.u64(2) != 0 && !cdb.bit(14, 0) {
            return Err(Sense::cdb_byte(2).into());
        }
        let mut data = (self.blocks() - 1).to_be_bytes().to_vec();
        data.extend(self.config.block_size.to_be_bytes());
        data.resize(32, 0);
        // LBPME and LBPRZ.
        data[14] = 0x80 | 0x40;
        exchange.send(&data, cdb.u32(10) as usize);
        Ok(())
    }
}
