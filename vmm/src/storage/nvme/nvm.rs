//! NVM command set: the I/O commands (NVMe 1.4, section 6).
//!
//! Block ranges in, backend calls out. It knows nothing of queues. Commands whose range MDTS does not bound are in
//! [`ranges`](super::ranges).

use super::admin::check_flags;
use super::controller::{Controller, Namespace};
use super::identify::MAX_TRANSFER;
use super::media::ByteRange;
use super::spec::command::{FORCE_UNIT_ACCESS, NSID_ALL, SubmissionEntry, nvm};
use super::spec::status::{Failure, Status};
use crate::storage::backend::BackendError;
use crate::storage::dma::DmaMemory;

impl Namespace {
    pub(super) fn byte_range(&self, starting_lba: u64, blocks: u64) -> Result<ByteRange, Failure> {
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
pub(super) fn command_range(namespace: &Namespace, command: &SubmissionEntry) -> Result<ByteRange, Failure> {
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

pub(super) fn write_status(error: &BackendError) -> Status {
    match error {
        BackendError::OutOfRange { .. } => Status::LBA_OUT_OF_RANGE,
        BackendError::NoSpace => Status::CAPACITY_EXCEEDED,
        BackendError::ReadOnly => Status::NAMESPACE_WRITE_PROTECTED,
        BackendError::Io(_) => Status::WRITE_FAULT,
    }
}

impl Controller {
    /// Executes a command of the I/O queue with that identifier. `Ok(None)`: it is in hand now and completes later.
    pub(super) fn execute_nvm(&mut self, queue: u16, command: &SubmissionEntry) -> Result<Option<u32>, Failure> {
        check_flags(command)?;
        match command.opcode {
            nvm::FLUSH => self.flush(command),
            nvm::WRITE => self.write(command),
            nvm::READ => self.read(command),
            nvm::WRITE_UNCORRECTABLE => self.write_uncorrectable(command),
            nvm::COMPARE => self.compare(command),
            nvm::WRITE_ZEROES => return self.write_zeroes(queue, command),
            nvm::DATASET_MANAGEMENT => return self.dataset_management(queue, command),
            nvm::VERIFY => return self.verify(queue, command),
            _ => Err(Failure::at(Status::INVALID_OPCODE, 0, 0)),
        }
        .map(Some)
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

    pub(super) fn flush_namespace(&mut self, index: usize) -> Result<(), Status> {
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
        self.check_readable(index, range)?;
        self.find_segments(command, range.length as usize)?;
        let target = self.memory.slices(&self.segments);
        let target = target.map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        let result = self.namespaces[index].backend.read_into(range.offset, &target);
        drop(target);
        self.settle(result, read_status)?;
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

    /// With Force Unit Access the data come from the medium: what is cached goes there first.
    pub(super) fn prepare_reading(&mut self, index: usize, command: &SubmissionEntry) -> Result<(), Status> {
        if command.dword12.get() & FORCE_UNIT_ACCESS != 0 {
            self.flush_namespace(index)?;
        }
        Ok(())
    }

    /// Reads the range, whose length `data` takes.
    pub(super) fn load(&mut self, index: usize, range: ByteRange, data: &mut Vec<u8>) -> Result<(), Status> {
        self.check_readable(index, range)?;
        data.resize(range.length as usize, 0);
        let result = self.namespaces[index].backend.read(range.offset, data);
        self.settle(result, read_status)
    }

    fn check_readable(&self, index: usize, range: ByteRange) -> Result<(), Status> {
        if self.state.media[index].is_unreadable(range) {
            return Err(Status::UNRECOVERED_READ_ERROR);
        }
        Ok(())
    }

    /// Write Uncorrectable (section 6.16): reading the blocks fails until they are written.
    fn write_uncorrectable(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let (index, namespace) = self.writable_namespace(command)?;
        let range = command_range(namespace, command)?;
        let marked = self.state.media[index].mark(range);
        marked.map_err(|_| Status::INTERNAL_ERROR)?;
        Ok(0)
    }

    /// Write (section 6.15).
    fn write(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let (index, namespace) = self.writable_namespace(command)?;
        let range = transfer_range(namespace, command)?;
        self.find_segments(command, range.length as usize)?;
        let source = self.memory.slices(&self.segments);
        let source = source.map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        if !self.state.media[index].can_clear(range) {
            return Err(Status::INTERNAL_ERROR.into());
        }
        let result = self.namespaces[index].backend.write_from(range.offset, &source);
        drop(source);
        self.settle(result, write_status)?;
        // Blocks that were unreadable are not any more.
        self.state.media[index].clear(range);
        self.make_durable(index, command)?;
        self.state.counters.writes += 1;
        self.state.counters.sectors_written += range.length / 512;
        Ok(0)
    }

    /// The namespace of a command that changes it.
    pub(super) fn writable_namespace(&self, command: &SubmissionEntry) -> Result<(usize, &Namespace), Failure> {
        let (index, namespace) = self.namespace(command.namespace_id.get())?;
        if self.is_read_only(index) {
            return Err(Failure::at(Status::NAMESPACE_WRITE_PROTECTED, 1, 0));
        }
        Ok((index, namespace))
    }

    /// After a write: to the medium if the command forces it or the write cache is off.
    fn make_durable(&mut self, index: usize, command: &SubmissionEntry) -> Result<(), Status> {
        if self.wants_durable(command) {
            self.flush_namespace(index)?;
        }
        Ok(())
    }

    pub(super) fn wants_durable(&self, command: &SubmissionEntry) -> bool {
        command.dword12.get() & FORCE_UNIT_ACCESS != 0 || !self.state.features.write_cache
    }

    /// Turns a backend's answer into a status, and counts and logs what failed.
    pub(super) fn settle(
        &mut self,
        result: Result<(), BackendError>,
        status: fn(&BackendError) -> Status,
    ) -> Result<(), Status> {
        result.map_err(|error| {
            if matches!(error, BackendError::Io(_)) {
                self.state.counters.media_errors += 1;
            }
            tracing::warn!(%error, "NVMe command failed");
            status(&error)
        })
    }
}
