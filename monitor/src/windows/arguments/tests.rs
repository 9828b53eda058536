//! Tests on code that is written here byte by byte, and against machines that run it.

use proptest::prelude::*;

use super::{CallSite, Coming, FirstArguments, NotKnown, Slot, first_arguments, image_comes_to};
use crate::windows::FileImage;
use crate::windows::testing::{CODE, DATA, EXCEPTION, PeBuilder, READ_ONLY};

/// Where the code begins, and the slot that it calls by: `.idata` is made first, so that its place is known.
const TEXT: u32 = 0x2000;

/// Code in the making. Addresses are relative to the image's base.
#[derive(Default)]
struct Assembler {
    bytes: Vec<u8>,
    functions: Vec<(u32, u32)>,
    begin: u32,
}

impl Assembler {
    fn here(&self) -> u32 {
        TEXT + self.bytes.len() as u32
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// An opcode with a 32-bit displacement from its end to `target`.
    fn relative(&mut self, opcode: &[u8], target: u32) -> &mut Self {
        self.put(opcode);
        let displacement = target.wrapping_sub(self.here() + 4);
        self.put(&displacement.to_le_bytes())
    }

    fn mov(&mut self, register: u8, value: u32) -> &mut Self {
        self.put(&[0xb8 + register]).put(&value.to_le_bytes())
    }

    /// A function of the function table begins here, and ends at [`Assembler::end`].
    fn begin(&mut self) -> u32 {
        while self.bytes.len() % 16 != 0 {
            self.put(&[0xcc]);
        }
        self.begin = self.here();
        self.begin
    }

    fn end(&mut self) -> &mut Self {
        self.put(&[0xc3]);
        let here = self.here();
        self.functions.push((self.begin, here));
        self
    }

    fn find(&self, more: impl FnOnce(&mut PeBuilder)) -> FirstArguments {
        self.look(Slot::Values, more)
    }

    fn look(&self, wanted: fn(u32) -> Slot, more: impl FnOnce(&mut PeBuilder)) -> FirstArguments {
        let mut image = PeBuilder::new(0x1_4000_0000);
        let slots = image.imports(&[("storport.sys", &["StorPortNotification"])]);
        assert_eq!((slots[0], image.next_rva()), (slot(), TEXT));
        image.section(".text", CODE, self.bytes.clone());
        let table: Vec<u8> = self
            .functions
            .iter()
            .flat_map(|(begin, end)| [*begin, *end, 0])
            .flat_map(u32::to_le_bytes)
            .collect();
        let rva = image.section(".pdata", READ_ONLY, [table.clone(), vec![0; 8]].concat());
        image.directory(EXCEPTION, rva, table.len() as u32);
        more(&mut image);
        let file = FileImage::parse(image.file()).unwrap();
        first_arguments(&file, file.image(), &[wanted(slots[0])]).remove(0)
    }

    fn values(&self) -> (Vec<u32>, Option<NotKnown>) {
        let found = self.find(|_| ());
        (found.values, found.not_known)
    }
}

/// The slot of the only import, as [`PeBuilder::imports`] lays it out.
fn slot() -> u32 {
    0x1000 + 40 + 16
}

const CALL: &[u8] = &[0xff, 0x15];
const JUMP: &[u8] = &[0xff, 0x25];
const LOAD_RSI: &[u8] = &[0x48, 0x8b, 0x35];
const CALL_RSI: &[u8] = &[0xff, 0xd6];

#[test]
fn constants_before_a_call_are_told_by_slot_and_by_register() {
    let mut code = Assembler::default();
    code.begin();
    code.mov(1, 0x1003).relative(CALL, slot());
    code.relative(LOAD_RSI, slot()).mov(1, 0x1004).put(CALL_RSI);
    // xor ecx, ecx; sete cl; add ecx, 7
    code.put(&[0x31, 0xc9, 0x0f, 0x94, 0xc1, 0x83, 0xc1, 0x07])
        .put(CALL_RSI);
    // mov ebx, 0x50; mov ecx, ebx; the call before has left rsi and rbx alone
    code.mov(3, 0x50).put(CALL_RSI);
    code.end();
    let found = code.find(|_| ());
    assert_eq!(
        found.not_known,
        Some(NotKnown::Argument(code.functions[0].1 - 3)),
        "RCX is lost by a call"
    );
    code = Assembler::default();
    code.begin();
    code.mov(3, 0x50)
        .relative(CALL, slot() + 8)
        .put(&[0x89, 0xd9])
        .relative(CALL, slot());
    code.relative(LOAD_RSI, slot()).mov(1, 0x1004).put(CALL_RSI);
    code.put(&[0x31, 0xc9, 0x0f, 0x94, 0xc1, 0x83, 0xc1, 0x07])
        .put(CALL_RSI);
    code.end();
    let found = code.find(|_| ());
    assert_eq!(
        (found.values, found.calls, found.not_known),
        (vec![7, 8, 0x50, 0x1004], 3, None)
    );
}

#[test]
fn a_jump_thunk_and_a_wrapper_are_followed_to_their_callers() {
    let mut code = Assembler::default();
    // Two leaf functions, which the function table does not have: notify(adapter, code) and a linker's thunk.
    let wrapper = code.here();
    code.put(&[0x89, 0xd1]).relative(JUMP, slot()).put(&[0x90, 0x90]); // mov ecx, edx; jmp [slot]
    let thunk = code.here();
    code.relative(JUMP, slot());
    code.begin();
    code.mov(2, 0x21).mov(1, 9).relative(&[0xe8], wrapper);
    code.mov(1, 0x22).relative(&[0xe8], thunk);
    code.end();
    assert_eq!(code.values(), (vec![0x21, 0x22], None));

    // Whose address somebody keeps has callers that are not known.
    let mut pointers = 0x1_4000_0000u64.to_le_bytes().to_vec();
    pointers.extend((0x1_4000_0000 + u64::from(wrapper)).to_le_bytes());
    let found = code.find(|image| {
        image.section(".data", DATA, pointers);
    });
    assert_eq!(found.not_known, Some(NotKnown::Callers(wrapper)));
    code.begin();
    code.relative(&[0x48, 0x8d, 0x05], thunk).end(); // lea rax, [thunk]
    assert_eq!(code.values().1, Some(NotKnown::Callers(thunk)));
}

#[test]
fn what_cannot_be_followed_is_told_with_its_place() {
    let mut code = Assembler::default();
    let start = code.begin();
    code.put(&[0x8b, 0x0a]).relative(CALL, slot()).end(); // mov ecx, [rdx]
    assert_eq!(code.values(), (vec![], Some(NotKnown::Argument(start + 2))));

    let mut code = Assembler::default();
    let start = code.begin();
    code.relative(LOAD_RSI, slot()).put(&[0x48, 0x89, 0x32]).end(); // mov [rdx], rsi
    assert_eq!(code.values().1, Some(NotKnown::Escapes(start + 7)));

    let mut code = Assembler::default();
    let start = code.begin();
    code.mov(0, 0); // its immediate, in which a reference to the slot hides
    let hidden = slot().wrapping_sub(start + 5);
    code.bytes[1..].copy_from_slice(&hidden.to_le_bytes());
    code.mov(1, 5).relative(CALL, slot()).end();
    assert_eq!(code.values(), (vec![5], Some(NotKnown::Hidden(start + 1))));

    let found = code.find(|image| {
        image.section(
            ".data",
            DATA,
            (0x1_4000_0000 + u64::from(slot())).to_le_bytes().to_vec(),
        );
    });
    assert!(matches!(found.not_known, Some(NotKnown::Hidden(_))), "{found:?}");
}

#[test]
fn the_cases_of_a_switch_get_what_the_table_s_jump_leaves() {
    {
        let mut code = Assembler::default();
        let table = TEXT + 0x2000;
        code.begin();
        code.mov(1, 3).relative(&[0x48, 0x8d, 0x05], table); // lea rax, [table]
        code.put(&[0x48, 0x63, 0x14, 0x90, 0x48, 0x01, 0xc2, 0xff, 0xe2]); // movsxd rdx, [rax+rdx*4]; add; jmp rdx
        let first = code.here();
        code.mov(1, 4);
        let second = code.here(); // the first case falls through to it, the table leads to it
        code.relative(CALL, slot()).end();
        let found = code.find(|image| {
            let mut bytes = vec![0; 0x1000 * usize::from(image.next_rva() < table)];
            assert_eq!(image.next_rva() + bytes.len() as u32, table);
            for case in [first, second] {
                bytes.extend(case.wrapping_sub(table).to_le_bytes());
            }
            image.section(".rdata", READ_ONLY, bytes);
        });
        assert_eq!((found.values, found.not_known), (vec![3, 4], None));
    }
}

#[test]
fn another_part_of_a_function_is_not_taken_for_a_function() {
    let mut code = Assembler::default();
    let part = code.begin();
    code.put(CALL_RSI).end(); // the cold part: RSI is its function's
    code.begin();
    code.relative(LOAD_RSI, slot())
        .mov(1, 4)
        .relative(&[0x0f, 0x84], part)
        .end();
    assert!(
        matches!(code.values().1, Some(NotKnown::Escapes(_))),
        "{:?}",
        code.values()
    );
}

/// The places of calls: place, whether it is a jump, return addresses, whether others can come to it, and values.
type Places = Vec<(u32, bool, Vec<u32>, bool, Vec<u32>)>;

fn places(sites: Vec<CallSite>) -> Places {
    let one = |site: CallSite| (site.place, site.tail, site.returns, site.from_outside, site.values);
    sites.into_iter().map(one).collect()
}

#[test]
fn the_places_of_calls_are_those_that_a_routine_finds_on_the_stack() {
    let mut code = Assembler::default();
    let thunk = code.here();
    code.relative(JUMP, slot());
    code.begin();
    code.mov(1, 4).relative(CALL, slot()).put(&[0x0f, 0x1f, 0x44, 0, 0]); // which leaves room for a longer call
    let direct = code.here() - 5;
    code.mov(1, 5).relative(&[0xe8], thunk);
    let by_thunk = code.here();
    code.relative(LOAD_RSI, slot()).mov(1, 6).put(CALL_RSI);
    let by_register = code.here();
    code.mov(1, 7).relative(CALL, slot() + 8).end();
    let expected = vec![
        (direct, false, vec![direct, direct + 5], false, vec![4]),
        (by_thunk, false, vec![by_thunk], false, vec![5]),
        (by_register, false, vec![by_register], false, vec![6]),
    ];
    assert_eq!(places(code.find(|_| ()).sites), expected);
    let calls = code.look(Slot::Calls, |_| ());
    assert_eq!((calls.sites.len(), calls.values, calls.not_known), (3, vec![], None));
}

#[test]
fn a_jump_returns_to_the_callers_of_its_function() {
    let mut code = Assembler::default();
    let inner = code.begin();
    code.put(&[0x90]).mov(1, 4).relative(JUMP, slot()).end();
    let outer = code.begin();
    code.put(&[0x90]).relative(&[0xe9], inner).end();
    let caller = code.begin();
    code.relative(&[0xe8], inner);
    let first = code.here();
    code.relative(&[0xe8], outer);
    let second = code.here();
    code.end();
    let found = places(code.find(|_| ()).sites);
    assert_eq!(found, [(inner, true, vec![first, second], false, vec![4])]);
    // A pointer to the function is a way to come to it that no call shows.
    let found = code.find(|image| {
        image.section(".data", DATA, (0x1_4000_0000 + u64::from(inner)).to_le_bytes().to_vec());
    });
    assert!(found.sites[0].from_outside && caller > outer);
}

/// A pointer to that place, in a section of data.
fn points_to(place: u32) -> impl FnOnce(&mut PeBuilder) {
    move |image| {
        let pointer = 0x1_4000_0000 + u64::from(place);
        image.section(".data", DATA, pointer.to_le_bytes().to_vec());
    }
}

#[test]
fn whoever_comes_to_a_function_comes_to_those_that_it_goes_on_to() {
    let mut code = Assembler::default();
    // The first goes on to the second without a jump, the third jumps into the middle of that.
    let before = code.begin();
    code.put(&[0x90; 14]).put(&[0x31, 0xc0]);
    let here = code.here();
    code.functions.push((before, here));
    let inner = code.begin();
    code.put(&[0x90]).mov(1, 4).relative(JUMP, slot()).end();
    let outer = code.begin();
    code.put(&[0x90]).relative(&[0xe9], inner + 1).end();
    code.begin();
    let calls = [inner, outer, before].map(|callee| {
        code.relative(&[0xe8], callee);
        code.here()
    });
    code.end();
    let found = places(code.find(|_| ()).sites);
    let [(place, true, returns, false, _)] = &found[..] else {
        panic!("{found:x?}")
    };
    let mut returns = returns.clone();
    returns.sort_unstable();
    assert_eq!((*place, returns), (inner, calls.to_vec()));
    for entry in [inner, outer, before] {
        let found = code.find(points_to(entry));
        assert!(found.sites[0].from_outside, "{entry:#x}");
        assert!(found.sites[0].entries.contains(&entry));
    }
}

#[test]
fn returns_that_are_too_many_to_be_listed_may_come_from_anywhere() {
    let mut code = Assembler::default();
    let inner = code.begin();
    code.put(&[0x90]).mov(1, 4).relative(JUMP, slot()).end();
    code.begin();
    for _ in 0..300 {
        code.relative(&[0xe8], inner);
    }
    code.end();
    assert!(code.find(|_| ()).sites[0].from_outside);
}

#[test]
fn a_wrapper_s_call_is_one_place_that_passes_what_its_callers_pass() {
    let mut code = Assembler::default();
    let wrapper = code.begin();
    code.put(&[0x89, 0xd1]).relative(CALL, slot()); // mov ecx, edx
    let place = code.here();
    code.end();
    code.begin();
    code.mov(2, 0x21)
        .relative(&[0xe8], wrapper)
        .mov(2, 0x22)
        .relative(&[0xe8], wrapper)
        .end();
    let found = code.find(|_| ());
    assert_eq!(
        places(found.sites),
        [(place, false, vec![place], false, vec![0x21, 0x22])]
    );
}

/// One instruction of the machines below. Registers are ECX (0), EDX (1) and EBX (2).
#[derive(Debug, Clone)]
enum Step {
    Mov(u8, u32),
    Copy(u8, u8),
    Zero(u8),
    Add(u8, u8),
    And(u8, u8),
    ConditionalCopy(u8, u8),
    SetByte(u8),
    /// To the step that is so many further on, if the next flag is set.
    JumpIf(usize),
    Jump(usize),
    LoadImport,
    CallImport,
    CallByRegister,
    CallOther,
}

const NUMBERS: [u8; 3] = [1, 2, 3];

fn step() -> impl Strategy<Value = Step> {
    let register = 0u8..3;
    prop_oneof![
        (register.clone(), 0u32..40).prop_map(|(r, v)| Step::Mov(r, v)),
        (register.clone(), register.clone()).prop_map(|(a, b)| Step::Copy(a, b)),
        register.clone().prop_map(Step::Zero),
        (register.clone(), 0u8..100).prop_map(|(r, v)| Step::Add(r, v)),
        (register.clone(), 0u8..100).prop_map(|(r, v)| Step::And(r, v)),
        (register.clone(), register.clone()).prop_map(|(a, b)| Step::ConditionalCopy(a, b)),
        (0u8..3).prop_map(Step::SetByte),
        (1usize..8).prop_map(Step::JumpIf),
        (1usize..4).prop_map(Step::Jump),
        Just(Step::LoadImport),
        Just(Step::CallImport),
        Just(Step::CallByRegister),
        Just(Step::CallOther),
    ]
}

fn assemble(steps: &[Step]) -> Assembler {
    let length = |step: &Step| {
        let mut code = Assembler::default();
        encode(&mut code, step, 0);
        code.bytes.len() as u32
    };
    let mut code = Assembler::default();
    code.begin();
    let mut at: Vec<u32> = vec![code.here()];
    for step in steps {
        at.push(at.last().unwrap() + length(step));
    }
    for (index, step) in steps.iter().enumerate() {
        let target = match step {
            Step::JumpIf(by) | Step::Jump(by) => at[(index + by).min(steps.len())],
            _ => 0,
        };
        encode(&mut code, step, target);
    }
    code.end();
    code
}

fn encode(code: &mut Assembler, step: &Step, target: u32) {
    let n = |register: u8| NUMBERS[usize::from(register)];
    match *step {
        Step::Mov(to, value) => code.mov(n(to), value),
        Step::Copy(to, from) => code.put(&[0x89, 0xc0 | n(from) << 3 | n(to)]),
        Step::Zero(to) => code.put(&[0x31, 0xc0 | n(to) << 3 | n(to)]),
        Step::Add(to, value) => code.put(&[0x83, 0xc0 | n(to), value]),
        Step::And(to, value) => code.put(&[0x83, 0xe0 | n(to), value]),
        Step::ConditionalCopy(to, from) => code.put(&[0x0f, 0x44, 0xc0 | n(to) << 3 | n(from)]),
        Step::SetByte(to) => code.put(&[0x0f, 0x94, 0xc0 | n(to)]),
        Step::JumpIf(_) => code.relative(&[0x0f, 0x84], target),
        Step::Jump(_) => code.relative(&[0xe9], target),
        Step::LoadImport => code.relative(LOAD_RSI, slot()),
        Step::CallImport => code.relative(CALL, slot()),
        Step::CallByRegister => code.put(CALL_RSI),
        Step::CallOther => code.relative(CALL, slot() + 8),
    };
}

/// Runs the program with these flags; what ECX was at the calls of the import. What a call or the caller left in a register
/// is a value that no program makes. `at` is told the number of each step that calls it.
fn run(steps: &[Step], flags: &mut impl Iterator<Item = bool>) -> Vec<u32> {
    const LEFT: u32 = 0xdead_0000;
    let (mut registers, mut import, mut passed) = ([LEFT; 3], false, Vec::new());
    let mut at = 0;
    while let Some(step) = steps.get(at) {
        at += 1;
        let index = usize::from;
        let mut clobber = false;
        match *step {
            Step::Mov(to, value) => registers[index(to)] = value,
            Step::Copy(to, from) => registers[index(to)] = registers[index(from)],
            Step::Zero(to) => registers[index(to)] = 0,
            Step::Add(to, value) => registers[index(to)] = registers[index(to)].wrapping_add(value.into()),
            Step::And(to, value) => registers[index(to)] &= u32::from(value),
            Step::ConditionalCopy(to, from) if flags.next().unwrap() => registers[index(to)] = registers[index(from)],
            Step::SetByte(to) => {
                let own = &mut registers[index(to)];
                *own = *own & !0xff | u32::from(flags.next().unwrap());
            }
            Step::JumpIf(by) if flags.next().unwrap() => at = at - 1 + by,
            Step::ConditionalCopy(..) | Step::JumpIf(_) => {}
            Step::Jump(by) => at = at - 1 + by,
            Step::LoadImport => import = true,
            Step::CallImport => (passed.push(registers[0]), clobber = true).1,
            Step::CallByRegister => {
                if import {
                    passed.push(registers[0]);
                }
                clobber = true;
            }
            Step::CallOther => clobber = true,
        }
        if clobber {
            registers[0] = LEFT;
            registers[1] = LEFT;
        }
    }
    passed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn what_a_program_passes_is_among_what_is_told(
        steps in prop::collection::vec(step(), 1..40), seed in prop::collection::vec(any::<bool>(), 64),
    ) {
        let found = assemble(&steps).find(|_| ());
        for turn in 0..32 {
            let mut flags = seed.iter().copied().cycle().skip(turn).step_by(1 + turn % 5);
            for value in run(&steps, &mut flags) {
                prop_assert!(found.may_be(value), "{value:#x} of {found:?}");
            }
        }
    }

    #[test]
    fn a_program_without_unknown_values_is_told_in_full(values in prop::collection::vec(0u32..1 << 20, 1..20)) {
        let steps: Vec<Step> = values.iter().flat_map(|&value| [Step::Mov(0, value), Step::CallImport]).collect();
        let found = assemble(&steps).find(|_| ());
        let mut wanted = values.clone();
        wanted.sort_unstable();
        wanted.dedup();
        prop_assert_eq!(found.values, wanted);
        prop_assert_eq!(found.not_known, None);
    }

    #[test]
    fn code_of_chance_is_looked_at_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..3000), table in prop::collection::vec(any::<u32>(), 0..30),
        calls in prop::collection::vec(0usize..3000, 0..8),
    ) {
        let mut code = Assembler { bytes, ..Assembler::default() };
        for at in calls {
            if at + 6 <= code.bytes.len() {
                let displacement = slot().wrapping_sub(TEXT + at as u32 + 6);
                code.bytes[at..at + 2].copy_from_slice(CALL);
                code.bytes[at + 2..at + 6].copy_from_slice(&displacement.to_le_bytes());
            }
        }
        let in_code = |rva: u32| TEXT + rva % 3000;
        code.functions = table.chunks_exact(2).map(|pair| (in_code(pair[0]), in_code(pair[1]))).collect();
        code.find(|_| ());
    }
}

#[test]
fn a_call_of_a_function_is_told_from_a_jump_to_it() {
    for (opcode, expected) in [(0xe8, [true, false]), (0xe9, [true, true]), (0x90, [false, false])] {
        let mut code = Assembler::default();
        let function = code.begin();
        code.put(&[0x90]).end();
        code.begin();
        code.put(&[0x90]);
        if opcode == 0x90 {
            code.put(&[0x90; 5]).end();
        } else {
            code.relative(&[opcode], function).end();
        }
        let mut image = PeBuilder::new(0x1_4000_0000);
        image.imports(&[("storport.sys", &["StorPortNotification"])]);
        image.section(".text", CODE, code.bytes.clone());
        let table = code.functions.iter().flat_map(|(begin, end)| [*begin, *end, 0]);
        let table: Vec<u8> = table.flat_map(u32::to_le_bytes).collect();
        let rva = image.section(".pdata", READ_ONLY, [table.clone(), vec![0; 8]].concat());
        image.directory(EXCEPTION, rva, table.len() as u32);
        let file = FileImage::parse(image.file()).unwrap();
        let comes = image_comes_to(&file, file.image(), std::iter::once((function, function)));
        let [Coming { any, jump }] = comes[..] else {
            panic!("{comes:?}")
        };
        assert_eq!([any, jump], expected, "{opcode:#x}");
    }
}
