//! Commands whose ranges MDTS does not bound: Write Zeroes, Dataset Management, Verify (NVMe 1.4, sections 6.7, 6.14 and
//! 6.17).
//!
//! They may cover the whole disk, so each call of [`process`](crate::storage::worker::StorageController::process) does
//! one piece: a pause, a reset or the end of a run waits for that piece only. Until the command is done, no other is
//! fetched. It must know neither threads nor what a backend is.

use std::collections::VecDeque;
use std::mem::size_of;

use zerocopy::FromBytes;

use super::completion::Answer;
use super::identify::MAX_TRANSFER;
use super::media::ByteRange;
use super::namespaces::Namespace;
use super::nvm::{IoContext, command_range};
use super::queues::CommandRequest;
use super::spec::command::{ATTRIBUTE_DEALLOCATE, DEALLOCATE, DatasetRange, SubmissionEntry};
use super::spec::status::{Failure, Status};

/// Bytes that a backend is asked to zero or to give back at once. It may have to write them.
pub(super) const PIECE: u64 = 16 << 20;

/// What is done with the ranges of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
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

/// What a command asks for.
pub(super) struct RangeWork {
    work: Work,
    /// Index of the namespace.
    namespace: usize,
    /// In order; they do not overlap.
    ranges: VecDeque<ByteRange>,
}

/// The command that is done a piece at a time.
#[derive(Debug)]
pub(super) struct InHand {
    request: CommandRequest,
    work: Work,
    namespace: usize,
    /// Ranges that are not finished.
    ranges: VecDeque<ByteRange>,
    /// Bytes of the first of them that are done.
    done: u64,
}

impl InHand {
    pub(super) fn new(request: CommandRequest, asked: RangeWork) -> Self {
        Self {
            request,
            work: asked.work,
            namespace: asked.namespace,
            ranges: asked.ranges,
            done: 0,
        }
    }

    pub(super) fn abandon(self) {
        self.request.abandon();
    }

    pub(super) fn answer(self, result: Result<u32, Failure>) -> Answer {
        Answer::new(self.request, result)
    }

    /// Does one piece; `false`: it was the last one.
    pub(super) fn advance(&mut self, context: &mut IoContext<'_>) -> Result<bool, Status> {
        self.do_piece(context)?;
        if !self.ranges.is_empty() {
            return Ok(true);
        }
        if matches!(self.work, Work::Zero { durable: true, .. }) {
            context.namespaces.flush(self.namespace)?;
        }
        Ok(false)
    }

    fn do_piece(&mut self, context: &mut IoContext<'_>) -> Result<(), Status> {
        let Some(&range) = self.ranges.front() else {
            return Ok(());
        };
        let limit = match self.work {
            Work::Verify => MAX_TRANSFER as u64,
            Work::Zero { .. } | Work::Deallocate => PIECE,
        };
        let piece = ByteRange {
            offset: range.offset + self.done,
            length: (range.length - self.done).min(limit),
        };
        let (namespaces, index) = (&mut *context.namespaces, self.namespace);
        if self.work == Work::Verify {
            let mut data = context.transfer.take_buffer();
            let result = namespaces.load(index, piece, &mut data);
            context.transfer.give_back(data);
            result?;
            namespaces.count_read(piece, false);
        } else {
            // Blocks that were unreadable are not any more, but only when the whole range is done.
            namespaces.check_clearable(index, range)?;
            match self.work {
                Work::Zero { deallocate, .. } => namespaces.write_zeroes(index, piece, deallocate)?,
                _ => namespaces.discard(index, piece)?,
            }
        }
        self.done += piece.length;
        if self.done == range.length {
            self.ranges.pop_front();
            self.done = 0;
            if self.work != Work::Verify {
                namespaces.clear(index, range);
            }
        }
        Ok(())
    }
}

/// What there is to do for a command; `None`: nothing.
impl IoContext<'_> {
    /// Write Zeroes (section 6.17).
    pub(super) fn write_zeroes(&self, command: &SubmissionEntry) -> Result<Option<RangeWork>, Failure> {
        let (namespace, data) = self.namespaces.get_writable(command.namespace_id.get())?;
        let work = Work::Zero {
            deallocate: command.dword12.get() & DEALLOCATE != 0,
            durable: self.wants_durable(command),
        };
        Ok(Some(RangeWork {
            work,
            namespace,
            ranges: [command_range(data, command)?].into(),
        }))
    }

    /// Verify (section 6.14): reads without handing the data out.
    pub(super) fn verify(&mut self, command: &SubmissionEntry) -> Result<Option<RangeWork>, Failure> {
        let (namespace, data) = self.namespaces.get(command.namespace_id.get())?;
        let range = command_range(data, command)?;
        self.prepare_reading(namespace, command)?;
        Ok(Some(RangeWork {
            work: Work::Verify,
            namespace,
            ranges: [range].into(),
        }))
    }

    /// Dataset Management (section 6.7). All ranges are checked before the first is deallocated; attributes other than
    /// Deallocate are hints that are not used.
    pub(super) fn dataset_management(&mut self, command: &SubmissionEntry) -> Result<Option<RangeWork>, Failure> {
        let count = (command.dword10.get() as usize & 0xff) + 1;
        let (index, mut namespace) = self.namespaces.get(command.namespace_id.get())?;
        let deallocate = command.dword11.get() & ATTRIBUTE_DEALLOCATE != 0;
        if deallocate {
            (_, namespace) = self.namespaces.get_writable(command.namespace_id.get())?;
        }
        let data = self.transfer.receive(command, count * size_of::<DatasetRange>())?;
        let ranges = byte_ranges(namespace, &data);
        self.transfer.give_back(data);
        let ranges = ranges?;
        Ok(deallocate.then(|| RangeWork {
            work: Work::Deallocate,
            namespace: index,
            ranges: disjoint(ranges),
        }))
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
