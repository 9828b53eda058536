//! NVM command set: the I/O commands (NVMe 1.4, section 6).
//!
//! Block ranges in, backend calls out. It knows nothing of queues.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::admin::check_flags;
use super::command::{SubmissionEntry, nvm};
use super::controller::{Controller, Namespace};
use super::identify::MAX_TRANSFER;
use super::media::ByteRange;
use super::status::{Failure, Status};
use crate::storage::backend::{Backend, BackendError};

const NSID_ALL: u32 = 0xffff_ffff;
/// CDW12 of the commands with a range.
const FORCE_UNIT_ACCESS: u32 = 1 << 30;
/// CDW12 of Write Zeroes.
const DEALLOCATE: u32 = 1 << 25;
/// CDW11 of Dataset Management: AD.
const ATTRIBUTE_DEALLOCATE: u32 = 1 << 2;

/// Dataset Management Range (Figure 362).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DatasetRange {
    /// Context Attributes.
    pub attributes: U32,
    /// Length in logical blocks.
    pub length: U32,
    /// Starting LBA.
    pub starting_lba: U64,
}

const _: () = assert!(size_of::<DatasetRange>() == 16);

impl Namespace {
    fn byte_range(&self, starting_lba: u64, blocks: u64) -> Result<ByteRange, Failure> {
        match starting_lba.checked_add(blocks) {
            Some(end) if end <= self.blocks() => {
                let shift = self.block_shift();
                Ok(ByteRange {
                    offset: starting_lba << shift,
                    length: blocks << shift,
                })
            }
            _ => Err(Failure::at(Status::LBA_OUT_OF_RANGE, 10, 0)),
        }
    }
}

/// The range of a command of [`nvm::WITH_LBA`]: SLBA, and NLB, which is 0's based.
fn command_range(namespace: &Namespace, command: &SubmissionEntry) -> Result<ByteRange, Failure> {
    namespace.byte_range(command.starting_lba(), u64::from(command.dword12.get() & 0xffff) + 1)
}

/// As [`command_range`], for commands that transfer the data: they are bounded by MDTS.
fn transfer_range(namespace: &Namespace, command: &SubmissionEntry) -> Result<ByteRange, Failure> {
    let range = command_range(namespace, command)?;
    if range.length > MAX_TRANSFER as u64 {
        return Err(Failure::at(Status::INVALID_FIELD, 12, 0));
    }
    Ok(range)
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

impl Controller {
    /// Executes a command of an I/O queue.
    pub(super) fn execute_nvm(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        check_flags(command)?;
        match command.opcode {
            nvm::FLUSH => self.flush(command),
            nvm::WRITE => self.write(command),
            nvm::READ => self.read(command),
            nvm::WRITE_UNCORRECTABLE => self.write_uncorrectable(command),
            nvm::COMPARE => self.compare(command),
            nvm::WRITE_ZEROES => self.write_zeroes(command),
            nvm::DATASET_MANAGEMENT => self.dataset_management(command),
            nvm::VERIFY => self.verify(command),
            _ => Err(Failure::at(Status::INVALID_OPCODE, 0, 0)),
        }
    }

    /// Flush (section 6.8); FFFFFFFFh flushes all namespaces (VWC bits 2:1 = 11b).
    fn flush(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let nsid = command.namespace_id.get();
        if nsid == NSID_ALL {
            self.flush_all()?;
        } else {
            let (index, _) = self.namespace(nsid)?;
            self.flush_namespace(index)?;
        }
        Ok(0)
    }

    fn flush_namespace(&mut self, index: usize) -> Result<(), Status> {
        let result = self.namespaces[index].backend.flush();
        self.settle(result, write_status)
    }

    /// Makes everything durable in every namespace.
    pub(super) fn flush_all(&mut self) -> Result<(), Status> {
        (0..self.namespaces.len()).try_for_each(|index| self.flush_namespace(index))
    }

    /// Read (section 6.9).
    fn read(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let (index, namespace) = self.namespace(command.namespace_id.get())?;
        let range = transfer_range(namespace, command)?;
        self.prepare_reading(index, command)?;
        let mut data = std::mem::take(&mut self.buffer);
        let result = self.load(index, range, &mut data).map_err(Failure::from);
        let result = result.and_then(|()| self.send(command, &data));
        self.buffer = data;
        result?;
        self.state.counters.reads += 1;
        self.state.counters.sectors_read += range.length / 512;
        Ok(0)
    }

    /// Compare (section 6.6): reads and tells whether the host's data are the same.
    fn compare(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let (index, namespace) = self.namespace(command.namespace_id.get())?;
        let range = transfer_range(namespace, command)?;
        self.prepare_reading(index, command)?;
        let wanted = self.receive(command, range.length as usize)?;
        let mut data = Vec::new();
        let result = self.load(index, range, &mut data);
        let equal = wanted == data;
        self.buffer = wanted;
        result?;
        self.state.counters.reads += 1;
        self.state.counters.sectors_read += range.length / 512;
        if equal {
            Ok(0)
        } else {
            Err(Status::COMPARE_FAILURE.into())
        }
    }

    /// Verify (section 6.14): reads without handing the data out, in pieces, because MDTS does not bound it.
    fn verify(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let (index, namespace) = self.namespace(command.namespace_id.get())?;
        let range = command_range(namespace, command)?;
        self.prepare_reading(index, command)?;
        let mut data = std::mem::take(&mut self.buffer);
        let mut pieces = (0..range.length).step_by(MAX_TRANSFER).map(|done| ByteRange {
            offset: range.offset + done,
            length: (range.length - done).min(MAX_TRANSFER as u64),
        });
        let result = pieces.try_for_each(|piece| self.load(index, piece, &mut data));
        self.buffer = data;
        result?;
        Ok(0)
    }

    /// With Force Unit Access the data come from the medium: what is cached goes there first.
    fn prepare_reading(&mut self, index: usize, command: &SubmissionEntry) -> Result<(), Status> {
        if command.dword12.get() & FORCE_UNIT_ACCESS != 0 {
            self.flush_namespace(index)?;
        }
        Ok(())
    }

    /// Reads the range, whose length `data` takes.
    fn load(&mut self, index: usize, range: ByteRange, data: &mut Vec<u8>) -> Result<(), Status> {
        if self.state.media[index].is_unreadable(range) {
            return Err(Status::UNRECOVERED_READ_ERROR);
        }
        data.resize(range.length as usize, 0);
        let result = self.namespaces[index].backend.read(range.offset, data);
        self.settle(result, read_status)
    }

    /// Write Uncorrectable (section 6.16): reading the blocks fails until they are written.
    fn write_uncorrectable(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let (index, namespace) = self.writable_namespace(command)?;
        let range = command_range(namespace, command)?;
        let marked = self.state.media[index].mark(range);
        marked.map_err(|_| Status::INTERNAL_ERROR)?;
        Ok(0)
    }

    /// Changes a range with what the backend is asked for; blocks that were unreadable are not any more.
    fn store(
        &mut self,
        index: usize,
        range: ByteRange,
        change: impl FnOnce(&mut dyn Backend) -> Result<(), BackendError>,
    ) -> Result<(), Status> {
        if !self.state.media[index].can_clear(range) {
            return Err(Status::INTERNAL_ERROR);
        }
        let result = change(&mut *self.namespaces[index].backend);
        self.settle(result, write_status)?;
        self.state.media[index].clear(range);
        Ok(())
    }

    /// Write (section 6.15).
    fn write(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let (index, namespace) = self.writable_namespace(command)?;
        let range = transfer_range(namespace, command)?;
        let data = self.receive(command, range.length as usize)?;
        let result = self.store(index, range, |backend| backend.write(range.offset, &data));
        self.buffer = data;
        result?;
        self.make_durable(index, command)?;
        self.state.counters.writes += 1;
        self.state.counters.sectors_written += range.length / 512;
        Ok(0)
    }

    /// Write Zeroes (section 6.17).
    fn write_zeroes(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let (index, namespace) = self.writable_namespace(command)?;
        let range = command_range(namespace, command)?;
        let deallocate = command.dword12.get() & DEALLOCATE != 0;
        self.store(index, range, |backend| {
            backend.write_zeroes(range.offset, range.length, deallocate)
        })?;
        self.make_durable(index, command)?;
        Ok(0)
    }

    /// Dataset Management (section 6.7). All ranges are checked before the first is deallocated; attributes other than
    /// Deallocate are hints that are not used.
    fn dataset_management(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let count = (command.dword10.get() as usize & 0xff) + 1;
        self.namespace(command.namespace_id.get())?;
        let deallocate = command.dword11.get() & ATTRIBUTE_DEALLOCATE != 0;
        if deallocate {
            self.writable_namespace(command)?;
        }
        let data = self.receive(command, count * size_of::<DatasetRange>())?;
        let (index, namespace) = self.namespace(command.namespace_id.get())?;
        let ranges = byte_ranges(namespace, &data);
        self.buffer = data;
        let ranges = ranges?;
        if deallocate {
            for range in disjoint(ranges) {
                self.store(index, range, |backend| backend.discard(range.offset, range.length))?;
            }
        }
        Ok(0)
    }

    /// The namespace of a command that changes it.
    fn writable_namespace(&self, command: &SubmissionEntry) -> Result<(usize, &Namespace), Failure> {
        let (index, namespace) = self.namespace(command.namespace_id.get())?;
        if self.is_read_only(index) {
            return Err(Failure::at(Status::NAMESPACE_WRITE_PROTECTED, 1, 0));
        }
        Ok((index, namespace))
    }

    /// After a write: to the medium if the command forces it or the write cache is off.
    fn make_durable(&mut self, index: usize, command: &SubmissionEntry) -> Result<(), Status> {
        if command.dword12.get() & FORCE_UNIT_ACCESS != 0 || !self.state.features.write_cache {
            self.flush_namespace(index)?;
        }
        Ok(())
    }

    /// Turns a backend's answer into a status, and counts and logs what failed.
    fn settle(&mut self, result: Result<(), BackendError>, status: fn(&BackendError) -> Status) -> Result<(), Status> {
        result.map_err(|error| {
            if matches!(error, BackendError::Io(_)) {
                self.state.counters.media_errors += 1;
            }
            tracing::warn!(%error, "NVMe command failed");
            status(&error)
        })
    }
}

fn byte_ranges(namespace: &Namespace, data: &[u8]) -> Result<Vec<ByteRange>, Failure> {
    let ranges = data.chunks_exact(size_of::<DatasetRange>());
    let ranges = ranges.filter_map(|bytes| DatasetRange::read_from_bytes(bytes).ok());
    ranges
        .map(|range| namespace.byte_range(range.starting_lba.get(), range.length.get().into()))
        .collect()
}

/// The same bytes in ranges that do not overlap: a hostile guest may name the whole disk 256 times.
fn disjoint(mut ranges: Vec<ByteRange>) -> Vec<ByteRange> {
    ranges.retain(|range| range.length > 0);
    ranges.sort_unstable();
    let mut merged: Vec<ByteRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.offset <= last.offset + last.length => {
                last.length = last.length.max(range.offset + range.length - last.offset);
            }
            _ => merged.push(range),
        }
    }
    merged
}
