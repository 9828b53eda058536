//! Where INT3 has been written into guest RAM, and the original bytes, which the host sees instead.
//!
//! Its lock is taken only while there are any. It must not know who asked for them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The instruction of one byte that raises #BP.
pub(super) const INT3: u8 = 0xcc;

/// The software breakpoints of one machine's RAM.
#[derive(Debug, Default)]
pub(super) struct SoftwareBreakpoints {
    /// There are some.
    any: AtomicBool,
    /// What was there, by guest-physical address.
    originals: Mutex<BTreeMap<u64, u8>>,
}

impl SoftwareBreakpoints {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, u8>> {
        self.originals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there may be some.
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Notes one over `original`; `false` if there is one already.
    pub(super) fn insert(&self, address: u64, original: u8) -> bool {
        let mut originals = self.lock();
        self.any.store(true, Ordering::Release);
        let new = !originals.contains_key(&address);
        originals.entry(address).or_insert(original);
        new
    }

    /// Forgets one and gives what was there.
    pub(super) fn remove(&self, address: u64) -> Option<u8> {
        let mut originals = self.lock();
        let original = originals.remove(&address);
        self.any.store(!originals.is_empty(), Ordering::Release);
        original
    }

    /// Puts what was there into `data`, which was read at `address`; where the guest has written something else since,
    /// that stays.
    pub(super) fn hide(&self, address: u64, data: &mut [u8]) {
        for (at, original) in self.within(address, data.len()) {
            let byte = &mut data[(at - address) as usize];
            if *byte == INT3 {
                *byte = original;
            }
        }
    }

    /// Takes `data`, about to be written at `address`, for what is beneath the software breakpoints there; gives their
    /// addresses.
    pub(super) fn replace(&self, address: u64, data: &[u8]) -> Vec<u64> {
        let within = self.within(address, data.len());
        let mut originals = self.lock();
        for (at, _) in &within {
            originals.insert(*at, data[(at - address) as usize]);
        }
        within.into_iter().map(|(at, _)| at).collect()
    }

    fn within(&self, address: u64, length: usize) -> Vec<(u64, u8)> {
        let end = address.saturating_add(length as u64);
        self.lock().range(address..end).map(|(at, byte)| (*at, *byte)).collect()
    }
}
