//! Submission and completion queues (NVMe 1.4, section 4.1).
//!
//! Ring arithmetic, phase tags and the transfer of entries. It must not know commands, which queue belongs to which, or
//! how a wrong doorbell value is answered.

use zerocopy::{FromBytes, IntoBytes};

use super::spec::command::{COMPLETION_ENTRY_SIZE, CompletionEntry, SUBMISSION_ENTRY_SIZE, SubmissionEntry};
use crate::storage::dma::{DmaMemory, NotMemory};

/// A doorbell value that no correct host writes (section 5.2, "Invalid Doorbell Write Value").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidDoorbellValue;

/// A submission queue: the host moves the tail, the controller the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SubmissionQueue {
    base: u64,
    entries: u32,
    head: u32,
    tail: u32,
    /// The completion queue that takes this queue's completions.
    pub(crate) completion_queue: u16,
}

impl SubmissionQueue {
    /// An empty queue of `entries` (2 to 65536) entries at guest physical address `base`.
    #[must_use]
    pub(super) fn new(base: u64, entries: u32, completion_queue: u16) -> Self {
        Self {
            base,
            entries,
            head: 0,
            tail: 0,
            completion_queue,
        }
    }

    /// The entry that is fetched next.
    #[must_use]
    pub(super) fn head(&self) -> u16 {
        self.head as u16
    }

    /// The host's tail.
    #[must_use]
    pub(super) fn tail(&self) -> u32 {
        self.tail
    }

    /// Whether every submitted command was fetched.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Command identifiers of the entries that were submitted and not fetched, as the host has them now.
    pub(super) fn waiting_ids(&self, memory: &dyn DmaMemory) -> Vec<u16> {
        let ids = (0..distance(self.head, self.tail, self.entries)).filter_map(|ahead| {
            let entry = u64::from((self.head + ahead) % self.entries) * SUBMISSION_ENTRY_SIZE;
            let mut id = [0; 2];
            memory.read(self.base.wrapping_add(entry + 2), &mut id).ok()?;
            Some(u16::from_le_bytes(id))
        });
        ids.collect()
    }

    /// Takes the host's new tail.
    ///
    /// # Errors
    /// The value is outside the queue, or the tail would overtake the head.
    pub(super) fn ring(&mut self, tail: u32) -> Result<(), InvalidDoorbellValue> {
        if tail >= self.entries {
            return Err(InvalidDoorbellValue);
        }
        let added = distance(self.tail, tail, self.entries);
        let used = distance(self.head, self.tail, self.entries);
        if added + used >= self.entries {
            return Err(InvalidDoorbellValue);
        }
        self.tail = tail;
        Ok(())
    }

    /// Fetches the entry at the head and moves the head.
    ///
    /// # Errors
    /// The queue is not in guest memory; the head has not moved.
    pub(super) fn fetch(&mut self, memory: &dyn DmaMemory) -> Result<SubmissionEntry, NotMemory> {
        let mut bytes = [0; SUBMISSION_ENTRY_SIZE as usize];
        memory.read(
            self.base.wrapping_add(u64::from(self.head) * SUBMISSION_ENTRY_SIZE),
            &mut bytes,
        )?;
        self.head = (self.head + 1) % self.entries;
        SubmissionEntry::read_from_bytes(&bytes).map_err(|_| NotMemory)
    }
}

/// A completion queue: the controller moves the tail, the host the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CompletionQueue {
    base: u64,
    entries: u32,
    head: u32,
    tail: u32,
    phase: bool,
    /// The interrupt vector, or none if interrupts are disabled for the queue (IEN).
    pub vector: Option<u16>,
    /// Entries were posted since the last interrupt.
    pub(crate) interrupt_due: bool,
}

impl CompletionQueue {
    /// An empty queue of `entries` (2 to 65536) entries at guest physical address `base`.
    #[must_use]
    pub(super) fn new(base: u64, entries: u32, vector: Option<u16>) -> Self {
        Self {
            base,
            entries,
            head: 0,
            tail: 0,
            phase: true,
            vector,
            interrupt_due: false,
        }
    }

    /// The host's head.
    #[must_use]
    pub(super) fn head(&self) -> u32 {
        self.head
    }

    /// Whether the host has acknowledged every entry.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Whether no further entry can be posted until the host consumes one.
    #[must_use]
    pub(super) fn is_full(&self) -> bool {
        (self.tail + 1) % self.entries == self.head
    }

    /// Takes the host's new head. Returns how many entries it has taken.
    ///
    /// # Errors
    /// The value is outside the queue, or the head would overtake the tail.
    pub(super) fn ring(&mut self, head: u32) -> Result<u32, InvalidDoorbellValue> {
        if head >= self.entries {
            return Err(InvalidDoorbellValue);
        }
        let taken = distance(self.head, head, self.entries);
        if taken > distance(self.head, self.tail, self.entries) {
            return Err(InvalidDoorbellValue);
        }
        self.head = head;
        Ok(taken)
    }

    /// Posts `entry`, whose phase tag is set here, and moves the tail. The caller has seen that there is room.
    ///
    /// # Errors
    /// The queue is not in guest memory; the tail has not moved.
    pub(super) fn post(&mut self, memory: &dyn DmaMemory, entry: &CompletionEntry) -> Result<(), NotMemory> {
        let address = self.base.wrapping_add(u64::from(self.tail) * COMPLETION_ENTRY_SIZE);
        let status = entry.status.get() & !1 | u16::from(self.phase);
        let last = u32::from(entry.command_id.get()) | u32::from(status) << 16;
        // The host polls the phase tag: the dword that has it must be seen last.
        memory.write(address, &entry.as_bytes()[..12])?;
        memory.store(address.wrapping_add(12), last)?;
        self.tail += 1;
        if self.tail == self.entries {
            self.tail = 0;
            self.phase = !self.phase;
        }
        self.interrupt_due = true;
        Ok(())
    }
}

/// Steps forward from `from` to `to` in a ring of `entries`.
fn distance(from: u32, to: u32, entries: u32) -> u32 {
    if to >= from { to - from } else { to + entries - from }
}
