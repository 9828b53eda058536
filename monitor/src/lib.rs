//! Watches the spin lock routines of a Windows guest from the host and reports calls that break their contract.
//!
//! This crate knows Windows and locks; it never calls an ioctl. The machine comes from `storlock-vmm`, the verdicts
//! from `storlock-check`.
#![forbid(unsafe_code)]
// The command line says everything, by one way (docs/contributing.md, "Who may print").
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod backend;
pub mod cli;
pub mod dump;
pub mod escape;
pub mod gdb;
pub mod notices;
pub mod outcome;
pub mod output;
pub mod report;
pub mod run;
pub mod session;
pub mod stress;
pub mod threads;
pub mod timing;
pub mod vmi;
pub mod watch;
pub mod windows;
