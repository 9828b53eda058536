//! The guest's serial output: goes to the log and, if the user asks for it, to a second place.
//!
//! Writes to outlets only, so that a vCPU that sends a byte waits for no reader. It must not know what the guest says.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use storlock_vmm::sandbox::Sandbox;

use super::last_lines::LastLines;
use super::machine::GuestOptions;
use super::report_directory::Outputs;
use crate::notices::Notices;
use crate::output::{Cut, DISK_PATIENCE, Outlet, OutputFile, PATIENCE, WhenFull};

/// Bytes on their way to a file at most.
const ROOM: usize = 4 << 20;
/// Most bytes of the log and of its copy, each.
const LIMIT: u64 = 256 << 20;

/// Where it goes.
pub(super) struct SerialLog {
    log: Outlet,
    /// How long the log may take nothing at the end.
    patience: Duration,
    copy: Option<Copy>,
    last: Mutex<LastLines>,
}

enum Copy {
    Notices(Arc<dyn Notices>),
    File(String, Outlet),
}

/// What the machine writes to.
pub(super) struct SerialWriter(pub(super) Arc<SerialLog>);

impl SerialLog {
    /// Opens the files.
    pub(super) fn create(options: &GuestOptions, outputs: &Outputs) -> anyhow::Result<Arc<Self>> {
        let path = &options.serial_log;
        let open = |path: &Path| outputs.open(path, options.reader_patience);
        let log = open(path).with_context(|| format!("cannot write the serial log {}", path.display()))?;
        let patience = if log.regular().is_some() {
            DISK_PATIENCE
        } else {
            PATIENCE
        };
        let copy = match &options.serial_copy {
            None => None,
            Some(path) if path.as_os_str() == "-" => Some(Copy::Notices(Arc::clone(&options.notices))),
            Some(path) => {
                let what = || format!("cannot write the copy of the serial log {}", path.display());
                let file = open(path).with_context(what)?;
                let outlet = outlet("serial-copy", file, options.sandbox).with_context(what)?;
                Some(Copy::File(path.display().to_string(), outlet))
            }
        };
        Ok(Arc::new(Self {
            log: outlet("serial", log, options.sandbox).context("the serial log")?,
            patience,
            copy,
            last: Mutex::default(),
        }))
    }

    /// The last lines that the guest wrote.
    pub(super) fn last_lines(&self) -> Vec<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).lines()
    }

    /// Writes what is left; says what ends early.
    pub(super) fn finish(&self) -> Vec<Cut> {
        let log = self.log.finish(|stall| stall < self.patience);
        let mut cuts: Vec<Cut> = log.cut("the serial log", LIMIT).into_iter().collect();
        if let Some(Copy::File(path, copy)) = &self.copy {
            let ending = copy.finish(|stall| stall < PATIENCE);
            cuts.extend(ending.cut(&format!("the copy of the serial log {path}"), LIMIT));
        }
        cuts
    }
}

/// A file on a slow disk is waited for, a reader is not: the guest is not to feel that somebody reads its terminal.
fn outlet(name: &str, file: OutputFile, sandbox: Sandbox) -> io::Result<Outlet> {
    let when_full = if file.regular().is_some() {
        WhenFull::Wait(DISK_PATIENCE)
    } else {
        WhenFull::LeaveOut
    };
    let progress = file.progress();
    Outlet::start(name, file, progress, (ROOM, LIMIT), when_full, sandbox)
}

impl Write for SerialWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.log.push(bytes);
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        match &self.0.copy {
            Some(Copy::Notices(notices)) => notices.serial(bytes),
            Some(Copy::File(_, copy)) => copy.push(bytes),
            None => {}
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
