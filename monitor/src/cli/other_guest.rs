//! `storlock run` without a driver under test: a Linux kernel, or whatever firmware finds on the disk. Nothing is watched;
//! these guests show that the machine works.
//!
//! Talks to the file system and to the machine.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, anyhow};
use storlock_vmm::boot::{LinuxRequest, is_linux_kernel};
use storlock_vmm::run::MachineStop;
use storlock_vmm::sandbox::Sandbox;

use super::output::ReportDirectory;
use super::run::{self, Arguments, Terminal};
use super::{Failure, firmware, input};
use crate::machine::Start;
use crate::machine::other::OtherGuest;
use crate::outcome::{self, Condition};
use crate::output::{Cut, WholeFile};
use crate::report::FaultInfo;

/// Bytes of a kernel that show whether it is Linux.
const HEADER: u64 = 0x400;

/// What to boot; `None` if it is a guest to be watched.
///
/// # Errors
/// [`Failure`] if a file cannot be read, or options contradict each other.
pub fn wanted(arguments: &Arguments) -> Result<Option<Start>, Failure> {
    let kernel = match &arguments.kernel {
        Some(path) if is_linux(path).map_err(Failure::infrastructure)? => Some(path),
        _ => None,
    };
    if kernel.is_none() && arguments.firmware.is_none() {
        return match &arguments.initrd {
            None => Ok(None),
            Some(_) => Err(Failure::usage(anyhow!("--initrd goes with a Linux kernel (--kernel)"))),
        };
    }
    if arguments.driver.is_some() {
        if kernel.is_none() && arguments.kernel.is_none() {
            return Ok(None);
        }
        return Err(Failure::usage(anyhow!(
            "--driver goes with an NT-compatible kernel (--kernel), or with what firmware boots from a disk (--firmware \
             without --kernel): Linux has no such driver"
        )));
    }
    if arguments.gdb.is_some() {
        return Err(Failure::usage(anyhow!(
            "--gdb goes with a driver under test (--driver): Linux and firmware run without a debugger so far"
        )));
    }
    if arguments.dump_on_violation.is_some() {
        return Err(Failure::usage(anyhow!(
            "--dump-on-violation goes with a driver under test (--driver): without one nothing is watched"
        )));
    }
    if kernel.is_none() && arguments.kernel.is_some() {
        return Err(Failure::usage(anyhow!(
            "firmware can boot a Linux kernel only: this --kernel is none"
        )));
    }
    start(arguments, kernel).map(Some).map_err(Failure::infrastructure)
}

fn is_linux(path: &Path) -> anyhow::Result<bool> {
    let mut start = Vec::new();
    let file = input::open_regular(path).with_context(|| format!("cannot use {} as the kernel", path.display()))?;
    file.take(HEADER)
        .read_to_end(&mut start)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(is_linux_kernel(&start))
}

fn start(arguments: &Arguments, kernel: Option<&PathBuf>) -> anyhow::Result<Start> {
    let patience = arguments.time_limit.0;
    let linux = match kernel {
        Some(path) => Some(LinuxRequest {
            kernel: firmware::read(path, patience)?,
            initrd: arguments
                .initrd
                .as_deref()
                .map(|path| firmware::read(path, patience))
                .transpose()?,
            command_line: arguments.append.clone(),
        }),
        None => None,
    };
    match (&arguments.firmware, linux) {
        (None, Some(linux)) => Ok(Start::Linux(linux)),
        (Some(firmware), kernel) => Ok(Start::Firmware(firmware::request(
            arguments,
            firmware.as_deref(),
            kernel,
        )?)),
        (None, None) => Err(anyhow!("there is nothing to boot")),
    }
}

/// Runs the guest to its end.
///
/// # Errors
/// [`Failure`] if it cannot be started.
pub fn execute(
    arguments: &Arguments,
    start: Start,
    claimed: Option<ReportDirectory>,
    terminal: &Terminal,
    sandbox: Sandbox,
) -> Result<u8, Failure> {
    let _directory = run::create_directory(arguments, claimed)?;
    let screenshot = firmware::prepare_screenshot(arguments).map_err(Failure::infrastructure)?;
    let options = run::machine_options(arguments, sandbox);
    let guest = OtherGuest::prepare(&options, start).map_err(Failure::infrastructure)?;
    let renamed: Vec<&Path> = screenshot.iter().filter_map(WholeFile::renamed_in).collect();
    sandbox
        .limit_files_with_names(&[], &renamed)
        .map_err(Failure::infrastructure)?;
    let interrupt = &terminal.interrupt;
    interrupt.stops(guest.control(), false);
    let deadline = Instant::now().checked_add(arguments.time_limit.0);
    let mut end = guest.run(arguments.time_limit.0).map_err(Failure::infrastructure)?;
    let interrupted = interrupt.happened();
    interrupt.reporting();
    if let Some(screenshot) = &screenshot {
        deadline.inspect(|deadline| screenshot.progress().give_up_at(*deadline));
        match firmware::write_screenshot(screenshot, end.picture.as_ref()) {
            Some(Cut::Failure(text)) => end.failures.push(text),
            Some(Cut::Note(text)) => end.notes.push(text),
            None => {}
        }
    }
    let restarts = match end.restarts {
        0 => String::new(),
        1 => ", started again once".to_owned(),
        more => format!(", started again {more} times"),
    };
    let text = format!("{} (after {:.1} s{restarts})\n", end.reason, end.duration.as_secs_f64());
    let printed = terminal
        .printer
        .print(text.as_bytes(), deadline, &|| interrupt.happened());
    end.failures.extend(printed.err());
    let mut held: Vec<Condition> = condition(&end.reason, interrupted).into_iter().collect();
    for reason in end.faults.iter().filter_map(FaultInfo::never_injected) {
        crate::tell!("inconclusive: {reason}");
        held.push(Condition::Inconclusive);
    }
    for note in &end.notes {
        crate::tell!("note: {note}");
    }
    for failure in &end.failures {
        crate::tell!("error: {failure}");
        held.push(Condition::Infrastructure);
    }
    Ok(outcome::exit_code(&held))
}

/// What the end of the guest means; nothing if it is the one that was wanted.
fn condition(reason: &MachineStop, interrupted: bool) -> Option<Condition> {
    match reason {
        MachineStop::PowerOff | MachineStop::Reset => None,
        MachineStop::Stopped if interrupted => Some(Condition::Interrupted),
        MachineStop::Failed(_) => Some(Condition::Infrastructure),
        _ => Some(Condition::GuestFailed),
    }
}
