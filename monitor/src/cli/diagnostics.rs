//! The only way to standard error. Writing there can neither fail nor wait.
//!
//! Talks to standard error. A line that cannot be written is lost, and nothing else fails: a closed terminal or a full
//! disk must not cost a report. While a guest runs, a thread of its own writes the lines, so that nobody waits for a
//! slow reader. Lines that a guest or a debugger can cause are bounded in number.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use storlock_vmm::sandbox::Sandbox;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::escape;
use crate::notices::Notices;
use crate::output::{Outlet, Progress, WhenFull};

/// Bytes on their way to standard error at most.
const ROOM: usize = 1 << 20;
/// How long somebody who says something waits for a reader that takes nothing, once.
const PATIENCE: Duration = Duration::from_millis(100);
/// Most lines of those that a guest or a debugger causes.
const MOST_LINES: u64 = 10_000;

/// Most bytes of the guest's serial port.
const MOST_GUEST_BYTES: u64 = 64 << 20;

/// The thread that writes; until it is started everybody does so himself.
static OUTLET: OnceLock<Outlet> = OnceLock::new();
/// Lines so far that a guest or a debugger has caused.
static LINES: AtomicU64 = AtomicU64::new(0);
/// Bytes so far that the guest has sent.
static GUEST_BYTES: AtomicU64 = AtomicU64::new(0);
/// The user wants the log, all of it.
static WANTED: AtomicBool = AtomicBool::new(false);
/// Threads are limited: a panic must not open files.
static BRIEF: AtomicBool = AtomicBool::new(false);

/// Says a line on standard error, formatted as by `format!`.
macro_rules! tell {
    ($($text:tt)*) => { $crate::cli::diagnostics::line(::std::format_args!($($text)*)) };
}
pub(super) use tell;

/// Standard error, for what a run says while it goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct StandardError;

impl Notices for StandardError {
    fn say(&self, text: &str) {
        line(format_args!("{text}"));
    }

    fn say_bounded(&self, text: &str) {
        if may_say_more() {
            self.say(text);
        }
    }

    fn serial(&self, bytes: &[u8]) {
        guest_bytes(bytes);
    }
}

/// See [`tell!`]. What a guest or a file chose in it cannot act on the terminal.
pub(super) fn line(text: fmt::Arguments<'_>) {
    let mut text = escape::lines(&text.to_string()).into_owned();
    text.push('\n');
    write(text.as_bytes());
}

/// Counts a line that was caused from outside; the last one that may be said is followed by a note.
fn may_say_more() -> bool {
    let before = LINES.fetch_add(1, Ordering::Relaxed);
    if before == MOST_LINES {
        line(format_args!(
            "note: {MOST_LINES} lines like those above were printed; further ones are left out"
        ));
    }
    before < MOST_LINES
}

/// Passes on what the guest says, up to a limit.
fn guest_bytes(bytes: &[u8]) {
    let before = GUEST_BYTES.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    if before < MOST_GUEST_BYTES {
        write(bytes);
        if before + bytes.len() as u64 >= MOST_GUEST_BYTES {
            let note = "the serial port has reached its limit here; serial.log in the report directory has more";
            line(format_args!("\nnote: {note}"));
        }
    }
}

fn write(bytes: &[u8]) {
    match OUTLET.get() {
        Some(outlet) => outlet.push(bytes),
        // Nobody is left to be told.
        None => drop(io::stderr().write_all(bytes)),
    }
}

/// From here on a thread of its own, within its limits, writes to standard error.
///
/// # Errors
/// If it cannot be started.
pub(super) fn start(sandbox: Sandbox) -> io::Result<()> {
    BRIEF.store(sandbox.is_enforced(), Ordering::Relaxed);
    // Not by the language's own handle, whose lock a stuck write would keep.
    let out = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let outlet = Outlet::start(
        "stderr",
        Forgiving(out),
        Progress::default(),
        (ROOM, u64::MAX),
        WhenFull::Wait(PATIENCE),
        sandbox,
    )?;
    // A process has one standard error.
    let _ = OUTLET.set(outlet);
    Ok(())
}

/// Standard error, for which there is no other place to say that it fails.
struct Forgiving(File);

impl Write for Forgiving {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Ok(count) if count > 0 => Ok(count),
            _ => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until what was said is written, or its reader has taken nothing for `patience`.
pub(super) fn drain(patience: Duration) {
    if let Some(outlet) = OUTLET.get() {
        outlet.drain(|stall| stall < patience);
    }
}

/// Has a panic say where and why by the same way. A backtrace, if one is asked for, opens files: a limited thread has none.
pub(super) fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("unnamed");
        line(format_args!(
            "thread '{name}': {panic}; this is a defect of the program"
        ));
        if !BRIEF.load(Ordering::Relaxed) {
            let trace = std::backtrace::Backtrace::capture();
            if trace.status() == std::backtrace::BacktraceStatus::Captured {
                line(format_args!("{trace}"));
            }
        }
    }));
}

/// Sends what the libraries log the same way: warnings, or what `RUST_LOG` asks for.
pub(super) fn log() {
    WANTED.store(std::env::var_os(EnvFilter::DEFAULT_ENV).is_some(), Ordering::Relaxed);
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .from_env_lossy();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Log)
        .log_internal_errors(false);
    // Where another one is in force already it stays.
    let _ = subscriber.try_init();
}

/// Where the log is written.
struct Log;

impl<'a> MakeWriter<'a> for Log {
    type Writer = LogLine;

    fn make_writer(&'a self) -> LogLine {
        LogLine
    }
}

/// One line of the log, which the subscriber writes at once.
struct LogLine;

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if WANTED.load(Ordering::Relaxed) || may_say_more() {
            write(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
