//! What a debugger sends: any bytes, and lines that are wrapped as packets, on a machine that is made up.
#![no_main]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use storlock::gdb::{Conversation, SymbolFiles};
use storlock::session::{Config, Session};
use storlock::target::debuggee::{
    AllRegisters, DebuggedCpu, Debuggee, Look, Motion, Page, RegisterError, Stop, Trap, TrapError, TrapUse,
};
use storlock::target::{CpuState, GuestMemory, ReadError, Registers, SpecialRegisters};

const CPUS: u32 = 3;
const MEMORY: usize = 0x3000;
/// An answer is a few packets at most; a command's text is the longest.
const ANSWER_LIMIT: usize = 1 << 20;

#[derive(Default)]
struct Inner {
    registers: [AllRegisters; CPUS as usize],
    memory: Vec<u8>,
    running: bool,
    stops: VecDeque<Stop>,
}

#[derive(Default)]
struct Fake(Mutex<Inner>);

struct FakeCpu<'a>(u32, &'a mut Inner);

fn place(gva: u64, length: usize) -> Result<std::ops::Range<usize>, ReadError> {
    let start = usize::try_from(gva).map_err(|_| ReadError::Invalid(gva))?;
    match start.checked_add(length) {
        Some(end) if end <= MEMORY => Ok(start..end),
        _ => Err(ReadError::NotMapped(gva.max(MEMORY as u64))),
    }
}

impl GuestMemory for FakeCpu<'_> {
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        buf.copy_from_slice(&self.1.memory[place(gva, buf.len())?]);
        Ok(())
    }
}

impl CpuState for FakeCpu<'_> {
    fn index(&self) -> u32 {
        self.0
    }

    fn registers(&self) -> Registers {
        self.1.registers[self.0 as usize].general
    }

    fn special(&self) -> SpecialRegisters {
        SpecialRegisters::default()
    }
}

impl DebuggedCpu for FakeCpu<'_> {
    fn as_cpu_state(&self) -> &dyn CpuState {
        self
    }

    fn all(&self) -> Result<AllRegisters, RegisterError> {
        Ok(self.1.registers[self.0 as usize])
    }

    fn set_all(&mut self, registers: &AllRegisters) -> Result<(), RegisterError> {
        self.1.registers[self.0 as usize] = *registers;
        Ok(())
    }

    fn write(&mut self, gva: u64, data: &[u8]) -> Result<(), ReadError> {
        let range = place(gva, data.len())?;
        self.1.memory[range].copy_from_slice(data);
        Ok(())
    }

    fn translate(&self, gva: u64) -> Result<Page, ReadError> {
        Err(ReadError::NotMapped(gva))
    }

    fn read_physical(&self, gpa: u64, buf: &mut [u8]) -> bool {
        self.read(gpa, buf).is_ok()
    }
}

impl Fake {
    fn with<R>(&self, act: impl FnOnce(&mut Inner) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Debuggee for Fake {
    fn processors(&self) -> u32 {
        CPUS
    }

    fn look(&self, cpu: u32, look: Look) -> bool {
        assert!(cpu < CPUS);
        self.with(|inner| look(&mut FakeCpu(cpu, inner)));
        true
    }

    fn set_traps(&self, traps: &[Trap]) -> Result<(), TrapError> {
        if traps.len() > 4 {
            return Err(TrapError("no more".to_owned()));
        }
        Ok(())
    }

    fn can_patch(&self) -> bool {
        true
    }

    fn in_use(&self) -> TrapUse {
        TrapUse::default()
    }

    fn interrupt(&self) {
        self.with(|inner| inner.stops.push_back(Stop::Interrupted));
    }

    fn resume(&self, motions: Vec<Motion>) {
        self.with(|inner| {
            assert!(!inner.running, "resumed while it runs");
            inner.running = true;
            let steps = motions.iter().position(|motion| matches!(motion, Motion::Step { .. }));
            inner
                .stops
                .push_back(steps.map_or(Stop::Violation(1), |cpu| Stop::Stepped(cpu as u32)));
        });
    }

    fn end(&self) {}

    fn ran_on(&self) -> Vec<Option<Duration>> {
        Vec::new()
    }
}

/// Gives the bytes to a conversation, with each stop as soon as the machine has it.
fn converse(chunks: impl Iterator<Item = Vec<u8>>) {
    let machine = Arc::new(Fake::default());
    machine.with(|inner| inner.memory = vec![0; MEMORY]);
    let session = Arc::new(Session::new(Config::default(), None, None));
    let debuggee = Arc::clone(&machine) as Arc<dyn Debuggee>;
    let mut client = Conversation::begin(debuggee, session, Arc::new(SymbolFiles::default()), None, Stop::Start);
    for chunk in chunks {
        client.receive(&chunk);
        while let Some(stop) = machine.with(|inner| inner.running.then(|| inner.stops.pop_front()).flatten()) {
            machine.with(|inner| inner.running = false);
            client.tell(Some(stop));
        }
        assert!(client.output().len() < ANSWER_LIMIT);
        if client.left().is_some() {
            break;
        }
    }
    client.end();
}

fn packet(line: &[u8]) -> Vec<u8> {
    let sum = line.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    let mut bytes = vec![b'$'];
    bytes.extend_from_slice(line);
    bytes.extend_from_slice(format!("#{sum:02x}").as_bytes());
    bytes
}

fuzz_target!(|data: &[u8]| {
    // The stops of a chunk come after it, as on a socket.
    converse(data.chunks(16).map(<[u8]>::to_vec));
    converse(data.split(|byte| *byte == b'\n').map(packet));
});
