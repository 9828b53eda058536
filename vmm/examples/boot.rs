//! Boots a PE64 kernel with files and shows its serial port, until it powers off.
//!
//! `boot [--cpus N] [--memory MIB] [--seed N] [--limit SECONDS] [--append TEXT] [--nvme MIB] KERNEL
//! [KIND:FILE]...` where KIND is `port`, `target` or `other`; `--nvme` adds a controller with a disk in memory. The exit status is 0 after a power-off, else 1.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to its user")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use storlock_vmm::boot::{BootFile, BootRequest, KernelImage};
use storlock_vmm::kvm;
use storlock_vmm::pci::PciAddress;
use storlock_vmm::run::{Machine, MachineConfig, MachineStop};
use storlock_vmm::storage::backend::MemoryBackend;
use storlock_vmm::storage::nvme::{NvmeConfig, NvmeDevice};

/// The first slot that is free on the board.
const NVME_SLOT: u8 = 4;

type Failure = Box<dyn std::error::Error>;

struct Arguments {
    cpus: u32,
    memory: u64,
    limit: u64,
    seed: u64,
    command_line: String,
    nvme: Option<usize>,
    kernel: PathBuf,
    files: Vec<BootFile>,
}

fn arguments() -> Result<Arguments, Failure> {
    let mut parsed = Arguments {
        cpus: 1,
        memory: 128,
        limit: 60,
        seed: 1,
        command_line: String::new(),
        nvme: None,
        kernel: PathBuf::new(),
        files: Vec::new(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match &*argument {
            "--cpus" => parsed.cpus = value()?.parse()?,
            "--memory" => parsed.memory = value()?.parse()?,
            "--limit" => parsed.limit = value()?.parse()?,
            "--seed" => parsed.seed = value()?.parse()?,
            "--append" => parsed.command_line = value()?,
            "--nvme" => parsed.nvme = Some(value()?.parse()?),
            _ => match argument.split_once(':') {
                Some((kind, path)) => parsed.files.push(file(kind, Path::new(path))?),
                None => parsed.kernel = argument.into(),
            },
        }
    }
    Ok(parsed)
}

fn file(kind: &str, path: &Path) -> Result<BootFile, Failure> {
    let kind = match kind {
        "port" => 2,
        "target" => 3,
        "other" => 4,
        _ => return Err(format!("{kind} is no kind of file: port, target, other").into()),
    };
    Ok(BootFile {
        name: name(path),
        kind,
        data: read(path)?,
    })
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()).into())
}

fn attach_disk(machine: &mut Machine, mebibytes: usize) -> Result<(), Failure> {
    let address = PciAddress::new(NVME_SLOT, 0).ok_or("no such PCI slot")?;
    let config = NvmeConfig {
        queue_pairs: 4,
        ..NvmeConfig::default()
    };
    let disk = Box::new(MemoryBackend::new(mebibytes << 20));
    machine.attach_storage(address, |connections| NvmeDevice::new(config, vec![disk], connections))?;
    Ok(())
}

fn run() -> Result<bool, Failure> {
    let arguments = arguments()?;
    let kernel = KernelImage::parse(&name(&arguments.kernel), read(&arguments.kernel)?)?;
    let kvm = kvm::open(Path::new(kvm::DEFAULT_DEVICE))?;
    let config = MachineConfig {
        cpus: arguments.cpus,
        memory: arguments.memory << 20,
        serial: Some(Box::new(std::io::stdout())),
        debug_console: Some(Box::new(std::io::stderr())),
        ..MachineConfig::default()
    };
    let mut machine = Machine::new(&kvm, config)?;
    if let Some(mebibytes) = arguments.nvme {
        attach_disk(&mut machine, mebibytes)?;
    }
    let info = machine.boot(&BootRequest {
        kernel,
        files: arguments.files,
        command_line: arguments.command_line,
        seed: arguments.seed,
    })?;
    eprintln!("kernel at {:#x}, entry point {:#x}", info.kernel_base, info.entry_point);
    let running = machine.start()?;
    let start = Instant::now();
    let reason = running.wait(Some(Duration::from_secs(arguments.limit)));
    eprintln!("{reason} after {} ms", start.elapsed().as_millis());
    for cpu in 0..arguments.cpus {
        let state = running.inspect(cpu, |cpu| (*cpu.registers(), cpu.special().cr2, cpu.special().cr8));
        if let Some((registers, cr2, cr8)) = state.filter(|_| !matches!(reason, MachineStop::PowerOff)) {
            eprintln!("processor {cpu}: {registers:#x?} cr2 {cr2:#x} cr8 {cr8}");
        }
    }
    for (cpu, statistics) in running.statistics().iter().enumerate() {
        eprintln!("processor {cpu}: {statistics:?}");
    }
    Ok(matches!(reason, MachineStop::PowerOff))
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
