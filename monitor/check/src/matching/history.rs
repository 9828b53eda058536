//! The last events of a lock.

use serde::{Deserialize, Serialize};

use crate::contract::Routine;
use crate::event::Context;
use crate::finding::{HistoryEntry, PriorCall, Step};

/// Events of a lock of the driver under test that are kept.
pub const HISTORY: usize = 8;
/// The same for other locks.
const OTHERS: usize = 2;

/// What of a lock's ring is in use. It lies with the lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct History {
    /// Entries that are filled in.
    len: u8,
    /// Where the next event goes once the ring is full.
    next: u8,
    evicted: u64,
}

/// The last events of one lock.
pub(crate) type Ring = [Entry; HISTORY];

/// The rings of all locks, by the place of the lock in its table. They lie apart from the locks, which are asked for at each
/// call, while hardly any call asks for a ring. What is written waits for a while: where the rings do not fit into the
/// processor's caches, many writes together wait for memory about as long as one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histories {
    rings: Vec<Ring>,
    /// Not in their rings yet, oldest first.
    late: Vec<Late>,
}

/// An entry on its way to a ring.
#[derive(Clone, Copy, Debug)]
struct Late {
    entry: Entry,
    place: u32,
    /// Where in the ring.
    at: u8,
}

/// Entries that wait.
const LATE: usize = 128;
/// Entries whose memory is asked for at once.
const AT_ONCE: usize = 16;

/// A [`HistoryEntry`] without the gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    sequence: u64,
    thread: u64,
    stack_pointer: u64,
    return_address: u64,
    processor: u32,
    routine: Routine,
    step: Step,
    irql: u8,
    interrupts: bool,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            sequence: 0,
            thread: 0,
            stack_pointer: 0,
            return_address: 0,
            processor: 0,
            routine: Routine::KeAcquireSpinLockRaiseToDpc,
            step: Step::Unknown,
            irql: 0,
            interrupts: false,
        }
    }
}

impl Entry {
    const fn new(call: &PriorCall, step: Step) -> Self {
        Self {
            sequence: call.sequence,
            thread: call.context.thread,
            stack_pointer: call.context.stack_pointer,
            return_address: call.context.return_address,
            processor: call.context.processor,
            routine: call.routine,
            step,
            irql: call.context.irql,
            interrupts: call.context.interrupts,
        }
    }

    const fn told(&self) -> HistoryEntry {
        HistoryEntry {
            call: PriorCall {
                sequence: self.sequence,
                routine: self.routine,
                context: Context {
                    processor: self.processor,
                    irql: self.irql,
                    interrupts: self.interrupts,
                    thread: self.thread,
                    stack_pointer: self.stack_pointer,
                    return_address: self.return_address,
                },
            },
            step: self.step,
        }
    }
}

impl History {
    /// Events that are no longer kept.
    pub(crate) const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Another lock begins.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Histories {
    /// Adds an event to the ring of the lock at a place; `history`: its. True if an older one had to go.
    pub(crate) fn push(
        &mut self,
        place: u32,
        history: &mut History,
        call: &PriorCall,
        (step, target): (Step, bool),
    ) -> bool {
        if self.rings.len() <= place as usize {
            self.rings.resize(place as usize + 1, Ring::default());
        }
        let limit = if target { HISTORY } else { OTHERS };
        let len = usize::from(history.len).min(HISTORY);
        let full = len >= limit;
        let at = if full {
            let next = history.next % len as u8;
            history.next = (next + 1) % len as u8;
            history.evicted += 1;
            next
        } else {
            // The ring may have been full at a smaller limit: then it is put in order first.
            if history.next != 0 {
                self.settle();
                self.rings[place as usize][..len].rotate_left(usize::from(history.next).min(len));
                history.next = 0;
            }
            history.len += 1;
            len as u8
        };
        if self.late.len() >= LATE {
            self.settle();
        }
        let entry = Entry::new(call, step);
        self.late.push(Late { entry, place, at });
        full
    }

    /// Writes all entries to their rings.
    fn settle(&mut self) {
        for late in self.late.chunks(AT_ONCE) {
            for Late { place, at, .. } in late {
                std::hint::black_box(self.rings[*place as usize][usize::from(*at)].sequence);
            }
            for Late { entry, place, at } in late {
                self.rings[*place as usize][usize::from(*at)] = *entry;
            }
        }
        self.late.clear();
    }

    /// The events kept of the lock at a place, youngest first.
    pub(crate) fn newest_first(&self, place: u32, history: History) -> impl Iterator<Item = HistoryEntry> + use<> {
        let ring = self.ring(place);
        let len = usize::from(history.len).min(HISTORY);
        let next = usize::from(history.next).min(len);
        let order = (0..next).rev().chain((next..len).rev());
        order.map(move |at| ring[at].told())
    }

    /// The ring of the lock at a place, as it is.
    pub(crate) fn ring(&self, place: u32) -> Ring {
        let mut ring = self.rings.get(place as usize).copied().unwrap_or_default();
        for late in self.late.iter().filter(|late| late.place == place) {
            ring[usize::from(late.at)] = late.entry;
        }
        ring
    }

    /// Puts a ring in its place.
    pub(crate) fn restore(&mut self, place: u32, ring: Ring) {
        self.settle();
        if self.rings.len() <= place as usize {
            self.rings.resize(place as usize + 1, Ring::default());
        }
        self.rings[place as usize] = ring;
    }

    /// No lock is remembered any more.
    pub(crate) fn clear(&mut self) {
        (self.rings, self.late) = (Vec::new(), Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(sequence: u64) -> PriorCall {
        PriorCall {
            sequence,
            routine: Routine::KeReleaseSpinLock,
            context: Context::default(),
        }
    }

    /// Beside lists that know neither rings nor waiting.
    #[test]
    fn the_last_events_of_each_lock_are_kept_in_order() {
        let mut random = 1_u64;
        let mut histories = Histories::default();
        let mut locks = vec![(History::default(), Vec::<u64>::new(), 0_u64); 40];
        for sequence in 0..50_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let place = (random >> 40) as usize % locks.len();
            let (history, model, evicted) = &mut locks[place];
            // A lock begins anew; some become the driver's under test only after a while.
            if random >> 33 & 0x7f == 0 {
                history.clear();
                model.clear();
                *evicted = 0;
            }
            let target = place % 2 == 0 && (place % 4 == 0 || model.len() + *evicted as usize > 5);
            let limit = if target { HISTORY } else { OTHERS };
            let gone = histories.push(place as u32, history, &call(sequence), (Step::Attempt, target));
            model.push(sequence);
            let over = model.len().saturating_sub(limit.max(usize::from(history.len)));
            model.drain(..over);
            *evicted += over as u64;
            assert_eq!((gone, history.evicted()), (over > 0, *evicted));
            if random >> 20 & 3 == 0 {
                let told = histories.newest_first(place as u32, *history);
                let told: Vec<u64> = told.map(|entry| entry.call.sequence).collect();
                assert!(told.iter().rev().eq(model.iter()), "{place}: {told:?} {model:?}");
            }
        }
    }
}
