//! The checker against the truth of a simulated kernel and in single scenes.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a test measured is shown on demand"
)]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::too_many_lines,
    clippy::unused_self,
    missing_docs,
    unreachable_pub,
    reason = "helpers of tests, which may panic and are seen by nobody else"
)]

mod looks;
mod naming;
mod oracle;
mod rules;
mod scenes;
mod sequences;
mod simulation;
mod table;
mod traces;
