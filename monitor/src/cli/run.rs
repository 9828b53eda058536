//! `storlock run`: boots a guest with a driver under test and watches its locks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use storlock_vmm::boot::{BootFile, FileKind};
use storlock_vmm::sandbox::{FileLimit, Sandbox};
use storlock_vmm::storage::nvme::InterruptKind;

use super::images::{self, ImageFile, Role};
use super::interrupt::Interrupt;
use super::options::{Limit, Size};
use super::progress::Progress;
use super::{Failure, debugger, disk, fault, input, other_guest, output};
use crate::gdb;
use crate::machine::{Disk, Guest, GuestOptions, PlannedFault};
use crate::report::{Report, RunInfo};
use crate::session::recording::Recording;
use crate::session::trace::Trace;
use crate::session::{Config, ExportRequest, Session};
use crate::windows::SymbolTable;

/// Name of the event trace in the report directory.
pub const TRACE_FILE: &str = "events.trace";
/// Name of the guest's serial log in the report directory.
pub const SERIAL_FILE: &str = "serial.log";

/// Largest registry file, in bytes.
const REGISTRY_LIMIT: u64 = 1 << 20;

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
    /// Driver under test (a Storport miniport for x64); needed unless the guest is Linux or boots by firmware
    #[arg(long, value_name = "FILE")]
    pub driver: Option<PathBuf>,
    /// Kernel to boot: an NT-compatible one, or Linux (bzImage) [default: the test kernel that comes with Storlock]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk of a Linux kernel
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Boot by firmware (OVMF) instead of entering a kernel directly [FILE: its code; default: the installed OVMF]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "")]
    pub firmware: Option<PathBuf>,
    /// File of the firmware's variables, made from the firmware's template if it is not there [default: what the guest
    /// stores is forgotten at the end]
    #[arg(long, value_name = "FILE", requires = "firmware")]
    pub variables: Option<PathBuf>,
    /// Give a guest that boots by firmware a display, and write what it shows at the end to this PNG file
    #[arg(long, value_name = "FILE", requires = "firmware")]
    pub screenshot: Option<PathBuf>,
    /// Show the guest the interface of Hyper-V instead of that of KVM, as Windows wants it
    #[arg(long)]
    pub hyperv: bool,
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
    /// Guest memory
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    pub memory: Size,
    /// Seed of every random choice, to repeat a run [default: chosen anew and printed]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Wall-clock limit; a guest that runs longer counts as hanging
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    pub time_limit: Limit,
    /// Directory for report.txt, report.json, serial.log and the event trace; files of an earlier run are replaced
    #[arg(long, value_name = "DIR", default_value = "storlock-report")]
    pub report_dir: PathBuf,
    /// Record the run for `storlock replay`
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// How the report is printed on standard output
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// What an emulated disk keeps its data in, such as win.qcow2,snapshot; may be given several times
    #[arg(long, value_name = "FILE|mem:SIZE[,OPTION...]", default_value = "mem:64M", long_help = disk::HELP)]
    pub disk: Vec<Disk>,
    /// The best way to interrupt that the NVMe controllers offer; a driver that can do more is tried with less
    #[arg(long, value_enum, value_name = "KIND", default_value_t = Interrupts::Msix)]
    pub interrupts: Interrupts,
    /// Have the target's NVMe controller do wrong, such as fail:read,after=3; may be given several times
    #[arg(long, value_name = "SPEC", long_help = fault::HELP)]
    pub fault: Vec<PlannedFault>,
    /// The KVM device
    #[arg(long, value_name = "PATH", default_value = storlock_vmm::kvm::DEFAULT_DEVICE)]
    pub kvm: PathBuf,
    /// Command line of the guest's kernel
    #[arg(long, value_name = "STRING", default_value = "", allow_hyphen_values = true)]
    pub append: String,
    /// Copy the guest's serial port to this file as well; - is standard error
    #[arg(long, value_name = "FILE|-")]
    pub serial: Option<PathBuf>,
    /// Directory with the images as they were before stripping, for the names in reports [default: `debug` beside an
    /// image or beside its directory]
    #[arg(long, value_name = "DIR")]
    pub symbols: Option<PathBuf>,
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

/// Runs the guest and reports.
///
/// # Errors
/// [`Failure`] if the guest could not be started. Once it has started there is a report, whatever happens.
pub fn execute(arguments: &Arguments) -> Result<u8, Failure> {
    if let Some(start) = other_guest::wanted(arguments)? {
        return other_guest::execute(arguments, start);
    }
    let images = read_images(arguments)?;
    images::check_imports(&images).map_err(Failure::infrastructure)?;
    let seed = arguments.seed.unwrap_or_else(random_seed);
    let directory = &arguments.report_dir;
    create_directory(directory).map_err(Failure::infrastructure)?;
    output::remove_earlier(directory).map_err(Failure::infrastructure)?;
    // The limits on files know a directory by its inode, and some file systems (9p) make a new one for a directory that
    // nobody has open: this one stays open until the reports are in it.
    let open_directory = File::open(directory)
        .with_context(|| format!("cannot open the report directory {}", directory.display()))
        .map_err(Failure::infrastructure)?;
    let mut sandbox = sandbox(arguments)?;
    if arguments.gdb.is_some() {
        sandbox = sandbox.with_debugger();
    }
    let socket = debugger::open(arguments)?;
    let mut options = options(arguments, &images, seed, sandbox);
    if let Some(path) = &arguments.registry {
        options
            .files
            .push(registry_file(path).map_err(Failure::infrastructure)?);
    }
    let mut guest = Guest::prepare(options).map_err(Failure::infrastructure)?;
    let config = config(arguments, &images, seed, &guest);
    let session = open_session(arguments, config, sandbox).map_err(Failure::infrastructure)?;
    let session = Arc::new(session);
    let debugger = match socket {
        Some(socket) => {
            let serving = debugger::serve(arguments, socket, &images, &mut guest, &session, sandbox);
            Some(serving.map_err(Failure::infrastructure)?)
        }
        None => None,
    };
    let mut report = watch(arguments, guest, &session, sandbox).map_err(Failure::infrastructure)?;
    if let Some(debugger) = debugger {
        // It has seen the end of the run, too. A panic there was already printed.
        let _ = debugger.join();
    }
    let code = output::finish(&mut report, Some(directory), arguments.format);
    drop(open_directory);
    Ok(code)
}

pub(super) fn create_directory(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create the report directory {}", directory.display()))
}

pub(super) fn sandbox(arguments: &Arguments) -> Result<Sandbox, Failure> {
    if arguments.no_sandbox {
        Ok(Sandbox::none())
    } else {
        Sandbox::enforced().map_err(Failure::infrastructure)
    }
}

/// Runs the prepared guest to its end. Every file but the reports is open by now.
fn watch(arguments: &Arguments, guest: Guest, session: &Arc<Session>, sandbox: Sandbox) -> anyhow::Result<Report> {
    let files = sandbox.limit_files(&[&arguments.report_dir])?;
    if files == FileLimit::Missing {
        eprintln!("note: {files}");
    }
    let interrupt = Interrupt::catch(guest.control(), sandbox).context("signals cannot be caught")?;
    let progress = Progress::start(session, arguments.time_limit.0, sandbox);
    let running = guest.start(session).context("the guest cannot be started")?;
    let end = running.wait(arguments.time_limit.0, || interrupt.happened());
    drop(progress);
    Ok(session.report(&end))
}

fn config(arguments: &Arguments, images: &[ImageFile], seed: u64, guest: &Guest) -> Config {
    let target = images.iter().find(|image| image.role == Role::Target);
    let mut symbols = SymbolTable::default();
    for image in images {
        match image.unstripped(arguments.symbols.as_deref()) {
            Some((_, unstripped)) => symbols.add_unstripped(&image.name, &image.image, &unstripped),
            None => symbols.add_file(&image.name, &image.image),
        }
    }
    Config {
        target: target.map(|image| image.name.clone()).unwrap_or_default(),
        processors: arguments.cpus,
        hooks: guest.hooks(),
        step_over: guest.step_over(),
        exports: arguments.dump_export.clone(),
        symbols,
        run: RunInfo {
            command_line: command_line(arguments, seed),
            seed,
            cpus: arguments.cpus,
            memory: arguments.memory.0,
            images: images.iter().map(ImageFile::info).collect(),
            ..RunInfo::default()
        },
    }
}

fn read_images(arguments: &Arguments) -> Result<Vec<ImageFile>, Failure> {
    let Some(driver) = &arguments.driver else {
        return Err(Failure::usage(anyhow!(
            "--driver is needed: the miniport whose locks are to be watched (a guest that is Linux, or boots by \
             --firmware, is run without)"
        )));
    };
    read_files(arguments, driver).map_err(Failure::infrastructure)
}

fn read_files(arguments: &Arguments, driver: &Path) -> anyhow::Result<Vec<ImageFile>> {
    let kernel = arguments
        .kernel
        .clone()
        .map_or_else(|| images::built_image("ntoskrnl.exe"), Ok)?;
    let port_driver = arguments
        .port_driver
        .clone()
        .map_or_else(|| images::built_image("storport.sys"), Ok)?;
    let mut files = vec![
        ImageFile::read(&kernel, Role::Kernel)?,
        ImageFile::read(&port_driver, Role::PortDriver)?,
        ImageFile::read(driver, Role::Target)?,
    ];
    for path in &arguments.load {
        files.push(ImageFile::read(path, Role::Driver)?);
    }
    Ok(files)
}

fn options(arguments: &Arguments, images: &[ImageFile], seed: u64, sandbox: Sandbox) -> GuestOptions {
    let files = images.iter().map(|file| BootFile {
        name: file.name.clone(),
        kind: match file.role {
            Role::Kernel => FileKind::Kernel,
            Role::PortDriver => FileKind::PortDriver,
            Role::Target => FileKind::Driver,
            Role::Driver => FileKind::OtherDriver,
        },
        data: file.image.data().to_vec(),
    });
    GuestOptions {
        seed,
        files: files.collect(),
        command_line: arguments.append.clone(),
        ..machine_options(arguments, sandbox)
    }
}

/// What any guest gets; no files and no command line yet.
pub(super) fn machine_options(arguments: &Arguments, sandbox: Sandbox) -> GuestOptions {
    GuestOptions {
        kvm: arguments.kvm.clone(),
        cpus: arguments.cpus,
        memory: arguments.memory.0,
        seed: 0,
        files: Vec::new(),
        command_line: String::new(),
        disks: arguments.disk.clone(),
        interrupts: arguments.interrupts.into(),
        faults: arguments.fault.clone(),
        serial_log: arguments.report_dir.join(SERIAL_FILE),
        serial_copy: arguments.serial.clone(),
        hyperv: arguments.hyperv,
        sandbox,
    }
}

/// The guest's registry: its parser is the guest's, so nothing but the size is looked at here.
fn registry_file(path: &Path) -> anyhow::Result<BootFile> {
    Ok(BootFile {
        name: "registry".to_owned(),
        kind: FileKind::Registry,
        data: input::read(path, " as the registry file", REGISTRY_LIMIT)?,
    })
}

fn open_session(arguments: &Arguments, config: Config, sandbox: Sandbox) -> anyhow::Result<Session> {
    let path = arguments.report_dir.join(TRACE_FILE);
    let trace =
        Trace::create(&path, sandbox).with_context(|| format!("cannot write the event trace {}", path.display()))?;
    let recording = match &arguments.record {
        Some(path) => Some(record_to(path, &config, sandbox)?),
        None => None,
    };
    Ok(Session::new(config, Some(trace), recording))
}

fn record_to(path: &Path, config: &Config, sandbox: Sandbox) -> anyhow::Result<Recording> {
    let header = serde_json::to_vec(config).context("the recording's header")?;
    Recording::create(path, header, sandbox).with_context(|| format!("cannot write the recording {}", path.display()))
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
