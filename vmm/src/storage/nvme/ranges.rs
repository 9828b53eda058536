//! Commands whose ranges MDTS does not bound: Write Zeroes, Dataset Management, Verify (NVMe 1.4, sections 6.7, 6.14 and
//! 6.17).
//!
//! They may be about the whole disk, so they are done a piece at a time, one a call of
//! [`process`](Controller::process): a pause, a reset or the end of a run waits for a piece. While one is in hand,
//! no other command is fetched. It knows neither threads nor what a backend is.

use std::collections::VecDeque;

use zerocopy::FromBytes;

use super::controller::{Controller, Namespace};
use super::identify::MAX_TRANSFER;
use super::media::ByteRange;
use super::nvm::{command_range, write_status};
use super::spec::command::{ATTRIBUTE_DEALLOCATE, DEALLOCATE, DatasetRange, SubmissionEntry};
use super::spec::status::{Failure, Status};

/// Bytes that a backend is asked to zero or to give back at once. It may have to write them.
pub const PIECE: u64 = 16 << 20;

/// What is done with the ranges of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Write Zeroes.
    Zero {
        /// The room may be given back.
        deallocate: bool,
        /// What was written becomes durable before the command completes.
        durable: bool,
    },
    /// Dataset Management with Deallocate.
    Deallocate,
    /// Verify.
    Verify,
}

/// The command that is done a piece at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InHand {
    /// Its submission queue.
    pub queue: u16,
    /// The command.
    pub command: SubmissionEntry,
    /// Index of its namespace.
    pub namespace: usize,
    /// What is done.
    pub work: Work,
    /// Ranges that are not finished, in order; they do not overlap.
    pub ranges: VecDeque<ByteRange>,
    /// Bytes of the first of them that are done.
    pub done: u64,
}

impl Controller {
    /// Write Zeroes (section 6.17).
    pub(super) fn write_zeroes(&mut self, queue: u16, command: &SubmissionEntry) -> Result<Option<u32>, Failure> {
        let (namespace, data) = self.writable_namespace(command)?;
        let range = command_range(data, command)?;
        let work = Work::Zero {
            deallocate: command.dword12.get() & DEALLOCATE != 0,
            durable: self.wants_durable(command),
        };
        self.take_in_hand(queue, command, namespace, work, [range].into());
        Ok(None)
    }

    /// Verify (section 6.14): reads without handing the data out.
    pub(super) fn verify(&mut self, queue: u16, command: &SubmissionEntry) -> Result<Option<u32>, Failure> {
        let (namespace, data) = self.namespace(command.namespace_id.get())?;
        let range = command_range(data, command)?;
        self.prepare_reading(namespace, command)?;
        self.take_in_hand(queue, command, namespace, Work::Verify, [range].into());
        Ok(None)
    }

    /// Dataset Management (section 6.7). All ranges are checked before the first is deallocated; attributes other than
    /// Deallocate are hints that are not used.
    pub(super) fn dataset_management(&mut self, queue: u16, command: &SubmissionEntry) -> Result<Option<u32>, Failure> {
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
        if !deallocate {
            return Ok(Some(0));
        }
        self.take_in_hand(queue, command, index, Work::Deallocate, disjoint(ranges));
        Ok(None)
    }

    fn take_in_hand(
        &mut self,
        queue: u16,
        command: &SubmissionEntry,
        namespace: usize,
        work: Work,
        ranges: VecDeque<ByteRange>,
    ) {
        self.state.in_hand = Some(InHand {
            queue,
            command: *command,
            namespace,
            work,
            ranges,
            done: 0,
        });
    }

    /// Does one piece of the command in hand, and completes it after the last one. `false`: there is none.
    pub(super) fn advance(&mut self) -> bool {
        let Some(mut command) = self.state.in_hand.take() else {
            return false;
        };
        let result = match self.do_piece(&mut command) {
            Ok(()) if !command.ranges.is_empty() => {
                self.state.in_hand = Some(command);
                return true;
            }
            Ok(()) => self.finish_work(&command),
            Err(status) => Err(status),
        };
        self.complete(
            command.queue,
            &command.command,
            result.map(|()| 0).map_err(Failure::from),
        );
        true
    }

    fn do_piece(&mut self, command: &mut InHand) -> Result<(), Status> {
        let Some(&range) = command.ranges.front() else {
            return Ok(());
        };
        let limit = match command.work {
            Work::Verify => MAX_TRANSFER as u64,
            Work::Zero { .. } | Work::Deallocate => PIECE,
        };
        let piece = ByteRange {
            offset: range.offset + command.done,
            length: (range.length - command.done).min(limit),
        };
        let index = command.namespace;
        if command.work == Work::Verify {
            let mut data = std::mem::take(&mut self.buffer);
            let result = self.load(index, piece, &mut data);
            self.buffer = data;
            result?;
            // Section 5.14.1.2: what Verify reads is among the Data Units Read, the command none of the Host Read Commands.
            self.state.counters.sectors_read += piece.length / 512;
        } else {
            // Blocks that were unreadable are not any more, but only when the whole range is done.
            if !self.state.media[index].can_clear(range) {
                return Err(Status::INTERNAL_ERROR);
            }
            let backend = &mut self.namespaces[index].backend;
            let result = match command.work {
                Work::Zero { deallocate, .. } => backend.write_zeroes(piece.offset, piece.length, deallocate),
                _ => backend.discard(piece.offset, piece.length),
            };
            self.settle(result, write_status)?;
        }
        command.done += piece.length;
        if command.done == range.length {
            command.ranges.pop_front();
            command.done = 0;
            if command.work != Work::Verify {
                self.state.media[index].clear(range);
            }
        }
        Ok(())
    }

    fn finish_work(&mut self, command: &InHand) -> Result<(), Status> {
        match command.work {
            Work::Zero { durable: true, .. } => self.flush_namespace(command.namespace),
            _ => Ok(()),
        }
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
fn disjoint(mut ranges: Vec<ByteRange>) -> VecDeque<ByteRange> {
    ranges.retain(|range| range.length > 0);
    ranges.sort_unstable();
    let mut merged: VecDeque<ByteRange> = VecDeque::with_capacity(ranges.len());
    for range in ranges {
        match merged.back_mut() {
            Some(last) if range.offset <= last.offset + last.length => {
                last.length = last.length.max(range.offset + range.length - last.offset);
            }
            _ => merged.push_back(range),
        }
    }
    merged
}
