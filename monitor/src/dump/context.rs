//! A processor's registers as Windows keeps them in a dump.

use zerocopy::FromZeros as _;

use super::layout::{CONTEXT_FLAGS, Context, FloatingSave};
use crate::vmi::debuggee::{AllRegisters, FloatingPoint};

/// The `CONTEXT` of a stopped processor. The debug registers stay zero, and its flags say that they are not there: they
/// may be the monitor's.
#[must_use]
pub(crate) fn context(registers: &AllRegisters) -> Context {
    let [cs, ss, ds, es, fs, gs] = registers.selectors;
    Context {
        context_flags: CONTEXT_FLAGS,
        mxcsr: registers.floating.mxcsr,
        segments: [cs, ds, es, fs, gs, ss],
        eflags: registers.general.rflags as u32,
        general: registers.general.gpr,
        rip: registers.general.rip,
        floating: floating(&registers.floating),
        ..Context::new_zeroed()
    }
}

fn floating(registers: &FloatingPoint) -> FloatingSave {
    FloatingSave {
        control_word: registers.control,
        status_word: registers.status,
        tag_word: registers.tag,
        error_opcode: registers.opcode,
        error_address: registers.instruction,
        data_address: registers.operand,
        mxcsr: registers.mxcsr,
        float_registers: registers.st,
        xmm_registers: registers.xmm,
        ..FloatingSave::new_zeroed()
    }
}

#[cfg(test)]
mod tests {
    use std::array;

    use zerocopy::IntoBytes as _;

    use super::*;
    use crate::vmi::Registers;

    #[test]
    fn every_register_is_where_the_header_file_has_it() {
        let floating = FloatingPoint {
            control: 0x37f,
            mxcsr: 0x1f80,
            xmm: array::from_fn(|number| [number as u8 + 1; 16]),
            ..FloatingPoint::default()
        };
        let registers = AllRegisters {
            general: Registers {
                gpr: array::from_fn(|number| 0x1000 + number as u64),
                rip: 0x2000,
                rflags: 0x246,
            },
            selectors: [0x10, 0x18, 0x2b, 0x2c, 0x53, 0x2d],
            floating,
            ..AllRegisters::default()
        };
        let context = context(&registers);
        let bytes = context.as_bytes();
        let quad = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let word = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
        // Rax, Rcx, Rdx, Rbx, Rsp, ..., R15, Rip.
        assert_eq!(
            (quad(0x78), quad(0x80), quad(0x98), quad(0xf0)),
            (0x1000, 0x1001, 0x1004, 0x100f)
        );
        assert_eq!(quad(0xf8), 0x2000);
        // SegCs, SegDs, SegEs, SegFs, SegGs, SegSs, EFlags.
        let segments: Vec<u16> = (0..6).map(|index| word(0x38 + 2 * index)).collect();
        assert_eq!(segments, [0x10, 0x2b, 0x2c, 0x53, 0x2d, 0x18]);
        assert_eq!(word(0x44), 0x246);
        assert_eq!((word(0x34), word(0x100), word(0x118)), (0x1f80, 0x37f, 0x1f80));
        // Xmm0 and Xmm15.
        assert_eq!((bytes[0x1a0], bytes[0x290 + 15]), (1, 16));
        assert_eq!(quad(0x30) as u32, 0x0010_000f);
    }
}
