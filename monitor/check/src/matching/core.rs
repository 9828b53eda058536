//! The part of the checker's state that is not about one lock: processors, the watch, modules, the youngest acquires.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::open_questions::OpenQuestion;
use super::record::STACK;
use super::standstill::Standstill;
use super::state::{Processor, may_be_thread};
use crate::checker::{Limits, MAX_PROCESSORS, Statistics};
use crate::contract::{PortModel, RoutineSet, SystemModule, contract};
use crate::event::{Context, DISPATCH_LEVEL, InCallback, PortTold, WatchSet};
use crate::identity::LockIdentity;
use crate::modules::{Modules, Range};
use crate::rules::RuleSettings;

/// Adapters that are remembered as those of the driver under test, or as having handles that could not be read.
const ADAPTERS: usize = 64;

/// What is saved besides locks and handles.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Core {
    pub(crate) limits: Limits,
    pub(crate) processors: Vec<Processor>,
    /// Processors that have yet to be seen below `DISPATCH_LEVEL` since the past became unknown.
    pub(crate) unseen: u32,
    pub(crate) watch: WatchSet,
    /// Calls older than the watch are possible.
    pub(crate) late: bool,
    /// Threads that have entered a StorPort or interrupt acquire from below `DISPATCH_LEVEL`; kept only if `late`.
    pub(crate) entered: HashSet<u64>,
    pub(crate) modules: Modules,
    /// Adapters with which the driver under test has made calls.
    pub(crate) adapters: Vec<u64>,
    /// Adapters one of whose acquires had a handle argument that could not be read: its release looks like one without.
    pub(crate) unreadable: Vec<u64>,
    /// The word of some lock of the kernel's was seen to be set while it was held.
    pub(crate) words_proven: bool,
    pub(crate) last_sequence: Option<u64>,
    pub(crate) recent: Recent,
    pub(crate) statistics: Statistics,
    /// Which rules are on, and for whom.
    #[serde(default)]
    pub(crate) rules: RuleSettings,
    /// Where the processors stand, if the run is over.
    #[serde(default)]
    pub(crate) standstill: Standstill,
    /// The callback that makes the next call, if that was told.
    #[serde(default)]
    pub(crate) in_callback: Option<InCallback>,
    /// How the port driver runs the driver under test.
    #[serde(default)]
    pub(crate) port: Port,
    /// Records that were added to locks since what all locks hold was last counted.
    pub(crate) grown: usize,
    /// The last release of which nothing could be said, and its lock, as long as it is not known to concern the driver under
    /// test: who made it may yet be told.
    #[serde(default)]
    pub(crate) unclaimed: Option<(u64, LockIdentity)>,
}

/// Routines that could have touched a lock and are not watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Gap {
    /// None, as far as can be known.
    #[default]
    None,
    /// Some that its driver does not import, but may reach in other ways.
    Open,
    /// Some that its driver imports.
    Imported,
}

impl Core {
    /// Locks may be held, or about to be taken, by calls that this checker has not seen or has forgotten.
    pub(crate) fn past_unknown(&mut self) {
        for processor in &mut self.processors {
            processor.seen_low = false;
        }
        self.unseen = self.watch.processors.max(1);
        self.late = true;
        self.entered.clear();
    }

    /// Every processor has been below `DISPATCH_LEVEL`: no hold is older than what the checker knows.
    pub(crate) const fn known(&self) -> bool {
        self.unseen == 0
    }

    /// Whether a release of this caller without a record is one, and not the end of a hold that is older than the watch:
    /// of a driver that had not run when the watch began none is, whatever the processors did.
    pub(crate) fn known_for(&self, context: &Context) -> bool {
        self.known() || (!self.late && self.modules.is_declared_target(context.return_address))
    }

    /// Which of the needed routines are not watched that can matter to a lock.
    pub(crate) fn gap(&self, needed: RoutineSet, target: bool) -> Gap {
        let missing = needed.difference(self.watch.watched);
        if missing.is_empty() {
            Gap::None
        } else if !target || !missing.intersection(self.watch.imported).is_empty() {
            Gap::Imported
        } else if self.watch.closed
            || missing
                .iter()
                .all(|routine| contract(routine).module == SystemModule::Storport)
        {
            // No routine of the port driver can be looked up by name at run time.
            Gap::None
        } else {
            Gap::Open
        }
    }

    /// Whether all of `needed` are watched that can matter to a lock, as far as its driver's imports tell.
    pub(crate) fn watches(&self, needed: RoutineSet, target: bool) -> bool {
        self.gap(needed, target) != Gap::Imported
    }

    /// Whether a processor has been below `DISPATCH_LEVEL` after an event.
    pub(crate) fn low_since(&self, processor: u32, sequence: u64) -> bool {
        let processor = self.processors.get(processor as usize);
        let last_low = processor.and_then(|processor| processor.last_low);
        last_low.is_some_and(|low| low >= sequence)
    }

    /// The state of a processor, made if it is new; `None` if there is no such processor.
    pub(crate) fn processor(&mut self, number: u32) -> Option<&mut Processor> {
        if number >= MAX_PROCESSORS {
            return None;
        }
        if self.processors.len() <= number as usize {
            self.processors.resize(number as usize + 1, Processor::default());
        }
        self.processors.get_mut(number as usize)
    }

    /// Notes the IRQL of a processor. False if there is no such processor.
    pub(crate) fn see_irql(&mut self, sequence: u64, number: u32, irql: u8) -> bool {
        let watched = number < self.watch.processors;
        let Some(state) = self.processor(number) else {
            self.statistics.ignored += 1;
            return false;
        };
        if irql < DISPATCH_LEVEL {
            state.last_low = Some(sequence);
            if !state.seen_low && watched {
                state.seen_low = true;
                self.unseen = self.unseen.saturating_sub(1);
            }
        }
        true
    }

    /// Notes an adapter of the driver under test.
    pub(crate) fn own_adapter(&mut self, adapter: u64) {
        remember(&mut self.adapters, adapter);
    }

    /// Notes an adapter whose releases may follow an acquire with a handle that could not be read.
    /// `target`: it is the driver's under test.
    pub(crate) fn unreadable_handle(&mut self, adapter: u64, target: bool) {
        self.statistics.open.add(OpenQuestion::UnreadableHandles, target.into());
        remember(&mut self.unreadable, adapter);
    }
}

fn remember(adapters: &mut Vec<u64>, adapter: u64) {
    if adapter != 0 && adapters.len() < ADAPTERS && !adapters.contains(&adapter) {
        adapters.push(adapter);
    }
}

/// What was told of how the port driver runs the driver under test.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Port {
    registered: Option<PortModel>,
    /// The same of single adapters; of one that has no room here nothing is known.
    adapters: Vec<PortTold>,
}

impl Port {
    pub(crate) fn learn(&mut self, told: &PortTold) {
        if told.adapter == 0 {
            self.registered = Some(told.port);
            return;
        }
        self.adapters.retain(|known| known.adapter != told.adapter);
        if self.adapters.len() < ADAPTERS {
            self.adapters.push(*told);
        }
    }

    /// Of that adapter, or of the driver in general.
    pub(crate) fn of(&self, adapter: Option<u64>) -> Option<PortModel> {
        let own = self.adapters.iter().find(|told| Some(told.adapter) == adapter);
        own.map(|told| told.port).or(self.registered)
    }

    /// Of a physical miniport's adapter whose configuration was read.
    pub(crate) fn configured(&self, adapter: u64) -> Option<PortModel> {
        let told = self.of(Some(adapter));
        told.filter(|port| port.contains(PortModel::MODE_KNOWN) && !port.contains(PortModel::VIRTUAL))
    }

    /// The memory is gone, and the adapters that lay there.
    pub(crate) fn forget(&mut self, range: Range) {
        self.adapters.retain(|told| !range.contains(told.adapter));
    }
}

/// The youngest acquires of all locks, those of the driver under test apart from those of others.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Recent([Ring; 2]);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Ring {
    entries: Vec<RecentAcquire>,
    next: usize,
}

/// An acquire, open or not.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct RecentAcquire {
    pub(crate) lock: LockIdentity,
    pub(crate) sequence: u64,
    processor: u32,
    thread: u64,
    stack_pointer: u64,
}

impl Recent {
    const SIZE: usize = 64;

    pub(crate) fn push(&mut self, lock: LockIdentity, sequence: u64, context: &Context, target: bool) {
        let entry = RecentAcquire {
            lock,
            sequence,
            processor: context.processor,
            thread: context.thread,
            stack_pointer: context.stack_pointer,
        };
        let ring = &mut self.0[usize::from(target)];
        if ring.entries.len() < Self::SIZE {
            ring.entries.push(entry);
        } else {
            ring.entries[ring.next] = entry;
            ring.next = (ring.next + 1) % Self::SIZE;
        }
    }

    /// The acquires, youngest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = RecentAcquire> {
        let mut entries: Vec<_> = self.0.iter().flat_map(|ring| ring.entries.iter().copied()).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.sequence));
        entries.into_iter()
    }

    /// Whether the thread, or its processor, has certainly acquired nothing after an event from `floor` or further out
    /// on its stack. What lies deeper may be an interrupt's.
    pub(crate) fn none_since(&self, sequence: u64, context: &Context, floor: u64) -> bool {
        let all_there = |ring: &Ring| {
            ring.entries.len() < Self::SIZE || ring.entries.iter().any(|entry| entry.sequence <= sequence)
        };
        self.0.iter().all(all_there)
            && !self.0.iter().flat_map(|ring| &ring.entries).any(|entry| {
                entry.sequence > sequence
                    && (entry.processor == context.processor || may_be_thread(entry.thread, context.thread))
                    && entry.stack_pointer.wrapping_sub(floor) < STACK
            })
    }
}
