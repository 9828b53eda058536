//! A slow, simple checker: a list of acquires and a log of events that is searched from the start for every question.
//!
//! Written from the contract and the verdicts of the design, for what the simulated kernel does: one watch set, no
//! modules, no freed memory, events in one order.

use storlock_check::contract::{CONTRACTS, Contract, Mode, Role, Routine as R, RoutineSet, contract};
use storlock_check::event::{Context, Event, EventKind, LockCall, LockOperand, WatchSet};
use storlock_check::identity::{HandleKey, LockIdentity};
use storlock_check::rules::Verdict;

#[derive(Clone, Debug)]
struct Acquire {
    at: u64,
    routine: R,
    who: Context,
    low: bool,
    lock: LockIdentity,
    handle: Option<HandleKey>,
    returned: Option<(u64, u32)>,
    part_of: Option<u64>,
    open: bool,
}

#[derive(Default)]
pub struct Reference {
    log: Vec<Event>,
    acquires: Vec<Acquire>,
    /// Locks whose holders are not to be trusted.
    upset: Vec<LockIdentity>,
    /// Releases (lock, call) that may still make an inner call.
    releasing: Vec<(LockIdentity, LockCall)>,
    /// What handles were last used for.
    handles: Vec<(HandleKey, LockIdentity, u64)>,
    words_seen_set: bool,
    words_lie: bool,
    watch: WatchSet,
    armed_at: Option<u64>,
}

fn inside(outer: &Context, inner: &Context) -> bool {
    inner.stack_pointer < outer.stack_pointer
        || inner.stack_pointer == outer.stack_pointer && inner.return_address == outer.return_address
}

fn close_by(outer: &Context, inner: &Context) -> bool {
    inside(outer, inner) && outer.stack_pointer - inner.stack_pointer <= 0x80
}

fn seen(event: &Event) -> Option<(u32, u8, Option<&Context>)> {
    match &event.kind {
        EventKind::LockCall(call) => Some((call.context.processor, call.context.irql, Some(&call.context))),
        EventKind::LockReturn(back) => Some((back.context.processor, back.context.irql, Some(&back.context))),
        EventKind::IrqlSeen { processor, irql } => Some((*processor, *irql, None)),
        _ => None,
    }
}

fn family(lock: &LockIdentity) -> (RoutineSet, RoutineSet) {
    let of_lock = |row: &&Contract| {
        let name = row.routine.name();
        match lock {
            LockIdentity::StorPort { .. } => name.starts_with("StorPort") && !name.contains("MSI"),
            LockIdentity::Msi { .. } => name.contains("MSI"),
            _ => !name.starts_with("StorPort") && !name.contains("Interrupt") && !name.contains("Cancel"),
        }
    };
    let all: Vec<_> = CONTRACTS.iter().filter(of_lock).collect();
    let with = |release: bool| {
        all.iter()
            .filter(|row| (row.role == Role::Release) == release)
            .map(|row| row.routine)
            .collect::<RoutineSet>()
    };
    (with(false), with(true))
}

fn makers(of: R) -> RoutineSet {
    CONTRACTS
        .iter()
        .filter(|row| row.may_call.contains(of))
        .map(|row| row.routine)
        .collect()
}

impl Acquire {
    fn mine(&self, who: &Context) -> bool {
        if self.low {
            self.who.thread == who.thread
        } else {
            self.who.processor == who.processor
        }
    }
    fn fits(&self, release: R) -> bool {
        contract(release).fed_by.contains(self.routine)
    }
}

impl Reference {
    pub fn apply(&mut self, event: &Event) -> Option<Verdict> {
        self.log.push(event.clone());
        match &event.kind {
            EventKind::WatchSetChanged(watch) => {
                self.watch = *watch;
                self.armed_at = Some(event.sequence);
                None
            }
            EventKind::LockCall(call) if contract(call.routine).role == Role::Release => {
                self.release(event.sequence, call)
            }
            EventKind::LockCall(call) => self.acquire(event.sequence, call),
            EventKind::LockReturn(back) => {
                let good = contract(back.routine).result.succeeded(back.value);
                let found = self
                    .acquires
                    .iter_mut()
                    .find(|acquire| acquire.at == back.call && acquire.open);
                match found {
                    Some(acquire) if good => {
                        acquire.returned = Some((event.sequence, back.context.processor));
                        for inner in self
                            .acquires
                            .iter_mut()
                            .filter(|inner| inner.part_of == Some(back.call))
                        {
                            inner.open = false;
                        }
                    }
                    Some(acquire) => acquire.open = false,
                    // A release in between cannot have been its own.
                    None if good => {
                        let lock = LockIdentity::of(&back.operand).expect("an acquire names its lock");
                        self.acquires.push(Acquire {
                            at: back.call,
                            routine: back.routine,
                            who: back.context,
                            low: true,
                            lock,
                            handle: HandleKey::of(&back.operand),
                            returned: Some((event.sequence, back.context.processor)),
                            part_of: None,
                            open: true,
                        });
                    }
                    None => {}
                }
                None
            }
            _ => None,
        }
    }

    fn low_after(&self, processor: u32, from: u64) -> bool {
        self.log
            .iter()
            .filter(|event| event.sequence >= from)
            .filter_map(seen)
            .any(|(p, irql, _)| p == processor && irql < 2)
    }

    /// The event that proves an acquire to have come back, and the processor.
    fn proof(&self, acquire: &Acquire) -> Option<(u64, u32)> {
        if acquire.returned.is_some() {
            return acquire.returned;
        }
        let row = contract(acquire.routine);
        if acquire.low || row.result.may_fail() {
            return None;
        }
        let leaf = row.may_call.is_empty() && acquire.routine != R::StorPortAcquireSpinLock;
        for event in self.log.iter().filter(|event| event.sequence > acquire.at) {
            let Some((processor, irql, context)) = seen(event) else {
                continue;
            };
            if processor != acquire.who.processor {
                continue;
            }
            if irql < 2 {
                return None;
            }
            let returned = context.is_some_and(|context| leaf || !inside(&acquire.who, context));
            if irql <= acquire.who.irql && returned {
                return Some((event.sequence, processor));
            }
        }
        None
    }

    fn holds(&self, acquire: &Acquire) -> bool {
        self.proof(acquire)
            .is_some_and(|(since, processor)| !self.low_after(processor, since))
    }

    fn surely_mine(&self, acquire: &Acquire, who: &Context) -> bool {
        let same_level = !acquire.low
            && acquire.mine(who)
            && who.irql <= acquire.who.irql
            && !contract(acquire.routine).result.may_fail()
            && !self.low_after(acquire.who.processor, acquire.at);
        same_level || self.holds(acquire)
    }

    fn watched(&self, needed: RoutineSet) -> bool {
        self.watch
            .watched
            .contains_all(needed.intersection(self.watch.imported))
    }

    fn open_on(&self, lock: LockIdentity) -> Vec<usize> {
        (0..self.acquires.len())
            .filter(|&n| self.acquires[n].open && self.acquires[n].lock == lock)
            .collect()
    }

    fn acquire(&mut self, at: u64, call: &LockCall) -> Option<Verdict> {
        let (row, who) = (contract(call.routine), &call.context);
        let lock = LockIdentity::of(&call.operand).expect("an acquire names its lock");
        let handle = HandleKey::of(&call.operand);
        self.releasing
            .retain(|(of, outer)| *of != lock || outer.context.processor != who.processor);
        let mut part_of = None;
        for n in self.open_on(lock).into_iter().rev() {
            let outer = &self.acquires[n];
            let inner = self.proof(outer).is_none()
                && contract(outer.routine).may_call.contains(call.routine)
                && outer.who.thread == who.thread
                && inside(&outer.who, who)
                && outer.handle == handle;
            if inner && (handle.is_some() || close_by(&outer.who, who)) {
                return None;
            }
            if inner {
                part_of = Some(outer.at);
                break;
            }
        }
        if call.word == Some(0) {
            for n in self.open_on(lock) {
                self.acquires[n].open = self.proof(&self.acquires[n]).is_none();
            }
            if self.open_on(lock).is_empty() {
                self.upset.retain(|upset| *upset != lock);
            }
        }
        let own_hold = self
            .open_on(lock)
            .into_iter()
            .any(|n| self.acquires[n].mine(who) && self.holds(&self.acquires[n]));
        let word_known = call.word.map_or(
            matches!(lock, LockIdentity::StorPort { .. } | LockIdentity::Msi { .. }),
            |word| word != 0,
        );
        let double = row.role == Role::Acquire
            && own_hold
            && word_known
            && !self.upset.contains(&lock)
            && self.watched(family(&lock).1);
        for n in self.open_on(lock) {
            let old = &self.acquires[n];
            let both_shared = row.mode == Mode::Shared && contract(old.routine).mode == Mode::Shared;
            let over = row.role == Role::Acquire
                && old.mine(who)
                && old.low == (who.irql < 2)
                && who.irql <= old.who.irql.max(1)
                && who.stack_pointer >= old.who.stack_pointer
                && !both_shared;
            self.acquires[n].open &= !over;
        }
        if let Some(handle) = handle {
            for old in self.acquires.iter_mut().filter(|old| old.handle == Some(handle)) {
                old.open = false;
            }
            self.handles.retain(|(key, ..)| *key != handle);
            self.handles.push((handle, lock, at));
        }
        let low = who.irql < 2;
        let (routine, who) = (call.routine, *who);
        self.acquires.push(Acquire {
            at,
            routine,
            who,
            low,
            lock,
            handle,
            returned: None,
            part_of,
            open: true,
        });
        double.then_some(Verdict::Semantic)
    }

    fn release(&mut self, at: u64, call: &LockCall) -> Option<Verdict> {
        let who = &call.context;
        let handle = HandleKey::of(&call.operand);
        let bound = self.handles.iter().find(|(key, ..)| Some(*key) == handle).copied();
        let hint = match call.operand {
            LockOperand::QueuedHandle { lock, .. } => lock.map(LockIdentity::Address),
            _ => None,
        };
        let lock = LockIdentity::of(&call.operand)
            .or(bound.map(|(_, lock, _)| lock))
            .or(hint)
            .unwrap_or(LockIdentity::Handle(handle.map_or(0, HandleKey::address)));
        let outer = self
            .releasing
            .iter()
            .position(|(of, outer)| *of == lock && outer.context.processor == who.processor);
        if let Some((_, outer)) = outer.map(|place| self.releasing.remove(place)) {
            let inner = contract(outer.routine).may_call.contains(call.routine)
                && outer.context.thread == who.thread
                && outer.context.irql == who.irql
                && close_by(&outer.context, who);
            if inner && call.word != Some(0) {
                return None;
            }
        }
        let open = self.open_on(lock);
        let own: Vec<usize> = match (handle, bound) {
            (Some(_), Some((.., acquire))) if open.iter().any(|&n| self.acquires[n].at == acquire) => open
                .iter()
                .copied()
                .filter(|&n| self.acquires[n].at == acquire)
                .collect(),
            (Some(_), _) => {
                let none = |n: &usize| self.acquires[*n].handle.is_none() && self.acquires[*n].mine(who);
                open.iter().copied().rfind(none).into_iter().collect()
            }
            (None, _) => {
                let failed = |old: &Acquire| {
                    contract(old.routine).role == Role::TryAcquire && self.low_after(who.processor, old.at)
                };
                open.iter()
                    .copied()
                    .filter(|&n| self.acquires[n].mine(who) && !failed(&self.acquires[n]))
                    .collect()
            }
        };
        let sure_and_fitting =
            |n: &usize| self.surely_mine(&self.acquires[*n], who) && self.acquires[*n].fits(call.routine);
        let chosen = own
            .iter()
            .copied()
            .rfind(sure_and_fitting)
            .or(own.iter().copied().rfind(|&n| self.surely_mine(&self.acquires[n], who)))
            .or(own.iter().copied().rfind(|&n| self.acquires[n].fits(call.routine)))
            .or(own.last().copied());
        let other = open.iter().any(|&n| {
            let old = &self.acquires[n];
            !old.mine(who) && contract(old.routine).mode == Mode::Exclusive && self.holds(old)
        });
        let word = call.word.filter(|_| !self.words_lie).map(|word| word != 0);
        let (verdict, over) = self.judge(call, lock, chosen, other, word);
        if let (true, Some(n)) = (over, chosen) {
            match call.word {
                Some(0) if !self.words_seen_set && self.proof(&self.acquires[n]).is_some() && handle.is_none() => {
                    self.words_lie |= !self.upset.contains(&lock);
                }
                Some(word) if word != 0 && !self.words_lie => self.words_seen_set = true,
                _ => {}
            }
            let done = self.acquires[n].at;
            for old in &mut self.acquires {
                old.open &= old.at != done && (old.part_of != Some(done) || old.lock != lock);
            }
            if !contract(call.routine).may_call.is_empty() {
                self.releasing.push((lock, *call));
            }
            if call.word.is_none() && self.open_on(lock).is_empty() {
                self.upset.retain(|upset| *upset != lock);
            }
        }
        let upsets = match verdict {
            None | Some((Verdict::Literal, _)) => false,
            Some((_, wrong_owner)) => wrong_owner || (chosen.is_none() && call.word != Some(0)),
        };
        if upsets && !self.open_on(lock).is_empty() {
            self.upset.push(lock);
        }
        let _ = at;
        verdict.map(|verdict| verdict.0)
    }

    /// Verdict (and whether it is about the wrong owner), and whether the chosen acquire is over.
    fn judge(
        &self,
        call: &LockCall,
        lock: LockIdentity,
        chosen: Option<usize>,
        other: bool,
        word: Option<bool>,
    ) -> (Option<(Verdict, bool)>, bool) {
        let who = &call.context;
        let (acquires, releases) = family(&lock);
        let weigh = |sure: bool| if sure { Verdict::Semantic } else { Verdict::Suspect };
        let upset = self.upset.contains(&lock);
        let fed = self.watched(contract(call.routine).fed_by);
        let Some(n) = chosen else {
            let known = self.known();
            let sure = !upset && fed && (!other || self.watched(releases));
            let sure = sure && !(word.is_none() && !self.watch.before_target && !self.entered_before(who));
            return match word {
                Some(false) => (Some((Verdict::Semantic, false)), false),
                _ if !known => (None, false),
                _ if other => (Some((weigh(sure), true)), false),
                Some(true) => (Some((Verdict::Suspect, false)), false),
                None => (Some((weigh(sure), false)), false),
            };
        };
        let old = &self.acquires[n];
        let mine = self.surely_mine(old, who);
        if word == Some(false) && self.words_seen_set && !mine && !upset {
            return (Some((Verdict::Semantic, false)), false);
        }
        let foreign = !old.mine(who);
        let mut sure = !upset && fed && (!(other || foreign) || self.watched(releases));
        let inner = makers(old.routine);
        if !old.fits(call.routine) {
            sure &= self.watch.before_target || inner.is_empty();
            sure &= contract(old.routine).role != Role::TryAcquire || self.proof(old).is_some();
            sure &= self.watched(inner.union(makers(call.routine)).union(acquires).union(releases));
        }
        if foreign || (other && !mine) {
            return (Some((weigh(sure), true)), false);
        }
        if !old.fits(call.routine) {
            return (Some((weigh(sure), false)), true);
        }
        let unnamed = call.routine == R::KeReleaseSpinLock && old.routine == R::KeTryToAcquireSpinLockAtDpcLevel;
        (unnamed.then_some((Verdict::Literal, false)), true)
    }

    /// Every processor was below `DISPATCH_LEVEL` since the watch began.
    fn known(&self) -> bool {
        self.armed_at
            .is_some_and(|armed| (0..self.watch.processors).all(|processor| self.low_after(processor, armed)))
    }

    /// The thread has entered a lock without a word from below `DISPATCH_LEVEL`: it was not inside one before.
    fn entered_before(&self, who: &Context) -> bool {
        let entered = |acquire: &Acquire| {
            !matches!(acquire.lock, LockIdentity::Address(_))
                && acquire.who.irql < 2
                && acquire.who.thread == who.thread
        };
        self.acquires.iter().any(entered)
    }
}
