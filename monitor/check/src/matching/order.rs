//! The order in which the driver under test takes its locks, from the chains of locks that its processors hold: two orders
//! that contradict each other may deadlock, though they never have.
//!
//! Followed are holds that are certain, and locks themselves: a class of locks, such as those that are first acquired at one
//! place, is not told from events. A wrapper's locks would be one class, and the locks of an array, which are taken in the order
//! of their places, several. Must not know what is forbidden.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::facts::Site;
use crate::checker::Checker;
use crate::contract::{Contract, Mode, Role};
use crate::event::{DISPATCH_LEVEL, LockCall};
use crate::finding::{OrderStep, PriorCall};
use crate::table::{Evict, Rank};

/// Pairs of locks whose order is remembered (some 250 bytes each).
const PAIRS: usize = 1 << 18;
/// Chains that are known by their hash: a known one has nothing new (24 bytes each).
pub(crate) const CHAINS: usize = 1 << 20;
/// Pairs that are looked at for one that is new.
const LOOKED_AT: usize = 1 << 12;
/// Locks that a processor holds at once and whose order is followed.
const HELD: usize = 8;

/// The number of a lock in its present generation; 0: it has none yet.
pub(crate) type Node = u32;

/// A chain that has been seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain;

impl Evict for Chain {
    fn rank(&self) -> Rank {
        Rank::Idle
    }
}

/// The orders that were seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LockOrder {
    /// Numbers given.
    locks: u32,
    pairs: HashMap<u64, Pair>,
    /// What was taken while a lock was held.
    inner: HashMap<u32, Vec<u32>>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Pair {
    step: OrderStep,
    /// The lock that was held around both; 0: none. Who holds the same around the other order cannot collide.
    gate: u32,
}

/// A lock that is held, and the acquire.
#[derive(Clone, Copy, Debug)]
struct Held {
    node: Node,
    place: u32,
    call: PriorCall,
}

impl Checker {
    /// Notes in which order the driver under test takes a lock; the steps of a circle that this one closes.
    pub(crate) fn order(
        &mut self,
        site: Site,
        row: &Contract,
        call: &LockCall,
        (prior, place): (PriorCall, u32),
    ) -> Vec<OrderStep> {
        if !site.target || !site.ordered {
            return Vec::new();
        }
        let taken = self.node(place);
        // Whoever only tries, or shares, does not wait for ever.
        let waits = row.role == Role::Acquire && row.mode == Mode::Exclusive;
        if call.context.irql < DISPATCH_LEVEL || !waits {
            return Vec::new();
        }
        let Some(chain) = self.chain(call, (place, taken)) else {
            return Vec::new();
        };
        if self.chains.find(&chain).is_some() {
            return Vec::new();
        }
        self.chains.insert(chain, Chain);
        let held: Vec<Held> = self.held(call, place).collect();
        let taken = Held {
            node: taken,
            place,
            call: prior,
        };
        self.follow_chain(&held, taken)
    }

    /// The locks of the driver under test that the caller's processor certainly holds, outermost first.
    fn held(&self, call: &LockCall, place: u32) -> impl Iterator<Item = Held> {
        let processor = self.core.processors.get(call.context.processor as usize);
        let open = processor.map_or(&[][..], |processor| &processor.open.0);
        let proved = open
            .iter()
            .filter(move |(open, target)| *target && open.proved && open.place != place);
        let held = proved.filter_map(|(open, _)| {
            let lock = self.locks.at(open.place).filter(|lock| lock.node != 0)?;
            let mut records = lock.records.iter();
            let record = records.find(|record| record.call.sequence == open.call.sequence)?;
            (!record.over).then_some(Held {
                node: lock.node,
                place: open.place,
                call: open.call,
            })
        });
        held.take(HELD)
    }

    /// The chain that an acquire makes with the locks that its caller holds, as a number; `None` if there are none.
    fn chain(&self, call: &LockCall, (place, taken): (u32, Node)) -> Option<u64> {
        let fold = |hash: u64, node: Node| {
            (hash ^ u64::from(node))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
        };
        let mut held = self.held(call, place);
        let first = fold(1, held.next()?.node);
        Some(fold(held.fold(first, |hash, held| fold(hash, held.node)), taken))
    }

    /// The node of a lock that is acquired.
    fn node(&mut self, place: u32) -> Node {
        let known = self.locks.at(place).map(|lock| lock.node).unwrap_or_default();
        if known != 0 {
            return known;
        }
        self.order.locks = self.order.locks.wrapping_add(1).max(1);
        let node = self.order.locks;
        if let Some(lock) = self.locks.at_mut(place) {
            lock.node = node;
        }
        node
    }

    /// Notes the pairs of a chain; the steps of a circle that one of them closes.
    fn follow_chain(&mut self, held: &[Held], taken: Held) -> Vec<OrderStep> {
        let gate = held.first().map_or(0, |outermost| outermost.node);
        let mut circle = Vec::new();
        for held in held {
            let lock = |place: u32| self.locks.key_at(place).copied();
            let (Some(outer_lock), Some(own_lock)) = (lock(held.place), lock(taken.place)) else {
                continue;
            };
            let step = OrderStep {
                held: outer_lock,
                held_by: held.call,
                taken: own_lock,
                taken_by: taken.call,
            };
            let gate = if gate == held.node { 0 } else { gate };
            let pair = (held.node, taken.node);
            if self.order.add(pair, Pair { step, gate }) && circle.is_empty() {
                circle = self.order.circle(pair);
            }
        }
        circle
    }
}

impl LockOrder {
    /// Adds a pair; whether that is news: it was not known, or with a lock around it only.
    fn add(&mut self, (outer, inner): (u32, u32), pair: Pair) -> bool {
        let key = key(outer, inner);
        if let Some(known) = self.pairs.get_mut(&key) {
            let news = known.gate != 0 && known.gate != pair.gate;
            if news {
                known.gate = 0;
            }
            return news;
        }
        if self.pairs.len() >= PAIRS {
            return false;
        }
        self.pairs.insert(key, pair);
        self.inner.entry(outer).or_default().push(inner);
        true
    }

    /// The steps of the circle that the pair closes: the pair itself, and the way back. Empty if there is none.
    fn circle(&self, (outer, inner): (u32, u32)) -> Vec<OrderStep> {
        // Where each node was come from.
        let mut from: HashMap<u32, u32> = HashMap::new();
        let mut open = vec![inner];
        let mut looked_at = 0;
        while let Some(node) = open.pop() {
            for &next in self.inner.get(&node).into_iter().flatten() {
                looked_at += 1;
                if looked_at > LOOKED_AT {
                    return Vec::new();
                }
                if next == inner || from.contains_key(&next) {
                    continue;
                }
                from.insert(next, node);
                if next == outer {
                    return self.steps(outer, inner, &from);
                }
                open.push(next);
            }
        }
        Vec::new()
    }

    fn steps(&self, outer: u32, inner: u32, from: &HashMap<u32, u32>) -> Vec<OrderStep> {
        let mut pairs = vec![(outer, inner)];
        let mut at = outer;
        while let Some(&before) = from.get(&at).filter(|_| at != inner) {
            pairs.push((before, at));
            at = before;
        }
        let pairs: Vec<&Pair> = pairs
            .iter()
            .filter_map(|(one, other)| self.pairs.get(&key(*one, *other)))
            .collect();
        let gate = pairs.first().map_or(0, |pair| pair.gate);
        if gate != 0 && pairs.iter().all(|pair| pair.gate == gate) {
            return Vec::new();
        }
        pairs.iter().map(|pair| pair.step).collect()
    }
}

fn key(outer: u32, inner: u32) -> u64 {
    u64::from(outer) << 32 | u64::from(inner)
}
