//! `storlock run`: boots a guest with a driver under test and watches its locks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use storlock_vmm::run::AtReset;
use storlock_vmm::sandbox::{FileLimit, Sandbox};
use storlock_vmm::storage::InterruptKind;

use super::boot::{self, Boot};
use super::images::{ImageFile, Role};
use super::interrupt::Interrupt;
use super::options::{Limit, Size, Switch};
use super::output::{Printer, ReportDirectory};
use super::progress::Progress;
use super::{Failure, debugger, disk, dump, fault, firmware, other_guest, output, places};
use crate::machine::{Disk, Ended, Guest, GuestOptions, PlannedFault, check_disks, check_faults};
use crate::outcome::Condition;
use crate::output::{OutputFile, WholeFile};
use crate::report::RunInfo;
use crate::report::{ConditionNote, Report};
use crate::session::recording::Recording;
use crate::session::trace::Trace;
use crate::session::{Config, DriverFile, ExportRequest, Session};
use crate::threads;
use crate::windows::SymbolTable;
use crate::{diagnostics, gdb};

/// Name of the event trace in the report directory.
pub const TRACE_FILE: &str = "events.trace";
/// Name of the guest's serial log in the report directory.
pub const SERIAL_FILE: &str = "serial.log";

/// Memory of a guest, and of one that boots by firmware with a driver to watch: Windows.
const MEMORY: Size = Size(256 << 20);
const WINDOWS_MEMORY: Size = Size(4 << 30);
/// How long the thread that serves debuggers may take to see the end of a run.
const DEBUGGER_END: Duration = Duration::from_millis(300);
/// How long such a guest may take to shut down.
const WINDOWS_GRACE: Duration = Duration::from_secs(60);

/// How the report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The best way to interrupt that the NVMe controllers offer, with those below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Interrupts {
    /// MSI-X, MSI and the INTx pin.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnViolation {
    /// Stop the machine at the call, also while no debugger is attached.
    Stop,
    /// Only report it.
    Report,
}

/// Options of `storlock run`.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // Each is a switch of the command line.
pub struct Arguments {
    /// Driver under test (a Storport miniport for x64). With --firmware its name in the guest, such as mydriver.sys; if a
    /// file is there by that path, it is a second source for its imports and gives symbols. Linux, and firmware
    /// without anything to watch, run without
    #[arg(long, value_name = "FILE|NAME")]
    pub driver: Option<PathBuf>,
    /// Kernel to boot: an NT-compatible one, or Linux (bzImage) [default: the test kernel that comes with Storlock]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk of a Linux kernel
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Boot by firmware (OVMF) instead of entering a kernel directly [FILE: its code; default: the installed OVMF]
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    #[allow(clippy::option_option, reason = "an option whose value may be left out")]
    pub firmware: Option<Option<PathBuf>>,
    /// File of the firmware's variables, made from the firmware's template if it is not there [default: what the guest
    /// stores is forgotten at the end]
    #[arg(long, value_name = "FILE", requires = "firmware")]
    pub variables: Option<PathBuf>,
    /// Give a guest that boots by firmware a display, and write what it shows at the end to this PNG file
    #[arg(long, value_name = "FILE", requires = "firmware")]
    pub screenshot: Option<PathBuf>,
    /// End the run when a guest that boots by firmware is reset, instead of starting it again; a kernel that is entered
    /// directly always ends by a reset
    #[arg(long)]
    pub no_reboot: bool,
    /// Take a triple fault of a guest that boots by firmware for a reset, as a PC does, instead of a crash
    #[arg(long, requires = "firmware", conflicts_with = "no_reboot")]
    pub reboot_at_triple_fault: bool,
    /// Show the guest the interface of Hyper-V instead of that of KVM, as Windows wants it [default: on with --firmware
    /// and --driver, else off]
    #[arg(long, value_enum, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    pub hyperv: Option<Switch>,
    /// Port driver [default: the storport.sys that comes with Storlock]
    #[arg(long, value_name = "FILE")]
    pub port_driver: Option<PathBuf>,
    /// Further driver to load; may be given several times
    #[arg(long, value_name = "FILE")]
    pub load: Vec<PathBuf>,
    /// Registry file (.reg) with parameters for the drivers of the test guest
    #[arg(long, value_name = "FILE")]
    pub registry: Option<PathBuf>,
    /// Number of virtual processors
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,
    /// Guest memory [default: 256M; 4G with --firmware and --driver]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,
    /// Seed of every random choice, to repeat a run [default: chosen anew and printed]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Wall-clock limit; a guest that runs longer counts as hanging
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    pub time_limit: Limit,
    /// Press the power button at the time limit and at the first Ctrl-C, and give the guest so long to shut down before it
    /// is stopped [default: 60s with --firmware and --driver; else the guest is stopped at once]
    #[arg(long, value_name = "DURATION", conflicts_with = "gdb")]
    pub shutdown_grace: Option<Limit>,
    /// Directory for report.txt, report.json, serial.log and the event trace; files of an earlier run are replaced
    #[arg(long, value_name = "DIR", default_value = "storlock-report")]
    pub report_dir: PathBuf,
    /// Record the run for `storlock replay`
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Largest size of the recording and of the event trace, each; what does not fit is left out, and the report says so
    #[arg(long, value_name = "SIZE", default_value = "16G")]
    pub output_limit: Size,
    /// How the report is printed on standard output
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// What an emulated disk keeps its data in, such as win.qcow2,snapshot; may be given several times
    #[arg(long, value_name = "FILE|mem:SIZE[,OPTION...]", default_value = "mem:64M", long_help = disk::help())]
    pub disk: Vec<Disk>,
    /// The best way to interrupt that the NVMe controllers offer; a driver that can do more is tried with less
    #[arg(long, value_enum, value_name = "KIND", default_value_t = Interrupts::Msix)]
    pub interrupts: Interrupts,
    /// Have the target's NVMe controller do wrong, such as fail:read,after=3; may be given several times
    #[arg(long, value_name = "SPEC", long_help = fault::help())]
    pub fault: Vec<PlannedFault>,
    /// The KVM device
    #[arg(long, value_name = "PATH", default_value = storlock_vmm::kvm::DEFAULT_DEVICE)]
    pub kvm: PathBuf,
    /// Command line of the guest's kernel
    #[arg(long, value_name = "STRING", default_value = "", allow_hyphen_values = true)]
    pub append: String,
    /// Copy the guest's serial port to this file as well, as the guest writes it, with whatever acts on a terminal; - is
    /// standard error
    #[arg(long, value_name = "FILE|-")]
    pub serial: Option<PathBuf>,
    /// Directory with the images as they were before stripping, for the names in reports [default: `debug` beside an
    /// image or beside its directory], and with the kernel's PDB, for --dump-on-violation; or that PDB
    #[arg(long, value_name = "DIR|FILE.pdb")]
    pub symbols: Option<PathBuf>,
    /// Write a crash dump of the whole machine, as it stands at the first violation, for WinDbg; see docs/dump.md
    #[arg(long, value_name = "FILE.dmp")]
    pub dump_on_violation: Option<PathBuf>,
    /// Log what drivers print by DbgPrint and its relatives, as far as debug registers are left for that; one always stays for
    /// catching the returns of lock routines
    #[arg(long)]
    pub debug_print: bool,
    /// Check in the guest what the monitor relies on, and put what was found into the report; for a first run with a
    /// Windows that nobody has tried (docs/windows.md)
    #[arg(long)]
    pub check_guest: bool,
    /// Put exported data of a guest module into the report, read at arming and at the end; may be given several times
    #[arg(long, value_name = "MODULE!NAME:BYTES")]
    pub dump_export: Vec<ExportRequest>,
    /// Serve gdb at a TCP address (:PORT is on the loopback) or a Unix socket; see docs/gdb.md
    #[arg(long, value_name = "ADDR:PORT|unix:PATH")]
    pub gdb: Option<gdb::Address>,
    /// With --gdb: hold the guest before its first instruction until a debugger lets it go
    #[arg(long, requires = "gdb")]
    pub gdb_wait: bool,
    /// With --gdb: listen on an address that other machines reach. Whoever connects controls the guest
    #[arg(long, requires = "gdb")]
    pub gdb_expose: bool,
    /// With --gdb: what a new violation does
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = OnViolation::Stop, requires = "gdb")]
    pub on_violation: OnViolation,
    /// With --gdb: what becomes of the machine when a debugger vanishes without detaching
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = gdb::OnDisconnect::Pause, requires = "gdb")]
    pub on_disconnect: gdb::OnDisconnect,
    /// Do not limit which system calls this program can make and which files it can open while the guest runs
    #[arg(long)]
    pub no_sandbox: bool,
}

impl Arguments {
    /// Firmware boots something in which a driver is to be watched: Windows, as far as one can tell.
    fn watches_what_firmware_boots(&self) -> bool {
        self.firmware.is_some() && self.driver.is_some()
    }

    fn memory(&self) -> u64 {
        let default = if self.watches_what_firmware_boots() {
            WINDOWS_MEMORY
        } else {
            MEMORY
        };
        self.memory.unwrap_or(default).0
    }

    fn hyperv(&self) -> bool {
        self.hyperv
            .map_or(self.watches_what_firmware_boots(), |hyperv| hyperv == Switch::On)
    }

    /// How long the guest may take to shut down; `None` if it is not asked to. A debugger takes the interruptions that
    /// ask for it.
    fn shutdown_grace(&self) -> Option<Duration> {
        let default = self.watches_what_firmware_boots().then_some(WINDOWS_GRACE);
        let asked = self.shutdown_grace.map(|grace| grace.0).or(default);
        asked.filter(|_| self.gdb.is_none())
    }
}

/// Runs the guest and reports.
///
/// # Errors
/// [`Failure`] if the guest could not be started. Once it has started there is a report, whatever happens.
pub fn execute(arguments: &Arguments) -> Result<u8, Failure> {
    check_faults(&arguments.disk, &arguments.fault).map_err(|reason| Failure::usage(anyhow!("--fault: {reason}")))?;
    places::check(arguments)?;
    let claimed = output::clear_outputs(arguments)?;
    let sandbox = sandbox(arguments)?;
    let terminal = Terminal::start(sandbox).map_err(Failure::infrastructure)?;
    check_disks(&arguments.disk).map_err(|reason| Failure::usage(anyhow!("--disk: {reason}")))?;
    if let Some(start) = other_guest::wanted(arguments)? {
        return other_guest::execute(arguments, start, claimed, &terminal, sandbox);
    }
    let seed = arguments.seed.unwrap_or_else(random_seed);
    let Boot { target, images, start } = boot::plan(arguments, seed)?;
    let directory = create_directory(arguments, claimed)?;
    let dump = dump::plan(arguments, &images)?;
    let socket = debugger::open(arguments)?;
    let screenshot = firmware::prepare_screenshot(arguments).map_err(Failure::infrastructure)?;
    let streams = Streams::open(arguments).map_err(Failure::infrastructure)?;
    let options = machine_options(arguments, sandbox);
    let mut guest = Guest::prepare(&options, start).map_err(Failure::infrastructure)?;
    let config = config(arguments, target, &images, seed, &guest).map_err(Failure::infrastructure)?;
    config.check().map_err(|what| Failure::usage(anyhow!(what)))?;
    let session = open_session(arguments, config, streams, sandbox).map_err(Failure::infrastructure)?;
    let session = Arc::new(session);
    let debugger = match socket {
        Some(socket) => {
            let serving = debugger::serve(arguments, socket, &images, &mut guest, &session, sandbox);
            Some(serving.map_err(Failure::infrastructure)?)
        }
        None => None,
    };
    if let Some(plan) = dump.clone() {
        session.dump_first_violation();
        guest.dump_to(plan);
    }
    let mut renamed = vec![directory.path()];
    renamed.extend(dump.iter().filter_map(|plan| plan.file.renamed_in()));
    renamed.extend(screenshot.iter().filter_map(WholeFile::renamed_in));
    let began = Instant::now();
    let watched = watch(arguments, guest, &session, sandbox, &renamed, &terminal);
    let Ended { mut end, picture } = watched.map_err(Failure::infrastructure)?;
    if let Some(screenshot) = &screenshot {
        let deadline = began.checked_add(arguments.time_limit.0);
        deadline.inspect(|deadline| screenshot.progress().give_up_at(*deadline));
        end.note(firmware::write_screenshot(screenshot, picture.as_ref()));
    }
    if let Some(debugger) = debugger {
        // It has seen the end of the run, too.
        if let Some(Err(_)) = debugger.join_within(DEBUGGER_END) {
            let text = "the thread that serves debuggers panicked; this is a defect of the program";
            end.failures.push(text.to_owned());
        }
    }
    let mut report = session.report(&end);
    Ok(terminal.finish(&mut report, &directory, arguments, began))
}

/// What a run has to do with the terminal that it was started from, from its beginning to its end.
pub struct Terminal {
    /// Caught from before anything can take long.
    pub interrupt: Interrupt,
    /// Standard output.
    pub printer: Printer,
}

impl Terminal {
    fn start(sandbox: Sandbox) -> anyhow::Result<Self> {
        diagnostics::start(sandbox).context("standard error")?;
        Ok(Self {
            interrupt: Interrupt::catch(sandbox).context("signals cannot be caught")?,
            printer: Printer::start(sandbox)?,
        })
    }

    /// Writes and prints the report of a run that began at `began`. Gives the exit code of the process.
    fn finish(&self, report: &mut Report, directory: &ReportDirectory, arguments: &Arguments, began: Instant) -> u8 {
        self.interrupt.reporting();
        let interrupted = || self.interrupt.happened();
        let deadline = began.checked_add(arguments.time_limit.0);
        deadline.inspect(|deadline| directory.give_up_at(*deadline));
        let before = report
            .conditions
            .iter()
            .any(|note| note.condition == Condition::Interrupted);
        output::finish(report, Some(directory), arguments.format, |text| {
            let printed = self.printer.print(text, deadline, &interrupted);
            let mut notes: Vec<_> = printed.err().map(output::infrastructure).into_iter().collect();
            if !before && interrupted() {
                notes.push(ConditionNote {
                    condition: Condition::Interrupted,
                    reason: "the run was interrupted when it was over already; this report is whole".to_owned(),
                });
            }
            notes
        })
    }
}

pub(super) fn create_directory(
    arguments: &Arguments,
    claimed: Option<ReportDirectory>,
) -> Result<ReportDirectory, Failure> {
    ReportDirectory::create(&arguments.report_dir, claimed, arguments.time_limit.0).map_err(Failure::infrastructure)
}

pub(super) fn sandbox(arguments: &Arguments) -> Result<Sandbox, Failure> {
    if arguments.no_sandbox {
        Ok(Sandbox::none())
    } else {
        Sandbox::enforced(&threads::all()).map_err(Failure::infrastructure)
    }
}

/// Runs the prepared guest to its end. Every file but the reports, and what is in `renamed`, is open by now.
fn watch(
    arguments: &Arguments,
    guest: Guest,
    session: &Arc<Session>,
    sandbox: Sandbox,
    renamed: &[&Path],
    terminal: &Terminal,
) -> anyhow::Result<Ended> {
    let files = sandbox.limit_files_with_names(&[], renamed)?;
    if files == FileLimit::Missing {
        crate::tell!("note: {files}");
    }
    let graceful = arguments.shutdown_grace().is_some();
    let interrupt = &terminal.interrupt;
    interrupt.stops(guest.control(), graceful);
    let limit = arguments.time_limit.0;
    let progress = Progress::start(session, limit, arguments.watches_what_firmware_boots(), sandbox);
    let running = guest.start(session).context("the guest cannot be started")?;
    let mut ended = running.wait(limit, || interrupt.happened());
    if progress.end() == Some(false) {
        let text = "the thread that shows the progress panicked; this is a defect of the program";
        ended.end.failures.push(text.to_owned());
    }
    Ok(ended)
}

fn config(
    arguments: &Arguments,
    target: String,
    images: &[ImageFile],
    seed: u64,
    guest: &Guest,
) -> anyhow::Result<Config> {
    let mut symbols = SymbolTable::default();
    for image in images {
        match image.unstripped(arguments.symbols.as_deref()) {
            Some((_, unstripped)) => symbols.add_unstripped(&image.name, &image.image, &unstripped),
            None => symbols.add_file(&image.name, &image.image),
        }
    }
    let file = images.iter().find(|image| image.role == Role::Target);
    let target_file = file.map(|file| DriverFile::read(&file.image));
    Ok(Config {
        target,
        target_file: target_file
            .transpose()
            .context("the imports of the driver under test")?,
        processors: arguments.cpus,
        breakpoints: guest.breakpoints(),
        step_over: guest.step_over(),
        debug_print: arguments.debug_print,
        check_guest: arguments.check_guest,
        exports: arguments.dump_export.clone(),
        symbols,
        run: RunInfo {
            command_line: command_line(arguments, seed),
            seed,
            cpus: arguments.cpus,
            memory: arguments.memory(),
            images: images.iter().map(ImageFile::info).collect(),
            ..RunInfo::default()
        },
    })
}

/// The machine of any guest.
pub(super) fn machine_options(arguments: &Arguments, sandbox: Sandbox) -> GuestOptions {
    GuestOptions {
        kvm: arguments.kvm.clone(),
        cpus: arguments.cpus,
        memory: arguments.memory(),
        disks: arguments.disk.clone(),
        interrupts: arguments.interrupts.into(),
        faults: arguments.fault.clone(),
        serial_log: arguments.report_dir.join(SERIAL_FILE),
        serial_copy: arguments.serial.clone(),
        reader_patience: arguments.time_limit.0,
        hyperv: arguments.hyperv(),
        shutdown_grace: arguments.shutdown_grace(),
        at_reset: at_reset(arguments),
        debugger: arguments.gdb.is_some(),
        sandbox,
    }
}

/// What a reset does to a guest that boots by firmware.
fn at_reset(arguments: &Arguments) -> AtReset {
    if arguments.no_reboot {
        AtReset::End
    } else if arguments.reboot_at_triple_fault {
        AtReset::RestartAtTripleFault
    } else {
        AtReset::Restart
    }
}

/// The files that are written while the guest runs.
struct Streams {
    trace: OutputFile,
    recording: Option<OutputFile>,
}

impl Streams {
    fn open(arguments: &Arguments) -> anyhow::Result<Self> {
        let open = |path: &Path| OutputFile::open(path, arguments.time_limit.0);
        let path = trace_path(arguments);
        let trace = open(&path).with_context(|| format!("cannot write the event trace {}", path.display()))?;
        let recording = arguments
            .record
            .as_deref()
            .map(|path| open(path).with_context(|| format!("cannot write the recording {}", path.display())));
        Ok(Self {
            trace,
            recording: recording.transpose()?,
        })
    }
}

fn trace_path(arguments: &Arguments) -> PathBuf {
    arguments.report_dir.join(TRACE_FILE)
}

fn open_session(arguments: &Arguments, config: Config, streams: Streams, sandbox: Sandbox) -> anyhow::Result<Session> {
    let (path, limit) = (trace_path(arguments), arguments.output_limit.0);
    let trace = Trace::create(streams.trace, &path, limit, sandbox)
        .with_context(|| format!("cannot write the event trace {}", path.display()))?;
    let recording = match streams.recording {
        Some(file) => {
            let header = serde_json::to_vec(&config).context("the recording's header")?;
            let recording = Recording::create(file, limit, header, sandbox);
            Some(recording.context("cannot write the recording")?)
        }
        None => None,
    };
    Ok(Session::new(config, Some(trace), recording))
}

/// The command line that repeats this run: as given, with the seed that was chosen.
fn command_line(arguments: &Arguments, seed: u64) -> Vec<String> {
    let mut words: Vec<String> = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    if let Some(first) = words.first_mut() {
        "storlock".clone_into(first);
    }
    if arguments.seed.is_none() {
        words.extend(["--seed".to_owned(), seed.to_string()]);
    }
    words
}

/// A seed that differs from run to run. It needs no secrecy; it is short because people copy it.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.finish() & 0xffff_ffff
}
