//! Logical block provisioning (SBC-3, 4.7): UNMAP, WRITE SAME. Blocks that are unmapped read as zeroes.

use super::blocks::{Blocks, MAX_WRITE_SAME_BLOCKS, named_blocks};
use super::cdb::Cdb;
use super::exchange::{Exchange, Outcome};
use super::sense::Sense;
use super::spec::asc;
use super::unit::LogicalUnit;

/// Blocks that one UNMAP may be about, all its descriptors together.
pub(super) const MAX_UNMAP_BLOCKS: u32 = 1 << 17;
/// Descriptors that one UNMAP may have.
pub(super) const MAX_UNMAP_DESCRIPTORS: u32 = 256;
/// Bytes in front of the descriptors, and of each (SBC-3, 5.28).
const HEADER: usize = 8;
const DESCRIPTOR: usize = 16;
/// Bytes that are written at once.
const PIECE: u64 = 1 << 20;

impl LogicalUnit {
    /// UNMAP (SBC-3, 5.28). All descriptors are checked before the first is carried out.
    pub(super) fn unmap(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        let length = cdb.u16(7);
        if length == 0 {
            return Ok(());
        }
        if usize::from(length) < HEADER {
            return Err(Sense::illegal(asc::PARAMETER_LIST_LENGTH_ERROR).into());
        }
        self.check_writable()?;
        let list = exchange.receive(length.into())?;
        let bytes = usize::from(u16::from_be_bytes([list[2], list[3]]));
        let descriptors = &list[HEADER..];
        // A descriptor that is not there as a whole is ignored.
        let descriptors = descriptors[..bytes.min(descriptors.len())].chunks_exact(DESCRIPTOR);
        if descriptors.len() > MAX_UNMAP_DESCRIPTORS as usize {
            return Err(Sense::parameter_byte(2).into());
        }
        let (mut ranges, mut total) = (Vec::new(), 0);
        for (at, descriptor) in (HEADER..).step_by(DESCRIPTOR).zip(descriptors) {
            let fields = Cdb::new(descriptor);
            let blocks = Blocks {
                first: fields.u64(0),
                count: fields.u32(8).into(),
            };
            total += blocks.count;
            if total > MAX_UNMAP_BLOCKS.into() {
                return Err(Sense::parameter_byte(at as u16 + 8).into());
            }
            ranges.push((blocks, self.bytes_of(blocks)?));
        }
        for (blocks, (offset, length)) in ranges {
            if length > 0 {
                let discarded = self.backend.discard(offset, length);
                self.settle_write(discarded, Some(blocks))?;
            }
        }
        self.write_through(false)
    }

    /// WRITE SAME(10), WRITE SAME(16) (SBC-3, 5.42).
    pub(super) fn write_same(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        let (unmap, no_data) = (cdb.bit(1, 3), cdb.bit(1, 0));
        let (blocks, at) = named_blocks(cdb);
        // None would mean all (WSNZ).
        if blocks.count == 0 || blocks.count > MAX_WRITE_SAME_BLOCKS.into() {
            return Err(Sense::cdb_byte(at).into());
        }
        let (offset, length) = self.bytes_of(blocks)?;
        self.check_writable()?;
        let block = if no_data {
            vec![0; self.config.block_size as usize]
        } else {
            exchange.receive(self.config.block_size)?
        };
        let written = if block.iter().all(|byte| *byte == 0) {
            self.backend.write_zeroes(offset, length, unmap)
        } else {
            self.write_repeated(&block, offset, length)
        };
        self.settle_write(written, Some(blocks))?;
        self.state.counters.bytes_written += length;
        self.write_through(false)
    }

    fn write_repeated(
        &mut self,
        block: &[u8],
        offset: u64,
        length: u64,
    ) -> Result<(), crate::storage::backend::BackendError> {
        let piece = block.repeat((PIECE.min(length) / block.len() as u64) as usize);
        let mut done = 0;
        while done < length {
            let count = (piece.len() as u64).min(length - done);
            self.backend.write(offset + done, &piece[..count as usize])?;
            done += count;
        }
        Ok(())
    }
}
