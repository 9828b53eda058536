//! The report as one page for a browser, which needs nothing else: no network, no other file.
//!
//! All text is in the markup, so the page can be searched, printed and read without scripts. `page.js` filters, and
//! draws the timeline and the graph of lock orders from the data at the page's end. A guest chooses names that are
//! shown here: all text goes through [`text`], all data through [`data`], and the page's policy allows only this script
//! and this style, by their digests.

mod coverage;
mod data;
mod finding;

use std::fmt::Write as _;
use std::io::{self, Write};

use sha2::{Digest, Sha256};

use super::{Renderer, text as plain, words};
use crate::escape;
use crate::outcome::{Condition, Outcome};
use crate::report::timeline::{Clock, LockClass, Timeline};
use crate::report::{Report, word};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// A page for a browser.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Html;

/// Appends to a page. Writing to a `String` cannot fail.
macro_rules! put {
    ($page:expr, $($arg:tt)*) => {{
        let _ = write!($page, $($arg)*);
    }};
}
use put;

impl Renderer for Html {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        let mut page = String::new();
        head(&mut page, report);
        summary(&mut page, report);
        finding::all(&mut page, report);
        timeline(&mut page, report.timeline.as_ref());
        classes(&mut page, report.timeline.as_ref());
        coverage::section(&mut page, report.coverage.as_ref());
        run(&mut page, report);
        put!(page, "</main>\n");
        out.write_all(page.as_bytes())?;
        data::write(report, out)?;
        writeln!(out, "<script>{SCRIPT}</script>\n</body>\n</html>")
    }
}

/// Text that anybody may have chosen, as markup shows it.
fn text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + 16);
    for character in escape::line(text).chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// What a browser is to allow: a script or style of exactly these bytes.
fn digest(source: &str) -> String {
    format!("'sha256-{}'", data::base64(&Sha256::digest(source.as_bytes())))
}

fn target(report: &Report) -> &str {
    report
        .target
        .as_ref()
        .map_or("no driver", |module| module.name.as_str())
}

fn head(page: &mut String, report: &Report) {
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; base-uri 'none'; form-action 'none'",
        digest(SCRIPT),
        digest(STYLE)
    );
    let name = text(target(report));
    put!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{name}: {outcome} - Storlock</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#findings\">To the findings</a>\n\
         <header><h1>{name}</h1><p class=\"outcome {class}\">{outcome}</p>\n\
         <nav aria-label=\"Parts of the report\"><a href=\"#summary\">Summary</a> <a href=\"#findings\">Findings</a> \
         <a href=\"#timeline\">Timeline</a> <a href=\"#order\">Lock order</a> <a href=\"#classes\">Lock classes</a> \
         <a href=\"#coverage\">Coverage</a> <a href=\"#run\">Run</a></nav></header>\n<main>\n",
        outcome = report.outcome.text(),
        class = match report.outcome {
            Outcome::Completed => "good",
            Outcome::Defect => "bad",
            Outcome::NotApplicable | Outcome::Inconclusive => "unsure",
        },
    );
}

fn summary(page: &mut String, report: &Report) {
    put!(
        page,
        "<section id=\"summary\" aria-labelledby=\"h-summary\">\n<h2 id=\"h-summary\">Summary</h2>\n"
    );
    let overriding = crate::outcome::overriding(report.outcome, report.exit_code);
    let overriding = overriding.map(|what| format!("; {what}")).unwrap_or_default();
    put!(
        page,
        "<p>{}{overriding} (exit code {})</p>\n",
        report.outcome.text(),
        report.exit_code
    );
    if !report.conditions.is_empty() {
        put!(page, "<ul>\n");
        for note in &report.conditions {
            let class = match note.condition {
                Condition::Defect | Condition::Infrastructure | Condition::GuestFailed | Condition::Usage => "bad",
                _ => "unsure",
            };
            put!(page, "<li class=\"{class}\">{}</li>\n", text(&note.reason.to_string()));
        }
        put!(page, "</ul>\n");
    }
    put!(
        page,
        "<table class=\"counts\"><caption>Findings by rule</caption>\n<thead><tr><th scope=\"col\">Rule</th>\
                <th scope=\"col\">errors</th><th scope=\"col\">suspect</th><th scope=\"col\">notes</th></tr></thead>\n<tbody>\n"
    );
    for rule in &report.rules {
        let of = report.findings.iter().filter(|v| v.rule.meta().name == rule.name);
        let (mut errors, mut suspects, mut notes) = (0, 0, 0);
        for v in of {
            match words::severity(v) {
                "error" => errors += 1,
                "warning" => suspects += 1,
                _ => notes += 1,
            }
        }
        let cell = |count: u32, class: &str| match count {
            0 => "<td class=\"none\">0</td>".to_owned(),
            count => format!("<td class=\"{class}\">{count}</td>"),
        };
        put!(
            page,
            "<tr><th scope=\"row\" title=\"{}\">{}</th>{}{}{}</tr>\n",
            text(&rule.text),
            text(&rule.name),
            cell(errors, "bad"),
            cell(suspects, "unsure"),
            cell(notes, "")
        );
    }
    put!(page, "</tbody></table>\n</section>\n");
}

fn timeline(page: &mut String, timeline: Option<&Timeline>) {
    put!(
        page,
        "<section id=\"timeline\" aria-labelledby=\"h-timeline\">\n<h2 id=\"h-timeline\">Timeline</h2>\n"
    );
    let Some(timeline) = timeline else {
        put!(
            page,
            "<p>There is no timeline: that takes the event trace of the run, a regular file beside \
                    <code>report.json</code>, or a recording.</p>\n</section>\n"
        );
        return;
    };
    if let Some(cut) = &timeline.cut {
        put!(page, "<p class=\"unsure\">It ends early: {}</p>\n", text(cut));
    }
    if timeline.not_kept > 0 {
        put!(
            page,
            "<p class=\"unsure\">{} more holds are only counted.</p>\n",
            timeline.not_kept
        );
    }
    let unit = match timeline.clock {
        Clock::Nanoseconds => "Time runs as on the host: a hit of a breakpoint is part of it.",
        Clock::Events => "One step is one event: what the timeline was made of has no times.",
    };
    put!(
        page,
        "<p>{} holds of {} locks, {} events. {unit} <span class=\"help\"><kbd>+</kbd> <kbd>-</kbd> zoom, \
         <kbd>&larr;</kbd> <kbd>&rarr;</kbd> move, <kbd>&uarr;</kbd> <kbd>&darr;</kbd> scroll, <kbd>n</kbd> <kbd>p</kbd> findings, \
         <kbd>0</kbd> all; or the wheel, and drag.</span></p>\n\
         <div class=\"controls\"><label>Rows <select id=\"rows\"><option value=\"cpu\">by processor</option>\
         <option value=\"lock\">by lock</option></select></label>\n\
         <button type=\"button\" id=\"zoom-in\">Zoom in</button> <button type=\"button\" id=\"zoom-out\">Zoom out</button> \
         <button type=\"button\" id=\"zoom-all\">All</button> <span id=\"range\"></span></div>\n\
         <canvas id=\"chart\" tabindex=\"0\" role=\"img\" aria-label=\"Which processor held which lock, and when\" \
         aria-describedby=\"told\"></canvas>\n<p id=\"told\" aria-live=\"polite\">&nbsp;</p>\n\
         <noscript><p>The timeline is drawn by a script, and scripts are off.</p></noscript>\n</section>\n",
        timeline.holds.len(),
        timeline.locks.len(),
        timeline.events,
    );
}

/// A time as people read it.
fn duration(clock: Clock, time: u64) -> String {
    let in_unit = |unit: u64, name: &str| {
        let (whole, tenths) = (time / unit, time % unit / (unit / 10));
        format!("{whole}.{tenths} {name}")
    };
    match (clock, time) {
        (Clock::Events, 1) => "1 event".to_owned(),
        (Clock::Events, _) => format!("{time} events"),
        (_, 0..1000) => format!("{time} ns"),
        (_, 1000..1_000_000) => in_unit(1000, "&micro;s"),
        (_, 1_000_000..1_000_000_000) => in_unit(1_000_000, "ms"),
        _ => in_unit(1_000_000_000, "s"),
    }
}

fn classes(page: &mut String, timeline: Option<&Timeline>) {
    put!(
        page,
        "<section id=\"order\" aria-labelledby=\"h-order\">\n<h2 id=\"h-order\">Lock order</h2>\n"
    );
    let Some(timeline) = timeline else {
        put!(
            page,
            "<p>It is made of the timeline.</p>\n</section>\n<section id=\"classes\"><h2>Lock classes</h2>\
                    <p>They are made of the timeline.</p></section>\n"
        );
        return;
    };
    if timeline.order.is_empty() {
        put!(
            page,
            "<p>No lock was taken while another one was held.</p>\n</section>\n"
        );
    } else {
        put!(
            page,
            "<p>An arrow goes from a lock that was held to one that was taken meanwhile. Locks in a circle, in red, may wait \
                    for each other.</p>\n<div id=\"graph\"></div>\n<details><summary>As a table</summary>\n<table><thead><tr>\
                    <th scope=\"col\">Held</th><th scope=\"col\">Taken</th><th scope=\"col\">Times</th>\
                    <th scope=\"col\">First at event</th></tr></thead><tbody>\n"
        );
        for edge in &timeline.order {
            put!(
                page,
                "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n",
                text(&timeline.class_name(edge.held)),
                text(&timeline.class_name(edge.taken)),
                edge.count,
                edge.event
            );
        }
        put!(page, "</tbody></table></details>\n</section>\n");
    }
    put!(
        page,
        "<section id=\"classes\" aria-labelledby=\"h-classes\">\n<h2 id=\"h-classes\">Lock classes</h2>\n\
                <p>Contention and hold times of locks that are first taken at one place, or of one kind of the port driver's.</p>\n\
                <div class=\"wide\"><table class=\"sortable\"><thead><tr><th scope=\"col\">Class</th><th scope=\"col\">Locks</th>\
                <th scope=\"col\">Acquires</th><th scope=\"col\">Contended</th><th scope=\"col\">Waited</th>\
                <th scope=\"col\">Longest wait</th><th scope=\"col\">Held</th><th scope=\"col\">Median hold</th>\
                <th scope=\"col\">99 %</th><th scope=\"col\">Longest hold</th></tr></thead><tbody>\n"
    );
    let mut order: Vec<(usize, &LockClass)> = timeline.classes.iter().enumerate().collect();
    order.sort_by_key(|(_, class)| std::cmp::Reverse((class.contended, class.acquires)));
    for (index, class) in order {
        class_row(page, timeline, index as u32, class);
    }
    put!(page, "</tbody></table></div>\n</section>\n");
}

fn class_row(page: &mut String, timeline: &Timeline, index: u32, class: &LockClass) {
    let time = |value: u64| {
        let shown = duration(timeline.clock, value);
        format!("<td class=\"n\" data-n=\"{value}\">{shown}</td>")
    };
    let count = |value: u64| format!("<td class=\"n\" data-n=\"{value}\">{value}</td>");
    let spread = class.spread.unwrap_or_default();
    put!(
        page,
        "<tr><th scope=\"row\">{}</th>{}{}{}{}{}{}{}{}{}</tr>\n",
        text(&timeline.class_name(index)),
        count(class.locks),
        count(class.acquires),
        count(class.contended),
        time(class.waited),
        time(class.longest_wait),
        time(class.held),
        time(spread.p50.min(class.longest_hold)),
        time(spread.p99.min(class.longest_hold)),
        time(class.longest_hold),
    );
}

/// How the run was, as the report for people has it.
fn run(page: &mut String, report: &Report) {
    put!(
        page,
        "<section id=\"run\" aria-labelledby=\"h-run\">\n<h2 id=\"h-run\">Run</h2>\n<pre>"
    );
    for line in plain::summary(report).lines() {
        put!(page, "{}\n", text(line));
    }
    put!(page, "</pre>\n");
    if !report.run.command_line.is_empty() {
        put!(
            page,
            "<h3>Run again</h3>\n<pre>{}</pre>\n",
            text(&word::shell_words(&report.run.command_line))
        );
    }
    put!(
        page,
        "<p class=\"made\">Storlock {}, {}</p>\n</section>\n",
        text(&report.tool_version),
        text(&report.schema)
    );
}
