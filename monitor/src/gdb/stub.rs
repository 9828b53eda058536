//! The machine as the gdbstub crate needs it: threads are processors, and memory is read by the page tables of the
//! processor asked about.
//!
//! Talks to the [`Debuggee`] and to the session. It must not know sockets, nor packets: [`filter`](super::filter) hands
//! on only well-formed ones. Its errors do not end the session. It does not step over breakpoints: to go on from one,
//! gdb itself removes it, steps that processor alone and puts it back.

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::Arc;

use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{MultiThreadBase, MultiThreadResumeOps};
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
use super::command::Threads;
use super::commands::Commands;
use super::libraries::{self, SymbolFiles};
use super::registers::{self, Register, RegisterSet, X64};
use super::resume::ResumeActions;
use super::snapshot::SnapshotFile;
use crate::notices::Notices;
use crate::session::Session;
use crate::vmi::debuggee::{AllRegisters, DebuggedCpu, Debuggee, DebuggeeStop, StopPoint, ask};

/// A refusal, as the protocol says it: `E` and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Errno(pub(super) u8);

impl From<Errno> for TargetError<Infallible> {
    fn from(Errno(number): Errno) -> Self {
        Self::Errno(number)
    }
}

/// An annex that there is not: gdb manual, "General Query Packets", `qXfer`.
pub(super) const NO_ANNEX: Errno = Errno(0);
/// The machine has come to its end.
const ESRCH: Errno = Errno(3);
/// The machine does not do it.
const EIO: Errno = Errno(5);
/// Memory cannot be accessed.
const EFAULT: Errno = Errno(14);
/// The packet makes no sense.
pub(super) const EINVAL: Errno = Errno(22);

/// Most bytes of a command's output, and of one packet of it.
const OUTPUT_LIMIT: usize = 1 << 18;
const OUTPUT_PACKET: usize = 1 << 10;

/// One client's view of the machine.
#[allow(clippy::struct_excessive_bools)] // Each is a fact of its own.
pub(crate) struct Stub {
    pub(super) machine: Arc<dyn Debuggee>,
    session: Arc<Session>,
    files: Arc<SymbolFiles>,
    snapshot: Option<SnapshotFile>,
    pub(super) notices: Arc<dyn Notices>,
    /// The processor that the last stop was about.
    pub(super) current: u32,
    /// The one that the old commands step.
    pub(super) stepped: u32,
    pub(super) placed: Vec<(StopPoint, Asked)>,
    /// What software breakpoints take.
    pub(super) policy: Policy,
    /// That code is written to has been told.
    pub(super) software_told: bool,
    /// What each processor does next.
    pub(super) next: ResumeActions,
    /// Addresses of memory are physical.
    pub(super) physical: bool,
    /// The client knows AVX and the processors have it.
    pub(super) avx: bool,
    /// As gdb asks for it piece by piece.
    libraries: RefCell<String>,
}

impl Stub {
    pub(crate) fn new(
        machine: Arc<dyn Debuggee>,
        session: Arc<Session>,
        files: Arc<SymbolFiles>,
        snapshot: Option<SnapshotFile>,
        notices: Arc<dyn Notices>,
    ) -> Self {
        Self {
            machine,
            session,
            files,
            snapshot,
            notices,
            current: 0,
            stepped: 0,
            placed: Vec::new(),
            policy: Policy::default(),
            software_told: false,
            next: ResumeActions::default(),
            physical: false,
            avx: false,
            libraries: RefCell::default(),
        }
    }

    /// Takes note of a stop; gives it in gdb's form.
    pub(crate) fn stopped(&mut self, stop: &DebuggeeStop) -> MultiThreadStopReason<u64> {
        let signal = |cpu: u32, signal| MultiThreadStopReason::SignalWithThread { tid: tid(cpu), signal };
        let reason = match *stop {
            DebuggeeStop::Start | DebuggeeStop::StopPointsLost(_) => signal(self.current, Signal::SIGTRAP),
            DebuggeeStop::Interrupted => signal(self.current, Signal::SIGINT),
            DebuggeeStop::Violation(cpu) | DebuggeeStop::Stepped(cpu) => {
                self.current = cpu;
                signal(cpu, Signal::SIGTRAP)
            }
            DebuggeeStop::Crashed(cpu, _) => {
                self.current = cpu.unwrap_or(self.current);
                signal(self.current, Signal::SIGSEGV)
            }
            DebuggeeStop::StopPoint(cpu, stop_point) => {
                self.current = cpu;
                let asked = self
                    .placed
                    .iter()
                    .find(|(placed, _)| *placed == stop_point)
                    .map(|(_, asked)| *asked);
                match asked {
                    Some(Asked::Software) => MultiThreadStopReason::SwBreak(tid(cpu)),
                    Some(Asked::Hardware) => MultiThreadStopReason::HwBreak(tid(cpu)),
                    Some(Asked::Watch(kind)) => MultiThreadStopReason::Watch {
                        tid: tid(cpu),
                        kind,
                        addr: stop_point.address,
                    },
                    // Taken out in the meantime.
                    None => signal(cpu, Signal::SIGTRAP),
                }
            }
        };
        self.stepped = self.current;
        reason
    }

    /// Takes note of what the client says that it knows. gdb and lldb are told of AVX, if there is any; WinDbg's client, which
    /// does not know several processes, gets QEMU's registers and no more.
    pub(crate) fn introduce(&mut self, multiprocess: bool) {
        let first = ask(&*self.machine, 0, |cpu| cpu.all());
        let there = first.is_some_and(|all| all.is_ok_and(|all| all.floating.ymm_high.is_some()));
        self.avx = multiprocess && there;
    }

    /// The values that are sent with a stop, so that gdb need not ask for them.
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

    /// Takes all stop points of the client out.
    pub(crate) fn clear(&mut self) {
        self.placed.clear();
        // No stop points are always possible.
        let _ = self.machine.set_stop_points(&[]);
    }

    fn ask<R: Send + 'static>(
        &self,
        cpu: u32,
        question: impl FnOnce(&mut dyn DebuggedCpu) -> R + Send + 'static,
    ) -> Result<R, Errno> {
        ask(&*self.machine, cpu, question).ok_or(ESRCH)
    }

    pub(super) fn cpu(&self, tid: Tid) -> Result<u32, Errno> {
        u32::try_from(tid.get() - 1)
            .ok()
            .filter(|cpu| *cpu < self.machine.processors())
            .ok_or(EINVAL)
    }

    /// The processor that one thread is; of several, the one that the last stop was about.
    pub(super) fn processor(&self, threads: Threads) -> Result<u32, Errno> {
        let Threads::One(thread) = threads else {
            return Ok(self.current);
        };
        let tid = usize::try_from(thread).ok().and_then(Tid::new);
        self.cpu(tid.ok_or(EINVAL)?)
    }

    fn all(&self, cpu: u32) -> Result<AllRegisters, Errno> {
        let all = self.ask(cpu, |cpu| cpu.all())?;
        let mut all = all.map_err(|error| {
            tracing::warn!("{error}");
            EIO
        })?;
        if !self.avx {
            all.floating.ymm_high = None;
        }
        Ok(all)
    }

    fn set_all(&self, cpu: u32, all: &AllRegisters) -> Result<(), Errno> {
        let all = *all;
        self.ask(cpu, move |cpu| cpu.set_all(&all))?.map_err(|error| {
            self.notices
                .say_bounded(&format!("gdb: the registers cannot be changed: {error}"));
            EIO
        })
    }

    /// Has the processor that the old commands step go on from another address: the gdbstub crate passes it over.
    pub(super) fn jump(&self, address: u64) -> Result<(), Errno> {
        let mut all = self.all(self.stepped)?;
        all.general.rip = address;
        self.set_all(self.stepped, &all)
    }

    /// A file of the target description.
    pub(super) fn description(&self, annex: &[u8]) -> Result<String, Errno> {
        let name = std::str::from_utf8(annex).map_err(|_| NO_ANNEX)?;
        registers::description(name, self.avx).ok_or(NO_ANNEX)
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
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, X64, Infallible> {
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
        regs.0 = self.all(self.cpu(tid)?)?;
        Ok(())
    }

    fn write_registers(&mut self, regs: &RegisterSet, tid: Tid) -> TargetResult<(), Self> {
        Ok(self.set_all(self.cpu(tid)?, &regs.0)?)
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    /// As much as is mapped.
    fn read_addrs(&mut self, start_addr: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let length = data.len();
        let physical = self.physical;
        let read = self.ask(self.cpu(tid)?, move |cpu| {
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
            return Err(EFAULT.into());
        }
        data[..read.len()].copy_from_slice(&read);
        Ok(read.len())
    }

    fn write_addrs(&mut self, start_addr: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        if self.physical {
            return Err(EFAULT.into());
        }
        let data = data.to_vec();
        let written = self.ask(self.cpu(tid)?, move |cpu| cpu.write(start_addr, &data))?;
        Ok(written.map_err(|_| EFAULT)?)
    }

    /// The one that the last stop was about comes first: a client that attaches looks at that one.
    fn list_active_threads(&mut self, thread_is_active: &mut dyn FnMut(Tid)) -> Result<(), Infallible> {
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
            return Err(EINVAL.into());
        }
        let all = self.all(self.cpu(tid)?)?;
        Ok(piece(&reg_id.get(&all)[..reg_id.size()], 0, buf.len(), buf))
    }

    fn write_register(&mut self, tid: Tid, reg_id: Register, val: &[u8]) -> TargetResult<(), Self> {
        // A value of another size is none of this register.
        if val.len() != reg_id.size() || reg_id.is_avx() && !self.avx {
            return Err(EINVAL.into());
        }
        let cpu = self.cpu(tid)?;
        let mut all = self.all(cpu)?;
        reg_id.set(&mut all, val);
        Ok(self.set_all(cpu, &all)?)
    }
}

impl ThreadExtraInfo for Stub {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, Infallible> {
        let session = Arc::clone(&self.session);
        let text = self.cpu(tid).and_then(|cpu| {
            let text = move |cpu: &mut dyn DebuggedCpu| session.processor_text(cpu.as_cpu_state());
            self.ask(cpu, text)
        });
        // It has no way to say that there is none.
        let text = text.unwrap_or_default();
        Ok(piece(text.as_bytes(), 0, buf.len(), buf))
    }
}

impl MonitorCmd for Stub {
    fn handle_monitor_cmd(&mut self, cmd: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Infallible> {
        let mut commands = Commands {
            machine: &*self.machine,
            session: &self.session,
            cpu: self.current,
            snapshot: self.snapshot.as_mut(),
            policy: &mut self.policy,
        };
        let mut text = commands.run(&String::from_utf8_lossy(cmd));
        if text.len() > OUTPUT_LIMIT {
            let end = (0..=OUTPUT_LIMIT).rev().find(|end| text.is_char_boundary(*end));
            text.truncate(end.unwrap_or_default());
            text.push_str("\n(and more: see the report)\n");
        }
        for part in text.as_bytes().chunks(OUTPUT_PACKET) {
            out.write_raw(part);
            out.flush();
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
        Ok(piece(self.description(annex)?.as_bytes(), offset, length, buf))
    }
}

impl Libraries for Stub {
    fn get_libraries(&self, offset: u64, length: usize, buf: &mut [u8]) -> TargetResult<usize, Self> {
        let mut list = self.libraries.borrow_mut();
        if offset == 0 {
            let session = Arc::clone(&self.session);
            let modules = self.ask(self.current, move |cpu| session.loaded_modules(cpu.as_cpu_state()))?;
            *list = libraries::xml(&modules, &self.files);
        }
        Ok(piece(list.as_bytes(), offset, length, buf))
    }
}
