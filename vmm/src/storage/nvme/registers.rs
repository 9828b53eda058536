//! Controller registers and doorbells (NVMe 1.4, section 3.1).
//!
//! The half of the controller that vCPUs touch. It records what the guest writes and answers reads; the other half,
//! [`Controller`](super::Controller), takes the changes and acts on them, so that no vCPU ever waits for DMA or a
//! backend. It must not know queues: whether a doorbell belongs to one is found out later.
//!
//! INTMS and INTMC take effect at once, and so does a head doorbell on the level of the pin: a guest that has masked or
//! acknowledged its interrupt must not get it again only because the worker has not run yet. With MSI-X the mask has no
//! effect (the host must not use it then, section 3.1.3).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::spec::registers::offset::{ACQ, AQA, ASQ, CAP, CC, CSTS, INTMC, INTMS, NSSR, VS};
use super::spec::registers::{
    Configuration, DEFINED_END, DOORBELLS, FATAL, READY, SHUTDOWN_COMPLETE, SHUTDOWN_MASK, SHUTDOWN_OCCURRING,
    SUBSYSTEM_RESET, SUBSYSTEM_RESET_OCCURRED, VERSION, aqa, cap,
};
use crate::storage::fault::{FaultInjector, RegisterFault};
use crate::storage::interrupts::InterruptSink;
use crate::storage::worker::Attention;

/// The most I/O queue pairs a controller can be given.
pub(super) const MAX_QUEUE_PAIRS: u16 = 64;
/// Entries of the largest queue (CAP.MQES + 1).
pub(super) const MAX_QUEUE_ENTRIES: u32 = 1024;
/// Doorbells there are at most: a tail and a head for the admin queues and each I/O queue pair.
pub(super) const DOORBELL_COUNT: usize = 2 * (MAX_QUEUE_PAIRS as usize + 1);

/// CAP (section 3.1.1). DSTRD, MPSMIN and MPSMAX are 0, and so is AMS: round robin is all the arbitration there is, no
/// weighted one and none of a vendor. The time-out is 15 s.
pub(super) const CAPABILITIES: u64 = (MAX_QUEUE_ENTRIES as u64 - 1)
    | cap::CONTIGUOUS_QUEUES_REQUIRED
    | 30 << cap::TIMEOUT_SHIFT
    | cap::SUBSYSTEM_RESET_SUPPORTED
    | cap::NVM_COMMAND_SET;

/// The values of the registers, and what was written since the controller last looked: plain state that can be saved.
// Each flag is a fact of its own.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug)]
pub(super) struct RegisterState {
    /// The mask that INTMS sets and INTMC clears.
    interrupt_mask: u32,
    /// Bits that INTMC cleared since the controller last looked.
    unmasked: u32,
    /// The interrupt status of the pin (section 7.5.1): there are entries that the host has not acknowledged. Not set while
    /// a head doorbell is on its way.
    interrupt_status: bool,
    /// CC.
    configuration: Configuration,
    /// CSTS.
    status: u32,
    /// AQA.
    admin_queue_attributes: u32,
    /// ASQ.
    admin_submission_queue: u64,
    /// ACQ.
    admin_completion_queue: u64,
    /// CC.EN went from 1 to 0 and the controller has not been reset yet.
    reset_pending: bool,
    /// That reset is one of the NVM subsystem.
    subsystem_reset_pending: bool,
    /// A fault wants CSTS.CFS set, and the controller has not done so yet.
    fatal_pending: bool,
    /// CC.SHN asked for a shutdown that has not been done yet.
    shutdown_pending: bool,
    /// The last value written to each doorbell since the controller last looked.
    doorbells: Vec<Option<u16>>,
    /// Some doorbell was written: saves the search of `doorbells`.
    doorbell_rung: bool,
    /// A doorbell that no controller of this kind has was written.
    stray_doorbell: bool,
}

impl Default for RegisterState {
    fn default() -> Self {
        Self {
            interrupt_mask: 0,
            unmasked: 0,
            interrupt_status: false,
            configuration: Configuration(0),
            status: 0,
            admin_queue_attributes: 0,
            admin_submission_queue: 0,
            admin_completion_queue: 0,
            reset_pending: false,
            subsystem_reset_pending: false,
            fatal_pending: false,
            shutdown_pending: false,
            doorbells: vec![None; DOORBELL_COUNT],
            doorbell_rung: false,
            stray_doorbell: false,
        }
    }
}

impl RegisterState {
    /// Whether doorbells mean anything: ready, and not on the way into a reset.
    fn takes_doorbells(&self) -> bool {
        self.configuration.enabled() && self.status & READY != 0 && !self.reset_pending
    }

    /// The level of the pin; its vector is 0.
    fn pin(&self) -> bool {
        self.interrupt_status && self.interrupt_mask & 1 == 0
    }

    fn read_u32(&self, offset: u64) -> u32 {
        match offset {
            CAP => CAPABILITIES as u32,
            0x04 => (CAPABILITIES >> 32) as u32,
            VS => VERSION,
            INTMS | INTMC => self.interrupt_mask,
            CC => self.configuration.0,
            CSTS => self.status,
            AQA => self.admin_queue_attributes,
            ASQ => self.admin_submission_queue as u32,
            0x2c => (self.admin_submission_queue >> 32) as u32,
            ACQ => self.admin_completion_queue as u32,
            0x34 => (self.admin_completion_queue >> 32) as u32,
            // Reserved registers, NSSR (section 3.1.7), and doorbells, whose value on a read is vendor specific (section
            // 3.1.24).
            _ => 0,
        }
    }

    /// Returns whether the controller has to look.
    fn write_u32(&mut self, offset: u64, value: u32) -> bool {
        match offset {
            INTMS => self.interrupt_mask |= value,
            INTMC => return self.unmask(value),
            CC => return self.write_configuration(value),
            CSTS => self.status &= !(value & SUBSYSTEM_RESET_OCCURRED),
            NSSR if value == SUBSYSTEM_RESET => return self.reset_subsystem(),
            // Written while enabled, their effect is undefined (sections 3.1.8 to 3.1.10): none.
            AQA | ASQ | 0x2c | ACQ | 0x34 if self.configuration.enabled() => {
                tracing::debug!(offset, "admin queue register written while the controller is enabled");
            }
            AQA => self.admin_queue_attributes = value & aqa::WRITABLE,
            ASQ => set_low(&mut self.admin_submission_queue, value & !0xfff),
            0x2c => set_high(&mut self.admin_submission_queue, value),
            ACQ => set_low(&mut self.admin_completion_queue, value & !0xfff),
            0x34 => set_high(&mut self.admin_completion_queue, value),
            DOORBELLS.. => return self.write_doorbell(offset, value),
            _ => tracing::debug!(offset, value, "read-only or reserved register written"),
        }
        false
    }

    fn unmask(&mut self, vectors: u32) -> bool {
        let unmasked = self.interrupt_mask & vectors;
        self.unmasked |= unmasked;
        self.interrupt_mask &= !vectors;
        // What was known while it was masked may be old: the controller looks at the heads first.
        self.interrupt_status &= unmasked & 1 == 0;
        unmasked != 0
    }

    fn write_configuration(&mut self, value: u32) -> bool {
        let new = Configuration(value & Configuration::WRITABLE);
        if self.configuration.enabled() && !new.enabled() {
            self.reset_pending = true;
            self.forget_tails();
            self.interrupt_mask = 0;
            self.unmasked = 0;
            self.interrupt_status = false;
        }
        if !self.configuration.wants_shutdown() && new.wants_shutdown() {
            self.shutdown_pending = true;
        }
        let changed = new != self.configuration;
        self.configuration = new;
        changed
    }

    /// NVM Subsystem Reset (section 7.3.1): every register is as after power on at once, but for what the controller has
    /// to do first. The PCI function keeps its configuration, so that a host finds it where it was.
    fn reset_subsystem(&mut self) -> bool {
        *self = Self {
            status: self.status,
            reset_pending: true,
            subsystem_reset_pending: true,
            ..Self::default()
        };
        true
    }

    /// A reset of the PCI function (section 7.3.2): every register is as after power on at once. What else the controller
    /// remembers it forgets before it looks at anything that is written from now on.
    fn reset_function(&mut self) {
        *self = Self {
            reset_pending: true,
            ..Self::default()
        };
    }

    fn write_doorbell(&mut self, offset: u64, value: u32) -> bool {
        if !self.takes_doorbells() {
            return false;
        }
        let index = (offset - DOORBELLS) / 4;
        match usize::try_from(index)
            .ok()
            .and_then(|index| self.doorbells.get_mut(index))
        {
            // Bits 31:16 are reserved.
            Some(doorbell) => {
                *doorbell = Some(value as u16);
                // Whether entries are left is seen when the head is taken.
                if is_head(index) {
                    self.interrupt_status = false;
                }
            }
            None => self.stray_doorbell = true,
        }
        self.doorbell_rung = true;
        true
    }

    /// No command is fetched any more. The heads say which completions the host has taken before the reset.
    fn forget_tails(&mut self) {
        self.doorbells.iter_mut().step_by(2).for_each(|tail| *tail = None);
        self.stray_doorbell = false;
    }

    /// CC.
    pub(super) fn configuration(&self) -> Configuration {
        self.configuration
    }

    /// AQA, ASQ and ACQ.
    pub(super) fn admin_queues(&self) -> (u32, u64, u64) {
        (
            self.admin_queue_attributes,
            self.admin_submission_queue,
            self.admin_completion_queue,
        )
    }

    /// Whether a reset was asked for that [has not been done](Self::finish_reset).
    pub(super) fn wants_reset(&self) -> bool {
        self.reset_pending
    }

    /// A reset has been done: what CSTS says then.
    pub(super) fn finish_reset(&mut self) {
        self.reset_pending = false;
        self.status &= SUBSYSTEM_RESET_OCCURRED;
        if std::mem::take(&mut self.subsystem_reset_pending) {
            self.status = SUBSYSTEM_RESET_OCCURRED;
        }
    }

    /// Whether a fault wants the controller to fail; told once.
    pub(super) fn take_fatal(&mut self) -> bool {
        std::mem::take(&mut self.fatal_pending)
    }

    /// Whether CC.SHN asked for a shutdown; told once. It is occurring from now on.
    pub(super) fn take_shutdown(&mut self) -> bool {
        let shutdown = std::mem::take(&mut self.shutdown_pending);
        if shutdown {
            self.set_shutdown_status(SHUTDOWN_OCCURRING);
        }
        shutdown
    }

    /// The shutdown has been done.
    pub(super) fn finish_shutdown(&mut self) {
        self.set_shutdown_status(SHUTDOWN_COMPLETE);
    }

    /// Sets CSTS.RDY.
    pub(super) fn set_ready(&mut self) {
        self.status |= READY;
    }

    /// Sets CSTS.CFS.
    pub(super) fn set_fatal(&mut self) {
        self.status |= FATAL;
    }

    /// Adds the doorbells that were written since the last call, with their last values; says whether one that no
    /// controller of this kind has was among them.
    pub(super) fn take_doorbells(&mut self, written: &mut Vec<(usize, u16)>) -> bool {
        if !std::mem::take(&mut self.doorbell_rung) {
            return false;
        }
        let doorbells = self.doorbells.iter_mut().enumerate();
        written.extend(doorbells.filter_map(|(doorbell, value)| Some((doorbell, value.take()?))));
        std::mem::take(&mut self.stray_doorbell)
    }

    /// Vectors that INTMC has unmasked since the last call.
    pub(super) fn take_unmasked(&mut self) -> u32 {
        std::mem::take(&mut self.unmasked)
    }

    /// Vectors that INTMS masks.
    pub(super) fn masked(&self) -> u32 {
        self.interrupt_mask
    }

    fn set_shutdown_status(&mut self, shutdown: u32) {
        self.status = self.status & !SHUTDOWN_MASK | shutdown;
    }
}

/// Whether a doorbell is that of a completion queue.
fn is_head(doorbell: u64) -> bool {
    doorbell % 2 == 1
}

fn set_low(register: &mut u64, value: u32) {
    *register = *register & !0xffff_ffff | u64::from(value);
}

fn set_high(register: &mut u64, value: u32) {
    *register = *register & 0xffff_ffff | u64::from(value) << 32;
}

/// The registers, shared by the vCPUs and the controller's worker. Locked for moments only.
pub struct RegisterFile {
    state: Mutex<RegisterState>,
    attention: Attention,
    faults: Option<Arc<FaultInjector>>,
    interrupts: Arc<dyn InterruptSink>,
}

impl RegisterFile {
    /// Registers as after power on; writes are subject to `faults`, and set the level of the pin.
    #[must_use]
    pub fn new(faults: Option<Arc<FaultInjector>>, interrupts: Arc<dyn InterruptSink>) -> Self {
        Self {
            state: Mutex::default(),
            attention: Attention::default(),
            faults,
            interrupts,
        }
    }

    /// Answers a read of 1 to 8 bytes at `offset` in BAR 0. Any width and alignment is answered byte by byte.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let state = self.lock();
        for (at, byte) in data.iter_mut().enumerate() {
            let address = offset.wrapping_add(at as u64);
            *byte = state.read_u32(address & !3).to_le_bytes()[(address & 3) as usize];
        }
    }

    /// Takes a write at `offset` in BAR 0: aligned, of 4 bytes, or of 8 bytes for the registers that have 64 bits
    /// (section 3.1). Anything else is dropped. Returns whether the controller has to look: kick its worker.
    #[must_use]
    pub fn write(&self, offset: u64, data: &[u8]) -> bool {
        let faults = self.faults.as_deref();
        let fault = faults.and_then(|faults| faults.register_written(offset));
        if fault == Some(RegisterFault::Drop) {
            return false;
        }
        let mut state = self.lock();
        let look = self.change(&mut state, |state| Self::take(state, offset, data));
        if fault == Some(RegisterFault::Fatal) {
            state.fatal_pending = true;
        }
        look || state.fatal_pending
    }

    /// Makes a change and sets the pin to what follows, under the lock, so that levels arrive in their order.
    fn change<T>(&self, state: &mut RegisterState, change: impl FnOnce(&mut RegisterState) -> T) -> T {
        let before = state.pin();
        let result = change(state);
        let after = state.pin();
        if before != after {
            self.interrupts.set_level(after);
        }
        result
    }

    /// The controller has looked at its completion queues. What it saw is old if the host has written a head doorbell
    /// meanwhile, or resets the controller.
    pub(super) fn set_interrupt_status(&self, state: &mut RegisterState, status: bool) {
        let heads = state.doorbells.iter().skip(1).step_by(2);
        let is_old = state.reset_pending || state.doorbell_rung && heads.flatten().next().is_some();
        self.change(state, |state| state.interrupt_status = status && !is_old);
    }

    fn take(state: &mut RegisterState, offset: u64, data: &[u8]) -> bool {
        if let Ok(data) = <[u8; 4]>::try_from(data) {
            if offset % 4 == 0 {
                return state.write_u32(offset, u32::from_le_bytes(data));
            }
        } else if let Ok(data) = <[u8; 8]>::try_from(data) {
            if offset % 8 == 0 && offset < DEFINED_END {
                let value = u64::from_le_bytes(data);
                let low = state.write_u32(offset, value as u32);
                return state.write_u32(offset + 4, (value >> 32) as u32) || low;
            }
        }
        tracing::debug!(
            offset,
            length = data.len(),
            "register write of an unsupported width or alignment"
        );
        false
    }

    /// The flag that asks a controller at work to return after the command in hand.
    pub(super) fn attention(&self) -> Attention {
        self.attention.clone()
    }

    /// Resets the function. The controller is at rest.
    pub(crate) fn reset_function(&self) {
        self.change(&mut self.lock(), RegisterState::reset_function);
    }

    /// Whether a controller at work has to stop after the command in hand.
    pub(super) fn wants_attention(&self) -> bool {
        self.attention.is_wanted() || self.lock().reset_pending
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, RegisterState> {
        // Nothing that is done under the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
