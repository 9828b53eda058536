//! The register sets of a processor as the rest of the program sees them: plain data, no KVM types outside.
#![forbid(unsafe_code)]

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs, kvm_xsave};

use crate::translate::AddressSpace;

/// EFER: long mode is active.
const EFER_LMA: u64 = 1 << 10;

/// RFLAGS.TF: stop point after each instruction.
pub(crate) const RFLAGS_TF: u64 = 1 << 8;
/// RFLAGS.RF: do not take an instruction breakpoint on the next instruction.
pub(crate) const RFLAGS_RF: u64 = 1 << 16;

/// General purpose registers, instruction pointer and flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)] // The names are the processor's.
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

macro_rules! convert {
    ($($name:ident)*) => {
        impl From<&kvm_regs> for Registers {
            fn from(regs: &kvm_regs) -> Self {
                Self { $($name: regs.$name),* }
            }
        }
        impl From<&Registers> for kvm_regs {
            fn from(regs: &Registers) -> Self {
                Self { $($name: regs.$name),* }
            }
        }
    };
}
convert!(rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags);

/// A segment register with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// Base address; for FS and GS in long mode what `rdmsr` of the base MSRs gives.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// Descriptor privilege level, 0 to 3. That of SS is the current privilege level.
    pub privilege: u8,
    /// Of CS: its code is 64-bit code (L).
    pub long: bool,
}

impl From<&kvm_segment> for Segment {
    fn from(segment: &kvm_segment) -> Self {
        Self {
            selector: segment.selector,
            base: segment.base,
            limit: segment.limit,
            privilege: segment.dpl,
            long: segment.l != 0,
        }
    }
}

/// A descriptor table register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DescriptorTable {
    /// Linear address of the table.
    pub base: u64,
    /// Limit in bytes (size - 1).
    pub limit: u16,
}

/// Control registers, segments and descriptor tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)] // The names are the processor's.
pub struct SpecialRegisters {
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    /// The task priority.
    pub cr8: u64,
    pub efer: u64,
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub tr: Segment,
    pub(crate) gdt: DescriptorTable,
    pub idt: DescriptorTable,
}

impl SpecialRegisters {
    /// Base of GS.
    #[must_use]
    pub fn gs_base(&self) -> u64 {
        self.gs.base
    }

    /// Base of FS.
    #[must_use]
    pub fn fs_base(&self) -> u64 {
        self.fs.base
    }

    /// The address space that is in force.
    #[must_use]
    pub fn address_space(&self) -> AddressSpace {
        AddressSpace::of(self.cr0, self.cr3, self.cr4, self.efer)
    }

    /// Whether the processor executes 64-bit code: long mode is active, and CS says so.
    #[must_use]
    pub(crate) fn is_64_bit_code(&self) -> bool {
        self.efer & EFER_LMA != 0 && self.cs.long
    }

    /// The linear address of the instruction at `rip`. Only 64-bit code has no base.
    #[must_use]
    pub fn code_address(&self, rip: u64) -> u64 {
        if self.is_64_bit_code() {
            rip
        } else {
            self.cs.base.wrapping_add(rip) & 0xffff_ffff
        }
    }

    /// Current privilege level, 0 to 3.
    #[must_use]
    pub fn privilege(&self) -> u8 {
        self.ss.privilege
    }

    /// Puts what a debugger may change into KVM's set: control registers, EFER, selectors, the bases of FS and GS.
    pub(crate) fn store(&self, sregs: &mut kvm_sregs) {
        (sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4) = (self.cr0, self.cr2, self.cr3, self.cr4);
        (sregs.cr8, sregs.efer) = (self.cr8, self.efer);
        for (to, from) in [
            (&mut sregs.cs, &self.cs),
            (&mut sregs.ds, &self.ds),
            (&mut sregs.es, &self.es),
            (&mut sregs.fs, &self.fs),
            (&mut sregs.gs, &self.gs),
            (&mut sregs.ss, &self.ss),
        ] {
            to.selector = from.selector;
        }
        (sregs.fs.base, sregs.gs.base) = (self.fs.base, self.gs.base);
    }

    /// Builds from KVM's set; `cr8` comes from `kvm_run`, which is written on every exit.
    pub(crate) fn new(sregs: &kvm_sregs, cr8: u64) -> Self {
        let table = |table: &kvm_bindings::kvm_dtable| DescriptorTable {
            base: table.base,
            limit: table.limit,
        };
        Self {
            cr0: sregs.cr0,
            cr2: sregs.cr2,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            cr8,
            efer: sregs.efer,
            cs: (&sregs.cs).into(),
            ds: (&sregs.ds).into(),
            es: (&sregs.es).into(),
            fs: (&sregs.fs).into(),
            gs: (&sregs.gs).into(),
            ss: (&sregs.ss).into(),
            tr: (&sregs.tr).into(),
            gdt: table(&sregs.gdt),
            idt: table(&sregs.idt),
        }
    }
}

/// The x87 and SSE registers, as FXSAVE stores them (Intel SDM volume 1, 10.5.1), and what AVX adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FloatingPoint {
    /// ST0 to ST7, of which 10 bytes count.
    pub st: [[u8; 16]; 8],
    /// x87 control word.
    pub control: u16,
    /// x87 status word.
    pub status: u16,
    /// x87 tag word in the short form: a bit for each register in use.
    pub tag: u8,
    /// Opcode of the last x87 instruction.
    pub opcode: u16,
    /// Its address.
    pub instruction: u64,
    /// The address of its operand.
    pub operand: u64,
    /// XMM0 to XMM15.
    pub xmm: [[u8; 16]; 16],
    /// SSE control and status.
    pub mxcsr: u32,
    /// The upper halves of YMM0 to YMM15; `None` where the processor has no AVX, or to leave them as they are.
    pub ymm_high: Option<[[u8; 16]; 16]>,
}

/// Where the parts lie in the area that FXSAVE writes, in bytes.
mod fxsave {
    pub(super) const CONTROL: usize = 0;
    pub(super) const STATUS: usize = 2;
    pub(super) const TAG: usize = 4;
    pub(super) const OPCODE: usize = 6;
    pub(super) const INSTRUCTION: usize = 8;
    pub(super) const OPERAND: usize = 16;
    pub(super) const MXCSR: usize = 24;
    pub(super) const ST: usize = 32;
    pub(super) const XMM: usize = 160;
    /// Behind it, in the XSAVE area: which parts are not in their initial state.
    pub(super) const XSTATE_BV: usize = 512;
    /// x87 and SSE there, and AVX.
    pub(super) const X87_AND_SSE: u32 = 3;
    pub(super) const AVX: u32 = 4;
}

/// Where XSAVE's standard form has the upper halves of YMM registers (Intel SDM volume 1, 13.4.3; CPUID leaf 0DH tells it,
/// and no processor has them elsewhere).
pub(crate) const YMM_HIGH_OFFSET: usize = 576;

impl From<&kvm_xsave> for FloatingPoint {
    fn from(area: &kvm_xsave) -> Self {
        let byte = |at: usize| area.region[at / 4].to_le_bytes()[at % 4];
        let word = |at| u16::from_le_bytes([byte(at), byte(at + 1)]);
        let quad = |at| u64::from_le_bytes(std::array::from_fn(|index| byte(at + index)));
        let register = |base: usize, number: usize| std::array::from_fn(|index| byte(base + 16 * number + index));
        Self {
            st: std::array::from_fn(|number| register(fxsave::ST, number)),
            control: word(fxsave::CONTROL),
            status: word(fxsave::STATUS),
            tag: byte(fxsave::TAG),
            opcode: word(fxsave::OPCODE),
            instruction: quad(fxsave::INSTRUCTION),
            operand: quad(fxsave::OPERAND),
            xmm: std::array::from_fn(|number| register(fxsave::XMM, number)),
            mxcsr: area.region[fxsave::MXCSR / 4],
            ymm_high: None,
        }
    }
}

impl FloatingPoint {
    /// From the area of a vCPU that has AVX or not.
    pub(crate) fn of(area: &kvm_xsave, avx: bool) -> Self {
        let byte = |at: usize| area.region[at / 4].to_le_bytes()[at % 4];
        let high = |number: usize| std::array::from_fn(|index| byte(YMM_HIGH_OFFSET + 16 * number + index));
        Self {
            ymm_high: avx.then(|| std::array::from_fn(high)),
            ..area.into()
        }
    }

    /// Puts it into KVM's area, the rest of which stays.
    pub(crate) fn store(&self, area: &mut kvm_xsave) {
        let mut put = |at: usize, bytes: &[u8]| {
            for (at, &byte) in (at..).zip(bytes) {
                let shift = 8 * (at % 4);
                area.region[at / 4] = area.region[at / 4] & !(0xff << shift) | u32::from(byte) << shift;
            }
        };
        put(fxsave::CONTROL, &self.control.to_le_bytes());
        put(fxsave::STATUS, &self.status.to_le_bytes());
        put(fxsave::TAG, &[self.tag]);
        put(fxsave::OPCODE, &self.opcode.to_le_bytes());
        put(fxsave::INSTRUCTION, &self.instruction.to_le_bytes());
        put(fxsave::OPERAND, &self.operand.to_le_bytes());
        put(fxsave::MXCSR, &self.mxcsr.to_le_bytes());
        for (number, register) in self.st.iter().enumerate() {
            put(fxsave::ST + 16 * number, register);
        }
        for (number, register) in self.xmm.iter().enumerate() {
            put(fxsave::XMM + 16 * number, register);
        }
        for (number, register) in self.ymm_high.iter().flatten().enumerate() {
            put(YMM_HIGH_OFFSET + 16 * number, register);
        }
        let avx = if self.ymm_high.is_some() { fxsave::AVX } else { 0 };
        area.region[fxsave::XSTATE_BV / 4] |= fxsave::X87_AND_SSE | avx;
    }
}
