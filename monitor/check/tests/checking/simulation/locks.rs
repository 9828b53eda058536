//! The locks of the simulated machine and who really holds them.

use storlock_check::contract::Routine as R;

use super::{Config, Owner};

/// What a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Spin,
    Queued,
    Ex,
    Dpc,
    StartIo,
    Interrupt,
    Message(u32),
    Object,
    Cancel,
}

impl Class {
    /// A lock of the port driver that is acquired with a `STOR_LOCK_HANDLE`.
    pub const fn by_stor_handle(self) -> bool {
        matches!(self, Self::Dpc | Self::StartIo | Self::Interrupt)
    }

    /// Memory that a driver allocates.
    pub const fn in_pool(self) -> bool {
        matches!(self, Self::Spin | Self::Queued | Self::Ex)
    }
}

/// Whoever holds a lock, and how it was taken.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    pub agent: usize,
    /// Whose code took it.
    pub owner: Owner,
    pub shared: bool,
    pub routine: R,
    pub handle: u64,
    pub adapter: u64,
    pub kind: u32,
    /// IRQL at the acquire.
    pub before: u8,
    /// Event of the acquire, if it was seen.
    pub call: Option<u64>,
    /// The acquire was seen, or what it did its work by.
    pub seen: bool,
}

#[derive(Clone, Debug)]
pub struct Lock {
    pub class: Class,
    pub owner: Owner,
    /// Of the lock; for a DPC lock, of the `STOR_DPC`.
    pub address: u64,
    pub adapter: u64,
    /// IRQL at which it is held.
    pub level: u8,
    /// Locks are taken in the order of their groups, one of a group.
    pub group: u8,
    /// Locks, by bit, of which nobody else may hold any. 0: it takes nothing.
    pub excludes: u32,
    /// An acquire of it was seen whose end was not.
    pub doubtful: bool,
    pub holders: Vec<Holder>,
}

pub const ADAPTERS: [u64; 3] = [0xffff_9000_0001_0000, 0xffff_9000_0002_0000, 0xffff_9000_0003_0000];
/// The cancel spin lock.
pub const CANCEL: usize = 13;

#[derive(Clone, Debug)]
pub struct Locks(pub Vec<Lock>);

impl Locks {
    pub fn new(config: &Config) -> Self {
        use Class as C;
        use Owner::{Nt, Other, Target};
        const ROWS: [(Class, Owner, usize, u8); 21] = [
            (C::Spin, Target, 0, 2),
            (C::Spin, Target, 0, 2),
            (C::Queued, Target, 0, 2),
            (C::Ex, Target, 0, 2),
            (C::Dpc, Target, 0, 2),
            (C::Dpc, Target, 1, 2),
            (C::StartIo, Target, 0, 2),
            (C::StartIo, Target, 1, 2),
            (C::Interrupt, Target, 0, 5),
            (C::Interrupt, Target, 1, 5),
            (C::Message(0), Target, 0, 5),
            (C::Message(1), Target, 0, 5),
            (C::Object, Target, 0, 5),
            (C::Cancel, Target, 0, 2),
            (C::Spin, Other, 0, 2),
            (C::Queued, Other, 0, 2),
            (C::Ex, Other, 0, 2),
            (C::Dpc, Other, 2, 2),
            (C::Spin, Nt, 0, 2),
            (C::Queued, Nt, 0, 2),
            (C::Spin, Nt, 0, 5),
        ];
        let mut locks: Vec<Lock> = (0..ROWS.len())
            .map(|number| {
                let (class, owner, adapter, level) = ROWS[number];
                Lock {
                    class,
                    owner,
                    address: 0xffff_c000_0000_0000 + number as u64 * 0x100,
                    adapter: ADAPTERS[adapter],
                    level,
                    group: if level == 5 { 100 } else { number as u8 },
                    excludes: 1 << number,
                    doubtful: false,
                    holders: Vec::new(),
                }
            })
            .collect();
        // Of locks that are held at the level of a device one is taken at a time.
        let mut join = |one: usize, other: usize| {
            locks[one].excludes |= 1 << other;
            locks[other].excludes |= 1 << one;
        };
        if config.per_message {
            join(8, 10);
            join(8, 11);
        }
        if config.half_duplex {
            join(6, 8);
            join(7, 9);
            if config.per_message {
                join(6, 10);
                join(6, 11);
            }
            for start_io in [6, 7] {
                (locks[start_io].level, locks[start_io].group) = (5, 100);
            }
        }
        if config.no_interrupt {
            (locks[9].level, locks[9].excludes) = (2, 0);
            if config.half_duplex {
                (locks[7].level, locks[7].excludes) = (2, 0);
            }
        }
        Self(locks)
    }

    /// Whether the lock can be taken now.
    pub fn free(&self, lock: usize, shared: bool) -> bool {
        let excludes = self.0[lock].excludes;
        self.0
            .iter()
            .enumerate()
            .filter(|(number, _)| excludes >> number & 1 != 0)
            .all(|(_, other)| other.holders.iter().all(|holder| shared && holder.shared))
    }

    /// The hold of an agent.
    pub fn held_by(&self, lock: usize, agent: usize) -> Option<&Holder> {
        self.0[lock].holders.iter().rfind(|holder| holder.agent == agent)
    }

    /// What keeps an agent from taking a lock: its hold of that, or of one that is the same or a part of it.
    pub fn in_the_way_of(&self, lock: usize, agent: usize) -> Option<&Holder> {
        let excludes = self.0[lock].excludes;
        let same = |(number, _): &(usize, &Holder)| excludes >> number & 1 != 0;
        self.holds_of(agent).filter(same).map(|(_, holder)| holder).last()
    }

    /// All holds of an agent.
    pub fn holds_of(&self, agent: usize) -> impl Iterator<Item = (usize, &Holder)> {
        self.0.iter().enumerate().flat_map(move |(number, lock)| {
            let own = lock.holders.iter().filter(move |holder| holder.agent == agent);
            own.map(move |holder| (number, holder))
        })
    }

    /// Ends a hold: the agent's, or whoever's it is.
    pub fn give_back(&mut self, lock: usize, agent: usize) -> Option<Holder> {
        let holders = &mut self.0[lock].holders;
        let own = holders.iter().rposition(|holder| holder.agent == agent);
        let place = own.or_else(|| holders.len().checked_sub(1))?;
        Some(holders.remove(place))
    }
}
