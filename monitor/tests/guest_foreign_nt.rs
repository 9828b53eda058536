//! Kernels that differ from the plain test kernel as other NT kernels do. In each, the kernel is found, breakpoints are
//! set before the driver's entry point, and drivers are judged as on the plain kernel. Needs a usable /dev/kvm, of
//! whatever kind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use serde_json::Value;
use support::zoo::{Bug, plain_bugs};
use support::{Run, assert_found_once_at_its_place, assert_nothing_found, run};

/// Words of `nt=` on the guest's command line that exclude each other, `""` for none (`guest-images/tinynt/include/foreign.h`).
const LIST: [&str; 3] = ["", "nolist", "head"];
const IMPORTS: [&str; 3] = ["", "va", "oldva"];
/// Those that do not.
const REST: [&str; 4] = ["alias", "half", "wrap", "latekdbg"];
/// `kdbg=`: the size of the debugger data block as of Windows Server 2003, Vista, 7 and 11; 0 for none.
const BLOCK: [&str; 5] = ["340", "318", "328", "388", "0"];
const ALL: usize = (LIST.len() * IMPORTS.len() * BLOCK.len()) << REST.len();

/// The combination with that number, as it goes on the command line.
fn combination(number: usize) -> String {
    let (mut left, mut words) = (number, Vec::new());
    let mut take = |choices: usize| {
        let choice = left % choices;
        left /= choices;
        choice
    };
    let (list, imports, block) = (take(LIST.len()), take(IMPORTS.len()), take(BLOCK.len()));
    words.extend([LIST[list], IMPORTS[imports]]);
    words.extend(REST.into_iter().filter(|_| take(2) == 1));
    words.retain(|word| !word.is_empty());
    format!("nt={} kdbg=0x{}", words.join(","), BLOCK[block])
}

fn run_on(kernel: &str, miniport: &str) -> Run {
    let append = format!("ops=8 threads=2 {kernel}");
    run(
        miniport,
        &["--cpus", "2", "--seed", "3", "--check-guest", "--append", &append],
    )
}

/// Nothing that `--check-guest` looks at is otherwise than on Windows, armed before `DriverEntry` included.
fn assert_as_windows_is(kernel: &str, run: &Run) {
    let report = run.report();
    let rows = report["guest_checks"].as_array().unwrap();
    let failed: Vec<&Value> = rows.iter().filter(|row| row["ok"] != true).collect();
    assert!(failed.is_empty(), "{kernel}: {failed:?}\n{run}");
    let armed = rows.iter().any(|row| row["name"] == "armed before DriverEntry");
    assert!(armed, "{kernel}: {run}");
}

/// A driver without a bug is judged on this kernel as it is on ours.
fn assert_completes(kernel: &str, miniport: &str) {
    let run = run_on(kernel, miniport);
    assert_nothing_found(&run);
    assert_as_windows_is(kernel, &run);
}

fn numbered(bug: usize) -> &'static Bug {
    let bugs = plain_bugs(&["vdisk", "nvme"]);
    bugs[bug % bugs.len()]
}

/// The same of one with a bug.
fn assert_finds(kernel: &str, bug: usize) {
    let bug = numbered(bug);
    let run = run_on(kernel, &bug.image);
    assert_found_once_at_its_place(bug, &run);
    assert_as_windows_is(kernel, &run);
}

/// Both, of the family of miniports that the bug is in.
fn assert_judged(kernel: &str, bug: usize) {
    let family = numbered(bug).image.split('-').next().unwrap();
    assert_completes(kernel, &format!("{family}-ok"));
    assert_finds(kernel, bug);
}

#[test]
fn guest_kernel_without_an_exported_module_list_is_found_by_the_first_driver_object() {
    // Neither the export nor a debugger data block.
    assert_judged("nt=head kdbg=0", 0);
}

#[test]
fn guest_kernel_of_server_2003_tells_its_module_list_by_the_debugger_data_block() {
    let run = run_on("nt=nolist kdbg=0x318", "vdisk-ok");
    assert_nothing_found(&run);
    let rows = run.report()["guest_checks"].to_string();
    assert!(
        rows.contains("the first driver object and the debugger data block"),
        "{rows}"
    );
}

#[test]
fn guest_imports_that_are_addresses_are_read() {
    assert_judged("nt=va kdbg=0x340", 1);
    assert_judged("nt=oldva,nolist kdbg=0x340", 6);
}

#[test]
fn guest_exports_that_share_code_wrappers_and_half_pairs_change_no_verdict() {
    assert_judged("nt=alias,half,wrap,head kdbg=0x388", 2);
}

#[test]
#[ignore = "takes some minutes"]
fn guest_every_difference_is_judged_with_every_other() {
    // The step has no factor in common with the number of combinations. Every other one has a bug, of each kind several times.
    for round in 0..64 {
        let kernel = combination(round * 53 % ALL);
        match round % 4 {
            0 => assert_completes(&kernel, "vdisk-ok"),
            2 => assert_completes(&kernel, "nvme-ok"),
            _ => assert_finds(&kernel, round / 2),
        }
    }
}
