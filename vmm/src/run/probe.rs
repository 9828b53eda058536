//! Tries on a throw-away machine whether a way of stepping over breakpoints works and whether KVM reports INT3: KVM
//! itself does not say.
//!
//! It makes and runs machines like any other user of [`Machine`].
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvm_ioctls::Kvm;

use super::{DebugHandler, Machine, MachineConfig, MachineStop, StoppedCpu};
use crate::boot::{BootRequest, KernelImage};
use crate::debug::{Breakpoint, HitAction, StepOver, StopPoint, StopPointKind};
use crate::run::Error;

/// How often the guest calls the routine under the breakpoint.
const CALLS: u32 = 8;
/// A method that does not get past the breakpoint reports the same hit for ever; give up after this many.
const HIT_LIMIT: u32 = 2 * CALLS;
/// Generous: the guest runs a few dozen instructions.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Where the routine starts in [`GUEST`].
const ROUTINE: u64 = 0x13;
/// Calls the routine eight times, then switches off through the power management port.
const GUEST: [u8; 0x16] = [
    0xb9, 0x08, 0x00, 0x00, 0x00, //       mov ecx, 8
    0xe8, 0x09, 0x00, 0x00, 0x00, // 05:   call routine
    0xff, 0xc9, //                         dec ecx
    0x75, 0xf7, //                         jnz 05
    0xe6, 0x80, //                         out 80h, al
    0xf4, //                               hlt
    0xeb, 0xfd, //                         jmp $-1
    0x53, //                         13:   push rbx
    0x5b, //                               pop rbx
    0xc3, //                               ret
];
/// Port that [`GUEST`] writes to at its end.
const END_PORT: u64 = 0x80;

struct Counter {
    hits: AtomicU32,
}

impl DebugHandler for Counter {
    fn breakpoint(&self, _: &mut StoppedCpu<'_>, _: u32) -> HitAction {
        if self.hits.fetch_add(1, Ordering::Relaxed) + 1 >= HIT_LIMIT {
            HitAction::Stop
        } else {
            HitAction::Resume
        }
    }

    fn caught_return(&self, _: &mut StoppedCpu<'_>, _: u64) -> HitAction {
        HitAction::Resume
    }

    fn msr_write(&self, _: &mut StoppedCpu<'_>, _: u32, _: u64) -> HitAction {
        HitAction::Resume
    }
}

/// Whether `method` works here; the inner error says what happened instead.
pub(crate) fn try_method(kvm: &Kvm, method: StepOver) -> Result<Result<(), String>, Error> {
    let counter = Arc::new(Counter {
        hits: AtomicU32::new(0),
    });
    let config = MachineConfig {
        memory: 16 << 20,
        handler: Some(counter.clone()),
        step_over: Some(method),
        ..MachineConfig::default()
    };
    let mut machine = Machine::new(kvm, config)?;
    machine.end_at_port(END_PORT)?;
    let info = machine.boot(&request()?)?;
    let breakpoint = Breakpoint {
        id: 0,
        address: info.kernel_base + ROUTINE,
    };
    machine.set_breakpoints(&[breakpoint])?;
    let running = machine.start()?;
    let reason = running.wait(Some(TIME_LIMIT));
    let hits = counter.hits.load(Ordering::Relaxed);
    Ok(match reason {
        MachineStop::PowerOff if hits == CALLS => Ok(()),
        MachineStop::Failed(error) => Err(format!("{error}")),
        reason => Err(format!("{hits} hits instead of {CALLS}, then: {reason}")),
    })
}

/// Whether a guest's INT3 comes out of this KVM, and with it a [`StopPointKind::SoftwareBreakpoint`]. Found out once
/// for the process.
pub(crate) fn software_breakpoints_work(kvm: &Kvm) -> Result<bool, Error> {
    static KNOWN: Mutex<Option<bool>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(works) = *known {
        return Ok(works);
    }
    let config = MachineConfig {
        memory: 16 << 20,
        step_over: Some(StepOver::SingleStep),
        ..MachineConfig::default()
    };
    let mut machine = Machine::new(kvm, config)?;
    machine.end_at_port(END_PORT)?;
    machine.assume_software_breakpoints();
    let info = machine.boot(&request()?)?;
    let running = machine.start_paused()?;
    let stop_point = StopPoint {
        kind: StopPointKind::SoftwareBreakpoint,
        address: info.kernel_base + ROUTINE,
        length: 1,
    };
    let set = running.handle().set_stop_points(&[stop_point]);
    running.resume()?;
    let reason = running.wait(Some(TIME_LIMIT));
    let works = set.is_ok() && matches!(reason, MachineStop::StopPoint { stop_point: hit, .. } if hit == stop_point);
    tracing::info!(works, %reason, "tried a breakpoint by int3");
    *known = Some(works);
    Ok(works)
}

/// What starts [`GUEST`].
fn request() -> Result<BootRequest, Error> {
    Ok(BootRequest {
        kernel: KernelImage::from_code("probe", &GUEST)?,
        files: Vec::new(),
        command_line: String::new(),
        seed: 0,
    })
}

/// The best method that works here. Found out once for the process.
pub(crate) fn choose(kvm: &Kvm) -> Result<StepOver, Error> {
    static CHOSEN: Mutex<Option<StepOver>> = Mutex::new(None);
    let mut chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(method) = *chosen {
        return Ok(method);
    }
    let mut tried = Vec::new();
    for method in [StepOver::ResumeFlag, StepOver::EmulateFirst, StepOver::SingleStep] {
        match try_method(kvm, method)? {
            Ok(()) => {
                tracing::info!(%method, rejected = ?tried, "chose how to step over breakpoints");
                *chosen = Some(method);
                return Ok(method);
            }
            Err(reason) => tried.push(format!("{method}: {reason}")),
        }
    }
    Err(Error::StepOver {
        reason: tried.join("; "),
    })
}

/// How one method of stepping over did on a throw-away machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepOverResult {
    /// The method.
    pub method: StepOver,
    /// `Err` says what happened instead.
    pub outcome: Result<(), String>,
}

/// Tries all methods of stepping over, the best first, each on a machine of its own. Takes some milliseconds.
///
/// # Errors
/// [`Error`] if a machine cannot even be made.
pub fn probe_step_over(kvm: &Kvm) -> Result<Vec<StepOverResult>, Error> {
    [StepOver::ResumeFlag, StepOver::EmulateFirst, StepOver::SingleStep]
        .into_iter()
        .map(|method| try_method(kvm, method).map(|outcome| StepOverResult { method, outcome }))
        .collect()
}
