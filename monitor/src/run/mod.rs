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
mod in_flight;
pub mod input;
mod last_lines;
mod machine;
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
use self::machine::{GuestOptions, Start};
use self::report_directory::{Outputs, ReportDirectory};
use self::spec::{CheckedSpec, RunSpec};
pub use self::unwatched::{UnwatchedEnd, UnwatchedRun};
pub use self::watched::{Finished, WatchedRun};
use crate::notices::Notices;
use crate::outcome::Condition;
use crate::report::Word;

/// What a run has beside its description.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// Takes lines for the user.
    pub notices: Arc<dyn Notices>,
    /// Limits of the run's threads.
    pub sandbox: Sandbox,
    /// The command line that repeats the run, for the report.
    pub command_line: Vec<Word>,
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
/// output, or it cannot be removed; if `--symbols` is of no use.
pub(crate) fn claim(
    spec: &RunSpec,
    spec_file: Option<&Path>,
    notices: &dyn Notices,
) -> Result<Option<ReportDirectory>, Failure> {
    let symbols = match dump_plan::check_symbols(spec.symbols.as_deref()) {
        Err(failure) if failure.condition == Condition::Usage => return Err(failure),
        symbols => symbols,
    };
    places::check(spec, spec_file)?;
    let directory = report_directory::clear_outputs(spec, notices)?;
    symbols.map(|()| directory)
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

/// What kept a machine from being made: a usage error if it is what was asked for.
fn of_machine(error: anyhow::Error) -> Failure {
    match error.downcast_ref::<storlock_vmm::run::Error>() {
        Some(cause) if cause.is_of_configuration() => Failure::usage(error),
        _ => Failure::infrastructure(error),
    }
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

#[cfg(test)]
mod tests {
    use storlock_vmm::boot::BootError;
    use storlock_vmm::run::Error;

    use super::*;

    #[test]
    fn a_machine_that_cannot_be_as_it_was_asked_for_is_a_usage_error() {
        let what = || "x".to_owned();
        let condition = |error: Error| of_machine(anyhow::Error::from(error).context("the machine")).condition;
        for asked in [
            Error::Configuration { what: what() },
            Error::Boot(BootError::CommandLine),
            Error::Boot(BootError::Name { file: what() }),
            Error::Boot(BootError::Space { what: what(), bytes: 1 }),
        ] {
            assert_eq!(condition(asked), Condition::Usage);
        }
        let file = BootError::Image {
            file: what(),
            reason: what(),
        };
        for host in [Error::Boot(file), Error::Ended] {
            assert_eq!(condition(host), Condition::Infrastructure);
        }
    }
}
