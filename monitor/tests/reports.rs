//! `storlock report`: the report of an earlier run in other formats, on standard output and in files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A report with a finding.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/report.json")
}

fn storlock(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_storlock"));
    command.current_dir(directory).stdin(Stdio::null());
    command
}

fn report(directory: &Path, arguments: &[&str]) -> Output {
    storlock(directory).arg("report").args(arguments).output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn json_survives_the_way_through_the_model() {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(golden(), directory.path().join("report.json")).unwrap();
    // The file, and the report directory that it is in.
    for place in ["report.json", "."] {
        let output = report(directory.path(), &[place, "--format", "json"]);
        assert_eq!(output.status.code(), Some(0), "{}", told(&output));
        let (before, after) = (fs::read(golden()).unwrap(), output.stdout);
        let value = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        assert_eq!(value(&after), value(&before), "{place}");
    }
    let text = report(directory.path(), &["report.json"]);
    assert!(String::from_utf8(text.stdout).unwrap().starts_with("error["));
}

#[test]
fn several_files_are_written_each_in_the_format_of_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::copy(golden(), at("in.json")).unwrap();
    fs::write(at("a.txt"), "of an earlier run").unwrap();
    let output = report(
        directory.path(),
        &["in.json", "-o", "a.txt", "-o", "b.JSON", "-o", "c", "--format", "text"],
    );
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert_eq!(output.stdout, b"", "the report goes to the files only");
    let read = |name: &str| fs::read_to_string(at(name)).unwrap();
    assert!(read("a.txt").starts_with("error["));
    assert!(read("b.JSON").starts_with('{'));
    assert_eq!(read("c"), read("a.txt"));
    let mut names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["a.txt", "b.JSON", "c", "in.json"], "and nothing else is left");
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::copy(golden(), at("in.json")).unwrap();
    fs::write(at("other.json"), r#"{"schema": "storlock-report/1"}"#).unwrap();
    fs::write(at("list.json"), "{\"jobs\": []}").unwrap();
    fs::write(at("noise"), "What is this?").unwrap();
    fs::write(at("empty.json"), "").unwrap();
    let whole = fs::read(golden()).unwrap();
    let cut_off = |name: &str, length: usize| fs::write(at(name), &whole[..length]).unwrap();
    cut_off("half.json", whole.len() / 2);
    cut_off("most.json", whole.trim_ascii_end().len() - 1);
    cut_off("brace.json", 1);
    let cases: [(&[&str], i32, &str); 13] = [
        (&["empty.json"], 5, "it is empty"),
        (&["half.json"], 5, "it ends in the middle, so it was cut off"),
        (&["most.json"], 5, "it ends in the middle, so it was cut off"),
        (&["brace.json"], 5, "it ends in the middle, so it was cut off"),
        (
            &["in.json", "-o", "x.bmp"],
            2,
            "its name does not tell the format: let it end in .txt",
        ),
        (&["in.json", "-o", "-"], 2, "--format"),
        (&["in.json", "-o", "in.json"], 2, "is the same file as"),
        (&["in.json", "-o", "x.txt", "-o", "./x.txt"], 2, "is the same file as"),
        (&["in.json", "-o", "none/x.txt"], 5, "none"),
        (&["absent.json"], 5, "cannot read a report from absent.json"),
        (
            &["other.json"],
            5,
            "its schema is `storlock-report/1`; this program reads storlock-report/2",
        ),
        (&["list.json"], 5, "it has no `schema`"),
        (&["noise"], 5, "not a trace of lock events"),
    ];
    for (arguments, code, text) in cases {
        let output = report(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", told(&output));
        assert!(told(&output).contains(text), "{arguments:?}: {}", told(&output));
        assert_eq!(output.stdout, b"", "{arguments:?}");
    }
    assert_eq!(fs::read(at("in.json")).unwrap(), fs::read(golden()).unwrap());
}

#[test]
fn a_full_disk_is_told_and_a_reader_that_has_gone_is_forgiven() {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(golden(), directory.path().join("in.json")).unwrap();
    let full = report(directory.path(), &["in.json", "-o", "/dev/full", "--format", "json"]);
    assert_eq!(full.status.code(), Some(5));
    assert!(told(&full).contains("cannot write /dev/full"), "{}", told(&full));
    let mut child = storlock(directory.path())
        .args(["report", "in.json", "--format", "json"])
        .stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    let mut child = storlock(directory.path())
        .args(["report", "in.json", "--format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!((status.code(), text.as_str()), (Some(0), ""));
}

/// A recording of a run, which every format can be made of; a report without its trace has no timeline.
#[test]
fn a_recording_gives_every_format_and_a_report_alone_no_timeline() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/session.rec");
    let files = ["r.txt", "r.json", "r.sarif", "r.xml", "r.html", "r.pftrace"];
    let mut arguments = vec![recording.to_str().unwrap()];
    arguments.extend(files.iter().flat_map(|file| ["-o", file]));
    let output = report(directory.path(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let read = |name: &str| fs::read(at(name)).unwrap();
    assert!(read("r.html").starts_with(b"<!DOCTYPE html>"));
    assert!(String::from_utf8(read("r.html")).unwrap().contains("id=\"chart\""));
    assert!(read("r.xml").starts_with(b"<?xml"));
    assert_eq!(read("r.pftrace").first(), Some(&0x0a));
    let sarif: serde_json::Value = serde_json::from_slice(&read("r.sarif")).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    // From the JSON all but the timeline is the same.
    let output = report(directory.path(), &["r.json", "-o", "again.sarif", "-o", "again.txt"]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert_eq!(read("again.sarif"), read("r.sarif"));
    assert_eq!(read("again.txt"), read("r.txt"));
    let output = report(directory.path(), &["r.json", "-o", "again.pftrace"]);
    assert_eq!(output.status.code(), Some(5));
    assert!(told(&output).contains("there is no timeline"), "{}", told(&output));
    assert!(!at("again.pftrace").exists());
    let output = report(directory.path(), &["r.json", "-o", "again.html"]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert!(
        String::from_utf8(read("again.html"))
            .unwrap()
            .contains("There is no timeline")
    );
}
