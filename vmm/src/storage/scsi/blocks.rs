//! Commands that read, write, compare and flush blocks (SBC-3, section 5).
//!
//! Block ranges in, backend calls out.

use super::cdb::Cdb;
use super::exchange::{Exchange, Outcome};
use super::sense::Sense;
use super::spec::{asc, opcode, sense_key};
use super::unit::LogicalUnit;
use crate::storage::backend::BackendError;
use crate::storage::segments;

/// Blocks of one command that transfers or verifies them: bounds the time for which nothing else happens.
pub(super) const MAX_TRANSFER_BLOCKS: u32 = 0xffff;
/// Blocks of one WRITE SAME.
pub(super) const MAX_WRITE_SAME_BLOCKS: u32 = 0xffff;
/// Bytes that are read at once to be compared.
const PIECE: u64 = 1 << 20;

/// Blocks that a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    pub(super) first: u64,
    pub(super) count: u64,
}

/// The blocks that the command descriptor block names; their number is at the byte that is told.
pub(super) fn named_blocks(cdb: Cdb<'_>) -> (Blocks, u16) {
    let (first, count, at) = match cdb.len() {
        6 => {
            let first = cdb.u32(0) & 0x1f_ffff;
            let count = if cdb.byte(4) == 0 { 256 } else { cdb.byte(4).into() };
            (first.into(), count, 4)
        }
        10 => (cdb.u32(2).into(), cdb.u16(7).into(), 7),
        12 => (cdb.u32(2).into(), cdb.u32(6).into(), 6),
        _ => (cdb.u64(2), cdb.u32(10).into(), 10),
    };
    (Blocks { first, count }, at)
}

/// The first block that a command is about, and how many, by its block alone; `None` for a command that names none.
#[must_use]
pub fn blocks_of(cdb: &[u8; 16]) -> Option<(u64, u32)> {
    let named = match cdb[0] {
        opcode::READ_6 | opcode::WRITE_6 => 6,
        opcode::READ_10
        | opcode::WRITE_10
        | opcode::VERIFY_10
        | opcode::WRITE_SAME_10
        | opcode::SYNCHRONIZE_CACHE_10 => 10,
        opcode::READ_12 | opcode::WRITE_12 | opcode::VERIFY_12 => 12,
        opcode::READ_16
        | opcode::WRITE_16
        | opcode::VERIFY_16
        | opcode::WRITE_SAME_16
        | opcode::SYNCHRONIZE_CACHE_16 => 16,
        _ => return None,
    };
    let (Blocks { first, count }, _) = named_blocks(Cdb::new(cdb.get(..named)?));
    Some((first, u32::try_from(count).unwrap_or(u32::MAX)))
}

impl LogicalUnit {
    /// Logical blocks.
    pub(super) fn blocks(&self) -> u64 {
        self.backend.len() / u64::from(self.config.block_size)
    }

    /// First byte and number of bytes of blocks that are there.
    pub(super) fn bytes_of(&self, blocks: Blocks) -> Result<(u64, u64), Sense> {
        match blocks.first.checked_add(blocks.count) {
            Some(end) if end <= self.blocks() => {
                let size = u64::from(self.config.block_size);
                Ok((blocks.first * size, blocks.count * size))
            }
            _ => Err(Sense::illegal(asc::LBA_OUT_OF_RANGE).at_block(blocks.first)),
        }
    }

    /// The blocks that the command names, as bytes: no more than one command may have.
    fn transfer(&self, cdb: Cdb<'_>) -> Result<(Blocks, u64, u64), Sense> {
        let (blocks, at) = named_blocks(cdb);
        if blocks.count > MAX_TRANSFER_BLOCKS.into() {
            return Err(Sense::cdb_byte(at));
        }
        let (offset, length) = self.bytes_of(blocks)?;
        Ok((blocks, offset, length))
    }

    /// READ(6), READ(10), READ(12), READ(16).
    pub(super) fn read(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        let (blocks, offset, length) = self.transfer(cdb)?;
        // With FUA data come from the medium: what is cached goes there first.
        if forces_unit_access(cdb) {
            self.flush_cache()?;
        }
        let target = exchange.target(length);
        let read = self.backend.read_into(offset, &target);
        self.settle_read(read, blocks)?;
        let bytes = segments::length(&target);
        exchange.set_transferred(bytes);
        self.state.counters.bytes_read += bytes;
        Ok(())
    }

    /// WRITE(6), WRITE(10), WRITE(12), WRITE(16).
    pub(super) fn write(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        let (blocks, offset, length) = self.transfer(cdb)?;
        self.check_writable()?;
        let source = exchange.source(length)?;
        let written = self.backend.write_from(offset, &source);
        self.settle_write(written, Some(blocks))?;
        exchange.set_transferred(length);
        self.state.counters.bytes_written += length;
        self.write_through(forces_unit_access(cdb))
    }

    /// VERIFY(10), VERIFY(12), VERIFY(16): the blocks can be read, or (BYTCHK) are what the initiator has: all of them
    /// (01b), or each of them the one block that it has (11b).
    pub(super) fn verify(&mut self, cdb: Cdb<'_>, exchange: &mut Exchange<'_>) -> Outcome {
        let (blocks, offset, length) = self.transfer(cdb)?;
        let block = u64::from(self.config.block_size);
        let wanted = match cdb.byte(1) >> 1 & 3 {
            0 => None,
            1 => Some(exchange.source(length)?),
            3 if length == 0 => None,
            3 => Some(exchange.source(block)?),
            _ => return Err(Sense::cdb_bit(1, 2).into()),
        };
        let mut buffer = Vec::new();
        let mut done = 0;
        while done < length {
            let count = PIECE.min(length - done);
            buffer.resize(count as usize, 0);
            let read = self.backend.read(offset + done, &mut buffer);
            self.settle_read(read, blocks)?;
            if let Some(wanted) = &wanted {
                let one_block = segments::length(wanted) < length;
                let expected = if one_block {
                    segments::gathered(wanted).repeat((count / block) as usize)
                } else {
                    segments::gathered(&segments::part(wanted, done, count))
                };
                if let Some(at) = expected.iter().zip(&buffer).position(|(left, right)| left != right) {
                    let place = blocks.first + (done + at as u64) / block;
                    let sense = Sense::new(sense_key::MISCOMPARE, asc::MISCOMPARE_DURING_VERIFY);
                    return Err(sense.at_block(place).into());
                }
            }
            done += count;
        }
        if let Some(wanted) = wanted {
            exchange.set_transferred(segments::length(&wanted));
        }
        Ok(())
    }

    /// SYNCHRONIZE CACHE(10), SYNCHRONIZE CACHE(16): the whole cache, whatever part was asked for. With IMMED, too, it is
    /// done when the command is.
    pub(super) fn synchronize_cache(&mut self, cdb: Cdb<'_>, _exchange: &mut Exchange<'_>) -> Outcome {
        let (blocks, _) = named_blocks(cdb);
        self.bytes_of(blocks)?;
        self.flush_cache()
    }

    pub(super) fn flush_cache(&mut self) -> Outcome {
        let flushed = self.backend.flush();
        self.settle_write(flushed, None)
    }

    /// After a write: to the medium if the command forces it, or if the write cache is off.
    pub(super) fn write_through(&mut self, forced: bool) -> Outcome {
        if forced || !self.state.modes.write_cache {
            self.flush_cache()?;
        }
        Ok(())
    }

    pub(super) fn check_writable(&self) -> Result<(), Sense> {
        if self.backend.is_read_only() {
            return Err(Sense::new(sense_key::DATA_PROTECT, asc::WRITE_PROTECTED));
        }
        Ok(())
    }

    fn settle_read(&mut self, result: Result<(), BackendError>, blocks: Blocks) -> Outcome {
        result.map_err(|error| {
            tracing::warn!(%error, "SCSI read failed");
            self.state.counters.read_errors += 1;
            Sense::new(sense_key::MEDIUM_ERROR, asc::UNRECOVERED_READ_ERROR)
                .at_block(blocks.first)
                .into()
        })
    }

    /// Turns a backend's answer to a change into an outcome, and counts and logs what failed.
    pub(super) fn settle_write(&mut self, result: Result<(), BackendError>, blocks: Option<Blocks>) -> Outcome {
        result.map_err(|error| {
            tracing::warn!(%error, "SCSI write failed");
            let sense = match error {
                BackendError::ReadOnly => Sense::new(sense_key::DATA_PROTECT, asc::WRITE_PROTECTED),
                BackendError::NoSpace => Sense::new(sense_key::DATA_PROTECT, asc::SPACE_ALLOCATION_FAILED),
                BackendError::OutOfRange { .. } | BackendError::Io(_) => {
                    self.state.counters.write_errors += 1;
                    Sense::new(sense_key::MEDIUM_ERROR, asc::WRITE_ERROR)
                }
            };
            blocks.map_or(sense, |blocks| sense.at_block(blocks.first)).into()
        })
    }
}

/// FUA, which the commands of six bytes do not have.
fn forces_unit_access(cdb: Cdb<'_>) -> bool {
    cdb.len() > 6 && cdb.bit(1, 3)
}
