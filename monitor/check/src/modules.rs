//! The modules of the guest: which of them is the driver under test, and the name of an address, which is the same
//! wherever its module was loaded.

use serde::{Deserialize, Serialize};

use crate::event::Module;
use crate::finding::{Fnv, Place};

/// Modules that can be the driver under test at the same time.
const TARGETS: usize = 64;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Range {
    pub(crate) base: u64,
    pub(crate) size: u64,
}

impl Range {
    /// Whether an address lies in it.
    pub(crate) const fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.base) < self.size
    }

    /// Whether they have an address in common.
    const fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Known {
    range: Range,
    name: String,
    /// Of the name.
    hash: u64,
}

/// The mapped modules, as far as they were told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Modules {
    limit: usize,
    known: Vec<Known>,
    targets: Vec<Range>,
    /// The driver under test has been named: from then on no other place is its.
    declared: bool,
}

impl Modules {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// A module was mapped: whatever was there is gone.
    pub(crate) fn load(&mut self, module: &Module) {
        let range = Range {
            base: module.base,
            size: module.size,
        };
        self.known.retain(|known| !known.range.overlaps(&range));
        self.targets.retain(|target| !target.overlaps(&range));
        self.declared |= module.target;
        if module.target && self.targets.len() < self.limit.min(TARGETS) {
            self.targets.push(range);
        }
        if self.known.len() < self.limit {
            let name = module.name.to_lowercase();
            let mut hash = Fnv::default();
            hash.bytes(name.as_bytes());
            self.known.push(Known {
                range,
                name,
                hash: hash.0,
            });
        }
    }

    /// A module was unmapped.
    pub(crate) fn unload(&mut self, base: u64) {
        self.known.retain(|known| known.range.base != base);
        self.targets.retain(|range| range.base != base);
    }

    /// None is there any more.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
        self.targets.clear();
    }

    /// A place of the driver under test; every place is, as long as no module was said to be it.
    pub(crate) fn is_target(&self, address: u64) -> bool {
        !self.declared || self.is_declared_target(address)
    }

    /// A place in a module that was said to be the driver under test.
    pub(crate) fn is_declared_target(&self, address: u64) -> bool {
        self.targets.iter().any(|range| range.contains(address))
    }

    fn find(&self, address: u64) -> Option<&Known> {
        self.known.iter().find(|known| known.range.contains(address))
    }

    /// The module that holds an address, by its name in lower case.
    pub(crate) fn name(&self, address: u64) -> Option<&str> {
        self.find(address).map(|known| known.name.as_str())
    }

    /// The place of an address.
    pub(crate) fn place(&self, address: u64) -> Place {
        match self.find(address) {
            Some(known) => Place {
                module: Some(known.name.clone()),
                offset: address - known.range.base,
            },
            None => Place {
                module: None,
                offset: address,
            },
        }
    }

    /// The same as two numbers.
    pub(crate) fn key(&self, address: u64) -> (u64, u64) {
        self.find(address)
            .map_or((0, address), |known| (known.hash, address - known.range.base))
    }
}
