//! The `storlock` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    storlock::cli::main()
}
