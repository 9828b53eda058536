//! The formats of a report, tried with the reports of all golden scenes and with one that has everything.

use std::collections::BTreeSet;
use std::path::Path;

use jsonschema::Validator;
use serde_json::Value;

use super::golden::{play, scenes};
use super::*;
use crate::report::conformance::{
    AccessCount, CommandCount, Conformance, Display, MsrAnswer, MsrCount, Screen, Space, TablePorts,
};
use crate::report::timeline::{Clock, Hold, LockClass, Mark, OrderEdge, TimedLock, Timeline};
use crate::report::{
    BugCheck, CallPath, Called, Cause, Choice, ConditionNote, ControllerInFlight, Coverage, CoverageTotals,
    CoveredSite, CutOff, DebugLine, DebugPrint, DumpInfo, DumpReason, DumpedExport, FaultInfo, Format, GuestCheck,
    HeldLock, ImageInfo, ImageRole, ImportUse, InFlight, Location, LockRoutine, Note, OpenExport, PlannedRotation,
    PlannedTurns, ProcessorState, Purpose, Reason, RequestInFlight, RequestWith, SiteFound, SiteState, SourceLine,
    StackEnd, TraceInfo, TurnsBecause, UnknownRelease, UnnamedImports, WatchChoice,
};
use crate::timing::Spread;
use crate::windows::arguments::NotKnown;

/// The page's own script.
const PAGE_SCRIPT: &str = include_str!("../../report/render/html/page.js");

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

/// Requests that have come as far as they can, and further than a controller of a guest's can tell.
fn in_flight(report: &Report) -> InFlight {
    let all = [
        RequestWith::Controller,
        RequestWith::DroppedByFault,
        RequestWith::DelayedByFault,
        RequestWith::FatalError,
        RequestWith::NoInterrupt,
        RequestWith::InterruptMasked,
        RequestWith::InterruptPending,
        RequestWith::InterruptInService,
        RequestWith::NotTaken,
    ];
    let request = |(index, with)| RequestInFlight {
        queue: u16::MAX,
        id: u32::MAX,
        command: HOSTILE.to_owned(),
        disk: (index > 0).then_some(1),
        lba: (index > 1).then_some(u64::MAX),
        blocks: (index > 1).then_some(u32::MAX),
        fetched_ms: 1234,
        posted_ms: (index > 2).then_some(u64::MAX),
        interrupt_ms: (index > 3).then_some(u64::MAX),
        message: (index > 4).then_some(u16::MAX),
        vcpu: (index > 4).then_some(63),
        given_up_ms: (index > 0).then_some(u64::MAX),
        with,
    };
    let requests: Vec<_> = all.into_iter().enumerate().map(request).collect();
    let acquire = report.findings[0].history[0].call.clone();
    InFlight {
        controllers: vec![ControllerInFlight {
            controller: HOSTILE.to_owned(),
            outstanding: requests.clone(),
            reset: Some(CutOff {
                at_ms: 1,
                outstanding: requests.clone(),
            }),
            not_kept: 1,
            given_up: requests,
        }],
        held: vec![HeldLock {
            lock: crate::report::LockIdentity::Cancel,
            acquire,
        }],
    }
}

/// Lock call sites in all states, of every kind.
fn coverage(place: &Location) -> Coverage {
    let site = |state, tail, found, calls| CoveredSite {
        routine: LockRoutine(storlock_check::contract::Routine::KeReleaseSpinLock),
        place: place.clone(),
        tail,
        found,
        state,
        calls,
        after_fault: calls,
        paths: vec![CallPath {
            callback: Some(HOSTILE.to_owned()),
            after_fault: true,
            event: 1,
        }],
    };
    let sites = vec![
        site(SiteState::Reached, false, SiteFound::Run, 3),
        site(SiteState::NotReached, false, SiteFound::Code, 0),
        site(SiteState::NotWatched, false, SiteFound::Code, 0),
        site(SiteState::NotTold, true, SiteFound::Code, 0),
    ];
    let open = |reason| OpenExport {
        export: HOSTILE.to_owned(),
        reason,
    };
    Coverage {
        totals: CoverageTotals {
            perhaps: 1,
            not_kept: 1,
            ..CoverageTotals::of(&sites)
        },
        sites,
        open: vec![
            open(None),
            open(Some(NotKnown::Unreadable)),
            open(Some(NotKnown::Escapes(7))),
        ],
    }
}

/// A report in which no field is empty, and every text is the guest's.
#[expect(clippy::too_many_lines, reason = "a table: every field of a report")]
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
    report.run.command_line = vec![text().into()];
    report.run.spec = crate::run::spec::RunSpec::default().to_value();
    report.run.images = vec![ImageInfo {
        role: ImageRole::Target,
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
        waits_for: None,
    }];
    for module in report.modules.iter_mut().chain(&mut report.target) {
        module.name = text();
    }
    report.watch.gaps = gaps();
    report.watch.not_armed = Some(NotArmed::NeverLoaded {
        driver: text(),
        modules: 1,
        similar: Some(text()),
    });
    report.watch.choice = Choice::Made(Box::new(choice(&place)));
    report.locks.unknown = vec![UnknownRelease {
        routine: LockRoutine(storlock_check::contract::Routine::KeReleaseSpinLock),
        caller: place.clone(),
        by_target: true,
        count: 1,
    }];
    report.coverage = Some(coverage(&place));
    report.in_flight = Some(in_flight(&report));
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
    report.machine = Some(conformance());
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
    report.timeline = Some(timeline(&place));
    for violation in &mut report.findings {
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

/// The machine's side, with one of each sort.
fn conformance() -> Conformance {
    let text = || HOSTILE.to_owned();
    Conformance {
        msrs: vec![MsrCount {
            index: 0xce,
            write: false,
            answer: MsrAnswer::Unknown,
            count: 1,
        }],
        accesses: vec![AccessCount {
            space: Space::Port,
            address: 0x2e,
            length: 1,
            write: true,
            absent: Some(text()),
            count: 1,
        }],
        commands: vec![CommandCount {
            controller: text(),
            command: text(),
            status: 0x4002,
            meaning: text(),
            count: 1,
        }],
        table_ports: vec![TablePorts {
            purpose: text(),
            address: 0xb008,
            length: 4,
        }],
        not_listed: 1,
        screen: Screen {
            serial: vec![text()],
            text_mode: vec![text()],
            display: Some(Display {
                width: 800,
                height: 600,
                blank: true,
            }),
        },
    }
}

/// Two processors that take one lock after the other.
fn timeline(place: &Location) -> Timeline {
    let lock = TimedLock {
        identity: crate::report::LockIdentity::Cancel,
        class: 0,
    };
    let hold = |asked, from, to, vcpu| Hold {
        asked,
        from,
        to,
        vcpu,
        lock: 0,
        place: 0,
        event: asked,
    };
    Timeline {
        clock: Clock::Nanoseconds,
        end: 100,
        events: 4,
        processors: 2,
        locks: vec![lock],
        places: vec![place.clone()],
        classes: vec![LockClass {
            kind: HOSTILE.to_owned(),
            site: Some(0),
            acquires: 2,
            ..LockClass::default()
        }],
        order: vec![OrderEdge {
            held: 0,
            taken: 0,
            count: 1,
            event: 1,
        }],
        holds: vec![hold(10, 10, Some(40), 0), hold(20, 40, None, 1)],
        marks: vec![Mark {
            time: 30,
            event: 8,
            vcpu: 0,
        }],
        not_kept: 1,
        cut: Some(HOSTILE.to_owned()),
    }
}

/// A choice of everything that there is.
fn choice(place: &Location) -> WatchChoice {
    let text = || HOSTILE.to_owned();
    let routines = || vec![LockRoutine(storlock_check::contract::Routine::KeReleaseSpinLock)];
    WatchChoice {
        hooked: false,
        imports_known: true,
        exports: 5,
        registers: 4,
        driver_object_at: text(),
        watched: vec![Purpose {
            export: text(),
            imported: true,
            acquires: routines(),
            before: routines(),
            judged: routines(),
            suspect: routines(),
            leads_to: Some(place.clone()),
        }],
        may_fail: routines(),
        gaps: gaps(),
        uses: vec![
            ImportUse::NotLookedAt { import: text() },
            ImportUse::NotKnown {
                import: text(),
                reason: crate::windows::arguments::NotKnown::Argument(1),
                values: vec![u32::MAX],
            },
            ImportUse::Known {
                import: text(),
                calls: 1,
                values: vec![1],
                routines: routines(),
            },
        ],
        unnamed: Some(UnnamedImports {
            imports: 1,
            modules: vec![text()],
            more: true,
        }),
        turns: Some(PlannedTurns {
            because: TurnsBecause::TooMany,
            rotations: vec![PlannedRotation {
                clock: text(),
                sets: vec![vec![text()]],
            }],
        }),
    }
}

/// A gap of each kind.
fn gaps() -> Vec<WatchGap> {
    let text = || HOSTILE.to_owned();
    let routines = || vec![LockRoutine(storlock_check::contract::Routine::KeReleaseSpinLock)];
    vec![
        WatchGap::NoRegister {
            routine: text(),
            releases: routines(),
            acquires: routines(),
            before: routines(),
        },
        WatchGap::Unnamed(UnnamedImports {
            imports: 1,
            modules: vec![text()],
            more: false,
        }),
        WatchGap::LookedUp { routine: text() },
        WatchGap::LocksInside { routines: vec![text()] },
        WatchGap::OtherModule { routine: text() },
        WatchGap::Modules { modules: vec![text()] },
        WatchGap::Reloaded { routine: text() },
    ]
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

/// Fields that came after the first version of schema 2, by the objects that have them; `*` is each of a list.
const LATER: [(&str, &[&str]); 10] = [
    ("", &["coverage", "machine", "note_data", "in_flight"]),
    ("conditions/*", &["why"]),
    ("end", &["deadlock"]),
    ("end/processors/*", &["waits_for", "stack_end"]),
    ("watch", &["explanation", "sets", "why_not_armed", "choice"]),
    ("watch/routines/*", &["why"]),
    ("watch/gaps/*", &["why"]),
    ("rules/*", &["modules", "off"]),
    ("dump", &["on"]),
    ("violations/*", &["callback", "stack_end"]),
];

/// Removes fields from the objects at a path, as far as they are there.
fn remove(value: &mut Value, path: &str, fields: &[&str]) {
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    match (first, value) {
        ("", Value::Object(object)) => object.retain(|name, _| !fields.contains(&name.as_str())),
        ("*", Value::Array(list)) => list.iter_mut().for_each(|one| remove(one, rest, fields)),
        (first, Value::Object(object)) => {
            if let Some(inner) = object.get_mut(first) {
                remove(inner, rest, fields);
            }
        }
        _ => {}
    }
}

#[test]
fn a_report_of_the_first_version_with_this_schema_is_as_it_says_and_can_be_read() {
    let mut report = json(&everything(), Format::Json);
    assert!(report["dump"]["on"].is_string());
    for (path, fields) in LATER {
        remove(&mut report, path, fields);
    }
    assert!(report["dump"]["on"].is_null() && report["end"]["processors"][0]["waits_for"].is_null());
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let found = complaints(&validator, &report);
    assert!(found.is_empty(), "{found:#?}");
    let read: Report = serde_json::from_value(report).unwrap();
    assert_eq!(read.dump.unwrap().on, DumpReason::Violation);
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
        assert_eq!(results.len(), report.findings.len(), "{name}");
        for (result, v) in results.iter().zip(&report.findings) {
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
        let text = text.split(PAGE_SCRIPT).collect::<String>();
        assert!(
            !text.contains('\u{1b}') && !text.contains('\u{202e}'),
            "{}",
            format.name()
        );
        // The others are not read as markup.
        let markup = matches!(format, Format::Junit | Format::Html);
        assert!(!(markup && text.contains("<img")), "{}", format.name());
    }
}

#[test]
fn the_page_has_every_finding_and_loads_nothing() {
    for (name, report) in reports() {
        let page = String::from_utf8(rendered(&report, Format::Html)).unwrap();
        for v in &report.findings {
            assert!(page.contains(&v.signature.id), "{name}");
        }
        assert_eq!(
            page.matches("<details class=\"finding").count(),
            report.findings.len(),
            "{name}"
        );
        // Script and style of the page, the names and the holds; the policy allows the first two by their digests.
        assert_eq!(
            (page.matches("<script").count(), page.matches("<style").count()),
            (3, 1),
            "{name}"
        );
        assert!(page.contains("default-src 'none'; script-src 'sha256-"), "{name}");
        for outside in [
            "<link",
            "<img",
            "<iframe",
            "<script src",
            "@import",
            "url(http",
            " style=",
        ] {
            assert!(!page.contains(outside), "{name}: {outside}");
        }
    }
}

/// A message as (field, number) and (field, bytes), in order.
fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, &[u8])> {
    let mut fields = Vec::new();
    let number = |bytes: &mut &[u8]| {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    };
    while !bytes.is_empty() {
        let key = number(&mut bytes);
        let value = number(&mut bytes);
        match key & 7 {
            0 => fields.push((key >> 3, value, &[][..])),
            2 => {
                let (inner, rest) = bytes.split_at(value as usize);
                fields.push((key >> 3, 0, inner));
                bytes = rest;
            }
            other => panic!("wire type {other}"),
        }
    }
    fields
}

#[test]
fn the_slices_of_a_perfetto_track_never_overlap() {
    let bytes = rendered(&everything(), Format::Perfetto);
    let field = |fields: &[(u64, u64, &[u8])], number: u64| fields.iter().find(|(n, ..)| *n == number).map(|f| f.1);
    let (mut open, mut seen) = (std::collections::HashMap::new(), Vec::new());
    for (tag, _, packet) in fields(&bytes) {
        assert_eq!(tag, 1, "a trace is a list of packets");
        let packet = fields(packet);
        let Some((.., event)) = packet.iter().find(|(number, ..)| *number == 11) else {
            continue;
        };
        let event = fields(event);
        let (time, kind, track) = (
            field(&packet, 8).unwrap(),
            field(&event, 9).unwrap(),
            field(&event, 11).unwrap(),
        );
        match kind {
            1 => assert_eq!(open.insert(track, time), None),
            2 => seen.push((track >> 32, open.remove(&track).unwrap(), time)),
            3 => assert_eq!((track, time), (1, 30)),
            other => panic!("kind {other}"),
        }
    }
    // The wait of the second processor, and the two holds; the second is still open.
    assert_eq!(seen, [(1, 10, 40), (2, 20, 40)]);
    assert_eq!(open.into_values().collect::<Vec<_>>(), [40]);
    let mut without = everything();
    without.timeline = None;
    assert!(Format::Perfetto.renderer().render(&without, &mut Vec::new()).is_err());
}

/// A report with many findings, none of which is like another one.
fn many_findings(count: usize) -> Report {
    let mut report = everything();
    let places = reports().into_iter().flat_map(|(_, report)| report.findings);
    let all: Vec<_> = places.collect();
    report.findings = (0..count)
        .map(|n| {
            let mut v = all[n % all.len()].clone();
            v.signature.id = format!("{n:016x}");
            (v.event, v.call_event, v.count) = (n as u64, n as u64, n as u64 % 7);
            v
        })
        .collect();
    report
}

/// The timeline of many pairs of calls on four processors, which take two locks at a time and wait for each other.
fn long_timeline(events: u64) -> Timeline {
    use storlock_check::contract::Routine;
    use storlock_check::event::{Context, Event, EventKind, LockCall, LockOperand, Order};
    let mut builder = crate::session::timeline::TimelineBuilder::default();
    let mut state = 7_u64;
    let mut random = move |below: u64| {
        // Numerical Recipes' generator: the same picture every time.
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    let (mut held, mut time) = ([const { Vec::<u64>::new() }; 4], 0);
    for sequence in 1..=events {
        time += 300 + random(4000);
        let vcpu = random(4) as usize;
        let own = &mut held[vcpu];
        let release = own.len() > 1 || (!own.is_empty() && random(2) == 0);
        let (routine, lock) = if release {
            (Routine::KeReleaseSpinLock, own.pop().unwrap())
        } else {
            let first = own.last().map_or(0, |lock| lock + 1);
            own.push(first + random(40));
            (Routine::KeAcquireSpinLockRaiseToDpc, own[own.len() - 1])
        };
        let context = Context {
            processor: vcpu as u32,
            irql: 2,
            thread: vcpu as u64,
            return_address: DRIVER + 0x1000 + 16 * (lock % 12),
            ..Context::default()
        };
        let operand = LockOperand::Address(0xffff_9000_0000_0000 + 64 * lock);
        let kind = EventKind::LockCall(LockCall {
            routine,
            context,
            operand,
            old_irql: None,
            word: None,
        });
        let event = Event {
            sequence,
            order: Order::Total,
            kind,
        };
        builder.observe(&event, Some(time), sequence % (events / 50).max(1) == 0);
    }
    builder.finish()
}

#[test]
#[ignore = "needs Chromium (scripts/setup pages): run by scripts/test --all"]
fn the_page_works_in_a_browser() {
    let directory = tempfile::tempdir().unwrap();
    // To look at the pages and the pictures of them.
    let kept = std::env::var_os("STORLOCK_PAGES").map(std::path::PathBuf::from);
    let directory = kept.as_deref().unwrap_or(directory.path());
    let mut million = many_findings(50);
    million.timeline = Some(long_timeline(1_000_000));
    let timeline = million.timeline.as_ref().unwrap();
    for (v, mark) in million.findings.iter_mut().zip(&timeline.marks) {
        (v.event, v.call_event) = (mark.event, mark.event);
    }
    let scene = scenes().into_iter().find(|(name, _)| name == "released_twice").unwrap();
    let pages = [
        ("scene.html", play(&scene.1)),
        ("hostile.html", everything()),
        ("findings.html", many_findings(1000)),
        ("million.html", million),
    ];
    for (name, report) in &pages {
        std::fs::write(directory.join(name), rendered(report, Format::Html)).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/reports/browser");
    let paths = pages.iter().map(|(name, _)| directory.join(name));
    let run = std::process::Command::new(script)
        .arg("--shots")
        .arg(directory)
        .args(paths)
        .output()
        .unwrap();
    let told = [run.stdout, run.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(run.status.success(), "{told:?}");
}
