//! How the few debug registers were given to lock routines, why, and why none was where that is so: plain data of a report.
//!
//! The plan ([`watch`](crate::watch)) and the session fill it in; the sentences are in [`render::watching`](super::render).

use serde::{Deserialize, Serialize};

use super::{Location, LockRoutine};
use crate::windows::arguments::NotKnown;

/// How the registers were used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Nothing was chosen.
    #[default]
    None,
    /// As this says.
    Made(Box<WatchChoice>),
    /// As the sentences of a report say that a version without data has written.
    Told {
        /// How they were chosen.
        summary: String,
        /// How each is used.
        explanation: Vec<String>,
    },
}

/// How the debug registers are used for one driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WatchChoice {
    /// The driver's imports are known. If not, it may import every lock export of the guest.
    pub(crate) imports_known: bool,
    /// Lock exports that the driver imports, or may import.
    pub(crate) exports: u64,
    /// Debug registers of a processor.
    pub(crate) registers: u64,
    /// Where one register waits for the driver's object until the driver is loaded: `module!export`.
    pub(crate) driver_object_at: String,
    /// What each of the first registers is for then. The others stay free, to catch returns.
    pub(crate) watched: Vec<Purpose>,
    /// Routines behind the watched exports that may fail: only their return tells whether they took the lock.
    pub(crate) may_fail: Vec<LockRoutine>,
    /// What is not seen.
    pub(crate) gaps: Vec<WatchGap>,
    /// What the driver's code wants of exports that are many routines in one.
    pub(crate) uses: Vec<ImportUse>,
    /// Imports without a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unnamed: Option<UnnamedImports>,
    /// The sets of exports that take turns, where not all fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) turns: Option<PlannedTurns>,
    /// The driver's imports of these exports are hooked; there is no register for each.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) hooked: bool,
}

impl WatchChoice {
    /// Registers that stay free.
    #[must_use]
    pub(crate) fn free(&self) -> u64 {
        self.registers.saturating_sub(self.watched.len() as u64)
    }
}

/// What an export is watched for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Purpose {
    /// `module!export`.
    pub(crate) export: String,
    /// The driver imports it. If not, it may, since its imports are not known.
    pub(crate) imported: bool,
    /// The acquires behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) acquires: Vec<LockRoutine>,
    /// The watched releases that these may come before; none: they are watched to see a second acquire.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) before: Vec<LockRoutine>,
    /// The releases behind it that are judged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) judged: Vec<LockRoutine>,
    /// The releases behind it that are suspect at most, since not every acquire is watched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) suspect: Vec<LockRoutine>,
    /// The place that the driver's import leads to instead, as with Driver Verifier, and that is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) leads_to: Option<Location>,
}

/// Why a routine is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum WhyWatched {
    /// For this.
    LockExport(Box<Purpose>),
    /// For what the sentence of a report says that a version without data has written.
    Told {
        /// The sentence.
        text: String,
    },
}

/// Something that is not watched although it may take or release the driver's locks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum WatchGap {
    /// A lock export for which no register is left.
    NoRegister {
        /// `module!export`.
        routine: String,
        /// The releases behind it: they are not judged.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        releases: Vec<LockRoutine>,
        /// The acquires behind it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        acquires: Vec<LockRoutine>,
        /// The watched releases that these may come before: without a record they are suspect.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        before: Vec<LockRoutine>,
    },
    /// Imports without a name, among which lock routines may be.
    Unnamed(UnnamedImports),
    /// Routines that the driver finds by name at run time.
    LookedUp {
        /// The routine by which it finds them.
        routine: String,
    },
    /// Routines that take a lock of the driver's and give it back before they return.
    LocksInside {
        /// The routines.
        routines: Vec<String>,
    },
    /// An import with a lock routine's name from a module that is not known to have lock routines.
    OtherModule {
        /// `module!routine`.
        routine: String,
    },
    /// Whatever the driver imports from modules that are none of the system's.
    Modules {
        /// Their names.
        modules: Vec<String>,
    },
    /// A lock export that the driver imports since it was loaded again.
    Reloaded {
        /// `module!export`.
        routine: String,
    },
    /// What a report says that a version without data has written.
    Told {
        /// What is not watched.
        routine: String,
        /// What follows.
        consequence: String,
    },
}

impl WatchGap {
    /// The export that is not watched; nothing if it is something else.
    #[must_use]
    pub(crate) fn export(&self) -> Option<&str> {
        match self {
            Self::NoRegister { routine, .. } | Self::Reloaded { routine } | Self::Told { routine, .. } => Some(routine),
            Self::Unnamed(_)
            | Self::LookedUp { .. }
            | Self::LocksInside { .. }
            | Self::OtherModule { .. }
            | Self::Modules { .. } => None,
        }
    }
}

/// Imports of which nobody knows what they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnnamedImports {
    /// How many.
    pub imports: u64,
    /// The first modules that they are from, in alphabetical order.
    pub modules: Vec<String>,
    /// They are from more modules than these.
    pub more: bool,
}

/// What the driver's code wants of an import that is many routines in one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum ImportUse {
    /// Nobody knows: the code was not looked at.
    NotLookedAt {
        /// `module!export`.
        import: String,
    },
    /// Not all of it is known.
    NotKnown {
        /// `module!export`.
        import: String,
        /// Why not.
        reason: NotKnown,
        /// Numbers that are passed to it.
        values: Vec<u32>,
    },
    /// All of it is known.
    Known {
        /// `module!export`.
        import: String,
        /// Calls in the driver's code.
        calls: u64,
        /// The numbers that they pass.
        values: Vec<u32>,
        /// The lock routines among them; none: it needs no register.
        routines: Vec<LockRoutine>,
    },
}

/// The sets of exports that take turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedTurns {
    /// Why.
    pub(crate) because: TurnsBecause,
    /// What may follow the first set: one of these, by which export is called most.
    pub(crate) rotations: Vec<PlannedRotation>,
}

/// Why sets of exports take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TurnsBecause {
    /// What the driver wants of an export is not told by its code.
    UseNotKnown,
    /// The driver needs more exports than there are registers.
    TooMany,
}

/// Sets that follow the first one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedRotation {
    /// The export by whose calls the turns are counted: `module!export`.
    pub(crate) clock: String,
    /// The exports of each set after the first.
    pub(crate) sets: Vec<Vec<String>>,
}

/// Why the breakpoints are not in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NotArmed {
    /// The guest's kernel was not found.
    NoKernel {
        /// The last write of LSTAR; nothing if there was none with an address of the kernel's half.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<NoKernelAt>,
    },
    /// The kernel lacks an export without which a driver's start is not seen.
    NoWitness {
        /// Its name.
        export: String,
    },
    /// The list of the guest's modules was not found.
    ModulesUnknown {
        /// The export that leads to it in a kernel that has it.
        export: String,
    },
    /// The driver was never loaded.
    NeverLoaded {
        /// File name of the driver.
        driver: String,
        /// Modules that were.
        modules: u64,
        /// One of them with nearly that name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        similar: Option<String>,
    },
    /// The driver was loaded, and no driver object was made for it.
    NoDriverObject {
        /// File name of the driver.
        driver: String,
        /// Where it was loaded.
        base: u64,
    },
    /// The driver imports a lock routine that the guest does not export.
    NotExported {
        /// `module!routine`.
        routine: String,
    },
    /// The exports of the guest's modules could not be read.
    ExportsUnread {
        /// The error.
        error: String,
    },
    /// The breakpoints could not be set.
    Refused {
        /// The error.
        error: String,
    },
    /// What the sentence of a report says that a version without data has written.
    Told {
        /// The sentence.
        text: String,
    },
}

/// A write of LSTAR that led to no kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoKernelAt {
    /// What was written.
    pub lstar: u64,
    /// Why that is no kernel's.
    pub error: String,
}
