//! Random registers, random commands and random fault plans: nothing panics, nothing runs for ever, nothing outside RAM is touched.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, VolatileSlice};
use zerocopy::IntoBytes;

use super::harness::*;
use crate::storage::backend::MemoryBackend;
use crate::storage::nvme::spec::command::SubmissionEntry;
use crate::storage::nvme::spec::status::Status;
use crate::storage::nvme::{Controller, NvmeConfig};

/// RAM of the machine: two pieces with a hole between them.
const RAM: [(u64, u64); 2] = [(0, 0x8000), (0x1_0000, 0x8000)];

fn is_ram(ram: &[(u64, u64)], address: u64, length: u64) -> bool {
    ram.iter()
        .any(|&(base, size)| address >= base && address.checked_add(length).is_some_and(|end| end <= base + size))
}

/// Address and length of accesses.
pub(super) type Escapes = Arc<Mutex<Vec<(u64, usize)>>>;

/// Memory that notes every access that succeeded although part of it is no RAM.
pub(super) struct Watched {
    pub(super) memory: GuestMemoryMmap,
    /// What is RAM: bases and sizes.
    pub(super) ram: Vec<(u64, u64)>,
    pub(super) escaped: Escapes,
}

impl Watched {
    fn note<T>(&self, address: u64, length: usize, result: Result<T, NotMemory>) -> Result<T, NotMemory> {
        if result.is_ok() && length > 0 && !is_ram(&self.ram, address, length as u64) {
            self.escaped.lock().unwrap().push((address, length));
        }
        result
    }
}

impl DmaMemory for Watched {
    fn contains(&self, address: u64, length: usize) -> bool {
        DmaMemory::contains(&self.memory, address, length)
    }
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), NotMemory> {
        self.note(address, buffer.len(), DmaMemory::read(&self.memory, address, buffer))
    }
    fn write(&self, address: u64, data: &[u8]) -> Result<(), NotMemory> {
        self.note(address, data.len(), DmaMemory::write(&self.memory, address, data))
    }
    fn slices(&self, segments: &[Segment]) -> Result<Vec<VolatileSlice<'_>>, NotMemory> {
        let slices = DmaMemory::slices(&self.memory, segments)?;
        for segment in segments {
            self.note(segment.address, segment.length, Ok(()))?;
        }
        Ok(slices)
    }
    fn load(&self, address: u64) -> Result<u32, NotMemory> {
        self.note(address, 4, DmaMemory::load(&self.memory, address))
    }
    fn store(&self, address: u64, value: u32) -> Result<(), NotMemory> {
        self.note(address, 4, DmaMemory::store(&self.memory, address, value))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Register {
        offset: u64,
        data: Vec<u8>,
    },
    Read {
        offset: u64,
        length: usize,
    },
    Memory {
        address: u64,
        data: Vec<u8>,
    },
    Command {
        address: u64,
        command: Box<SubmissionEntry>,
    },
    Enable,
    Reset,
    SubsystemReset,
    Process,
    /// Delayed completions are due.
    Release,
}

/// Addresses near RAM, at the ends of it and of the address space.
fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..0x20u64).prop_map(|page| page * 0x1000),
        2 => (0..0x2_0000u64).prop_map(|dword| dword & !3),
        1 => any::<u64>(),
        1 => (0..0x2000u64).prop_map(|back| u64::MAX - back),
    ]
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..12u32, 2 => (0..8u32, 0..8u32).prop_map(|(low, high)| low | high << 16), 1 => any::<u32>()]
}

fn command() -> impl Strategy<Value = Box<SubmissionEntry>> {
    let opcode = prop_oneof![
        8 => prop::sample::select(vec![0u8, 1, 2, 4, 5, 6, 8, 9, 0x0a, 0x0c, 0x7c]),
        1 => any::<u8>()
    ];
    let flags = prop_oneof![20 => Just(0u8), 1 => any::<u8>()];
    let nsid = prop_oneof![4 => Just(1u32), 1 => Just(u32::MAX), 1 => any::<u32>()];
    (
        opcode,
        flags,
        0..40u16,
        nsid,
        (address(), address()),
        (small(), small(), small(), small()),
    )
        .prop_map(
            |(opcode, flags, id, nsid, (prp1, prp2), (dword10, dword11, dword12, dword13))| {
                Box::new(SubmissionEntry {
                    opcode,
                    flags,
                    command_id: id.into(),
                    namespace_id: nsid.into(),
                    prp1: prp1.into(),
                    prp2: prp2.into(),
                    dword10: dword10.into(),
                    dword11: dword11.into(),
                    dword12: dword12.into(),
                    dword13: dword13.into(),
                    ..SubmissionEntry::default()
                })
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    let doorbell = (0x400..0x414u64, 0..18u32).prop_map(|(dword, value)| (dword * 4, value.to_le_bytes().to_vec()));
    let register = (0..0x40u64, prop::collection::vec(any::<u8>(), 1..9));
    let anywhere = (any::<u64>(), prop::collection::vec(any::<u8>(), 1..9));
    prop_oneof![
        8 => doorbell.prop_map(|(offset, data)| Step::Register { offset, data }),
        1 => register.prop_map(|(offset, data)| Step::Register { offset, data }),
        1 => anywhere.prop_map(|(offset, data)| Step::Register { offset, data }),
        1 => (any::<u64>(), 1..9usize).prop_map(|(offset, length)| Step::Read { offset, length }),
        1 => (address(), prop::collection::vec(any::<u8>(), 1..64)).prop_map(|(address, data)| Step::Memory { address, data }),
        // The admin queue is in page 1; I/O queues are wherever the guest puts them, pages 3 and 4 are likely.
        12 => (prop::sample::select(vec![0x1000u64, 0x1000, 0x1000, 0x3000, 0x4000]), 0..16u64, command())
            .prop_map(|(base, slot, command)| Step::Command { address: base + 64 * slot, command }),
        1 => Just(Step::Enable),
        1 => Just(Step::Reset),
        1 => Just(Step::SubsystemReset),
        4 => Just(Step::Process),
        1 => Just(Step::Release),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    let commands = || {
        prop_oneof![
            Just(CommandMatch::Any),
            (0..2u8).prop_map(CommandMatch::Class),
            (0..16u8).prop_map(admin_command),
            (0..16u8).prop_map(io),
        ]
    };
    let fetch = prop::sample::select(vec![
        FetchFault::Fail(Status::UNRECOVERED_READ_ERROR.into()),
        FetchFault::Fatal,
        FetchFault::ReadOnly,
    ]);
    let completion = prop::sample::select(vec![
        CompletionFault::Delay(Duration::from_millis(1)),
        CompletionFault::Drop,
        CompletionFault::Duplicate,
        CompletionFault::Stray,
    ]);
    let register = prop_oneof![Just(ANY_DOORBELL), (0..16u64).prop_map(|at| RegisterMatch::at(4 * at))];
    let what = prop::sample::select(vec![RegisterFault::Drop, RegisterFault::Fatal]);
    let kind = prop_oneof![
        2 => (commands(), fetch).prop_map(|(commands, fault)| FaultKind::Fetch(commands, fault)),
        4 => (commands(), completion).prop_map(|(commands, fault)| FaultKind::Completion(commands, fault)),
        1 => (register, what).prop_map(|(register, fault)| FaultKind::Register(register, fault)),
    ];
    let count = prop_oneof![1..4u64, Just(u64::MAX)];
    (kind, 0..6u64, count).prop_map(|(kind, after, count)| Fault { kind, after, count })
}

fn controller(faults: Vec<Fault>) -> (Controller, GuestMemoryMmap, Escapes) {
    let ranges: Vec<_> = RAM
        .iter()
        .map(|&(base, size)| (GuestAddress(base), size as usize))
        .collect();
    let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    let escaped = Arc::default();
    let watched = Watched {
        memory: memory.clone(),
        ram: RAM.to_vec(),
        escaped: Arc::clone(&escaped),
    };
    let config = NvmeConfig {
        queue_pairs: 3,
        faults,
        ..NvmeConfig::default()
    };
    let backends = vec![Box::new(MemoryBackend::new(64 * 1024)) as _];
    let controller = Controller::new(
        config,
        Box::new(watched),
        Arc::new(Interrupts::default()),
        Box::new(()),
        backends,
    )
    .unwrap();
    (controller, memory, escaped)
}

fn write(controller: &Controller, offset: u64, value: u32) {
    let _ = controller.registers().write(offset, &value.to_le_bytes());
}

fn enable(controller: &Controller) {
    write(controller, 0x14, 0);
    write(controller, 0x24, 15 << 16 | 15);
    write(controller, 0x28, 0x1000);
    write(controller, 0x2c, 0);
    write(controller, 0x30, 0x2000);
    write(controller, 0x34, 0);
    write(controller, 0x14, CC_ENABLE);
}

fn apply(controller: &mut Controller, memory: &GuestMemoryMmap, step: &Step) {
    match step {
        Step::Register { offset, data } => {
            let _ = controller.registers().write(*offset, data);
        }
        Step::Read { offset, length } => controller.registers().read(*offset, &mut [0; 8][..*length]),
        Step::Memory { address, data } => {
            let _ = memory.write_slice(data, GuestAddress(*address));
        }
        Step::Command { address, command } => {
            memory.write_slice(command.as_bytes(), GuestAddress(*address)).unwrap();
        }
        Step::Enable => {
            write(controller, 0x14, 0);
            let _ = controller.process();
            enable(controller);
            let _ = controller.process();
        }
        Step::Reset => write(controller, 0x14, 0),
        Step::SubsystemReset => write(controller, 0x20, 0x4e56_4d65),
        Step::Release => release(controller),
        Step::Process => {
            let _ = controller.process();
        }
    }
}

fn release(controller: &mut Controller) {
    for (ticket, _) in controller.take_delays() {
        controller.release(ticket);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_hostile_guest_gets_nowhere(
        faults in prop::collection::vec(fault(), 0..3),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let (mut controller, memory, escaped) = controller(faults);
        enable(&controller);
        let _ = controller.process();
        for step in &steps {
            apply(&mut controller, &memory, step);
        }
        // Every queue holds less than 2^16 commands, and every turn takes one at least.
        let idle = (0..20_000).any(|_| controller.process() == Progress::Idle);
        prop_assert!(idle, "the controller never becomes idle");
        let (delayed, due) = controller.completions().withheld();
        prop_assert!(delayed <= 1024 && due <= 1024 + 4);
        let (requests, events) = controller.admin().events().waiting();
        prop_assert!(requests <= 4 && events <= 5);
        prop_assert!(controller.admin().errors().len() <= 16);
        prop_assert_eq!(escaped.lock().unwrap().clone(), vec![]);
    }
}
