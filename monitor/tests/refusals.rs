//! What `storlock run` refuses before a guest is started: no KVM is needed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn images() -> PathBuf {
    if let Some(directory) = std::env::var_os("STORLOCK_IMAGES") {
        return directory.into();
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("refusal-images");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-images/build");
    assert!(Command::new(script).arg(&directory).status().unwrap().success());
    directory
}

/// Exit code and standard error of a run.
fn refused(driver: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_storlock"));
    command
        .args(["run", "--driver"])
        .arg(driver)
        .args(arguments)
        .env("STORLOCK_IMAGES", images());
    if !arguments.contains(&"--report-dir") {
        command.arg("--report-dir").arg(directory.path().join("report"));
    }
    let output = command.args(["--time-limit", "60s"]).output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn driver() -> PathBuf {
    images().join("miniports/vdisk-ok.sys")
}

#[test]
fn a_missing_driver_is_named() {
    let (code, text) = refused(Path::new("/nowhere/none.sys"), &[]);
    assert_eq!(code, Some(5));
    assert!(text.contains("/nowhere/none.sys"), "{text}");
}

#[test]
fn a_truncated_driver_is_told_from_a_whole_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cut.sys");
    let whole = fs::read(driver()).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let (code, text) = refused(&path, &[]);
    assert_eq!(code, Some(5));
    assert!(text.contains("truncated"), "{text}");
}

#[test]
fn imports_that_the_guest_does_not_have_are_all_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("odd.sys");
    let mut bytes = fs::read(driver()).unwrap();
    for name in ["KeReleaseSpinLockFromDpcLevel", "KeAcquireSpinLockRaiseToDpc"] {
        let at = bytes
            .windows(name.len())
            .position(|window| window == name.as_bytes())
            .unwrap();
        bytes[at + 2] = b'X';
    }
    fs::write(&path, bytes).unwrap();
    let (code, text) = refused(&path, &[]);
    assert_eq!(code, Some(5));
    assert!(
        text.contains("KeXeleaseSpinLockFromDpcLevel") && text.contains("KeXcquireSpinLockRaiseToDpc"),
        "{text}"
    );
}

#[test]
fn a_report_directory_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let directory = file.path().join("report");
    let (code, text) = refused(&driver(), &["--report-dir", directory.to_str().unwrap()]);
    assert_eq!(code, Some(5));
    assert!(text.contains(directory.to_str().unwrap()), "{text}");
}

#[test]
fn a_kvm_device_that_is_not_there_is_named_with_advice() {
    let (code, text) = refused(&driver(), &["--kvm", "/nowhere/kvm"]);
    assert_eq!(code, Some(5));
    assert!(text.contains("/nowhere/kvm") && text.contains("modprobe"), "{text}");
}

#[test]
fn an_impossible_option_is_a_usage_error() {
    for arguments in [
        ["--cpus", "0"],
        ["--memory", "lots"],
        ["--time-limit", "0s"],
        ["--dump-export", "nothing"],
        ["--disk", "disk.img,rw"],
        ["--disk", "disk.img,readonly,snapshot"],
        ["--rule", "LockOrder=on"],
        ["--append", "caf\u{e9}"],
        ["--gdb", "unix:"],
    ] {
        let (code, text) = refused(&driver(), &arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
    }
}

#[test]
fn disks_that_cannot_be_together_are_a_usage_error() {
    let many = ["--disk", "mem:1M"].repeat(17);
    for (arguments, why) in [
        (&["--disk", "mem:1M,namespace"][..], "the first disk"),
        (&["--disk", "mem:1M,target", "--disk", "mem:1M,target"], "only one disk"),
        (&["--disk", "mem:1M,target=1"], "the first disk"),
        (
            &["--disk", "mem:1M,controller=sas", "--disk", "mem:1M,target=2"],
            "this one is 1",
        ),
        (
            &["--disk", "mem:1M,controller=sas", "--disk", "mem:1M,namespace"],
            "`target=1`",
        ),
        (&["--disk", "mem:1M,target=0"], "not for nvme"),
        (&many, "at most 16 disks"),
    ] {
        let (code, text) = refused(&driver(), arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(text.contains("--disk") && text.contains(why), "{text}");
    }
}

#[test]
fn firmware_variables_that_somebody_else_uses_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (code, variables) = (directory.path().join("code.fd"), directory.path().join("vars.fd"));
    fs::write(&code, [0; 4096]).unwrap();
    fs::write(&variables, [0xff; 4096]).unwrap();
    let user = fs::OpenOptions::new().read(true).write(true).open(&variables).unwrap();
    storlock_vmm::storage::backend::lock_for_writing(&user).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_storlock"))
        .args(["run", "--time-limit", "10s", "--firmware"])
        .arg(&code)
        .arg("--variables")
        .arg(&variables)
        .arg("--report-dir")
        .arg(directory.path().join("report"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("vars.fd") && text.contains("in use"), "{text}");
}

#[test]
fn a_disk_file_that_is_in_use_is_refused_and_no_lock_stays_behind() {
    let directory = tempfile::tempdir().unwrap();
    let (code, text) = refused(
        &driver(),
        &["--disk", directory.path().join("none.img").to_str().unwrap()],
    );
    assert_eq!(code, Some(5));
    assert!(text.contains("none.img") || text.contains("kvm"), "{text}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_fault_that_makes_no_sense_is_a_usage_error_that_says_what_is_wrong() {
    for (fault, why) in [
        ("explode:read", "unknown kind `explode`"),
        ("fail:reed", "`reed` is no command and no register"),
        ("delay:read", "delay needs for=TIME"),
    ] {
        let (code, text) = refused(&driver(), &["--fault", fault]);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(why) && text.contains("--fault"), "{text}");
    }
}

#[test]
fn a_dump_that_cannot_be_written_or_have_its_symbols_is_refused_before_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("missing/x.dmp");
    let (code, text) = refused(&driver(), &["--dump-on-violation", place.to_str().unwrap()]);
    assert_eq!(code, Some(5), "{text}");
    assert!(
        text.contains("--dump-on-violation") && text.contains("missing/x.dmp"),
        "{text}"
    );
    // The test guest's kernel has no PDB, so that any is one too many.
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kernel.pdb");
    let place = directory.path().join("x.dmp");
    let [place, symbols] = [&place, &whole].map(|path| path.to_str().unwrap());
    let (code, text) = refused(&driver(), &["--dump-on-violation", place, "--symbols", symbols]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("kernel.pdb") && text.contains("names no PDB"), "{text}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn what_means_nothing_to_a_guest_that_firmware_boots_is_refused() {
    let (code, text) = refused(Path::new("mydriver"), &["--firmware"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("with its extension, such as mydriver.sys"), "{text}");
    for option in ["--port-driver", "--load", "--registry", "--append"] {
        let (code, text) = refused(Path::new("mydriver.sys"), &["--firmware", option, "x"]);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(option), "{text}");
    }
}

#[test]
fn a_run_that_is_refused_leaves_no_files_behind() {
    let directory = tempfile::tempdir().unwrap();
    let [report, recording, serial] = ["report", "run.rec", "serial"].map(|name| directory.path().join(name));
    let (code, text) = refused(
        &driver(),
        &[
            "--kvm",
            "/nowhere/kvm",
            "--report-dir",
            report.to_str().unwrap(),
            "--record",
            recording.to_str().unwrap(),
            "--serial",
            serial.to_str().unwrap(),
        ],
    );
    assert_eq!(code, Some(5), "{text}");
    assert_eq!(fs::read_dir(&report).unwrap().count(), 0, "{text}");
    assert!(!recording.exists() && !serial.exists(), "{text}");
}

#[test]
fn symbols_are_a_directory_or_a_pdb_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let [fifo, file, missing] = ["pipe", "file", "missing"].map(|name| directory.path().join(name));
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    fs::write(&file, "no PDB").unwrap();
    for (path, expected, why) in [
        (fifo, 2, "neither a directory nor a regular file"),
        (file, 2, "neither a directory nor a regular file"),
        (missing, 5, "No such file"),
    ] {
        let (code, text) = refused(&driver(), &["--symbols", path.to_str().unwrap()]);
        assert_eq!(code, Some(expected), "{text}");
        assert!(text.contains("--symbols") && text.contains(why), "{text}");
    }
}

#[test]
fn a_description_that_is_not_understood_is_refused_before_anything_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report");
    fs::create_dir(&report).unwrap();
    fs::write(report.join("report.json"), "of an earlier run").unwrap();
    let spec = directory.path().join("spec.json");
    for (text, why) in [
        (
            r#"{"schema": "storlock-run/1", "drvier": "x"}"#,
            "unknown field `drvier`",
        ),
        (r#"{"schema": "storlock-run/7"}"#, "storlock-run/7"),
        (r#"{"cpus": 2}"#, "no `schema`"),
        ("{", "EOF"),
    ] {
        fs::write(&spec, text).unwrap();
        let spec = spec.to_str().unwrap();
        let (code, told) = refused(&driver(), &["--spec", spec, "--report-dir", report.to_str().unwrap()]);
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains("spec.json") && told.contains(why), "{told}");
        assert!(report.join("report.json").exists(), "nothing was touched");
    }
}

#[test]
fn what_is_printed_describes_the_run_and_runs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let print = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_storlock"))
            .arg("run")
            .args(arguments)
            .arg("--print-spec")
            .current_dir(directory.path())
            .env("STORLOCK_IMAGES", images())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let first = print(&[
        "--driver",
        "x.sys",
        "--disk",
        "a,,b.img,snapshot",
        "--fault",
        "drop:read",
    ]);
    assert!(first.contains(r#""seed": "#), "a seed was chosen: {first}");
    fs::write(directory.path().join("spec.json"), &first).unwrap();
    assert_eq!(print(&["--spec", "spec.json"]), first);
    let other = print(&["--spec", "spec.json", "--cpus", "5"]);
    assert_eq!(other, first.replace(r#""cpus": 2"#, r#""cpus": 5"#));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing was made");
}

#[test]
fn a_usage_error_leaves_an_earlier_report_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let [report, fifo] = ["report", "pipe"].map(|name| directory.path().join(name));
    fs::create_dir(&report).unwrap();
    fs::write(report.join("report.json"), "of an earlier run").unwrap();
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let exports = ["--dump-export", "nt!KiBugCheckData:40"].repeat(65);
    for arguments in [
        &["--phys-bits", "36", "--memory", "100G"][..],
        &["--symbols", fifo.to_str().unwrap()],
        &["--rule", "LockOrder=off", "--rule", "LockOrder=a.sys"],
        &exports,
    ] {
        let arguments = [arguments, &["--report-dir", report.to_str().unwrap()]].concat();
        let (code, text) = refused(&driver(), &arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(report.join("report.json").exists(), "{arguments:?}: {text}");
    }
}

/// There is no such KVM: what is written before that is known is written.
fn again(directory: &Path, arguments: &[&str], input: Option<&Path>) -> (Option<i32>, String) {
    let input = input.map_or_else(std::process::Stdio::null, |path| fs::File::open(path).unwrap().into());
    let output = Command::new(env!("CARGO_BIN_EXE_storlock"))
        .args(["run", "--kvm", "/nowhere/kvm"])
        .args(arguments)
        .current_dir(directory)
        .env("STORLOCK_IMAGES", images())
        .stdin(input)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), told)
}

#[test]
fn a_run_by_a_report_does_not_touch_what_the_reports_run_has_written() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let spec = serde_json::json!({"schema": "storlock-run/1", "driver": driver(), "record": "r.rec", "serial": "s.log",
        "report": ["r.html"], "dump_on_violation": "v.dmp", "report_dir": "first"});
    fs::create_dir(at("first")).unwrap();
    let report = serde_json::json!({"schema": "storlock-report/2", "run": {"spec": spec}}).to_string();
    let files = ["first/report.json", "r.rec", "s.log", "r.html", "v.dmp"];
    for name in &files {
        fs::write(at(name), &report).unwrap();
    }
    let untouched = |told: &str| {
        for name in files {
            assert_eq!(
                fs::read_to_string(at(name)).unwrap_or_default(),
                report,
                "{name}: {told}"
            );
        }
    };
    let (code, told) = again(directory.path(), &["--spec", "first/report.json"], None);
    assert_eq!(code, Some(5), "{told}");
    untouched(&told);
    for name in [
        "--record r.rec",
        "--serial s.log",
        "--report r.html",
        "--dump-on-violation v.dmp",
        "--report-dir first",
    ] {
        assert!(told.contains(name), "{told}");
    }
    // Nor is the report replaced that the run is described by, however it is read.
    for (spec, input) in [("first/report.json", None), ("-", Some(at("first/report.json")))] {
        let (code, told) = again(
            directory.path(),
            &["--spec", spec, "--report-dir", "first"],
            input.as_deref(),
        );
        assert_eq!(code, Some(2), "{told}");
        assert!(
            told.contains("--spec") && told.contains("nothing was touched"),
            "{told}"
        );
        untouched(&told);
    }
    // What is named is written, and no word is lost on it.
    let (_, told) = again(
        directory.path(),
        &["--spec", "first/report.json", "--record", "r.rec"],
        None,
    );
    assert!(!at("r.rec").exists() && !told.contains("--record r.rec"), "{told}");
}

#[test]
fn a_path_may_have_any_bytes_in_every_option_that_takes_one() {
    use std::os::unix::ffi::OsStrExt as _;
    let odd = |before: &[u8], after: &[u8]| -> std::ffi::OsString {
        std::ffi::OsStr::from_bytes(&[before, b"/tmp/\xff", after].concat()).to_owned()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_storlock"));
    command
        .args(["run", "--print-spec", "--driver"])
        .arg(odd(b"", b"/x.sys"));
    command.arg("--load").arg(odd(b"", b"/y.sys"));
    for option in [
        "--port-driver",
        "--registry",
        "--report-dir",
        "--record",
        "--serial",
        "--symbols",
        "--kvm",
    ] {
        command.arg(option).arg(odd(b"", b""));
    }
    command.arg("--disk").arg(odd(b"", b",snapshot=1M,backing=a"));
    command.arg("--disk").arg(odd(b"x,backing=", b""));
    command.arg("--gdb").arg(odd(b"unix:", b""));
    command.arg("--report").arg(odd(b"", b".html"));
    let output = command.env("STORLOCK_IMAGES", images()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches("2f746d702fff").count(), 13, "{text}");
}
