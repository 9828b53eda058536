//! The report as text, for people. It answers a storage driver engineer's first questions first.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::next_step::next_step;
use super::{Renderer, picture, words};
use crate::escape::Escaped;
use crate::report::{EndKind, EndOfRun, Finding, HistoryEntry, Location, Report, StackEnd, word};

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

pub(super) mod coverage;
mod in_flight;
mod summary;

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
    let again = word::shell_words(&report.run.command_line);
    for finding in &report.findings {
        finding_text(&mut text, finding, report.run.seed, &again);
    }
    end_text(&mut text, &report.end);
    summary::summary(&mut text, report);
    text
}

/// One finding as the report has it, but for how to repeat the run.
#[must_use]
pub fn finding(finding: &Finding) -> String {
    let mut text = String::new();
    finding_text(&mut text, finding, 0, "");
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

fn finding_text(text: &mut String, v: &Finding, seed: u64, again: &str) {
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
    summary::summary(&mut text, report);
    text
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
