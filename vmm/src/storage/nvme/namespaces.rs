//! Namespaces: their backends, the state of their media, and counts of what was read and written.
//!
//! It alone owns the backends. It knows ranges of bytes and turns a backend's failures into status codes. It must know
//! neither queues nor where a command's data are. Resets change nothing here.

use std::ops::RangeInclusive;

use vm_memory::VolatileSlice;

use super::media::{ByteRange, Media};
use super::spec::command::NSID_ALL;
use super::spec::status::{Failure, Status};
use crate::storage::backend::{Backend, BackendError};

/// What the SMART / Health log counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Units of 512 bytes read by Read, Compare and Verify.
    pub(super) sectors_read: u64,
    /// Units of 512 bytes written.
    pub(super) sectors_written: u64,
    /// Read and Compare commands.
    pub(super) reads: u64,
    /// Write commands.
    pub(super) writes: u64,
    /// Failed reads and writes of the medium.
    pub(super) media_errors: u64,
}

/// A namespace.
pub(super) struct Namespace {
    backend: Box<dyn Backend>,
    block_shift: u32,
    media: Media,
}

impl Namespace {
    /// Logical blocks.
    pub(super) fn blocks(&self) -> u64 {
        self.backend.len() >> self.block_shift
    }

    /// log2 of the logical block size in bytes.
    pub(super) fn block_shift(&self) -> u32 {
        self.block_shift
    }

    /// Whether it cannot be written.
    pub(super) fn is_read_only(&self) -> bool {
        self.backend.is_read_only() || self.media.read_only
    }

    /// The bytes of blocks, if it has them.
    pub(super) fn byte_range(&self, starting_lba: u64, blocks: u64) -> Result<ByteRange, Failure> {
        match starting_lba.checked_add(blocks) {
            Some(end) if end <= self.blocks() => Ok(ByteRange {
                offset: starting_lba << self.block_shift,
                length: blocks << self.block_shift,
            }),
            _ => Err(Failure::at(Status::LBA_OUT_OF_RANGE, 10, 0)),
        }
    }
}

fn read_status(error: &BackendError) -> Status {
    match error {
        BackendError::OutOfRange { .. } => Status::LBA_OUT_OF_RANGE,
        _ => Status::UNRECOVERED_READ_ERROR,
    }
}

fn write_status(error: &BackendError) -> Status {
    match error {
        BackendError::OutOfRange { .. } => Status::LBA_OUT_OF_RANGE,
        BackendError::NoSpace => Status::CAPACITY_EXCEEDED,
        BackendError::ReadOnly => Status::NAMESPACE_WRITE_PROTECTED,
        BackendError::Io(_) => Status::WRITE_FAULT,
    }
}

/// The namespaces of a controller. An index is that of [`get`](Self::get) and so exists.
pub(super) struct Namespaces {
    all: Vec<Namespace>,
    counters: Counters,
}

impl Namespaces {
    /// One for each backend, identifiers from 1.
    pub(super) fn new(backends: Vec<Box<dyn Backend>>, block_size: u32) -> Self {
        let block_shift = block_size.trailing_zeros();
        let all = backends.into_iter().map(|backend| Namespace {
            backend,
            block_shift,
            media: Media::default(),
        });
        Self {
            all: all.collect(),
            counters: Counters::default(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A fault has a command fail as if the medium had.
    pub(super) fn count_media_error(&mut self) {
        self.counters.media_errors += 1;
    }

    /// The namespace of that identifier and its index.
    pub(super) fn get(&self, nsid: u32) -> Result<(usize, &Namespace), Failure> {
        let index = (nsid as usize).checked_sub(1);
        index
            .and_then(|index| Some((index, self.all.get(index)?)))
            .ok_or(Failure::at(Status::INVALID_NAMESPACE_OR_FORMAT, 1, 0))
    }

    /// The identifiers of the namespaces that a command names: one, or with FFFFFFFFh all; none if there is no such one.
    pub(super) fn named(&self, nsid: u32) -> RangeInclusive<u32> {
        let last = self.count() as u32;
        match nsid {
            NSID_ALL => 1..=last,
            0 => RangeInclusive::new(1, 0),
            _ => nsid..=nsid.min(last),
        }
    }

    /// Whether a command that names this is for a namespace that is there.
    pub(super) fn has_named(&self, nsid: u32) -> bool {
        !self.named(nsid).is_empty()
    }

    /// As [`get`](Self::get), for a command that changes it.
    pub(super) fn get_writable(&self, nsid: u32) -> Result<(usize, &Namespace), Failure> {
        let (index, namespace) = self.get(nsid)?;
        if namespace.is_read_only() {
            return Err(Failure::at(Status::NAMESPACE_WRITE_PROTECTED, 1, 0));
        }
        Ok((index, namespace))
    }

    /// Whether faults have made every medium read-only.
    pub(super) fn are_media_read_only(&self) -> bool {
        self.all.iter().all(|namespace| namespace.media.read_only)
    }

    /// The medium of a namespace becomes read-only, for good. `false`: it was, or there is no such namespace.
    pub(super) fn make_read_only(&mut self, nsid: u32) -> bool {
        let Ok((index, _)) = self.get(nsid) else {
            return false;
        };
        !std::mem::replace(&mut self.all[index].media.read_only, true)
    }

    /// Makes everything in a namespace durable.
    pub(super) fn flush(&mut self, index: usize) -> Result<(), Status> {
        let result = self.all[index].backend.flush();
        self.settle(result, write_status)
    }

    /// Makes everything durable in every namespace.
    pub(super) fn flush_all(&mut self) -> Result<(), Status> {
        (0..self.all.len()).try_for_each(|index| self.flush(index))
    }

    /// Makes durable what the Flush command names; FFFFFFFFh is all namespaces (VWC bits 2:1 = 11b).
    pub(super) fn flush_named(&mut self, nsid: u32) -> Result<(), Failure> {
        if nsid == NSID_ALL {
            return Ok(self.flush_all()?);
        }
        let (index, _) = self.get(nsid)?;
        Ok(self.flush(index)?)
    }

    /// Whether no block of the range was made unreadable.
    pub(super) fn check_readable(&self, index: usize, range: ByteRange) -> Result<(), Status> {
        if self.all[index].media.is_unreadable(range) {
            return Err(Status::UNRECOVERED_READ_ERROR);
        }
        Ok(())
    }

    /// Reads a readable range into memory.
    pub(super) fn read(&mut self, index: usize, range: ByteRange, to: &[VolatileSlice<'_>]) -> Result<(), Status> {
        let result = self.all[index].backend.read_into(range.offset, to);
        self.settle(result, read_status)?;
        self.count_read(range, true);
        Ok(())
    }

    /// Reads the range, whose length `data` takes.
    pub(super) fn load(&mut self, index: usize, range: ByteRange, data: &mut Vec<u8>) -> Result<(), Status> {
        self.check_readable(index, range)?;
        data.resize(range.length as usize, 0);
        let result = self.all[index].backend.read(range.offset, data);
        self.settle(result, read_status)
    }

    /// Counts what was [loaded](Self::load), with `command` as a command, too (section 5.14.1.2: what Verify reads is among
    /// the Data Units Read, the command none of the Host Read Commands).
    pub(super) fn count_read(&mut self, range: ByteRange, command: bool) {
        self.counters.reads += u64::from(command);
        self.counters.sectors_read += range.length / 512;
    }

    /// Stores what is in memory in the range, whose blocks can be read then.
    pub(super) fn write(&mut self, index: usize, range: ByteRange, from: &[VolatileSlice<'_>]) -> Result<(), Status> {
        self.check_clearable(index, range)?;
        let result = self.all[index].backend.write_from(range.offset, from);
        self.settle(result, write_status)?;
        self.clear(index, range);
        Ok(())
    }

    /// Counts a Write command that has succeeded.
    pub(super) fn count_write(&mut self, range: ByteRange) {
        self.counters.writes += 1;
        self.counters.sectors_written += range.length / 512;
    }

    /// Makes the range read as zeroes.
    pub(super) fn write_zeroes(&mut self, index: usize, range: ByteRange, deallocate: bool) -> Result<(), Status> {
        let backend = &mut self.all[index].backend;
        let result = backend.write_zeroes(range.offset, range.length, deallocate);
        self.settle(result, write_status)
    }

    /// Gives the room of the range back.
    pub(super) fn discard(&mut self, index: usize, range: ByteRange) -> Result<(), Status> {
        let result = self.all[index].backend.discard(range.offset, range.length);
        self.settle(result, write_status)
    }

    /// Makes the blocks of the range unreadable.
    pub(super) fn mark_unreadable(&mut self, index: usize, range: ByteRange) -> Result<(), Status> {
        let marked = self.all[index].media.mark(range);
        marked.map_err(|_| Status::INTERNAL_ERROR)
    }

    /// Whether [`clear`](Self::clear) can be done.
    pub(super) fn check_clearable(&self, index: usize, range: ByteRange) -> Result<(), Status> {
        if self.all[index].media.can_clear(range) {
            Ok(())
        } else {
            Err(Status::INTERNAL_ERROR)
        }
    }

    /// Blocks that were unreadable are not any more.
    pub(super) fn clear(&mut self, index: usize, range: ByteRange) {
        self.all[index].media.clear(range);
    }

    /// Turns a backend's answer into a status, and counts and logs what failed.
    fn settle(&mut self, result: Result<(), BackendError>, status: fn(&BackendError) -> Status) -> Result<(), Status> {
        result.map_err(|error| {
            if matches!(error, BackendError::Io(_)) {
                self.count_media_error();
            }
            tracing::warn!(%error, "NVMe command failed");
            status(&error)
        })
    }
}
