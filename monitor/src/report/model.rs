//! What a report says of a run: plain data. Findings are in [`super::finding`], reasons in [`super::reason`].

use serde::{Deserialize, Serialize};

use storlock_check::rules::{Meta, RuleSettings};

use super::conformance::Conformance;
use super::coverage::Coverage;
use super::end::EndOfRun;
use super::finding::{Finding, LockRoutine, RuleId};
use super::in_flight::InFlight;
use super::reason::{Note, Reason};
use super::timeline::Timeline;
use super::watched::WatchInfo;
use super::word::Word;
use crate::outcome::{Condition, Outcome};
use crate::timing::Spread;

/// Version of the JSON schema. It changes when a field changes its meaning or goes away; new fields do not change it.
pub(crate) const SCHEMA: &str = "storlock-report/2";

/// Everything that a run reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of Storlock that wrote this.
    pub(crate) tool_version: String,
    /// The outcome in SDV's words.
    pub outcome: Outcome,
    /// Exit code of the process.
    pub exit_code: u8,
    /// What held at the end of the run, each with the sentence that explains it.
    pub conditions: Vec<ConditionNote>,
    /// How the run was started.
    pub run: RunInfo,
    /// How the guest ended.
    pub end: EndOfRun,
    /// The driver under test, once the guest has loaded it.
    pub target: Option<ModuleInfo>,
    /// Modules of the guest, as far as the monitor had to look them up.
    pub modules: Vec<ModuleInfo>,
    /// Which routines were watched, and which were not.
    pub watch: WatchInfo,
    /// The rules that calls were held against.
    pub rules: Vec<Rule>,
    /// By verdict and in the order of their first occurrence; one entry a signature. The JSON keeps the key of its published
    /// schema.
    #[serde(rename = "violations")]
    pub findings: Vec<Finding>,
    /// Lock calls by routine and calling module.
    pub calls: Vec<CallCount>,
    /// The driver's lock call sites, and what was seen of each; none if the driver was not watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) coverage: Option<Coverage>,
    /// What the checker remembered and what it had to forget.
    pub locks: LockSummary,
    /// What the monitoring cost.
    pub cost: Cost,
    /// The event trace beside the report, if one was written.
    pub trace: Option<TraceInfo>,
    /// The crash dump of the first violation, if one was asked for and there was a violation.
    #[serde(default)]
    pub dump: Option<DumpInfo>,
    /// Faults that the emulated hardware was told to have, and what has become of each.
    pub faults: Vec<FaultInfo>,
    /// Requests that storage controllers owed the guest at its end; none if nothing was owed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) in_flight: Option<InFlight>,
    /// Exported data of the guest that the command line asked for.
    pub exports: Vec<DumpedExport>,
    /// What the machine did not do for its guest, where there was one.
    #[serde(default)]
    pub machine: Option<Conformance>,
    /// How the guest agrees with what is known of Windows, if that was asked for.
    #[serde(default)]
    pub guest_checks: Vec<GuestCheck>,
    /// What drivers printed for a debugger since the breakpoints were in force, if that was asked for.
    #[serde(default)]
    pub(crate) debug_print: Option<DebugPrint>,
    /// Anything else the reader should know.
    #[serde(flatten, with = "super::render::told::notes")]
    pub notes: Vec<Note>,
    /// Who held which lock when, as far as there is an event trace to tell it. Not in the JSON.
    #[serde(skip)]
    pub timeline: Option<Timeline>,
}

/// A condition and why it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionNote {
    /// What holds.
    pub condition: Condition,
    /// Why.
    pub reason: Reason,
}

/// How the run was started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The command line, one entry an argument, with the seed that was chosen: it repeats this run.
    pub command_line: Vec<Word>,
    /// The description of the run, which `storlock run --spec` takes; none if an earlier version has recorded the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<serde_json::Value>,
    /// Seed of every random choice.
    pub seed: u64,
    /// Number of virtual processors.
    pub cpus: u32,
    /// Guest memory in bytes.
    pub memory: u64,
    /// Files that the guest was built from.
    pub images: Vec<ImageInfo>,
    /// Wall-clock time from the start of the guest to its end, in milliseconds; 0 for a replay.
    pub duration_ms: u64,
    /// True if the report comes from a recording and no guest ran.
    pub replayed: bool,
}

/// A file that the guest was built from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// What it is for.
    pub(crate) role: ImageRole,
    /// File name without its directory.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the contents, in hexadecimal.
    pub(crate) sha256: String,
}

/// What a file is for that a guest is built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ImageRole {
    /// The kernel.
    #[serde(rename = "kernel")]
    Kernel,
    /// The port driver.
    #[serde(rename = "port driver")]
    PortDriver,
    /// The driver under test.
    #[serde(rename = "driver under test")]
    Target,
    /// Any other driver.
    #[serde(rename = "driver")]
    Driver,
}

impl ImageRole {
    /// As it is written for people.
    #[must_use]
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::PortDriver => "port driver",
            Self::Target => "driver under test",
            Self::Driver => "driver",
        }
    }
}

/// A module of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleInfo {
    /// Base name as the guest has it, such as `storport.sys`.
    pub name: String,
    /// Virtual address of its first byte.
    pub base: u64,
    /// Size of the image in bytes.
    pub size: u64,
}

/// A code address of the guest and what is known about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Location {
    /// Guest virtual address.
    pub address: u64,
    /// Module that holds it; `None`: no loaded module does.
    pub module: Option<String>,
    /// Offset from the module's base.
    pub offset: Option<u64>,
    /// Nearest symbol at or below the address, with the distance to it in bytes.
    pub symbol: Option<(String, u64)>,
    /// Line of source that the code comes from, where debugging information tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceLine>,
}

/// A line of source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SourceLine {
    /// The file as the compiler noted it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
}

/// A rule that calls were held against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its number, for good.
    pub number: u16,
    /// Its name, such as `SpinLockRelease`.
    pub name: String,
    /// What it demands.
    pub text: String,
    /// The pages of the driver documentation that it comes from.
    pub source: String,
    /// It was not held against any call.
    #[serde(default, skip_serializing_if = "is_false")]
    pub off: bool,
    /// It was held against the calls of these modules only; none: against all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl Rule {
    /// All rules, by number.
    #[must_use]
    pub fn all(settings: &RuleSettings) -> Vec<Self> {
        let rule = |rule: &RuleId| {
            let modules = settings.of(*rule).map(|setting| setting.modules.clone());
            Self {
                off: modules.as_ref().is_some_and(Vec::is_empty),
                modules: modules.unwrap_or_default(),
                ..Self::from(rule.meta())
            }
        };
        RuleId::ALL.iter().map(rule).collect()
    }
}

impl From<&Meta> for Rule {
    fn from(meta: &Meta) -> Self {
        Self {
            number: meta.number,
            name: meta.name.to_owned(),
            text: meta.text.to_owned(),
            source: meta.source.to_owned(),
            off: false,
            modules: Vec::new(),
        }
    }
}

/// Calls of one routine by one module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallCount {
    /// The routine.
    pub routine: LockRoutine,
    /// Module that the call returns to; `(unknown)` if none holds the address.
    pub module: String,
    /// Number of calls.
    pub calls: u64,
}

/// What the checker remembered and what it had to forget.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockSummary {
    /// Releases that belong to an acquire.
    pub(crate) matched: u64,
    /// Calls that another lock routine made to do its work.
    pub(crate) nested: u64,
    /// Releases of locks whose state was not known yet.
    pub(crate) unknown_releases: u64,
    /// Those of them that concern the target: with any the run is inconclusive.
    pub(crate) target_unknown_releases: u64,
    /// Where the unknown ones came from, those of the driver under test first; at most 256 places.
    #[serde(default)]
    pub unknown: Vec<UnknownRelease>,
    /// Locks remembered at the end of the run.
    pub(crate) remembered: u64,
    /// Records of locks, handles and acquires dropped to bound memory.
    pub(crate) evictions: u64,
}

/// Releases by one routine from one place that could not be judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnknownRelease {
    /// The routine.
    pub routine: LockRoutine,
    /// Who called.
    pub caller: Location,
    /// Whether that is the driver under test.
    pub(crate) by_target: bool,
    /// Number of releases.
    pub count: u64,
}

/// What the monitoring cost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Breakpoint hits from arming on.
    pub hits: u64,
    /// Hits of which the target was the caller.
    pub(crate) target_hits: u64,
    /// Hits a second of wall-clock time from arming on; 0 for a replay.
    pub(crate) hits_per_second: u64,
    /// `KVM_RUN` calls of all vCPUs.
    pub kvm_runs: u64,
    /// Exits for breakpoints and single steps.
    pub debug_exits: u64,
    /// All other exits.
    pub other_exits: u64,
    /// Times a vCPU had to wait because the event queue was full.
    pub queue_waits: u64,
    /// System calls other than `KVM_RUN` that hits needed; 0 where the resume flag works.
    pub hit_requests: u64,
    /// Time in the session for a hit of a breakpoint, in nanoseconds; nothing where there was no hit or no machine.
    #[serde(default)]
    pub handler_ns: Option<Spread>,
}

impl Cost {
    /// The target's share of the hits, 0 to 1.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a share for people needs no 53rd bit")]
    pub(crate) fn target_share(&self) -> f64 {
        if self.hits == 0 {
            0.0
        } else {
            self.target_hits as f64 / self.hits as f64
        }
    }
}

/// The event trace beside the report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceInfo {
    /// File name.
    pub file: String,
    /// Events written.
    pub events: u64,
    /// Events after the trace had to end.
    pub lost: u64,
    /// Why the trace ends early.
    pub error: Option<String>,
}

/// Why a machine is dumped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DumpReason {
    /// The first violation that makes the outcome Defect.
    #[default]
    Violation,
    /// The first reset of a storage controller that cuts off requests.
    Reset,
    /// The guest had not ended within the time limit.
    Timeout,
    /// A processor would wait for itself for ever, or the time limit came while one waited for a lock.
    Hang,
}

impl DumpReason {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Violation, Self::Reset, Self::Timeout, Self::Hang];

    /// Its word.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Violation => "violation",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Hang => "hang",
        }
    }

    /// Its number in a dump.
    pub(crate) fn number(self) -> u64 {
        self as u64
    }
}

/// A crash dump.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpInfo {
    /// File name as it was asked for.
    pub file: String,
    /// Why the machine was dumped.
    #[serde(default)]
    pub(crate) on: DumpReason,
    /// Number of the event at which the violation was found; of another reason, of the last event before.
    pub event: u64,
    /// Length of the file; 0 if there is none.
    pub bytes: u64,
    /// What a dump by Windows has and this one lacks, a sentence each.
    pub missing: Vec<String>,
    /// Why there is no file.
    pub error: Option<String>,
}

/// A fault that the emulated hardware was told to have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultInfo {
    /// As it was written on the command line.
    pub spec: String,
    /// Commands or register writes that it is about.
    pub(crate) matched: u64,
    /// How often it was injected.
    pub injected: u64,
}

/// Exported data of the guest that the command line asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpedExport {
    /// `MODULE!NAME` as asked.
    pub name: String,
    /// Its address; `None`: there is no such export.
    pub address: Option<u64>,
    /// Bytes when the breakpoints had been armed, in hexadecimal.
    pub at_arming: Option<String>,
    /// Bytes at the end of the run, in hexadecimal.
    pub at_end: Option<String>,
    /// Why there are no bytes.
    pub error: Option<String>,
}

/// What drivers printed for a debugger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DebugPrint {
    /// The routines at whose entries it was taken; none if no debug register was left for them.
    pub routines: Vec<String>,
    /// In order.
    pub lines: Vec<DebugLine>,
    /// Number of lines that were not kept.
    pub(crate) not_kept: u64,
}

/// A line for a debugger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DebugLine {
    /// Number of the last event before it.
    pub event: u64,
    /// Virtual processor.
    pub vcpu: u32,
    /// The text.
    pub text: String,
}

/// One thing that the monitor relies on, tried in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestCheck {
    /// What was tried.
    pub name: String,
    /// Whether it is as the monitor needs it.
    pub ok: bool,
    /// What was found.
    pub found: String,
}

impl FaultInfo {
    /// Why the run shows nothing of what the fault was planned for, if it was never injected.
    #[must_use]
    pub(crate) fn never_injected(&self) -> Option<Reason> {
        (self.injected == 0).then(|| Reason::FaultNeverInjected {
            spec: self.spec.clone(),
            matched: self.matched,
        })
    }
}

impl Location {
    /// A location of which only the address is known.
    #[must_use]
    pub fn unknown(address: u64) -> Self {
        Self {
            address,
            ..Self::default()
        }
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(module) = &self.module else {
            return write!(f, "{:#x} (in no loaded module)", self.address);
        };
        write!(f, "{module}+{:#x}", self.offset.unwrap_or(0))?;
        match &self.symbol {
            Some((name, 0)) => write!(f, " ({name})"),
            Some((name, distance)) => write!(f, " ({name}+{distance:#x})"),
            None => Ok(()),
        }?;
        match &self.source {
            Some(source) => write!(f, " at {}:{}", source.file, source.line),
            None => Ok(()),
        }
    }
}
