//! A guest reset after which the run goes on.
//!
//! The coordinator thread has stopped everything by then. Each vCPU is put back to its power-on state on its own
//! thread. RAM keeps its content.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use super::{Phase, Shared};
use crate::debug::ResumeAction;
use crate::run::Error;
use crate::run::power_on::{PoweredChips, PoweredCpu};
use crate::run::stop::MachineStop;
use crate::run::vcpu::StoppedCpu;

/// What a reset needs that goes on with the run.
pub(crate) struct Restart {
    /// All vCPUs after power-on.
    pub(crate) cpus: Vec<PoweredCpu>,
    pub(crate) chips: PoweredChips,
    /// MSRs whose writes exit from the start.
    pub(crate) msr_exits: Vec<u32>,
    /// Whether a triple fault is a reset.
    pub(crate) at_triple_fault: bool,
    /// Resets carried out.
    pub(crate) count: AtomicU64,
}

impl Shared {
    /// Takes the machine, in which nothing moves, back to the state after power-on. RAM keeps its content, breakpoints are
    /// gone, stop points stay. Devices are reset on the first vCPU's thread, which may do what that needs.
    pub(super) fn restart(self: &Arc<Self>) {
        let Some(restart) = self.restart.get() else { return };
        let mut control = self.lock();
        control.breakpoints.clear();
        control.epoch += 1;
        control
            .cpus
            .iter_mut()
            .for_each(|cpu| cpu.action = ResumeAction::default());
        drop(control);
        // The first vCPU last: its handler call is to see all others reset.
        for index in (0..self.cpus.len()).rev() {
            let this = Arc::clone(self);
            let (sender, receiver) = mpsc::channel();
            let job = move |cpu: &mut StoppedCpu<'_>| {
                // The receiver waits below.
                let _ = sender.send(this.restart_cpu(cpu));
            };
            let done = self.enqueue(index as u32, Box::new(job)).then(|| receiver.recv());
            if let Some(Ok(Err(error))) = done {
                return self.request(Phase::Paused, Some(MachineStop::Failed(Arc::new(error))));
            }
        }
        restart.count.fetch_add(1, Ordering::Relaxed);
    }

    /// The part of one vCPU, on its thread.
    fn restart_cpu(&self, cpu: &mut StoppedCpu<'_>) -> Result<(), Error> {
        let Some(restart) = self.restart.get() else {
            return Ok(());
        };
        let index = cpu.index();
        if index == 0 {
            self.pio.reset();
            self.mmio.reset();
            restart.chips.restore(&self.vm)?;
        }
        if let Some(powered) = restart.cpus.get(index as usize) {
            cpu.power_on(powered)?;
        }
        if index == 0 {
            if !restart.msr_exits.is_empty() {
                crate::msr::set_filter(&self.vm, &restart.msr_exits)?;
            }
            if let Some(handler) = &self.handler {
                handler.reset(cpu);
            }
        }
        Ok(())
    }
}
