//! The report as text, for people. What a storage driver engineer asks first comes first.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::next_step::next_step;
use super::{Renderer, machine, picture, words};
use crate::escape::Escaped;
use crate::outcome;
use crate::report::{
    DumpInfo, DumpedExport, EndKind, EndOfRun, HistoryEntry, IgnoredHits, Location, Report, StackEnd, StepOver,
    Violation, WatchInfo,
};

/// Appends one line, and only one: a guest chooses some of what is in it. Writing to a `String` cannot fail, so the
/// result carries nothing.
macro_rules! line {
    ($text:expr) => { $text.push('\n') };
    ($text:expr, $($arg:tt)*) => {{
        let text: &mut String = &mut $text;
        let _ = write!(Escaped(text), $($arg)*);
        text.push('\n');
    }};
}

/// The report for people.
#[derive(Debug, Clone, Copy)]
pub struct Text;

impl Renderer for Text {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(render(report).as_bytes())
    }
}

/// The report as text.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    let again = shell_words(&report.run.command_line);
    for violation in &report.violations {
        violation_text(&mut text, violation, report.run.seed, &again);
    }
    end_text(&mut text, &report.end);
    summary_text(&mut text, report);
    text
}

/// One violation as the report has it, but for how to repeat the run.
#[must_use]
pub fn violation(violation: &Violation) -> String {
    let mut text = String::new();
    violation_text(&mut text, violation, 0, "");
    text
}

/// A call stack, one line a frame.
#[must_use]
pub fn stack(frames: &[Location], end: Option<&StackEnd>) -> String {
    let mut text = String::new();
    stack_text(&mut text, frames);
    if let Some(end) = end {
        line!(text, "          ({end})");
    }
    text
}

/// The last events of a lock.
#[must_use]
pub fn history(entries: &[HistoryEntry]) -> String {
    let mut text = String::new();
    history_text(&mut text, entries);
    text
}

fn violation_text(text: &mut String, v: &Violation, seed: u64, again: &str) {
    let rule = v.rule.meta();
    line!(*text, "{}[{}]: {}", words::severity(v), rule.name, v.cause.text());
    line!(*text, "  --> {}", v.caller);
    if let Some(note) = words::called(&v.called) {
        line!(*text, "      {note}");
    }
    line!(*text, "   |");
    line!(*text, "   | call     {}({})", v.routine, words::operands(v).join(", "));
    line!(*text, "   | lock     {}", v.lock);
    line!(
        *text,
        "   | where    vCPU {}, thread {:#x}, IRQL {}, event {}",
        v.vcpu,
        v.thread,
        irql_text(v.irql),
        v.call_event
    );
    if let Some(callback) = &v.callback {
        line!(*text, "   | callback {callback}");
    }
    if v.event != v.call_event {
        line!(*text, "   | found    at event {}", v.event);
    }
    line!(*text, "   |");
    let (demand, page) = v.rule.text_for(v.routine.0);
    wrapped(text, "rule", &format!("{demand} ({page})"));
    wrapped(text, "verdict", words::verdict(v.verdict, v.concerns_target));
    for evidence in words::evidence(v) {
        wrapped(text, "because", &evidence);
    }
    picture_text(text, "order of the locks", &picture::order(v));
    if let Some(next) = next_step(v) {
        wrapped(text, "next", &next);
    }
    line!(*text, "   = call stack, innermost first:");
    stack_text(text, &v.stack);
    if let Some(end) = &v.stack_end {
        line!(*text, "          ({end})");
    }
    history_text(text, &v.history);
    wrapped(text, "signature", &words::signature(&v.signature));
    if v.count > 1 {
        line!(*text, "   = seen {} times in this run; the first is shown", v.count);
    }
    if !again.is_empty() {
        line!(*text, "   = run again with seed {seed}: {again}");
    }
    line!(*text);
}

fn stack_text(text: &mut String, stack: &[Location]) {
    if stack.is_empty() {
        line!(*text, "       (unknown)");
    }
    for (number, frame) in stack.iter().enumerate() {
        line!(*text, "       {number:>2}  {frame}");
    }
}

fn history_text(text: &mut String, history: &[HistoryEntry]) {
    if history.is_empty() {
        line!(*text, "   = no earlier call of a watched routine named this very lock");
        return;
    }
    line!(*text, "   = what happened to this lock before, latest first:");
    for entry in history {
        line!(
            *text,
            "       event {:>8}  vCPU {:<2} IRQL {:<2} {}",
            entry.call.event,
            entry.call.vcpu,
            entry.call.irql,
            words::step(entry)
        );
        line!(
            *text,
            "                       from {}, thread {:#x}",
            entry.call.caller,
            entry.call.thread
        );
    }
}

fn end_text(text: &mut String, end: &EndOfRun) {
    let Some(detail) = &end.detail else { return };
    if end.kind == EndKind::PowerOff {
        return;
    }
    line!(*text, "guest: {}: {detail}", end.kind.text());
    if let Some(bug_check) = end.bug_check {
        let [a, b, c, d] = bug_check.parameters;
        line!(
            *text,
            "   = bug check {:#x} ({a:#x}, {b:#x}, {c:#x}, {d:#x})",
            bug_check.code
        );
    }
    for cpu in &end.processors {
        let activity = cpu.activity.as_ref().map(|a| format!(": {a}")).unwrap_or_default();
        line!(
            *text,
            "   = vCPU {} at {}, IRQL {}{activity}",
            cpu.vcpu,
            cpu.location,
            irql_text(cpu.irql)
        );
        for sentence in picture::waits(cpu) {
            wrapped(text, "lock", &sentence);
        }
        stack_text(text, &cpu.stack);
    }
    picture_text(text, "deadlock", &picture::deadlock(end));
    line!(*text);
}

fn picture_text(text: &mut String, label: &str, lines: &[String]) {
    if !lines.is_empty() {
        line!(*text, "   = {label}:");
    }
    for line in lines {
        line!(*text, "       {line}");
    }
}

/// How the run was and what it came to.
#[must_use]
pub(crate) fn summary(report: &Report) -> String {
    let mut text = String::new();
    end_text(&mut text, &report.end);
    summary_text(&mut text, report);
    text
}

fn summary_text(text: &mut String, report: &Report) {
    line!(*text, "summary");
    outcome_text(text, report);
    run_text(text, report);
    watch_text(text, &report.watch);
    rules_text(text, report);
    calls_text(text, report);
    cost_text(text, report);
    faults_text(text, report);
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
            image.role, image.name, image.size
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
            &format!("{} at {:#x}: {}", names.join(", "), routine.address, routine.reason),
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
        field(text, "not watched", &format!("{}: {}", gap.routine, gap.consequence));
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
        None => format!("{file}: {} bytes, the machine at event {event}", dump.bytes),
        Some(error) => format!("none of event {event}: {error}"),
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

/// The machine's side is told where the guest did not end by itself, and where the guest is being checked.
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

/// An IRQL with its Windows name, where it has one.
pub(crate) fn irql_text(irql: u8) -> String {
    match irql {
        0 => "0 (PASSIVE_LEVEL)".to_owned(),
        1 => "1 (APC_LEVEL)".to_owned(),
        2 => "2 (DISPATCH_LEVEL)".to_owned(),
        15 => "15 (HIGH_LEVEL)".to_owned(),
        other => other.to_string(),
    }
}

fn field(text: &mut String, label: &str, value: &str) {
    line!(*text, "  {label:<12} {value}");
}

/// A labelled paragraph, wrapped at 110 columns.
fn wrapped(text: &mut String, label: &str, value: &str) {
    let indent = 3 + 2 + label.len() + 2;
    let mut current = format!("   = {label}: ");
    let mut empty = true;
    for word in value.split_whitespace() {
        if !empty && current.len() + 1 + word.len() > 110 {
            line!(*text, "{}", current.trim_end());
            current = " ".repeat(indent);
            empty = true;
        }
        if !empty {
            current.push(' ');
        }
        current.push_str(word);
        empty = false;
    }
    line!(*text, "{}", current.trim_end());
}

/// A command line that a shell reads back as the same arguments.
#[must_use]
pub(crate) fn shell_words(arguments: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    let quoted: Vec<String> = arguments
        .iter()
        .map(|a| {
            if !a.is_empty() && a.chars().all(plain) {
                a.clone()
            } else {
                format!("'{}'", a.replace('\'', "'\\''"))
            }
        })
        .collect();
    quoted.join(" ")
}
