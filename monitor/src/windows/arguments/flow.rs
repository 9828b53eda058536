//! What the registers of one function can hold at its calls: the constants, the function's own arguments and the
//! addresses of imports that the code moves about, joined where ways meet.
//!
//! Code that may be reached in a way that is not seen (an exception handler, a table of jumps that is not recognised)
//! starts with nothing known. It is taken for granted that calls preserve the registers that the x64 calling convention
//! says they do.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind};

use super::NotKnown;
use super::code::{Code, goes_on, near_target};
use super::results;
use super::values::{ARGUMENT_REGISTERS, State, Value};
use crate::windows::caller::code::is_call;

/// Registers that a call may change: RAX, RCX, RDX, R8 to R11.
const VOLATILE: [usize; 7] = [0, 1, 2, 8, 9, 10, 11];
/// Registers by which a call may be made through a stub that checks it: RAX, R10, R11.
const STUB_REGISTERS: [usize; 3] = [0, 10, 11];
/// Instructions of a function.
const MAX_INSTRUCTIONS: usize = 1 << 16;
/// Instructions that are followed in one function, each as often as something new comes to it.
const MAX_STEPS: usize = 1 << 21;
/// Entries of one table of jumps.
const MAX_TABLE: u32 = 1024;

/// A routine whose calls are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Callee {
    /// The import with this number.
    Slot(usize),
    /// The function that starts here.
    Function(u32),
}

/// A call of the routine, and what it passes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    /// The instruction.
    pub(super) at: u32,
    /// The one after it.
    pub(super) next: u32,
    /// It is a jump: what is called returns to this function's caller.
    pub(super) jumps: bool,
    pub(super) value: Value,
}

/// What one function does with a routine.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub(super) sites: Vec<Site>,
    /// Where the address of an import goes elsewhere than into a call.
    pub(super) escapes: Option<u32>,
}

/// Finds the calls of a routine in a function, and what they pass as the argument with that number.
///
/// # Errors
/// [`NotKnown::Function`] if the function is too large or has too many ways.
pub(super) fn calls(code: &Code, function: usize, callee: Callee, argument: u8) -> Result<Flow, NotKnown> {
    let start = code.start_of(function);
    let instructions: Vec<Instruction> = code.decode(function).take(MAX_INSTRUCTIONS + 1).collect();
    if instructions.len() > MAX_INSTRUCTIONS {
        return Err(NotKnown::Function(start));
    }
    let mut analysis = Analysis {
        code,
        callee,
        argument,
        start,
        tables: Vec::new(),
        leaders: BTreeSet::new(),
        states: BTreeMap::new(),
        sites: BTreeMap::new(),
        escapes: None,
        steps: 0,
        info: InstructionInfoFactory::new(),
        instructions,
    };
    analysis.find_leaders(function);
    analysis.run(function)?;
    Ok(Flow {
        sites: analysis.sites.into_values().collect(),
        escapes: analysis.escapes,
    })
}

struct Analysis<'a> {
    code: &'a Code,
    callee: Callee,
    argument: u8,
    start: u32,
    instructions: Vec<Instruction>,
    /// Instructions to which tables of jumps lead, by index.
    tables: Vec<usize>,
    /// Instructions at which ways meet, by index.
    leaders: BTreeSet<usize>,
    /// What comes to each leader.
    states: BTreeMap<usize, State>,
    /// By the instruction.
    sites: BTreeMap<u32, Site>,
    escapes: Option<u32>,
    steps: usize,
    info: InstructionInfoFactory,
}

impl Analysis<'_> {
    fn index_of(&self, rva: u32) -> Option<usize> {
        let by = |instruction: &Instruction| self.code.rva(instruction.ip()).unwrap_or(0);
        self.instructions.binary_search_by_key(&rva, by).ok()
    }

    /// The instruction of this function at an address.
    fn own(&self, address: u64) -> Option<usize> {
        self.index_of(self.code.rva(address)?)
    }

    fn find_leaders(&mut self, function: usize) {
        let mut leaders = BTreeSet::from([0]);
        for (index, instruction) in self.instructions.iter().enumerate() {
            leaders.extend(near_target(instruction).and_then(|target| self.own(target)));
            if !matches!(
                instruction.flow_control(),
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall
            ) {
                leaders.insert(index + 1);
            }
        }
        let has_table = |instruction: &Instruction| instruction.flow_control() == FlowControl::IndirectBranch;
        if self.instructions.iter().any(has_table) {
            self.tables = self.jump_tables(function);
            leaders.extend(self.tables.iter().copied());
        }
        let entries = self.code.entries_of(function).into_iter();
        leaders.extend(entries.filter_map(|rva| self.index_of(rva)));
        leaders.remove(&self.instructions.len());
        self.leaders = leaders;
    }

    /// Where tables of jumps lead that the function refers to: 32-bit offsets from the table, as GCC and Clang make them,
    /// or from the image's base, as MSVC does.
    fn jump_tables(&self, function: usize) -> Vec<usize> {
        let mut targets = Vec::new();
        let mut tables = BTreeSet::new();
        for instruction in &self.instructions {
            if instruction.mnemonic() == Mnemonic::Lea && instruction.is_ip_rel_memory_operand() {
                let table = self.code.rva(instruction.ip_rel_memory_address());
                tables.extend(table.map(|table| (table, true)));
            }
            if instruction.memory_index_scale() == 4 && !instruction.is_ip_rel_memory_operand() {
                let table = u32::try_from(instruction.memory_displacement64()).ok();
                tables.extend(table.filter(|&table| table != 0).map(|table| (table, false)));
            }
        }
        let range = self.code.range_of(function);
        for (table, relative) in tables {
            for entry in 0..MAX_TABLE {
                let at = table.saturating_add(entry * 4);
                let Some(offset) = self.code.word(at) else { break };
                let target = if relative { table.wrapping_add(offset) } else { offset };
                if !range.contains(&target) {
                    break;
                }
                targets.extend(self.index_of(target));
            }
        }
        targets.sort_unstable();
        targets.dedup();
        targets
    }

    fn run(&mut self, function: usize) -> Result<(), NotKnown> {
        let mut work = vec![0];
        self.states.insert(0, State::at_entry());
        for entry in self.code.entries_of(function) {
            if let Some(index) = self.index_of(entry) {
                self.states.insert(index, State::UNKNOWN);
                work.push(index);
            }
        }
        loop {
            while let Some(leader) = work.pop() {
                self.follow(leader, &mut work)?;
            }
            // What nothing seems to lead to is reached in a way that is not seen, or never.
            let next = self.leaders.iter().find(|leader| !self.states.contains_key(leader));
            let Some(&next) = next else { return Ok(()) };
            self.states.insert(next, State::UNKNOWN);
            work.push(next);
        }
    }

    /// Follows the code from a leader to the next one, or to where it does not go on.
    fn follow(&mut self, leader: usize, work: &mut Vec<usize>) -> Result<(), NotKnown> {
        let Some(mut state) = self.states.get(&leader).copied() else {
            return Ok(());
        };
        let mut index = leader;
        while let Some(instruction) = self.instructions.get(index).copied() {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(NotKnown::Function(self.start));
            }
            self.step(&instruction, &mut state);
            if instruction.flow_control() == FlowControl::IndirectBranch {
                for target in self.tables.clone() {
                    self.arrive(target, &state, work);
                }
            }
            let is_call = matches!(instruction.flow_control(), FlowControl::Call);
            if let Some(target) = near_target(&instruction)
                .filter(|_| !is_call)
                .and_then(|target| self.own(target))
            {
                self.arrive(target, &state, work);
            }
            if !goes_on(&instruction) {
                return Ok(());
            }
            index += 1;
            if self.leaders.contains(&index) {
                self.arrive(index, &state, work);
                return Ok(());
            }
        }
        Ok(())
    }

    fn arrive(&mut self, at: usize, state: &State, work: &mut Vec<usize>) {
        let joined = match self.states.get(&at) {
            Some(known) => known.join(state),
            None => *state,
        };
        if self.states.insert(at, joined) != Some(joined) {
            work.push(at);
        }
    }

    /// What one instruction does to the registers.
    fn step(&mut self, instruction: &Instruction, state: &mut State) {
        let flow = instruction.flow_control();
        match flow {
            FlowControl::Call | FlowControl::IndirectCall => {
                self.call(instruction, state);
                for register in VOLATILE {
                    state.0[register] = Value::ANY;
                }
            }
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch | FlowControl::IndirectBranch => {
                let leaves = near_target(instruction).is_none_or(|target| self.own(target).is_none());
                let starts_anew = near_target(instruction).and_then(|target| self.code.rva(target)) == Some(self.start);
                if leaves || starts_anew {
                    self.call(instruction, state);
                }
                if near_target(instruction).is_some() && leaves {
                    // It may be a part of the same function, for which its registers are as they are here.
                    let kept: Vec<usize> = (0..16).filter(|register| !STUB_REGISTERS.contains(register)).collect();
                    self.leave(instruction, state, &kept);
                }
            }
            FlowControl::Return => self.leave(instruction, state, &[0]),
            _ => self.compute(instruction, state),
        }
    }

    /// A call, or a jump to another function.
    fn call(&mut self, instruction: &Instruction, state: &State) {
        let (mut slots, mut through) = (0_u32, None);
        if let Some(target) = near_target(instruction) {
            if self.code.rva(target).map(Callee::Function) == Some(self.callee) {
                self.site(instruction, state);
            }
        } else if instruction.op0_kind() == OpKind::Register {
            through = Some(instruction.op0_register().number());
            slots |= state.get(instruction.op0_register()).map_or(0, |value| value.slots);
        } else if instruction.is_ip_rel_memory_operand()
            && let Some(index) = self.code.slot_at(instruction.ip_rel_memory_address())
        {
            slots |= 1 << index;
        }
        if through.is_none() {
            for register in STUB_REGISTERS {
                slots |= state.0[register].slots;
            }
        }
        if let Callee::Slot(index) = self.callee
            && slots >> index & 1 != 0
        {
            self.site(instruction, state);
        }
        let passed: Vec<usize> = ARGUMENT_REGISTERS
            .into_iter()
            .filter(|register| Some(*register) != through)
            .collect();
        self.leave(instruction, state, &passed);
    }

    /// These registers go to code that is not followed.
    fn leave(&mut self, instruction: &Instruction, state: &State, registers: &[usize]) {
        if registers.iter().any(|&register| state.0[register].slots != 0) {
            self.escape(instruction);
        }
    }

    fn site(&mut self, instruction: &Instruction, state: &State) {
        let at = self.code.rva(instruction.ip()).unwrap_or(0);
        let register = ARGUMENT_REGISTERS.get(usize::from(self.argument)).copied().unwrap_or(1);
        let site = self.sites.entry(at).or_insert(Site {
            at,
            next: at.saturating_add(instruction.len() as u32),
            jumps: !is_call(instruction),
            value: Value::default(),
        });
        site.value = site.value.join(&state.0[register]);
    }

    fn escape(&mut self, instruction: &Instruction) {
        self.escapes = self.escapes.or(self.code.rva(instruction.ip()));
    }

    /// An instruction that goes on to the next.
    fn compute(&mut self, instruction: &Instruction, state: &mut State) {
        if let Some(value) = results::result(self.code, instruction, state) {
            return state.set(instruction.op0_register().full_register(), value);
        }
        let compares = matches!(instruction.mnemonic(), Mnemonic::Test | Mnemonic::Cmp);
        let used = self.info.info(instruction).used_registers().to_vec();
        for register in used {
            let full = register.register().full_register();
            let Some(own) = full
                .is_gpr64()
                .then(|| full.number())
                .and_then(|number| state.0.get_mut(number))
            else {
                continue;
            };
            let reads = matches!(
                register.access(),
                OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            );
            let writes = !matches!(register.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None);
            if reads && own.slots != 0 && !compares {
                self.escapes = self.escapes.or(self.code.rva(instruction.ip()));
            }
            if writes {
                *own = Value::ANY;
            }
        }
    }
}
