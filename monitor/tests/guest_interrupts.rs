//! A Storport driver on a controller that interrupts by messages and by its pin; the guest images as in `guest_run.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::fs;

use support::zoo::bug;
use support::{Run, assert_found_once_at_its_place, assert_nothing_found, run};

/// What the controller offers, and how many messages the driver is given for it: with two processors the controller has
/// three vectors, which MSI rounds up.
const KINDS: [(&str, u32); 3] = [("msix", 3), ("msi", 4), ("intx", 0)];

#[track_caller]
fn assert_messages(run: &Run, messages: u32) {
    let told = format!("nvme: {messages} messages");
    assert!(run.serial().contains(&told), "not told `{told}`: {run}");
}

#[test]
fn guest_a_driver_completes_a_verified_workload_in_each_mode() {
    for (kind, messages) in KINDS {
        let arguments = ["--seed", "3", "--interrupts", kind, "--append", "ops=24 threads=2"];
        let run = run("nvme-ok", &arguments);
        assert_nothing_found(&run);
        assert_messages(&run, messages);
    }
}

/// `InterruptSynchronizeAll`: one interrupt lock for all messages, at the IRQL of the highest.
#[test]
fn guest_messages_can_have_one_lock() {
    let directory = tempfile::tempdir().unwrap();
    let registry = directory.path().join("parameters.reg");
    let key = r"HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\nvme-ok\Parameters\Device";
    let value = "\"InterruptSynchronizeAll\"=dword:00000001";
    let text = format!("Windows Registry Editor Version 5.00\r\n\r\n[{key}]\r\n{value}\r\n");
    fs::write(&registry, text).unwrap();
    for (kind, messages) in [("msix", 3), ("msi", 4)] {
        let mut arguments = vec!["--seed", "3", "--interrupts", kind, "--append", "ops=16 threads=2"];
        arguments.extend(["--registry", registry.to_str().unwrap()]);
        let run = run("nvme-ok", &arguments);
        assert_nothing_found(&run);
        assert_messages(&run, messages);
        let calls = run.report()["calls"].to_string();
        assert!(!calls.contains("MSISpinLock"), "{run}");
    }
}

#[test]
fn guest_two_controllers_share_an_input() {
    // Slots 4 and 8 have the same PIRQ link.
    let mut arguments = vec!["--seed", "3", "--interrupts", "intx", "--append", "ops=8 threads=2"];
    arguments.extend(["--disk", "mem:8M"].repeat(5));
    let run = run("nvme-ok", &arguments);
    assert_nothing_found(&run);
    assert_messages(&run, 0);
}

#[test]
fn guest_a_release_without_acquire_is_found_with_the_pin() {
    let bug = bug("nvme-release-without-acquire");
    let arguments = ["--seed", "5", "--interrupts", "intx", "--append", "ops=8 threads=2"];
    let run = run(&bug.image, &arguments);
    assert_found_once_at_its_place(bug, &run);
    assert_messages(&run, 0);
}
