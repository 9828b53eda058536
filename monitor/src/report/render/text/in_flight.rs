//! Who lost a request: what the controllers owed the guest at its end.

use std::fmt::Write as _;

use super::summary::field;
use crate::escape::Escaped;
use crate::report::{ControllerInFlight, InFlight, RequestInFlight};

/// Requests of one controller that are shown. All are in the JSON.
const SHOWN: usize = 20;

pub(super) fn in_flight(text: &mut String, told: &InFlight) {
    for controller in &told.controllers {
        one(text, controller);
    }
    for held in &told.held {
        let acquire = &held.acquire;
        let what = format!(
            "{} at the end: {} on vCPU {}, event {}, from {}",
            held.lock, acquire.routine, acquire.vcpu, acquire.event, acquire.caller
        );
        field(text, "lock held", &what);
    }
}

fn one(text: &mut String, told: &ControllerInFlight) {
    let count = told.outstanding.len() as u64 + told.not_kept;
    if count > 0 {
        let what = format!("{} at {} that did not come back:", counted(count), told.controller);
        field(text, "outstanding", &what);
        requests(text, &told.outstanding);
    }
    if !told.given_up.is_empty() {
        let count = counted(told.given_up.len() as u64);
        let what = format!(
            "{count} at {} that the guest ended by task management:",
            told.controller
        );
        field(text, "given up", &what);
        requests(text, &told.given_up);
    }
    if let Some(reset) = &told.reset {
        let what = format!(
            "{}, at {}: the last reset that cut off requests, {}:",
            told.controller,
            seconds(reset.at_ms),
            reset.outstanding.len()
        );
        field(text, "reset", &what);
        requests(text, &reset.outstanding);
    }
}

fn counted(count: u64) -> String {
    if count == 1 {
        "1 request".to_owned()
    } else {
        format!("{count} requests")
    }
}

fn requests(text: &mut String, list: &[RequestInFlight]) {
    for request in list.iter().take(SHOWN) {
        line!(*text, "    {}", name(request));
        line!(*text, "        {}", steps(request));
    }
    if list.len() > SHOWN {
        line!(*text, "    and {} more; report.json has all", list.len() - SHOWN);
    }
}

/// What a request is.
fn name(request: &RequestInFlight) -> String {
    let mut name = format!("{} (queue {}, id {:#x}", request.command, request.queue, request.id);
    if let Some(disk) = request.disk {
        let _ = write!(name, ", disk {disk}");
    }
    if let (Some(lba), Some(blocks)) = (request.lba, request.blocks) {
        let _ = write!(name, ", {blocks} blocks from LBA {lba:#x}");
    }
    name.push(')');
    name
}

/// How far it has come, and who has it.
fn steps(request: &RequestInFlight) -> String {
    let mut steps = format!("fetched at {}", seconds(request.fetched_ms));
    if let Some(posted) = request.posted_ms {
        let _ = write!(steps, ", completion posted at {}", seconds(posted));
    }
    if let Some(sent) = request.interrupt_ms {
        let by = match request.message {
            Some(message) => format!("message {message}"),
            None => "the pin".to_owned(),
        };
        let _ = write!(steps, ", interrupt by {by} at {}", seconds(sent));
    }
    if let Some(vcpu) = request.vcpu {
        let _ = write!(steps, ", to vCPU {vcpu}");
    }
    if let Some(given_up) = request.given_up_ms {
        let _ = write!(steps, ", given up by the guest at {}", seconds(given_up));
    }
    format!("{steps}: {}", request.with.text())
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}
