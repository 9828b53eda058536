//! What a session is told before the guest starts and after it has ended. Both are part of a recording, so that a
//! replay is told the same.

use serde::{Deserialize, Serialize};
use storlock_check::rules::RuleSettings;

use crate::output::Cut;
pub use crate::report::EndKind;
use crate::report::conformance::Conformance;
use crate::report::{BugCheck, ControllerInFlight, DumpInfo, FaultInfo, Note, RunInfo, StepOver, TraceInfo};
use crate::timing::Spread;
use crate::watch::Uses;
use crate::windows::arguments::first_arguments;
use crate::windows::{FileImage, Image, ImageError, Imports, SymbolTable};

const MOST_PROCESSORS: usize = crate::vmi::recording::limits::PROCESSORS as usize;
/// Debug registers are 4.
const MOST_BREAKPOINTS: usize = 16;
/// Exports that are shown: each can fill [`ExportRequest::LIMIT`] bytes, twice.
const MOST_EXPORTS: usize = 64;
/// Longest name of a file or routine, bytes.
const LONGEST_NAME: usize = 4096;

/// Exported data of a guest module that the report is to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRequest {
    /// File name of the module, such as `ntoskrnl.exe`; `nt` is the kernel.
    pub module: String,
    /// Name of the export.
    pub name: String,
    /// Number of bytes, at most [`ExportRequest::LIMIT`].
    pub length: u32,
}

impl ExportRequest {
    /// Most bytes that are dumped of one export.
    pub const LIMIT: u32 = 1 << 16;

    /// Whether so many, of such names and lengths, can be shown.
    ///
    /// # Errors
    /// What cannot be, in words.
    pub(crate) fn check(requests: &[Self]) -> Result<(), String> {
        within("the number of exports", requests.len(), MOST_EXPORTS)?;
        for request in requests {
            within("the length of a name", request.module.len(), LONGEST_NAME)?;
            within("the length of a name", request.name.len(), LONGEST_NAME)?;
            let (length, most) = (request.length as usize, Self::LIMIT as usize);
            within("the length of an export", length, most)?;
        }
        Ok(())
    }
}

fn within(what: &str, value: usize, most: usize) -> Result<(), String> {
    if value > most {
        return Err(format!("{what} is {value}, and {most} is the most"));
    }
    Ok(())
}

impl std::fmt::Display for ExportRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}!{}", self.module, self.name)
    }
}

/// What the file of the driver under test tells when the guest's memory no longer does: imports are named in a
/// section that is thrown away after the driver's initialisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverFile {
    time_date_stamp: u32,
    check_sum: u32,
    size: u32,
    /// What it imports.
    pub imports: Imports,
    /// How its code uses these.
    #[serde(default)]
    pub uses: Uses,
}

impl DriverFile {
    /// Reads a file's headers and imports.
    ///
    /// # Errors
    /// [`ImageError`] if the import directory cannot be used.
    pub fn read(file: &FileImage) -> Result<Self, ImageError> {
        let image = file.image();
        let imports = Imports::read(file, image)?;
        Ok(Self {
            time_date_stamp: image.time_date_stamp,
            check_sum: image.check_sum,
            size: image.size,
            uses: Uses::new(first_arguments(file, image, &Uses::slots(&imports))),
            imports,
        })
    }

    /// Whether the image in the guest is this file's.
    #[must_use]
    pub fn is(&self, image: &Image) -> bool {
        (self.time_date_stamp, self.check_sum, self.size) == (image.time_date_stamp, image.check_sum, image.size)
    }
}

/// Told before the guest starts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Config {
    /// File name of the driver under test, by which it is known in the guest.
    pub target: String,
    /// What its file says, if there is one.
    #[serde(default)]
    pub target_file: Option<DriverFile>,
    /// Number of virtual processors, 1 to 64.
    pub processors: u32,
    /// How many breakpoints can be set at once. Recordings have it under its first name.
    #[serde(rename = "hooks")]
    pub breakpoints: usize,
    /// How a breakpoint is stepped over.
    pub step_over: StepOver,
    /// Whether to log what drivers print for a debugger.
    #[serde(default)]
    pub debug_print: bool,
    /// Whether the report is to say how the guest agrees with what is known of Windows.
    #[serde(default)]
    pub check_guest: bool,
    /// Whether to tell how the debug registers are used, when they are.
    #[serde(default)]
    pub explain: bool,
    /// Rules that are off, or held against the calls of some modules only.
    #[serde(default)]
    pub rules: RuleSettings,
    /// Whether a run goes on when a processor is about to wait for itself for ever.
    #[serde(default)]
    pub after_deadlock_go_on: bool,
    /// Lock routines are hooked in the driver's import table, if that can be.
    #[serde(default)]
    pub import_hooks: bool,
    /// Lock routines that were watched in some turns only do not make the outcome Inconclusive.
    #[serde(default)]
    pub accept_turns: bool,
    /// Exported data to show.
    pub exports: Vec<ExportRequest>,
    /// Symbols of the images that the run was started with.
    pub symbols: SymbolTable,
    /// How the run was started.
    pub run: RunInfo,
}

impl Config {
    /// Checks whether a run can have been started with these values.
    ///
    /// # Errors
    /// What cannot be, in words.
    pub fn check(&self) -> Result<(), String> {
        if self.processors == 0 {
            return Err("its machine has no processors".to_owned());
        }
        within("the number of processors", self.processors as usize, MOST_PROCESSORS)?;
        within("the number of breakpoints", self.breakpoints, MOST_BREAKPOINTS)?;
        within("the length of a name", self.target.len(), LONGEST_NAME)?;
        ExportRequest::check(&self.exports)
    }
}

/// Told when the guest has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// What ended it.
    pub kind: EndKind,
    /// One sentence more, where there is more to say.
    pub detail: Option<String>,
    /// The processor that was about to wait for itself for ever, if that ended it.
    #[serde(default)]
    pub deadlocked: Option<u32>,
    /// Wall-clock time from the start of the guest, in milliseconds.
    pub duration_ms: u64,
    /// How long ago acquires of the driver under test were that are still open, by event, in milliseconds.
    #[serde(default)]
    pub open_ms: Vec<(u64, u64)>,
    /// Wall-clock time from the arming of the breakpoints, in milliseconds.
    pub armed_ms: u64,
    /// `KVM_RUN` calls of all vCPUs.
    pub kvm_runs: u64,
    /// Exits for breakpoints and single steps.
    pub debug_exits: u64,
    /// All other exits.
    pub other_exits: u64,
    /// Times a vCPU had to wait because a queue was full.
    pub queue_waits: u64,
    /// Breakpoint hits that the machine handed over.
    pub hits: u64,
    /// Debug exits at addresses where a return was awaited, whether it was that return or another one to the same address.
    #[serde(default)]
    pub returns: u64,
    /// System calls other than `KVM_RUN` that hits needed.
    pub hit_requests: u64,
    /// How long the session took for a hit of a breakpoint, in nanoseconds.
    #[serde(default)]
    pub handler_ns: Option<Spread>,
    /// What processors were doing, by number, where the machine can tell.
    pub activities: Vec<(u32, String)>,
    /// The event trace that was written.
    pub trace: Option<TraceInfo>,
    /// How long of that the machine stood still for a crash dump, in milliseconds.
    #[serde(default)]
    pub dump_ms: u64,
    /// The crash dump of a violation.
    #[serde(default)]
    pub dump: Option<DumpInfo>,
    /// What the guest reported of its crash.
    #[serde(default)]
    pub bug_check: Option<BugCheck>,
    /// What has become of the fault plan.
    #[serde(default)]
    pub faults: Vec<FaultInfo>,
    /// What storage controllers owed the guest.
    #[serde(default)]
    pub in_flight: Vec<ControllerInFlight>,
    /// What the machine did not do for its guest; none if an earlier version has recorded the run.
    #[serde(default)]
    pub machine: Option<Conformance>,
    /// Host failures during the run: a full disk.
    pub failures: Vec<String>,
    /// What the report says of the machine and of the run's outputs beside the session's own notes.
    #[serde(flatten, with = "crate::report::told_notes")]
    pub notes: Vec<Note>,
}

impl End {
    /// Notes that an output ends early.
    pub fn note(&mut self, cut: Option<Cut>) {
        match cut {
            Some(Cut::Failure(text)) => self.failures.push(text),
            Some(Cut::Note(text)) => self.notes.push(Note::Output { text }),
            None => {}
        }
    }
}
