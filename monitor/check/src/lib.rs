//! Spin lock contracts and the checker that holds calls against them.
//!
//! Pure: no I/O, no clock, no threads. The same code serves live runs, trace replay, property tests and benchmarks.
//!
//! [`event`]s go into a [`checker::Checker`], [`finding`]s come out; [`rules`] says what is demanded and where that is documented.
//!
//! ```
//! use storlock_check::checker::{Checker, Limits, Outcome};
//! use storlock_check::contract::{Routine, RoutineSet};
//! use storlock_check::event::{Context, Event, EventKind, LockCall, LockOperand, Order, WatchSet};
//! use storlock_check::finding::Cause;
//!
//! let mut checker = Checker::new(Limits::default(), 0x5eed);
//! let mut apply = |sequence, kind| {
//!     checker.apply(&Event { sequence, order: Order::Total, kind });
//! };
//! apply(0, EventKind::WatchSetChanged(WatchSet {
//!     watched: RoutineSet::ALL,
//!     imported: RoutineSet::ALL,
//!     processors: 1,
//!     before_target: true,
//!     closed: true,
//!     ..WatchSet::default()
//! }));
//! // Nobody has acquired the lock: its word is 0.
//! apply(1, EventKind::LockCall(LockCall {
//!     routine: Routine::KeReleaseSpinLock,
//!     context: Context { irql: 2, interrupts: true, thread: 0xffff_e000_0000_1000, ..Context::default() },
//!     operand: LockOperand::Address(0xffff_c000_0000_2000),
//!     old_irql: Some(0),
//!     word: Some(0),
//! }));
//! assert_eq!(checker.findings()[0].cause, Cause::ReleaseWithoutAcquire);
//! assert_eq!(checker.outcome(true), Outcome::Defect);
//! ```
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
