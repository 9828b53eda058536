//! Tests of command lines and the descriptions made from them.

use std::os::unix::ffi::OsStringExt as _;

use clap::{CommandFactory as _, Parser as _, ValueEnum as _};
use proptest::prelude::*;
use serde_json::json;
use storlock_vmm::storage::backend::ImageOptions;

use super::*;
use crate::run::spec::DiskPlace;

#[derive(Debug, clap::Parser)]
struct Cli {
    #[command(flatten)]
    run: Arguments,
}

fn parse<T: AsRef<OsStr>>(words: &[T]) -> RunSpec {
    let cli = Cli::try_parse_from(std::iter::once(OsStr::new("run")).chain(words.iter().map(AsRef::as_ref)));
    cli.unwrap().run.spec().unwrap()
}

/// What the line says that repeats a run.
fn again(spec: &RunSpec) -> RunSpec {
    let words: Vec<OsString> = command_line(spec).into_iter().map(|Word(word)| word).collect();
    parse(&words[2..])
}

const PATH: &str = "[a-zA-Z0-9/_.,: ]{0,12}[a-z]";

/// An option with a value of that form.
fn with(name: &'static str, value: &'static str) -> BoxedStrategy<Vec<String>> {
    value.prop_map(move |value| vec![name.to_owned(), value]).boxed()
}

/// Options of a command line, each with a value that it can have.
#[expect(clippy::too_many_lines, reason = "a table: a line an option")]
fn options() -> impl Strategy<Value = Vec<String>> {
    let any_of = prop_oneof![
        prop::sample::select(vec![
            "--driver",
            "--kernel",
            "--initrd",
            "--variables",
            "--screenshot",
            "--port-driver",
            "--registry",
            "--report-dir",
            "--record",
            "--kvm",
            "--serial",
            "--symbols",
            "--dump-on-violation",
            "--dump",
            "--load",
            "--report",
            "--firmware",
        ])
        .prop_flat_map(|name| with(name, PATH)),
        prop::sample::select(vec![
            "--no-reboot",
            "--reboot-at-triple-fault",
            "--hyperv",
            "--hyperv=off",
            "--ignore-msrs",
            "--debug-print",
            "--explain",
            "--accept-turns",
            "--check-guest",
            "--gdb-wait",
            "--gdb-expose",
            "--no-sandbox",
            "--firmware",
            "--no-disk",
        ])
        .prop_map(|name| vec![name.to_owned()]),
        with("--cpus", "[1-9]"),
        with("--phys-bits", "[1-9][0-9]"),
        with("--memory", "[1-9][0-9]{0,4}[KMG]?"),
        with("--output-limit", "[1-9][0-9]{0,4}[KMG]?"),
        with("--seed", "[1-9][0-9]{0,9}"),
        with("--time-limit", "[1-9][0-9]{0,3}(ms|s|m|h)?"),
        with("--shutdown-grace", "[1-9][0-9]{0,3}(ms|s|m|h)?"),
        with("--format", "text|json|html|sarif|junit|perfetto"),
        with("--report-format", "text|json|html|sarif|junit|perfetto"),
        with("--interrupts", "msix|msi|intx"),
        with("--on-violation", "stop|report"),
        with("--on-disconnect", "pause|resume"),
        with("--after-deadlock", "end|go-on"),
        with("--hooks", "imports"),
        with(
            "--rule",
            "(LockOrder|LockStorage|DoubleAcquire)=(off|[a-z]{1,8}\\.sys(,[a-z]\\.sys)?)"
        ),
        with("--append", "[-a-z =]{1,12}"),
        with("--gdb", ":[1-9][0-9]{0,3}|unix:/[a-z]{1,9}"),
        with("--dump-on", "violation|reset|timeout|hang"),
        with("--dump-export", "[a-z.]{1,9}![A-Za-z]{1,9}:[1-9][0-9]{0,3}"),
        with(
            "--fault",
            "(fail|drop|fatal):(read|write|io|admin\\.0x0[1-9])(,after=[0-9])?(,count=([1-9]|all))?"
        ),
        with(
            "--disk",
            "(mem:[1-9][0-9]{0,3}[KM]|[a-z./]{1,9},,[a-z]{1,9}(,(readonly|snapshot(=[1-9]M)?))?(,format=(raw|qcow2|vmdk))?(,backing=[a-z],,[a-z])?)(,controller=nvme)?(,namespace)?(,target)?"
        ),
    ];
    prop::collection::vec(any_of, 0..12).prop_filter_map("an option that is given once is given twice", |options| {
        let many = [
            "--load",
            "--fault",
            "--disk",
            "--dump-export",
            "--dump-on",
            "--report",
            "--rule",
        ];
        let mut seen: Vec<&str> = options
            .iter()
            .filter_map(|words| words.first()?.split('=').next())
            .collect();
        let both = ["--disk", "--no-disk"].iter().all(|name| seen.contains(name));
        seen.retain(|name| !many.contains(name));
        seen.sort_unstable();
        let count = seen.len();
        seen.dedup();
        (seen.len() == count && !both).then(|| options.concat())
    })
}

/// Descriptions that a command line can make.
pub(crate) fn specs() -> impl Strategy<Value = RunSpec> {
    options().prop_map(|words| parse(&words))
}

/// A path of any bytes but zero, among them such as options, disks and what separates them begin with.
fn path() -> impl Strategy<Value = FilePath> {
    let bytes = prop_oneof![
        "-{1,2}[a-z]{0,3}".prop_map(String::into_bytes),
        "(\\./){0,2}mem:(1M)?".prop_map(String::into_bytes),
        "[-,=:./a-z\n]{1,8}".prop_map(String::into_bytes),
        prop::collection::vec(1..=u8::MAX, 1..8),
    ];
    bytes.prop_map(|bytes| FilePath(OsString::from_vec(bytes).into()))
}

/// A disk with such a file, and perhaps such a backing file.
fn odd_disk() -> impl Strategy<Value = Disk> {
    (path(), prop::option::of(path()), any::<bool>()).prop_map(|(file, backing, target)| Disk {
        place: DiskPlace::Image(
            file.0,
            ImageOptions {
                backing: backing.map(|FilePath(path)| path),
                ..ImageOptions::default()
            },
        ),
        target,
        namespace: false,
        scsi_target: None,
        controller: None,
    })
}

/// Descriptions that a file can hold: any path in each field with one, any list of disks.
fn odd_specs() -> impl Strategy<Value = RunSpec> {
    let paths = prop::collection::vec(path(), 32);
    let disks = prop::option::of(prop::collection::vec(odd_disk(), 0..3));
    (specs(), paths, disks, "[^\u{0}]{0,12}").prop_map(|(mut spec, paths, disks, append)| {
        let mut paths = paths.into_iter();
        let single = [
            &mut spec.driver,
            &mut spec.kernel,
            &mut spec.initrd,
            &mut spec.variables,
            &mut spec.screenshot,
            &mut spec.port_driver,
            &mut spec.registry,
            &mut spec.record,
            &mut spec.serial,
            &mut spec.symbols,
            &mut spec.dump_on_violation,
            &mut spec.dump,
            &mut spec.gdb,
        ];
        let always = [&mut spec.report_dir, &mut spec.kvm];
        let several = spec.load.iter_mut().chain(&mut spec.report);
        for field in single.into_iter().flatten().chain(always).chain(several) {
            *field = paths.next().unwrap_or_else(|| field.clone());
        }
        if let Some(Firmware::File(code)) = &mut spec.firmware {
            *code = paths.next().unwrap_or_else(|| code.clone());
        }
        spec.disk = disks.unwrap_or(spec.disk);
        spec.append = append;
        spec
    })
}

proptest! {
    #[test]
    fn a_description_survives_its_json_and_its_command_line(words in options()) {
        let spec = parse(&words);
        let json = spec.to_json().unwrap();
        prop_assert_eq!(&RunSpec::from_json(json.as_bytes()).unwrap().0, &spec, "{}", json);
        prop_assert_eq!(&again(&spec), &spec, "{:?}", command_line(&spec));
    }

    #[test]
    fn so_does_one_that_no_command_line_has_made(spec in odd_specs()) {
        let json = spec.to_json().unwrap();
        prop_assert_eq!(&RunSpec::from_json(json.as_bytes()).unwrap().0, &spec, "{}", json);
        prop_assert_eq!(&again(&spec), &spec, "{:?}", command_line(&spec));
    }

    /// What was decided is decided again.
    #[test]
    fn a_checked_description_survives_its_command_line(spec in specs(), linux: bool) {
        if let Ok(checked) = spec.check(linux, 1) {
            prop_assert_eq!(again(&checked.spec).check(linux, 2).unwrap().spec, checked.spec);
        }
    }

    #[test]
    fn options_beside_a_description_replace_what_it_says(first in options(), second in options()) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("spec.json");
        std::fs::write(&file, parse(&first).to_json().unwrap()).unwrap();
        let mut words = vec!["--spec".to_owned(), file.display().to_string()];
        words.extend(second.iter().cloned());
        let (both, alone, base) = (parse(&words), parse(&second), parse(&first));
        let given = |name: &str| second.iter().any(|word| word.split('=').next() == Some(name));
        let fields = |spec: &RunSpec| spec.to_value().unwrap().as_object().unwrap().clone();
        let (both_fields, alone, base_fields) = (fields(&both), fields(&alone), fields(&base));
        for field in both_fields.keys().chain(alone.keys()).chain(base_fields.keys()) {
            let option = format!("--{}", field.replace('_', "-"));
            let replaced = given(&option) || (field == "disk" && given("--no-disk"));
            let dropped = field == "shutdown_grace" && given("--gdb") && !replaced;
            let expected = if replaced { alone.get(field) } else { base_fields.get(field).filter(|_| !dropped) };
            prop_assert_eq!(both_fields.get(field), expected, "{}", field);
        }
        if second.is_empty() {
            prop_assert_eq!(both, base);
        }
    }
}

/// Each option with a value, and what its field in a description is then.
fn each_option() -> Vec<(&'static str, Option<&'static str>, Value)> {
    let path = |option| (option, Some("x/y"), json!("x/y"));
    let switch = |option| (option, None, json!(true));
    let paths = [
        "driver",
        "kernel",
        "initrd",
        "firmware",
        "variables",
        "screenshot",
        "port-driver",
        "registry",
        "record",
        "serial",
        "symbols",
        "dump-on-violation",
        "dump",
        "kvm",
        "report-dir",
    ];
    let switches = [
        "no-reboot",
        "reboot-at-triple-fault",
        "hyperv",
        "ignore-msrs",
        "debug-print",
        "explain",
        "accept-turns",
        "check-guest",
        "gdb-wait",
        "gdb-expose",
        "no-sandbox",
    ];
    let others = [
        ("load", Some("x/y"), json!(["x/y"])),
        ("dump-on", Some("hang"), json!(["hang"])),
        ("report", Some("x/y"), json!(["x/y"])),
        ("phys-bits", Some("40"), json!(40)),
        ("cpus", Some("3"), json!(3)),
        ("memory", Some("512M"), json!("512M")),
        ("output-limit", Some("1M"), json!("1M")),
        ("seed", Some("7"), json!(7)),
        ("time-limit", Some("90s"), json!("90s")),
        ("shutdown-grace", Some("5s"), json!("5s")),
        ("format", Some("json"), json!("json")),
        ("report-format", Some("html"), json!("html")),
        ("interrupts", Some("msi"), json!("msi")),
        ("on-violation", Some("report"), json!("report")),
        ("on-disconnect", Some("resume"), json!("resume")),
        ("after-deadlock", Some("go-on"), json!("go-on")),
        ("hooks", Some("imports"), json!("imports")),
        ("rule", Some("LockOrder=off"), json!(["LockOrder=off"])),
        ("append", Some("-a b"), json!("-a b")),
        ("gdb", Some(":1"), json!(":1")),
        ("dump-export", Some("nt!X:8"), json!(["nt!X:8"])),
        ("fault", Some("drop:read"), json!(["drop:read"])),
        ("disk", Some("mem:1M"), json!([{"memory": "1M"}])),
        ("no-disk", None, json!([])),
    ];
    let plain = paths.map(path).into_iter().chain(switches.map(switch));
    plain.chain(others).collect()
}

#[test]
fn every_option_sets_its_field_and_no_other() {
    let described = |spec: &RunSpec| match spec.to_value() {
        Some(Value::Object(fields)) => fields,
        other => panic!("{other:?}"),
    };
    let default = described(&RunSpec::default());
    let mut tried: Vec<&str> = Vec::new();
    for (option, value, expected) in each_option() {
        let words: Vec<String> = [Some(format!("--{option}")), value.map(str::to_owned)]
            .into_iter()
            .flatten()
            .collect();
        let spec = parse(&words);
        let field = if option == "no-disk" {
            "disk".to_owned()
        } else {
            option.replace('-', "_")
        };
        let mut fields = described(&spec);
        assert_eq!(fields.get(&field), Some(&expected), "{option}");
        fields.remove(&field);
        let mut others = default.clone();
        others.remove(&field);
        assert_eq!(fields, others, "{option}");
        assert_eq!(again(&spec), spec, "{option}");
        tried.push(option);
    }
    let command = Cli::command();
    let all = command.get_arguments().filter_map(clap::Arg::get_long);
    let untried: Vec<_> = all.filter(|option| !tried.contains(option)).collect();
    assert_eq!(untried, ["spec", "print-spec"]);
}

#[test]
fn a_chosen_seed_is_an_option_whatever_the_others_are() {
    for options in [
        &["--driver", "x", "--"][..],
        &["--driver", "x", "--firmware"],
        &["--hyperv"],
        &[],
    ] {
        let words = as_given(options.iter().map(OsString::from), Some(5));
        let words: Vec<OsString> = words.into_iter().map(|Word(word)| word).collect();
        let mut expected = parse(options);
        expected.seed = Some(5);
        assert_eq!(parse(&words[2..]), expected, "{words:?}");
    }
}

#[test]
fn help_tells_the_defaults_that_a_description_has() {
    let default = RunSpec::default();
    let command = Cli::command();
    for (option, value) in [
        ("cpus", default.cpus.to_string()),
        ("time-limit", default.time_limit.to_string()),
        ("report-dir", default.report_dir.display().to_string()),
        ("output-limit", default.output_limit.to_string()),
        ("kvm", default.kvm.display().to_string()),
        ("disk", default.disk[0].written().into_string().unwrap()),
        ("format", "text".to_owned()),
        ("interrupts", "msix".to_owned()),
        ("on-violation", "stop".to_owned()),
        ("on-disconnect", "pause".to_owned()),
    ] {
        let argument = command
            .get_arguments()
            .find(|argument| argument.get_long() == Some(option));
        let help = argument.unwrap().get_help().unwrap().to_string();
        assert!(help.contains(&format!("[default: {value}]")), "{option}: {help}");
    }
    assert_eq!(default.format.to_possible_value().unwrap().get_name(), "text");
    assert_eq!(default.interrupts.to_possible_value().unwrap().get_name(), "msix");
    assert_eq!(OnViolation::default().to_possible_value().unwrap().get_name(), "stop");
}

#[test]
fn a_file_that_describes_no_run_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("spec.json");
    std::fs::write(&file, r#"{"schema": "storlock-run/1", "drvier": "x"}"#).unwrap();
    let cli = Cli::try_parse_from(["run", "--spec", file.to_str().unwrap()]).unwrap();
    let told = format!("{:#}", cli.run.spec().unwrap_err().error);
    assert!(
        told.contains("spec.json") && told.contains("unknown field `drvier`"),
        "{told}"
    );
    assert!(!told.contains("expected one of"), "without dozens of names: {told}");
}

#[test]
fn a_report_gives_its_run_but_not_the_outputs() {
    let directory = tempfile::tempdir().unwrap();
    let words = "--driver x.sys --cpus 3 --serial s --record r --report a.html --report b --report-format text --firmware \
                 --screenshot p.png --dump-on-violation d.dmp --report-dir first --variables v";
    let words: Vec<&str> = words.split_whitespace().collect();
    let checked = parse(&words).check(false, 7).unwrap();
    let report = json!({"schema": crate::report::SCHEMA, "run": {"spec": checked.spec.to_value()}});
    let file = directory.path().join("report.json");
    std::fs::write(&file, report.to_string()).unwrap();
    let beside = |more: &[&str]| parse(&[&["--spec", file.to_str().unwrap()], more].concat());
    let taken = beside(&[]);
    assert_eq!(taken.outputs(), []);
    assert_eq!(
        (taken.report_dir, taken.report_format),
        (RunSpec::default().report_dir, None)
    );
    assert_eq!(
        (taken.cpus, taken.seed, taken.variables),
        (3, Some(7), Some("v".into()))
    );
    let named = beside(&["--record", "other", "--serial", "-"]).outputs();
    assert_eq!(named.len(), 1);
    assert_eq!((named[0].option, &named[0].path), ("--record", &"other".into()));
    // A file that describes a run keeps them.
    std::fs::write(&file, checked.spec.to_json().unwrap()).unwrap();
    let kept = beside(&[]);
    assert_eq!(
        (kept.outputs(), &kept.report_dir),
        (checked.spec.outputs(), &"first".into())
    );
}

#[test]
fn a_debugger_takes_the_place_of_a_grace_that_a_description_has() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("spec.json");
    for grace in [&["--shutdown-grace", "5s"][..], &[]] {
        let words = [&["--driver", "x.sys", "--firmware=code.fd"], grace].concat();
        let checked = parse(&words).check(false, 7).unwrap();
        assert!(checked.shutdown_grace.is_some());
        std::fs::write(&file, checked.spec.to_json().unwrap()).unwrap();
        let debugged = parse(&["--spec", file.to_str().unwrap(), "--gdb", ":1234"]);
        assert_eq!(debugged.check(false, 7).unwrap().shutdown_grace, None);
        let both = [
            "--spec",
            file.to_str().unwrap(),
            "--gdb",
            ":1234",
            "--shutdown-grace",
            "1s",
        ];
        assert!(parse(&both).check(false, 7).is_err(), "who says both means both");
    }
}

#[test]
fn a_description_is_read_from_a_regular_file_and_nobody_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    for odd in [pipe.as_path(), directory.path(), Path::new("/dev/zero")] {
        let cli = Cli::try_parse_from([OsStr::new("run"), "--spec".as_ref(), odd.as_os_str()]).unwrap();
        let began = std::time::Instant::now();
        let told = format!("{:#}", cli.run.spec().unwrap_err().error);
        assert!(
            told.contains("no regular file") && told.contains("standard input"),
            "{told}"
        );
        assert!(began.elapsed() < std::time::Duration::from_secs(10));
    }
}
