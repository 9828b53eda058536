//! Assembling and running small guests.

#![allow(clippy::print_stdout, reason = "what a test measured is shown on demand")]
// Each test binary is a crate of its own, so that nothing here is reachable from outside.
#![allow(unreachable_pub, dead_code)]
// clippy sees that a `#[test]` is a test, not that this module serves nothing else.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvm_ioctls::Kvm;
use storlock_vmm::boot::{BootInfo, BootRequest, KernelImage};
use storlock_vmm::debug::{Breakpoint, HitAction, StepOver};
use storlock_vmm::kvm;
use storlock_vmm::run::probe_step_over;
use storlock_vmm::run::{DebugHandler, StoppedCpu};
use storlock_vmm::run::{Machine, MachineConfig, MachineStop, RunningMachine};

/// No guest here needs a tenth of it, not even where each instruction is interpreted twice.
pub const LIMIT: Duration = Duration::from_secs(120);
/// A write there ends the guest.
pub const END_PORT: u8 = 0x80;

pub fn open() -> Kvm {
    match kvm::open(Path::new(kvm::DEFAULT_DEVICE)) {
        Ok(kvm) => kvm,
        Err(error) => panic!("these tests need KVM: {error}"),
    }
}

/// The ways of stepping over that work on this test platform; those that do not are named.
pub fn working_methods(kvm: &Kvm) -> Vec<StepOver> {
    let mut working = Vec::new();
    for result in probe_step_over(kvm).unwrap() {
        match result.outcome {
            Ok(()) => working.push(result.method),
            Err(reason) => println!("this test platform cannot step over by {}: {reason}", result.method),
        }
    }
    assert!(!working.is_empty());
    working
}

/// Machine code with labels; 32-bit relative references.
#[derive(Default)]
pub struct Code {
    bytes: Vec<u8>,
    labels: HashMap<&'static str, usize>,
    references: Vec<(usize, &'static str, usize)>,
}

impl Code {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn label(mut self, name: &'static str) -> Self {
        assert!(
            self.labels.insert(name, self.bytes.len()).is_none(),
            "{name} is there twice"
        );
        self
    }

    /// `opcode`, a relative reference to `label`, then `immediate`, which counts for where the instruction ends.
    pub fn relative(mut self, opcode: &[u8], label: &'static str, immediate: &[u8]) -> Self {
        self.bytes.extend_from_slice(opcode);
        let place = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(immediate);
        self.references.push((place, label, self.bytes.len()));
        self
    }

    pub fn call(self, label: &'static str) -> Self {
        self.relative(&[0xe8], label, &[])
    }

    pub fn jump(self, label: &'static str) -> Self {
        self.relative(&[0xe9], label, &[])
    }

    pub fn jump_if_not_zero(self, label: &'static str) -> Self {
        self.relative(&[0x0f, 0x85], label, &[])
    }

    /// lock inc dword [rip + label]
    pub fn count(self, label: &'static str) -> Self {
        self.relative(&[0xf0, 0xff, 0x05], label, &[])
    }

    /// Writes to the port that ends the guest, then waits.
    pub fn end(self) -> Self {
        self.raw(&[0xe6, END_PORT]).raw(&[0xf4, 0xeb, 0xfd])
    }

    /// `bytes` of data on a 16-byte boundary.
    pub fn data(mut self, label: &'static str, bytes: usize) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        self = self.label(label);
        self.bytes.resize(self.bytes.len() + bytes, 0);
        self
    }

    pub fn assemble(mut self) -> Guest {
        for (place, label, end) in std::mem::take(&mut self.references) {
            let position = |offset: usize| i32::try_from(offset).unwrap();
            let distance = position(self.labels[label]) - position(end);
            self.bytes[place..place + 4].copy_from_slice(&distance.to_le_bytes());
        }
        Guest {
            image: self.bytes,
            labels: self.labels,
        }
    }
}

pub struct Guest {
    pub image: Vec<u8>,
    labels: HashMap<&'static str, usize>,
}

impl Guest {
    pub fn offset(&self, label: &str) -> u64 {
        self.labels[label] as u64
    }

    pub fn prepare(self, kvm: &Kvm, config: MachineConfig) -> Prepared {
        let mut machine = Machine::new(kvm, config).unwrap();
        machine.end_at_port(u64::from(END_PORT)).unwrap();
        let request = BootRequest {
            kernel: KernelImage::from_code("test", &self.image).unwrap(),
            files: Vec::new(),
            command_line: String::new(),
            seed: 7,
        };
        let info = machine.boot(&request).unwrap();
        Prepared {
            machine,
            place: Place { guest: self, info },
        }
    }
}

/// A guest in memory, not yet started.
pub struct Prepared {
    pub machine: Machine,
    pub place: Place,
}

impl Prepared {
    pub fn break_at(mut self, labels: &[&str]) -> Self {
        let set = self.place.breakpoints(labels);
        self.machine.set_breakpoints(&set).unwrap();
        self
    }

    /// Sets vector `vector` of the guest's interrupt table at `idt`, and the pointer at `idtr`, to `handler`.
    pub fn set_gate(&self, vector: u64, handler: &str) {
        let target = self.place.address(handler);
        let mut gate = [0u8; 16];
        gate[..2].copy_from_slice(&(target as u16).to_le_bytes());
        gate[2..6].copy_from_slice(&[0x10, 0, 0, 0x8e]);
        gate[6..8].copy_from_slice(&((target >> 16) as u16).to_le_bytes());
        gate[8..12].copy_from_slice(&((target >> 32) as u32).to_le_bytes());
        let mut pointer = [0u8; 10];
        pointer[..2].copy_from_slice(&0xfffu16.to_le_bytes());
        pointer[2..].copy_from_slice(&self.place.address("idt").to_le_bytes());
        let write = |place, bytes: &[u8]| self.machine.ram().write(place, bytes).unwrap();
        write(self.place.physical("idt") + 16 * vector, &gate);
        write(self.place.physical("idtr"), &pointer);
    }

    pub fn start(self) -> Started {
        Started {
            machine: self.machine.start().unwrap(),
            place: self.place,
        }
    }

    /// To its end, which has to be power-off.
    pub fn run(self) -> Started {
        let started = self.start();
        started.finish();
        started
    }
}

/// Where the guest's labels came to lie.
pub struct Place {
    guest: Guest,
    pub info: BootInfo,
}

impl Place {
    pub fn address(&self, label: &str) -> u64 {
        self.info.kernel_base + self.guest.offset(label)
    }

    pub fn physical(&self, label: &str) -> u64 {
        self.info.kernel_physical + self.guest.offset(label)
    }

    /// Breakpoint n at the n-th label.
    pub fn breakpoints(&self, labels: &[&str]) -> Vec<Breakpoint> {
        (0..)
            .zip(labels)
            .map(|(id, label)| Breakpoint {
                id,
                address: self.address(label),
            })
            .collect()
    }
}

pub struct Started {
    pub machine: RunningMachine,
    pub place: Place,
}

impl Started {
    pub fn finish(&self) {
        let reason = self.machine.wait(Some(LIMIT));
        assert!(matches!(reason, MachineStop::PowerOff), "{reason}");
    }

    pub fn u32_at(&self, label: &str, index: u64) -> u32 {
        let mut data = [0; 4];
        let address = self.place.physical(label) + 4 * index;
        self.machine.ram().read(address, &mut data).unwrap();
        u32::from_le_bytes(data)
    }

    pub fn u64_at(&self, label: &str, index: u64) -> u64 {
        let mut data = [0; 8];
        let address = self.place.physical(label) + 8 * index;
        self.machine.ram().read(address, &mut data).unwrap();
        u64::from_le_bytes(data)
    }
}

/// What a handler was called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Breakpoint { cpu: u32, id: u32, rip: u64 },
    Return { cpu: u32, cookie: u64, rax: u64 },
    Msr { cpu: u32, msr: u32, value: u64 },
}

type Answer = dyn Fn(&mut StoppedCpu<'_>, Call) -> HitAction + Send + Sync;

/// Notes all calls and answers them by a closure.
pub struct Recorder {
    calls: Mutex<Vec<Call>>,
    answer: Box<Answer>,
}

impl Recorder {
    pub fn new(answer: impl Fn(&mut StoppedCpu<'_>, Call) -> HitAction + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            calls: Mutex::default(),
            answer: Box::new(answer),
        })
    }

    pub fn resuming() -> Arc<Self> {
        Self::new(|_, _| HitAction::Resume)
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    fn note(&self, cpu: &mut StoppedCpu<'_>, call: Call) -> HitAction {
        self.calls.lock().unwrap().push(call);
        (self.answer)(cpu, call)
    }
}

impl DebugHandler for Recorder {
    fn breakpoint(&self, cpu: &mut StoppedCpu<'_>, id: u32) -> HitAction {
        let call = Call::Breakpoint {
            cpu: cpu.index(),
            id,
            rip: cpu.registers().rip,
        };
        self.note(cpu, call)
    }

    fn caught_return(&self, cpu: &mut StoppedCpu<'_>, cookie: u64) -> HitAction {
        let call = Call::Return {
            cpu: cpu.index(),
            cookie,
            rax: cpu.registers().rax,
        };
        self.note(cpu, call)
    }

    fn msr_write(&self, cpu: &mut StoppedCpu<'_>, msr: u32, value: u64) -> HitAction {
        let call = Call::Msr {
            cpu: cpu.index(),
            msr,
            value,
        };
        self.note(cpu, call)
    }
}

/// Small and with a recorder.
pub fn config(cpus: u32, recorder: &Arc<Recorder>) -> MachineConfig {
    MachineConfig {
        cpus,
        memory: 16 << 20,
        handler: Some(Arc::clone(recorder) as _),
        ..MachineConfig::default()
    }
}
