//! The formats of a report, tried with the reports of all golden scenes and with one that has everything.

use std::collections::BTreeSet;
use std::path::Path;

use jsonschema::Validator;
use serde_json::Value;

use super::golden::{play, scenes};
use super::*;
use crate::report::{
    BugCheck, Called, Cause, ConditionNote, DebugLine, DebugPrint, DumpInfo, DumpedExport, FaultInfo, Format,
    GuestCheck, ImageInfo, Location, LockRoutine, Note, ProcessorState, Reason, SourceLine, StackEnd, TraceInfo,
    UnknownRelease, WatchGap,
};
use crate::timing::Spread;

/// Text that a guest may choose, which acts on whoever shows it as it is.
const HOSTILE: &str = "</script><img src=x onerror=alert(1)>\"'&]]>\u{1b}[2J\u{202e}\u{0}\u{fffe}{{\n";

fn rendered(report: &Report, format: Format) -> Vec<u8> {
    let mut bytes = Vec::new();
    format.renderer().render(report, &mut bytes).unwrap();
    bytes
}

fn json(report: &Report, format: Format) -> Value {
    serde_json::from_slice(&rendered(report, format)).unwrap()
}

/// The reports of all scenes.
fn reports() -> Vec<(String, Report)> {
    let played = scenes().into_iter().map(|(name, scene)| (name, play(&scene)));
    let mut reports: Vec<_> = played.collect();
    reports.push(("everything".to_owned(), everything()));
    reports
}

/// A report in which no field is empty, and every text is the guest's.
pub(super) fn everything() -> Report {
    let scene = scenes().into_iter().find(|(name, _)| name == "released_twice").unwrap();
    let mut report = play(&scene.1);
    let text = || HOSTILE.to_owned();
    let place = Location {
        address: u64::MAX,
        module: Some(text()),
        offset: Some(u64::from(u32::MAX)),
        symbol: Some((text(), 1)),
        source: Some(SourceLine { file: text(), line: 7 }),
    };
    report.conditions.push(ConditionNote {
        condition: crate::outcome::Condition::GuestFailed,
        reason: Reason::Failure { error: text() },
    });
    report.run.command_line = vec![text()];
    report.run.spec = crate::run::spec::RunSpec::default().to_value();
    report.run.images = vec![ImageInfo {
        role: "driver under test".to_owned(),
        name: text(),
        size: 1,
        sha256: "0".repeat(64),
    }];
    report.end.detail = Some(text());
    report.end.bug_check = Some(BugCheck {
        code: 0xd1,
        parameters: [u64::MAX; 4],
    });
    report.end.processors = vec![ProcessorState {
        vcpu: 0,
        location: place.clone(),
        irql: 2,
        activity: Some(text()),
        stack: vec![place.clone()],
        stack_end: Some(StackEnd::Unreadable { error: text() }),
    }];
    for module in report.modules.iter_mut().chain(&mut report.target) {
        module.name = text();
    }
    report.watch.gaps = vec![WatchGap {
        routine: text(),
        consequence: text(),
    }];
    report.watch.not_armed = Some(text());
    report.locks.unknown = vec![UnknownRelease {
        routine: LockRoutine(storlock_check::contract::Routine::KeReleaseSpinLock),
        caller: place.clone(),
        by_target: true,
        count: 1,
    }];
    report.cost.handler_ns = Some(Spread::default());
    report.trace = Some(TraceInfo {
        error: Some(text()),
        ..TraceInfo::default()
    });
    report.dump = Some(DumpInfo {
        missing: vec![text()],
        error: Some(text()),
        ..DumpInfo::default()
    });
    report.faults = vec![FaultInfo {
        spec: text(),
        ..FaultInfo::default()
    }];
    report.exports = vec![DumpedExport {
        name: text(),
        address: Some(1),
        at_arming: Some("00".to_owned()),
        at_end: Some("00".to_owned()),
        error: Some(text()),
    }];
    report.guest_checks = vec![GuestCheck {
        name: text(),
        ok: false,
        found: text(),
    }];
    report.debug_print = Some(DebugPrint {
        routines: vec![text()],
        lines: vec![DebugLine {
            event: 1,
            vcpu: 0,
            text: text(),
        }],
        not_kept: 1,
    });
    report.notes = vec![Note::Output { text: text() }];
    for violation in &mut report.violations {
        violation.caller = place.clone();
        violation.stack = vec![place.clone()];
        violation.stack_end = Some(StackEnd::Unreadable { error: text() });
        violation.called = Called::TailCall {
            returns_to: place.clone(),
        };
        for entry in &mut violation.history {
            entry.call.caller = place.clone();
        }
    }
    report
}

fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/report.schema.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The schema with nothing allowed that it does not name: what the product writes is to be documented.
fn strict(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(strict);
            if fields.contains_key("properties") {
                fields.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
        }
        Value::Array(list) => list.iter_mut().for_each(strict),
        _ => {}
    }
}

fn complaints(validator: &Validator, value: &Value) -> Vec<String> {
    let errors = validator.iter_errors(value);
    errors
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

#[test]
fn every_report_is_as_the_published_schema_says_and_has_nothing_else() {
    let mut schema = schema();
    jsonschema::meta::validate(&schema).unwrap();
    strict(&mut schema);
    let validator = jsonschema::validator_for(&schema).unwrap();
    for (name, report) in reports() {
        let found = complaints(&validator, &json(&report, Format::Json));
        assert!(found.is_empty(), "{name}: {found:#?}");
    }
    // It says something.
    let mut wrong = json(&everything(), Format::Json);
    wrong["violations"][0]["verdict"] = "maybe".into();
    assert!(!validator.is_valid(&wrong));
}

#[test]
fn the_schema_has_the_words_that_the_product_has() {
    let schema = schema();
    let listed: BTreeSet<&str> = schema["$defs"]["cause"]["enum"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let causes: BTreeSet<&str> = Cause::ALL.iter().map(|cause| cause.name()).collect();
    assert_eq!(listed, causes);
    let shortfalls = &schema["$defs"]["violation"]["properties"]["shortfall"]["items"]["enum"];
    let listed: BTreeSet<&str> = shortfalls
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let all: Vec<String> = crate::report::Shortfall::all()
        .iter_names()
        .map(|(name, _)| name.to_lowercase())
        .collect();
    assert_eq!(listed, all.iter().map(String::as_str).collect());
}

#[test]
fn a_sarif_result_is_found_again_and_tells_where_and_what_before() {
    for (name, report) in reports() {
        let log = json(&report, Format::Sarif);
        let run = &log["runs"][0];
        let results = run["results"].as_array().unwrap();
        assert_eq!(results.len(), report.violations.len(), "{name}");
        for (result, v) in results.iter().zip(&report.violations) {
            let rule = result["ruleIndex"].as_u64().unwrap() as usize;
            assert_eq!(run["tool"]["driver"]["rules"][rule]["id"], result["ruleId"], "{name}");
            assert_eq!(
                result["partialFingerprints"]["storlockSignature/v1"], *v.signature.id,
                "{name}"
            );
            let steps = result["codeFlows"][0]["threadFlows"].as_array().unwrap().iter();
            let steps = steps.flat_map(|flow| flow["locations"].as_array().unwrap());
            let mut order: Vec<_> = steps.map(|step| step["executionOrder"].as_u64().unwrap()).collect();
            order.sort_unstable();
            assert_eq!(order, (1..=order.len() as u64).collect::<Vec<_>>(), "{name}");
            let physical = &result["locations"][0]["physicalLocation"];
            if v.caller.module.is_some() {
                assert_eq!(
                    physical["address"]["relativeAddress"].as_u64(),
                    v.caller.offset,
                    "{name}"
                );
            }
            assert_eq!(
                physical["region"]["startLine"].as_u64(),
                v.caller.source.as_ref().map(|s| s.line.into())
            );
        }
    }
}

/// What the cases of a report in JUnit XML come to, by name: `passed`, `failure`, `error`, `skipped`.
fn cases(report: &Report) -> Vec<(String, String)> {
    let xml = String::from_utf8(rendered(report, Format::Junit)).unwrap();
    let cases = xml.split("<testcase ").skip(1);
    cases
        .map(|case| {
            let name = case.split("name=\"").nth(1).unwrap().split('"').next().unwrap();
            let status = ["failure", "error", "skipped"]
                .into_iter()
                .find(|kind| case.contains(&format!("<{kind}")));
            (name.to_owned(), status.unwrap_or("passed").to_owned())
        })
        .collect()
}

#[test]
fn junit_has_a_case_for_the_run_and_one_for_each_rule() {
    let status = |report: &Report, name: &str| {
        let cases = cases(report);
        assert_eq!(cases.len(), 1 + RuleId::ALL.len());
        cases
            .into_iter()
            .find(|(case, _)| case == name)
            .map(|(_, status)| status)
            .unwrap()
    };
    let of = |name: &str| reports().into_iter().find(|(scene, _)| scene == name).unwrap().1;
    let defect = of("released_twice");
    assert_eq!(status(&defect, "run"), "passed");
    assert_eq!(status(&defect, "SpinLockRelease"), "failure");
    assert_eq!(status(&defect, "DoubleAcquire"), "passed");
    let suspect = of("lock_cleared");
    assert_eq!(status(&suspect, "LockCleared"), "skipped");
    assert_eq!(status(&suspect, "run"), "skipped");
    assert_eq!(
        status(&suspect, "DoubleAcquire"),
        "skipped",
        "an inconclusive run clears no rule"
    );
    let others = of("not_the_target");
    assert_ne!(status(&others, "SpinLockRelease"), "failure", "it is not the driver's");
    let crashed = everything();
    assert_eq!(status(&crashed, "run"), "error");
    assert_eq!(status(&crashed, "SpinLockRelease"), "failure");
    assert_eq!(status(&crashed, "DoubleAcquire"), "skipped");
}

#[test]
fn no_format_gives_a_guests_text_a_meaning() {
    let report = everything();
    for format in Format::ALL {
        let bytes = rendered(&report, *format);
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            !text.contains('\u{1b}') && !text.contains('\u{202e}'),
            "{}",
            format.name()
        );
        // The others are not read as markup.
        let markup = matches!(format, Format::Junit);
        assert!(!(markup && text.contains("<img")), "{}", format.name());
    }
}
