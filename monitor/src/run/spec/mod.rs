//! A run, described as data: what is booted, what the guest gets, what is watched, what is written where. The command
//! line, a file (`storlock run --spec FILE`), a report and a recording all describe a run by a [`RunSpec`].
//!
//! Opens no file. Every field has the name of its option of `storlock run`, and a value is written as there, or as
//! JSON's own number, list or object. A path is used as it is written; a relative path counts from the working
//! directory of the program that runs the description. [`RunSpec::check`] decides defaults and contradictions.

mod check;
pub mod disk;
mod dump;
pub mod fault;
mod faults;
mod json;
pub(crate) mod units;

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};
use storlock_vmm::storage::InterruptKind;

pub(crate) use self::check::guest_name;
pub use self::check::{Boot, CheckedSpec, Contradiction, formats};
pub use self::disk::{Disk, DiskPlace, check_disks, target_kind};
pub(crate) use self::dump::DumpOn;
pub use self::faults::{CountFrom, PlannedFault, check_faults};
pub(crate) use self::json::Carrier;
use self::json::Schema;
pub use self::units::{Export, FilePath, Limit, RuleChoice, Size};
use crate::gdb::OnDisconnect;
use crate::report::Format;
use crate::report::json::Object;
use crate::session::ExportRequest;

/// What a description begins with: its format and version.
const SCHEMA: &str = "storlock-run/1";
/// Largest description that is read, in bytes: a report may be one.
pub(crate) const SIZE_LIMIT: u64 = 64 << 20;

/// The best way to interrupt that the storage controllers offer, with those below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interrupts {
    /// MSI-X, MSI and the INTx pin.
    #[default]
    Msix,
    /// MSI and the INTx pin.
    Msi,
    /// The INTx pin only.
    Intx,
}

impl From<Interrupts> for InterruptKind {
    fn from(interrupts: Interrupts) -> Self {
        match interrupts {
            Interrupts::Msix => Self::Msix,
            Interrupts::Msi => Self::Msi,
            Interrupts::Intx => Self::Intx,
        }
    }
}

/// What a new violation does under a debugger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnViolation {
    /// The machine stops at the call, also while no debugger is attached.
    #[default]
    Stop,
    /// It is only reported.
    Report,
}

/// What a processor does to the run that is about to wait for itself for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AfterDeadlock {
    /// It ends there.
    #[default]
    End,
    /// It goes on, with what the other processors do, to its time limit at most.
    GoOn,
}

/// What watches lock routines in place of breakpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Hooks {
    /// Hooks in the import table of the driver under test.
    Imports,
}

/// Firmware to boot by: `true`, that which is installed, or the file of its code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// What the host's package has installed.
    Installed,
    /// The code in this file.
    File(FilePath),
}

/// The description of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct RunSpec {
    schema: Schema,
    /// Driver under test: its file, or with firmware its name in the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<FilePath>,
    /// Kernel to boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<FilePath>,
    /// Initial RAM disk of a Linux kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) initrd: Option<FilePath>,
    /// Firmware to boot by, instead of entering a kernel directly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// File of the firmware's variables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variables: Option<FilePath>,
    /// PNG file for what the display shows at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) screenshot: Option<FilePath>,
    /// A reset ends the run.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) no_reboot: bool,
    /// A triple fault is a reset.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) reboot_at_triple_fault: bool,
    /// Whether the guest sees Hyper-V's interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hyperv: Option<bool>,
    /// Bits of a guest-physical address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) phys_bits: Option<u32>,
    /// MSRs that nobody knows read as 0.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) ignore_msrs: bool,
    /// Port driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port_driver: Option<FilePath>,
    /// Further drivers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub load: Vec<FilePath>,
    /// Registry file for the drivers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<FilePath>,
    /// Number of virtual processors, 1 to 64.
    pub cpus: u32,
    /// Guest memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Seed of every random choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How long the guest may run.
    pub time_limit: Limit,
    /// How long it may take to shut down after the power button was pressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shutdown_grace: Option<Limit>,
    /// Directory for the run's files.
    pub report_dir: FilePath,
    /// File for the recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<FilePath>,
    /// Largest size of the recording and of the event trace, each.
    pub(crate) output_limit: Size,
    /// How the report is printed.
    pub format: Format,
    /// Further files for the report.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub report: Vec<FilePath>,
    /// Format of those whose names do not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) report_format: Option<Format>,
    /// The disks.
    pub disk: Vec<Disk>,
    /// The best way to interrupt that the controllers offer.
    pub interrupts: Interrupts,
    /// The fault plan.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fault: Vec<PlannedFault>,
    /// The KVM device.
    pub kvm: FilePath,
    /// Command line of the guest's kernel.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub append: String,
    /// Second place for the serial port's output; `-` is standard error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<FilePath>,
    /// Directory with unstripped images and PDBs, or a PDB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbols: Option<FilePath>,
    /// File for a crash dump at the first violation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dump_on_violation: Option<FilePath>,
    /// File for a crash dump at the first of what `dump_on` names, or of all there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dump: Option<FilePath>,
    /// What that dump is written at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) dump_on: Vec<DumpOn>,
    /// Whether to log what drivers print for a debugger.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) debug_print: bool,
    /// Whether to tell how the debug registers are used.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) explain: bool,
    /// What watches lock routines in place of breakpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hooks: Option<Hooks>,
    /// Whether a run may be Completed in which lock routines took turns with the debug registers.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) accept_turns: bool,
    /// Whether to check what the monitor relies on in the guest.
    #[serde(skip_serializing_if = "is_false")]
    pub check_guest: bool,
    /// Exported data that the report is to show.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) dump_export: Vec<Export>,
    /// Address at which debuggers are served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gdb: Option<FilePath>,
    /// The guest's first instruction waits for a debugger.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) gdb_wait: bool,
    /// The address may be one that other machines reach.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) gdb_expose: bool,
    /// What a new violation does under a debugger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) on_violation: Option<OnViolation>,
    /// Rules that are off, or held against the calls of some modules only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rule: Vec<RuleChoice>,
    /// What a processor does to the run that is about to wait for itself for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after_deadlock: Option<AfterDeadlock>,
    /// What the machine does when a debugger vanishes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_disconnect: Option<OnDisconnect>,
    /// The program's threads are not limited.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) no_sandbox: bool,
    /// What an earlier check has decided of what is left open above.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "object_if_any")]
    pub(crate) decided: Option<Decided>,
}

fn object_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Decided>, D::Error> {
    let decided: Option<Object<Decided>> = Deserialize::deserialize(deserializer)?;
    Ok(decided.map(|Object(decided)| decided))
}

/// Values of fields that a description leaves open. They hold for guests of one kind: another has other defaults. What a
/// description says itself comes first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Decided {
    /// Whether a driver is watched in what firmware boots.
    pub(crate) windows: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hyperv: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shutdown_grace: Option<Limit>,
}

/// A file that a run writes beside those in its report directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutputPath {
    /// The option that names it.
    pub(crate) option: &'static str,
    /// Where it is.
    pub(crate) path: FilePath,
    /// It has another name until it is whole.
    pub(crate) whole: bool,
}

impl RunSpec {
    /// Exported data that the report is to show.
    pub(crate) fn exports(&self) -> Vec<ExportRequest> {
        self.dump_export.iter().map(|Export(request)| request.clone()).collect()
    }

    /// The files that a run writes beside those in its report directory. Standard error is none.
    pub(crate) fn outputs(&self) -> Vec<OutputPath> {
        let named = [
            ("--record", &self.record, false),
            ("--serial", &self.serial, false),
            ("--screenshot", &self.screenshot, true),
            ("--dump-on-violation", &self.dump_on_violation, true),
            ("--dump", &self.dump, true),
        ];
        let named = named
            .into_iter()
            .filter_map(|(option, path, whole)| Some((option, path.as_ref()?, whole)));
        let reports = self.report.iter().map(|path| ("--report", path, true));
        let files = named.chain(reports).filter(|(_, path, _)| path.as_os_str() != "-");
        files
            .map(|(option, path, whole)| OutputPath {
                option,
                path: path.clone(),
                whole,
            })
            .collect()
    }

    /// The run again, into files of its own: without the outputs that it names, and into the usual report directory.
    #[must_use]
    pub(crate) fn without_outputs(mut self) -> Self {
        let usual = Self::default();
        self.serial = self.serial.filter(|path| path.as_os_str() == "-");
        Self {
            record: None,
            screenshot: None,
            dump_on_violation: None,
            dump: None,
            dump_on: Vec::new(),
            report: usual.report,
            report_format: None,
            report_dir: usual.report_dir,
            ..self
        }
    }
}

impl Default for RunSpec {
    fn default() -> Self {
        Self {
            schema: Schema,
            driver: None,
            kernel: None,
            initrd: None,
            firmware: None,
            variables: None,
            screenshot: None,
            no_reboot: false,
            reboot_at_triple_fault: false,
            hyperv: None,
            phys_bits: None,
            ignore_msrs: false,
            port_driver: None,
            load: Vec::new(),
            registry: None,
            cpus: 2,
            memory: None,
            seed: None,
            time_limit: Limit(std::time::Duration::from_secs(600)),
            shutdown_grace: None,
            report_dir: "storlock-report".into(),
            record: None,
            output_limit: Size(16 << 30),
            format: Format::default(),
            report: Vec::new(),
            report_format: None,
            disk: vec![Disk {
                place: DiskPlace::Memory(64 << 20),
                target: false,
                namespace: false,
                scsi_target: None,
                controller: None,
            }],
            interrupts: Interrupts::default(),
            fault: Vec::new(),
            kvm: storlock_vmm::kvm::DEFAULT_DEVICE.into(),
            append: String::new(),
            serial: None,
            symbols: None,
            dump_on_violation: None,
            dump: None,
            dump_on: Vec::new(),
            debug_print: false,
            explain: false,
            hooks: None,
            accept_turns: false,
            check_guest: false,
            dump_export: Vec::new(),
            gdb: None,
            gdb_wait: false,
            gdb_expose: false,
            on_violation: None,
            rule: Vec::new(),
            after_deadlock: None,
            on_disconnect: None,
            no_sandbox: false,
            decided: None,
        }
    }
}

impl Firmware {
    /// The file of its code, if it is named.
    #[must_use]
    pub fn file(&self) -> Option<&std::path::Path> {
        match self {
            Self::Installed => None,
            Self::File(path) => Some(path),
        }
    }
}

impl From<Option<PathBuf>> for Firmware {
    fn from(path: Option<PathBuf>) -> Self {
        path.map_or(Self::Installed, |path| Self::File(path.into()))
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests;
