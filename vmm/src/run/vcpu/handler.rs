//! The trait by which a vCPU asks what to do next at a breakpoint, at an awaited return and after a filtered MSR
//! write.
//!
//! It must not know why an address is watched.
#![forbid(unsafe_code)]

use super::StoppedCpu;
use crate::debug::HitAction;

/// Called on the thread of the vCPU that stopped; that vCPU waits for the answer, the others run on.
///
/// A handler may wait for other threads, also for another vCPU's handler call to end, but not for another vCPU to
/// execute guest code, and not for [`crate::run::RunningMachine::pause`].
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
