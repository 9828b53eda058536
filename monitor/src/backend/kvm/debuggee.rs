//! The live backend for a debugger: the processors of a paused KVM machine, and the link to the thread that waits for
//! its stops.
//!
//! Talks to the machine's handle. The thread that waits for the machine reports each stop and takes a command; the
//! debugger's thread does everything else. It must not know a debugger's protocol.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use storlock_vmm::run::{MachineHandle, MachineStop};
use storlock_vmm::translate::TranslateError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::cpu::{KvmCpu, read_error};
use crate::vmi::debuggee::{
    AllRegisters, DebuggedCpu, Debuggee, DebuggeeStop, FloatingPoint, Look, Page, RegisterError, ResumeAction,
    StopPoint, StopPointError, StopPointKind, StopPointUse,
};
use crate::vmi::{CpuState, ReadError, Registers};

const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// What a debugger has decided about a stopped machine.
#[derive(Debug)]
pub(crate) enum DebuggerCommand {
    /// Each processor goes on by its resume action.
    Resume(Vec<ResumeAction>),
    /// The run ends; the machine has been told already.
    EndRun,
}

/// The debugger's end.
pub(crate) struct KvmDebuggee {
    handle: MachineHandle,
    cpus: u32,
    commands: mpsc::Sender<DebuggerCommand>,
    interrupted: Arc<AtomicBool>,
}

/// The end of the thread that waits for the machine's stops.
pub(crate) struct DebuggerLink {
    stops: UnboundedSender<DebuggeeStop>,
    commands: mpsc::Receiver<DebuggerCommand>,
    /// The debugger has asked for a stop since it let the machine go.
    interrupted: Arc<AtomicBool>,
    hold_start: bool,
}

/// Both ends of the connection between a debugger and a machine.
pub(crate) struct Connection {
    /// For the debugger.
    pub debuggee: KvmDebuggee,
    /// The stops for the debugger.
    pub stops: UnboundedReceiver<DebuggeeStop>,
    /// For the thread that waits for the machine.
    pub link: DebuggerLink,
    /// For a thread that ends the run early: [`DebuggerCommand::EndRun`] wakes a thread that waits for the debugger.
    pub commands: mpsc::Sender<DebuggerCommand>,
}

/// Connects a debugger with a machine that has not started yet. With `hold_start` the guest's first instruction waits for
/// the debugger.
#[must_use]
pub(crate) fn connect(handle: MachineHandle, cpus: u32, hold_start: bool) -> Connection {
    let (sender, stops) = unbounded_channel();
    let (commands, receiver) = mpsc::channel();
    let interrupted = Arc::new(AtomicBool::new(false));
    Connection {
        debuggee: KvmDebuggee {
            handle,
            cpus,
            commands: commands.clone(),
            interrupted: Arc::clone(&interrupted),
        },
        stops,
        link: DebuggerLink {
            stops: sender,
            commands: receiver,
            interrupted,
            hold_start,
        },
        commands,
    }
}

impl DebuggerLink {
    /// The end of a debugger that has these commands ready, and the stops that it is told of.
    #[cfg(test)]
    pub(crate) fn scripted(commands: Vec<DebuggerCommand>) -> (Self, UnboundedReceiver<DebuggeeStop>) {
        let (stops, told) = unbounded_channel();
        let (sender, receiver) = mpsc::channel();
        for command in commands {
            sender.send(command).unwrap();
        }
        let link = Self {
            stops,
            commands: receiver,
            interrupted: Arc::default(),
            hold_start: true,
        };
        (link, told)
    }

    /// Whether the guest's first instruction waits for the debugger.
    #[must_use]
    pub(crate) fn holds_start(&self) -> bool {
        self.hold_start
    }

    /// Tells the debugger of a stop and waits for its command; `None` if nobody serves debuggers any more.
    #[must_use]
    pub(crate) fn ask(&self, stop: DebuggeeStop) -> Option<DebuggerCommand> {
        self.stops.send(stop).ok()?;
        self.commands.recv().ok()
    }

    /// Whether the debugger has asked for a stop since it let the machine go.
    #[must_use]
    pub(crate) fn wants_interrupt(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }
}

/// A stop in words. The crash that a Windows guest reports is a bug check.
#[must_use]
pub(crate) fn in_words(reason: &MachineStop) -> String {
    match reason {
        MachineStop::Crash {
            cpu,
            parameters: [code, p1, p2, p3, p4],
        } => format!("the guest crashed on processor {cpu}: bug check {code:#x} ({p1:#x}, {p2:#x}, {p3:#x}, {p4:#x})"),
        other => other.to_string(),
    }
}

/// The stop as a debugger sees it; `None` if the run is simply over.
#[must_use]
pub(crate) fn debuggee_stop(reason: &MachineStop) -> Option<DebuggeeStop> {
    Some(match reason {
        MachineStop::Breakpoint { cpu } => DebuggeeStop::Violation(*cpu),
        MachineStop::StopPoint { cpu, stop_point } => DebuggeeStop::StopPoint(*cpu, *stop_point),
        MachineStop::Stepped { cpu } => DebuggeeStop::Stepped(*cpu),
        MachineStop::Interrupted => DebuggeeStop::Interrupted,
        MachineStop::StopPointsLost { count } => DebuggeeStop::StopPointsLost(*count),
        MachineStop::TripleFault { cpu } | MachineStop::Crash { cpu, .. } => {
            DebuggeeStop::Crashed(Some(*cpu), in_words(reason))
        }
        MachineStop::InternalError(error) => DebuggeeStop::Crashed(Some(error.cpu), reason.to_string()),
        MachineStop::Reset => DebuggeeStop::Crashed(None, reason.to_string()),
        MachineStop::PowerOff | MachineStop::TimeLimit | MachineStop::Stopped | MachineStop::Failed(_) => return None,
    })
}

impl Debuggee for KvmDebuggee {
    fn processors(&self) -> u32 {
        self.cpus
    }

    fn look(&self, cpu: u32, look: Look) -> bool {
        let done = self.handle.inspect(cpu, move |stopped| look(&mut KvmCpu::new(stopped)));
        done.is_some()
    }

    fn set_stop_points(&self, stop_points: &[StopPoint]) -> Result<(), StopPointError> {
        self.handle
            .set_stop_points(stop_points)
            .map_err(|error| StopPointError(error.to_string()))
    }

    fn has_software_breakpoints(&self) -> bool {
        self.handle.has_software_breakpoints()
    }

    fn in_use(&self) -> StopPointUse {
        let (breakpoints, stop_points) = self.handle.debug_registers();
        let (software, stop_points): (Vec<StopPoint>, Vec<StopPoint>) = stop_points
            .iter()
            .partition(|stop_point| stop_point.kind == StopPointKind::SoftwareBreakpoint);
        let watched = breakpoints
            .iter()
            .map(|b| format!("watched routine at {:#x}", b.address));
        let stop_points = stop_points.iter().map(|stop_point| {
            let what = match stop_point.kind {
                StopPointKind::HardwareBreakpoint | StopPointKind::SoftwareBreakpoint => "your breakpoint",
                StopPointKind::WriteWatchpoint => "your watchpoint (written)",
                StopPointKind::AccessWatchpoint => "your watchpoint (read or written)",
            };
            format!("{what} at {:#x}", stop_point.address)
        });
        StopPointUse {
            registers: watched.chain(stop_points).collect(),
            software: software.iter().map(|stop_point| stop_point.address).collect(),
        }
    }

    fn interrupt(&self) {
        self.interrupted.store(true, Ordering::SeqCst);
        self.handle.interrupt();
    }

    fn resume(&self, actions: Vec<ResumeAction>) {
        self.interrupted.store(false, Ordering::SeqCst);
        // The thread that waits for the machine ends only when the machine does.
        let _ = self.commands.send(DebuggerCommand::Resume(actions));
    }

    fn end(&self) {
        self.handle.stop();
        let _ = self.commands.send(DebuggerCommand::EndRun);
    }

    fn ran_on(&self) -> Vec<Option<Duration>> {
        self.handle.ran_on()
    }
}

#[allow(clippy::needless_pass_by_value)] // For map_err.
fn refused(error: storlock_vmm::Error) -> RegisterError {
    RegisterError(error.to_string())
}

fn general(registers: &Registers) -> storlock_vmm::registers::Registers {
    let g = &registers.gpr;
    storlock_vmm::registers::Registers {
        rax: g[0],
        rcx: g[1],
        rdx: g[2],
        rbx: g[3],
        rsp: g[4],
        rbp: g[5],
        rsi: g[6],
        rdi: g[7],
        r8: g[8],
        r9: g[9],
        r10: g[10],
        r11: g[11],
        r12: g[12],
        r13: g[13],
        r14: g[14],
        r15: g[15],
        rip: registers.rip,
        rflags: registers.rflags,
    }
}

impl DebuggedCpu for KvmCpu<'_, '_> {
    fn as_cpu_state(&self) -> &dyn CpuState {
        self
    }

    fn all(&self) -> Result<AllRegisters, RegisterError> {
        let s = self.vmm().special();
        Ok(AllRegisters {
            general: self.registers(),
            selectors: [&s.cs, &s.ss, &s.ds, &s.es, &s.fs, &s.gs].map(|segment| segment.selector),
            fs_base: s.fs_base(),
            gs_base: s.gs_base(),
            kernel_gs_base: self.vmm().msr(MSR_KERNEL_GS_BASE).map_err(refused)?,
            cr0: s.cr0,
            cr2: s.cr2,
            cr3: s.cr3,
            cr4: s.cr4,
            cr8: s.cr8,
            efer: s.efer,
            floating: self.vmm().floating_point().map_err(refused)?,
        })
    }

    /// Only what differs is given to the machine: a state that it shows is not always one that it takes.
    fn set_all(&mut self, registers: &AllRegisters) -> Result<(), RegisterError> {
        let now = self.all()?;
        let with_others = AllRegisters {
            general: registers.general,
            floating: registers.floating,
            kernel_gs_base: registers.kernel_gs_base,
            ..now
        };
        if *registers != with_others {
            let mut special = *self.vmm().special();
            let [cs, ss, ds, es, fs, gs] = registers.selectors;
            (special.cs.selector, special.ss.selector) = (cs, ss);
            (special.ds.selector, special.es.selector) = (ds, es);
            (special.fs.selector, special.gs.selector) = (fs, gs);
            (special.fs.base, special.gs.base) = (registers.fs_base, registers.gs_base);
            (special.cr0, special.cr2, special.cr3) = (registers.cr0, registers.cr2, registers.cr3);
            (special.cr4, special.cr8, special.efer) = (registers.cr4, registers.cr8, registers.efer);
            self.vmm_mut().set_special(&special).map_err(refused)?;
        }
        if registers.general != now.general {
            self.vmm_mut().set_registers(&general(&registers.general));
        }
        if registers.kernel_gs_base != now.kernel_gs_base {
            let taken = self.vmm_mut().set_msr(MSR_KERNEL_GS_BASE, registers.kernel_gs_base);
            if !taken.map_err(refused)? {
                return Err(RegisterError("k_gs_base has to be a canonical address".to_owned()));
            }
        }
        let floating = FloatingPoint {
            ymm_high: registers.floating.ymm_high.or(now.floating.ymm_high),
            ..registers.floating
        };
        if floating != now.floating {
            self.vmm_mut().set_floating_point(&floating).map_err(refused)?;
        }
        Ok(())
    }

    fn write(&mut self, gva: u64, data: &[u8]) -> Result<(), ReadError> {
        self.vmm_mut().write_virtual_unprotected(gva, data).map_err(read_error)
    }

    fn translate(&self, gva: u64) -> Result<Page, ReadError> {
        let cpu = self.vmm();
        let found = storlock_vmm::translate::translate(cpu.ram(), cpu.special().address_space(), gva);
        let found = found.map_err(|error: TranslateError| read_error(error))?;
        Ok(Page {
            physical: found.address,
            size: found.page_size,
            writable: found.writable,
            user: found.user,
            executable: found.executable,
        })
    }

    fn read_physical(&self, gpa: u64, buf: &mut [u8]) -> bool {
        self.vmm().ram().read_memory(gpa, buf).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_that_a_guest_reports_is_a_bug_check() {
        let crash = MachineStop::Crash {
            cpu: 1,
            parameters: [0x50, 1, 2, 3, 4],
        };
        assert_eq!(
            in_words(&crash),
            "the guest crashed on processor 1: bug check 0x50 (0x1, 0x2, 0x3, 0x4)"
        );
        assert_eq!(in_words(&MachineStop::PowerOff), "the guest powered off");
    }
}
