//! A vCPU as others see it: between two guest instructions, on its own thread.
//!
//! Talks to the vCPU that it borrows. It must not know who looks, or why.
#![forbid(unsafe_code)]

use super::{LocalInterrupts, Vcpu};
use crate::debug::{Breakpoint, BreakpointError};
use crate::memory::GuestRam;
use crate::registers::{FloatingPoint, Registers, SpecialRegisters};
use crate::run::power_on::PoweredCpu;
use crate::translate::{self, TranslateError};

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

    /// As [`StoppedCpu::read_virtual`], and tells the guest physical address of the first byte.
    ///
    /// # Errors
    /// As [`StoppedCpu::read_virtual`].
    pub fn read_virtual_at(&self, gva: u64, data: &mut [u8]) -> Result<Option<u64>, TranslateError> {
        translate::read_virtual_at(self.vcpu.ram(), self.special().address_space(), gva, data)
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
    pub fn ram(&self) -> &GuestRam {
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
    /// [`crate::Error::Kvm`] if KVM refuses the combination, [`crate::Error::FiveLevelPaging`] if CR4 asks for that.
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

    /// The interrupts at the local APIC. This is a system call.
    ///
    /// # Errors
    /// [`crate::Error::Kvm`] if KVM refuses.
    pub fn local_interrupts(&self) -> Result<LocalInterrupts, crate::Error> {
        self.vcpu.local_interrupts()
    }

    /// The instruction at which a stop of the whole machine has been reported and that is still to be executed.
    pub(crate) fn reported(&self) -> Option<u64> {
        self.vcpu.reported()
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
