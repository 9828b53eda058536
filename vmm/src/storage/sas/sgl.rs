//! Scatter gather lists: simple and chain elements (MPI: SGE_SIMPLE, SGE_CHAIN) turned into segments of guest memory.
//!
//! The guest may change a list while it is read: each element is read once and checked after it was read. It knows neither
//! messages nor what is transferred.

use super::message::Frame;
use super::spec::{ioc_status, sge_flags};
use crate::storage::dma::DmaMemory;
use crate::storage::segments::Segment;

/// Chain buffers of one list (MaxChainDepth).
pub(crate) const MAX_CHAIN_DEPTH: u8 = 128;
/// Elements with data of one list.
pub(crate) const MAX_SEGMENTS: usize = 8192;
/// The bits of a simple element's first dword that are its length.
const LENGTH_MASK: u32 = 0x00ff_ffff;

/// The part of a list that lies in one piece: in the frame, or in a chain buffer.
struct Block {
    bytes: Vec<u8>,
    /// Where the next element is.
    at: usize,
    /// Where the chain element is, if there is one.
    chain: Option<usize>,
}

/// An element.
struct Element {
    first: u32,
    address: u64,
}

impl Block {
    fn u32(&self, at: usize) -> Result<u32, u16> {
        let bytes = self.bytes.get(at..at + 4).ok_or(ioc_status::INVALID_SGL)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// The element at `at`, and where the next one would be.
    fn element(&self, at: usize) -> Result<(Element, usize), u16> {
        let first = self.u32(at)?;
        let low = u64::from(self.u32(at + 4)?);
        let wide = (first >> 24) as u8 & sge_flags::ADDRESSING_64_BIT != 0;
        let high = if wide { u64::from(self.u32(at + 8)?) } else { 0 };
        let address = high << 32 | low;
        Ok((Element { first, address }, at + if wide { 12 } else { 8 }))
    }
}

impl Element {
    fn flags(&self) -> u8 {
        (self.first >> 24) as u8
    }

    /// The block that a chain element leads to.
    fn follow<M: DmaMemory + ?Sized>(&self, memory: &M) -> Result<Block, u16> {
        let (length, next) = (self.first as u16, (self.first >> 16) as u8);
        let kind = sge_flags::ELEMENT_MASK | sge_flags::LOCAL_ADDRESS;
        if self.flags() & kind != sge_flags::CHAIN_ELEMENT {
            return Err(ioc_status::INVALID_SGL);
        }
        let mut bytes = vec![0; length.into()];
        memory
            .read(self.address, &mut bytes)
            .map_err(|_| ioc_status::INVALID_SGL)?;
        Ok(Block {
            bytes,
            at: 0,
            chain: (next != 0).then_some(usize::from(next) * 4),
        })
    }
}

/// Finds the segments of the first `length` bytes of the list that begins at byte `at` of the frame. `chain_offset` is the
/// message's ChainOffset. A list that is shorter is not followed further: the caller looks at the sum.
///
/// # Errors
/// INVALID_SGL: elements of another kind, one behind the end of its block, too many, a chain that is not in memory.
pub(crate) fn walk<M: DmaMemory + ?Sized>(
    memory: &M,
    frame: &Frame,
    at: usize,
    chain_offset: u8,
    length: u32,
) -> Result<Vec<Segment>, u16> {
    let mut block = Block {
        bytes: frame.bytes().to_vec(),
        at,
        chain: (chain_offset != 0).then_some(usize::from(chain_offset) * 4),
    };
    let (mut segments, mut rest, mut depth) = (Vec::new(), length as usize, 0);
    while rest > 0 {
        let (element, next) = block.element(block.at)?;
        let flags = element.flags();
        if flags & sge_flags::LOCAL_ADDRESS != 0 {
            return Err(ioc_status::INVALID_SGL);
        }
        let mut chain = None;
        if flags & sge_flags::ELEMENT_MASK == sge_flags::SIMPLE_ELEMENT {
            let bytes = ((element.first & LENGTH_MASK) as usize).min(rest);
            if bytes > 0 {
                segments.push(Segment {
                    address: element.address,
                    length: bytes,
                });
            }
            rest -= bytes;
            if flags & sge_flags::END_OF_LIST != 0 {
                break;
            }
            block.at = next;
            if flags & sge_flags::LAST_ELEMENT != 0 {
                let Some(place) = block.chain else { break };
                chain = Some(block.element(place)?.0);
            }
        } else {
            chain = Some(element);
        }
        if let Some(chain) = chain {
            depth += 1;
            block = chain.follow(memory)?;
        }
        if segments.len() > MAX_SEGMENTS || depth > MAX_CHAIN_DEPTH {
            return Err(ioc_status::INVALID_SGL);
        }
    }
    Ok(segments)
}
