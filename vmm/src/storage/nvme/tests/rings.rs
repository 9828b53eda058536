//! Tests of ring arithmetic, exhaustive for small rings and at the edges of the largest: what is accepted, what is
//! touched, and that nothing outside the ring is.

use std::sync::Mutex;

use vm_memory::VolatileSlice;

use crate::storage::dma::{DmaMemory, NotMemory};
use crate::storage::nvme::rings::{CompletionQueue, InvalidDoorbellValue, SubmissionQueue};
use crate::storage::nvme::spec::command::{COMPLETION_ENTRY_SIZE, CompletionEntry, SUBMISSION_ENTRY_SIZE};
use crate::storage::segments::Segment;

const BASE: u64 = 0x1_0000;
/// Largest queue that the types take, more than the controller offers.
const LARGEST: u32 = 65536;
/// Complete up to here: every state of the ring and every value that is one too many.
const COMPLETE: u32 = 9;

/// Memory that is one ring and nothing else; remembers the slot and the phase of what was written last.
struct Ring {
    length: u64,
    entry: u64,
    last: Mutex<Option<(u64, bool)>>,
}

impl Ring {
    fn new(entries: u32, entry: u64) -> Self {
        Self {
            length: u64::from(entries) * entry,
            entry,
            last: Mutex::default(),
        }
    }

    #[track_caller]
    fn check(&self, address: u64, length: usize) {
        let at = address.checked_sub(BASE).expect("below the ring");
        assert!(at + length as u64 <= self.length, "beyond the ring");
        assert!(at % self.entry + length as u64 <= self.entry, "across two entries");
    }
}

impl DmaMemory for Ring {
    fn contains(&self, address: u64, length: usize) -> bool {
        self.check(address, length);
        true
    }
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), NotMemory> {
        self.check(address, buffer.len());
        // The slot is the command identifier.
        buffer.fill(0);
        if let Some(id) = buffer.get_mut(2..4) {
            id.copy_from_slice(&(((address - BASE) / self.entry) as u16).to_le_bytes());
        }
        Ok(())
    }
    fn write(&self, address: u64, data: &[u8]) -> Result<(), NotMemory> {
        self.check(address, data.len());
        Ok(())
    }
    fn slices(&self, _: &[Segment]) -> Result<Vec<VolatileSlice<'_>>, NotMemory> {
        Err(NotMemory)
    }
    fn load(&self, _: u64) -> Result<u32, NotMemory> {
        Err(NotMemory)
    }
    fn store(&self, address: u64, value: u32) -> Result<(), NotMemory> {
        self.check(address, 4);
        *self.last.lock().unwrap() = Some(((address - BASE) / self.entry, value >> 16 & 1 != 0));
        Ok(())
    }
}

/// A submission queue whose head and tail are there.
fn submission(entries: u32, head: u32, tail: u32, ring: &Ring) -> SubmissionQueue {
    let mut queue = SubmissionQueue::new(BASE, entries, 1);
    queue.ring(head).unwrap();
    for slot in 0..head {
        assert_eq!(u32::from(queue.fetch(ring).unwrap().command_id.get()), slot);
    }
    queue.ring(tail).unwrap();
    queue
}

/// A completion queue after `posted` entries, of which `consumed` are the host's; both grow for ever.
fn completion(entries: u32, consumed: u32, posted: u32, ring: &Ring) -> CompletionQueue {
    let mut queue = CompletionQueue::new(BASE, entries, None);
    for count in 0..posted {
        // The host keeps up as far as it is allowed to.
        if queue.is_full() {
            queue.ring((queue.head() + 1) % entries).unwrap();
        }
        queue.post(ring, &CompletionEntry::default()).unwrap();
        let (slot, phase) = ring.last.lock().unwrap().unwrap();
        assert_eq!(slot, u64::from(count % entries));
        assert_eq!(phase, count / entries % 2 == 0, "the phase changes with each round");
    }
    queue.ring(consumed % entries).unwrap();
    queue
}

#[test]
fn a_tail_is_taken_exactly_if_it_neither_leaves_the_ring_nor_overtakes_the_head() {
    for entries in 2..=COMPLETE {
        let ring = Ring::new(entries, SUBMISSION_ENTRY_SIZE);
        for (head, used, value) in states(entries) {
            let tail = (head + used) % entries;
            let mut queue = submission(entries, head, tail, &ring);
            let result = queue.ring(value);
            // Steps from the head to the new tail; the entry before the head stays free.
            let wanted = (value + entries - head % entries) % entries;
            let taken = value < entries && wanted >= used;
            assert_eq!(
                result.is_ok(),
                taken,
                "{entries} entries, head {head}, tail {tail}, value {value}"
            );
            let waiting = if taken { wanted } else { used };
            for step in 0..waiting {
                assert!(!queue.is_empty());
                let slot = queue.fetch(&ring).unwrap().command_id.get();
                assert_eq!(u32::from(slot), (head + step) % entries);
            }
            assert!(queue.is_empty());
        }
    }
}

#[test]
fn a_head_is_taken_exactly_if_it_neither_leaves_the_ring_nor_overtakes_the_tail() {
    for entries in 2..=COMPLETE {
        let ring = Ring::new(entries, COMPLETION_ENTRY_SIZE);
        // Two rounds, so that both phases are seen.
        for (start, used, value) in states(2 * entries) {
            if used >= entries || start < used {
                continue;
            }
            let head = start - used;
            let mut queue = completion(entries, head, start, &ring);
            assert_eq!(queue.is_full(), used == entries - 1);
            let steps = (value + entries - head % entries) % entries;
            let taken = value < entries && steps <= used;
            let result = queue.ring(value);
            assert_eq!(
                result.is_ok(),
                taken,
                "{entries} entries, {head} consumed of {start}, value {value}"
            );
            let mut used = if taken { used - steps } else { used };
            // What is left of the room can be filled, and nothing that the host has not consumed is overwritten.
            let mut next = start;
            while !queue.is_full() {
                queue.post(&ring, &CompletionEntry::default()).unwrap();
                assert_eq!(ring.last.lock().unwrap().unwrap().0, u64::from(next % entries));
                next += 1;
                used += 1;
            }
            assert_eq!(used, entries - 1);
        }
    }
}

/// Every place in a ring, every number of entries in use, and every doorbell value up to one round too many.
fn states(entries: u32) -> impl Iterator<Item = (u32, u32, u32)> {
    let places = (0..entries).flat_map(move |place| (0..entries).map(move |used| (place, used)));
    places.flat_map(move |(place, used)| (0..=2 * entries).map(move |value| (place, used, value)))
}

#[test]
fn values_that_no_register_can_hold_overflow_nothing() {
    let ring = Ring::new(LARGEST, SUBMISSION_ENTRY_SIZE);
    for head in [0, 1, LARGEST / 2, LARGEST - 1] {
        for value in [LARGEST, LARGEST + 1, u32::MAX - 1, u32::MAX] {
            let mut queue = submission(LARGEST, head, head, &ring);
            assert_eq!(queue.ring(value), Err(InvalidDoorbellValue));
            let last = (head + LARGEST - 1) % LARGEST;
            queue.ring(last).unwrap();
            assert_eq!(queue.ring(head), Err(InvalidDoorbellValue), "one too many");
            assert_eq!(u32::from(queue.fetch(&ring).unwrap().command_id.get()), head);
        }
    }
    let mut queue = CompletionQueue::new(BASE, LARGEST, None);
    for value in [1, LARGEST - 1, LARGEST, u32::MAX] {
        assert_eq!(queue.ring(value), Err(InvalidDoorbellValue), "nothing was posted");
    }
}

#[test]
fn a_queue_at_the_end_of_the_address_space_is_not_memory_and_overflows_nothing() {
    struct Nothing;
    impl DmaMemory for Nothing {
        fn contains(&self, _: u64, _: usize) -> bool {
            false
        }
        fn read(&self, _: u64, _: &mut [u8]) -> Result<(), NotMemory> {
            Err(NotMemory)
        }
        fn write(&self, _: u64, _: &[u8]) -> Result<(), NotMemory> {
            Err(NotMemory)
        }
        fn slices(&self, _: &[Segment]) -> Result<Vec<VolatileSlice<'_>>, NotMemory> {
            Err(NotMemory)
        }
        fn load(&self, _: u64) -> Result<u32, NotMemory> {
            Err(NotMemory)
        }
        fn store(&self, _: u64, _: u32) -> Result<(), NotMemory> {
            Err(NotMemory)
        }
    }
    let mut queue = SubmissionQueue::new(u64::MAX - 63, LARGEST, 0);
    queue.ring(LARGEST - 1).unwrap();
    assert_eq!(queue.fetch(&Nothing).err(), Some(NotMemory));
    assert_eq!(queue.head(), 0, "the head has not moved");
    assert!(queue.waiting_ids(&Nothing).is_empty());
    let mut queue = CompletionQueue::new(u64::MAX - 15, LARGEST, None);
    assert_eq!(queue.post(&Nothing, &CompletionEntry::default()), Err(NotMemory));
    assert!(!queue.interrupt_due);
}
