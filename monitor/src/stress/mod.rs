//! The nightly stress job: many runs of one driver under faults and seeds, and what is to be said of them next morning.
//!
//! [`planning`] says what each run of a job is, [`triage`] what the results come to, [`search`] how a case is made smaller
//! or a build found; all three are pure: no files, no clock, no processes. [`history`] keeps results in SQLite, and
//! [`runner`] has child processes carry out the runs. It must not know how a guest is watched: a run is a process of its
//! own, and its report is all that comes back.

pub mod case;
pub mod history;
pub mod planning;
pub mod runner;
pub mod search;
pub mod triage;
