//! Finds the values that calls of an import can pass as their first argument, from the code of the image that imports
//! it.
//!
//! A routine that does many things by a number, such as `StorPortNotification`, is imported by nearly every driver;
//! only the driver's code shows what it wants from the routine. Each reference to the import's slot is found, and the
//! register of the argument is followed within the function that makes the call; if the value is the function's own
//! argument, also in the functions that call it. What cannot be followed is reported as unknown, with the place. Of an import
//! that does one thing only, the places of its calls are found.
//!
//! Talks to [`GuestMemory`] and to the decoder. It must not know what a value means. The image is hostile: code,
//! functions, callers and steps are bounded.

mod code;
mod flow;
mod results;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::{Deserialize, Serialize};

use self::code::{Code, Comers};
use self::flow::{Callee, Site};
use self::values::Value;
use super::Image;
use crate::vmi::GuestMemory;

/// Slots of imports that are followed in one image at most: a [`Value`] has a bit for each.
pub(crate) const SLOTS: usize = 32;
/// Functions that pass their own argument on, all together.
const WRAPPERS: usize = 64;
/// Values that are listed for one import.
const VALUES: usize = 64;
/// Places of calls of one import.
const SITES: usize = 1024;
/// What compilers put behind a call of an import that the loader may replace by a longer one, through a stub that is safe
/// from speculation: a `nop` of five bytes, to the end of which the longer one returns
/// (Microsoft: "Mitigating Spectre variant 2 with Retpoline on Windows", import optimization).
const ROOM: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

/// Why not every value is known. Addresses are relative to the image's base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NotKnown {
    /// The code cannot be read.
    Unreadable,
    /// There is more code than is looked at.
    TooMuch,
    /// The call at this place passes a value that is not told by the code before it.
    Argument(u32),
    /// The function at this place passes its own argument on, and not all its callers are known.
    Callers(u32),
    /// The address of the routine goes elsewhere at this place than into a call.
    Escapes(u32),
    /// The slot is used at this place, which is no instruction that is known to run.
    Hidden(u32),
    /// The function at this place is too large or has too many ways to be followed.
    Function(u32),
}

impl std::fmt::Display for NotKnown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Unreadable => f.write_str("the driver's code cannot be read"),
            Self::TooMuch => f.write_str("the driver has more code than is looked at"),
            Self::Argument(at) => write!(
                f,
                "the code that the call at +{at:#x} passes is not told by the code before it"
            ),
            Self::Callers(at) => write!(
                f,
                "the function at +{at:#x} passes on what it is given, and not all its callers are known"
            ),
            Self::Escapes(at) => write!(f, "the instruction at +{at:#x} takes the address of the routine"),
            Self::Hidden(at) => write!(
                f,
                "the import is referred to at +{at:#x}, by no instruction that is known"
            ),
            Self::Function(at) => write!(f, "the function at +{at:#x} has too many ways to be followed"),
        }
    }
}

/// An import that is looked for, by its slot relative to the image's base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Its calls, and the values that they pass.
    Values(u32),
    /// Its calls only.
    Calls(u32),
}

impl Slot {
    pub(crate) fn rva(self) -> u32 {
        match self {
            Self::Values(rva) | Self::Calls(rva) => rva,
        }
    }
}

/// A place that calls an import. Addresses are relative to the image's base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CallSite {
    /// Where the call returns to; of a jump, where its function begins: all jumps of a function to one import are one place.
    pub(crate) place: u32,
    /// It is a jump, as the last thing that the function does.
    pub(crate) tail: bool,
    /// Return addresses that the routine can find on the stack.
    pub(crate) returns: Vec<u32>,
    /// Others than callers in the image, to which these return addresses belong, may come to the jump.
    pub(crate) from_outside: bool,
    /// Of a jump, where the functions begin by which code comes to it: its own, and those that go on to that.
    #[serde(default)]
    pub(crate) entries: Vec<u32>,
    /// The values that it passes, if they were looked for.
    pub(crate) values: Vec<u32>,
    /// It may pass others.
    pub(crate) open: bool,
}

/// What the calls of one import pass as their first argument, of which 32 bits count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstArguments {
    /// The import's slot, relative to the image's base.
    pub slot: u32,
    /// The values, in ascending order; all of them, if `not_known` is none.
    pub values: Vec<u32>,
    /// Places that call it, those by way of a function that passes its argument on included.
    pub calls: u32,
    /// Where they are, without those of a function that passes its argument on.
    #[serde(default)]
    pub(crate) sites: Vec<CallSite>,
    /// Why there may be others.
    pub(crate) not_known: Option<NotKnown>,
}

impl FirstArguments {
    /// Whether a call can pass this value.
    #[must_use]
    pub(crate) fn may_be(&self, value: u32) -> bool {
        self.not_known.is_some() || self.values.contains(&value)
    }
}

/// What the code of an image does with the imports with these slots, of which the first [`SLOTS`] are looked at.
#[must_use]
pub(crate) fn first_arguments(
    memory: &(impl GuestMemory + ?Sized),
    image: &Image,
    slots: &[Slot],
) -> Vec<FirstArguments> {
    let slots = &slots[..slots.len().min(SLOTS)];
    let rvas: Vec<u32> = slots.iter().map(|slot| slot.rva()).collect();
    let code = match Code::read(memory, image, &rvas) {
        Ok(code) => code,
        Err(reason) => return rvas.into_iter().map(|slot| unknown(slot, reason)).collect(),
    };
    let of = |(index, &slot)| Search::new(&code, index, slot).run();
    slots.iter().enumerate().map(of).collect()
}

/// How code of an image itself may come to a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Coming {
    /// By calls or jumps.
    pub(crate) any: bool,
    /// By jumps, which leave nothing of the function that they come from on the stack.
    pub(crate) jump: bool,
}

impl Coming {
    /// What cannot be told may be.
    pub(crate) const UNTOLD: Self = Self { any: true, jump: true };
}

/// How code of an image itself may come to functions, which are given by the pointer that leads to each, perhaps by way of a
/// jump that incremental linking puts before it, and by where it begins. The code is read and decoded once.
#[must_use]
pub(crate) fn image_comes_to(
    memory: &(impl GuestMemory + ?Sized),
    image: &Image,
    functions: impl Iterator<Item = (u32, u32)>,
) -> Vec<Coming> {
    let code = Code::read(memory, image, &[]);
    let one = |(pointer, begin)| {
        let Ok(code) = &code else { return Coming::UNTOLD };
        let is_thunk = |&function: &usize| code.start_of(function) == pointer && pointer != begin;
        let comes = |from: fn(&Code, u32) -> Vec<usize>| {
            let direct = from(code, begin).into_iter().any(|function| !is_thunk(&function));
            direct || (pointer != begin && !from(code, pointer).is_empty())
        };
        Coming {
            any: comes(Code::callers_of),
            jump: comes(Code::jumpers_to),
        }
    };
    functions.map(one).collect()
}

fn unknown(slot: u32, reason: NotKnown) -> FirstArguments {
    FirstArguments {
        slot,
        values: Vec::new(),
        calls: 0,
        sites: Vec::new(),
        not_known: Some(reason),
    }
}

/// The search for what is passed to one import.
struct Search<'a> {
    code: &'a Code,
    index: usize,
    slot: Slot,
    /// Functions that are nothing but a jump to the import, as linkers make them: their callers call it.
    thunks: HashSet<Callee>,
    /// By place, and whether it is a jump; with each, whether the function's own argument goes on.
    sites: BTreeMap<(u32, bool), (CallSite, bool)>,
    /// Functions that pass an argument of theirs on, each with the number of that argument, and their callers to look at.
    open: Vec<(Callee, u8)>,
    seen: HashSet<(Callee, u8)>,
    values: BTreeSet<u32>,
    calls: u32,
    not_known: Option<NotKnown>,
}

impl<'a> Search<'a> {
    fn new(code: &'a Code, index: usize, slot: Slot) -> Self {
        Self {
            code,
            index,
            slot,
            thunks: HashSet::new(),
            sites: BTreeMap::new(),
            open: Vec::new(),
            seen: HashSet::new(),
            values: BTreeSet::new(),
            calls: 0,
            not_known: code.hidden(slot.rva()).map(NotKnown::Hidden),
        }
    }

    fn run(mut self) -> FirstArguments {
        self.follow(Callee::Slot(self.index), 0);
        while let Some((callee, argument)) = self.open.pop() {
            self.look(callee, argument);
        }
        let values: Vec<u32> = self.values.into_iter().collect();
        let site = |(mut site, passes_on): (CallSite, bool)| {
            if passes_on {
                // Which caller of the function passes what is not kept apart.
                site.open |= self.not_known.is_some();
                site.values.clone_from(&values);
            }
            site
        };
        FirstArguments {
            slot: self.slot.rva(),
            sites: self.sites.into_values().map(site).collect(),
            values,
            calls: self.calls,
            not_known: self.not_known,
        }
    }

    /// Has the callers of a routine looked at.
    fn follow(&mut self, callee: Callee, argument: u8) {
        if !self.seen.insert((callee, argument)) {
            return;
        }
        if self.seen.len() > WRAPPERS {
            return self.fail(NotKnown::TooMuch);
        }
        self.open.push((callee, argument));
    }

    fn fail(&mut self, reason: NotKnown) {
        self.not_known.get_or_insert(reason);
    }

    fn look(&mut self, callee: Callee, argument: u8) {
        let callers = match callee {
            Callee::Slot(index) => self.code.users_of_slot(index),
            Callee::Function(start) => {
                let callers = self.code.callers_of(start);
                // That nobody calls it is not believed but of a linker's thunk, which comes with each import.
                if self.code.is_taken(start) || callers.is_empty() && !self.code.is_thunk(start) {
                    self.fail(NotKnown::Callers(start));
                }
                callers
            }
        };
        for function in callers {
            match flow::calls(self.code, function, callee, argument) {
                Ok(flow) => {
                    if let Some(at) = flow.escapes {
                        self.fail(NotKnown::Escapes(at));
                    }
                    for site in flow.sites {
                        self.take(function, callee, argument, site);
                    }
                }
                Err(reason) => self.fail(reason),
            }
        }
    }

    /// Takes what one call passes.
    fn take(&mut self, function: usize, callee: Callee, argument: u8, site: Site) {
        self.calls = self.calls.saturating_add(1);
        let start = self.code.start_of(function);
        if matches!(callee, Callee::Slot(_)) || self.thunks.contains(&callee) {
            if site.jumps && site.at == start {
                self.thunks.insert(Callee::Function(start));
                self.follow(Callee::Function(start), argument);
            } else {
                self.note(start, site);
            }
        }
        if matches!(self.slot, Slot::Calls(_)) {
            return;
        }
        let Value { any, arguments, .. } = site.value;
        if any {
            self.fail(NotKnown::Argument(site.at));
        }
        self.values.extend(site.value.known());
        if self.values.len() > VALUES {
            self.fail(NotKnown::TooMuch);
        }
        for argument in (0..values::ARGUMENTS).filter(|argument| arguments >> argument & 1 != 0) {
            self.follow(Callee::Function(start), argument);
        }
    }

    /// Notes the place of a call of the import, in the function that begins at `start`.
    fn note(&mut self, start: u32, site: Site) {
        let place = if site.jumps { start } else { site.next };
        let key = (place, site.jumps);
        if self.sites.len() >= SITES && !self.sites.contains_key(&key) {
            return self.fail(NotKnown::TooMuch);
        }
        let code = self.code;
        let (known, passes_on) = self.sites.entry(key).or_insert_with(|| {
            let comers = if site.jumps {
                code.comers_by_stack(start)
            } else {
                let behind = place.saturating_add(ROOM.len() as u32);
                let room = (code.bytes(place..behind) == ROOM).then_some(behind);
                Comers {
                    returns: [place].into_iter().chain(room).collect(),
                    ..Comers::default()
                }
            };
            let site = CallSite {
                place,
                tail: site.jumps,
                returns: comers.returns,
                from_outside: comers.from_outside,
                entries: comers.entries,
                values: Vec::new(),
                open: false,
            };
            (site, false)
        });
        known.open |= site.value.any;
        known.values.extend(site.value.known());
        known.values.sort_unstable();
        known.values.dedup();
        *passes_on |= site.value.arguments != 0;
    }
}
