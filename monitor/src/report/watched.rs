//! Which routines were watched, and which were not: plain data of a report.

use serde::{Deserialize, Serialize};

use super::reason::StepOver;

/// Which routines were watched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchInfo {
    /// Watched routines.
    pub routines: Vec<WatchedRoutine>,
    /// How they were chosen, in a sentence.
    pub(crate) summary: String,
    /// How the debug registers are used, and why, a line each.
    #[serde(default)]
    pub explanation: Vec<String>,
    /// Sets of routines that took turns, where not all fit; none if one set was watched all the time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sets: Vec<WatchedSet>,
    /// Hits that were not judged.
    #[serde(default)]
    pub(crate) ignored: IgnoredHits,
    /// Lock routines the target imports that were not watched.
    pub gaps: Vec<WatchGap>,
    /// How a breakpoint is stepped over.
    pub step_over: StepOver,
    /// Whether the return of a routine could be caught.
    pub(crate) catch_return: bool,
    /// Event number at which the breakpoints were in force on all processors; `None`: they never were.
    pub armed_at: Option<u64>,
    /// Why they never were.
    pub(crate) not_armed: Option<String>,
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
pub struct WatchedRoutine {
    /// `module!routine`.
    pub routine: String,
    /// Other lock routines that have the same address: one breakpoint sees them all.
    #[serde(default)]
    pub(crate) same_address: Vec<String>,
    /// Its address in the guest.
    pub address: u64,
    /// Why it was chosen.
    pub reason: String,
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

/// A lock routine that the target imports and that was not watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchGap {
    /// `module!routine`.
    pub routine: String,
    /// What follows from it for the verdicts.
    pub(crate) consequence: String,
}
