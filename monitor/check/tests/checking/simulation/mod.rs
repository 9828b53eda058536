//! A simulated SMP machine with right and wrong programs, which knows who really holds what.
//!
//! `locks` is the truth about locks, `code` makes the programs of drivers, kernel and port driver, `bugs` the wrong ones, `machine` runs them and
//! tells what a host would see, `calls` does what lock routines do, `pages` judges every call of the driver under test by
//! the DDI pages against the truth. None of them knows what the checker records.

mod bugs;
mod calls;
mod code;
mod locks;
mod machine;
mod pages;
mod world;

use storlock_check::contract::RoutineSet;
use storlock_check::event::Event;

pub use bugs::Bug;
pub use machine::Machine;
pub use pages::Broken;

/// Small generator of random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
    pub fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Whose code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The driver under test.
    Target,
    /// A driver that the target calls to do its work.
    Helper,
    /// A driver that has nothing to do with it.
    Other,
    /// The kernel.
    Nt,
    /// The port driver.
    Port,
}

/// How a machine is built and watched.
#[expect(clippy::struct_excessive_bools, reason = "each is a way in which a machine differs")]
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub processors: usize,
    /// Number of the first processor that runs anything.
    pub first: u32,
    pub threads: usize,
    /// The machine stops beginning anything new after about as many events.
    pub events: usize,
    /// The machine stands still after so many steps, wherever its processors are.
    pub cut: Option<u64>,
    /// Chance that a return is caught, percent.
    pub returns: u64,
    /// Routines call others to do their work.
    pub nested: bool,
    /// DPCs have a stack of their own.
    pub dpc_stack: bool,
    /// What the driver under test does wrong, once.
    pub bug: Option<Bug>,
    pub watched: RoutineSet,
    /// What the import table of the driver under test names, and whether there are no other routes.
    pub imported: RoutineSet,
    pub closed: bool,
    /// Calls before the watch begins.
    pub unwatched_calls: usize,
    /// Modules are told, and others than the driver under test take locks.
    pub owners: bool,
    /// The driver under test has a helper make some of its calls.
    pub helper: bool,
    /// Memory is freed and used again, modules go.
    pub reuse: bool,
    /// The guest is reset, once.
    pub reset: bool,
    /// The interrupt lock of the second adapter takes nothing; there is no interrupt object.
    pub no_interrupt: bool,
    /// `StartIoLock` is the interrupt lock.
    pub half_duplex: bool,
    /// The interrupt lock of the first adapter takes every message's lock.
    pub per_message: bool,
    /// The host has read how the port driver runs the adapters.
    pub told: bool,
    /// Words and handles cannot always be read.
    pub unreadable: bool,
}

/// A call of the driver under test that is wrong.
#[derive(Clone, Copy, Debug)]
pub struct Wrong {
    /// Event of the call; for a lock that is held past its scope, of the acquire. `None`: it was not seen.
    pub call: Option<u64>,
    /// Number of events at that time.
    pub at: u64,
    pub broken: Broken,
    /// The lock was acquired from below `DISPATCH_LEVEL`; of a call without an acquire, it is made there.
    pub low: bool,
    /// Of a release: the acquire was seen.
    pub whole: bool,
}

/// What happened.
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Run {
    pub events: Vec<Event>,
    /// The program that each event is of, 0 for none.
    pub programs: Vec<u32>,
    /// The first wrong call.
    pub wrong: Option<Wrong>,
    /// Releases of the driver under test that were seen and whose acquire was not.
    pub unknown_releases: Vec<u64>,
    /// At the end the driver under test has a lock.
    pub holds_at_end: bool,
    /// At the end a thread that no processor runs is in a lock routine.
    pub waits_elsewhere: bool,
    /// Somebody waits for ever.
    pub hung: bool,
    /// It came to its end.
    pub complete: bool,
    pub seen: Seen,
}

/// How often things happened that a simulation is made for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub programs: usize,
    pub contended: usize,
    /// Interrupts between the entry of an acquire and its raise of the IRQL.
    pub between: usize,
    /// Entries that were seen twice.
    pub again: usize,
    pub migrated: usize,
    pub refused: usize,
    pub half_pairs: usize,
    pub reused: usize,
    pub resets: usize,
    pub helped: usize,
    pub nested: usize,
    pub took_nothing: usize,
}

impl std::ops::AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.programs += other.programs;
        self.contended += other.contended;
        self.between += other.between;
        self.again += other.again;
        self.migrated += other.migrated;
        self.refused += other.refused;
        self.half_pairs += other.half_pairs;
        self.reused += other.reused;
        self.resets += other.resets;
        self.helped += other.helped;
        self.nested += other.nested;
        self.took_nothing += other.took_nothing;
    }
}
