//! Which routines were watched, and which were not: plain data of a report.

use serde::{Deserialize, Serialize};

use super::choice::{Choice, NotArmed, WatchGap, WhyWatched};
use super::reason::StepOver;
use super::render::told;

/// Which routines were watched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchInfo {
    /// Watched routines.
    pub routines: Vec<WatchedRoutine>,
    /// How they were chosen.
    #[serde(flatten, with = "told::choice")]
    pub(crate) choice: Choice,
    /// Sets of routines that took turns, where not all fit; none if one set was watched all the time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sets: Vec<WatchedSet>,
    /// Hits that were not judged.
    #[serde(default)]
    pub(crate) ignored: IgnoredHits,
    /// What was not watched.
    #[serde(with = "told::gaps")]
    pub(crate) gaps: Vec<WatchGap>,
    /// How a breakpoint is stepped over.
    pub step_over: StepOver,
    /// Whether the return of a routine could be caught.
    pub(crate) catch_return: bool,
    /// Event number at which the breakpoints were in force on all processors; `None`: they never were.
    pub armed_at: Option<u64>,
    /// Why they are not.
    #[serde(flatten, with = "told::not_armed")]
    pub(crate) not_armed: Option<NotArmed>,
}

/// Hits of watched addresses that are no calls, or none of a guest that works; they are in no other number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IgnoredHits {
    /// In user mode: a jump to the address of a routine, which faults before its first instruction.
    pub(crate) user_mode: u64,
    /// After the guest had recorded a bug check.
    pub(crate) after_bug_check: u64,
}

/// A watched routine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "told::ToldRoutine", into = "told::ToldRoutine")]
pub struct WatchedRoutine {
    /// `module!routine`.
    pub routine: String,
    /// Other lock routines that have the same address: one breakpoint sees them all.
    pub(crate) same_address: Vec<String>,
    /// Its address in the guest.
    pub address: u64,
    /// Why it is watched: once for each chosen export at its address.
    pub(crate) why: Vec<WhyWatched>,
    /// How often it was entered.
    pub hits: u64,
}

/// Routines that were watched together, in turn with others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WatchedSet {
    /// `module!routine` of each.
    pub routines: Vec<String>,
    /// How often they had their turn.
    pub(crate) turns: u64,
    /// Hits in these turns.
    pub hits: u64,
}
