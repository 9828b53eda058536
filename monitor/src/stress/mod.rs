//! The nightly stress job: many runs of one driver under faults and seeds, and the report on them next morning.
//!
//! [`planning`] decides what each run of a job is, [`triage`] judges the results, [`search`] makes a case smaller or
//! finds a build. All three are pure: no files, no clock, no processes. [`history`] keeps results in SQLite, and
//! [`runner`] has child processes carry out the runs. It must not know how a guest is watched: a run is a process of
//! its own, and its report is all that comes back.

pub mod case;
pub mod history;
pub(crate) mod planning;
pub(crate) mod runner;
pub(crate) mod search;
pub(crate) mod triage;
