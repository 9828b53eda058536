//! Who held which lock, and when: made from the events of a run, for the formats that draw it.
//!
//! It is not part of the report in JSON: an event trace holds the same in less space.

use storlock_check::identity::{LockIdentity, stor_spinlock_name};

use super::Location;
use crate::timing::Spread;

/// What times are counted in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Clock {
    /// Numbers of events: what the timeline was made of has no times.
    #[default]
    Events,
    /// Nanoseconds since the first event.
    Nanoseconds,
}

/// The holds of a run. Times are as [`Timeline::clock`] says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timeline {
    /// What times are counted in.
    pub clock: Clock,
    /// Time of the last event; the first holds begin at 0 or later.
    pub end: u64,
    /// Events that it was made of.
    pub events: u64,
    /// Processors that took a lock: the highest number and 1.
    pub processors: u32,
    /// Every lock that was taken, in the order of the first time.
    pub locks: Vec<TimedLock>,
    /// Where locks were taken.
    pub places: Vec<Location>,
    /// Locks of one kind.
    pub(crate) classes: Vec<LockClass>,
    /// Which class was taken while which was held.
    pub order: Vec<OrderEdge>,
    /// The holds, in the order in which they ended; those that never did are the last.
    pub holds: Vec<Hold>,
    /// Calls that broke a contract or are suspected to.
    pub(crate) marks: Vec<Mark>,
    /// Holds that are in the sums of the classes, but for which the list had no room.
    pub(crate) not_kept: u64,
    /// Why it ends before the run did.
    pub cut: Option<String>,
}

/// A lock in a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedLock {
    /// Which.
    pub identity: LockIdentity,
    /// Index of its class.
    pub(crate) class: u32,
}

/// Locks that are taken in the same way: those of the port driver by their kind, others by the place of their first acquire.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LockClass {
    /// The kind.
    pub kind: String,
    /// Index of the place of the first acquire, where the class has one.
    pub(crate) site: Option<u32>,
    /// Number of locks.
    pub locks: u64,
    /// How often they were taken.
    pub acquires: u64,
    /// How often that had to wait for another processor.
    pub contended: u64,
    /// How long that was, all together and at most.
    pub waited: u64,
    /// The longest wait.
    pub(crate) longest_wait: u64,
    /// How long they were held, all together.
    pub held: u64,
    /// The longest hold.
    pub(crate) longest_hold: u64,
    /// How long the holds were.
    pub(crate) spread: Option<Spread>,
}

/// Locks of one class were taken while a lock of another was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderEdge {
    /// Class of the lock that was held.
    pub held: u32,
    /// Class of the lock that was taken.
    pub taken: u32,
    /// How often.
    pub count: u64,
    /// Number of the first event at which it was so.
    pub event: u64,
}

/// One hold of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// When the routine was entered that took it.
    pub asked: u64,
    /// When the lock was had: later than `asked` where another processor had it first.
    pub from: u64,
    /// When its release was entered; `None`: never.
    pub to: Option<u64>,
    /// Processor.
    pub vcpu: u32,
    /// Index of the lock.
    pub lock: u32,
    /// Index of the place that took it.
    pub place: u32,
    /// Number of the event of the acquire.
    pub event: u64,
}

/// A call in which something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// When.
    pub time: u64,
    /// Number of the event.
    pub event: u64,
    /// Processor.
    pub vcpu: u32,
}

impl Timeline {
    /// The name of a class: its kind, and where it is taken first.
    #[must_use]
    pub(crate) fn class_name(&self, index: u32) -> String {
        let Some(class) = self.classes.get(index as usize) else {
            return "other locks".to_owned();
        };
        let site = class.site.and_then(|site| self.places.get(site as usize));
        site.map_or_else(
            || class.kind.clone(),
            |site| format!("{} of {}", class.kind, short(site)),
        )
    }
}

/// A place in a few words.
#[must_use]
pub fn short(place: &Location) -> String {
    match (&place.symbol, &place.module) {
        (Some((name, 0)), _) => name.clone(),
        (Some((name, distance)), _) => format!("{name}+{distance:#x}"),
        (None, Some(module)) => format!("{module}+{:#x}", place.offset.unwrap_or(0)),
        (None, None) => format!("{:#x}", place.address),
    }
}

/// The kind of a lock in a few words, and whether its class has a place.
#[must_use]
pub(crate) fn kind_of(lock: &LockIdentity) -> (String, bool) {
    match *lock {
        LockIdentity::Address(_) => ("spin lock".to_owned(), true),
        LockIdentity::StorPort { kind, .. } => match stor_spinlock_name(kind) {
            Some(name) => (name.to_owned(), false),
            None => (format!("STOR_SPINLOCK {kind}"), false),
        },
        LockIdentity::Msi { .. } => ("MSI lock".to_owned(), false),
        LockIdentity::Interrupt(_) => ("interrupt spin lock".to_owned(), false),
        LockIdentity::Cancel => ("cancel spin lock".to_owned(), false),
        LockIdentity::Handle(_) => ("unknown lock".to_owned(), false),
    }
}
