//! The only place that decides about a run's description: contradictions in it, and defaults for the fields that it
//! leaves out.
//!
//! Opens no file. Messages name options of `storlock run`; a field has the name of its option.

use std::time::Duration;

use storlock_vmm::boot::{BootError, BootFile, BootRequest};
use storlock_vmm::run::{AddressWidth, AtReset, MachineConfig};

use super::{CountFrom, Decided, FilePath, Limit, OnViolation, RuleChoice, RunSpec, Size, check_disks, check_faults};
use crate::gdb::{Address, OnDisconnect};
use crate::report::Format;
use crate::session::ExportRequest;

/// Memory of a guest, and of one that boots by firmware with a driver to watch: Windows.
const MEMORY: Size = Size(256 << 20);
const WINDOWS_MEMORY: Size = Size(4 << 30);
/// How long such a guest may take to shut down.
const WINDOWS_GRACE: Limit = Limit(Duration::from_secs(60));
/// Longest name of a file, in bytes: of Windows' file systems, and of ours.
const LONGEST_FILE_NAME: usize = 255;
/// Most virtual processors.
const MOST_CPUS: u32 = 64;

/// Why a run cannot be as it is described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Contradiction(String);

/// What a machine starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// An NT-compatible kernel, entered directly.
    Kernel,
    /// A Linux kernel, entered directly.
    Linux,
    /// Firmware, with a Linux kernel for it to boot if there is one.
    Firmware {
        /// There is one.
        linux: bool,
    },
}

/// A description that makes sense, with everything decided that it leaves open.
#[derive(Debug, Clone)]
pub struct CheckedSpec {
    /// The description, with what was left open.
    pub spec: RunSpec,
    /// What is booted.
    pub boot: Boot,
    /// Where debuggers are served.
    pub gdb: Option<Address>,
    /// Seed of every random choice.
    pub seed: u64,
    /// Further files for the report, each with its format.
    pub reports: Vec<(FilePath, Format)>,
    /// Guest memory in bytes.
    pub memory: u64,
    /// Whether the guest sees Hyper-V's interface.
    pub(crate) hyperv: bool,
    /// Bits of a guest-physical address.
    pub(crate) address_width: AddressWidth,
    /// From when on a fault counts that does not say so itself.
    pub(crate) faults_from: CountFrom,
    /// How long the guest may take to shut down; `None`: the power button is not pressed.
    pub(crate) shutdown_grace: Option<Duration>,
    /// What a reset does to a guest that boots by firmware.
    pub(crate) at_reset: AtReset,
    /// What a new violation does under a debugger.
    pub(crate) on_violation: OnViolation,
    /// What the machine does when a debugger vanishes.
    pub on_disconnect: OnDisconnect,
}

impl CheckedSpec {
    /// Whether there is a driver to watch.
    #[must_use]
    pub(crate) fn is_watched(&self) -> bool {
        self.spec.driver.is_some()
    }

    /// Whether a driver is watched in what firmware boots: in Windows, as far as one can tell.
    #[must_use]
    pub(crate) fn is_windows(&self) -> bool {
        self.is_watched() && matches!(self.boot, Boot::Firmware { .. })
    }

    /// How long the guest may run.
    #[must_use]
    pub fn time_limit(&self) -> Duration {
        self.spec.time_limit.0
    }
}

impl RunSpec {
    /// Whether the run makes sense, and what it is with everything decided. `linux` says whether the kernel is one of Linux;
    /// `seed` is taken if the description has none.
    ///
    /// # Errors
    /// [`Contradiction`]: what does not go together, and what to do about it.
    pub fn check(&self, linux: bool, seed: u64) -> Result<CheckedSpec, Contradiction> {
        self.check_numbers()?;
        self.check_companions()?;
        let boot = self.boot(linux)?;
        self.check_what_the_guest_is_given(boot)?;
        self.check_names(boot)?;
        self.check_append(boot)?;
        check_disks(&self.disk).map_err(|reason| Contradiction(format!("--disk: {reason}")))?;
        check_faults(&self.disk, &self.fault).map_err(|reason| Contradiction(format!("--fault: {reason}")))?;
        let never_armed = self
            .fault
            .iter()
            .find(|fault| self.driver.is_none() && fault.from == Some(CountFrom::Armed));
        if let Some(fault) = never_armed {
            return refuse(format!(
                "--fault {fault}: from=armed goes with a driver under test (--driver): without one nothing is ever armed"
            ));
        }
        let gdb = self.gdb_address()?;
        let reports = formats("--report", "--report-format", &self.report, self.report_format)?;
        let windows = self.is_windows();
        let (memory, hyperv, grace) = (self.memory_or_usual(), self.hyperv_or_usual(), self.grace_or_usual());
        let seed = self.seed.unwrap_or(seed);
        Ok(CheckedSpec {
            boot,
            reports,
            seed,
            memory: memory.0,
            hyperv,
            address_width: match (self.phys_bits, boot) {
                (Some(bits), _) => AddressWidth::Bits(bits),
                (None, Boot::Firmware { .. }) => AddressWidth::Usual,
                (None, _) => AddressWidth::Host,
            },
            faults_from: if windows { CountFrom::Armed } else { CountFrom::Start },
            shutdown_grace: grace.map(|Limit(grace)| grace),
            at_reset: match (self.no_reboot, self.reboot_at_triple_fault) {
                (true, _) => AtReset::End,
                (_, true) => AtReset::RestartAtTripleFault,
                _ => AtReset::Restart,
            },
            on_violation: self.on_violation.unwrap_or_default(),
            on_disconnect: self.on_disconnect.unwrap_or(OnDisconnect::Pause),
            spec: Self {
                seed: Some(seed),
                decided: Some(Decided {
                    windows,
                    memory: self.memory.is_none().then_some(memory),
                    hyperv: self.hyperv.is_none().then_some(hyperv),
                    shutdown_grace: grace.filter(|_| self.shutdown_grace.is_none()),
                }),
                ..self.clone()
            },
            gdb,
        })
    }

    /// Whether a driver is watched in what firmware boots: in Windows, as far as one can tell.
    fn is_windows(&self) -> bool {
        self.driver.is_some() && self.firmware.is_some()
    }

    /// What was decided before, if the guest is still of that kind.
    fn decided(&self) -> Option<&Decided> {
        self.decided
            .as_ref()
            .filter(|decided| decided.windows == self.is_windows())
    }

    /// Guest memory.
    pub(crate) fn memory_or_usual(&self) -> Size {
        let usual = if self.is_windows() { WINDOWS_MEMORY } else { MEMORY };
        let said = self.memory.or_else(|| self.decided()?.memory);
        said.unwrap_or(usual)
    }

    fn hyperv_or_usual(&self) -> bool {
        let said = self.hyperv.or_else(|| self.decided()?.hyperv);
        said.unwrap_or(self.is_windows())
    }

    /// How long the guest may take to shut down; `None`: the power button is not pressed. A debugger takes the
    /// interruptions that ask for a shutdown.
    pub(crate) fn grace_or_usual(&self) -> Option<Limit> {
        let said = self.shutdown_grace.or_else(|| self.decided()?.shutdown_grace);
        let grace = said.or_else(|| self.is_windows().then_some(WINDOWS_GRACE));
        grace.filter(|_| self.gdb.is_none())
    }

    fn check_numbers(&self) -> Result<(), Contradiction> {
        if self.cpus == 0 || self.cpus > MOST_CPUS {
            return refuse(format!(
                "--cpus {}: a machine has 1 to {MOST_CPUS} virtual processors",
                self.cpus
            ));
        }
        let memory = self.memory_or_usual().0;
        if let Err(error) = MachineConfig::check_memory(memory) {
            return refuse(format!("--memory: {error}"));
        }
        if let Some(Err(error)) = self.phys_bits.map(|bits| AddressWidth::Bits(bits).check(memory)) {
            return refuse(format!("--phys-bits: {error}"));
        }
        let target = self.driver.as_ref().and_then(|driver| driver.file_name());
        if target.is_some_and(|name| name.len() > LONGEST_FILE_NAME) {
            return refuse(format!("--driver: a file name has at most {LONGEST_FILE_NAME} bytes"));
        }
        ExportRequest::check(&self.exports()).map_err(|reason| Contradiction(format!("--dump-export: {reason}")))?;
        Ok(())
    }

    /// Options that mean something beside another one only, or that exclude each other.
    fn check_companions(&self) -> Result<(), Contradiction> {
        let needs = [
            ("--variables", self.variables.is_some(), "--firmware"),
            ("--screenshot", self.screenshot.is_some(), "--firmware"),
            ("--reboot-at-triple-fault", self.reboot_at_triple_fault, "--firmware"),
            ("--gdb-wait", self.gdb_wait, "--gdb"),
            ("--gdb-expose", self.gdb_expose, "--gdb"),
            ("--on-violation", self.on_violation.is_some(), "--gdb"),
            ("--on-disconnect", self.on_disconnect.is_some(), "--gdb"),
        ];
        for (option, given, other) in needs {
            let there = if other == "--gdb" {
                self.gdb.is_some()
            } else {
                self.firmware.is_some()
            };
            if given && !there {
                return refuse(format!("{option} means nothing without {other}"));
            }
        }
        self.check_dump()?;
        for (index, RuleChoice(setting)) in self.rule.iter().enumerate() {
            let before = self.rule.iter().take(index).map(|RuleChoice(before)| before);
            if let Some(before) = before.into_iter().find(|before| before.rule == setting.rule) {
                return refuse(format!(
                    "--rule: {before} and {setting} are about one rule: give it once"
                ));
            }
        }
        if self.no_reboot && self.reboot_at_triple_fault {
            return refuse("--no-reboot and --reboot-at-triple-fault exclude each other");
        }
        if self.gdb.is_some() && self.shutdown_grace.is_some() {
            return refuse(
                "--shutdown-grace and --gdb exclude each other: a debugger takes the interruptions that ask for a shutdown",
            );
        }
        Ok(())
    }

    /// What the kernel, the firmware and the driver make of the guest together.
    fn check_dump(&self) -> Result<(), Contradiction> {
        if self.dump.is_some() && self.dump_on_violation.is_some() {
            return refuse("--dump and --dump-on-violation exclude each other: a run writes one dump");
        }
        if self.dump.is_none() && !self.dump_on.is_empty() {
            return refuse("--dump-on means nothing without --dump, which names the file");
        }
        Ok(())
    }

    fn boot(&self, linux: bool) -> Result<Boot, Contradiction> {
        let linux = linux && self.kernel.is_some();
        let watched = self.driver.is_some();
        if self.initrd.is_some() && !linux {
            return refuse("--initrd goes with a Linux kernel (--kernel)");
        }
        if watched && (linux || (self.firmware.is_some() && self.kernel.is_some())) {
            return refuse(
                "--driver goes with an NT-compatible kernel (--kernel), or with what firmware boots from a disk (--firmware \
                 without --kernel): Linux has no such driver",
            );
        }
        match (&self.firmware, &self.kernel) {
            (Some(_), Some(_)) if !linux => refuse("firmware can boot a Linux kernel only: this --kernel is none"),
            (Some(_), _) => Ok(Boot::Firmware { linux }),
            (None, _) if linux => Ok(Boot::Linux),
            (None, _) if watched => Ok(Boot::Kernel),
            (None, _) => refuse(
                "--driver is needed: the miniport whose locks are to be watched (a guest that is Linux, or boots by \
                 --firmware, may run without)",
            ),
        }
    }

    /// Options that mean nothing to this guest.
    fn check_what_the_guest_is_given(&self, boot: Boot) -> Result<(), Contradiction> {
        let default = Self::default();
        let for_a_kernel = [
            ("--port-driver", self.port_driver.is_some()),
            ("--load", !self.load.is_empty()),
            ("--registry", self.registry.is_some()),
        ];
        let append = ("--append", !self.append.is_empty());
        let for_a_watch = [
            ("--gdb", self.gdb.is_some()),
            ("--dump-on-violation", self.dump_on_violation.is_some()),
            ("--dump", self.dump.is_some()),
            ("--dump-on", !self.dump_on.is_empty()),
            ("--record", self.record.is_some()),
            ("--report", !self.report.is_empty()),
            ("--debug-print", self.debug_print),
            ("--explain", self.explain),
            ("--accept-turns", self.accept_turns),
            ("--hooks", self.hooks.is_some()),
            ("--rule", !self.rule.is_empty()),
            ("--after-deadlock", self.after_deadlock.is_some()),
            ("--check-guest", self.check_guest),
            ("--dump-export", !self.dump_export.is_empty()),
            ("--symbols", self.symbols.is_some()),
            ("--format", self.format != default.format),
            ("--output-limit", self.output_limit != default.output_limit),
        ];
        let first =
            |options: &[(&'static str, bool)]| options.iter().find(|(_, given)| *given).map(|(option, _)| *option);
        if let Boot::Firmware { linux: false } = boot {
            if let Some(option) = first(&for_a_kernel).or_else(|| first(&[append])) {
                return refuse(format!(
                    "{option} is for a kernel that is entered directly: a guest that boots by firmware has its drivers and \
                     settings on its disk"
                ));
            }
        }
        let Some(driver) = &self.driver else {
            if let Some(option) = first(&for_a_watch) {
                return refuse(format!(
                    "{option} goes with a driver under test (--driver): without one nothing is watched, and Linux and firmware \
                     run without a debugger so far"
                ));
            }
            return match first(&for_a_kernel) {
                Some(option) => refuse(format!(
                    "{option} is for an NT-compatible kernel: Linux has no such drivers"
                )),
                None => Ok(()),
            };
        };
        if matches!(boot, Boot::Firmware { .. }) {
            guest_name(driver)?;
        }
        Ok(())
    }

    /// Names by which a kernel that is entered directly knows its files.
    fn check_names(&self, boot: Boot) -> Result<(), Contradiction> {
        let target = self.driver.iter().map(|path| ("--driver", path));
        let files = target.chain(self.load.iter().map(|path| ("--load", path)));
        for (option, path) in files.filter(|_| boot == Boot::Kernel) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            BootFile::check_name(&name).map_err(|error| Contradiction(format!("{option}: {error}")))?;
        }
        Ok(())
    }

    /// The kernel's command line. That of Linux has the limits that its kernel says.
    fn check_append(&self, boot: Boot) -> Result<(), Contradiction> {
        let fits = if boot == Boot::Kernel {
            BootRequest::check_command_line(&self.append)
        } else if self.append.contains('\0') {
            Err(BootError::CommandLine)
        } else {
            Ok(())
        };
        fits.map_err(|error| Contradiction(format!("--append: {error}")))
    }

    fn gdb_address(&self) -> Result<Option<Address>, Contradiction> {
        let Some(text) = &self.gdb else { return Ok(None) };
        let address = Address::read(text.as_os_str()).map_err(|reason| Contradiction(format!("--gdb: {reason}")))?;
        if !address.is_local() && !self.gdb_expose {
            return refuse(format!(
                "other machines can reach {address}, and whoever connects controls the guest: use 127.0.0.1 or unix:PATH \
                 (and ssh -L from elsewhere), or say --gdb-expose"
            ));
        }
        Ok(Some(address))
    }
}

/// The formats of the report files that `option` names: what a name tells by its ending, or else `default`, the value of
/// `default_option`.
///
/// # Errors
/// [`Contradiction`] if neither tells the format of one, or there is no file to be of the default format.
pub fn formats(
    option: &str,
    default_option: &str,
    files: &[FilePath],
    default: Option<Format>,
) -> Result<Vec<(FilePath, Format)>, Contradiction> {
    if files.is_empty() && default.is_some() {
        return refuse(format!("{default_option} means nothing without {option}"));
    }
    let with_format = |file: &FilePath| {
        if file.as_os_str() == "-" {
            return refuse(format!(
                "{option} -: say by --format how the report is printed on standard output"
            ));
        }
        let Some(format) = Format::of(file).or(default) else {
            let endings: Vec<_> = Format::ALL
                .iter()
                .map(|format| format!(".{}", format.endings()[0]))
                .collect();
            return refuse(format!(
                "{option} {}: its name does not tell the format: let it end in {}, or say which by {default_option}",
                file.display(),
                endings.join(", ")
            ));
        };
        Ok((file.clone(), format))
    };
    files.iter().map(with_format).collect()
}

/// The file name by which a guest that loads its driver itself knows it.
///
/// # Errors
/// If it is none that a driver can have.
pub(crate) fn guest_name(driver: &FilePath) -> Result<String, Contradiction> {
    let name = driver.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name.contains('.') {
        return Ok(name.to_owned());
    }
    refuse(format!(
        "--driver {}: the file name by which the guest knows the driver is needed, with its extension, such as mydriver.sys",
        driver.display()
    ))
}

fn refuse<T>(text: impl Into<String>) -> Result<T, Contradiction> {
    Err(Contradiction(text.into()))
}
