//! The registers of an x64 processor as gdb numbers them, and the description that tells gdb so.
//!
//! The order is that of QEMU's `i386-64bit.xml`, which WinDbg's EXDI client takes for granted: general, RIP, flags,
//! segments, bases, control registers, x87, SSE. A client that says it is gdb or lldb gets AVX behind them. Plain data; it must
//! not know where registers come from.

use std::fmt::Write as _;
use std::num::NonZeroUsize;

use gdbstub::arch::{Arch, RegId, Registers};

use crate::vmi::debuggee::AllRegisters;

/// Number of registers without AVX's.
pub(crate) const COUNT: usize = 66;
/// Number of registers with the upper halves of the YMM registers, which come last.
const COUNT_WITH_AVX: usize = COUNT + 16;
/// Number of RIP.
const RIP: usize = 16;
/// gdb's order of the general registers, by their encoding in instructions.
const GENERAL: [usize; 16] = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];
const GENERAL_NAMES: [&str; 16] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
];
const SYSTEM_NAMES: [&str; 9] = [
    "fs_base",
    "gs_base",
    "k_gs_base",
    "cr0",
    "cr2",
    "cr3",
    "cr4",
    "cr8",
    "efer",
];
const SEGMENT_NAMES: [&str; 6] = ["cs", "ss", "ds", "es", "fs", "gs"];
const X87_NAMES: [&str; 8] = ["fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"];

/// What a register number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    General(usize),
    Rip,
    Flags,
    Segment(usize),
    System(usize),
    St(usize),
    X87(usize),
    Xmm(usize),
    Mxcsr,
    YmmHigh(usize),
}

/// A register by gdb's number, below [`COUNT_WITH_AVX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Register(usize);

impl Register {
    /// All, in order.
    pub(crate) fn all(avx: bool) -> impl Iterator<Item = Self> {
        (0..if avx { COUNT_WITH_AVX } else { COUNT }).map(Self)
    }

    /// All that there are among `values`.
    pub(crate) fn all_of(values: &AllRegisters) -> impl Iterator<Item = Self> + use<> {
        Self::all(values.floating.ymm_high.is_some())
    }

    /// Whether only a processor with AVX has it.
    pub(crate) fn is_avx(self) -> bool {
        self.0 >= COUNT
    }

    fn place(self) -> Place {
        match self.0 {
            number @ 0..=15 => Place::General(GENERAL[number]),
            RIP => Place::Rip,
            17 => Place::Flags,
            number @ 18..=23 => Place::Segment(number - 18),
            number @ 24..=32 => Place::System(number - 24),
            number @ 33..=40 => Place::St(number - 33),
            number @ 41..=48 => Place::X87(number - 41),
            number @ 49..=64 => Place::Xmm(number - 49),
            65 => Place::Mxcsr,
            number => Place::YmmHigh(number - COUNT),
        }
    }

    /// Size in bytes.
    pub(crate) fn size(self) -> usize {
        match self.place() {
            Place::General(_) | Place::Rip | Place::System(_) => 8,
            Place::Flags | Place::Segment(_) | Place::X87(_) | Place::Mxcsr => 4,
            Place::St(_) => 10,
            Place::Xmm(_) | Place::YmmHigh(_) => 16,
        }
    }

    /// gdb's name.
    pub(crate) fn name(self) -> String {
        match self.place() {
            Place::General(_) => GENERAL_NAMES[self.0].to_owned(),
            Place::Rip => "rip".to_owned(),
            Place::Flags => "eflags".to_owned(),
            Place::Segment(index) => SEGMENT_NAMES[index].to_owned(),
            Place::System(index) => SYSTEM_NAMES[index].to_owned(),
            Place::St(index) => format!("st{index}"),
            Place::X87(index) => X87_NAMES[index].to_owned(),
            Place::Xmm(index) => format!("xmm{index}"),
            Place::Mxcsr => "mxcsr".to_owned(),
            Place::YmmHigh(index) => format!("ymm{index}h"),
        }
    }

    /// Its value, little-endian; [`Register::size`] bytes count.
    pub(crate) fn get(self, all: &AllRegisters) -> [u8; 16] {
        let narrow = |value: u64| u128::from(value).to_le_bytes();
        match self.place() {
            Place::General(encoding) => narrow(all.general.gpr[encoding]),
            Place::Rip => narrow(all.general.rip),
            Place::Flags => narrow(all.general.rflags),
            Place::Segment(index) => narrow(u64::from(all.selectors[index])),
            Place::System(index) => {
                let mut all = *all;
                narrow(*system(&mut all, index))
            }
            Place::St(index) => all.floating.st[index],
            Place::X87(index) => narrow(x87(all, index)),
            Place::Xmm(index) => all.floating.xmm[index],
            Place::Mxcsr => narrow(u64::from(all.floating.mxcsr)),
            Place::YmmHigh(index) => all.floating.ymm_high.unwrap_or_default()[index],
        }
    }

    /// Changes it. `value` has [`Register::size`] bytes, little-endian; missing ones are zero.
    pub(crate) fn set(self, all: &mut AllRegisters, value: &[u8]) {
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(value) {
            *to = *from;
        }
        let wide = u128::from_le_bytes(bytes) as u64;
        match self.place() {
            Place::General(encoding) => all.general.gpr[encoding] = wide,
            Place::Rip => all.general.rip = wide,
            // The upper half of RFLAGS is reserved.
            Place::Flags => all.general.rflags = wide & 0xffff_ffff,
            Place::Segment(index) => all.selectors[index] = wide as u16,
            Place::System(index) => *system(all, index) = wide,
            Place::St(index) => all.floating.st[index] = bytes,
            Place::X87(index) => set_x87(all, index, wide),
            Place::Xmm(index) => all.floating.xmm[index] = bytes,
            Place::Mxcsr => all.floating.mxcsr = wide as u32,
            Place::YmmHigh(index) => all.floating.ymm_high.get_or_insert_default()[index] = bytes,
        }
    }

    /// How gdb shows it.
    fn gdb_type(self) -> &'static str {
        match self.place() {
            // RSP and RBP.
            Place::General(4 | 5) => "data_ptr",
            Place::General(_) => "int64",
            Place::Rip => "code_ptr",
            Place::Flags => "i386_eflags",
            Place::Segment(_) => "int32",
            // The bases are addresses; the rest are bits, which read best as a number.
            Place::System(index) if index < 3 => "data_ptr",
            Place::System(_) => "uint64",
            Place::St(_) => "i387_ext",
            Place::X87(_) => "int",
            Place::Xmm(_) => "vec128",
            Place::Mxcsr => "i386_mxcsr",
            Place::YmmHigh(_) => "uint128",
        }
    }
}

fn system(all: &mut AllRegisters, index: usize) -> &mut u64 {
    match index {
        0 => &mut all.fs_base,
        1 => &mut all.gs_base,
        2 => &mut all.kernel_gs_base,
        3 => &mut all.cr0,
        4 => &mut all.cr2,
        5 => &mut all.cr3,
        6 => &mut all.cr4,
        7 => &mut all.cr8,
        _ => &mut all.efer,
    }
}

/// gdb wants the long form of the tag word: two bits a register. What is in use is called valid (0), the rest empty (3).
fn x87(all: &AllRegisters, index: usize) -> u64 {
    let f = &all.floating;
    match index {
        0 => u64::from(f.control),
        1 => u64::from(f.status),
        2 => (0..8).fold(0, |tags, number| {
            let empty = f.tag >> number & 1 == 0;
            tags | if empty { 3 << (2 * number) } else { 0 }
        }),
        // In 64-bit code the upper halves of the pointers stand where the segments were.
        3 => f.instruction >> 32,
        4 => f.instruction & 0xffff_ffff,
        5 => f.operand >> 32,
        6 => f.operand & 0xffff_ffff,
        _ => u64::from(f.opcode),
    }
}

fn set_x87(all: &mut AllRegisters, index: usize, value: u64) {
    let f = &mut all.floating;
    let low = value & 0xffff_ffff;
    match index {
        0 => f.control = value as u16,
        1 => f.status = value as u16,
        2 => {
            f.tag = (0..8).fold(0, |tag, number| {
                tag | u8::from(value >> (2 * number) & 3 != 3) << number
            });
        }
        3 => f.instruction = f.instruction & 0xffff_ffff | low << 32,
        4 => f.instruction = f.instruction >> 32 << 32 | low,
        5 => f.operand = f.operand & 0xffff_ffff | low << 32,
        6 => f.operand = f.operand >> 32 << 32 | low,
        _ => f.opcode = value as u16,
    }
}

/// The whole set of one processor, as the `g` and `G` packets carry it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RegisterSet(pub(crate) AllRegisters);

impl Registers for RegisterSet {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.0.general.rip
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        for register in Register::all_of(&self.0) {
            let value = register.get(&self.0);
            value[..register.size()].iter().for_each(|&byte| write_byte(Some(byte)));
        }
    }

    fn gdb_deserialize(&mut self, mut bytes: &[u8]) -> Result<(), ()> {
        for register in Register::all(true) {
            if register.0 == COUNT && bytes.is_empty() {
                // Without AVX.
                break;
            }
            let (value, rest) = bytes.split_at_checked(register.size()).ok_or(())?;
            register.set(&mut self.0, value);
            bytes = rest;
        }
        if bytes.is_empty() { Ok(()) } else { Err(()) }
    }
}

impl RegId for Register {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        let register = (id < COUNT_WITH_AVX).then_some(Self(id))?;
        Some((register, NonZeroUsize::new(register.size())))
    }

    fn to_raw_id(&self) -> Option<usize> {
        Some(self.0)
    }
}

/// Bytes of the whole set, as the `g` and `G` packets carry it.
pub(crate) fn size_of_all(avx: bool) -> usize {
    Register::all(avx).map(Register::size).sum()
}

/// x64 with the registers above.
#[derive(Debug)]
pub(crate) enum X64 {}

impl Arch for X64 {
    type Usize = u64;
    type Registers = RegisterSet;
    type BreakpointKind = usize;
    type RegId = Register;
}

/// The name under which the target description includes the registers; WinDbg's client looks for it.
const REGISTERS_FILE: &str = "i386-64bit.xml";
/// The names of what is there with AVX: gdb wants SSE to be a feature of its own then.
const SSE_FILE: &str = "i386-64bit-sse.xml";
const AVX_FILE: &str = "i386-64bit-avx.xml";

/// A file of the target description: `target.xml`, or what that includes. `None` if there is none of that name.
pub(crate) fn description(name: &str, avx: bool) -> Option<String> {
    Some(match name {
        "target.xml" => target_xml(avx),
        REGISTERS_FILE => feature("core", &[core_xml(), if avx { String::new() } else { sse_xml() }]),
        SSE_FILE if avx => feature("sse", &[sse_xml()]),
        AVX_FILE if avx => {
            let registers = Register::all(true).filter(|register| register.is_avx());
            feature("avx", &[registers.map(Register::xml).collect()])
        }
        _ => return None,
    })
}

fn feature(name: &str, parts: &[String]) -> String {
    format!(
        "<?xml version=\"1.0\"?><!DOCTYPE feature SYSTEM \"gdb-target.dtd\">\
         <feature name=\"org.gnu.gdb.i386.{name}\">{}</feature>",
        parts.concat()
    )
}

/// The target description. No line breaks: WinDbg's client does not take them.
///
/// The OS ABI is "none": with it every gdb asks for the list of libraries in the form that fits modules which are
/// mapped as a whole. (Debian's gdb does not know "Windows".)
fn target_xml(avx: bool) -> String {
    let files = if avx {
        &[REGISTERS_FILE, SSE_FILE, AVX_FILE][..]
    } else {
        &[REGISTERS_FILE]
    };
    let mut includes = String::new();
    for file in files {
        // Writing to a string cannot fail.
        let _ = write!(includes, "<xi:include href=\"{file}\"/>");
    }
    format!(
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>\
         <architecture>i386:x86-64</architecture><osabi>none</osabi>{includes}</target>"
    )
}

/// All registers but SSE's.
fn core_xml() -> String {
    let mut xml = flags(
        "i386_eflags",
        &[
            ("CF", 0),
            ("", 1),
            ("PF", 2),
            ("AF", 4),
            ("ZF", 6),
            ("SF", 7),
            ("TF", 8),
            ("IF", 9),
            ("DF", 10),
            ("OF", 11),
            ("NT", 14),
            ("RF", 16),
            ("VM", 17),
            ("AC", 18),
            ("VIF", 19),
            ("VIP", 20),
            ("ID", 21),
        ],
    );
    for register in Register::all(false).filter(|register| !register.is_sse()) {
        xml.push_str(&register.xml());
    }
    xml
}

/// SSE's.
fn sse_xml() -> String {
    let mut xml = VECTORS.to_owned();
    xml.push_str(&flags(
        "i386_mxcsr",
        &[
            ("IE", 0),
            ("DE", 1),
            ("ZE", 2),
            ("OE", 3),
            ("UE", 4),
            ("PE", 5),
            ("DAZ", 6),
            ("IM", 7),
            ("DM", 8),
            ("ZM", 9),
            ("OM", 10),
            ("UM", 11),
            ("PM", 12),
            ("FZ", 15),
        ],
    ));
    for register in Register::all(false).filter(|register| register.is_sse()) {
        xml.push_str(&register.xml());
    }
    xml
}

/// The ways to look at an SSE register.
const VECTORS: &str = "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/><vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>\
    <vector id=\"v16i8\" type=\"int8\" count=\"16\"/><vector id=\"v8i16\" type=\"int16\" count=\"8\"/>\
    <vector id=\"v4i32\" type=\"int32\" count=\"4\"/><vector id=\"v2i64\" type=\"int64\" count=\"2\"/>\
    <union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" type=\"v2d\"/>\
    <field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/>\
    <field name=\"v4_int32\" type=\"v4i32\"/><field name=\"v2_int64\" type=\"v2i64\"/>\
    <field name=\"uint128\" type=\"uint128\"/></union>";

fn flags(id: &str, fields: &[(&str, u32)]) -> String {
    let mut xml = format!("<flags id=\"{id}\" size=\"4\">");
    for (name, bit) in fields {
        // Writing to a string cannot fail.
        let _ = write!(xml, "<field name=\"{name}\" start=\"{bit}\" end=\"{bit}\"/>");
    }
    xml.push_str("</flags>");
    xml
}

impl Register {
    fn is_sse(self) -> bool {
        matches!(self.place(), Place::Xmm(_) | Place::Mxcsr)
    }

    fn xml(self) -> String {
        let group = match self.place() {
            Place::St(_) | Place::X87(_) => " group=\"float\"",
            Place::Xmm(_) | Place::Mxcsr | Place::YmmHigh(_) => " group=\"vector\"",
            Place::System(_) => " group=\"system\"",
            _ => "",
        };
        format!(
            "<reg name=\"{}\" bitsize=\"{}\" type=\"{}\"{group}/>",
            self.name(),
            8 * self.size(),
            self.gdb_type()
        )
    }
}

#[cfg(test)]
mod tests;
