//! The executable sections of an image: divides them into functions, and finds what refers to what.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use object::pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION;

use super::NotKnown;
use crate::vmi::GuestMemory;
use crate::windows::caller::code::is_call;
use crate::windows::{ExportTarget, Exports, Image, Section};

/// Bytes of executable sections, and of others, that are looked at. The largest drivers have some five million of each.
const MAX_BYTES: usize = 16 << 20;
/// Bytes of one read.
const CHUNK: usize = 1 << 20;
/// Functions of an image.
const MAX_FUNCTIONS: usize = 1 << 18;
/// Bytes of `jmp [rip+displacement]` without a prefix.
const THUNK: u32 = 6;
/// Return addresses of the calls of one function, how many functions that jump there are gone through, and how many
/// branches.
const MAX_RETURNS: usize = 256;
const MAX_JUMPERS: usize = 64;
const MAX_BRANCHES: usize = 4096;
/// Bytes of a `RUNTIME_FUNCTION`.
const RUNTIME_FUNCTION: usize = 12;

/// A jump or call from one function to a place of another, or a call within one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Branch {
    target: u32,
    from: usize,
    /// It leaves its return address on the stack.
    call: bool,
    /// The address after it.
    next: u32,
}

/// How code of the image comes to a function.
#[derive(Debug, Default)]
pub(super) struct Comers {
    /// Where calls of it return to, also those of a function that goes on to it.
    pub(super) returns: Vec<u32>,
    /// Where the functions begin by which it is come to: its own start, and those of functions that go on to it.
    pub(super) entries: Vec<u32>,
    /// Others than these calls may come to it.
    pub(super) from_outside: bool,
}

/// The code of an image. All addresses are relative to its base.
#[derive(Debug)]
pub(super) struct Code {
    base: u64,
    slots: Vec<u32>,
    /// Executable sections: where they begin, and their bytes.
    sections: Vec<(u32, Vec<u8>)>,
    /// Pieces of code that are entered at their start.
    functions: Vec<Range<u32>>,
    /// The other sections.
    data: Vec<(u32, Vec<u8>)>,
    /// By target.
    branches: Vec<Branch>,
    /// Starts of functions into which the one before goes on without a branch.
    fallen_into: HashSet<u32>,
    /// For each slot, the functions that refer to it.
    users: Vec<BTreeSet<usize>>,
    /// Places whose address is taken, exported or kept in data.
    taken: HashSet<u32>,
    /// For each slot, a place that refers to it although no instruction is known there.
    hidden: Vec<Option<u32>>,
}

impl Code {
    pub(super) fn read(memory: &(impl GuestMemory + ?Sized), image: &Image, slots: &[u32]) -> Result<Self, NotKnown> {
        let mut room = MAX_BYTES;
        let mut sections = Vec::new();
        for section in image.sections.iter().filter(|section| section.is_executable()) {
            sections.push((section.rva, bytes_of(memory, image, section, &mut room)?));
        }
        sections.sort_by_key(|(rva, _)| *rva);
        let mut code = Self {
            base: image.base,
            slots: slots.to_vec(),
            functions: Vec::new(),
            data: Vec::new(),
            branches: Vec::new(),
            fallen_into: HashSet::new(),
            users: vec![BTreeSet::new(); slots.len()],
            taken: HashSet::from([image.entry_point]),
            hidden: vec![None; slots.len()],
            sections,
        };
        code.part(&runtime_functions(memory, image)?)?;
        code.refer();
        code.take_pointers(memory, image)?;
        Ok(code)
    }

    /// Functions that refer to a slot.
    pub(super) fn users_of_slot(&self, index: usize) -> Vec<usize> {
        let users = self.users.get(index);
        users.map(|users| users.iter().copied().collect()).unwrap_or_default()
    }

    /// A place that refers to the slot although no instruction is known there.
    pub(super) fn hidden(&self, slot: u32) -> Option<u32> {
        let index = self.slots.iter().position(|&own| own == slot)?;
        self.hidden.get(index).copied().flatten()
    }

    /// Functions that call or jump to this place.
    pub(super) fn callers_of(&self, target: u32) -> Vec<usize> {
        self.comers_to(target, |_| true)
    }

    /// Functions that jump to this place.
    pub(super) fn jumpers_to(&self, target: u32) -> Vec<usize> {
        self.comers_to(target, |branch| !branch.call)
    }

    fn comers_to(&self, target: u32, wanted: impl Fn(&Branch) -> bool) -> Vec<usize> {
        let branches = self.branches_to(target..target.saturating_add(1)).filter(wanted);
        let mut from: Vec<usize> = branches.map(|branch| branch.from).collect();
        from.dedup();
        from
    }

    /// How code of the image comes to the function that begins there. A function that jumps to it, to its start or to another
    /// place of it, has its own callers return there.
    pub(super) fn comers_by_stack(&self, start: u32) -> Comers {
        let mut comers = Comers::default();
        let (mut open, mut seen) = (vec![start], HashSet::from([start]));
        let mut room = MAX_BRANCHES;
        while let Some(entry) = open.pop() {
            comers.entries.push(entry);
            comers.from_outside |= self.is_taken(entry);
            let Ok(index) = self.functions.binary_search_by_key(&entry, |range| range.start) else {
                comers.from_outside = true;
                continue;
            };
            let before = index.checked_sub(1).filter(|_| self.fallen_into.contains(&entry));
            let mut jumpers: Vec<u32> = before.map(|before| self.start_of(before)).into_iter().collect();
            for branch in self.branches_to(self.range_of(index)) {
                room = room.saturating_sub(1);
                if room == 0 || comers.returns.len() >= MAX_RETURNS {
                    comers.from_outside = true;
                    return comers;
                }
                if branch.call {
                    comers.returns.push(branch.next);
                } else {
                    jumpers.push(self.start_of(branch.from));
                }
            }
            for jumper in jumpers {
                if seen.len() >= MAX_JUMPERS {
                    comers.from_outside = true;
                } else if seen.insert(jumper) {
                    open.push(jumper);
                }
            }
        }
        comers.from_outside |= comers.returns.is_empty();
        comers
    }

    /// Whether a jump is all that is there.
    pub(super) fn is_thunk(&self, rva: u32) -> bool {
        let bytes = self.bytes(rva..rva.saturating_add(THUNK));
        let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
        decoder.decode().flow_control() == FlowControl::IndirectBranch
    }

    /// Whether others than its callers may come to a place.
    pub(super) fn is_taken(&self, rva: u32) -> bool {
        self.taken.contains(&rva)
    }

    pub(super) fn start_of(&self, function: usize) -> u32 {
        self.functions.get(function).map_or(0, |range| range.start)
    }

    pub(super) fn range_of(&self, function: usize) -> Range<u32> {
        self.functions.get(function).cloned().unwrap_or_default()
    }

    /// The slot at an address of the image.
    pub(super) fn slot_at(&self, address: u64) -> Option<usize> {
        let rva = self.rva(address)?;
        self.slots.iter().position(|&slot| slot == rva)
    }

    pub(super) fn rva(&self, address: u64) -> Option<u32> {
        u32::try_from(address.checked_sub(self.base)?).ok()
    }

    /// Places within the function to which others jump.
    pub(super) fn entries_of(&self, function: usize) -> Vec<u32> {
        let range = self.range_of(function);
        let inner = range.start.saturating_add(1)..range.end;
        let jumps = self.branches_to(inner).filter(|branch| branch.from != function);
        jumps.map(|branch| branch.target).collect()
    }

    /// The instructions of a function.
    pub(super) fn decode(&self, function: usize) -> impl Iterator<Item = Instruction> + '_ {
        let range = self.range_of(function);
        let bytes = self.bytes(range.clone());
        Decoder::with_ip(
            64,
            bytes,
            self.base.wrapping_add(u64::from(range.start)),
            DecoderOptions::NONE,
        )
        .into_iter()
    }

    /// Bytes of code; none if that is not all code.
    pub(super) fn bytes(&self, range: Range<u32>) -> &[u8] {
        let section = self.sections.iter().rfind(|(rva, _)| *rva <= range.start);
        let found = section.and_then(|(rva, bytes)| {
            let from = (range.start - rva) as usize;
            bytes.get(from..from + range.end.checked_sub(range.start)? as usize)
        });
        found.unwrap_or_default()
    }

    /// 32 bits of the image.
    pub(super) fn word(&self, rva: u32) -> Option<u32> {
        let mut sections = self.sections.iter().chain(&self.data);
        let bytes =
            sections.find_map(|(start, bytes)| bytes.get(rva.checked_sub(*start)? as usize..)?.first_chunk())?;
        Some(u32::from_le_bytes(*bytes))
    }

    fn branches_to(&self, targets: Range<u32>) -> impl Iterator<Item = Branch> + '_ {
        let first = self.branches.partition_point(|branch| branch.target < targets.start);
        let rest = self.branches.get(first..).unwrap_or_default().iter().copied();
        rest.take_while(move |branch| branch.target < targets.end)
    }

    /// Parts the sections into functions: those of the function table, and what lies between them, which ends at each
    /// instruction that does not go on to the next.
    fn part(&mut self, table: &[Range<u32>]) -> Result<(), NotKnown> {
        let mut functions = Vec::new();
        for (rva, bytes) in &self.sections {
            let end = rva.saturating_add(bytes.len() as u32);
            let mut at = *rva;
            for known in table.iter().filter(|known| known.start >= *rva && known.end <= end) {
                if known.start < at {
                    continue; // It overlaps the one before.
                }
                self.part_gap(at..known.start, &mut functions);
                functions.push(known.clone());
                at = known.end;
            }
            self.part_gap(at..end, &mut functions);
            if functions.len() > MAX_FUNCTIONS {
                return Err(NotKnown::TooMuch);
            }
        }
        self.functions = functions;
        Ok(())
    }

    fn part_gap(&self, gap: Range<u32>, functions: &mut Vec<Range<u32>>) {
        let mut start = None;
        let decoder = Decoder::with_ip(64, self.bytes(gap.clone()), u64::from(gap.start), DecoderOptions::NONE);
        for instruction in decoder {
            let (at, next) = (instruction.ip() as u32, instruction.next_ip() as u32);
            if start.is_none() && is_padding(&instruction) {
                continue;
            }
            if functions.len() > MAX_FUNCTIONS {
                return;
            }
            let begin = *start.get_or_insert(at);
            if !goes_on(&instruction) {
                functions.push(begin..next);
                start = None;
            }
        }
        if let Some(begin) = start {
            functions.push(begin..gap.end);
        }
    }

    /// Finds what refers to what.
    fn refer(&mut self) {
        let mut known = HashSet::new();
        let mut branches = Vec::new();
        for index in 0..self.functions.len() {
            let range = self.range_of(index);
            let base = self.base.wrapping_add(u64::from(range.start));
            let mut decoder = Decoder::with_ip(64, self.bytes(range.clone()), base, DecoderOptions::NONE);
            let (mut taken, mut used) = (Vec::new(), Vec::new());
            let mut falls = false;
            while decoder.can_decode() {
                let instruction = decoder.decode();
                falls = goes_on(&instruction);
                if let Some(target) = near_target(&instruction).and_then(|target| self.rva(target)) {
                    let outside = !range.contains(&target) || target == range.start || is_call(&instruction);
                    if outside {
                        branches.push(Branch {
                            target,
                            from: index,
                            call: is_call(&instruction),
                            next: self.rva(instruction.next_ip()).unwrap_or(0),
                        });
                    }
                }
                if instruction.is_ip_rel_memory_operand() {
                    let address = instruction.ip_rel_memory_address();
                    if let Some(slot) = self.slot_at(address) {
                        let offset = decoder.get_constant_offsets(&instruction).displacement_offset();
                        known.insert(self.rva(instruction.ip()).unwrap_or(0) + offset as u32);
                        used.push(slot);
                    }
                    taken.extend(self.rva(address).filter(|_| instruction.mnemonic() == Mnemonic::Lea));
                }
            }
            self.taken.extend(taken);
            self.fallen_into.extend(falls.then_some(range.end));
            for slot in used {
                if let Some(users) = self.users.get_mut(slot) {
                    users.insert(index);
                }
            }
        }
        branches.sort_unstable();
        branches.dedup();
        self.branches = branches;
        self.find_hidden(&known);
    }

    /// Looks at every byte for a reference to a slot that is none of the instructions that are known.
    fn find_hidden(&mut self, known: &HashSet<u32>) {
        let (Some(&lowest), Some(&highest)) = (self.slots.iter().min(), self.slots.iter().max()) else {
            return;
        };
        for (rva, bytes) in &self.sections {
            for (at, window) in bytes.windows(4).enumerate() {
                let Some(displacement) = window.first_chunk() else {
                    continue;
                };
                let place = rva.wrapping_add(at as u32);
                let target = place.wrapping_add(4).wrapping_add(u32::from_le_bytes(*displacement));
                if target < lowest || target > highest {
                    continue;
                }
                let Some(index) = self.slots.iter().position(|&slot| slot == target) else {
                    continue;
                };
                if !known.contains(&place) {
                    self.hidden[index].get_or_insert(place);
                }
            }
        }
    }

    /// Takes the places that data and exports point to. One that points to a slot is a reference that is not followed.
    fn take_pointers(&mut self, memory: &(impl GuestMemory + ?Sized), image: &Image) -> Result<(), NotKnown> {
        let mut room = MAX_BYTES;
        let data = image.sections.iter().filter(|section| !section.is_executable());
        for section in data {
            let bytes = bytes_of(memory, image, section, &mut room)?;
            for (index, pointer) in bytes.chunks_exact(8).enumerate() {
                let pointer = pointer.first_chunk().map_or(0, |pointer| u64::from_le_bytes(*pointer));
                let Some(target) = self.rva(pointer).filter(|&rva| rva < image.size) else {
                    continue;
                };
                if let Some(slot) = self.slots.iter().position(|&slot| slot == target) {
                    self.hidden[slot].get_or_insert(section.rva.wrapping_add(index as u32 * 8));
                }
                self.taken.insert(target);
            }
            self.data.push((section.rva, bytes));
        }
        if let Ok(exports) = Exports::read(memory, image) {
            let targets = exports.entries().iter().filter_map(|export| match export.target {
                ExportTarget::Rva(rva) => Some(rva),
                ExportTarget::Forwarder(_) => None,
            });
            self.taken.extend(targets);
        }
        Ok(())
    }
}

/// The bytes of a section, all of which have to be there.
fn bytes_of(
    memory: &(impl GuestMemory + ?Sized),
    image: &Image,
    section: &Section,
    room: &mut usize,
) -> Result<Vec<u8>, NotKnown> {
    let size = section.size as usize;
    *room = room.checked_sub(size).ok_or(NotKnown::TooMuch)?;
    let mut bytes = vec![0; size];
    let mut at = image.address(section.rva);
    for chunk in bytes.chunks_mut(CHUNK) {
        memory.read(at, chunk).map_err(|_| NotKnown::Unreadable)?;
        at = at.wrapping_add(CHUNK as u64);
    }
    Ok(bytes)
}

/// The function table, by address; entries that make no sense are left out.
fn runtime_functions(memory: &(impl GuestMemory + ?Sized), image: &Image) -> Result<Vec<Range<u32>>, NotKnown> {
    let table = image.directory(IMAGE_DIRECTORY_ENTRY_EXCEPTION);
    let count = table.size as usize / RUNTIME_FUNCTION;
    if count > MAX_FUNCTIONS {
        return Err(NotKnown::TooMuch);
    }
    let mut bytes = vec![0; count * RUNTIME_FUNCTION];
    let mut at = image.address(table.rva);
    for chunk in bytes.chunks_mut(CHUNK) {
        memory.read(at, chunk).map_err(|_| NotKnown::Unreadable)?;
        at = at.wrapping_add(CHUNK as u64);
    }
    let field = |entry: &[u8], at: usize| {
        entry
            .get(at..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |field| u32::from_le_bytes(*field))
    };
    let entries = bytes.chunks_exact(RUNTIME_FUNCTION);
    let mut ranges: Vec<Range<u32>> = entries.map(|entry| field(entry, 0)..field(entry, 4)).collect();
    ranges.retain(|range| range.start < range.end && range.end <= image.size);
    ranges.sort_by_key(|range| (range.start, range.end));
    Ok(ranges)
}

/// Where a direct call or jump goes.
pub(super) fn near_target(instruction: &Instruction) -> Option<u64> {
    let direct = instruction.op_count() == 1 && instruction.op0_kind() == OpKind::NearBranch64;
    direct.then(|| instruction.near_branch64())
}

/// Whether the next instruction may run after it.
pub(super) fn goes_on(instruction: &Instruction) -> bool {
    !matches!(
        instruction.flow_control(),
        FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::Return | FlowControl::Exception
    ) && instruction.mnemonic() != Mnemonic::Int3
}

/// What compilers put between functions.
fn is_padding(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Int3 | Mnemonic::Nop | Mnemonic::INVALID)
        || (instruction.mnemonic() == Mnemonic::Xchg
            && instruction.op0_register() == Register::AX
            && instruction.op1_register() == Register::AX)
        // Zeroes decode as `add [rax], al`.
        || (instruction.mnemonic() == Mnemonic::Add
            && instruction.len() == 2
            && instruction.op0_kind() == OpKind::Memory
            && instruction.op1_register() == Register::AL)
}
