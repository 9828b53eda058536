//! Counts what happens to the locks of each class, and the order in which classes are taken.

use std::collections::HashMap;
use std::time::Duration;

use storlock_check::identity::LockIdentity;

use crate::report::timeline::{LockClass, OrderEdge, kind_of};
use crate::timing::Histogram;

/// Classes, and pairs of classes, that are counted separately; all further classes count as one.
const MAX_CLASSES: usize = 1 << 10;
const MAX_EDGES: usize = 1 << 14;

/// The classes of a timeline.
#[derive(Debug, Default)]
pub(super) struct Classes {
    numbers: HashMap<(String, Option<u32>), u32>,
    known: Vec<LockClass>,
    holds: Vec<Histogram>,
    edges: HashMap<(u32, u32), OrderEdge>,
}

impl Classes {
    /// The class of a new lock, which was first taken at `place`.
    pub(super) fn of(&mut self, lock: &LockIdentity, place: u32) -> u32 {
        let (mut kind, placed) = kind_of(lock);
        let mut site = placed.then_some(place);
        if self.known.len() >= MAX_CLASSES - 1 && !self.numbers.contains_key(&(kind.clone(), site)) {
            (kind, site) = ("other locks".to_owned(), None);
        }
        let next = self.known.len() as u32;
        let number = *self.numbers.entry((kind.clone(), site)).or_insert(next);
        if number == next {
            self.known.push(LockClass {
                kind,
                site,
                ..LockClass::default()
            });
            self.holds.push(Histogram::default());
        }
        if let Some(class) = self.known.get_mut(number as usize) {
            class.locks += 1;
        }
        number
    }

    pub(super) fn acquired(&mut self, class: u32, contended: bool) {
        if let Some(class) = self.known.get_mut(class as usize) {
            class.acquires += 1;
            class.contended += u64::from(contended);
        }
    }

    /// A hold is over, or the timeline is (`held` is `None`).
    pub(super) fn held(&mut self, number: u32, waited: u64, held: Option<u64>) {
        let (Some(class), Some(holds)) = (self.known.get_mut(number as usize), self.holds.get(number as usize)) else {
            return;
        };
        class.waited = class.waited.saturating_add(waited);
        class.longest_wait = class.longest_wait.max(waited);
        if let Some(held) = held {
            class.held = class.held.saturating_add(held);
            class.longest_hold = class.longest_hold.max(held);
            holds.add(Duration::from_nanos(held));
        }
    }

    /// A lock of one class was taken while one of another was held.
    pub(super) fn ordered(&mut self, held: u32, taken: u32, event: u64) {
        if self.edges.len() >= MAX_EDGES && !self.edges.contains_key(&(held, taken)) {
            return;
        }
        let new = OrderEdge {
            held,
            taken,
            count: 0,
            event,
        };
        self.edges.entry((held, taken)).or_insert(new).count += 1;
    }

    pub(super) fn finish(self) -> (Vec<LockClass>, Vec<OrderEdge>) {
        let classes = self.known.into_iter().zip(&self.holds);
        let classes = classes.map(|(class, holds)| LockClass {
            spread: holds.spread(),
            ..class
        });
        let classes = classes.collect();
        let mut edges: Vec<_> = self.edges.into_values().collect();
        edges.sort_by_key(|edge| (edge.held, edge.taken));
        (classes, edges)
    }
}
