//! Watches the spin lock routines of a Windows guest from the host and reports calls that break their contract.
//!
//! This crate knows Windows and locks; it never calls an ioctl. The machine comes from `storlock-vmm`, the verdicts
//! from `storlock-check`.
#![forbid(unsafe_code)]
// The command line says everything, by one way (docs/contributing.md, "Who may print").
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod backend;
pub mod cli;
mod doctor;
mod dump;
pub mod escape;
pub mod gdb;
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
