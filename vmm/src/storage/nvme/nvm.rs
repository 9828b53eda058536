//! NVM command set: the I/O commands (NVMe 1.4, section 6).
//!
//! It talks to the namespaces and moves data. It must not know queues. Commands whose range MDTS does not bound are in
//! [`ranges`](super::ranges).

use super::completion::{Answer, check_flags};
use super::identify::MAX_TRANSFER;
use super::media::ByteRange;
use super::namespaces::{Namespace, Namespaces};
use super::queues::CommandRequest;
use super::ranges::InHand;
use super::spec::command::{FORCE_UNIT_ACCESS, SubmissionEntry, nvm};
use super::spec::status::{Failure, Status};
use super::transfer::Transfer;

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

fn forces_unit_access(command: &SubmissionEntry) -> bool {
    command.dword12.get() & FORCE_UNIT_ACCESS != 0
}

/// Executes the commands of I/O queues.
#[derive(Debug, Default)]
pub(super) struct IoCommands {
    /// A command that is done a piece at a time. Its completion queue has room.
    in_hand: Option<InHand>,
}

/// What the commands work on.
pub(super) struct IoContext<'a> {
    pub(super) namespaces: &'a mut Namespaces,
    pub(super) transfer: &'a mut Transfer,
    /// Whether what is written may stay in a cache (the feature Volatile Write Cache).
    pub(super) write_cache: bool,
}

impl IoCommands {
    /// Whether a command is in hand: no other may be fetched.
    pub(super) fn is_busy(&self) -> bool {
        self.in_hand.is_some()
    }

    /// Nobody waits for the command in hand any more.
    pub(super) fn reset(&mut self) {
        if let Some(command) = self.in_hand.take() {
            command.abandon();
        }
    }

    /// Executes a command; `None`: it is in hand now and completes later.
    pub(super) fn execute(&mut self, request: CommandRequest, context: &mut IoContext<'_>) -> Option<Answer> {
        let command = &request.command().entry;
        let result = check_flags(command).and_then(|()| match command.opcode {
            nvm::WRITE_ZEROES => context.write_zeroes(command),
            nvm::DATASET_MANAGEMENT => context.dataset_management(command),
            nvm::VERIFY => context.verify(command),
            nvm::FLUSH => context
                .namespaces
                .flush_named(command.namespace_id.get())
                .map(|()| None),
            nvm::WRITE => context.write(command).map(|()| None),
            nvm::READ => context.read(command).map(|()| None),
            nvm::WRITE_UNCORRECTABLE => context.write_uncorrectable(command).map(|()| None),
            nvm::COMPARE => context.compare(command).map(|()| None),
            _ => Err(Failure::at(Status::INVALID_OPCODE, 0, 0)),
        });
        match result {
            Ok(Some(work)) => {
                self.in_hand = Some(InHand::new(request, work));
                None
            }
            Ok(None) => Some(Answer::new(request, Ok(0))),
            Err(failure) => Some(Answer::new(request, Err(failure))),
        }
    }

    /// Does one piece of the command in hand, and answers it after the last one.
    pub(super) fn advance(&mut self, context: &mut IoContext<'_>) -> Option<Answer> {
        let mut command = self.in_hand.take()?;
        match command.advance(context) {
            Ok(true) => {
                self.in_hand = Some(command);
                None
            }
            Ok(false) => Some(command.answer(Ok(0))),
            Err(status) => Some(command.answer(Err(status.into()))),
        }
    }
}

impl IoContext<'_> {
    /// Read (section 6.9).
    fn read(&mut self, command: &SubmissionEntry) -> Result<(), Failure> {
        let (index, namespace) = self.namespaces.get(command.namespace_id.get())?;
        let range = transfer_range(namespace, command)?;
        self.prepare_reading(index, command)?;
        self.namespaces.check_readable(index, range)?;
        let target = self.transfer.slices(command, range.length as usize)?;
        Ok(self.namespaces.read(index, range, &target)?)
    }

    /// Compare (section 6.6): reads and tells whether the host's data are the same.
    fn compare(&mut self, command: &SubmissionEntry) -> Result<(), Failure> {
        let (index, namespace) = self.namespaces.get(command.namespace_id.get())?;
        let range = transfer_range(namespace, command)?;
        self.prepare_reading(index, command)?;
        let wanted = self.transfer.receive(command, range.length as usize)?;
        let mut data = Vec::new();
        let result = self.namespaces.load(index, range, &mut data);
        let equal = wanted == data;
        self.transfer.give_back(wanted);
        result?;
        self.namespaces.count_read(range, true);
        if equal {
            Ok(())
        } else {
            Err(Status::COMPARE_FAILURE.into())
        }
    }

    /// With Force Unit Access the data come from the medium: what is cached goes there first.
    pub(super) fn prepare_reading(&mut self, index: usize, command: &SubmissionEntry) -> Result<(), Status> {
        if forces_unit_access(command) {
            self.namespaces.flush(index)?;
        }
        Ok(())
    }

    /// Write Uncorrectable (section 6.16): reading the blocks fails until they are written.
    fn write_uncorrectable(&mut self, command: &SubmissionEntry) -> Result<(), Failure> {
        let (index, namespace) = self.namespaces.get_writable(command.namespace_id.get())?;
        let range = command_range(namespace, command)?;
        Ok(self.namespaces.mark_unreadable(index, range)?)
    }

    /// Write (section 6.15).
    fn write(&mut self, command: &SubmissionEntry) -> Result<(), Failure> {
        let (index, namespace) = self.namespaces.get_writable(command.namespace_id.get())?;
        let range = transfer_range(namespace, command)?;
        let source = self.transfer.slices(command, range.length as usize)?;
        self.namespaces.write(index, range, &source)?;
        if self.wants_durable(command) {
            self.namespaces.flush(index)?;
        }
        self.namespaces.count_write(range);
        Ok(())
    }

    /// Whether what the command writes goes to the medium before it completes: the command forces it or the write cache is
    /// off.
    pub(super) fn wants_durable(&self, command: &SubmissionEntry) -> bool {
        forces_unit_access(command) || !self.write_cache
    }
}
