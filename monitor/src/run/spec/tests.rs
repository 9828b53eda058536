//! Tests of reading and writing descriptions, and of contradictions in them.

use serde_json::{Value, json};

use super::json::SpecError;
use super::*;
use crate::cli::run::arguments::tests::specs;
use proptest::prelude::*;
use storlock_vmm::run::AddressWidth;

fn parse(value: &Value) -> Result<RunSpec, SpecError> {
    RunSpec::from_json(value.to_string().as_bytes()).map(|(spec, _)| spec)
}

#[track_caller]
fn refused(value: &Value, why: &str) {
    let told = parse(value).unwrap_err().to_string();
    assert!(told.contains(why), "{value}: {told}");
}

#[test]
fn what_is_left_out_has_its_default() {
    assert_eq!(parse(&json!({"schema": SCHEMA})).unwrap(), RunSpec::default());
    let spec = parse(&json!({"schema": SCHEMA, "cpus": 4, "memory": "1G", "time_limit": 90})).unwrap();
    assert_eq!(
        (spec.cpus, spec.memory, spec.time_limit),
        (4, Some(Size(1 << 30)), Limit(std::time::Duration::from_secs(90)))
    );
}

#[test]
fn a_disk_is_an_object_with_its_options() {
    let disks = json!([{"memory": "64M", "target": true}, {"file": "a,b.qcow2", "snapshot": "1M", "backing": "c"}]);
    let spec = parse(&json!({"schema": SCHEMA, "disk": disks})).unwrap();
    let expected: Vec<Disk> = ["mem:64M,target", "a,,b.qcow2,snapshot=1M,backing=c"]
        .map(|text| Disk::read(text.as_ref()).unwrap())
        .into();
    assert_eq!(spec.disk, expected);
    assert_eq!(serde_json::to_value(&spec.disk).unwrap(), disks);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table: a row a mistake")]
fn what_is_not_understood_is_refused_by_its_name() {
    refused(&json!({"cpus": 2}), "no `schema`");
    refused(&json!({"schema": "storlock-run/2", "new": 1}), "storlock-run/2");
    refused(&json!({"schema": "something"}), "something");
    refused(&json!({"schema": 1}), "string");
    refused(&json!([SCHEMA]), "expected an object");
    for (field, value, why) in [
        ("drvier", json!("x.sys"), "unknown field `drvier` at line 1 column "),
        ("cpus", json!("two"), "`cpus`: invalid type: string"),
        ("memory", json!("lots"), "`memory`: "),
        (
            "driver",
            json!(7),
            "`driver`: invalid type: integer `7`, expected a text",
        ),
        (
            "disk",
            json!([{"memory": "1M"}, {"memory": []}]),
            "`disk[1].memory`: invalid type",
        ),
        ("append", json!(["quiet"]), "`append`: "),
        (
            "rule",
            json!(["LockOrder=off\u{0}"]),
            "`rule[0]`: a text cannot have a character of value zero",
        ),
        ("memory", json!(-1), "a size"),
        ("time_limit", json!("0s"), "a limit of zero"),
        ("fault", json!(["explode"]), "KIND:WHAT"),
        (
            "disk",
            json!([{"file": "x", "read_only": true}]),
            "`disk[0]`: unknown field `read_only`, expected one of `memory`, `file`",
        ),
        (
            "disk",
            json!([{"file": "x", "memory": "1M"}]),
            "either a `file` or `memory`",
        ),
        ("disk", json!([{}]), "either a `file` or `memory`"),
        (
            "disk",
            json!(["64M"]),
            "`disk[0]`: invalid type: string \"64M\", expected an object",
        ),
        (
            "disk",
            json!([["64M"]]),
            "`disk[0]`: invalid type: sequence, expected an object",
        ),
        (
            "decided",
            json!([true]),
            "`decided`: invalid type: sequence, expected an object",
        ),
        (
            "disk",
            json!([{"memory": "1M", "readonly": true}]),
            "no options of an image",
        ),
        (
            "disk",
            json!([{"file": "x", "controller": "ahci"}]),
            "unknown kind of controller `ahci`",
        ),
        ("dump_export", json!(["nothing"]), "MODULE!NAME:BYTES"),
        ("interrupts", json!("smoke"), "unknown variant `smoke`"),
        ("firmware", json!(false), "true or a path"),
        ("firmware", json!(7), "true, for the installed one"),
        ("driver", json!(""), "a path cannot be empty"),
        ("seed", json!(1.5), "u64"),
    ] {
        let mut spec = json!({"schema": SCHEMA});
        spec[field] = value;
        refused(&spec, why);
    }
    let twice = format!(r#"{{"schema": "{SCHEMA}", "cpus": 1, "cpus": 2}}"#);
    let told = RunSpec::from_json(twice.as_bytes()).unwrap_err().to_string();
    assert!(
        told.contains("duplicate field `cpus`") && told.contains("line 1"),
        "{told}"
    );
}

#[test]
fn a_report_describes_its_run() {
    let spec = RunSpec {
        cpus: 7,
        ..RunSpec::default()
    };
    let report = json!({"schema": "storlock-report/2", "run": {"cpus": 7, "spec": spec.to_value()}, "violations": []});
    assert_eq!(parse(&report).unwrap(), spec);
    refused(
        &json!({"schema": "storlock-report/2", "run": {"cpus": 7}}),
        "does not hold the description",
    );
    refused(&json!({"schema": "storlock-report/2"}), "missing field `run`");
    refused(
        &json!({"schema": "storlock-report/2", "run": [spec.to_value()]}),
        "`run`: invalid type",
    );
    let other = json!({"schema": "storlock-report/2", "run": {"spec": {"schema": "storlock-run/9", "x": 1}}});
    refused(&other, "its schema is `storlock-run/9`");
    for schema in [
        "storlock-report/9",
        "storlock-report/1",
        "storlock-report/",
        "storlock-report/2x",
    ] {
        let unknown = json!({"schema": schema, "run": {"spec": spec.to_value()}});
        refused(&unknown, &format!("its schema is `{schema}`"));
    }
}

/// A description from its fields beside the schema.
fn spec(fields: &Value) -> RunSpec {
    let mut all = json!({"schema": SCHEMA});
    for (name, value) in fields.as_object().unwrap() {
        all[name] = value.clone();
    }
    parse(&all).unwrap()
}

/// Each is refused, with that in the reason; whether the kernel is Linux stands between them.
#[track_caller]
fn contradict(cases: &[(Value, bool, &str)]) {
    for (fields, linux, why) in cases {
        let told = spec(fields).check(*linux, 1).unwrap_err().to_string();
        assert!(told.contains(why), "{fields}: {told}");
    }
}

#[test]
fn what_does_not_go_together_is_refused_with_a_reason() {
    contradict(&[
        (json!({}), false, "--driver is needed"),
        (json!({"driver": "x.sys", "cpus": 0}), false, "1 to 64"),
        (
            json!({"driver": "x.sys", "disk": [], "fault": ["fail:read"]}),
            false,
            "--fault: there is no disk",
        ),
        (
            json!({"driver": "x.sys", "fault": ["explode:read"]}),
            false,
            "--fault: explode:read: unknown kind `explode`",
        ),
        (json!({"driver": "x.sys", "cpus": 65}), false, "1 to 64"),
        (json!({"driver": "x.sys", "phys_bits": 53}), false, "36 to 52 bits"),
        (
            json!({"driver": "x.sys", "memory": "3M"}),
            false,
            "--memory: guest memory has to be a multiple of 2 MiB",
        ),
        (
            json!({"firmware": true, "fault": ["drop:read,from=armed"]}),
            false,
            "nothing is ever armed",
        ),
        (
            json!({"driver": "x.sys", "variables": "v"}),
            false,
            "--variables means nothing without --firmware",
        ),
        (
            json!({"driver": "x.sys", "screenshot": "s"}),
            false,
            "--screenshot means nothing without --firmware",
        ),
        (
            json!({"driver": "x.sys", "gdb_wait": true}),
            false,
            "--gdb-wait means nothing without --gdb",
        ),
        (
            json!({"driver": "x.sys", "on_violation": "stop"}),
            false,
            "without --gdb",
        ),
        (
            json!({"driver": "x.sys", "gdb": ":1", "shutdown_grace": "1s"}),
            false,
            "exclude each other",
        ),
        (json!({"driver": "x.sys", "gdb": "nowhere"}), false, "no address"),
        (json!({"driver": "x.sys", "gdb": "0.0.0.0:1"}), false, "--gdb-expose"),
        (
            json!({"firmware": true, "no_reboot": true, "reboot_at_triple_fault": true}),
            false,
            "exclude each other",
        ),
    ]);
}

/// What a machine cannot have, whatever the host is: told with the other contradictions, before anything is opened.
#[test]
fn what_no_machine_can_have_is_refused_with_a_reason() {
    let export = |index: u32| format!("nt!X{index}:1");
    let exports: Vec<String> = (0..65).map(export).collect();
    let (long, name) = ("x".repeat(4096), "x".repeat(300));
    let with = |field: &str, value: Value| {
        let mut fields = json!({"driver": "x.sys"});
        fields[field] = value;
        fields
    };
    contradict(&[
        (
            json!({"driver": "x.sys", "phys_bits": 36, "memory": "100G"}),
            false,
            "--phys-bits: RAM ends at",
        ),
        (
            with("dump_export", json!(exports)),
            false,
            "--dump-export: the number of exports is 65",
        ),
        (
            with("dump_export", json!([format!("nt!{}x:8", long)])),
            false,
            "--dump-export: the length of a name",
        ),
        (
            with("append", json!(long)),
            false,
            "--append: the kernel command line is too long",
        ),
        (with("append", json!("\u{e9}")), false, "--append: "),
        (json!({"kernel": "bzImage", "append": "a\u{0}b"}), true, "--append: "),
        (with("driver", json!(format!("{name}.sys"))), false, "--driver: "),
        (
            with("driver", json!("/tmp/\u{e9}.sys")),
            false,
            "--driver: the file name",
        ),
        (
            with("load", json!(["y.sys", format!("{name}.sys")])),
            false,
            "--load: the file name",
        ),
        (with("gdb", json!(format!("unix:/tmp/{name}"))), false, "--gdb: "),
        (
            json!({"driver": "x.sys", "rule": ["LockOrder=off", "DoubleAcquire=off", "LockOrder=a.sys"]}),
            false,
            "--rule: LockOrder=off and LockOrder=a.sys are about one rule",
        ),
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table: a row a contradiction")]
fn what_means_nothing_to_a_guest_is_refused_with_a_reason() {
    contradict(&[
        (
            json!({"kernel": "bzImage", "driver": "x.sys"}),
            true,
            "Linux has no such driver",
        ),
        (
            json!({"kernel": "k.exe", "driver": "x.sys", "firmware": true}),
            false,
            "--firmware without --kernel",
        ),
        (
            json!({"kernel": "k.exe", "firmware": true}),
            false,
            "this --kernel is none",
        ),
        (json!({"kernel": "k.exe"}), false, "--driver is needed"),
        (
            json!({"driver": "x.sys", "initrd": "i"}),
            false,
            "--initrd goes with a Linux kernel",
        ),
        (
            json!({"firmware": true, "initrd": "i"}),
            false,
            "--initrd goes with a Linux kernel",
        ),
        (
            json!({"firmware": true, "driver": "mydriver"}),
            false,
            "with its extension",
        ),
        (
            json!({"firmware": true, "driver": "x.sys", "load": ["y.sys"]}),
            false,
            "--load is for a kernel",
        ),
        (
            json!({"firmware": true, "append": "x"}),
            false,
            "--append is for a kernel",
        ),
        (
            json!({"kernel": "bzImage", "load": ["y.sys"]}),
            true,
            "--load is for an NT-compatible kernel",
        ),
        (
            json!({"kernel": "bzImage", "record": "r"}),
            true,
            "--record goes with a driver",
        ),
        (
            json!({"kernel": "bzImage", "format": "json"}),
            true,
            "--format goes with a driver",
        ),
        (
            json!({"firmware": true, "symbols": "s"}),
            false,
            "--symbols goes with a driver",
        ),
        (
            json!({"firmware": true, "output_limit": "1M"}),
            false,
            "--output-limit goes with a driver",
        ),
        (
            json!({"kernel": "bzImage", "gdb": ":1"}),
            true,
            "--gdb goes with a driver",
        ),
        (
            json!({"firmware": true, "check_guest": true}),
            false,
            "--check-guest goes with a driver",
        ),
        (
            json!({"driver": "x.sys", "disk": [{"memory": "1M", "namespace": true}]}),
            false,
            "--disk: the first disk",
        ),
    ]);
}

#[test]
fn defaults_follow_the_guest() {
    let direct = spec(&json!({"driver": "x.sys"})).check(false, 5).unwrap();
    assert_eq!(
        (direct.boot, direct.memory, direct.hyperv, direct.seed),
        (Boot::Kernel, 256 << 20, false, 5)
    );
    assert_eq!(direct.shutdown_grace, None);
    assert_eq!(direct.faults_from, CountFrom::Start);
    assert_eq!(direct.address_width, AddressWidth::Host);
    let windows = spec(&json!({"driver": "x.sys", "firmware": true, "seed": 3}))
        .check(false, 5)
        .unwrap();
    assert_eq!((windows.memory, windows.hyperv, windows.seed), (4 << 30, true, 3));
    assert_eq!(windows.faults_from, CountFrom::Armed);
    assert_eq!(windows.address_width, AddressWidth::Usual);
    assert_eq!(windows.shutdown_grace, Some(std::time::Duration::from_secs(60)));
    assert!(windows.is_windows() && windows.is_watched());
    let debugged = spec(&json!({"driver": "x.sys", "firmware": true, "gdb": ":1"}))
        .check(false, 5)
        .unwrap();
    assert_eq!(debugged.shutdown_grace, None);
    let linux = spec(&json!({"kernel": "bzImage", "append": "quiet"}))
        .check(true, 5)
        .unwrap();
    assert_eq!((linux.boot, linux.is_watched()), (Boot::Linux, false));
    let both = spec(&json!({"kernel": "bzImage", "firmware": "OVMF.fd", "append": "quiet"}))
        .check(true, 5)
        .unwrap();
    assert_eq!(both.boot, Boot::Firmware { linux: true });
}

#[test]
fn what_was_decided_holds_for_guests_of_one_kind() {
    let direct = spec(&json!({"driver": "x.sys"})).check(false, 5).unwrap().spec;
    assert_eq!(
        (direct.memory, direct.hyperv, direct.seed),
        (None, None, Some(5)),
        "it was not said"
    );
    // Another version may have decided otherwise.
    let mut other = direct.clone();
    other.decided.as_mut().unwrap().memory = Some(Size(96 << 20));
    assert_eq!(other.check(false, 6).unwrap().memory, 96 << 20);
    // Another kind of guest has the defaults of its own.
    other.firmware = Some(Firmware::Installed);
    let windows = other.check(false, 6).unwrap();
    assert_eq!((windows.memory, windows.hyperv, windows.seed), (4 << 30, true, 5));
    assert_eq!(windows.shutdown_grace, Some(std::time::Duration::from_secs(60)));
    // What is said comes first.
    other.memory = Some(Size(1 << 30));
    assert_eq!(other.check(false, 6).unwrap().memory, 1 << 30);
    let mut debugged = windows.spec;
    debugged.gdb = Some(":1234".into());
    assert_eq!(debugged.check(false, 6).unwrap().shutdown_grace, None);
}

proptest! {
    /// What was decided once stays, whatever this program's defaults and the next seed are.
    #[test]
    fn a_checked_description_decides_everything(spec in specs(), linux: bool, seeds: (u64, u64)) {
        if let Ok(first) = spec.check(linux, seeds.0) {
            let (again, _) = RunSpec::from_json(first.spec.to_json().unwrap().as_bytes()).unwrap();
            let second = again.check(linux, seeds.1).unwrap();
            prop_assert_eq!(&first.spec, &second.spec);
            prop_assert_eq!((first.seed, first.memory, first.hyperv), (second.seed, second.memory, second.hyperv));
            prop_assert_eq!((first.boot, first.shutdown_grace), (second.boot, second.shutdown_grace));
        }
    }
}
