//! `storlock symbols` on another project's kernel image, Wine's ntoskrnl.exe, compared with what objdump says of it.
//!
//! Slow, since it fetches the package: run by `scripts/test --all`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Fetches and unpacks the package into a directory; gives the kernel image for x64.
fn wine_kernel(directory: &Path) -> PathBuf {
    // apt drops its privileges for the download, so the directory has to be open.
    output(Command::new("chmod").arg("755").arg(directory));
    output(
        Command::new("timeout")
            .args(["300", "apt-get", "download", "libwine"])
            .current_dir(directory),
    );
    let package = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let package = package
        .into_iter()
        .find(|path| path.extension().is_some_and(|ending| ending == "deb"))
        .unwrap();
    output(Command::new("dpkg").arg("-x").arg(package).arg(directory));
    let kernel = directory.join("usr/lib/x86_64-linux-gnu/wine/x86_64-windows/ntoskrnl.exe");
    assert!(kernel.exists(), "the package has no {}", kernel.display());
    kernel
}

/// Names and addresses of the lock exports, as objdump lists them.
fn by_objdump(kernel: &Path) -> BTreeMap<String, u64> {
    let text = output(Command::new("x86_64-w64-mingw32-objdump").arg("-p").arg(kernel));
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let (mut addresses, mut names) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        // "[ 313] +base[ 314] 1ff30 Export RVA", and further on "[ 313] IoAcquireCancelSpinLock".
        let Some((index, rest)) = line.trim().strip_prefix('[').and_then(|line| line.split_once(']')) else {
            continue;
        };
        let Some(index) = number(index) else { continue };
        let rest = rest.trim();
        if let Some(rest) = rest.strip_prefix("+base[") {
            let address = rest
                .split_once(']')
                .and_then(|(_, rest)| rest.trim().strip_suffix(" Export RVA"));
            if let Some(address) = address {
                addresses.insert(index, u64::from_str_radix(address.trim(), 16).unwrap());
            }
        } else if rest.contains("SpinLock") {
            names.insert(rest.to_owned(), index);
        }
    }
    names
        .into_iter()
        .map(|(name, index)| (name, addresses[&index]))
        .collect()
}

#[test]
#[ignore = "fetches a package of 40 MB"]
fn lock_exports_of_wine_s_kernel_are_what_objdump_says() {
    let directory = tempfile::tempdir().unwrap();
    let kernel = wine_kernel(directory.path());
    let json = output(
        Command::new(env!("CARGO_BIN_EXE_storlock"))
            .arg("symbols")
            .args(["--format", "json"])
            .arg(&kernel),
    );
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let found: BTreeMap<String, u64> = json["exports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|export| {
            (
                export["name"].as_str().unwrap().to_owned(),
                export["rva"].as_u64().unwrap(),
            )
        })
        .collect();
    let expected = by_objdump(&kernel);
    assert!(
        expected.contains_key("KeReleaseSpinLock") && expected.len() > 10,
        "{expected:?}"
    );
    assert_eq!(found, expected);
}
