//! What makes two findings the same in every run of the same builds: rule, cause, routine, and the places of the call and its
//! callers.
//!
//! It must not know where modules are loaded.

use serde::{Deserialize, Serialize};

use super::Cause;
use crate::contract::Routine;
use crate::rules::RuleId;

/// A place in code that is the same wherever its module was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Base name of the module, lower case; `None`: no known module holds the address.
    pub module: Option<String>,
    /// Offset from the module's base; without a module, the address, 0 for none.
    pub offset: u64,
}

impl Place {
    /// Whether it says nothing.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.module.is_none() && self.offset == 0
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.module {
            Some(module) => write!(f, "{module}+{:#x}", self.offset),
            None => write!(f, "{:#x}", self.offset),
        }
    }
}

/// Callers of a call site that a signature holds.
pub const FRAMES: usize = 2;

/// What makes two findings the same, over reboots and load addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signature {
    /// The rule.
    pub rule: RuleId,
    /// The cause, by its [family](Cause::family).
    pub cause: Cause,
    /// The routine that was called.
    pub routine: Routine,
    /// Who called it.
    pub site: Place,
    /// The callers of that, as far as they were unwound: [`Place::is_none`] where they were not.
    pub frames: [Place; FRAMES],
}

impl Signature {
    /// The signature as a number (FNV-1a over numbers, names and offsets), equal in every run, format and version.
    #[must_use]
    pub fn id(&self) -> u64 {
        let mut hash = Fnv::default();
        hash.word(self.rule.number().into());
        hash.word(self.cause.number().into());
        hash.bytes(self.routine.name().as_bytes());
        for place in std::iter::once(&self.site).chain(&self.frames) {
            hash.bytes(place.module.as_deref().unwrap_or_default().as_bytes());
            hash.word(place.offset);
        }
        hash.0
    }
}

impl std::fmt::Display for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.id())
    }
}

/// FNV-1a, 64 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fnv(pub(crate) u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Mixes bytes, and their number, in.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.word(bytes.len() as u64);
    }

    /// Mixes a number in.
    pub(crate) fn word(&mut self, word: u64) {
        for byte in word.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
