//! What a vCPU does at a debug exit: tells whose it is, asks the handler, gets past the instruction.
//!
//! This is the hit path: it takes no lock and, with sync registers and the resume flag, makes no system call.
#![forbid(unsafe_code)]

use kvm_bindings::kvm_debug_exit_arch;

use super::{DebugHandler, StoppedCpu, Vcpu, readable};
use crate::debug::{
    Catch, DR6_BS, DR6_NONE, FirstInstruction, Hit, HitAction, INSTRUCTION_LIMIT, Memory, Refused, StepOver,
};
use crate::memory::GuestRam;
use crate::registers::{RFLAGS_RF, RFLAGS_TF};
use crate::run::Error;
use crate::run::coordinator::count;
use crate::run::stop::MachineStop;
use crate::translate::{self, AddressSpace};

/// The vector of #BP, and the instruction that raises it.
const BREAKPOINT_EXCEPTION: u32 = 3;
const INT3: u8 = 0xcc;

/// A single step under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) from: u64,
    /// RSP then.
    pub(super) stack_pointer: u64,
    /// The guest had its own trap flag set.
    pub(super) guest_trap: bool,
    /// Interrupts wait until it is done.
    pub(super) block_interrupts: bool,
}

impl Vcpu {
    pub(super) fn on_debug(&mut self, exit: &kvm_debug_exit_arch) -> Result<(), Error> {
        count(&self.shared.cpus[self.index as usize].counters.debug_exits);
        self.load()?;
        let stepped = self.step.take();
        if let Some(step) = stepped {
            self.set_guest_debug_for_hit(&self.debug.armed())?;
            self.restore_trap_flag(step);
            self.clear_trap_flag_of_frame(step);
        }
        if exit.exception == BREAKPOINT_EXCEPTION {
            return self.on_int3();
        }
        let hit = self.debug.classify(self.at(), exit.dr6, self.registers.rsp);
        let machine_stopped = match hit {
            Some(hit) => self.on_hit(hit)?,
            None => false,
        };
        let trapped = self.on_trap(exit.dr6, machine_stopped);
        if stepped.is_some() && !trapped {
            self.stepped();
        }
        let guest_step = exit.dr6 & DR6_BS != 0 && stepped.is_none_or(|step| step.guest_trap);
        if guest_step && self.step_over_at == Some(self.at()) {
            // The guest's trap and our breakpoint came as one exception. The guest's handler comes first and returns to
            // this instruction by IRET, which brings the resume flag back: no other method survives that.
            self.step_over_at = None;
            self.registers.rflags |= RFLAGS_RF;
            self.dirty = true;
        }
        if guest_step || (hit.is_none() && stepped.is_none() && !trapped) {
            self.give_back(exit.dr6)?;
        }
        Ok(())
    }

    /// INT3 is about to be executed: RIP is at it.
    fn on_int3(&mut self) -> Result<(), Error> {
        let at = self.at();
        if let Some(stop_point) = self.debug.software_breakpoint(at) {
            self.step_over_at = Some(at);
            self.wanted_step = None;
            self.end(MachineStop::StopPoint {
                cpu: self.index,
                stop_point,
            });
            return Ok(());
        }
        let mut code = [0; INSTRUCTION_LIMIT];
        if readable(&self.shared.ram, &self.special, at, &mut code) > 0 && code[0] != INT3 {
            // The stop point has been taken out since: the instruction is what it was.
            return Ok(());
        }
        if self.dirty {
            // Setting registers later would take the exception back.
            self.store_by_request()?;
        }
        self.set_guest_debug(&self.debug.injecting_breakpoint())
    }

    /// KVM takes the guest's trap flag for its own and clears it with the end of a step.
    pub(super) fn restore_trap_flag(&mut self, step: Step) {
        if step.guest_trap {
            self.registers.rflags |= RFLAGS_TF;
            self.dirty = true;
        }
    }

    /// Reports a breakpoint or a return; says whether the handler stopped the machine.
    pub(super) fn on_hit(&mut self, hit: Hit) -> Result<bool, Error> {
        match hit {
            Hit::Breakpoint { id, .. } => self.on_breakpoint(id),
            Hit::Return { slot } => self.on_return(slot),
        }
    }

    /// Stops the machine if the debug exit is a debugger's; says whether it was. If the machine was `stopped` for the
    /// instruction already, a stop point on that instruction has nothing to add.
    fn on_trap(&mut self, dr6: u64, stopped: bool) -> bool {
        let at = self.at();
        let executed = self.debug.executed(at, dr6).filter(|_| !stopped);
        if executed.is_some() {
            self.step_over_at = Some(at);
        }
        let Some(stop_point) = self.debug.accessed(dr6).or(executed) else {
            return false;
        };
        self.wanted_step = None;
        self.end(MachineStop::StopPoint {
            cpu: self.index,
            stop_point,
        });
        true
    }

    fn on_breakpoint(&mut self, id: u32) -> Result<bool, Error> {
        count(&self.shared.cpus[self.index as usize].counters.hits);
        self.step_over_at = Some(self.at());
        let action = self.call_handler(|handler, cpu| handler.breakpoint(cpu, id));
        self.act(action, true)
    }

    fn on_return(&mut self, slot: usize) -> Result<bool, Error> {
        // Cleared registers need no step over, but another frame's visit to the same address does.
        let Some(catch) = self.debug.take_catch(slot, self.registers.rsp) else {
            count(&self.shared.cpus[self.index as usize].counters.passes);
            self.step_over_at = Some(self.at());
            return Ok(false);
        };
        count(&self.shared.cpus[self.index as usize].counters.returns);
        self.set_guest_debug_for_hit(&self.debug.armed())?;
        let action = self.call_handler(|handler, cpu| handler.caught_return(cpu, catch.cookie));
        self.act(action, false)
    }

    pub(super) fn call_handler(
        &mut self,
        call: impl FnOnce(&dyn DebugHandler, &mut StoppedCpu<'_>) -> HitAction,
    ) -> HitAction {
        let Some(handler) = self.handler.take() else {
            return HitAction::Resume;
        };
        let action = call(handler.as_ref(), &mut StoppedCpu::new(self));
        self.handler = Some(handler);
        action
    }

    /// Does what the handler answered; says whether that stops the machine.
    pub(super) fn act(&mut self, action: HitAction, may_catch: bool) -> Result<bool, Error> {
        match action {
            HitAction::ResumeCatchReturn {
                return_address,
                stack_pointer,
                cookie,
            } if may_catch && translate::is_canonical(return_address) => {
                let catch = Catch {
                    return_address,
                    stack_pointer,
                    cookie,
                };
                if self.debug.catch(catch) {
                    self.set_guest_debug_for_hit(&self.debug.armed())?;
                }
            }
            HitAction::Resume | HitAction::ResumeCatchReturn { .. } => {}
            HitAction::Stop => {
                // That is the end of a debugger's step, too.
                self.wanted_step = None;
                self.end(MachineStop::Breakpoint { cpu: self.index });
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gets past the instruction at `at`, which is RIP.
    pub(super) fn begin_step_over(&mut self, at: u64) -> Result<(), Error> {
        let only_unsteppable = match self.method.step_over {
            StepOver::ResumeFlag => {
                self.resumed_at = Some(at);
                self.registers.rflags |= RFLAGS_RF;
                self.dirty = true;
                return Ok(());
            }
            StepOver::EmulateFirst => false,
            StepOver::SingleStep => true,
        };
        if self.execute_in_host(at, only_unsteppable)? {
            return Ok(());
        }
        self.begin_step(at, self.method.block_interrupts)
    }

    /// Executes the instruction at `at`, where the vCPU stands, in the host and says whether; with `only_unsteppable` only if a single
    /// step of it would go wrong.
    pub(super) fn execute_in_host(&mut self, at: u64, only_unsteppable: bool) -> Result<bool, Error> {
        if self.emulate(at, only_unsteppable).is_ok() {
            self.after_emulation()?;
            return Ok(true);
        }
        self.halt()
    }

    pub(super) fn begin_step(&mut self, from: u64, block_interrupts: bool) -> Result<(), Error> {
        count(&self.shared.cpus[self.index as usize].counters.steps);
        self.step = Some(Step {
            from,
            stack_pointer: self.registers.rsp,
            guest_trap: self.registers.rflags & RFLAGS_TF != 0,
            block_interrupts,
        });
        self.set_guest_debug_for_hit(&self.debug.stepping(from, block_interrupts))
    }

    /// Executes the instruction at `at` in the host; with `only_unsteppable` only if a step would be visible.
    fn emulate(&mut self, at: u64, only_unsteppable: bool) -> Result<(), Refused> {
        if !self.special.is_64_bit_code() {
            return Err(Refused);
        }
        let mut code = [0; INSTRUCTION_LIMIT];
        let length = readable(&self.shared.ram, &self.special, at, &mut code);
        let code = &code[..length];
        // A stop without a breakpoint (any more) has no place to keep the decoded instruction.
        let slot = match self.debug.classify(at, u64::MAX, self.registers.rsp) {
            Some(Hit::Breakpoint { slot, .. }) => self.debug.first_instruction(slot),
            _ => None,
        };
        let mut scratch = None;
        let kept = slot.unwrap_or(&mut scratch);
        if !kept.as_ref().is_some_and(|first| first.is(code)) {
            *kept = Some(FirstInstruction::decode(code, at)?);
        }
        let first = kept.as_ref().ok_or(Refused)?;
        if only_unsteppable && !first.shows_trap_flag() {
            return Err(Refused);
        }
        let memory = SupervisorMemory {
            ram: &self.shared.ram,
            space: self.special.address_space(),
        };
        first.execute(&mut self.registers, &self.special, &memory)?;
        self.dirty = true;
        count(&self.shared.cpus[self.index as usize].counters.emulated);
        Ok(())
    }

    /// The guest's own trap flag asks for a debug exception after the instruction that the host executed.
    fn after_emulation(&mut self) -> Result<(), Error> {
        if self.registers.rflags & RFLAGS_TF == 0 {
            return Ok(());
        }
        self.give_back(DR6_BS)
    }

    /// Gives a debug exception that is not ours to the guest, as well as KVM can.
    fn give_back(&mut self, dr6: u64) -> Result<(), Error> {
        if self.dirty {
            // Setting registers later would take the exception back.
            self.store_by_request()?;
        }
        let mut state = self
            .fd
            .get_debug_regs()
            .map_err(Error::kvm("read the debug registers"))?;
        state.dr6 |= DR6_NONE | (dr6 & DR6_BS);
        self.fd
            .set_debug_regs(&state)
            .map_err(Error::kvm("set the debug registers"))?;
        self.set_guest_debug(&self.debug.injecting())
    }
}

/// The guest's memory as its supervisor reaches it without any fault or assist.
struct SupervisorMemory<'a> {
    ram: &'a GuestRam,
    space: AddressSpace,
}

impl Memory for SupervisorMemory<'_> {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Refused> {
        translate::read_virtual(self.ram, self.space, address, data).map_err(|_| Refused)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), Refused> {
        let last = address.wrapping_add((data.len() as u64).saturating_sub(1));
        for byte in [address, last] {
            let page = translate::translate(self.ram, self.space, byte).map_err(|_| Refused)?;
            if !page.dirty || page.user {
                return Err(Refused);
            }
        }
        translate::write_virtual(self.ram, self.space, address, data).map_err(|_| Refused)
    }
}
