//! Tests of telling the caller, on the encodings that compilers use for calls to imports.

use proptest::prelude::*;

use crate::vmi::Registers;
use crate::vmi::fake::Space;
use crate::windows::testing::{CODE, DATA, EXCEPTION, PeBuilder, READ_ONLY};
use crate::windows::{Attribution, Image, Modules, UnknownReason, attribute};

const BASE: u64 = 0xffff_f880_0010_0000;
const ROUTINE: u64 = 0xffff_f800_0020_1000;
const STACK: u64 = 0xffff_9000_0000_0ff8;
/// Where the test's functions begin: caller, callee, thunk.
const CALLER: u32 = 0x1000;
const CALLEE: u32 = 0x1100;
const THUNK: u32 = 0x1200;
const SLOT: u32 = 0x2000;

/// `opcode` followed by the distance from its end to `to`.
fn relative(at: u32, opcode: &[u8], to: u32) -> Vec<u8> {
    let end = at + opcode.len() as u32 + 4;
    [opcode, &to.wrapping_sub(end).to_le_bytes()].concat()
}

/// A driver whose caller executes `call`, then a nop; whose callee has `callee` as its body; with one import slot.
struct Driver {
    space: Space,
    modules: Modules,
    return_address: u64,
}

fn driver(call: &[u8], callee: &[u8], described: bool) -> Driver {
    let mut code = vec![0xcc; 0x1000];
    let mut put = |rva: u32, bytes: &[u8]| code[(rva - 0x1000) as usize..][..bytes.len()].copy_from_slice(bytes);
    put(CALLER, &[0x48, 0x83, 0xec, 0x28]); // sub rsp, 28h
    put(CALLER + 4, call);
    put(CALLER + 4 + call.len() as u32, &[0x90, 0x48, 0x83, 0xc4, 0x28, 0xc3]);
    put(CALLEE, callee);
    put(THUNK, &relative(THUNK, &[0xff, 0x25], SLOT));
    let mut builder = PeBuilder::new(BASE);
    builder.section(".text", CODE, code);
    builder.section(".idata", DATA, ROUTINE.to_le_bytes().to_vec());
    let info = builder.section(".xdata", READ_ONLY, vec![1, 0, 0, 0]);
    if described {
        let entries = [[CALLER, CALLER + 0x40, info], [CALLEE, CALLEE + 0x40, info]].concat();
        let bytes: Vec<u8> = entries.into_iter().flat_map(u32::to_le_bytes).collect();
        let rva = builder.section(".pdata", READ_ONLY, bytes);
        builder.directory(EXCEPTION, rva, 24);
    }
    let mut space = Space::default();
    builder.map(&mut space);
    let return_address = BASE + u64::from(CALLER) + 4 + call.len() as u64;
    space.write_u64(STACK, return_address);
    let modules = Modules::with_kernel(0, &Image::read(&space, BASE).unwrap());
    Driver {
        space,
        modules,
        return_address,
    }
}

fn told(driver: &mut Driver, edit: impl FnOnce(&mut Registers)) -> Attribution {
    let mut registers = Registers {
        rip: ROUTINE,
        ..Registers::default()
    };
    registers.gpr[4] = STACK;
    edit(&mut registers);
    let caller = attribute(&driver.space, &mut driver.modules, &registers);
    assert_eq!(caller.return_address, driver.return_address);
    caller.attribution
}

/// The ways to call from `CALLER + 4`: through the slot with and without prefix, through a thunk, by a register that
/// was just loaded from the slot.
fn ways_to_call() -> Vec<Vec<u8>> {
    let at = CALLER + 4;
    let load = relative(at, &[0x48, 0x8b, 0x05], SLOT); // mov rax, [slot]
    vec![
        relative(at, &[0xff, 0x15], SLOT),
        relative(at, &[0x48, 0xff, 0x15], SLOT),
        relative(at, &[0xe8], THUNK),
        [load, vec![0xff, 0xd0]].concat(),
    ]
}

#[test]
fn a_call_to_an_import_is_the_function_s_own() {
    for described in [true, false] {
        for (index, call) in ways_to_call().iter().enumerate() {
            let mut driver = driver(call, &[0xc3], described);
            // Without the function's start, nothing says where a volatile register came from.
            let expected = match (described, index) {
                (false, 3) => Attribution::Unknown(UnknownReason::Indirect),
                _ => Attribution::Call,
            };
            assert_eq!(
                told(&mut driver, |_| ()),
                expected,
                "way {index}, described {described}"
            );
        }
    }
}

#[test]
fn a_call_through_a_preserved_register_is_told_by_its_value() {
    let call = [0xff, 0xd3]; // call rbx
    let mut driver = driver(&call, &[0xc3], true);
    assert_eq!(
        told(&mut driver, |registers| registers.gpr[3] = ROUTINE),
        Attribution::Call
    );
    let elsewhere = Attribution::Unknown(UnknownReason::Elsewhere);
    assert_eq!(
        told(&mut driver, |registers| registers.gpr[3] = BASE + u64::from(CALLEE)),
        elsewhere
    );
}

#[test]
fn a_tail_call_is_told_from_the_function_that_made_it() {
    let call = relative(CALLER + 4, &[0xe8], CALLEE);
    let at = CALLEE + 4;
    let release = [0x48, 0x83, 0xc4, 0x28]; // add rsp, 28h
    let expected = Attribution::TailCall {
        function: BASE + u64::from(CALLEE),
    };
    for jump in [
        relative(at, &[0x48, 0xff, 0x25], SLOT),
        relative(at, &[0xe9], THUNK),
        relative(at, &[0x0f, 0x84], THUNK), // je
        [relative(at, &[0x48, 0x8b, 0x05], SLOT), vec![0x48, 0xff, 0xe0]].concat(), // mov rax, [slot]; jmp rax
    ] {
        let callee = [&release[..], &jump].concat();
        assert_eq!(told(&mut driver(&call, &callee, true), |_| ()), expected, "{jump:x?}");
    }
    // A function of the source may be nothing but the jump.
    let only = relative(CALLEE, &[0x48, 0xff, 0x25], SLOT);
    assert_eq!(told(&mut driver(&call, &only, true), |_| ()), expected);
}

#[test]
fn what_cannot_be_told_is_said_to_be_unknown() {
    // The callee does not jump to the routine: something that it called did.
    let call = relative(CALLER + 4, &[0xe8], CALLEE);
    let elsewhere = Attribution::Unknown(UnknownReason::Elsewhere);
    assert_eq!(told(&mut driver(&call, &[0x90, 0xc3], true), |_| ()), elsewhere);
    // A callback is called through a volatile register.
    let indirect = Attribution::Unknown(UnknownReason::Indirect);
    assert_eq!(told(&mut driver(&[0xff, 0xd0], &[0xc3], true), |_| ()), indirect);
    // No call at all.
    let no_call = Attribution::Unknown(UnknownReason::NoCall);
    assert_eq!(
        told(
            &mut driver(&[0x90, 0x90, 0x90, 0x90, 0x90, 0x90], &[0xc3], true),
            |_| ()
        ),
        no_call
    );
}

#[test]
fn a_tail_call_behind_the_end_of_a_leaf_function_is_not_its_own() {
    // Without unwind information the function ends at its return; the jump behind belongs to something else.
    let call = relative(CALLER + 4, &[0xe8], CALLEE);
    let callee = [&[0xc3][..], &relative(CALLEE + 1, &[0x48, 0xff, 0x25], SLOT)].concat();
    let elsewhere = Attribution::Unknown(UnknownReason::Elsewhere);
    assert_eq!(told(&mut driver(&call, &callee, false), |_| ()), elsewhere);
}

proptest! {
    #[test]
    fn garbage_never_panics_and_bounds_its_reads(
        call in prop::collection::vec(any::<u8>(), 1..32), callee in prop::collection::vec(any::<u8>(), 1..200),
        described in any::<bool>(), gpr in any::<[u64; 16]>(),
    ) {
        let mut driver = driver(&call, &callee, described);
        driver.space.bytes.set(0);
        let registers = Registers { gpr: { let mut gpr = gpr; gpr[4] = STACK; gpr }, rip: ROUTINE, rflags: 0 };
        attribute(&driver.space, &mut driver.modules, &registers);
        prop_assert!(driver.space.bytes.get() < 0x4_0000, "{} bytes", driver.space.bytes.get());
    }
}
