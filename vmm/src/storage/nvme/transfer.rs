//! The controller's DMA: queues and doorbells by their addresses, the data of commands by their PRPs.
//!
//! It must not know what the data mean.

use vm_memory::VolatileSlice;

use super::prp;
use super::spec::command::SubmissionEntry;
use super::spec::status::{Failure, Status};
use crate::storage::dma::{Dma, DmaMemory, NotMemory};
use crate::storage::segments::Segment;

/// Moves data between guest memory and the controller.
pub(super) struct Transfer {
    dma: Dma,
    // Room that is kept between commands; without meaning from one to the next.
    buffer: Vec<u8>,
    segments: Vec<Segment>,
}

impl From<NotMemory> for Failure {
    fn from(_: NotMemory) -> Self {
        Status::DATA_TRANSFER_ERROR.into()
    }
}

impl Transfer {
    pub(super) fn new(memory: Box<dyn DmaMemory>) -> Self {
        Self {
            dma: Dma::new(memory),
            buffer: Vec::new(),
            segments: Vec::new(),
        }
    }

    pub(super) fn dma(&self) -> &Dma {
        &self.dma
    }

    pub(super) fn set_bus_master(&mut self, enabled: bool) {
        self.dma.set_bus_master(enabled);
    }

    /// Transfers `data` to where the command wants it.
    pub(super) fn send(&mut self, command: &SubmissionEntry, data: &[u8]) -> Result<(), Failure> {
        self.find_segments(command, data.len())?;
        Ok(self.dma.scatter(&self.segments, data)?)
    }

    /// Transfers `length` bytes from where the command has them into a buffer, which is to be
    /// [given back](Self::give_back).
    pub(super) fn receive(&mut self, command: &SubmissionEntry, length: usize) -> Result<Vec<u8>, Failure> {
        self.find_segments(command, length)?;
        let mut data = self.take_buffer();
        data.resize(length, 0);
        self.dma.gather(&self.segments, &mut data)?;
        Ok(data)
    }

    /// The memory of the `length` bytes that the command is about, to be accessed without a copy in between.
    pub(super) fn slices(
        &mut self,
        command: &SubmissionEntry,
        length: usize,
    ) -> Result<Vec<VolatileSlice<'_>>, Failure> {
        self.find_segments(command, length)?;
        Ok(self.dma.slices(&self.segments)?)
    }

    /// A buffer of any length and content, to be [given back](Self::give_back).
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    pub(super) fn give_back(&mut self, buffer: Vec<u8>) {
        self.buffer = buffer;
    }

    fn find_segments(&mut self, command: &SubmissionEntry, length: usize) -> Result<(), Failure> {
        let (prp1, prp2) = (command.prp1.get(), command.prp2.get());
        prp::walk(&self.dma, prp1, prp2, length, &mut self.segments).map_err(|status| {
            if status == Status::PRP_OFFSET_INVALID {
                Failure::at(status, 6, 0)
            } else {
                status.into()
            }
        })
    }

    #[cfg(test)]
    pub(super) fn replace_memory(&mut self, memory: Box<dyn DmaMemory>) {
        self.dma = Dma::new(memory);
    }
}
