//! The findings of the page, each in a part that can be folded.

use std::fmt::Write as _;

use super::{put, text};
use crate::report::render::next_step::next_step;
use crate::report::render::{sarif, text as plain, words};
use crate::report::{Finding, Location, Report};

/// Findings that are shown unfolded at first.
const OPEN: usize = 3;

pub(super) fn all(page: &mut String, report: &Report) {
    put!(
        page,
        "<section id=\"findings\" aria-labelledby=\"h-findings\">\n<h2 id=\"h-findings\">Findings</h2>\n"
    );
    if report.findings.is_empty() {
        put!(page, "<p>None.</p>\n</section>\n");
        return;
    }
    put!(
        page,
        "<div class=\"controls\" role=\"search\"><label>Filter <input id=\"filter\" type=\"search\" \
         placeholder=\"rule, function, file, lock, signature\"></label>\n\
         <label><input type=\"checkbox\" class=\"level\" value=\"error\" checked> errors</label>\n\
         <label><input type=\"checkbox\" class=\"level\" value=\"warning\" checked> suspect</label>\n\
         <label><input type=\"checkbox\" class=\"level\" value=\"note\" checked> notes</label>\n\
         <button type=\"button\" id=\"unfold\">Unfold all</button> <button type=\"button\" id=\"fold\">Fold all</button>\n\
         <span id=\"shown\" aria-live=\"polite\">{}</span> <span class=\"help\"><kbd>j</kbd> <kbd>k</kbd> next and \
         previous, <kbd>/</kbd> filter</span></div>\n",
        match report.findings.len() {
            1 => "1 finding".to_owned(),
            count => format!("{count} findings"),
        }
    );
    for (index, v) in report.findings.iter().enumerate() {
        one(page, index, v);
    }
    put!(page, "</section>\n");
}

fn one(page: &mut String, index: usize, v: &Finding) {
    let level = words::severity(v);
    put!(
        page,
        "<details class=\"finding {level}\" id=\"f{index}\" data-level=\"{level}\"{open}>\n<summary><span class=\"level\">{level}\
         </span> <b>{rule}</b> {cause} <span class=\"at\">{at}</span>{times}</summary>\n",
        open = if index < OPEN { " open" } else { "" },
        rule = text(v.rule.meta().name),
        cause = text(v.cause.text()),
        at = text(&v.caller.to_string()),
        times = match v.count {
            0 | 1 => String::new(),
            count => format!(" <span class=\"times\">&times;{count}</span>"),
        },
    );
    put!(page, "<dl>\n");
    call(page, v);
    judgement(page, v);
    put!(page, "</dl>\n");
    put!(
        page,
        "<button type=\"button\" class=\"show\" data-event=\"{}\">Show on the timeline</button>\n",
        v.call_event
    );
    stack(page, v);
    history(page, v);
    put!(page, "</details>\n");
}

/// The rows on the call: what was called, with what, by whom and where.
fn call(page: &mut String, v: &Finding) {
    row(
        page,
        "call",
        &format!("{}({})", v.routine, words::operands(v).join(", ")),
    );
    if let Some(note) = words::called(&v.called) {
        row(page, "called", &note);
    }
    row(page, "lock", &v.lock.to_string());
    let found = if v.event == v.call_event {
        String::new()
    } else {
        format!(", found at event {}", v.event)
    };
    let place = format!(
        "vCPU {}, thread {:#x}, IRQL {}, event {}{found}",
        v.vcpu,
        v.thread,
        plain::irql_text(v.irql),
        v.call_event
    );
    row(page, "where", &place);
    if let Some(callback) = &v.callback {
        row(page, "callback", callback);
    }
}

/// The rows on the rule: what it demands, the verdict, what that rests on, and what to do next.
fn judgement(page: &mut String, v: &Finding) {
    let (demand, source) = v.rule.text_for(v.routine.0);
    let link =
        sarif::page(source).map(|address| format!(" <a href=\"{}\" rel=\"noreferrer\">page</a>", text(&address)));
    put!(
        page,
        "<dt>rule</dt><dd>{} ({}){}</dd>\n",
        text(&demand),
        text(source),
        link.unwrap_or_default()
    );
    row(page, "verdict", words::verdict(v.verdict, v.concerns_target));
    for sentence in words::evidence(v) {
        row(page, "because", &sentence);
    }
    if let Some(next) = next_step(v) {
        row(page, "next", &next);
    }
    row(page, "signature", &words::signature(&v.signature));
}

fn row(page: &mut String, label: &str, value: &str) {
    put!(page, "<dt>{label}</dt><dd>{}</dd>\n", text(value));
}

fn stack(page: &mut String, v: &Finding) {
    put!(page, "<h4>Call stack, innermost first</h4>\n");
    if v.stack.is_empty() {
        put!(page, "<p>unknown</p>\n");
    } else {
        put!(page, "<ol class=\"stack\" start=\"0\">\n");
        for frame in &v.stack {
            put!(page, "<li>{}</li>\n", place(frame));
        }
        put!(page, "</ol>\n");
    }
    if let Some(end) = &v.stack_end {
        put!(page, "<p>({})</p>\n", text(&end.to_string()));
    }
}

/// A place with its function first, which is what people look for.
fn place(location: &Location) -> String {
    let module = match (&location.module, location.offset) {
        (Some(module), Some(offset)) => format!("{module}+{offset:#x}"),
        _ => format!("{:#x} (in no loaded module)", location.address),
    };
    let function = match &location.symbol {
        Some((name, 0)) => format!("<b>{}</b> ", text(name)),
        Some((name, distance)) => format!("<b>{}</b>+{distance:#x} ", text(name)),
        None => String::new(),
    };
    let source = location
        .source
        .as_ref()
        .map(|source| format!(" <span class=\"source\">{}:{}</span>", text(&source.file), source.line));
    format!(
        "{function}<span class=\"at\">{}</span>{}",
        text(&module),
        source.unwrap_or_default()
    )
}

fn history(page: &mut String, v: &Finding) {
    put!(page, "<h4>What happened to this lock before, latest first</h4>\n");
    if v.history.is_empty() {
        put!(
            page,
            "<p>No earlier call of a watched routine named this very lock.</p>\n"
        );
        return;
    }
    put!(
        page,
        "<div class=\"wide\"><table><thead><tr><th scope=\"col\">Event</th><th scope=\"col\">vCPU</th>\
                <th scope=\"col\">IRQL</th><th scope=\"col\">Call</th><th scope=\"col\">From</th><th scope=\"col\">Thread</th>\
                </tr></thead><tbody>\n"
    );
    for entry in &v.history {
        let call = &entry.call;
        put!(
            page,
            "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><td>{}</td><td>{:#x}</td></tr>\n",
            call.event,
            call.vcpu,
            call.irql,
            text(&words::step(entry)),
            place(&call.caller),
            call.thread
        );
    }
    put!(page, "</tbody></table></div>\n");
    if v.history_evicted > 0 {
        put!(page, "<p>{} older events were not kept.</p>\n", v.history_evicted);
    }
}
