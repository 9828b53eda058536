//! A machine under a debugger: it runs until a test, or what the debugger asks for, stops it.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Space;
use crate::vmi::cpu::{CpuState, Registers, SpecialRegisters};
use crate::vmi::debuggee::{
    AllRegisters, DebuggedCpu, Debuggee, DebuggeeStop, Look, Page, RegisterError, ResumeAction, StopPoint,
    StopPointError, StopPointKind, StopPointUse,
};
use crate::vmi::memory::{GuestMemory, PAGE_SIZE, PhysicalMemory, ReadError};

/// Stop points that the machine has debug registers for.
pub(crate) const DEBUG_REGISTERS: usize = 2;

/// What a machine consists of.
#[derive(Default, Clone)]
pub struct FakeState {
    /// Its memory.
    pub(crate) space: Space,
    /// The registers of each processor.
    pub(crate) registers: Vec<AllRegisters>,
    /// Stop points in force.
    pub stop_points: Vec<StopPoint>,
    /// Whether it runs.
    pub running: bool,
    /// The resume actions of each time that it was resumed.
    pub resumed: Vec<Vec<ResumeAction>>,
    /// How the next runs end; a run without an end goes on.
    pub(crate) next: VecDeque<DebuggeeStop>,
    /// Takes its stops; `None` once the run is over.
    pub(crate) stops: Option<UnboundedSender<DebuggeeStop>>,
    /// Whether the debugger ended the run.
    pub(crate) ended: bool,
}

impl FakeState {
    fn stop(&self, stop: DebuggeeStop) {
        if let Some(stops) = &self.stops {
            // A test that does not want to know has dropped the other end.
            let _ = stops.send(stop);
        }
    }
}

/// The machine. A clone is the same machine.
#[derive(Clone)]
pub struct FakeMachine(Arc<Mutex<FakeState>>);

impl FakeMachine {
    /// A machine that stands still, with zeroes in that memory, and what tells its stops. The ends of `memory` are
    /// multiples of a page's size.
    #[must_use]
    pub fn new(processors: u32, memory: Range<u64>) -> (Self, UnboundedReceiver<DebuggeeStop>) {
        let mut space = Space::default();
        for page in memory.step_by(PAGE_SIZE as usize) {
            space.write(page, &[0]);
            space.back(page, page);
        }
        let (sender, stops) = unbounded_channel();
        let state = FakeState {
            space,
            registers: vec![AllRegisters::default(); processors as usize],
            stops: Some(sender),
            ..FakeState::default()
        };
        (Self(Arc::new(Mutex::new(state))), stops)
    }

    /// Its state, to look at and to change.
    pub fn state(&self) -> MutexGuard<'_, FakeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A processor of a machine that stands still, whose state `S` leads to.
pub(crate) struct FakeProcessor<S> {
    pub(crate) index: u32,
    pub(crate) state: S,
}

impl<S: Deref<Target = FakeState>> FakeProcessor<S> {
    fn own(&self) -> &AllRegisters {
        &self.state.registers[self.index as usize]
    }
}

impl<S: Deref<Target = FakeState>> GuestMemory for FakeProcessor<S> {
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.state.space.read(gva, buf)
    }
}

impl<S: Deref<Target = FakeState>> CpuState for FakeProcessor<S> {
    fn index(&self) -> u32 {
        self.index
    }

    fn registers(&self) -> Registers {
        self.own().general
    }

    fn special(&self) -> SpecialRegisters {
        SpecialRegisters::default()
    }
}

impl<S: DerefMut<Target = FakeState>> DebuggedCpu for FakeProcessor<S> {
    fn as_cpu_state(&self) -> &dyn CpuState {
        self
    }

    fn all(&self) -> Result<AllRegisters, RegisterError> {
        Ok(*self.own())
    }

    /// Refuses one value of CR3, as processors refuse some.
    fn set_all(&mut self, registers: &AllRegisters) -> Result<(), RegisterError> {
        if registers.cr3 == u64::MAX {
            return Err(RegisterError("not that".to_owned()));
        }
        let own = &mut self.state.registers[self.index as usize];
        let high = registers.floating.ymm_high.or(own.floating.ymm_high);
        *own = *registers;
        own.floating.ymm_high = high;
        Ok(())
    }

    fn write(&mut self, gva: u64, data: &[u8]) -> Result<(), ReadError> {
        self.read(gva, &mut vec![0; data.len()])?;
        self.state.space.write(gva, data);
        Ok(())
    }

    fn translate(&self, gva: u64) -> Result<Page, ReadError> {
        let physical = self.state.space.physical(gva).ok_or(ReadError::NotMapped(gva))?;
        Ok(Page {
            physical,
            size: PAGE_SIZE,
            writable: true,
            user: false,
            executable: true,
        })
    }

    fn read_physical(&self, gpa: u64, buf: &mut [u8]) -> bool {
        self.state.space.read_physical(gpa, buf)
    }
}

impl Debuggee for FakeMachine {
    fn processors(&self) -> u32 {
        self.state().registers.len() as u32
    }

    fn look(&self, cpu: u32, look: Look) -> bool {
        look(&mut FakeProcessor {
            index: cpu,
            state: self.state(),
        });
        true
    }

    fn set_stop_points(&self, stop_points: &[StopPoint]) -> Result<(), StopPointError> {
        let in_registers = |point: &&StopPoint| point.kind != StopPointKind::SoftwareBreakpoint;
        if stop_points.iter().filter(in_registers).count() > DEBUG_REGISTERS {
            return Err(StopPointError("no more".to_owned()));
        }
        self.state().stop_points = stop_points.to_vec();
        Ok(())
    }

    fn has_software_breakpoints(&self) -> bool {
        true
    }

    fn in_use(&self) -> StopPointUse {
        StopPointUse::default()
    }

    fn interrupt(&self) {
        let mut state = self.state();
        if std::mem::take(&mut state.running) {
            state.stop(DebuggeeStop::Interrupted);
        }
    }

    fn resume(&self, actions: Vec<ResumeAction>) {
        let mut state = self.state();
        assert!(!state.running, "resumed while it runs");
        assert!(actions.is_empty() || actions.len() == state.registers.len());
        state.resumed.push(actions);
        match state.next.pop_front() {
            Some(stop) => state.stop(stop),
            None => state.running = true,
        }
    }

    fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.stops = None;
    }

    fn ran_on(&self) -> Vec<Option<Duration>> {
        let mut ran_on = vec![None; self.state().registers.len()];
        if let Some(last) = ran_on.last_mut() {
            *last = Some(Duration::from_micros(17));
        }
        ran_on
    }
}
