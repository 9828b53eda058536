//! Numbers the locks of a timeline, and the places that take them.

use std::collections::HashMap;

use storlock_check::event::{LockOperand, Module};
use storlock_check::identity::LockIdentity;

use super::classes::Classes;
use crate::report::Location;
use crate::report::timeline::TimedLock;

/// Locks and places that have numbers; the calls of others are left out of the timeline.
const MAX_LOCKS: usize = 1 << 16;
const MAX_PLACES: usize = 1 << 14;
const MAX_MODULES: usize = 1 << 12;

/// What is known of locks and code.
#[derive(Debug, Default)]
pub(super) struct Locks {
    numbers: HashMap<LockIdentity, u32>,
    known: Vec<TimedLock>,
    modules: Vec<Module>,
    place_numbers: HashMap<u64, u32>,
    places: Vec<Location>,
}

impl Locks {
    pub(super) fn load(&mut self, module: &Module) {
        self.modules.retain(|known| known.base != module.base);
        if self.modules.len() < MAX_MODULES {
            self.modules.push(module.clone());
        }
        // What was at these addresses before was something else.
        self.place_numbers.clear();
    }

    pub(super) fn unload(&mut self, base: u64) {
        self.modules.retain(|known| known.base != base);
        self.place_numbers.clear();
    }

    /// The number of the place with that return address.
    pub(super) fn place(&mut self, address: u64) -> u32 {
        if let Some(number) = self.place_numbers.get(&address) {
            return *number;
        }
        let inside = |module: &&Module| {
            address
                .checked_sub(module.base)
                .is_some_and(|offset| offset < module.size)
        };
        let location = match self.modules.iter().find(inside) {
            None => Location::unknown(address),
            Some(module) => Location {
                address,
                module: Some(module.name.clone()),
                offset: Some(address - module.base),
                ..Location::default()
            },
        };
        if self.places.len() >= MAX_PLACES {
            return (MAX_PLACES - 1) as u32;
        }
        let number = self.places.len() as u32;
        self.places.push(location);
        self.place_numbers.insert(address, number);
        number
    }

    /// The number of the lock that an acquire names; `place` is where that is.
    pub(super) fn of(&mut self, operand: &LockOperand, place: u32, classes: &mut Classes) -> Option<u32> {
        let identity = LockIdentity::of(operand)?;
        if let Some(number) = self.numbers.get(&identity) {
            return Some(*number);
        }
        if self.known.len() >= MAX_LOCKS {
            return None;
        }
        // Places that are one after a reload are one here.
        let place = self.same_place(place);
        let class = classes.of(&identity, place);
        let number = self.known.len() as u32;
        self.known.push(TimedLock { identity, class });
        self.numbers.insert(identity, number);
        Some(number)
    }

    fn same_place(&self, place: u32) -> u32 {
        let Some(this) = self.places.get(place as usize) else {
            return place;
        };
        if this.module.is_none() {
            return place;
        }
        let same = |other: &Location| (&other.module, other.offset) == (&this.module, this.offset);
        self.places.iter().position(same).map_or(place, |first| first as u32)
    }

    /// The number of the lock that any call names by itself, if it was ever taken.
    pub(super) fn known(&self, operand: &LockOperand) -> Option<u32> {
        self.numbers.get(&LockIdentity::of(operand)?).copied()
    }

    pub(super) fn class(&self, lock: u32) -> u32 {
        self.known.get(lock as usize).map_or(u32::MAX, |lock| lock.class)
    }

    pub(super) fn finish(self) -> (Vec<TimedLock>, Vec<Location>) {
        (self.known, self.places)
    }
}
