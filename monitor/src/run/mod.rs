//! A run: its description ([`spec`]), the machine that is built for it, the one loop that waits for the machine
//! (`supervisor`), and its end.
//!
//! Talks to the virtual machine monitor, hands its stops to the session, and opens the run's files. It must not know
//! the command line, nor print: messages go to [`Notices`].

mod boot;
mod conformance;
mod debugger;
mod disks;
mod dump_plan;
mod dumps;
mod failure;
pub mod firmware;
mod guest;
pub mod images;
pub mod input;
mod last_lines;
pub mod places;
mod registry;
pub(crate) mod report_directory;
pub(crate) mod report_files;
mod running;
pub(crate) mod saved_report;
mod serial;
pub mod spec;
mod supervisor;
mod symbols;
mod unwatched;
mod watched;

use std::path::Path;
use std::sync::Arc;

use storlock_vmm::sandbox::{FileLimit, Sandbox};

pub use self::failure::{Failure, Lines};
use self::guest::{GuestOptions, Start};
use self::report_directory::{Outputs, ReportDirectory};
use self::spec::{CheckedSpec, RunSpec};
pub use self::unwatched::{UnwatchedEnd, UnwatchedRun};
pub use self::watched::{Finished, WatchedRun};
use crate::notices::Notices;

/// What a run has beside its description.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// Takes lines for the user.
    pub notices: Arc<dyn Notices>,
    /// Limits of the run's threads.
    pub sandbox: Sandbox,
    /// The command line that repeats the run, for the report.
    pub command_line: Vec<String>,
}

/// A run whose machine is built and whose files are open.
pub(crate) enum Prepared {
    /// With a driver to watch.
    Watched(Box<WatchedRun>),
    /// Without.
    Unwatched(Box<UnwatchedRun>),
}

/// Makes sure that every output of a run is a file of its own, locks its report directory, if there is one, and removes what
/// an earlier run has left in its outputs. `spec_file` is where the description comes from.
///
/// # Errors
/// [`Failure`] if two outputs are the same file, or one is also read; nothing was touched then. If another run uses an
/// output, or it cannot be removed.
pub(crate) fn claim(
    spec: &RunSpec,
    spec_file: Option<&Path>,
    notices: &dyn Notices,
) -> Result<Option<ReportDirectory>, Failure> {
    places::check(spec, spec_file)?;
    report_directory::clear_outputs(spec, notices)
}

/// Decides what the description leaves open, and chooses a seed if it has none.
///
/// # Errors
/// [`Failure`] if the kernel cannot be read, or something does not go together.
pub fn check(spec: &RunSpec) -> Result<CheckedSpec, Failure> {
    let linux = match &spec.kernel {
        Some(kernel) => boot::is_linux(kernel).map_err(Failure::infrastructure)?,
        None => false,
    };
    spec.check(linux, random_seed()).map_err(Failure::usage)
}

/// Builds the machine and opens the files of a run. What a run that is refused has begun is removed.
///
/// # Errors
/// [`Failure`] if a file or KVM cannot be used.
pub(crate) fn prepare(
    checked: CheckedSpec,
    claimed: Option<ReportDirectory>,
    host: &Host,
) -> Result<Prepared, Failure> {
    let outputs = Arc::new(Outputs::default());
    let prepared = if checked.is_watched() {
        WatchedRun::prepare(checked, claimed, host, &outputs).map(|run| Prepared::Watched(Box::new(run)))
    } else {
        UnwatchedRun::prepare(checked, claimed, host, &outputs).map(|run| Prepared::Unwatched(Box::new(run)))
    };
    if prepared.is_err() {
        outputs.remove();
    }
    prepared
}

fn create_directory(
    checked: &CheckedSpec,
    claimed: Option<ReportDirectory>,
    notices: &dyn Notices,
) -> Result<ReportDirectory, Failure> {
    ReportDirectory::create(&checked.spec.report_dir, claimed, checked.time_limit(), notices)
        .map_err(Failure::infrastructure)
}

/// The machine of any guest.
fn machine_options(checked: &CheckedSpec, host: &Host) -> GuestOptions {
    let spec = &checked.spec;
    GuestOptions {
        kvm: spec.kvm.to_path_buf(),
        cpus: spec.cpus,
        memory: checked.memory,
        disks: spec.disk.clone(),
        interrupts: spec.interrupts.into(),
        faults: spec.fault.clone(),
        faults_from: checked.faults_from,
        serial_log: spec.report_dir.join(report_directory::SERIAL_FILE),
        serial_copy: spec.serial.as_ref().map(|path| path.to_path_buf()),
        reader_patience: checked.time_limit(),
        hyperv: checked.hyperv,
        address_width: checked.address_width,
        ignore_msrs: spec.ignore_msrs,
        shutdown_grace: checked.shutdown_grace,
        at_reset: checked.at_reset,
        debugger: checked.gdb.is_some(),
        notices: Arc::clone(&host.notices),
        sandbox: host.sandbox,
    }
}

/// From here on the program reaches only the files that are open, and those that get their names in `renamed`.
fn limit_files(host: &Host, renamed: &[&Path]) -> anyhow::Result<()> {
    let files = host.sandbox.limit_files_with_names(&[], renamed)?;
    if files == FileLimit::Missing {
        host.notices.say(&format!("note: {files}"));
    }
    Ok(())
}

/// A seed that differs from run to run. It needs no secrecy; it is short because people copy it.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.finish() & 0xffff_ffff
}
