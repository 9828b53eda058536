//! A machine that is made up, and a gdb server on it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use storlock_vmm::sandbox::{JoinHandle, Sandbox};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::super::{OnDisconnect, Served, Socket, SymbolFiles};
use super::rsp::Client;
use crate::notices::Silent;
use crate::session::{Config, Session};
use crate::vmi::debuggee::{
    AllRegisters, DebuggedCpu, Debuggee, DebuggeeStop, Look, Page, RegisterError, ResumeAction, StopPoint,
    StopPointError, StopPointKind, StopPointUse,
};
use crate::vmi::{CpuState, GuestMemory, ReadError, Registers, SpecialRegisters};

/// Where the made-up machine has memory.
pub(super) const MEMORY: std::ops::Range<u64> = 0x1000..0x3000;
/// Stop points that it has registers for.
pub(super) const STOP_POINTS: usize = 2;

#[derive(Default)]
pub(super) struct Inner {
    pub(super) registers: [AllRegisters; 2],
    pub(super) memory: Vec<u8>,
    pub(super) stop_points: Vec<StopPoint>,
    pub(super) running: bool,
    pub(super) resumed: Vec<Vec<ResumeAction>>,
    /// How the next runs end.
    pub(super) next: VecDeque<DebuggeeStop>,
    /// `None` once the run is over.
    pub(super) stops: Option<UnboundedSender<DebuggeeStop>>,
    pub(super) ended: bool,
}

#[derive(Clone)]
pub(super) struct Fake(pub(super) Arc<Mutex<Inner>>);

impl Fake {
    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

struct FakeCpu<'a> {
    index: u32,
    inner: MutexGuard<'a, Inner>,
}

impl FakeCpu<'_> {
    fn range(gva: u64, length: usize) -> Result<std::ops::Range<usize>, ReadError> {
        let first = (0..length as u64)
            .map(|at| gva.wrapping_add(at))
            .find(|at| !MEMORY.contains(at));
        if let Some(outside) = first {
            return Err(ReadError::NotMapped(outside));
        }
        // Nothing can be read anywhere.
        let start = if length == 0 { 0 } else { (gva - MEMORY.start) as usize };
        Ok(start..start + length)
    }
}

impl GuestMemory for FakeCpu<'_> {
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let range = Self::range(gva, buf.len())?;
        buf.copy_from_slice(&self.inner.memory[range]);
        Ok(())
    }
}

impl CpuState for FakeCpu<'_> {
    fn index(&self) -> u32 {
        self.index
    }

    fn registers(&self) -> Registers {
        self.inner.registers[self.index as usize].general
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
        Ok(self.inner.registers[self.index as usize])
    }

    fn set_all(&mut self, registers: &AllRegisters) -> Result<(), RegisterError> {
        if registers.cr3 == u64::MAX {
            return Err(RegisterError("not that".to_owned()));
        }
        let old = self.inner.registers[self.index as usize].floating.ymm_high;
        self.inner.registers[self.index as usize] = *registers;
        let high = &mut self.inner.registers[self.index as usize].floating.ymm_high;
        *high = high.or(old);
        Ok(())
    }

    fn write(&mut self, gva: u64, data: &[u8]) -> Result<(), ReadError> {
        let range = Self::range(gva, data.len())?;
        self.inner.memory[range].copy_from_slice(data);
        Ok(())
    }

    fn translate(&self, gva: u64) -> Result<Page, ReadError> {
        Err(ReadError::NotMapped(gva))
    }

    fn read_physical(&self, gpa: u64, buf: &mut [u8]) -> bool {
        self.read(gpa, buf).is_ok()
    }
}

impl Debuggee for Fake {
    fn processors(&self) -> u32 {
        2
    }

    fn look(&self, cpu: u32, look: Look) -> bool {
        let inner = self.inner();
        look(&mut FakeCpu { index: cpu, inner });
        true
    }

    fn set_stop_points(&self, stop_points: &[StopPoint]) -> Result<(), StopPointError> {
        if stop_points
            .iter()
            .filter(|stop_point| stop_point.kind != StopPointKind::SoftwareBreakpoint)
            .count()
            > STOP_POINTS
        {
            return Err(StopPointError("no more".to_owned()));
        }
        self.inner().stop_points = stop_points.to_vec();
        Ok(())
    }

    fn has_software_breakpoints(&self) -> bool {
        true
    }

    fn in_use(&self) -> StopPointUse {
        StopPointUse::default()
    }

    fn interrupt(&self) {
        let mut inner = self.inner();
        if std::mem::take(&mut inner.running) {
            inner.stops.as_ref().unwrap().send(DebuggeeStop::Interrupted).unwrap();
        }
    }

    fn resume(&self, actions: Vec<ResumeAction>) {
        let mut inner = self.inner();
        assert!(!inner.running, "resumed while it runs");
        inner.resumed.push(actions);
        match inner.next.pop_front() {
            Some(stop) => inner.stops.as_ref().unwrap().send(stop).unwrap(),
            None => inner.running = true,
        }
    }

    fn end(&self) {
        let mut inner = self.inner();
        inner.ended = true;
        inner.stops = None;
    }

    fn ran_on(&self) -> Vec<Option<Duration>> {
        vec![None, Some(Duration::from_micros(17))]
    }
}

/// A server on a fake machine that runs.
pub(super) struct Scene {
    pub(super) machine: Fake,
    pub(super) address: String,
    pub(super) thread: JoinHandle<()>,
}

impl Scene {
    pub(super) fn new(on_disconnect: OnDisconnect) -> Self {
        let (sender, stops) = unbounded_channel();
        let mut inner = Inner {
            memory: vec![0; (MEMORY.end - MEMORY.start) as usize],
            running: true,
            stops: Some(sender),
            ..Inner::default()
        };
        inner.registers[0].general.rip = 0x1234;
        inner.registers[1].general.rip = 0x5678;
        let machine = Fake(Arc::new(Mutex::new(inner)));
        let socket = Socket::open(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.address().to_string();
        let served = Served {
            machine: Arc::new(machine.clone()),
            stops,
            session: Arc::new(Session::new(Config::default(), None, None)),
            files: SymbolFiles::default(),
            snapshot: None,
            on_disconnect,
            notices: Arc::new(Silent),
        };
        let thread = socket.serve(served, Sandbox::none()).unwrap();
        Self {
            machine,
            address,
            thread,
        }
    }

    pub(super) fn client(&self) -> Client {
        Client::connect(&self.address)
    }

    /// Waits for the machine to be as it should.
    pub(super) fn until(&self, condition: impl Fn(&Inner) -> bool) {
        for _ in 0..500 {
            if condition(&self.machine.inner()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("that never comes");
    }

    /// The run ends; so does the server.
    pub(super) fn end(self) {
        self.machine.inner().stops = None;
        self.thread.join().unwrap();
    }
}
