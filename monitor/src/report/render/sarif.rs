//! The report as SARIF 2.1.0 (OASIS, "Static Analysis Results Interchange Format"), for code scanning.
//!
//! The place of a finding is a line of source if that is known, else an offset in its module. It is never an address,
//! which would differ from run to run and may have more bits than a reader's integers. The lock's history is a code
//! flow.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::{Renderer, json as json_format, words};
use crate::escape;
use crate::outcome::Condition;
use crate::report::{Finding, HistoryEntry, ImageRole, Location, Report, Rule, Step, Verdict, word};

/// The schema's name; it is not fetched by anybody who only reads the file.
const SCHEMA: &str = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";
/// Where Microsoft's driver documentation has the pages that rules come from.
const PAGES: &str = "https://learn.microsoft.com/en-us/windows-hardware/drivers/";
/// What relative source paths are relative to.
const SOURCE_ROOT: &str = "SRCROOT";

/// SARIF 2.1.0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sarif;

impl Renderer for Sarif {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        json_format::pretty(&log(report), out)
    }
}

fn log(report: &Report) -> Value {
    let rules: Vec<_> = report.rules.iter().map(rule).collect();
    let results: Vec<_> = report.findings.iter().map(|v| result(report, v)).collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "Storlock",
                "version": report.tool_version,
                "rules": rules,
            }},
            "invocations": [invocation(report)],
            "artifacts": artifacts(report),
            "originalUriBaseIds": { SOURCE_ROOT: { "description": {
                "text": "The directory that the paths in the driver's debugging information are relative to."
            }}},
            "columnKind": "unicodeCodePoints",
            "results": results,
            "properties": {
                "outcome": report.outcome.text(),
                "seed": report.run.seed.to_string(),
                "target": report.target.as_ref().map(|module| &module.name),
            },
        }],
    })
}

fn rule(rule: &Rule) -> Value {
    let anchor = rule.name.to_lowercase();
    let mut value = json!({
        "id": rule.name,
        "shortDescription": { "text": rule.text },
        "fullDescription": { "text": rule.text },
        "help": {
            "text": format!("{} Source: {}. See docs/rules.md#{anchor}.", rule.text, rule.source),
            "markdown": format!("{}\n\nSource: {}. See [docs/rules.md](docs/rules.md#{anchor}).", rule.text, rule.source),
        },
        "defaultConfiguration": { "level": default_level(rule) },
        "properties": {
            "number": rule.number,
            "precision": "very-high",
            "problem.severity": default_level(rule),
            "tags": ["correctness", "concurrency", "windows-driver"],
        },
    });
    if let (Some(page), Some(fields)) = (page(&rule.source), value.as_object_mut()) {
        fields.insert("helpUri".to_owned(), page.into());
    }
    value
}

/// How loud the rule can be about the driver under test.
fn default_level(rule: &Rule) -> &'static str {
    let id = super::super::RuleId::ALL.iter().find(|id| id.meta().name == rule.name);
    match id {
        Some(id) if id.meta().verdicts.contains(&Verdict::Semantic) => "error",
        _ => "warning",
    }
}

/// The address of the first page that a rule names.
pub(super) fn page(source: &str) -> Option<String> {
    let page = source.split([';', ',', ' ']).next()?;
    let (section, name) = page.split_once('/')?;
    let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !plain(section) || !plain(name) {
        return None;
    }
    let folder = if section == "devtest" { "" } else { "ddi/" };
    Some(format!("{PAGES}{folder}{section}/{name}"))
}

fn invocation(report: &Report) -> Value {
    let failed = [Condition::Infrastructure, Condition::Usage, Condition::Interrupted];
    let successful = !report.conditions.iter().any(|note| failed.contains(&note.condition));
    let told = report
        .conditions
        .iter()
        .filter(|note| note.condition != Condition::Defect);
    let notifications: Vec<_> = told
        .map(|note| {
            let level = match note.condition {
                Condition::Infrastructure | Condition::GuestFailed | Condition::Usage => "error",
                Condition::Inconclusive | Condition::Interrupted => "warning",
                Condition::NotApplicable | Condition::Defect => "note",
            };
            json!({ "level": level, "message": message(&note.reason.to_string()) })
        })
        .chain(
            report
                .notes
                .iter()
                .map(|note| json!({ "level": "note", "message": message(&note.to_string()) })),
        )
        .collect();
    json!({
        "executionSuccessful": successful,
        "exitCode": report.exit_code,
        "exitCodeDescription": report.outcome.text(),
        "commandLine": word::shell_words(&report.run.command_line),
        "toolExecutionNotifications": notifications,
    })
}

fn artifacts(report: &Report) -> Vec<Value> {
    let images = report.run.images.iter();
    let artifact = |image: &crate::report::ImageInfo| {
        let mut value = json!({
            "location": { "uri": uri_path(&image.name) },
            "description": message(image.role.text()),
            "length": image.size,
            "hashes": { "sha-256": image.sha256 },
        });
        if image.role == ImageRole::Target {
            value["roles"] = json!(["analysisTarget"]);
        }
        value
    };
    images.map(artifact).collect()
}

fn result(report: &Report, v: &Finding) -> Value {
    let name = v.rule.meta().name;
    let evidence = words::evidence(v);
    let mut message_text = format!("{}: {} by {}", v.cause.text(), v.routine, v.caller);
    for sentence in &evidence {
        let _ = write!(message_text, "; {sentence}");
    }
    let mut value = json!({
        "ruleId": name,
        "kind": "fail",
        "level": words::severity(v),
        "message": message(&message_text),
        "locations": [location(&v.caller)],
        "partialFingerprints": {
            "storlockSignature/v1": v.signature.id,
            // The one that code scanning services go by.
            "primaryLocationLineHash": format!("{}:1", v.signature.id),
        },
        "occurrenceCount": v.count.max(1),
        "codeFlows": [code_flow(v)],
        "properties": {
            "verdict": v.verdict,
            "cause": v.cause.name(),
            "concernsTarget": v.concerns_target,
            "lock": v.lock.to_string(),
            "operands": words::operands(v),
            "vcpu": v.vcpu,
            "irql": v.irql,
            "event": v.call_event,
            "evidence": evidence,
        },
    });
    if let Some(index) = report.rules.iter().position(|rule| rule.name == name) {
        value["ruleIndex"] = index.into();
    }
    if !v.stack.is_empty() {
        let frames: Vec<_> = v
            .stack
            .iter()
            .map(|frame| json!({ "location": location(frame) }))
            .collect();
        let note = v.stack_end.as_ref().map(|end| format!(" ({end})")).unwrap_or_default();
        value["stacks"] =
            json!([{ "message": message(&format!("call stack, innermost first{note}")), "frames": frames }]);
    }
    value
}

/// The lock's history and then the call, with a thread flow for each thread that took part.
fn code_flow(v: &Finding) -> Value {
    let history = v.history.iter().rev().filter(|entry| entry.call.event != v.call_event);
    let mut steps: Vec<(u64, Value)> = history
        .enumerate()
        .map(|(order, entry)| (entry.call.thread, past(order, entry)))
        .collect();
    let mut found = location(&v.caller);
    found["message"] = message(&format!(
        "{}: {}, IRQL {}, vCPU {}",
        v.routine,
        v.cause.text(),
        v.irql,
        v.vcpu
    ));
    steps.push((
        v.thread,
        step(steps.len(), &["call", "lock"], &found, v.call_event, "essential"),
    ));
    let mut threads: Vec<u64> = Vec::new();
    for (thread, _) in &steps {
        if !threads.contains(thread) {
            threads.push(*thread);
        }
    }
    let flow = |thread: &u64| {
        let own = steps.iter().filter(|(of, _)| of == thread);
        json!({ "id": format!("thread {thread:#x}"), "locations": own.map(|(_, step)| step.clone()).collect::<Vec<_>>() })
    };
    json!({
        "message": message(&format!("what happened to {}", v.lock)),
        "threadFlows": threads.iter().map(flow).collect::<Vec<_>>(),
    })
}

fn past(order: usize, entry: &HistoryEntry) -> Value {
    let kinds: &[&str] = match entry.step {
        Step::Acquired => &["acquire", "lock"],
        Step::Released => &["release", "lock"],
        _ => &["call", "lock"],
    };
    let call = &entry.call;
    let mut place = location(&call.caller);
    place["message"] = message(&format!(
        "{}, IRQL {}, vCPU {}",
        words::step(entry),
        call.irql,
        call.vcpu
    ));
    step(order, kinds, &place, call.event, "important")
}

fn step(order: usize, kinds: &[&str], location: &Value, event: u64, importance: &str) -> Value {
    json!({
        "executionOrder": order + 1,
        "kinds": kinds,
        "importance": importance,
        "location": location,
        "properties": { "event": event },
    })
}

/// Text that a guest chose some of.
fn message(text: &str) -> Value {
    json!({ "text": escape::line(text) })
}

/// A place in code: by file and line where that is known, and always by module and offset.
fn location(location: &Location) -> Value {
    let mut physical = Map::new();
    if let Some(source) = &location.source {
        physical.insert("artifactLocation".to_owned(), source_file(&source.file));
        physical.insert("region".to_owned(), json!({ "startLine": source.line.max(1) }));
    } else if let Some(module) = &location.module {
        physical.insert("artifactLocation".to_owned(), json!({ "uri": uri_path(module) }));
    }
    let full = escape::line(&location.to_string()).into_owned();
    let mut address = json!({ "kind": "instruction", "fullyQualifiedName": full });
    if let (Some(_), Some(offset)) = (&location.module, location.offset) {
        address["relativeAddress"] = offset.into();
    }
    physical.insert("address".to_owned(), address);
    let mut value = json!({ "physicalLocation": physical });
    let logical = match (&location.module, &location.symbol) {
        (Some(module), Some((symbol, _))) => json!({
            "name": escape::line(symbol),
            "fullyQualifiedName": escape::line(&format!("{module}!{symbol}")),
            "kind": "function",
        }),
        (Some(module), None) => json!({ "name": escape::line(module), "kind": "module" }),
        (None, _) => return value,
    };
    value["logicalLocations"] = json!([logical]);
    value
}

/// A source file as debugging information names it: a path of Windows or of others, absolute or not.
fn source_file(path: &str) -> Value {
    let path = path.replace('\\', "/");
    let drive = path.get(1..2) == Some(":") && path.starts_with(|c: char| c.is_ascii_alphabetic());
    if let Some(share) = path.strip_prefix("//") {
        json!({ "uri": format!("file://{}", uri_path(share)) })
    } else if drive {
        json!({ "uri": format!("file:///{}:{}", &path[..1], uri_path(&path[2..])) })
    } else if path.starts_with('/') {
        json!({ "uri": format!("file://{}", uri_path(&path)) })
    } else {
        let path = path.strip_prefix("./").unwrap_or(&path);
        json!({ "uri": uri_path(path), "uriBaseId": SOURCE_ROOT })
    }
}

/// A path as part of a URI: what has a meaning there, or is not in ASCII, is written as %XX (RFC 3986).
fn uri_path(path: &str) -> String {
    let mut uri = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/+@".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_files_are_named_by_uris() {
        for (path, uri) in [
            (r"C:\src\my driver\a.c", "file:///C:/src/my%20driver/a.c"),
            (r"\\server\share\a.c", "file://server/share/a.c"),
            ("/build/a#1.c", "file:///build/a%231.c"),
            ("./miniports/ä.c", "miniports/%C3%A4.c"),
        ] {
            assert_eq!(source_file(path)["uri"], uri, "{path}");
        }
        assert_eq!(source_file("a/b.c")["uriBaseId"], SOURCE_ROOT);
        assert!(source_file("/b.c").get("uriBaseId").is_none());
        // A name of the guest's is no scheme and no host.
        assert_eq!(uri_path("http://x.sys?#"), "http%3A//x.sys%3F%23");
    }

    #[test]
    fn every_rule_has_a_page_of_the_driver_documentation() {
        for rule in Rule::all(&crate::report::RuleSettings::default()) {
            let page = page(&rule.source).unwrap_or_default();
            assert!(
                page.starts_with(PAGES) && !page.contains([' ', ';', '(']),
                "{}: {page}",
                rule.name
            );
        }
        assert_eq!(page("wdm/nf-wdm-x; y").unwrap(), format!("{PAGES}ddi/wdm/nf-wdm-x"));
        assert_eq!(page("devtest/a-b, c").unwrap(), format!("{PAGES}devtest/a-b"));
        assert_eq!(page("the page of each routine"), None);
    }
}
