//! Hooks in the import table of the driver under test, in place of breakpoints on the routines that it imports.
//!
//! Keeps what is in force of them and what came of it. [`arm`] asks the guest for memory and puts them in force; [`drain`]
//! makes of their records what a breakpoint would have given. Talks to [`crate::hooks`], which knows the guest's side of
//! it. It must not know whether a call is legal.

mod arm;
mod drain;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use storlock_check::contract::SystemModule;

use self::arm::ALLOCATOR;
pub(super) use self::arm::{Chosen, begin, came_back, choose, object_inserted};
pub(super) use self::drain::Until;
use super::guest::ModuleId;
use crate::hooks::{Next, Ring, site_key};
use crate::report::{ModuleInfo, Note};
use crate::vmi::{Breakpoint, Registers, SharedMemory, SpecialRegisters};

/// How often a call site leaves the guest before its calls are written: the first calls of a site are those whose callers
/// are looked for.
const LOOKS: u32 = 4;
/// Call sites that are remembered. The calls of others leave the guest.
const SITES: usize = 1 << 14;
/// How often a site leaves the guest for a finding that was made of a record, before it is given up.
const PATIENCE: u32 = 100_000;
/// Findings that are named in the report.
const NAMED: usize = 16;

/// A call of the guest's allocator under way.
#[derive(Debug)]
struct Calling {
    /// What the processor goes on with.
    saved: Registers,
    thread: u64,
    /// Where its stack pointer is once the call is back.
    stack_pointer: u64,
    driver: (ModuleInfo, ModuleId),
}

/// A call site.
#[derive(Debug, Default, Clone, Copy)]
struct Site {
    looks: u32,
    /// Its records do not hold enough of the stack.
    always: bool,
    /// A finding was made of a record of it, and not yet of a call that has left the guest.
    wanted: bool,
    key: u32,
}

/// An import that is hooked.
#[derive(Debug, Clone)]
struct Hooked {
    module: SystemModule,
    export: &'static str,
    /// Number of the breakpoint that it would have: its hits are told by that.
    watch: u32,
    /// Where its slot led, and leads now.
    target: u64,
    entry: u64,
}

/// Hooks in force.
#[derive(Debug)]
struct InForce {
    ring: Ring,
    imports: Vec<Hooked>,
    /// Waits for the driver to be loaded again.
    witness: Breakpoint,
    /// Where the image is whose slots lead to the stubs.
    base: u64,
    /// A processor in the kernel, by whose page tables memory is read.
    kernel: SpecialRegisters,
    /// By the return address and the number of the stub.
    sites: HashMap<(u64, u32), Site>,
    /// Numbers of processors in the guest that are not those here.
    processors: BTreeMap<u32, u32>,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Off,
    Calling(Box<Calling>),
    /// The guest has given memory, from this address on.
    Given(u64),
    InForce(Box<InForce>),
}

/// What the hooks have cost and given.
#[derive(Debug, Default, Clone)]
struct Counts {
    calls: u64,
    exits: u64,
    full: u64,
    unfinished: u64,
    broken: bool,
    /// When the ring was empty last.
    last: Option<Instant>,
    longest_ms: u64,
}

impl Counts {
    /// The ring was read at `now`; `all`: nothing is left in it.
    fn taken(&mut self, now: Instant, some: bool, all: bool) {
        if let Some(last) = self.last.filter(|_| some) {
            let lag = now.saturating_duration_since(last).as_millis() as u64;
            self.longest_ms = self.longest_ms.max(lag);
        }
        if all || self.last.is_none() {
            self.last = Some(now);
        }
    }
}

/// A finding that was made of a record.
#[derive(Debug, Clone, Copy)]
struct FromRecord {
    event: u64,
    /// Where the call came from, and its stub.
    place: (u64, u32),
    confirmed: bool,
}

/// The hooks of a session.
#[derive(Default)]
pub(crate) struct Hooks {
    wanted: bool,
    memory: Option<Arc<dyn SharedMemory>>,
    stage: Stage,
    counts: Counts,
    /// By the finding's place in the checker's list.
    findings: BTreeMap<usize, FromRecord>,
    /// The call that is being taken from a record: its return address and stub.
    in_record: Option<(u64, u32)>,
    /// Processors that stand in a stub at the end.
    standing: BTreeSet<u32>,
    /// Imports that were hooked last.
    imports: usize,
    /// Why there are none.
    refused: Option<String>,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks")
            .field("stage", &self.stage)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

impl Hooks {
    /// None are in force yet. A replay, which has no memory to share, decides as the run did.
    pub(crate) fn new(wanted: bool) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }

    /// Has the hooks use this memory.
    pub(crate) fn share(&mut self, memory: Arc<dyn SharedMemory>) {
        self.memory = Some(memory);
    }

    /// Whether the guest is to be asked for memory when the driver is about to run.
    fn may_begin(&self) -> bool {
        self.wanted && matches!(self.stage, Stage::Off)
    }

    /// Whether a call of the guest's allocator is under way.
    pub(crate) fn are_calling(&self) -> bool {
        matches!(self.stage, Stage::Calling(_))
    }

    /// Breakpoints are used instead, for this reason.
    pub(crate) fn refuse(&mut self, why: String) {
        self.stage = Stage::Off;
        self.wanted = false;
        self.refused = Some(why);
    }

    /// The same, unless another reason is known or hooks are not wanted.
    pub(crate) fn refuse_if_wanted(&mut self, why: &str) {
        if self.wanted {
            self.refuse(why.to_owned());
        }
    }

    /// Why breakpoints are used instead, if they are; told once.
    pub(crate) fn take_refusal(&mut self) -> Option<Note> {
        self.refused.take().map(|why| Note::NoImportHooks { why })
    }

    /// The machine starts again.
    pub(crate) fn restart(&mut self) {
        self.stage = Stage::Off;
        self.standing.clear();
    }

    fn in_force(&mut self) -> Option<&mut InForce> {
        match &mut self.stage {
            Stage::InForce(in_force) => Some(in_force),
            _ => None,
        }
    }

    /// Whether there is a ring to read. A replay has records as stops.
    pub(crate) fn have_ring(&self) -> bool {
        matches!(self.stage, Stage::InForce(_)) && self.memory.is_some() && !self.counts.broken
    }

    /// Whether this breakpoint waits for the driver to be loaded again.
    pub(crate) fn wait_at(&self, id: u32) -> bool {
        matches!(&self.stage, Stage::InForce(in_force) if in_force.witness.id == id)
    }

    /// A processor has left the guest to be judged here. Nobody else begins a record until [`Hooks::resume`].
    pub(crate) fn pause(&mut self) {
        self.counts.exits += 1;
        if !self.have_ring() {
            return;
        }
        let Some(in_force) = self.in_force() else { return };
        in_force.ring.close();
        let full = in_force.ring.is_full();
        self.counts.full += u64::from(full);
    }

    /// A processor has come back from a routine to be judged here. Nobody begins a record until [`Hooks::resume`].
    pub(crate) fn pause_for_return(&mut self) {
        if self.have_ring()
            && let Some(in_force) = self.in_force()
        {
            in_force.ring.close();
        }
    }

    /// It is judged: records may be begun again. Lock words that were looked at before do not count.
    pub(crate) fn resume(&mut self) {
        if self.have_ring()
            && let Some(in_force) = self.in_force()
        {
            in_force.ring.open();
        }
    }

    /// The machine has come to its end, and a processor stands at this address.
    pub(crate) fn stands_at(&mut self, cpu: u32, rip: u64) {
        let Some(in_force) = self.in_force() else { return };
        if in_force.ring.region().has_code_at(rip) {
            self.standing.insert(cpu);
        }
    }

    /// No record is begun any more: each call leaves the guest.
    fn pause_for_good(&mut self) {
        if let Some(in_force) = self.in_force() {
            in_force.ring.close();
        }
        self.counts.broken = true;
    }

    /// A call has left the guest at this site: once it has done so a few times its calls are written instead.
    pub(crate) fn looked_at(&mut self, return_address: u64, watch: u32, (index, number): (u32, Option<u32>)) {
        let have_ring = self.have_ring();
        let Some(in_force) = self.in_force() else { return };
        if let Some(number) = number.filter(|&number| number != index && in_force.processors.len() < NAMED * NAMED) {
            in_force.processors.insert(number, index);
        }
        let stub = in_force.imports.iter().position(|import| import.watch == watch);
        let Some(stub) = stub.and_then(|stub| u32::try_from(stub).ok()) else {
            return;
        };
        let place = (return_address, stub);
        if in_force.sites.len() >= SITES && !in_force.sites.contains_key(&place) {
            return;
        }
        let site = in_force.sites.entry(place).or_default();
        site.looks += 1;
        site.key = site_key(return_address, stub);
        let wanted = site.wanted && site.looks < PATIENCE;
        if site.looks >= LOOKS && !wanted && !site.always && have_ring {
            let key = site.key;
            in_force.ring.region().set_site(key, true);
        }
    }

    /// The calls of a site leave the guest again; `always`: for good.
    fn forget_site(&mut self, (return_address, stub): (u64, u32), always: bool) {
        let Some(in_force) = self.in_force() else { return };
        if in_force.sites.len() >= SITES && !in_force.sites.contains_key(&(return_address, stub)) {
            return;
        }
        let site = in_force.sites.entry((return_address, stub)).or_default();
        site.looks = 0;
        site.always |= always;
        site.wanted |= !always;
        in_force.ring.region().set_site(site_key(return_address, stub), false);
    }

    /// A finding was made, the event `event`: if of a record, the next call at its site is to leave the guest; if of a call
    /// that has left it, an earlier one of a record is confirmed.
    pub(crate) fn found(&mut self, index: usize, event: u64) {
        if let Some(place) = self.in_record {
            let known = self.findings.entry(index).or_insert(FromRecord {
                event,
                place,
                confirmed: false,
            });
            if !known.confirmed {
                self.forget_site(place, false);
            }
            return;
        }
        let Some(known) = self.findings.get_mut(&index) else {
            return;
        };
        known.confirmed = true;
        let place = known.place;
        if let Some(site) = self.in_force().and_then(|in_force| in_force.sites.get_mut(&place)) {
            site.wanted = false;
        }
    }

    /// What the report says of them; `None` if there are none.
    pub(crate) fn note(&self) -> Option<Note> {
        if self.are_calling() {
            return Some(Note::NoImportHooks {
                why: format!(
                    "the guest's {ALLOCATOR}, which Storlock has called, had not come back at the end; a crash may be due to that call"
                ),
            });
        }
        if self.imports == 0 {
            return None;
        }
        let unconfirmed = self.findings.values().filter(|known| !known.confirmed);
        Some(Note::ImportHooks {
            imports: self.imports as u64,
            calls: self.counts.calls,
            exits: self.counts.exits,
            full: self.counts.full,
            longest_ms: self.counts.longest_ms,
            unfinished: self.counts.unfinished,
            confirmed: self.findings.values().filter(|known| known.confirmed).count() as u64,
            unconfirmed: unconfirmed.map(|known| known.event).take(NAMED).collect(),
        })
    }
}

impl InForce {
    /// What comes next in the ring of the records before `end`: of those that were skipped first.
    fn next(&mut self, end: Option<u64>) -> Next {
        match (self.ring.next_skipped(), end) {
            (Next::Empty, Some(end)) => self.ring.next(end),
            (Next::Empty, None) => Next::Broken,
            (other, _) => other,
        }
    }
}
