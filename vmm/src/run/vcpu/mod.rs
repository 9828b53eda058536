//! One virtual processor on one plain thread: the KVM_RUN loop and what each exit means.
//!
//! Talks to KVM, the buses, the debug handler and, when its `attention` flag is up, the coordinator. It must not know
//! devices, nor why a breakpoint is there. The hit path (KVM_RUN, handler, KVM_RUN) takes no lock and, with sync
//! registers and the resume flag, makes no other system call.

mod debugger;
mod exits;
mod halt;
mod handler;
mod hit;
mod injection;
mod kick;
mod stopped_cpu;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_bindings::kvm_guest_debug;
use kvm_ioctls::{SyncReg, VcpuFd};

use crate::debug::{Breakpoint, DebugRegisters, INSTRUCTION_LIMIT, StepOver, StopPoint};
use crate::hyperv;
use crate::memory::GuestRam;
use crate::msr;
use crate::registers::{RFLAGS_RF, Registers, SpecialRegisters};
use crate::run::Error;
use crate::run::coordinator::{Shared, VcpuOrder, count};
use crate::run::power_on::PoweredCpu;
use crate::run::stop::{InternalError, MachineStop};
use crate::translate;
use debugger::StepRange;
use exits::{Event, enter};
pub use handler::DebugHandler;
use hit::Step;
pub use injection::LocalInterrupts;
pub(crate) use kick::{install_signal_handler, interrupt};
pub use stopped_cpu::StoppedCpu;

/// How often a pending I/O instruction may ask for more before a pause goes ahead without it.
const PENDING_IO_LIMIT: u32 = 64;

/// How this KVM is to be used; the same for all vCPUs of a machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Method {
    pub(crate) step_over: StepOver,
    /// Registers come and go with KVM_RUN.
    pub(crate) sync_registers: bool,
    /// A single step can hold back interrupts.
    pub(crate) block_interrupts: bool,
    /// The guest's processors have AVX.
    pub(crate) avx: bool,
}

/// One vCPU; owned by its thread.
pub(crate) struct Vcpu {
    index: u32,
    fd: VcpuFd,
    shared: Arc<Shared>,
    handler: Option<Arc<dyn DebugHandler>>,
    method: Method,
    registers: Registers,
    special: SpecialRegisters,
    /// `registers` are newer than KVM's.
    dirty: bool,
    debug: DebugRegisters,
    step: Option<Step>,
    /// A debugger wants single steps: one, or as many as stay in a range of addresses.
    wanted_step: Option<StepRange>,
    /// The instruction here has been reported; get past it before the guest goes on.
    step_over_at: Option<u64>,
    /// The instruction here is passed by the resume flag: as long as that is set it has not been executed.
    resumed_at: Option<u64>,
    /// KVM waits for KVM_RUN to complete an I/O instruction.
    io_pending: bool,
}

impl Vcpu {
    pub(crate) fn new(index: u32, fd: VcpuFd, shared: Arc<Shared>, method: Method) -> Self {
        Self {
            index,
            fd,
            handler: shared.handler.clone(),
            shared,
            method,
            registers: Registers::default(),
            special: SpecialRegisters::default(),
            dirty: false,
            debug: DebugRegisters::new(),
            step: None,
            wanted_step: None,
            step_over_at: None,
            resumed_at: None,
            io_pending: false,
        }
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    pub(crate) fn registers(&self) -> &Registers {
        &self.registers
    }

    pub(crate) fn special(&self) -> &SpecialRegisters {
        &self.special
    }

    pub(crate) fn ram(&self) -> &GuestRam {
        &self.shared.ram
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The linear address of the instruction that it stands at.
    fn at(&self) -> u64 {
        self.special.code_address(self.registers.rip)
    }

    /// Where it stands, if that instruction has been reported and not been executed since.
    pub(crate) fn reported(&self) -> Option<u64> {
        let at = self.at();
        let resumed = self.resumed_at == Some(at) && self.registers.rflags & RFLAGS_RF != 0;
        (self.step_over_at == Some(at) || resumed).then_some(at)
    }

    pub(crate) fn set_registers(&mut self, registers: &Registers) {
        self.registers = *registers;
        self.dirty = true;
    }

    pub(crate) fn msr(&self, index: u32) -> Result<u64, Error> {
        Ok(msr::read(&self.fd, index)?)
    }

    /// Body of the vCPU's thread.
    pub(crate) fn run(mut self) {
        if self.method.sync_registers {
            self.fd.set_sync_valid_reg(SyncReg::Register);
            self.fd.set_sync_valid_reg(SyncReg::SystemRegister);
        }
        let listening = kick::listen(&mut self.fd);
        let index = self.index as usize;
        self.shared.lock().cpus[index].thread = Some(kick::this_thread());
        self.shared.notify();
        let shared = Arc::clone(&self.shared);
        let outcome = catch_unwind(AssertUnwindSafe(|| self.serve()));
        // From here on nobody may signal this thread; also after a panic.
        shared.lock().cpus[index].thread = None;
        drop(listening);
        if outcome.is_err() {
            shared.fail(format!(
                "the thread of processor {index} panicked; this is a defect of the program"
            ));
        }
        shared.notify();
    }

    /// Runs the guest until the coordinator ends the thread.
    fn serve(&mut self) {
        loop {
            let step = self.attend().and_then(|go_on| {
                if go_on {
                    self.prepare_entry()?;
                    self.turn()?;
                }
                Ok(go_on)
            });
            match step {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => self.end(MachineStop::Failed(Arc::new(error))),
            }
        }
    }

    /// Tells the coordinator why this vCPU stopped. It pauses the machine, or resets the guest.
    fn end(&self, reason: MachineStop) {
        self.shared.stop_for(reason);
    }

    /// Takes the vCPU back to the state after power-on. What was in force of breakpoints has to be given to it again.
    pub(crate) fn power_on(&mut self, state: &PoweredCpu) -> Result<(), Error> {
        state.restore(&self.fd)?;
        self.debug = DebugRegisters::new();
        self.step = None;
        self.wanted_step = None;
        self.step_over_at = None;
        self.resumed_at = None;
        self.io_pending = false;
        self.dirty = false;
        self.fd.clear_sync_dirty_reg(SyncReg::Register);
        self.load_all()
    }

    /// Obeys the coordinator if it has something to say; `false` ends the thread.
    fn attend(&mut self) -> Result<bool, Error> {
        let index = self.index as usize;
        if !self.shared.cpus[index].attention.load(Ordering::SeqCst) {
            return Ok(true);
        }
        self.complete_io()?;
        loop {
            match self.shared.next_order(self.index) {
                VcpuOrder::Go { set, action } => {
                    if let Some((breakpoints, stop_points)) = set {
                        self.apply(&breakpoints, &stop_points)?;
                    }
                    if let Some(action) = action {
                        self.tell_of_pause();
                        self.set_resume_action(action)?;
                    }
                    return Ok(true);
                }
                VcpuOrder::Job(job) => {
                    self.load_all()?;
                    job(&mut StoppedCpu::new(self));
                }
                VcpuOrder::End => return Ok(false),
            }
        }
    }

    /// Has a guest that uses KVM's clock know that its processor stood still, so that its watchdog stays quiet.
    fn tell_of_pause(&self) {
        // Refused where the guest does not use that clock.
        let _ = self.fd.kvmclock_ctrl();
    }

    fn apply(&mut self, set: &[Breakpoint], stop_points: &[StopPoint]) -> Result<(), Error> {
        self.debug.set(set, stop_points);
        let request = match self.step {
            Some(step) => self.debug.stepping(step.from, step.block_interrupts),
            None => self.debug.armed(),
        };
        self.set_guest_debug(&request)
    }

    fn set_guest_debug(&self, request: &kvm_guest_debug) -> Result<(), Error> {
        self.fd
            .set_guest_debug(request)
            .map_err(Error::kvm("set the debug registers"))
    }

    /// As [`Self::set_guest_debug`], counted as a cost of the hit.
    fn set_guest_debug_for_hit(&self, request: &kvm_guest_debug) -> Result<(), Error> {
        count(&self.shared.cpus[self.index as usize].counters.hit_requests);
        self.set_guest_debug(request)
    }

    /// Fetches both register sets with system calls, after giving KVM what it does not have yet.
    fn load_all(&mut self) -> Result<(), Error> {
        if self.dirty {
            self.store_by_request()?;
        }
        let regs = self.fd.get_regs().map_err(Error::kvm("read the registers"))?;
        let sregs = self.fd.get_sregs().map_err(Error::kvm("read the special registers"))?;
        self.registers = (&regs).into();
        self.special = SpecialRegisters::new(&sregs, sregs.cr8);
        Ok(())
    }

    fn store_by_request(&mut self) -> Result<(), Error> {
        self.dirty = false;
        let regs = (&self.registers).into();
        self.fd.set_regs(&regs).map_err(Error::kvm("set the registers"))
    }

    /// Fetches both register sets after an exit.
    fn load(&mut self) -> Result<(), Error> {
        if !self.method.sync_registers {
            let counters = &self.shared.cpus[self.index as usize].counters;
            count(&counters.hit_requests);
            count(&counters.hit_requests);
            return self.load_all();
        }
        let synced = self.fd.sync_regs_mut();
        self.registers = (&synced.regs).into();
        self.special = SpecialRegisters::new(&synced.sregs, synced.sregs.cr8);
        Ok(())
    }

    /// Lets KVM finish an I/O instruction, so that the registers are those between two instructions.
    fn complete_io(&mut self) -> Result<(), Error> {
        let mut stepped = None;
        for _ in 0..PENDING_IO_LIMIT {
            if !self.io_pending {
                break;
            }
            self.fd.set_kvm_immediate_exit(1);
            self.io_pending = false;
            match enter(&mut self.fd, &self.shared, self.index as usize) {
                Ok((Event::Handled, more)) => self.io_pending = more,
                // The instruction was being single-stepped, or touched data that is watched.
                Ok((Event::Debug(exit), _)) => stepped = Some(exit),
                _ => {}
            }
        }
        self.fd.set_kvm_immediate_exit(0);
        stepped.map_or(Ok(()), |exit| self.on_debug(&exit))
    }

    /// Gets past a reported instruction, or begins the step that a debugger wants.
    fn prepare_entry(&mut self) -> Result<(), Error> {
        if self.wanted_step.is_some() {
            return self.prepare_step();
        }
        match self.step_over_at.take() {
            Some(at) if at == self.at() => self.begin_step_over(at),
            _ => Ok(()),
        }
    }

    /// One KVM_RUN and what follows from it.
    fn turn(&mut self) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let cpu = &shared.cpus[self.index as usize];
        // The coordinator sets `attention` and then reads `in_guest`, so one of the two sees the other.
        cpu.in_guest.store(true, Ordering::SeqCst);
        let result = if cpu.attention.load(Ordering::SeqCst) {
            Ok((Event::Handled, self.io_pending))
        } else {
            self.flush()
                .and_then(|()| enter(&mut self.fd, &shared, self.index as usize))
        };
        cpu.in_guest.store(false, Ordering::SeqCst);
        if cpu.attention.load(Ordering::SeqCst) {
            // Someone may wait for this vCPU to be out of the guest; the lock makes sure that it is waiting by now.
            drop(shared.lock());
            shared.notify();
        }
        let (event, io_pending) = result?;
        self.io_pending = io_pending;
        match event {
            Event::Handled => Ok(()),
            Event::Interrupted => {
                self.fd.set_kvm_immediate_exit(0);
                Ok(())
            }
            Event::Debug(exit) => self.on_debug(&exit),
            Event::MsrWrite { index, data } => self.on_msr_write(index, data),
            Event::InternalError => self.on_internal_error(),
            Event::Crash => self.on_crash(),
            Event::End(reason) => {
                self.end(reason);
                Ok(())
            }
        }
    }

    /// Gives KVM the registers that were changed.
    fn flush(&mut self) -> Result<(), Error> {
        if !self.dirty {
            return Ok(());
        }
        if !self.method.sync_registers {
            count(&self.shared.cpus[self.index as usize].counters.hit_requests);
            return self.store_by_request();
        }
        self.dirty = false;
        self.fd.sync_regs_mut().regs = (&self.registers).into();
        self.fd.set_sync_dirty_reg(SyncReg::Register);
        Ok(())
    }

    fn on_msr_write(&mut self, index: u32, data: u64) -> Result<(), Error> {
        self.load()?;
        if !msr::write(&self.fd, index, data)? {
            // The processor would refuse it: #GP in the guest, and nobody needs to know.
            self.fd.get_kvm_run().__bindgen_anon_1.msr.error = 1;
            return Ok(());
        }
        let action = self.call_handler(|handler, cpu| handler.msr_write(cpu, index, data));
        self.act(action, false).map(drop)
    }

    fn on_crash(&mut self) -> Result<(), Error> {
        let mut parameters = [0; 5];
        for (parameter, register) in parameters.iter_mut().zip(hyperv::CRASH_PARAMETERS..) {
            *parameter = self.msr(register)?;
        }
        self.end(MachineStop::Crash {
            cpu: self.index,
            parameters,
        });
        Ok(())
    }

    fn on_internal_error(&mut self) -> Result<(), Error> {
        // SAFETY: the exit reason was KVM_EXIT_INTERNAL_ERROR, so this is the union's member in use.
        #[allow(unsafe_code)]
        let suberror = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
        self.load_all()?;
        let mut bytes = [0; INSTRUCTION_LIMIT];
        let length = readable(&self.shared.ram, &self.special, self.at(), &mut bytes);
        self.end(MachineStop::InternalError(InternalError {
            cpu: self.index,
            suberror,
            rip: self.registers.rip,
            instruction_bytes: bytes[..length].to_vec(),
        }));
        Ok(())
    }
}

/// Reads as much of an instruction as is mapped: all of it, or up to the end of its page.
fn readable(ram: &GuestRam, special: &SpecialRegisters, at: u64, code: &mut [u8; INSTRUCTION_LIMIT]) -> usize {
    let space = special.address_space();
    if translate::read_virtual(ram, space, at, code).is_ok() {
        return code.len();
    }
    let left = (translate::PAGE_SIZE - at % translate::PAGE_SIZE).min(code.len() as u64) as usize;
    match translate::read_virtual(ram, space, at, &mut code[..left]) {
        Ok(()) => left,
        Err(_) => 0,
    }
}
