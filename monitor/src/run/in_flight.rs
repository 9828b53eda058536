//! Asks a machine's storage controllers at its end what they owe the guest.
//!
//! Talks to the machine. It must not know what the guest is.

use std::time::Instant;

use storlock_vmm::run::{LocalInterrupts, MachineHandle};
use storlock_vmm::storage::in_flight::{Announced, InFlight as Ledger, KeptBack, Outstanding};

use crate::report::{ControllerInFlight, CutOff, RequestInFlight, RequestWith};

/// What the controllers owe that owe something, or had a reset or the guest end something, of a machine that stands still with so many
/// processors; `started`: when the guest was started.
pub(super) fn look(machine: &MachineHandle, cpus: u32, started: Instant) -> Vec<ControllerInFlight> {
    let local = |cpu| {
        machine
            .inspect(cpu, |stopped| stopped.local_interrupts().ok())
            .flatten()
    };
    let owed = machine.in_flight();
    let needed = owed.iter().any(|ledger| !ledger.snapshot().outstanding.is_empty());
    let locals: Vec<(u32, LocalInterrupts)> = (0..if needed { cpus } else { 0 })
        .filter_map(|cpu| Some((cpu, local(cpu)?)))
        .collect();
    let all = owed.into_iter().map(|ledger| {
        let snapshot = ledger.snapshot();
        // Where interrupts are now says nothing of a time before.
        let requests = |list: &[Outstanding], locals: &[(u32, LocalInterrupts)]| {
            let told = list.iter().map(|one| request(&ledger, one, started, locals));
            told.collect::<Vec<_>>()
        };
        ControllerInFlight {
            controller: ledger.controller().to_owned(),
            outstanding: requests(&snapshot.outstanding, &locals),
            reset: snapshot.cut_off.map(|(at, cut_off)| CutOff {
                at_ms: since(started, at),
                outstanding: requests(&cut_off, &[]),
            }),
            not_kept: snapshot.not_kept,
            given_up: requests(&snapshot.given_up, &[]),
        }
    });
    all.filter(|one| !one.outstanding.is_empty() || one.reset.is_some() || !one.given_up.is_empty())
        .collect()
}

fn since(started: Instant, at: Instant) -> u64 {
    at.saturating_duration_since(started).as_millis() as u64
}

fn request(ledger: &Ledger, one: &Outstanding, started: Instant, locals: &[(u32, LocalInterrupts)]) -> RequestInFlight {
    let (vcpu, with) = with(one, locals);
    let message = one.announced.and_then(|(_, by)| match by {
        Announced::Message(message) => Some(message),
        Announced::Pin => None,
    });
    RequestInFlight {
        queue: one.id.queue,
        id: one.id.id,
        command: ledger.command(one.asked.command),
        disk: one.asked.disk,
        lba: one.asked.blocks.map(|(first, _)| first),
        blocks: one.asked.blocks.map(|(_, count)| count),
        fetched_ms: since(started, one.fetched),
        posted_ms: one.posted.map(|at| since(started, at)),
        interrupt_ms: one.announced.map(|(at, _)| since(started, at)),
        message,
        vcpu,
        given_up_ms: one.given_up.map(|at| since(started, at)),
        with,
    }
}

/// Who has a request, and the processor at whose local APIC its interrupt is.
fn with(one: &Outstanding, locals: &[(u32, LocalInterrupts)]) -> (Option<u32>, RequestWith) {
    let at = |is_there: fn(&LocalInterrupts, u8) -> bool| {
        let vector = one.processor_vector?;
        let mut found = locals.iter().filter(|(_, local)| is_there(local, vector));
        found.next().map(|(cpu, _)| *cpu)
    };
    let with = match (one.posted, one.announced, one.kept_back) {
        (Some(_), Some(_), _) => {
            if let Some(cpu) = at(LocalInterrupts::is_requested) {
                return (Some(cpu), RequestWith::InterruptPending);
            }
            if let Some(cpu) = at(LocalInterrupts::is_in_service) {
                return (Some(cpu), RequestWith::InterruptInService);
            }
            RequestWith::NotTaken
        }
        (Some(_), None, _) if one.due.is_some() => RequestWith::InterruptMasked,
        (Some(_), None, _) => RequestWith::NoInterrupt,
        (None, _, Some(KeptBack::Dropped)) => RequestWith::DroppedByFault,
        (None, _, Some(KeptBack::Delayed)) => RequestWith::DelayedByFault,
        (None, _, Some(KeptBack::Fatal)) => RequestWith::FatalError,
        (None, _, None) => RequestWith::Controller,
    };
    (None, with)
}
