//! A fake machine for a debugger.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use storlock::vmi::debuggee::{
    AllRegisters, DebuggedCpu, Debuggee, DebuggeeStop, Look, Page, RegisterError, ResumeAction, StopPoint,
    StopPointError, StopPointKind, StopPointUse,
};
use storlock::vmi::{CpuState, GuestMemory, ReadError, Registers, SpecialRegisters};

pub const CPUS: u32 = 3;
const MEMORY: usize = 0x3000;
/// The machine's state.
#[derive(Default)]
pub struct Inner {
    registers: [AllRegisters; CPUS as usize],
    memory: Vec<u8>,
    /// It runs.
    pub running: bool,
    /// Stop points in force.
    pub stop_points: Vec<StopPoint>,
    /// What it stops for next.
    pub stops: VecDeque<DebuggeeStop>,
}

/// The machine.
#[derive(Default)]
pub struct Fake(Mutex<Inner>);

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
    /// A machine that stands still.
    pub fn new() -> Arc<Self> {
        let machine = Self::default();
        machine.with(|inner| inner.memory = vec![0; MEMORY]);
        Arc::new(machine)
    }

    /// Looks at it, or changes it.
    pub fn with<R>(&self, act: impl FnOnce(&mut Inner) -> R) -> R {
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

    fn set_stop_points(&self, stop_points: &[StopPoint]) -> Result<(), StopPointError> {
        if stop_points
            .iter()
            .filter(|stop_point| stop_point.kind != StopPointKind::SoftwareBreakpoint)
            .count()
            > 4
        {
            return Err(StopPointError("no more".to_owned()));
        }
        self.with(|inner| inner.stop_points = stop_points.to_vec());
        Ok(())
    }

    fn has_software_breakpoints(&self) -> bool {
        true
    }

    fn in_use(&self) -> StopPointUse {
        StopPointUse::default()
    }

    fn interrupt(&self) {
        self.with(|inner| {
            if inner.running {
                inner.stops.push_back(DebuggeeStop::Interrupted);
            }
        });
    }

    fn resume(&self, actions: Vec<ResumeAction>) {
        self.with(|inner| {
            assert!(!inner.running, "resumed while it runs");
            assert_eq!(actions.len(), CPUS as usize);
            inner.running = true;
            if let Some(cpu) = actions
                .iter()
                .position(|action| matches!(action, ResumeAction::Step { .. }))
            {
                inner.stops.push_back(DebuggeeStop::Stepped(cpu as u32));
            }
        });
    }

    fn end(&self) {}

    fn ran_on(&self) -> Vec<Option<Duration>> {
        Vec::new()
    }
}
