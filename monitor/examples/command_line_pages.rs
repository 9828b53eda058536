//! Writes the manual pages and the shells' completions of the `storlock` command, from the command line's own description.
//!
//! Usage: `command_line_pages DIRECTORY`. It gets `man1/storlock.1`, a page for each subcommand beside it, and
//! `completions/storlock.bash`, `_storlock` (zsh) and `storlock.fish`.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use clap_complete::{Shell, generate_to};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [directory] = arguments.as_slice() else {
        return Err("usage: command_line_pages DIRECTORY".into());
    };
    let directory = PathBuf::from(directory);
    let (pages, completions) = (directory.join("man1"), directory.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(storlock::cli::description(), &pages)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut storlock::cli::description(), "storlock", &completions)?;
    }
    Ok(())
}
