//! Pictures made of lines of text: which processor waits for which, and in which order locks were taken.

use crate::report::{EndOfRun, Evidence, Finding, LockHolder, ProcessorState, WaitsFor};

/// What a processor waits for, one line a sentence.
pub(crate) fn waits(processor: &ProcessorState) -> Vec<String> {
    let Some(WaitsFor { lock, acquire, holder }) = &processor.waits_for else {
        return Vec::new();
    };
    let since = format!(
        "waits for {lock} since event {}: {} from {}",
        acquire.event, acquire.routine, acquire.caller
    );
    let taken = match holder {
        None => {
            "no acquire of that lock was seen that is not released: who holds it did not take it by a watched routine, \
                 or the port driver holds it"
                .to_owned()
        }
        Some(LockHolder {
            vcpu,
            certain,
            released,
            acquire,
        }) => {
            let took = format!(
                "event {}, vCPU {vcpu}, thread {:#x}, IRQL {}: {} from {}",
                acquire.event, acquire.thread, acquire.irql, acquire.routine, acquire.caller
            );
            match (released, certain) {
                (Some(release), _) => format!(
                    "last taken at {took}; released at event {}, from {}: it was taken since by no watched routine",
                    release.event, release.caller
                ),
                (None, true) => format!("held since {took}"),
                (None, false) => format!("last taken at {took}; whether that came back was not seen"),
            }
        }
    };
    vec![since, taken]
}

/// The circle of processors that wait for each other.
pub(crate) fn deadlock(end: &EndOfRun) -> Vec<String> {
    let Some(&first) = end.deadlock.first() else {
        return Vec::new();
    };
    let waits = |vcpu: u32| {
        let processor = end.processors.iter().find(|processor| processor.vcpu == vcpu);
        processor.and_then(|processor| processor.waits_for.as_ref())
    };
    let mut lines = Vec::new();
    for &vcpu in &end.deadlock {
        let Some(waits) = waits(vcpu) else { continue };
        lines.push(format!("vCPU {vcpu} --waits for--> {}", waits.lock));
        lines.push("                          | held by".to_owned());
        lines.push("                          v".to_owned());
    }
    lines.push(format!("                        vCPU {first}"));
    lines
}

/// The circle of locks that were taken in contradicting orders; none for other violations.
pub(crate) fn order(v: &Finding) -> Vec<String> {
    let steps = v.evidence.iter().filter_map(|evidence| match evidence {
        Evidence::Order {
            held, taken, taken_by, ..
        } => Some((held, taken, taken_by)),
        _ => None,
    });
    let mut lines: Vec<String> = Vec::new();
    for (held, taken, taken_by) in steps {
        if lines.is_empty() {
            lines.push(held.to_string());
        }
        lines.push(format!(
            "  --then--> {taken}   (event {}, {})",
            taken_by.event, taken_by.caller
        ));
    }
    lines
}
