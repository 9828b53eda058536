//! What a debugger asks of a vCPU beside breakpoints: single steps, and the registers that no hit needs.
//!
//! Before a step, a breakpoint at the current instruction that has not been reported is reported as a hit; then the
//! instruction is stepped. So a routine counts once, however the vCPU came to its first instruction.

use std::sync::atomic::Ordering;

use super::Vcpu;
use super::hit::Step;
use crate::debug::ResumeAction;
use crate::msr;
use crate::registers::{FloatingPoint, RFLAGS_TF, SpecialRegisters};
use crate::run::Error;
use crate::run::stop::MachineStop;
use crate::translate;

/// Addresses in which stepping goes on; empty for a single step.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepRange {
    start: u64,
    end: u64,
}

/// CR4: 57-bit linear addresses, which CPUID does not offer.
const CR4_LA57: u64 = 1 << 12;

/// DR6 naming all four registers.
const ALL_REGISTERS: u64 = 0xf;

impl Vcpu {
    /// The machine goes on after a stop.
    pub(super) fn set_resume_action(&mut self, action: ResumeAction) -> Result<(), Error> {
        self.give_up_step()?;
        self.wanted_step = match action {
            ResumeAction::Step { range } => {
                let (start, end) = range.unwrap_or_default();
                Some(StepRange { start, end })
            }
            ResumeAction::Run | ResumeAction::Hold => None,
        };
        if self.wanted_step.is_some() {
            self.load_all()?;
        }
        Ok(())
    }

    /// Ends a step that the stop of the machine came before.
    fn give_up_step(&mut self) -> Result<(), Error> {
        let Some(step) = self.step.take() else {
            return Ok(());
        };
        self.load_all()?;
        self.set_guest_debug(&self.debug.armed())?;
        self.restore_trap_flag(step);
        if self.at() == step.from {
            // Breakpoints there have been reported before the step began.
            self.step_over_at = Some(step.from);
        }
        self.clear_trap_flag_of_frame(step);
        Ok(())
    }

    /// A step is over: if its instruction raised an exception, for whose handler the step may have ended early, the step's
    /// trap flag is in the frame that the handler returns by, and is taken out there. The frame lies below the stack pointer
    /// of then, aligned to 16 bytes; one on another stack (by an IST, or from user mode) is not looked for. Intel SDM volume
    /// 3, 7.14.2.
    pub(super) fn clear_trap_flag_of_frame(&self, step: Step) {
        const RIP: usize = 0;
        const RFLAGS: usize = 2;
        const RSP: usize = 3;
        const SIZE: u64 = 5 * 8;
        let frame = (step.stack_pointer & !0xf).wrapping_sub(SIZE);
        let mut bytes = [0; SIZE as usize];
        let (ram, space) = (&self.shared.ram, self.special.address_space());
        if step.guest_trap
            || !self.special.is_64_bit_code()
            || translate::read_virtual(ram, space, frame, &mut bytes).is_err()
        {
            return;
        }
        let mut words = [0; SIZE as usize / 8];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        }
        if (words[RIP], words[RSP]) != (step.from, step.stack_pointer) || words[RFLAGS] & RFLAGS_TF == 0 {
            return;
        }
        let flags = (words[RFLAGS] & !RFLAGS_TF).to_le_bytes();
        // It has just been read; a stack that is not writable any more is nobody's way back.
        let _ = translate::write_virtual(ram, space, frame.wrapping_add(8 * RFLAGS as u64), &flags);
    }

    /// Begins the step that a debugger wants, if it has not begun.
    pub(super) fn prepare_step(&mut self) -> Result<(), Error> {
        if self.step.is_some() {
            return Ok(());
        }
        let at = self.at();
        if self.reported().is_none() {
            if let Some(hit) = self.debug.classify(at, ALL_REGISTERS, self.registers.rsp) {
                self.on_hit(hit)?;
            }
        }
        if self.shared.cpus[self.index as usize].attention.load(Ordering::SeqCst) {
            // The handler stopped the machine, or somebody else did.
            return Ok(());
        }
        self.step_over_at = None;
        if self.execute_in_host(at, true)? {
            self.stepped();
            return Ok(());
        }
        self.begin_step(at, self.method.block_interrupts)
    }

    /// An instruction that a debugger wanted to be executed alone has been.
    pub(super) fn stepped(&mut self) {
        let Some(StepRange { start, end }) = self.wanted_step else {
            return;
        };
        if !(start..end).contains(&self.registers.rip) {
            self.wanted_step = None;
            self.end(MachineStop::Stepped { cpu: self.index });
        }
    }

    pub(crate) fn set_special(&mut self, special: &SpecialRegisters) -> Result<(), Error> {
        if self.dirty {
            self.store_by_request()?;
        }
        if special.cr4 & CR4_LA57 != 0 {
            return Err(Error::FiveLevelPaging);
        }
        let mut sregs = self.fd.get_sregs().map_err(Error::kvm("read the special registers"))?;
        special.store(&mut sregs);
        self.fd
            .set_sregs(&sregs)
            .map_err(Error::kvm("set the special registers"))?;
        self.load_all()
    }

    pub(crate) fn floating_point(&self) -> Result<FloatingPoint, Error> {
        let area = self.fd.get_xsave();
        let area = area.map_err(Error::kvm("read the vector registers"))?;
        Ok(FloatingPoint::of(&area, self.method.avx))
    }

    pub(crate) fn set_floating_point(&mut self, state: &FloatingPoint) -> Result<(), Error> {
        let area = self.fd.get_xsave();
        let mut area = area.map_err(Error::kvm("read the vector registers"))?;
        let ymm_high = state.ymm_high.filter(|_| self.method.avx);
        FloatingPoint { ymm_high, ..*state }.store(&mut area);
        // SAFETY: the kernel reads more than the structure only if the process has asked for features whose state does
        // not fit (arch_prctl ARCH_REQ_XCOMP_GUEST_PERM), which this program never does.
        #[allow(unsafe_code)]
        let set = unsafe { self.fd.set_xsave(&area) };
        set.map_err(Error::kvm("set the vector registers"))
    }

    pub(crate) fn set_msr(&mut self, index: u32, value: u64) -> Result<bool, Error> {
        Ok(msr::write(&self.fd, index, value)?)
    }
}
