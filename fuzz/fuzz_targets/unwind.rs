//! Stacks of a guest whose unwind tables, code, stack and module list are hostile: the walk, and who called.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use storlock::vmi::{GuestMemory, PAGE_SIZE, ReadError, Registers};
use storlock::windows::{FileImage, Modules, attribute, unwind};

const BASE: u64 = 0xffff_f800_1000_0000;
const LIST: u64 = 0xffff_f800_2000_0000;
const STACK: u64 = 0xffff_f800_3000_0000;
const LIST_SIZE: usize = 0x2000;
const STACK_SIZE: usize = 0x4000;
const FRAMES: usize = 64;
const PAGE: usize = PAGE_SIZE as usize;
/// Where in the list's memory the one entry and its name are.
const ENTRY: u64 = LIST + 0x100;
const NAME: u64 = LIST + 0x400;

/// Functions with every kind of frame that mingw makes, in memory layout with the headers at its start. The file was made by
/// `x86_64-w64-mingw32-gcc -O2 -mno-stack-arg-probe -ffreestanding -nostdlib -shared -s -Wl,--entry=leaf -o unwind.dll
/// frames.c`, of the unwinder's tests.
static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let file =
        FileImage::parse(include_bytes!("../../monitor/tests/data/unwind.dll").to_vec()).expect("it is an image");
    let image = file.image();
    let mut bytes = vec![0; (image.size as usize).next_multiple_of(PAGE)];
    for (page, bytes) in bytes.chunks_exact_mut(PAGE).enumerate() {
        // What the file does not have is zero.
        let _ = file.read(image.base + (page * PAGE) as u64, bytes);
    }
    let head = (image.header_size as usize).min(PAGE);
    bytes[..head].copy_from_slice(&file.data()[..head]);
    bytes
});

#[derive(Debug, Arbitrary)]
struct Input {
    /// Places in the image, what is written there, and how many bytes of it.
    image: Vec<(u32, u64, u8)>,
    list: Vec<(u16, u64)>,
    stack: Vec<u64>,
    rip: u32,
    rsp: u16,
    registers: [u8; 16],
}

struct Memory {
    image: Vec<u8>,
    list: Vec<u8>,
    stack: Vec<u8>,
}

impl GuestMemory for Memory {
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        for (base, bytes) in [(BASE, &self.image), (LIST, &self.list), (STACK, &self.stack)] {
            let offset = gva.checked_sub(base).and_then(|offset| usize::try_from(offset).ok());
            let found = offset.and_then(|offset| bytes.get(offset..offset.checked_add(buf.len())?));
            if let Some(found) = found {
                buf.copy_from_slice(found);
                return Ok(());
            }
        }
        Err(ReadError::NotMapped(gva))
    }
}

/// A list with this module, as Windows has it.
fn module_list(size: usize) -> Vec<u8> {
    let mut list = vec![0; LIST_SIZE];
    let mut put = |at: u64, value: u64| {
        let at = (at - LIST) as usize;
        list[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    for head in [LIST, LIST + 8] {
        put(head, ENTRY);
    }
    for (offset, value) in [
        (0, LIST),
        (8, LIST),
        (0x30, BASE),
        (0x38, BASE + PAGE_SIZE),
        (0x40, size as u64),
        (0x58, 0x18_0018),
        (0x60, NAME),
    ] {
        put(ENTRY + offset, value);
    }
    for (number, unit) in "storport.sys".encode_utf16().enumerate() {
        let at = (NAME - LIST) as usize + 2 * number;
        list[at..at + 2].copy_from_slice(&unit.to_le_bytes());
    }
    list
}

fuzz_target!(|input: Input| {
    let size = IMAGE.len();
    let mut memory = Memory {
        image: IMAGE.clone(),
        list: module_list(size),
        stack: vec![0; STACK_SIZE],
    };
    for (at, value, width) in input.image.iter().take(64) {
        let at = *at as usize % size;
        let width = 1 + usize::from(width % 8);
        for (place, byte) in memory.image[at..].iter_mut().zip(value.to_le_bytes()).take(width) {
            *place = byte;
        }
    }
    for (at, value) in input.list.iter().take(8) {
        let at = usize::from(*at) % (LIST_SIZE - 7);
        memory.list[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    for (slot, value) in memory.stack.chunks_exact_mut(8).zip(&input.stack) {
        let value = match value % 3 {
            0 => BASE + value % size as u64,
            1 => STACK + value % STACK_SIZE as u64 / 8 * 8,
            _ => *value,
        };
        slot.copy_from_slice(&value.to_le_bytes());
    }
    let mut registers = Registers::default();
    for (register, value) in registers.gpr.iter_mut().zip(input.registers) {
        *register = STACK + u64::from(value) * 64;
    }
    registers.gpr[4] = STACK + u64::from(input.rsp) % STACK_SIZE as u64 / 8 * 8;
    registers.rip = BASE + u64::from(input.rip) % size as u64;
    let mut modules = Modules::new(LIST);
    let _ = modules.refresh(&memory);
    let stack = unwind::walk(&memory, &mut modules, &registers, FRAMES);
    assert!(stack.frames.len() <= FRAMES);
    let _ = attribute(&memory, &mut modules, &registers).note(|address| format!("{address:#x}"));
});
