//! Execution breakpoints by debug registers: what is armed, and how a handler answers a hit.
//!
//! Talks to the vCPU loop, which calls the [`DebugHandler`] on the vCPU's own thread. It must not know why an address
//! is watched. Sources: Intel SDM volume 3, 19.2 (debug registers), 19.3.1.1 (instruction breakpoints and RFLAGS.RF).
//!
//! # What a guest can tell from bare metal
//! A debug exception that is not ours is given back to the guest (DR6.BS and an injected #DB). What differs:
//! - While any breakpoint is armed the guest's own DR0 to DR3 and DR7 keep their values but break nowhere.
//! - ICEBP (F1) arrives as a #DB that names no cause in DR6; which RIP the guest's handler sees is up to KVM, and so is
//!   how long MOV SS holds a #DB back.
//! - A first instruction that is single-stepped runs with interrupts held back; where KVM cannot do that, an interrupt
//!   handler's first instruction may be stepped in its stead and the breakpoint is reported again after its return.
//! - A [`StopPointKind::SoftwareBreakpoint`] is a byte in the guest's memory: its own reads and its devices' see it.
//! - Where our breakpoint and the guest's single step come as one exception, the resume flag is used whatever the method.
#![forbid(unsafe_code)]

mod slots;
mod stop_point;
#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::power_on::PoweredCpu;
use crate::registers::{FloatingPoint, Registers, SpecialRegisters};
use crate::translate::{self, TranslateError};
use crate::vcpu::Vcpu;

pub(crate) use slots::{Catch, DebugRegisters, Hit};
pub use stop_point::{ResumeAction, StopPoint, StopPointError, StopPointKind};
pub(crate) use stop_point::{check_stop_points, fitting};

/// How many debug registers there are: DR0 to DR3.
pub const BREAKPOINT_LIMIT: usize = 4;

/// DR6.BS: a single step.
pub(crate) const DR6_BS: u64 = 1 << 14;
/// DR6 with nothing recorded: the bits that always read as one.
pub(crate) const DR6_NONE: u64 = 0xffff_0ff0;

/// An execution breakpoint, armed on all vCPUs alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breakpoint {
    /// The caller's name for it, handed back on each hit. Unique within a set.
    pub id: u32,
    /// Guest-virtual address of the instruction; canonical.
    pub address: u64,
}

/// What a vCPU does after a [`DebugHandler`] call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HitAction {
    /// Go on behind the breakpoint.
    Resume,
    /// Go on, and call [`DebugHandler::caught_return`] when the routine just entered returns on this vCPU.
    ///
    /// This takes a debug register that no breakpoint uses ([`StoppedCpu::can_catch_return`]); when all that are left
    /// are taken by earlier catches, the oldest catch is given up. A routine that returns on another vCPU (its thread
    /// migrated) or never returns (unwound, or the thread ended) is not caught; a later call with the same return
    /// address and stack pointer replaces its catch.
    ResumeCatchReturn {
        /// Where the routine returns to.
        return_address: u64,
        /// RSP right after the return.
        stack_pointer: u64,
        /// Handed to [`DebugHandler::caught_return`].
        cookie: u64,
    },
    /// Pause the whole machine with this vCPU at this very instruction; [`crate::machine::RunningMachine::wait`]
    /// then returns [`crate::machine::MachineStop::Breakpoint`].
    Stop,
}

/// Called on the thread of the vCPU that stopped; that vCPU waits for the answer, the others run on.
///
/// A handler may wait for other threads, also for another vCPU's handler call to end, but not for another vCPU to
/// execute guest code, and not for [`crate::machine::RunningMachine::pause`].
pub trait DebugHandler: Send + Sync {
    /// The vCPU is about to execute the instruction under breakpoint `id`.
    ///
    /// While another vCPU replaces the set, a call for a breakpoint of the old set that was hit before may still come.
    fn breakpoint(&self, cpu: &mut StoppedCpu<'_>, id: u32) -> HitAction;

    /// The routine for which [`HitAction::ResumeCatchReturn`] was answered has returned; RAX holds its result.
    /// [`HitAction::ResumeCatchReturn`] is taken as [`HitAction::Resume`] here.
    fn caught_return(&self, cpu: &mut StoppedCpu<'_>, cookie: u64) -> HitAction;

    /// The guest wrote `value` to the filtered MSR `msr`. The write has been performed; RIP is still at the `wrmsr`.
    fn msr_write(&self, cpu: &mut StoppedCpu<'_>, msr: u32, value: u64) -> HitAction;

    /// The machine has been reset and goes on with the run once this returns. All vCPUs and workers stand still in the
    /// state after power-on; `cpu` is the first vCPU. Breakpoints and awaited returns are gone, the MSR exits that the
    /// machine was made with are in force.
    fn reset(&self, cpu: &mut StoppedCpu<'_>) {
        let _ = cpu;
    }
}

/// How a vCPU gets past an instruction under a breakpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepOver {
    /// RFLAGS.RF: one KVM_RUN a hit and no other system call. Not honoured by every KVM flavour.
    ResumeFlag,
    /// The host executes the known first instruction on the guest's registers and memory: one KVM_RUN a hit. An
    /// instruction that it does not know is single-stepped.
    EmulateFirst,
    /// Breakpoint off on this vCPU, one single step with interrupts held back, breakpoint on again: two KVM_RUN and two
    /// KVM_SET_GUEST_DEBUG a hit.
    SingleStep,
}

impl std::fmt::Display for StepOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ResumeFlag => "resume flag",
            Self::EmulateFirst => "emulation of the first instruction",
            Self::SingleStep => "single step",
        })
    }
}

/// Why a set of breakpoints was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BreakpointError {
    /// More than four.
    #[error("{0} breakpoints asked for, the processor has {BREAKPOINT_LIMIT} debug registers")]
    TooMany(usize),
    /// Not a canonical address.
    #[error("breakpoint {id} at {address:#x} is not at a canonical address")]
    NonCanonical {
        /// Its id.
        id: u32,
        /// Its address.
        address: u64,
    },
    /// Two with the same id or address.
    #[error("breakpoint {id} at {address:#x} is there twice, by id or by address")]
    Duplicate {
        /// Its id.
        id: u32,
        /// Its address.
        address: u64,
    },
}

/// Checks a set of breakpoints before it is given to the vCPUs.
pub(crate) fn check_breakpoints(set: &[Breakpoint]) -> Result<(), BreakpointError> {
    if set.len() > BREAKPOINT_LIMIT {
        return Err(BreakpointError::TooMany(set.len()));
    }
    for (index, &Breakpoint { id, address }) in set.iter().enumerate() {
        if !translate::is_canonical(address) {
            return Err(BreakpointError::NonCanonical { id, address });
        }
        if set[..index]
            .iter()
            .any(|other| other.id == id || other.address == address)
        {
            return Err(BreakpointError::Duplicate { id, address });
        }
    }
    Ok(())
}

/// A vCPU that does not execute guest code at the moment: inside a [`DebugHandler`] call, or in a paused machine.
pub struct StoppedCpu<'a> {
    vcpu: &'a mut Vcpu,
}

impl<'a> StoppedCpu<'a> {
    /// The vCPU's registers have been loaded by the caller.
    pub(crate) fn new(vcpu: &'a mut Vcpu) -> Self {
        Self { vcpu }
    }

    /// Number of the vCPU, from 0.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.vcpu.index()
    }

    /// General registers at the stop. No system call.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        self.vcpu.registers()
    }

    /// Control and segment registers at the stop. No system call.
    #[must_use]
    pub fn special(&self) -> &SpecialRegisters {
        self.vcpu.special()
    }

    /// Reads guest-virtual memory in the address space the vCPU is in. No system call.
    ///
    /// # Errors
    /// [`TranslateError`] for the first byte that cannot be read; `data` is then undefined.
    pub fn read_virtual(&self, gva: u64, data: &mut [u8]) -> Result<(), TranslateError> {
        translate::read_virtual(self.vcpu.ram(), self.special().address_space(), gva, data)
    }

    /// Writes guest-virtual memory that a supervisor may write.
    ///
    /// # Errors
    /// [`TranslateError`] for the first byte that cannot be written; then nothing is written.
    pub fn write_virtual(&mut self, gva: u64, data: &[u8]) -> Result<(), TranslateError> {
        translate::write_virtual(self.vcpu.ram(), self.special().address_space(), gva, data)
    }

    /// Guest physical memory.
    #[must_use]
    pub fn ram(&self) -> &crate::memory::GuestRam {
        self.vcpu.ram()
    }

    /// Writes guest-virtual memory whether or not the guest's tables make it writable, as a debugger does.
    ///
    /// # Errors
    /// [`TranslateError`] for the first byte that is not mapped to RAM; then nothing is written.
    pub fn write_virtual_unprotected(&mut self, gva: u64, data: &[u8]) -> Result<(), TranslateError> {
        translate::write_virtual_unprotected(self.vcpu.ram(), self.special().address_space(), gva, data)
    }

    /// Changes the general registers, effective when the vCPU goes on.
    pub fn set_registers(&mut self, registers: &Registers) {
        self.vcpu.set_registers(registers);
    }

    /// Changes control registers, EFER, the selectors, and the bases of FS and GS. What else [`SpecialRegisters`] holds
    /// stays as it is. This is a system call.
    ///
    /// # Errors
    /// [`crate::Error::Kvm`] if KVM refuses the combination.
    pub fn set_special(&mut self, special: &SpecialRegisters) -> Result<(), crate::Error> {
        self.vcpu.set_special(special)
    }

    /// The x87, SSE and AVX registers. This is a system call.
    ///
    /// # Errors
    /// [`crate::Error::Kvm`] if KVM does not give them.
    pub fn floating_point(&self) -> Result<FloatingPoint, crate::Error> {
        self.vcpu.floating_point()
    }

    /// Changes the x87, SSE and AVX registers. This is a system call.
    ///
    /// # Errors
    /// [`crate::Error::Kvm`] if KVM refuses.
    pub fn set_floating_point(&mut self, state: &FloatingPoint) -> Result<(), crate::Error> {
        self.vcpu.set_floating_point(state)
    }

    /// Writes a model-specific register, as the guest's own write would. `false` if the processor would raise #GP. This
    /// is a system call.
    ///
    /// # Errors
    /// [`crate::Error::Kvm`] if KVM refuses.
    pub fn set_msr(&mut self, index: u32, value: u64) -> Result<bool, crate::Error> {
        self.vcpu.set_msr(index, value)
    }

    /// Reads a model-specific register. This is a system call: not for the path of every hit.
    ///
    /// # Errors
    /// [`crate::Error::Kvm`] if KVM does not know the register.
    pub fn msr(&self, index: u32) -> Result<u64, crate::Error> {
        self.vcpu.msr(index)
    }

    /// The instruction at which a stop of the whole machine has been reported and that is still to be executed.
    pub(crate) fn reported(&self) -> Option<u64> {
        self.vcpu.reported()
    }

    /// Whether at least one debug register is left over by the breakpoints in force, so that
    /// [`HitAction::ResumeCatchReturn`] does more than [`HitAction::Resume`].
    #[must_use]
    pub fn can_catch_return(&self) -> bool {
        self.vcpu.debug_registers().can_catch()
    }

    /// Puts an interrupt that is on its way into this vCPU back to its local APIC. The machine stands still.
    pub(crate) fn take_back_interrupt(&mut self) -> Result<(), crate::Error> {
        self.vcpu.take_back_interrupt()
    }

    /// Takes the vCPU back to the state after power-on.
    pub(crate) fn power_on(&mut self, state: &PoweredCpu) -> Result<(), crate::Error> {
        self.vcpu.power_on(state)
    }

    /// Replaces the breakpoints on every vCPU.
    ///
    /// When this returns no vCPU executes a guest instruction under the old set any more. Several vCPUs may call it
    /// at once: the last one wins. Each vCPU is interrupted once; not for the path of every hit.
    ///
    /// # Errors
    /// [`BreakpointError`]; the old set then stays.
    pub fn set_breakpoints(&mut self, set: &[Breakpoint]) -> Result<(), BreakpointError> {
        self.vcpu.shared().set_breakpoints(set, Some(self.index()))
    }

    /// Lets the guest write all MSRs without an exit from now on.
    ///
    /// # Errors
    /// [`crate::Error::Kvm`] if KVM refuses.
    pub fn drop_msr_filter(&mut self) -> Result<(), crate::Error> {
        self.vcpu.shared().drop_msr_filter()
    }
}
