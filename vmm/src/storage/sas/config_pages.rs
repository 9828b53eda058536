//! Config: reading and changing configuration pages.
//!
//! What is in a page is in `page_content`; here is what can be done with one.

use super::controller::Controller;
use super::message::{Frame, Reply};
use super::page_content::Page;
use super::sgl;
use super::spec::{config_action, ioc_status, page_type};
use crate::storage::dma::DmaMemory;

/// Bytes of the reply.
const REPLY: usize = 0x18;
/// Where the request has its fields.
const ACTION: usize = 0x00;
const EXT_PAGE_TYPE: usize = 0x06;
const HEADER: usize = 0x14;
const PAGE_ADDRESS: usize = 0x18;
const SGL: usize = 0x1c;
/// Longest buffer that is looked at.
const BUFFER_LIMIT: u32 = 4096;

/// Which page a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageName {
    /// PageType, or ExtPageType where that is EXTENDED.
    pub kind: u8,
    /// PageNumber.
    pub number: u8,
    /// Whether `kind` is an ExtPageType.
    pub extended: bool,
    /// PageAddress, for pages that there is one of for each device, phy or enclosure.
    pub address: u32,
}

impl Controller {
    /// Config.
    pub(super) fn config_request(&mut self, frame: &Frame) -> Reply {
        let kind = frame.u8(HEADER + 3) & page_type::MASK;
        let extended = kind == page_type::EXTENDED;
        let name = PageName {
            kind: if extended { frame.u8(EXT_PAGE_TYPE) } else { kind },
            number: frame.u8(HEADER + 2),
            extended,
            address: frame.u32(PAGE_ADDRESS),
        };
        let action = frame.u8(ACTION);
        let reply = Reply::to(frame, REPLY).put(HEADER, &frame.bytes()[HEADER..HEADER + 4]);
        match self.page_action(frame, action, name) {
            Ok(page) => {
                let reply = reply.put(HEADER, &page.header());
                match page.extended_length() {
                    Some(length) => reply.put(0x04, &length.to_le_bytes()).put(EXT_PAGE_TYPE, &[name.kind]),
                    None => reply,
                }
            }
            Err(status) => reply.status(status),
        }
    }

    fn page_action(&mut self, frame: &Frame, action: u8, name: PageName) -> Result<Page, u16> {
        let any_address = action == config_action::PAGE_HEADER;
        let page = self.default_page(name, any_address)?;
        let key = (name.kind, name.number);
        match action {
            config_action::PAGE_HEADER => {}
            config_action::PAGE_READ_DEFAULT => self.send_page(frame, page.bytes())?,
            config_action::PAGE_READ_CURRENT | config_action::PAGE_READ_NVRAM => {
                let changed = self.state.changed_pages.get(&key);
                let bytes = changed.map_or(page.bytes(), Vec::as_slice);
                self.send_page(frame, bytes)?;
            }
            config_action::PAGE_WRITE_CURRENT | config_action::PAGE_WRITE_NVRAM if !page.is_changeable() => {
                return Err(ioc_status::CONFIG_CANT_COMMIT);
            }
            config_action::PAGE_WRITE_CURRENT | config_action::PAGE_WRITE_NVRAM => {
                let bytes = self.receive_page(frame, &page)?;
                self.state.changed_pages.insert(key, bytes);
            }
            config_action::PAGE_DEFAULT => {
                self.state.changed_pages.remove(&key);
            }
            _ => return Err(ioc_status::CONFIG_INVALID_ACTION),
        }
        Ok(page)
    }

    /// Copies a page to the host, as far as it has room.
    fn send_page(&self, frame: &Frame, bytes: &[u8]) -> Result<(), u16> {
        let segments = sgl::walk(&self.dma, frame, SGL, 0, bytes.len() as u32)?;
        self.dma.scatter(&segments, bytes).map_err(|_| ioc_status::INVALID_SGL)
    }

    /// A page that the host has changed. Its header cannot be.
    fn receive_page(&self, frame: &Frame, page: &Page) -> Result<Vec<u8>, u16> {
        let length = page.bytes().len();
        let segments = sgl::walk(&self.dma, frame, SGL, 0, BUFFER_LIMIT.min(length as u32))?;
        if segments.iter().map(|segment| segment.length).sum::<usize>() < length {
            return Err(ioc_status::CONFIG_INVALID_DATA);
        }
        let mut bytes = vec![0; length];
        self.dma
            .gather(&segments, &mut bytes)
            .map_err(|_| ioc_status::INVALID_SGL)?;
        let header = if page.extended_length().is_some() { 8 } else { 4 };
        bytes[..header].copy_from_slice(&page.bytes()[..header]);
        Ok(bytes)
    }

    /// Flags of IOC page 1 as they are in force.
    pub(super) fn ioc_page_1_flags(&self) -> u32 {
        let page = self.state.changed_pages.get(&(page_type::IOC, 1));
        let flags = page.and_then(|page| page.get(4..8)).unwrap_or(&[0; 4]);
        u32::from_le_bytes([flags[0], flags[1], flags[2], flags[3]])
    }
}
