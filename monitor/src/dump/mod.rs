//! Crash dumps of the guest that WinDbg opens: a 64-bit full kernel dump of the machine as it stands at a violation.
//!
//! [`Contents`] reads from the stopped guest what such a file holds beside the pages; the writer streams header and
//! pages. Talks to the machine by the traits of [`crate::vmi`], and to the readers of Windows structures. It must not
//! know how violations are found or how the machine is stopped. `docs/dump.md` is the page for users.

pub(crate) mod bug_check;
pub(crate) mod contents;
pub(crate) mod context;
pub(crate) mod layout;
#[cfg(test)]
mod tests;
pub(crate) mod writer;

use storlock_check::finding::Finding;
use zerocopy::IntoBytes as _;

pub(crate) use self::contents::{Contents, ProcessorRegisters};
pub(crate) use self::writer::{DumpError, DumpFile};
use crate::report::{BugCheck, DumpInfo, DumpReason, Location};
use crate::vmi::{GuestMemory, PhysicalMemory};
use crate::windows::pdb::KernelPdb;
use crate::windows::{CodeView, DebuggerData, Image, Kernel};

/// What a dump is about.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Why the machine is dumped.
    pub(crate) reason: DumpReason,
    /// The same as code and parameters.
    pub bug_check: BugCheck,
    /// The violation in a few words; not ASCII, or beyond 127 bytes, is lost.
    pub comment: String,
    /// Number of the event at which it was found.
    pub event: u64,
    /// The guest's kernel.
    pub kernel: Kernel,
}

impl Subject {
    /// A violation, called from `caller`.
    #[must_use]
    pub fn new(finding: &Finding, caller: &Location, kernel: &Kernel) -> Self {
        let rule = finding.rule.meta().name;
        Self {
            reason: DumpReason::Violation,
            bug_check: bug_check::of(finding),
            comment: format!("storlock {rule}: {} at {caller}", finding.cause.name()),
            event: finding.sequence,
            kernel: kernel.clone(),
        }
    }

    /// Another reason than a violation, after the event with that number.
    #[must_use]
    pub(crate) fn other(reason: DumpReason, event: u64, kernel: &Kernel) -> Self {
        Self {
            reason,
            bug_check: bug_check::of_reason(reason, event),
            comment: format!("storlock {}", reason.text()),
            event,
            kernel: kernel.clone(),
        }
    }
}

/// What is known of kernels' debugger data before the guest starts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Symbols {
    /// PDBs, one of which may be that of the guest's kernel.
    pub(crate) pdbs: Vec<KernelPdb>,
}

impl Symbols {
    /// Finds the debugger data of a kernel.
    ///
    /// # Errors
    /// What is missing without them, and what the user can do.
    fn debugger_data(&self, memory: &(impl GuestMemory + ?Sized), kernel: &Image) -> Result<DebuggerData, String> {
        let code_view = CodeView::read(memory, kernel);
        let fits = |pdb: &&KernelPdb| code_view.as_ref().is_some_and(|code_view| code_view.guid == pdb.guid);
        let lost = "without it WinDbg finds neither processes nor the other processors' registers in this dump";
        if let Some(pdb) = self.pdbs.iter().find(fits) {
            return DebuggerData::read(memory, kernel, &pdb.places).map_err(|error| format!("{error}; {lost}"));
        }
        DebuggerData::find(memory, kernel).map_err(|error| match code_view {
            Some(code_view) => format!(
                "{error}, as where Windows was started without kernel debugging; {lost}. Give --symbols a directory with the \
                 kernel's {} (identifier {}, from a symbol server){}, or start the guest with debugging on \
                 (bcdedit /debug on)",
                code_view.name,
                code_view.identifier(),
                if self.pdbs.is_empty() { "" } else { ": what was given belongs to other builds" }
            ),
            None => format!("{error}, and the kernel names no PDB; {lost}"),
        })
    }
}

/// Where a dump goes and what is known for it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The file.
    pub file: DumpFile,
    /// What is known of the kernel.
    pub symbols: Symbols,
}

impl Plan {
    /// Writes the dump; `go_on` is asked from time to time.
    ///
    /// # Errors
    /// [`DumpError`]; there is no file then.
    pub(crate) fn write(
        &self,
        mut contents: Contents,
        memory: &dyn PhysicalMemory,
        go_on: &dyn Fn() -> bool,
    ) -> Result<u64, DumpError> {
        let runs = contents.describe_memory(&memory.stretches())?;
        self.file.fill(|file| {
            let header = contents.header.as_bytes();
            writer::write(file, header, (memory, &runs), &contents.patches, go_on)
        })
    }

    /// As the report lists a dump.
    #[must_use]
    pub(crate) fn info(&self, subject: &Subject, written: &Result<(u64, Vec<String>), DumpError>) -> DumpInfo {
        let (bytes, missing, error) = match written {
            Ok((bytes, missing)) => (*bytes, missing.clone(), None),
            Err(error) => (0, Vec::new(), Some(error.to_string())),
        };
        DumpInfo {
            file: self.file.path().display().to_string(),
            on: subject.reason,
            event: subject.event,
            bytes,
            missing,
            error,
        }
    }
}
