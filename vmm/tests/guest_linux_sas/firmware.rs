//! A driver that is not Linux': SeaBIOS finds the disk, boots from it, reads and writes it.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::pc::firmware::seabios;
use super::pc::run_to;
use super::{Pc, pc};

/// Where the boot sector reads and where it writes, in blocks.
const READ_FROM: usize = 8;
const WRITES_TO: usize = 16;
/// What it reads, and shows.
const TEXT: &[u8] = b"read: by INT 13h\r\n\0";

/// A boot sector that reads a block from the disk that it came from (INT 13h, AH=42h), writes it to COM1, writes the block
/// to the disk (AH=43h), says so, and switches off.
fn boot_sector() -> Vec<u8> {
    #[rustfmt::skip]
    let code = [
        0x31, 0xc0,                   // xor ax, ax
        0x8e, 0xd8,                   // mov ds, ax
        0x8e, 0xc0,                   // mov es, ax
        0x8e, 0xd0,                   // mov ss, ax
        0xbc, 0x00, 0x7c,             // mov sp, 7C00h
        0x88, 0x16, 0xe0, 0x7d,       // mov [7DE0h], dl: the disk
        0xbe, 0x80, 0x7c,             // mov si, 7C80h: the first text
        0xe8, 0x32, 0x00,             // call print
        0xb4, 0x42,                   // mov ah, 42h
        0xe8, 0x23, 0x00,             // call disk
        0x72, 0x19,                   // jc off
        0xbe, 0x00, 0x80,             // mov si, 8000h: what was read
        0xe8, 0x25, 0x00,             // call print
        0xc6, 0x06, 0xa8, 0x7c, 0x10, // mov byte [7CA8h], WRITES_TO
        0xb8, 0x00, 0x43,             // mov ax, 4300h
        0xe8, 0x10, 0x00,             // call disk
        0x72, 0x06,                   // jc off
        0xbe, 0xb0, 0x7c,             // mov si, 7CB0h: the last text
        0xe8, 0x12, 0x00,             // call print
        0xba, 0x04, 0xb0,             // off: mov dx, B004h (PM1 control)
        0xb8, 0x00, 0x20,             // mov ax, 2000h (SLP_EN, S5)
        0xef,                         // out dx, ax
        0xf4,                         // hlt
        0x8a, 0x16, 0xe0, 0x7d,       // disk: mov dl, [7DE0h]
        0xbe, 0xa0, 0x7c,             // mov si, 7CA0h: the address packet
        0xcd, 0x13,                   // int 13h
        0xc3,                         // ret
        0xba, 0xf8, 0x03,             // print: mov dx, 3F8h
        0xac,                         // next: lodsb
        0x84, 0xc0,                   // test al, al
        0x74, 0x03,                   // jz done
        0xee,                         // out dx, al
        0xeb, 0xf8,                   // jmp next
        0xc3,                         // done: ret
    ];
    // Its size, one block, to 0000:8000, from READ_FROM.
    let packet = [0x10, 0, 1, 0, 0, 0x80, 0, 0, READ_FROM as u8];
    let parts: [(usize, &[u8]); 5] = [
        (0, &code),
        (0x80, b"booted by: BIOS\r\n\0"),
        (0xa0, &packet),
        (0xb0, b"written: back\r\n\0"),
        (510, &[0x55, 0xaa]),
    ];
    let mut sector = vec![0; 512];
    for (at, part) in parts {
        sector[at..at + part.len()].copy_from_slice(part);
    }
    sector
}

#[test]
fn seabios_boots_from_a_sas_disk_reads_it_and_writes_it() {
    let Pc {
        mut machine,
        console,
        log,
        disks,
        _directory,
        ..
    } = pc(1, 2, Vec::new());
    let mut image = fs::read(&disks[0]).unwrap();
    image[..512].copy_from_slice(&boot_sector());
    image[512 * READ_FROM..][..TEXT.len()].copy_from_slice(TEXT);
    // In place: the machine has the file open.
    write_in_place(&disks[0], &image[..512 * (READ_FROM + 1)]);
    machine.boot_firmware(seabios()).unwrap();
    run_to(machine, &console, "power-off");
    println!("{}", log.text());
    for line in ["booted by: BIOS", "read: by INT 13h", "written: back"] {
        assert!(console.text().contains(line), "no {line:?}: {}", log.text());
    }
    let written = fs::read(&disks[0]).unwrap();
    assert_eq!(&written[512 * WRITES_TO..][..TEXT.len()], TEXT);
}

fn write_in_place(path: &Path, data: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(data).unwrap();
}
