//! What a run reports beside its findings, as data: why a condition holds, what may have been missed, notes, and why a
//! stack ends. The renderers make the sentences ([`render::reasons`](super::render)).
//!
//! Texts in here are names that the guest or the user has given, and error messages of the host.

use serde::{Deserialize, Serialize};

use super::choice::{NoKernelAt, NotArmed, UnnamedImports};
use super::{Location, ModuleInfo, UnknownRelease};

/// Why a condition holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// A signal ended the run.
    Interrupted {
        /// It came when the run was over already: the report is whole.
        was_over: bool,
    },
    /// The machine could not be run on.
    HostFailed {
        /// The error.
        error: String,
    },
    /// An output or another part of this program failed.
    Failure {
        /// The error.
        error: String,
    },
    /// KVM has come to an instruction that it cannot execute.
    NotExecutable {
        /// The instruction, or what else is known of it.
        what: String,
        /// Where it is, if a processor was seen there.
        at: Option<Location>,
    },
    /// The recording ends before the run did.
    RecordingEnds,
    /// Contracts were broken.
    ContractsBroken(Places),
    /// Calls look like broken contracts.
    SuspectCalls(Places),
    /// The guest crashed.
    BugCheck {
        /// Bug check code.
        code: u64,
    },
    /// The guest reset the machine.
    Reset,
    /// The guest reported its crash, without a bug check.
    Crash {
        /// What the machine says of it.
        detail: String,
    },
    /// A processor was about to wait for itself for ever, and the run was ended there.
    Deadlock {
        /// That processor.
        vcpu: u32,
    },
    /// A processor shut down.
    TripleFault,
    /// The guest had not ended.
    TimeLimit {
        /// After this time.
        seconds: u64,
        /// Processors that waited for locks then.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        waiting: Vec<u32>,
        /// Those that waited for each other.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        circle: Vec<u32>,
    },
    /// Releases that concern the driver under test could not be judged, since the state of the lock was not known.
    UnknownReleases {
        /// How many.
        releases: u64,
        /// File name of the driver.
        driver: String,
        /// The first places of the driver that they came from.
        places: Vec<UnknownRelease>,
        /// There are more places than those, the driver's or others'.
        more: bool,
    },
    /// Conversions of a lock of the driver whose shared hold was not seen.
    UnknownConversions {
        /// How many.
        conversions: u64,
    },
    /// Calls of the driver whose lock handle could not be read.
    UnreadableHandles {
        /// How many.
        calls: u64,
    },
    /// Calls of the driver that cannot have been made as they were told: by a processor that there is not.
    CallsIgnored {
        /// How many.
        calls: u64,
    },
    /// Acquires of the driver that were over in a way that was not seen.
    HoldsLost {
        /// How many.
        acquires: u64,
    },
    /// Holds of the driver that were released when the lock word said that nobody held the lock.
    WordsContradicted {
        /// How many.
        holds: u64,
    },
    /// Releases of the driver with a `NewIrql` that may undo a raise of its own.
    RaisesUndone {
        /// How many.
        releases: u64,
    },
    /// The lock exports that the driver imports take turns, and some had none before the run was over.
    NotYetWatched {
        /// Their names.
        routines: Vec<String>,
    },
    /// The lock exports that the driver imports took turns: calls of these were not seen while others had theirs.
    WatchedInTurns {
        /// Those that were not watched all the time.
        shares: Vec<Share>,
    },
    /// Something may have been missed.
    Missed(Doubt),
    /// The run was over before the guest ended by itself.
    Stopped,
    /// A planned fault was never injected.
    FaultNeverInjected {
        /// The fault as it was written on the command line.
        spec: String,
        /// Commands or register writes that it is about and that have happened.
        matched: u64,
    },
    /// The breakpoints were never in force.
    NeverArmed {
        /// Why not.
        not_armed: NotArmed,
    },
    /// The driver under test never acquired a watched lock.
    NeverAcquired {
        /// File name of the driver.
        driver: String,
    },
    /// A sentence of a report that a version without data has written.
    Told {
        /// The sentence.
        text: String,
    },
}

/// A lock export that was watched in some turns only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// `module!routine`.
    pub routine: String,
    /// Of a hundred hits, how many were in these turns.
    pub percent: u8,
}

/// Places of findings about the driver under test, one a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// How many there are in the report.
    pub places: u64,
    /// There were more than could be kept.
    pub more: bool,
}

/// Why something may have been missed although no contract was seen broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "doubt", rename_all = "snake_case")]
pub enum Doubt {
    /// The guest's module list has something else in the place of the driver under test, whose image is still there.
    EntryChanged {
        /// The driver as it was loaded.
        driver: ModuleInfo,
        /// What the list has.
        listed: ModuleInfo,
    },
    /// The module list has two modules of the driver's name.
    TwoOfOneName {
        /// The name.
        name: String,
        /// Base addresses, the one that was there before first.
        bases: [u64; 2],
    },
    /// The driver is at more places than are followed.
    TooManyImages {
        /// Its name.
        name: String,
        /// How many are followed.
        most: u64,
    },
    /// At the end of the run the driver was in no module list, and its image was still there.
    ImageStays {
        /// Its name.
        name: String,
        /// Where its image is.
        base: u64,
    },
    /// The driver called while it was in no module list.
    CalledUnlisted {
        /// The driver as it was loaded.
        driver: ModuleInfo,
        /// Offset that the call returns to.
        offset: u64,
    },
    /// Modules came and went too often to be followed.
    TooManyModuleChanges {
        /// How many changes are followed.
        most: u64,
    },
    /// The module list could not be read at the end of the run.
    ModuleListUnreadable {
        /// The error.
        error: String,
    },
    /// There are two module lists.
    TwoModuleLists {
        /// The one that the first driver object leads to, which was taken.
        by_object: u64,
        /// The one that the debugger data block names.
        by_block: u64,
    },
    /// There were two images that may be the kernel.
    TwoKernels {
        /// Base of the one with the page fault handler, which was watched.
        watched: u64,
        /// Base of the one with the system call entry.
        other: u64,
    },
    /// At the end a processor's page fault handler was not in the kernel that was watched.
    OtherKernel {
        /// The processor.
        vcpu: u32,
        /// Base of the kernel that was watched.
        watched: u64,
    },
    /// The driver may have run before the breakpoints were in force.
    Late,
    /// The guest has written into the ring of the hooks what no hook writes.
    HooksBroken,
    /// What the driver imports is not known, and not every lock routine is watched.
    ImportsUnknown,
    /// Lock routines may be among imports that are not recognised.
    ImportsUnrecognised {
        /// These imports.
        unnamed: UnnamedImports,
    },
    /// Two imports of one routine lead to different places, of which one is watched.
    ImportElsewhere {
        /// The routine.
        routine: String,
        /// The place that is not watched.
        place: Location,
    },
    /// The driver was loaded again, and its imports could not be read.
    ReloadedUnread {
        /// Where it was loaded.
        base: u64,
        /// Why not.
        why: ImportsNote,
    },
    /// The driver was loaded again and imports a routine that is not watched.
    ReloadedImport {
        /// The routine.
        routine: String,
    },
}

/// Where the imports of the driver under test are from, or why they are not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportsNote {
    /// Why they are not those in the guest's memory.
    pub memory: ImportsUnread,
    /// The file that they could be from.
    pub file: ImportsFile,
}

/// Why the imports in the guest's memory were not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ImportsUnread {
    /// The image or its imports cannot be read.
    Unreadable {
        /// The error.
        error: String,
    },
    /// They are named in a section that may be thrown away after the driver's initialisation.
    Discardable,
}

/// The file that the imports could be from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportsFile {
    /// They are those of the file that was given.
    Taken,
    /// The image could not be read, so the file was not compared with it.
    NotCompared,
    /// The file is another build.
    AnotherBuild,
    /// No file was given.
    NotGiven,
}

/// Something that the reader should know, and that is not about the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Note {
    /// The guest was reset.
    Reset {
        /// Its locks were watched then.
        watched: bool,
    },
    /// A write of LSTAR led to no kernel.
    NoKernel(NoKernelAt),
    /// The driver was loaded, and no driver object was made for it.
    NoDriverObject {
        /// The driver.
        driver: String,
        /// Other objects that were inserted meanwhile.
        objects: u64,
        /// Seconds of the guest's time meanwhile.
        seconds: u64,
    },
    /// Where the driver's imports are from.
    Imports(ImportsNote),
    /// An import of the driver leads elsewhere than to the routine, as with Driver Verifier, and that place is watched.
    Detour {
        /// The routine.
        routine: String,
        /// Where it leads.
        place: Location,
    },
    /// A physical miniport imports lock routines that the rule HwStorPortProhibitedDDIs forbids it.
    ProhibitedImports {
        /// The routines.
        routines: Vec<String>,
    },
    /// The driver was unloaded and loaded again, the last time here.
    LoadedAgain {
        /// Guest virtual address.
        base: u64,
    },
    /// The driver's imports could not be hooked, and breakpoints were used instead.
    NoImportHooks {
        /// Why not.
        why: String,
    },
    /// The driver's imports were hooked.
    ImportHooks {
        /// How many lock exports were.
        imports: u64,
        /// Calls that were written into the ring.
        calls: u64,
        /// Calls that left the guest.
        exits: u64,
        /// How many of these because the ring was full.
        full: u64,
        /// The longest time between two readings of the ring of which the second found calls, in milliseconds.
        longest_ms: u64,
        /// Calls that a processor was about to make, and to write, when the machine stopped.
        unfinished: u64,
        /// Findings of calls in the ring that were made again when the call left the guest.
        confirmed: u64,
        /// Events of those that were not, the first of them.
        unconfirmed: Vec<u64>,
    },
    /// The report comes from an event trace, which holds no memory.
    FromTrace,
    /// What was done to a disk image that its last user had not closed.
    Recovered {
        /// The file.
        image: String,
        /// What was done.
        recovery: String,
    },
    /// There is no timeline, since the event trace cannot be read.
    NoTimeline {
        /// The error.
        why: String,
    },
    /// There is no timeline, since the event trace beside the report is not that of its run.
    OtherTrace {
        /// Name of the trace.
        file: String,
    },
    /// An output ends early, and nobody misses the rest.
    Output {
        /// Which, and why.
        text: String,
    },
    /// A sentence of a report or recording that a version without data has written.
    Told {
        /// The sentence.
        text: String,
    },
}

/// Why a stack ends before its outermost frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StackEnd {
    /// The kernel, by whose module list stacks are followed, was not found.
    NoKernel,
    /// The code at this address belongs to no known module.
    NoModule {
        /// Guest virtual address.
        address: u64,
    },
    /// The code has no unwind information, but made a call.
    NoInformation {
        /// Guest virtual address.
        address: u64,
    },
    /// The unwind information contradicts itself.
    Damaged {
        /// Guest virtual address of the code.
        address: u64,
    },
    /// The stack or the tables cannot be read.
    Unreadable {
        /// The error.
        error: String,
    },
    /// The stack pointer does not grow from frame to frame, or is not aligned.
    StackPointer {
        /// The stack pointer.
        value: u64,
    },
    /// There are more frames than are shown.
    Limit,
    /// The call is over: its stack is gone.
    CallOver,
    /// An event trace holds no more of it.
    FromTrace,
    /// A sentence of a report that a version without data has written.
    Told {
        /// The sentence.
        text: String,
    },
}

/// How a breakpoint is stepped over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepOver {
    /// By the resume flag.
    #[serde(rename = "resume flag")]
    ResumeFlag,
    /// The host executes the first instruction of the routine.
    #[serde(rename = "emulation of the first instruction")]
    EmulateFirst,
    /// By a single step without the breakpoint.
    #[serde(rename = "single step")]
    SingleStep,
    /// No machine has run, or a version of this program that has another way.
    #[default]
    #[serde(other, rename = "")]
    NotKnown,
}

impl StepOver {
    /// Its name.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::ResumeFlag => "resume flag",
            Self::EmulateFirst => "emulation of the first instruction",
            Self::SingleStep => "single step",
            Self::NotKnown => "",
        }
    }
}
