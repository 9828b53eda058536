//! The live backend: a stopped processor of a KVM machine, and the debug handler that hands each stop to a session.
//!
//! Talks to the machine's stopped processors. It must not know what a session does with a stop.

use std::sync::Arc;

use storlock_vmm::debug::{Breakpoint as RegisterBreakpoint, HitAction};
use storlock_vmm::memory::GuestRam;
use storlock_vmm::registers::Registers as VmmRegisters;
use storlock_vmm::run::{DebugHandler, StoppedCpu as VmmCpu};
use storlock_vmm::translate::{self, AddressSpace, TranslateError};

use crate::vmi::cpu::{
    Action, ArmError, Breakpoint, CpuState, CpuStop, Interception, Registers, SpecialRegisters, StoppedCpu,
};
use crate::vmi::memory::{GuestMemory, PAGE_SIZE, PhysicalMemory, ReadError, SharedMemory};

/// The MSR that holds the address of the system call entry.
pub(crate) const MSR_LSTAR: u32 = 0xc000_0082;

/// Takes the stops of a machine's processors. Called on the processor's own thread, several at once.
pub(crate) trait StopHandler: Send + Sync {
    /// See [`crate::session::Session::handle`].
    fn handle(&self, cpu: &mut dyn StoppedCpu, reason: CpuStop) -> Action;
}

/// A stopped processor of a KVM machine.
pub(crate) struct KvmCpu<'a, 'b>(&'a mut VmmCpu<'b>);

impl<'a, 'b> KvmCpu<'a, 'b> {
    /// Wraps a processor that the machine has stopped.
    pub(crate) fn new(cpu: &'a mut VmmCpu<'b>) -> Self {
        Self(cpu)
    }

    pub(super) fn vmm(&self) -> &VmmCpu<'b> {
        self.0
    }

    pub(super) fn vmm_mut(&mut self) -> &mut VmmCpu<'b> {
        self.0
    }
}

/// As the monitor says it.
pub(super) fn read_error(error: TranslateError) -> ReadError {
    match error {
        TranslateError::NonCanonical { gva } => ReadError::Invalid(gva),
        TranslateError::NotPresent { gva, .. }
        | TranslateError::Malformed { gva, .. }
        | TranslateError::NotWritable { gva, .. } => ReadError::NotMapped(gva),
        TranslateError::OutsideMemory { gva, .. } => ReadError::NoMemory(gva),
    }
}

impl GuestMemory for KvmCpu<'_, '_> {
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.0.read_virtual(gva, buf).map_err(read_error)
    }

    fn read_at(&self, gva: u64, buf: &mut [u8]) -> Result<Option<u64>, ReadError> {
        self.0.read_virtual_at(gva, buf).map_err(read_error)
    }
}

impl PhysicalMemory for GuestRam {
    fn stretches(&self) -> Vec<(u64, u64)> {
        self.ranges().map(|range| (range.base, range.length)).collect()
    }

    fn read_physical(&self, gpa: u64, buf: &mut [u8]) -> bool {
        self.read(gpa, buf).is_ok()
    }
}

impl SharedMemory for GuestRam {
    fn write_physical(&self, gpa: u64, data: &[u8]) -> bool {
        self.write(gpa, data).is_ok()
    }

    fn load(&self, gpa: u64) -> Option<u64> {
        self.load_u64(gpa).ok()
    }

    fn store(&self, gpa: u64, value: u64) -> bool {
        self.store_u64(gpa, value).is_ok()
    }

    fn change_bits(&self, gpa: u64, bits: u64, set: bool) -> bool {
        self.change_bits_u64(gpa, bits, set).is_ok()
    }

    fn read_virtual(&self, processor: &SpecialRegisters, gva: u64, buf: &mut [u8]) -> Result<Option<u64>, ReadError> {
        let space = AddressSpace::of(processor.cr0, processor.cr3, processor.cr4, processor.efer);
        translate::read_virtual_at(self, space, gva, buf).map_err(read_error)
    }
}

impl CpuState for KvmCpu<'_, '_> {
    fn index(&self) -> u32 {
        self.0.index()
    }

    fn registers(&self) -> Registers {
        let r = self.0.registers();
        Registers {
            gpr: [
                r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14,
                r.r15,
            ],
            rip: r.rip,
            rflags: r.rflags,
        }
    }

    fn special(&self) -> SpecialRegisters {
        let s = self.0.special();
        SpecialRegisters {
            cr0: s.cr0,
            cr3: s.cr3,
            cr4: s.cr4,
            cr8: s.cr8,
            efer: s.efer,
            gs_base: s.gs_base(),
            idt_base: s.idt.base,
            idt_limit: s.idt.limit,
            cpl: s.privilege(),
        }
    }
}

impl Interception for KvmCpu<'_, '_> {
    fn set_breakpoints(&mut self, breakpoints: &[Breakpoint]) -> Result<(), ArmError> {
        let set: Vec<RegisterBreakpoint> = breakpoints
            .iter()
            .map(|h| RegisterBreakpoint {
                id: h.id,
                address: h.address,
            })
            .collect();
        self.0
            .set_breakpoints(&set)
            .map_err(|error| ArmError(error.to_string()))
    }

    fn end_msr_interception(&mut self) {
        if let Err(error) = self.0.drop_msr_filter() {
            // Costs exits, nothing else: the handler ignores writes that come later.
            tracing::warn!("the MSR filter stays: {error}");
        }
    }

    fn set_registers(&mut self, registers: &Registers) -> Result<(), ArmError> {
        let [
            rax,
            rcx,
            rdx,
            rbx,
            rsp,
            rbp,
            rsi,
            rdi,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
        ] = registers.gpr;
        let (rip, rflags) = (registers.rip, registers.rflags);
        self.0.set_registers(&VmmRegisters {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rbp,
            rsp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            rflags,
        });
        Ok(())
    }

    fn write_memory(&mut self, gva: u64, data: &[u8]) -> Result<(), ArmError> {
        self.0
            .write_virtual_unprotected(gva, data)
            .map_err(|error| ArmError(error.to_string()))
    }

    fn check_executable(&mut self, gva: u64, length: u64) -> Result<(), ArmError> {
        let space = self.0.special().address_space();
        let last = gva.saturating_add(length.saturating_sub(1));
        let mut pages = (gva..=last).step_by(PAGE_SIZE as usize).chain([last]);
        let refused = pages.find(|&page| {
            let translated = translate::translate(self.0.ram(), space, page);
            !translated.is_ok_and(|page| page.executable)
        });
        refused.map_or(Ok(()), |page| {
            Err(ArmError(format!("the page of {page:#x} is not executable")))
        })
    }
}

/// Hands the machine's stops to a [`StopHandler`].
pub(crate) struct Handler(pub Arc<dyn StopHandler>);

impl Handler {
    fn answer(&self, cpu: &mut VmmCpu<'_>, reason: CpuStop) -> HitAction {
        match self.0.handle(&mut KvmCpu::new(cpu), reason) {
            Action::Resume => HitAction::Resume,
            Action::CatchReturn {
                return_address,
                stack_pointer,
                cookie,
            } => HitAction::ResumeCatchReturn {
                return_address,
                stack_pointer,
                cookie,
            },
            Action::Stop => HitAction::Stop,
        }
    }
}

impl DebugHandler for Handler {
    fn breakpoint(&self, cpu: &mut VmmCpu<'_>, id: u32) -> HitAction {
        self.answer(cpu, CpuStop::Breakpoint(id))
    }

    fn caught_return(&self, cpu: &mut VmmCpu<'_>, cookie: u64) -> HitAction {
        self.answer(cpu, CpuStop::CaughtReturn(cookie))
    }

    fn msr_write(&self, cpu: &mut VmmCpu<'_>, msr: u32, value: u64) -> HitAction {
        if msr == MSR_LSTAR {
            self.answer(cpu, CpuStop::LstarWrite(value))
        } else {
            HitAction::Resume
        }
    }

    fn reset(&self, cpu: &mut VmmCpu<'_>) {
        self.answer(cpu, CpuStop::Reset);
    }
}
