//! Config: reading and changing configuration pages.
//!
//! What is in a page is in `page_content`; here is what can be done with one.

use std::collections::BTreeMap;

use super::message::{Frame, Reply};
use super::page_content::{Page, PageContents};
use super::sgl;
use super::spec::{IOCPAGE1_INITIATOR_CONTEXT_REPLY_DISABLE, config_action, ioc_status, page_type};
use crate::storage::dma::{Dma, DmaMemory};

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
pub(super) struct PageName {
    /// PageType, or ExtPageType where that is EXTENDED.
    pub kind: u8,
    /// PageNumber.
    pub number: u8,
    /// Whether `kind` is an ExtPageType.
    pub(crate) extended: bool,
    /// PageAddress, for pages that there is one of for each device, phy or enclosure.
    pub address: u32,
}

/// A page by type and number, and the device that it is about.
type Key = (u8, u8, Option<u16>);

/// What there is to save of [`ConfigPages`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ConfigPagesState {
    /// Pages that the host has changed.
    changed: BTreeMap<Key, Vec<u8>>,
}

/// The configuration pages.
#[derive(Default)]
pub(super) struct ConfigPages {
    state: ConfigPagesState,
}

impl ConfigPages {
    /// As after power on: what the host has changed is forgotten.
    pub(super) fn reset(&mut self) {
        self.state = ConfigPagesState::default();
    }

    /// Config.
    pub(super) fn execute(&mut self, frame: &Frame, contents: &PageContents<'_>, memory: &Dma) -> Reply {
        let kind = frame.u8(HEADER + 3) & page_type::MASK;
        let extended = kind == page_type::EXTENDED;
        let name = PageName {
            kind: if extended { frame.u8(EXT_PAGE_TYPE) } else { kind },
            number: frame.u8(HEADER + 2),
            extended,
            address: frame.u32(PAGE_ADDRESS),
        };
        let reply = Reply::to(frame, REPLY).put(HEADER, &frame.bytes()[HEADER..HEADER + 4]);
        match self.act(frame, name, contents, memory) {
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

    fn act(&mut self, frame: &Frame, name: PageName, contents: &PageContents<'_>, memory: &Dma) -> Result<Page, u16> {
        let action = frame.u8(ACTION);
        let any_address = action == config_action::PAGE_HEADER;
        let page = contents.page(name, any_address)?;
        let key = (name.kind, name.number, page.device());
        match action {
            config_action::PAGE_HEADER => {}
            config_action::PAGE_READ_DEFAULT => send_page(frame, page.bytes(), memory)?,
            config_action::PAGE_READ_CURRENT | config_action::PAGE_READ_NVRAM => {
                let changed = self.state.changed.get(&key);
                let bytes = changed.map_or(page.bytes(), Vec::as_slice);
                send_page(frame, bytes, memory)?;
            }
            config_action::PAGE_WRITE_CURRENT | config_action::PAGE_WRITE_NVRAM if !page.is_changeable() => {
                return Err(ioc_status::CONFIG_CANT_COMMIT);
            }
            config_action::PAGE_WRITE_CURRENT | config_action::PAGE_WRITE_NVRAM => {
                let bytes = receive_page(frame, &page, memory)?;
                self.state.changed.insert(key, bytes);
            }
            config_action::PAGE_DEFAULT => {
                self.state.changed.remove(&key);
            }
            _ => return Err(ioc_status::CONFIG_INVALID_ACTION),
        }
        Ok(page)
    }

    /// IOC page 1: the host wants a frame for every reply.
    pub(super) fn are_context_replies_disabled(&self) -> bool {
        let page = self.state.changed.get(&(page_type::IOC, 1, None));
        let flags = page.and_then(|page| page.get(4..8)).unwrap_or(&[0; 4]);
        let flags = u32::from_le_bytes([flags[0], flags[1], flags[2], flags[3]]);
        flags & IOCPAGE1_INITIATOR_CONTEXT_REPLY_DISABLE != 0
    }
}

/// Copies a page to the host, as far as it has room.
fn send_page(frame: &Frame, bytes: &[u8], memory: &Dma) -> Result<(), u16> {
    let segments = sgl::walk(memory, frame, SGL, 0, bytes.len() as u32)?;
    memory.scatter(&segments, bytes).map_err(|_| ioc_status::INVALID_SGL)
}

/// A page that the host has changed. Its header cannot be.
fn receive_page(frame: &Frame, page: &Page, memory: &Dma) -> Result<Vec<u8>, u16> {
    let length = page.bytes().len();
    let segments = sgl::walk(memory, frame, SGL, 0, BUFFER_LIMIT.min(length as u32))?;
    if segments.iter().map(|segment| segment.length).sum::<usize>() < length {
        return Err(ioc_status::CONFIG_INVALID_DATA);
    }
    let mut bytes = vec![0; length];
    memory
        .gather(&segments, &mut bytes)
        .map_err(|_| ioc_status::INVALID_SGL)?;
    let header = if page.extended_length().is_some() { 8 } else { 4 };
    bytes[..header].copy_from_slice(&page.bytes()[..header]);
    Ok(bytes)
}
