//! What the tests with a real operating system or firmware share: a PC with a disk, and an initial RAM disk of busybox and
//! the modules that it needs.

#![allow(clippy::print_stdout, reason = "what a test measured is shown on demand")]
// Each test binary is a crate of its own, which uses a part of this.
#![allow(unreachable_pub, dead_code)]
// clippy sees that a `#[test]` is a test, not that this module serves nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod firmware;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use storlock_vmm::boot::{LinuxRequest, NamedFile};
use storlock_vmm::bus::{Bus, UnassignedPlace};
use storlock_vmm::kvm;
use storlock_vmm::pci::PciAddress;
use storlock_vmm::run::{Machine, MachineConfig, MachineStop};
use storlock_vmm::sandbox::Sandbox;
use storlock_vmm::storage::InterruptKind;
use storlock_vmm::storage::backend::{ImageBackend, ImageOptions};
use storlock_vmm::storage::nvme::{NvmeConfig, NvmeDevice};

/// Wall-clock limit of one guest. On the svm test platform one takes a twentieth of it when nothing else runs there.
pub const LIMIT: Duration = Duration::from_secs(1200);
/// PCI slot of the first NVMe controller.
const NVME_SLOT: u8 = 4;

/// Whether the test platform can run an operating system: its KVM executes every instruction.
pub fn test_platform_runs_operating_systems() -> bool {
    let platform = std::env::var("STORLOCK_TEST_PLATFORM").unwrap_or_default();
    if platform == "svm" || platform == "vmx" {
        return true;
    }
    let vector_arithmetic_works =
        fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains(" svm") || text.contains(" vmx"));
    if !vector_arithmetic_works {
        println!(
            "not run on this test platform: its KVM has no hardware behind it and gives up on SSE and x87 instructions, which \
             OVMF and Linux use"
        );
    }
    vector_arithmetic_works
}

/// Guest output that can be read while the guest runs.
#[derive(Clone, Default)]
pub struct Console(Arc<Mutex<Vec<u8>>>);

impl Console {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).replace('\r', "")
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        if std::env::var_os("STORLOCK_SHOW_CONSOLE").is_some() {
            std::io::stderr().write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A machine with an NVMe disk in `disk`. What it has to say goes to standard error as far as `RUST_LOG` asks for it.
pub fn machine(cpus: u32, mebibytes: u64, disk: &Path, console: &Console) -> Machine {
    let config = MachineConfig {
        cpus,
        memory: mebibytes << 20,
        ..MachineConfig::default()
    };
    machine_of(config, disk, console)
}

/// As [`machine`], with more to choose.
pub fn machine_of(config: MachineConfig, disk: &Path, console: &Console) -> Machine {
    machine_with(config, &[(disk, ImageOptions::default())], console)
}

/// As [`machine_of`], with any number of disks on a controller each.
pub fn machine_with(config: MachineConfig, disks: &[(&Path, ImageOptions)], console: &Console) -> Machine {
    machine_interrupted_by(InterruptKind::Msix, config, disks, console)
}

/// As [`machine_with`], with the best way to interrupt that the controllers offer.
pub fn machine_interrupted_by(
    interrupts: InterruptKind,
    config: MachineConfig,
    disks: &[(&Path, ImageOptions)],
    console: &Console,
) -> Machine {
    // Fails where an earlier test has done it already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .try_init();
    let kvm = kvm::open(Path::new(kvm::DEFAULT_DEVICE)).expect("this test needs /dev/kvm");
    let cpus = config.cpus;
    let config = MachineConfig {
        serial: Some(Box::new(console.clone())),
        sandbox: Sandbox::enforced(&storlock_vmm::run::THREADS).unwrap(),
        ..config
    };
    let mut machine = Machine::new(&kvm, config).unwrap();
    for (index, (path, options)) in (0u8..).zip(disks) {
        let config = NvmeConfig {
            // OVMF's driver wants two, whatever the number of processors.
            queue_pairs: cpus.max(2) as u16,
            index: u32::from(index),
            interrupts,
            ..NvmeConfig::default()
        };
        let backend = ImageBackend::open(path, config.block_size, options).unwrap();
        let address = PciAddress::new(NVME_SLOT + index, 0).unwrap();
        let make = |connections| NvmeDevice::new(config, vec![Box::new(backend)], connections);
        machine.attach_storage(address, make).unwrap();
    }
    machine
}

/// A file of the Linux system that `scripts/lab/guest` makes.
fn guest_file(name: &str) -> PathBuf {
    let file = cache().join("guest").join(name);
    assert!(file.exists(), "no {}: scripts/lab/guest makes it", file.display());
    file
}

/// Its root file system: ext4 with busybox, fio and nvme-cli. For snapshots only.
pub fn guest_root() -> PathBuf {
    guest_file("root.ext4")
}

/// That system, whose first process runs the shell script `job`.
pub fn guest_system(job: &str) -> LinuxRequest {
    let mut initrd = fs::read(guest_file("initrd")).unwrap();
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    let mut archive = Archive::default();
    archive.add("job", 0o100755, job.as_bytes());
    initrd.extend(archive.finish());
    let kernel = guest_file("vmlinuz");
    LinuxRequest {
        kernel: NamedFile {
            name: kernel.display().to_string(),
            data: fs::read(kernel).unwrap(),
        },
        initrd: Some(NamedFile {
            name: "the guest's initrd with a job".to_owned(),
            data: initrd,
        }),
        command_line: "console=ttyS0 quiet".into(),
    }
}

/// Where scripts keep what they have downloaded or built.
fn cache() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("STORLOCK_CACHE").map(PathBuf::from).or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
        Some(base.join("storlock"))
    });
    cache.expect("HOME is not set")
}

/// What an init script begins with; `$B` is busybox.
pub const PROLOGUE: &str = r#"#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc none /proc
$B mount -t sysfs none /sys
$B mount -t devtmpfs none /dev
while read -r module; do $B insmod /modules/$module || echo "FAILED: module $module"; done </modules/order
for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/nvme0n1 ] && break; $B sleep 1; done
"#;

/// What an init script says of the machine at its end.
pub const REPORT: &str = r#"
B=/bin/busybox
echo "processors: $($B nproc)"
echo "clocksource: $($B cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "vendor: $($B cat /sys/class/dmi/id/sys_vendor)"
$B dmesg -r | $B grep '^<[0-4]>' | $B sed 's/^/complaint: /'
echo "end of report"
"#;

/// What is as it should be: an i440FX has no memory-mapped configuration space, the board no mouse, and nvme-cli resets
/// the controller.
const EXPECTED: [&str; 3] = [
    "fail to add mmconfig information",
    "ps/2 appears to have aux port disabled",
    "resetting controller",
];

/// Complaints of a kernel (warnings or worse) that are about the machine. A subsystem's mere name is enough.
fn about_the_machine(line: &str) -> bool {
    let line = line.to_lowercase();
    let subsystems = [
        "acpi",
        "pci",
        "nvme",
        "apic",
        "clocksource",
        "tsc",
        "irq",
        "i8042",
        "serial",
        "rtc",
        "dmi",
        "bios",
        "e820",
        "bug",
    ];
    let expected = EXPECTED.iter().any(|part| line.contains(part));
    !expected && subsystems.iter().any(|subsystem| line.contains(subsystem))
}

/// Checks that the guest has said these lines, that nothing has failed in it, and that its kernel has nothing to say
/// against the machine.
pub fn check_report(said: &str, wanted: &[&str]) {
    for line in wanted.iter().chain(&["end of report"]) {
        assert!(said.contains(line), "no {line:?} in:\n{said}");
    }
    let complaints: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with("complaint: ") && about_the_machine(line))
        .collect();
    assert!(
        complaints.is_empty() && !said.contains("FAILED"),
        "{complaints:#?}\n{said}"
    );
}

/// Runs a booted machine to its end, which has to be `wanted`; returns how long that took.
pub fn run_to(machine: Machine, console: &Console, wanted: &str) -> Duration {
    let (pio, mmio) = (Arc::clone(machine.pio()), Arc::clone(machine.mmio()));
    let began = Instant::now();
    let running = machine.start().unwrap();
    let reason = running.wait(Some(LIMIT));
    let took = began.elapsed();
    println!(
        "{reason} after {took:?}; {:?}; nobody answered at\nports: {}\nmemory: {}",
        running.statistics(),
        places(&pio),
        places(&mmio)
    );
    let ended = matches!(
        (&reason, wanted),
        (MachineStop::PowerOff, "power-off") | (MachineStop::Reset, "reset")
    );
    assert!(ended, "{reason} instead of {wanted}; the console:\n{}", console.text());
    took
}

/// The accesses that nobody answered, in a line: `r` or `w`, the length in bits, the address and how often.
pub fn places(bus: &Bus) -> String {
    let place = |(place, count): (&UnassignedPlace, &u64)| {
        let kind = if place.write { 'w' } else { 'r' };
        format!("{kind}{}@{:x} x{count}", place.length * 8, place.address)
    };
    bus.unassigned().kinds.iter().map(place).collect::<Vec<_>>().join(", ")
}

/// Debian's generic kernel as `scripts/lab/prepare` unpacks it.
pub struct DebianKernel {
    version: String,
    root: PathBuf,
}

impl DebianKernel {
    pub fn find() -> Self {
        let root = cache().join("lab/kernel");
        let versions = fs::read_dir(root.join("lib/modules"));
        let first = versions.ok().and_then(|mut entries| entries.next()?.ok());
        let entry =
            first.unwrap_or_else(|| panic!("no kernel in {}: scripts/lab/prepare puts it there", root.display()));
        Self {
            version: entry.file_name().to_string_lossy().into_owned(),
            root,
        }
    }

    pub fn image(&self) -> NamedFile {
        let path = self.root.join(format!("boot/vmlinuz-{}", self.version));
        NamedFile {
            data: fs::read(&path).unwrap(),
            name: path.display().to_string(),
        }
    }

    /// The files of these modules and of all that they need, in the order in which they can be loaded.
    fn modules(&self, names: &[&str]) -> Vec<PathBuf> {
        let directory = self.root.join("lib/modules").join(&self.version);
        let list = fs::read_to_string(directory.join("modules.dep")).unwrap();
        let mut files: Vec<PathBuf> = Vec::new();
        for name in names {
            let suffix = format!("/{name}.ko:");
            let line = list.lines().find(|line| format!("/{line}").contains(&suffix));
            let (module, needed) = line
                .unwrap_or_else(|| panic!("no module {name}"))
                .split_once(':')
                .unwrap();
            // What is needed first comes last.
            for file in needed.split_whitespace().rev().chain([module]) {
                let file = directory.join(file);
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        files
    }

    /// An initial RAM disk whose first process is the shell script `init`, with busybox, these modules and
    /// further files.
    pub fn initramfs(&self, modules: &[&str], init: &str, files: &[(&str, &[u8])]) -> NamedFile {
        let mut archive = Archive::default();
        for directory in ["bin", "dev", "proc", "sys", "tmp", "modules", "mnt"] {
            archive.add(directory, 0o40755, &[]);
        }
        archive.add(
            "bin/busybox",
            0o100755,
            &fs::read("/bin/busybox").expect("busybox-static is needed"),
        );
        let mut order = String::new();
        for file in self.modules(modules) {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            archive.add(&format!("modules/{name}"), 0o100644, &fs::read(&file).unwrap());
            order.push_str(&name);
            order.push('\n');
        }
        archive.add("modules/order", 0o100644, order.as_bytes());
        archive.add("init", 0o100755, init.as_bytes());
        for (name, data) in files {
            archive.add(name, 0o100644, data);
        }
        NamedFile {
            name: "the test's initramfs".to_owned(),
            data: archive.finish(),
        }
    }
}

/// A cpio archive in the "newc" format (Linux documentation "early-userspace/buffer-format").
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    count: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.count += 1;
        let links = 1;
        let fields = [
            self.count,
            mode,
            0,
            0,
            links,
            0,
            data.len() as u32,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}
