//! What the registers of a function can hold: constants, the function's own arguments, addresses of imports, or anything.
//!
//! Talks to nothing. It must not know instructions.

use iced_x86::Register;

/// Registers that carry arguments: RCX, RDX, R8, R9, by number.
pub(super) const ARGUMENTS: u8 = 4;
pub(super) const ARGUMENT_REGISTERS: [usize; ARGUMENTS as usize] = [1, 2, 8, 9];
/// Constants of one register.
const CONSTANTS: usize = 8;

/// The values that a register can hold, 32 bits of each: any of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Value {
    /// Anything.
    pub(super) any: bool,
    /// Bit n: what the function was given as argument n.
    pub(super) arguments: u8,
    /// Bit n: the address behind slot n.
    pub(super) slots: u32,
    count: u8,
    constants: [u32; CONSTANTS],
}

impl Value {
    pub(super) const ANY: Self = Self {
        any: true,
        arguments: 0,
        slots: 0,
        count: 0,
        constants: [0; CONSTANTS],
    };

    pub(super) fn constant(value: u32) -> Self {
        let mut own = Self::default();
        own.insert(value);
        own
    }

    pub(super) fn argument(number: usize) -> Self {
        Self {
            arguments: 1 << number,
            ..Self::default()
        }
    }

    pub(super) fn slot(index: usize) -> Self {
        Self {
            slots: 1 << index,
            ..Self::default()
        }
    }

    /// The constants.
    pub(super) fn known(&self) -> impl Iterator<Item = u32> + '_ {
        self.constants.iter().take(usize::from(self.count)).copied()
    }

    /// Adds a constant. They are in ascending order, so that equal values are equal.
    fn insert(&mut self, value: u32) {
        let Err(place) = self.constants[..usize::from(self.count)].binary_search(&value) else {
            return;
        };
        if usize::from(self.count) == CONSTANTS {
            self.any = true;
            return;
        }
        self.constants.copy_within(place..usize::from(self.count), place + 1);
        self.constants[place] = value;
        self.count += 1;
    }

    pub(super) fn join(mut self, other: &Self) -> Self {
        self.any |= other.any;
        self.arguments |= other.arguments;
        self.slots |= other.slots;
        for value in other.known() {
            self.insert(value);
        }
        self
    }

    /// The result of an operation on constants. An operation on anything else gives anything.
    pub(super) fn map(&self, operation: impl Fn(u32) -> u32) -> Self {
        let mut result = Self {
            any: self.any || self.arguments != 0 || self.slots != 0,
            ..Self::default()
        };
        for value in self.known() {
            result.insert(operation(value));
        }
        result
    }
}

/// The general registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State(pub(super) [Value; 16]);

impl State {
    pub(super) const UNKNOWN: Self = Self([Value::ANY; 16]);

    pub(super) fn at_entry() -> Self {
        let mut state = Self::UNKNOWN;
        for (number, register) in ARGUMENT_REGISTERS.into_iter().enumerate() {
            state.0[register] = Value::argument(number);
        }
        state
    }

    pub(super) fn join(&self, other: &Self) -> Self {
        let mut joined = *self;
        for (own, other) in joined.0.iter_mut().zip(&other.0) {
            *own = own.join(other);
        }
        joined
    }

    /// The value of a whole general register, or of its lower half; `None` for other registers.
    pub(super) fn get(&self, register: Register) -> Option<Value> {
        let whole = register.is_gpr64() || register.is_gpr32();
        self.0.get(register.number()).copied().filter(|_| whole)
    }

    pub(super) fn set(&mut self, register: Register, value: Value) {
        if register.is_gpr()
            && let Some(own) = self.0.get_mut(register.full_register().number())
        {
            let whole = register.is_gpr64() || register.is_gpr32();
            *own = if whole { value } else { Value::ANY };
        }
    }
}
