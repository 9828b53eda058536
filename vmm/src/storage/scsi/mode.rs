//! Mode pages (SPC-4, 7.5; SBC-3, 6.4): MODE SENSE and MODE SELECT.
//!
//! A page is made of its default bytes and the few bits that can be changed; those are in [`Modes`]. Nothing is saved.

use super::cdb::Cdb;
use super::exchange::{Exchange, Outcome};
use super::sense::Sense;
use super::spec::{asc, mode_page};
use super::unit::LogicalUnit;

/// DEVICE-SPECIFIC PARAMETER: the medium is write protected; DPO and FUA are heeded.
const WRITE_PROTECTED: u8 = 0x80;
const DPO_AND_FUA: u8 = 0x10;
/// PC: what MODE SENSE is to tell.
const CURRENT: u8 = 0;
const CHANGEABLE: u8 = 1;
const DEFAULT: u8 = 2;
/// Byte 2 of the Caching page: WCE.
const WRITE_CACHE_ENABLE: u8 = 1 << 2;
/// Byte 2 of the Control page: D_SENSE.
const DESCRIPTOR_SENSE: u8 = 1 << 2;
/// SPF of a page's first byte.
const SUBPAGE_FORMAT: u8 = 1 << 6;

/// What MODE SELECT can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes {
    /// WCE: writes may wait in the cache.
    pub write_cache: bool,
    /// D_SENSE: sense data are in descriptor format.
    pub(crate) descriptor_sense: bool,
}

impl Default for Modes {
    fn default() -> Self {
        Self {
            write_cache: true,
            descriptor_sense: false,
        }
    }
}

/// Code and length of each page, its bytes after the length, and the bits of them that are changed by [`Modes`].
type Page = (u8, [u8; 2], fn(&Modes, &mut [u8]));

/// The bytes of a page from its third on; those behind byte 3 are 0.
const PAGES: [(Page, usize); 4] = [
    // AWRE and ARRE: blocks that cannot be written or read are replaced.
    ((mode_page::READ_WRITE_ERROR_RECOVERY, [0xc0, 0], |_, _| {}), 0x0a),
    (
        (mode_page::CACHING, [0, 0], |modes, page| {
            page[0] |= if modes.write_cache { WRITE_CACHE_ENABLE } else { 0 };
        }),
        0x12,
    ),
    (
        // QUEUE ALGORITHM MODIFIER: unrestricted reordering.
        (mode_page::CONTROL, [0, 0x10], |modes, page| {
            page[0] |= if modes.descriptor_sense { DESCRIPTOR_SENSE } else { 0 };
        }),
        0x0a,
    ),
    // DEXCPT: no exceptions are told.
    ((mode_page::INFORMATIONAL_EXCEPTIONS, [0x08, 0], |_, _| {}), 0x0a),
];

impl Modes {
    /// A page with these modes.
    fn page(self, (page, length): &(Page, usize)) -> Vec<u8> {
        let (code, head, change) = page;
        let mut data = vec![0; 2 + length];
        (data[0], data[1]) = (*code, *length as u8);
        data[2..4].copy_from_slice(head);
        change(&self, &mut data[2..]);
        data
    }

    /// The bits of a page that can be changed: those that differ between all on and all off.
    fn changeable(page: &(Page, usize)) -> Vec<u8> {
        let of = |on| {
            Self {
                write_cache: on,
                descriptor_sense: on,
            }
            .page(page)
        };
        let mut bits: Vec<u8> = of(true).iter().zip(of(false)).map(|(on, off)| on ^ off).collect();
        (bits[0], bits[1]) = (page.0.0, page.1 as u8);
        bits
    }

    /// Takes over the bits of a page that can be changed.
    fn take(&mut self, page: &[u8]) {
        match page[0] {
            mode_page::CACHING => self.write_cache = page[2] & WRITE_CACHE_ENABLE != 0,
            mode_page::CONTROL => self.descriptor_sense = page[2] & DESCRIPTOR_SENSE != 0,
            _ => {}
        }
    }
}

impl LogicalUnit {
    /// MODE SENSE(6), MODE SENSE(10) (SPC-4, 6.13 and 6.14).
    pub(super) fn mode_sense(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        let short = cdb.len() == 6;
        let (control, code, subpage) = (cdb.byte(2) >> 6, cdb.byte(2) & 0x3f, cdb.byte(3));
        if subpage != 0 && subpage != 0xff {
            return Err(Sense::cdb_byte(3).into());
        }
        let modes = match control {
            CURRENT | CHANGEABLE => self.state.modes,
            DEFAULT => Modes::default(),
            _ => return Err(Sense::illegal(asc::SAVING_PARAMETERS_NOT_SUPPORTED).into()),
        };
        let wanted = |page: &&(Page, usize)| code == mode_page::ALL || page.0.0 == code;
        let mut pages = PAGES.iter().filter(wanted).peekable();
        if pages.peek().is_none() {
            return Err(Sense::cdb_bit(2, 5).into());
        }
        let pages: Vec<u8> = pages
            .flat_map(|page| match control {
                CHANGEABLE => Modes::changeable(page),
                _ => modes.page(page),
            })
            .collect();
        let long_descriptor = !short && cdb.bit(1, 4);
        let descriptor = if cdb.bit(1, 3) {
            Vec::new()
        } else {
            self.block_descriptor(long_descriptor)
        };
        let header = self.mode_header(short, long_descriptor, descriptor.len(), pages.len());
        let data = [header, descriptor, pages].concat();
        let allocation = if short { cdb.byte(4).into() } else { cdb.u16(7) };
        exchange.send(&data, allocation.into());
        Ok(())
    }

    fn mode_header(&self, short: bool, long_descriptor: bool, descriptor: usize, pages: usize) -> Vec<u8> {
        let protect = if self.backend.is_read_only() {
            WRITE_PROTECTED
        } else {
            0
        };
        let device = protect | DPO_AND_FUA;
        if short {
            // All that there is fits in a byte.
            vec![(3 + descriptor + pages) as u8, 0, device, descriptor as u8]
        } else {
            let mut header = ((6 + descriptor + pages) as u16).to_be_bytes().to_vec();
            header.extend([0, device, u8::from(long_descriptor), 0]);
            header.extend((descriptor as u16).to_be_bytes());
            header
        }
    }

    /// The mode parameter block descriptor (SBC-3, 6.4.2), short or long.
    fn block_descriptor(&self, long: bool) -> Vec<u8> {
        let mut data = Vec::new();
        if long {
            data.extend(self.blocks().to_be_bytes());
            data.extend([0; 4]);
        } else {
            data.extend(u32::try_from(self.blocks()).unwrap_or(u32::MAX).to_be_bytes());
        }
        // Three bytes in the short one, below one that is reserved.
        data.extend(self.config.block_size.to_be_bytes());
        data
    }

    /// MODE SELECT(6), MODE SELECT(10) (SPC-4, 6.10 and 6.11). Nothing is changed before all is checked.
    pub(super) fn mode_select(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        let short = cdb.len() == 6;
        if cdb.bit(1, 0) {
            return Err(Sense::cdb_bit(1, 0).into());
        }
        let length: u16 = if short { cdb.byte(4).into() } else { cdb.u16(7) };
        if length == 0 {
            return Ok(());
        }
        if !cdb.bit(1, 4) {
            return Err(Sense::cdb_bit(1, 4).into());
        }
        let header = if short { 4 } else { 8 };
        if usize::from(length) < header {
            return Err(Sense::illegal(asc::PARAMETER_LIST_LENGTH_ERROR).into());
        }
        let list = exchange.receive(length.into())?;
        let pages = self.skip_block_descriptor(&list, short)?;
        let modes = self.selected(&list, pages)?;
        if modes == self.state.modes {
            return Ok(());
        }
        self.state.modes = modes;
        self.state
            .attentions
            .add_for_others(exchange.initiator, asc::MODE_PARAMETERS_CHANGED);
        self.write_through(false)
    }

    /// Checks that a block descriptor changes nothing; returns where the pages begin.
    fn skip_block_descriptor(&self, list: &[u8], short: bool) -> Result<usize, Sense> {
        let fields = Cdb::new(list);
        let (header, length, at, long) = if short {
            (4, usize::from(fields.byte(3)), 3, false)
        } else {
            (8, usize::from(fields.u16(6)), 6, fields.bit(4, 0))
        };
        if length == 0 {
            return Ok(header);
        }
        let mine = self.block_descriptor(long);
        if length != mine.len() {
            return Err(Sense::parameter_byte(at));
        }
        let Some(theirs) = list.get(header..header + length) else {
            return Err(Sense::illegal(asc::PARAMETER_LIST_LENGTH_ERROR));
        };
        // The number of blocks may be left open: 0, or all ones.
        let number = if long { 8 } else { 4 };
        let (blocks, size) = theirs.split_at(number);
        let open = blocks.iter().all(|byte| *byte == 0) || blocks.iter().all(|byte| *byte == 0xff);
        if !open && *blocks != mine[..number] {
            return Err(Sense::parameter_byte(header as u16));
        }
        if *size != mine[number..] {
            return Err(Sense::parameter_byte((header + number) as u16));
        }
        Ok(header + length)
    }

    /// The modes after the pages from `at` on.
    fn selected(&self, list: &[u8], mut at: usize) -> Result<Modes, Sense> {
        let mut modes = self.state.modes;
        while let Some(&first) = list.get(at) {
            let place = at as u16;
            if first & SUBPAGE_FORMAT != 0 {
                return Err(Sense::parameter_bit(place, 6));
            }
            let known = PAGES.iter().find(|page| page.0.0 == first & 0x3f);
            let page = known.ok_or(Sense::parameter_bit(place, 5))?;
            let Some(&length) = list.get(at + 1) else {
                return Err(Sense::illegal(asc::PARAMETER_LIST_LENGTH_ERROR));
            };
            if usize::from(length) != page.1 {
                return Err(Sense::parameter_byte(place + 1));
            }
            let end = at + 2 + page.1;
            let Some(bytes) = list.get(at..end) else {
                return Err(Sense::illegal(asc::PARAMETER_LIST_LENGTH_ERROR));
            };
            let (current, changeable) = (modes.page(page), Modes::changeable(page));
            for (index, byte) in (0..).zip(bytes).skip(2) {
                let wrong = (byte ^ current[index]) & !changeable[index];
                if wrong != 0 {
                    let bit = 7 - wrong.leading_zeros() as u8;
                    return Err(Sense::parameter_bit(place + index as u16, bit));
                }
            }
            let mut taken = bytes.to_vec();
            taken[0] = page.0.0;
            modes.take(&taken);
            at = end;
        }
        Ok(modes)
    }
}
