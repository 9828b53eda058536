//! The machine as the gdbstub crate wants to see it: threads are processors, memory is seen through the page tables of
//! the processor in question.
//!
//! Talks to the [`Debuggee`] and to the session. It must not know sockets. gdb itself takes a breakpoint out, steps its
//! processor alone and puts it back in when it goes on from one, so nothing of that is here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadRangeStepping, MultiThreadRangeSteppingOps, MultiThreadResume, MultiThreadResumeOps,
    MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::breakpoints::BreakpointsOps;
use gdbstub::target::ext::libraries::{Libraries, LibrariesOps};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};

use super::breakpoints::{Asked, Policy};
use super::commands::Commands;
use super::libraries::{self, SymbolFiles};
use super::registers::{self, Register, RegisterSet, X64};
use super::snapshot::SnapshotFile;
use crate::session::Session;
use crate::target::debuggee::{AllRegisters, DebuggedCpu, Debuggee, Motion, Stop, Trap, ask};

/// `EFAULT` of the protocol: memory cannot be accessed.
const EFAULT: u8 = 14;
/// `EINVAL` of the protocol.
pub(super) const EINVAL: u8 = 22;

/// Most bytes of a command's output, and of one packet of it.
const OUTPUT_LIMIT: usize = 1 << 18;
const OUTPUT_PACKET: usize = 1 << 10;

/// The machine has come to its end while gdb asked for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the run is over")]
pub(crate) struct Gone;

/// One client's view of the machine.
#[allow(clippy::struct_excessive_bools)] // Each is a fact of its own.
pub(crate) struct Stub {
    pub(super) machine: Arc<dyn Debuggee>,
    session: Arc<Session>,
    files: Arc<SymbolFiles>,
    snapshot: Option<SnapshotFile>,
    /// The processor that the last stop was about.
    current: u32,
    pub(super) placed: Vec<(Trap, Asked)>,
    /// What software breakpoints take.
    pub(super) policy: Policy,
    /// That code is written to has been told.
    pub(super) patch_told: bool,
    motions: HashMap<u32, Motion>,
    /// Processors without a motion stay where they are.
    locked: bool,
    /// Addresses of memory are physical.
    pub(super) physical: bool,
    /// The client knows AVX and the processors have it.
    avx: bool,
    /// As gdb asks for it piece by piece.
    libraries: RefCell<String>,
}

impl Stub {
    pub(crate) fn new(
        machine: Arc<dyn Debuggee>,
        session: Arc<Session>,
        files: Arc<SymbolFiles>,
        snapshot: Option<SnapshotFile>,
    ) -> Self {
        Self {
            machine,
            session,
            files,
            snapshot,
            current: 0,
            placed: Vec::new(),
            policy: Policy::default(),
            patch_told: false,
            motions: HashMap::new(),
            locked: false,
            physical: false,
            avx: false,
            libraries: RefCell::default(),
        }
    }

    /// Takes note of a stop; gives it as gdb is told.
    pub(crate) fn stopped(&mut self, stop: &Stop) -> MultiThreadStopReason<u64> {
        let signal = |cpu: u32, signal| MultiThreadStopReason::SignalWithThread { tid: tid(cpu), signal };
        match *stop {
            Stop::Start | Stop::TrapsLost(_) => signal(self.current, Signal::SIGTRAP),
            Stop::Interrupted => signal(self.current, Signal::SIGINT),
            Stop::Violation(cpu) | Stop::Stepped(cpu) => {
                self.current = cpu;
                signal(cpu, Signal::SIGTRAP)
            }
            Stop::Crashed(cpu, _) => {
                self.current = cpu.unwrap_or(self.current);
                signal(self.current, Signal::SIGSEGV)
            }
            Stop::Trap(cpu, trap) => {
                self.current = cpu;
                let asked = self
                    .placed
                    .iter()
                    .find(|(placed, _)| *placed == trap)
                    .map(|(_, asked)| *asked);
                match asked {
                    Some(Asked::Software) => MultiThreadStopReason::SwBreak(tid(cpu)),
                    Some(Asked::Hardware) => MultiThreadStopReason::HwBreak(tid(cpu)),
                    Some(Asked::Watch(kind)) => MultiThreadStopReason::Watch {
                        tid: tid(cpu),
                        kind,
                        addr: trap.address,
                    },
                    // Taken out in the meantime.
                    None => signal(cpu, Signal::SIGTRAP),
                }
            }
        }
    }

    /// Takes note of what the client says that it knows. gdb and lldb are told of AVX, if there is any; WinDbg's client, which
    /// does not know several processes, gets QEMU's registers and no more.
    pub(crate) fn introduce(&mut self, features: &[u8]) {
        let knows = features
            .split(|byte| matches!(byte, b':' | b';'))
            .any(|word| word == b"multiprocess+");
        let first = ask(&*self.machine, 0, |cpu| cpu.all());
        let there = first.is_some_and(|all| all.is_ok_and(|all| all.floating.ymm_high.is_some()));
        self.avx = knows && there;
    }

    /// The values that are told with a stop, so that gdb need not ask.
    pub(crate) fn expedited(&self) -> Vec<(Register, Vec<u8>)> {
        let wanted = ["rbp", "rsp", "rip"];
        let Some(Ok(all)) = ask(&*self.machine, self.current, |cpu| cpu.all()) else {
            return Vec::new();
        };
        Register::all(false)
            .filter(|register| wanted.contains(&register.name().as_str()))
            .map(|register| (register, register.get(&all)[..register.size()].to_vec()))
            .collect()
    }

    /// Takes all traps of the client out.
    pub(crate) fn clear(&mut self) {
        self.placed.clear();
        // No traps are always possible.
        let _ = self.machine.set_traps(&[]);
    }

    fn ask<R: Send + 'static>(
        &self,
        tid: Tid,
        question: impl FnOnce(&mut dyn DebuggedCpu) -> R + Send + 'static,
    ) -> TargetResult<R, Self> {
        let cpu = self.cpu(tid)?;
        ask(&*self.machine, cpu, question).ok_or(TargetError::Fatal(Gone))
    }

    fn cpu(&self, tid: Tid) -> TargetResult<u32, Self> {
        u32::try_from(tid.get() - 1)
            .ok()
            .filter(|cpu| *cpu < self.machine.processors())
            .ok_or(TargetError::Errno(EINVAL))
    }

    fn all(&self, tid: Tid) -> TargetResult<AllRegisters, Self> {
        let all = self.ask(tid, |cpu| cpu.all())?;
        let mut all = all.map_err(|error| {
            tracing::warn!("{error}");
            TargetError::NonFatal
        })?;
        if !self.avx {
            all.floating.ymm_high = None;
        }
        Ok(all)
    }

    fn set_all(&self, tid: Tid, all: &AllRegisters) -> TargetResult<(), Self> {
        let all = *all;
        self.ask(tid, move |cpu| cpu.set_all(&all))?.map_err(|error| {
            crate::tell_bounded!("gdb: the registers cannot be changed: {error}");
            TargetError::NonFatal
        })
    }
}

/// gdb counts threads from 1.
pub(crate) fn tid(cpu: u32) -> Tid {
    Tid::MIN.saturating_add(cpu as usize)
}

/// Puts the part of `data` that gdb asks for into its buffer.
fn piece(data: &[u8], offset: u64, length: usize, buf: &mut [u8]) -> usize {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
    let part = &data[start..];
    let count = part.len().min(length).min(buf.len());
    buf[..count].copy_from_slice(&part[..count]);
    count
}

impl Target for Stub {
    type Arch = X64;
    type Error = Gone;

    fn base_ops(&mut self) -> BaseOps<'_, X64, Gone> {
        BaseOps::MultiThread(self)
    }

    /// WinDbg's client does not know it.
    fn use_rle(&self) -> bool {
        false
    }

    fn guard_rail_implicit_sw_breakpoints(&self) -> bool {
        true
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(&mut self) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }

    fn support_libraries(&mut self) -> Option<LibrariesOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Stub {
    fn read_registers(&mut self, regs: &mut RegisterSet, tid: Tid) -> TargetResult<(), Self> {
        regs.0 = self.all(tid)?;
        Ok(())
    }

    fn write_registers(&mut self, regs: &RegisterSet, tid: Tid) -> TargetResult<(), Self> {
        self.set_all(tid, &regs.0)
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    /// As much as is mapped.
    fn read_addrs(&mut self, start_addr: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let length = data.len();
        let physical = self.physical;
        let read = self.ask(tid, move |cpu| {
            let mut bytes = vec![0; length];
            if physical {
                if !cpu.read_physical(start_addr, &mut bytes) {
                    bytes.clear();
                }
            } else if let Err(error) = cpu.read(start_addr, &mut bytes) {
                let mapped = error.address().saturating_sub(start_addr).min(length as u64) as usize;
                bytes.truncate(mapped);
                if cpu.read(start_addr, &mut bytes).is_err() {
                    bytes.clear();
                }
            }
            bytes
        })?;
        if read.is_empty() {
            return Err(TargetError::Errno(EFAULT));
        }
        data[..read.len()].copy_from_slice(&read);
        Ok(read.len())
    }

    fn write_addrs(&mut self, start_addr: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        if self.physical {
            return Err(TargetError::Errno(EFAULT));
        }
        let data = data.to_vec();
        let written = self.ask(tid, move |cpu| cpu.write(start_addr, &data))?;
        written.map_err(|_| TargetError::Errno(EFAULT))
    }

    /// The one that the last stop was about comes first: a client that attaches looks at that one.
    fn list_active_threads(&mut self, thread_is_active: &mut dyn FnMut(Tid)) -> Result<(), Gone> {
        let others = (0..self.machine.processors()).filter(|cpu| *cpu != self.current);
        std::iter::once(self.current)
            .chain(others)
            .for_each(|cpu| thread_is_active(tid(cpu)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for Stub {
    fn read_register(&mut self, tid: Tid, reg_id: Register, buf: &mut [u8]) -> TargetResult<usize, Self> {
        if reg_id.is_avx() && !self.avx {
            return Err(TargetError::Errno(EINVAL));
        }
        let all = self.all(tid)?;
        Ok(piece(&reg_id.get(&all)[..reg_id.size()], 0, buf.len(), buf))
    }

    fn write_register(&mut self, tid: Tid, reg_id: Register, val: &[u8]) -> TargetResult<(), Self> {
        if val.len() > reg_id.size() || reg_id.is_avx() && !self.avx {
            return Err(TargetError::Errno(EINVAL));
        }
        let mut all = self.all(tid)?;
        reg_id.set(&mut all, val);
        self.set_all(tid, &all)
    }
}

impl ThreadExtraInfo for Stub {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, Gone> {
        let session = Arc::clone(&self.session);
        let Ok(cpu) = self.cpu(tid) else { return Ok(0) };
        let text = ask(&*self.machine, cpu, move |cpu| {
            session.processor_text(cpu.as_cpu_state())
        })
        .ok_or(Gone)?;
        Ok(piece(text.as_bytes(), 0, buf.len(), buf))
    }
}

impl MultiThreadResume for Stub {
    fn resume(&mut self) -> Result<(), Gone> {
        let default = if self.locked { Motion::Hold } else { Motion::Run };
        let motion = |cpu| self.motions.get(&cpu).copied().unwrap_or(default);
        let motions = (0..self.machine.processors()).map(motion).collect();
        self.machine.resume(motions);
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Gone> {
        self.motions.clear();
        self.locked = false;
        Ok(())
    }

    /// Signals mean nothing to a machine.
    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Gone> {
        self.set_motion(tid, Motion::Run);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<MultiThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl Stub {
    fn set_motion(&mut self, tid: Tid, motion: Motion) {
        if let Ok(cpu) = self.cpu(tid) {
            // The first action that names a thread is its own (gdb manual, `vCont`).
            self.motions.entry(cpu).or_insert(motion);
        }
    }
}

impl MultiThreadSingleStep for Stub {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Gone> {
        self.set_motion(tid, Motion::Step { range: None });
        Ok(())
    }
}

impl MultiThreadRangeStepping for Stub {
    fn set_resume_action_range_step(&mut self, tid: Tid, start: u64, end: u64) -> Result<(), Gone> {
        let range = Some((start, end));
        self.set_motion(tid, Motion::Step { range });
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Stub {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Gone> {
        self.locked = true;
        Ok(())
    }
}

impl MonitorCmd for Stub {
    fn handle_monitor_cmd(&mut self, cmd: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Gone> {
        let mut commands = Commands {
            machine: &*self.machine,
            session: &self.session,
            cpu: self.current,
            snapshot: self.snapshot.as_mut(),
            policy: &mut self.policy,
        };
        let text = commands.run(&String::from_utf8_lossy(cmd));
        for part in text.as_bytes()[..text.len().min(OUTPUT_LIMIT)].chunks(OUTPUT_PACKET) {
            out.write_raw(part);
            out.flush();
        }
        if text.len() > OUTPUT_LIMIT {
            out.write_raw(b"\n(and more: see the report)\n");
        }
        Ok(())
    }
}

impl TargetDescriptionXmlOverride for Stub {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        buf: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let name = std::str::from_utf8(annex).map_err(|_| TargetError::NonFatal)?;
        let file = registers::description(name, self.avx).ok_or(TargetError::NonFatal)?;
        Ok(piece(file.as_bytes(), offset, length, buf))
    }
}

impl Libraries for Stub {
    fn get_libraries(&self, offset: u64, length: usize, buf: &mut [u8]) -> TargetResult<usize, Self> {
        let mut list = self.libraries.borrow_mut();
        if offset == 0 {
            let session = Arc::clone(&self.session);
            let modules = self.ask(tid(self.current), move |cpu| session.loaded_modules(cpu.as_cpu_state()))?;
            *list = libraries::xml(&modules, &self.files);
        }
        Ok(piece(list.as_bytes(), offset, length, buf))
    }
}
