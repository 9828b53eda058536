//! OVMF with a store of variables, and FAT disks that it can read; SeaBIOS.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use storlock_vmm::boot::{FirmwareRequest, NamedFile, VariableStore};

const OVMF: &str = "/usr/share/OVMF";

fn tool(command: &mut Command) {
    let output = command
        .output()
        .expect("dosfstools and mtools are needed: scripts/setup guests");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A FAT disk of so many bytes with these files.
pub fn make_fat_disk(directory: &Path, bytes: usize, files: &[(&str, &[u8])]) -> PathBuf {
    let disk = directory.join("fat");
    fs::File::create(&disk).unwrap().set_len(bytes as u64).unwrap();
    tool(Command::new("/sbin/mkfs.vfat").arg(&disk));
    for (name, content) in files {
        let file = directory.join(name);
        fs::write(&file, content).unwrap();
        tool(
            Command::new("mcopy")
                .arg("-i")
                .arg(&disk)
                .arg(&file)
                .arg(format!("::{name}")),
        );
    }
    disk
}

/// OVMF with the variables in this file.
pub fn ovmf(variables: &Path) -> FirmwareRequest {
    let code = format!("{OVMF}/OVMF_CODE_4M.fd");
    let file = OpenOptions::new().read(true).write(true).open(variables).unwrap();
    FirmwareRequest {
        code: NamedFile {
            data: fs::read(&code).expect("OVMF is needed: Debian's package ovmf"),
            name: code,
        },
        variables: Some(VariableStore {
            name: variables.display().to_string(),
            content: fs::read(variables).unwrap(),
            file: Some(file),
        }),
        kernel: None,
        display: false,
    }
}

/// SeaBIOS.
pub fn seabios() -> FirmwareRequest {
    let code = "/usr/share/seabios/bios-256k.bin";
    FirmwareRequest {
        code: NamedFile {
            data: fs::read(code).expect("SeaBIOS is needed: scripts/setup guests"),
            name: code.to_owned(),
        },
        variables: None,
        kernel: None,
        display: false,
    }
}

/// A store of variables as OVMF's package has it.
pub fn make_variables(directory: &Path) -> PathBuf {
    let variables = directory.join("variables");
    fs::copy(format!("{OVMF}/OVMF_VARS_4M.fd"), &variables).unwrap();
    variables
}
