//! The last part of the text report: what was run, the outcome, and what the monitoring cost.

use std::fmt::Write as _;

use super::super::machine;
use super::{coverage, in_flight};
use crate::escape::Escaped;
use crate::outcome;
use crate::report::{DumpInfo, DumpedExport, EndKind, IgnoredHits, Report, StepOver, WatchInfo};

pub(super) fn summary(text: &mut String, report: &Report) {
    line!(*text, "summary");
    outcome_text(text, report);
    run_text(text, report);
    watch_text(text, &report.watch);
    rules_text(text, report);
    calls_text(text, report);
    if let Some(told) = &report.coverage {
        coverage::coverage(text, told);
    }
    cost_text(text, report);
    faults_text(text, report);
    if let Some(told) = &report.in_flight {
        in_flight::in_flight(text, told);
    }
    for export in &report.exports {
        export_text(text, export);
    }
    debug_text(text, report);
    machine_text(text, report);
    checks_text(text, report);
    for note in &report.notes {
        field(text, "note", &note.to_string());
    }
}

fn outcome_text(text: &mut String, report: &Report) {
    let overriding = outcome::overriding(report.outcome, report.exit_code);
    let overriding = overriding.map(|what| format!("; {what}")).unwrap_or_default();
    field(
        text,
        "outcome",
        &format!("{}{overriding} (exit code {})", report.outcome.text(), report.exit_code),
    );
    for condition in &report.conditions {
        field(text, "", &format!("- {}", condition.reason));
    }
}

/// What was run, on which machine, and how it ended.
fn run_text(text: &mut String, report: &Report) {
    let run = &report.run;
    let target = match &report.target {
        Some(m) => format!("{} at {:#x}, {:#x} bytes", m.name, m.base, m.size),
        None => "never loaded by the guest".to_owned(),
    };
    field(text, "target", &target);
    for image in &run.images {
        let digest = image.sha256.get(..16).unwrap_or(&image.sha256);
        let what = format!(
            "{}: {}, {} bytes, sha256 {digest}...",
            image.role.text(),
            image.name,
            image.size
        );
        field(text, "image", &what);
    }
    let how = if run.replayed {
        "replayed".to_owned()
    } else {
        format!("{}.{} s", run.duration_ms / 1000, run.duration_ms % 1000 / 100)
    };
    // An event trace does not tell on what machine it was made.
    let machine = if run.cpus == 0 {
        String::new()
    } else {
        format!("{} vCPUs, {} MiB, seed {}, ", run.cpus, run.memory >> 20, run.seed)
    };
    let end = report.end.kind.text();
    field(text, "run", &format!("{machine}{how}, ended by {end}"));
}

/// Rules that were not held against everybody.
fn rules_text(text: &mut String, report: &Report) {
    for rule in &report.rules {
        if rule.off {
            field(text, "rule off", &rule.name);
        } else if !rule.modules.is_empty() {
            let modules = rule.modules.join(", ");
            field(text, "rule limited", &format!("{} to {modules}", rule.name));
        }
    }
}

fn watch_text(text: &mut String, watch: &WatchInfo) {
    if let Some(reason) = &watch.not_armed {
        field(text, "watched", &format!("nothing: {reason}"));
        return;
    }
    for (i, routine) in watch.routines.iter().enumerate() {
        let label = if i == 0 { "watched" } else { "" };
        let names = [std::slice::from_ref(&routine.routine), &routine.same_address].concat();
        field(
            text,
            label,
            &format!("{} at {:#x}: {}", names.join(", "), routine.address, routine.reason()),
        );
    }
    let ignored = watch.ignored;
    if ignored != IgnoredHits::default() {
        let (user, crashed) = (ignored.user_mode, ignored.after_bug_check);
        field(
            text,
            "ignored",
            &format!("{user} hits in user mode, {crashed} hits after the guest's bug check"),
        );
    }
    for (index, set) in watch.sets.iter().enumerate() {
        let label = if index == 0 { "in turns" } else { "" };
        let (turns, hits) = (set.turns, set.hits);
        let what = format!(
            "{}: had {turns} of the turns, with {hits} hits",
            set.routines.join(", ")
        );
        field(text, label, &what);
    }
    for gap in &watch.gaps {
        field(text, "not watched", &format!("{}: {}", gap.what(), gap.consequence()));
    }
    if watch.step_over != StepOver::NotKnown {
        let returns = if watch.catch_return {
            "returns can be caught"
        } else {
            "returns cannot be caught"
        };
        field(text, "step over", &format!("{}; {returns}", watch.step_over));
    }
}

fn calls_text(text: &mut String, report: &Report) {
    if report.calls.is_empty() {
        field(text, "calls", "none");
    } else {
        field(text, "calls", "by routine and calling module:");
    }
    let width = report
        .calls
        .iter()
        .map(|c| c.routine.to_string().len())
        .max()
        .unwrap_or(0);
    for call in &report.calls {
        line!(
            *text,
            "    {:<width$}  {:<24} {:>10}",
            call.routine.to_string(),
            call.module,
            call.calls
        );
    }
    let locks = &report.locks;
    field(
        text,
        "locks",
        &format!(
            "{} releases matched, {} nested calls, {} releases of locks in unknown state, {} locks remembered, {} records \
             evicted",
            locks.matched, locks.nested, locks.unknown_releases, locks.remembered, locks.evictions
        ),
    );
}

fn cost_text(text: &mut String, report: &Report) {
    let cost = &report.cost;
    field(
        text,
        "cost",
        &format!(
            "{} hits, {:.1} % by the target, {} hits/s; {} KVM_RUN, {} debug exits, {} other exits; {} other system calls for hits; \
             {} queue waits",
            cost.hits,
            cost.target_share() * 100.0,
            cost.hits_per_second,
            cost.kvm_runs,
            cost.debug_exits,
            cost.other_exits,
            cost.hit_requests,
            cost.queue_waits
        ),
    );
    if let Some(time) = cost.handler_ns {
        let [p50, p90, p99] = [time.p50, time.p90, time.p99].map(|ns| format!("{}.{}", ns / 1000, ns % 1000 / 100));
        field(
            text,
            "",
            &format!("a hit took the monitor {p50} µs, {p90} µs (90 %), {p99} µs (99 %)"),
        );
    }
    if let Some(trace) = &report.trace {
        let end = trace
            .error
            .as_ref()
            .map(|e| format!(", ends early after {} lost: {e}", trace.lost))
            .unwrap_or_default();
        field(text, "trace", &format!("{}: {} events{end}", trace.file, trace.events));
    }
    if let Some(dump) = &report.dump {
        dump_text(text, dump);
    }
}

fn dump_text(text: &mut String, dump: &DumpInfo) {
    let (file, event) = (&dump.file, dump.event);
    let what = match &dump.error {
        None => format!(
            "{file}: {} bytes, the machine at event {event} ({})",
            dump.bytes,
            dump.on.text()
        ),
        Some(error) => format!("none of event {event} ({}): {error}", dump.on.text()),
    };
    field(text, "dump", &what);
    for missing in &dump.missing {
        field(text, "", missing);
    }
}

fn faults_text(text: &mut String, report: &Report) {
    for (i, fault) in report.faults.iter().enumerate() {
        let label = if i == 0 { "faults" } else { "" };
        let injected = match fault.injected {
            0 => "never injected".to_owned(),
            1 => "injected once".to_owned(),
            times => format!("injected {times} times"),
        };
        field(
            text,
            label,
            &format!("{}: {injected}, {} matched", fault.spec, fault.matched),
        );
    }
}

/// Lines for a debugger that are shown, the last ones.
const SHOWN_LINES: usize = 40;

fn debug_text(text: &mut String, report: &Report) {
    let Some(log) = &report.debug_print else { return };
    if log.routines.is_empty() {
        let none = "nothing: the watched routines and their returns need all debug registers";
        return field(text, "debug print", none);
    }
    let (lines, kept) = (log.lines.len() as u64 + log.not_kept, log.lines.len());
    let shown = kept.min(SHOWN_LINES);
    let which = if lines == shown as u64 {
        String::new()
    } else {
        format!(", {shown} of {lines} lines; all that were kept are in report.json")
    };
    field(text, "debug print", &format!("by {}{which}:", log.routines.join(", ")));
    for line in log.lines.iter().skip(kept - shown) {
        line!(
            *text,
            "    event {:>8}  vCPU {:<2} {}",
            line.event,
            line.vcpu,
            line.text
        );
    }
}

/// What the machine did not do: shown if the guest did not end by itself, and if the guest was checked.
fn machine_text(text: &mut String, report: &Report) {
    let Some(told) = &report.machine else { return };
    let ended_well = report.end.kind == EndKind::PowerOff && report.end.bug_check.is_none();
    if ended_well && report.guest_checks.is_empty() {
        return;
    }
    field(text, "machine", &machine::verdict(told));
    for detail in machine::details(told) {
        field(text, "", &format!("- {detail}"));
    }
    if ended_well {
        return;
    }
    for (heading, lines) in machine::screens(&told.screen) {
        field(text, "last seen", &heading);
        for line in lines {
            line!(*text, "    {line}");
        }
    }
}

fn checks_text(text: &mut String, report: &Report) {
    for (i, check) in report.guest_checks.iter().enumerate() {
        let label = if i == 0 { "guest check" } else { "" };
        let word = if check.ok { "ok    " } else { "FAILED" };
        field(text, label, &format!("{word} {}: {}", check.name, check.found));
    }
    if report.guest_checks.iter().any(|check| !check.ok) {
        field(
            text,
            "",
            "please report what failed, with report.json, the guest's version and build (winver) and a recording (--record)",
        );
    }
}

/// Hexadecimal digits of exported data that are shown.
const SHOWN_DIGITS: usize = 80;

fn export_text(text: &mut String, export: &DumpedExport) {
    let bytes = |b: &Option<String>| match b {
        None => "-".to_owned(),
        Some(hex) => match hex.get(..SHOWN_DIGITS) {
            Some(head) if hex.len() > SHOWN_DIGITS => format!("{head}... ({} bytes, all in JSON)", hex.len() / 2),
            _ => hex.clone(),
        },
    };
    if let Some(error) = &export.error {
        field(text, "export", &format!("{}: {error}", export.name));
    } else {
        field(
            text,
            "export",
            &format!("{} at arming: {}", export.name, bytes(&export.at_arming)),
        );
        field(
            text,
            "",
            &format!("{} at end:    {}", export.name, bytes(&export.at_end)),
        );
    }
}

pub(super) fn field(text: &mut String, label: &str, value: &str) {
    line!(*text, "  {label:<12} {value}");
}
