//! Watches the spin lock routines of a Windows guest from the host and reports calls that break their contract.
//!
//! This crate knows Windows and locks; it never calls an ioctl. The machine comes from `storlock-vmm`, the verdicts
//! from `storlock-check`.
//!
//! A [`Session`] takes the stops of a machine's processors and makes a [`Report`]. [`replay`] feeds it from a recording,
//! without a guest:
//!
//! ```
//! use std::fs::File;
//!
//! use storlock::report::text;
//! use storlock::{Outcome, replay};
//!
//! let report = replay::recording(File::open("tests/data/session.rec")?)?;
//! assert_eq!(report.outcome, Outcome::Defect);
//! let finding = &report.findings[0];
//! println!("{}: {}", finding.rule.meta().name, finding.cause.text());
//! println!("{}", text::render(&report));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`RunSpec`] describes a run as data; `storlock run` carries it out ([`cli::run`]).
#![forbid(unsafe_code)]
// The command line says everything, by one way (docs/contributing.md, "Who may print").
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod backend;
pub mod cli;
mod doctor;
mod dump;
pub mod escape;
pub mod gdb;
mod hooks;
pub mod notices;
mod outcome;
mod output;
pub mod report;
pub mod run;
pub mod session;
pub mod stress;
pub mod threads;
pub(crate) mod timing;
pub mod vmi;
mod watch;
pub mod windows;

pub use outcome::Outcome;
pub use report::Report;
pub use run::spec::RunSpec;
pub use session::{Session, replay};
