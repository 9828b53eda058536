//! Spin lock contracts and the checker that holds calls against them.
//!
//! Pure: no I/O, no clock, no threads. The same code serves live runs, trace replay, property tests and benchmarks.
#![forbid(unsafe_code)]

pub mod checker;
pub mod contract;
pub mod event;
pub mod finding;
pub mod identity;
mod ledger;
mod matching;
mod modules;
pub mod rules;
mod table;
pub mod trace;
