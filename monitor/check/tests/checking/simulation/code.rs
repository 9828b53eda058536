//! What threads, DPCs and interrupts run: sections of lock calls as drivers, the kernel and the port driver make them.

use storlock_check::contract::Routine as R;

use super::locks::{CANCEL, Class, Locks};
use super::{Config, Owner, Random};

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Acquire,
    /// `skip`: where to go on if the acquire fails.
    Try {
        skip: usize,
    },
    /// Turns a shared hold into an exclusive one, or does not.
    Convert,
    Release,
    /// `KeRaiseIrql`, to this level at least; not seen.
    Raise(u8),
    /// `KeLowerIrql` to what it was before the last raise; not seen.
    Lower,
    /// `KeLowerIrql` to what it was before the acquire, without the release.
    Leave,
    /// `KeInitializeSpinLock`.
    Clear,
    /// The handle is zeroed.
    Zero,
    /// The handle is copied to this other one.
    Copy(u64),
    /// Waits for somebody else to take the lock.
    Await,
}

/// Which old IRQL a release gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// That of the acquire.
    Own,
    /// That of the acquire of another lock, which is still held or was released before.
    Of(usize),
    /// Another one.
    Wrong,
}

#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub act: Act,
    pub lock: usize,
    pub routine: R,
    /// Number of the handle among those of the caller.
    pub slot: u64,
    /// How deep in the stack the call is made.
    pub depth: u64,
    /// Number of the call site.
    pub site: u64,
    pub owner: Owner,
    /// `STOR_SPINLOCK`.
    pub kind: u32,
    pub no_context: bool,
    /// `HwDeviceExtension`, if not that of the lock.
    pub adapter: Option<u64>,
    pub given: Given,
    /// By a way that nobody can watch.
    pub unseen: bool,
}

/// What somebody runs.
#[derive(Clone, Debug, Default)]
pub struct Program {
    pub steps: Vec<Step>,
}

type Pair = (R, R, u32);

/// Pairs of routines that are right for a lock at an IRQL, with the `STOR_SPINLOCK`.
pub(super) fn pairs(class: Class, irql: u8) -> Vec<Pair> {
    let low = irql < 2;
    let mut pairs: Vec<Pair> = Vec::new();
    let mut add = |possible: bool, acquire, release, kind| {
        if possible {
            pairs.push((acquire, release, kind));
        }
    };
    match class {
        Class::Spin => {
            add(irql <= 2, R::KeAcquireSpinLockRaiseToDpc, R::KeReleaseSpinLock, 0);
            add(irql <= 2, R::KeAcquireSpinLockForDpc, R::KeReleaseSpinLockForDpc, 0);
            add(
                !low,
                R::KeAcquireSpinLockAtDpcLevel,
                R::KeReleaseSpinLockFromDpcLevel,
                0,
            );
            add(
                !low,
                R::KeTryToAcquireSpinLockAtDpcLevel,
                R::KeReleaseSpinLockFromDpcLevel,
                0,
            );
            add(irql == 2, R::KeTryToAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLock, 0);
        }
        Class::Queued => {
            let at = R::KeAcquireInStackQueuedSpinLockAtDpcLevel;
            let for_dpc = R::KeAcquireInStackQueuedSpinLockForDpc;
            add(
                true,
                R::KeAcquireInStackQueuedSpinLock,
                R::KeReleaseInStackQueuedSpinLock,
                0,
            );
            add(true, for_dpc, R::KeReleaseInStackQueuedSpinLockForDpc, 0);
            add(!low, at, R::KeReleaseInStackQueuedSpinLockFromDpcLevel, 0);
        }
        Class::Ex => {
            let exclusive = R::ExAcquireSpinLockExclusiveAtDpcLevel;
            add(true, R::ExAcquireSpinLockExclusive, R::ExReleaseSpinLockExclusive, 0);
            add(true, R::ExAcquireSpinLockShared, R::ExReleaseSpinLockShared, 0);
            add(!low, exclusive, R::ExReleaseSpinLockExclusiveFromDpcLevel, 0);
            add(
                !low,
                R::ExAcquireSpinLockSharedAtDpcLevel,
                R::ExReleaseSpinLockSharedFromDpcLevel,
                0,
            );
        }
        Class::Dpc => {
            add(true, R::StorPortAcquireSpinLock, R::StorPortReleaseSpinLock, 1);
            for kind in [1, 4, 5] {
                add(true, R::StorPortAcquireSpinLockEx, R::StorPortReleaseSpinLock, kind);
            }
        }
        Class::StartIo | Class::Interrupt => {
            let kind = if class == Class::StartIo { 2 } else { 3 };
            add(true, R::StorPortAcquireSpinLock, R::StorPortReleaseSpinLock, kind);
            add(true, R::StorPortAcquireSpinLockEx, R::StorPortReleaseSpinLock, kind);
        }
        Class::Message(_) => add(true, R::StorPortAcquireMSISpinLock, R::StorPortReleaseMSISpinLock, 0),
        Class::Object => add(true, R::KeAcquireInterruptSpinLock, R::KeReleaseInterruptSpinLock, 0),
        Class::Cancel => add(true, R::IoAcquireCancelSpinLock, R::IoReleaseCancelSpinLock, 0),
    }
    pairs
}

/// Writes programs.
pub struct Author<'a> {
    pub random: &'a mut Random,
    pub config: &'a Config,
    pub locks: &'a Locks,
}

impl Author<'_> {
    /// A right program of `owner` for a caller at `irql`.
    pub fn right(&mut self, owner: Owner, irql: u8) -> Program {
        let mut program = Program::default();
        for _ in 0..=self.random.below(3) {
            self.section(&mut program.steps, owner, irql);
        }
        program
    }

    fn step(&mut self, lock: usize, owner: Owner) -> Step {
        let helped = owner == Owner::Target && self.config.helper && self.random.percent(25);
        Step {
            act: Act::Acquire,
            lock,
            routine: R::KeReleaseSpinLock,
            slot: 0,
            depth: self.random.next() % 4,
            // A few places take all the locks, by a function of the driver's own; the others are a lock's.
            site: if self.random.percent(3) {
                500
            } else {
                lock as u64 * 16 + self.random.next() % 16
            },
            owner: if helped { Owner::Helper } else { owner },
            kind: 0,
            no_context: false,
            adapter: None,
            given: Given::Own,
            unseen: owner == Owner::Port,
        }
    }

    pub(super) fn pair(&mut self, lock: usize, owner: Owner, (acquire, release, kind): Pair) -> [Step; 2] {
        let steps = [self.step(lock, owner), self.step(lock, owner)];
        [
            Step {
                routine: acquire,
                kind,
                ..steps[0]
            },
            Step {
                routine: release,
                kind,
                act: Act::Release,
                ..steps[1]
            },
        ]
    }

    /// Locks that the owner may take, in the order in which they are taken.
    fn choose(&mut self, owner: Owner, irql: u8) -> Vec<usize> {
        let own: Vec<usize> = (0..self.locks.0.len())
            .filter(|&number| {
                let lock = &self.locks.0[number];
                let mine = match owner {
                    Owner::Port => lock.owner == Owner::Target && lock.class.by_stor_handle(),
                    _ => lock.owner == owner,
                };
                // A message has a lock if the driver has asked for that.
                let there = self.config.per_message || !matches!(lock.class, Class::Message(_));
                mine && there && (irql <= 2 || lock.level > 2)
            })
            .collect();
        if own.is_empty() {
            return own;
        }
        let mut chosen = vec![self.random.pick(&own)];
        while chosen.len() < 3 && self.random.percent(35) {
            let group = self.locks.0[chosen[chosen.len() - 1]].group;
            let more: Vec<usize> = own
                .iter()
                .copied()
                .filter(|&lock| self.locks.0[lock].group > group)
                .collect();
            if more.is_empty() {
                break;
            }
            chosen.push(self.random.pick(&more));
        }
        chosen
    }

    /// One to three locks taken in order and given back.
    fn section(&mut self, steps: &mut Vec<Step>, owner: Owner, irql: u8) {
        let mut chosen = self.choose(owner, irql);
        let high = |lock: usize| self.locks.0[lock].class == Class::Spin && self.locks.0[lock].level > 2;
        let needs = chosen.iter().copied().find(|&lock| high(lock));
        if let Some(lock) = needs {
            chosen = vec![lock];
        }
        let needs = needs.is_some();
        let Some(&first) = chosen.first() else { return };
        if owner == Owner::Nt && irql <= 2 && self.random.percent(50) {
            return self.half_seen(steps, first, irql);
        }
        if first == CANCEL && self.config.owners && irql <= 2 && self.random.percent(40) {
            return self.cancel_routine(steps);
        }
        let level = if needs { 5 } else { 2 };
        let raises = irql < level && (needs || self.random.percent(15));
        let mut now = if raises { level } else { irql };
        let start = steps.len();
        if raises {
            let step = self.step(first, owner);
            steps.push(Step {
                act: Act::Raise(level),
                ..step
            });
        }
        let begin = now;
        let mut open: Vec<(usize, Step)> = Vec::new();
        for (slot, &lock) in chosen.iter().enumerate() {
            let class = self.locks.0[lock].class;
            let possible = pairs(class, now);
            let pair = self.random.pick(&possible);
            let [mut acquire, mut release] = self.pair(lock, owner, pair);
            (acquire.slot, release.slot) = (slot as u64, slot as u64);
            open.push((steps.len(), release));
            steps.push(acquire);
            if class == Class::Ex && now >= 2 && super::pages::shared(pair.0) && self.random.percent(30) {
                let convert = self.step(lock, owner);
                let routine = R::ExTryConvertSharedSpinLockExclusive;
                steps.push(Step {
                    act: Act::Convert,
                    routine,
                    ..convert
                });
            }
            let level = self.locks.0[lock].level;
            let takes = self.locks.0[lock].excludes != 0;
            now = if takes { now.max(level) } else { now };
        }
        self.give_back(steps, open, begin);
        if raises {
            let step = self.step(first, owner);
            steps.push(Step {
                act: Act::Lower,
                ..step
            });
        }
        debug_assert!(start < steps.len());
    }

    /// The releases: in reverse, or where the IRQL allows it in another order.
    fn give_back(&mut self, steps: &mut Vec<Step>, mut open: Vec<(usize, Step)>, begin: u8) {
        let may_fail = |routine: R| {
            matches!(
                routine,
                R::KeTryToAcquireSpinLockAtDpcLevel | R::StorPortAcquireSpinLockEx
            )
        };
        let sure = open.iter().all(|(place, _)| !may_fail(steps[*place].routine));
        let flat = open.iter().all(|(_, release)| self.locks.0[release.lock].level == 2);
        let swap =
            open.len() == 2 && open.iter().all(|(_, release)| release.routine == R::KeReleaseSpinLock) && begin < 2;
        if sure && swap && self.random.percent(50) {
            // Hand over hand: the old IRQLs are given back in the other order.
            let [first, second] = [open[0].1, open[1].1];
            steps.push(Step {
                given: Given::Of(second.lock),
                ..first
            });
            steps.push(Step {
                given: Given::Of(first.lock),
                ..second
            });
            return;
        }
        if sure && flat && begin == 2 && self.random.percent(30) {
            steps.extend(open.iter().map(|(_, release)| *release));
            return;
        }
        while let Some((place, release)) = open.pop() {
            steps.push(release);
            if may_fail(steps[place].routine) {
                steps[place].act = Act::Try { skip: steps.len() };
            }
        }
    }

    /// A pair of the kernel of which one half goes by a routine of its own and the IRQL by CR8.
    fn half_seen(&mut self, steps: &mut Vec<Step>, lock: usize, irql: u8) {
        let by_class: &[Pair] = match self.locks.0[lock].class {
            Class::Queued => &[
                (
                    R::KeAcquireInStackQueuedSpinLock,
                    R::KeReleaseInStackQueuedSpinLockFromDpcLevel,
                    1,
                ),
                (
                    R::KeAcquireInStackQueuedSpinLock,
                    R::KeReleaseInStackQueuedSpinLockFromDpcLevel,
                    2,
                ),
                (
                    R::KeAcquireInStackQueuedSpinLockAtDpcLevel,
                    R::KeReleaseInStackQueuedSpinLock,
                    3,
                ),
            ],
            _ if self.locks.0[lock].level > 2 => &[
                (R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel, 2),
                (R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel, 3),
            ],
            _ => &[
                (R::KeAcquireSpinLockRaiseToDpc, R::KeReleaseSpinLockFromDpcLevel, 1),
                (R::KeAcquireSpinLockRaiseToDpc, R::KeReleaseSpinLockFromDpcLevel, 2),
                (R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel, 2),
                (R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel, 3),
                (R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLock, 3),
            ],
        };
        let (acquire, release, hidden) = self.random.pick(by_class);
        let [mut first, mut second] = self.pair(lock, Owner::Nt, (acquire, release, 0));
        // 2: the release is not seen, 3: the acquire is not.
        (first.unseen, second.unseen) = (hidden == 3, hidden == 2);
        let raise = match acquire {
            R::KeAcquireSpinLockAtDpcLevel | R::KeAcquireInStackQueuedSpinLockAtDpcLevel => self.locks.0[lock].level,
            _ => 0,
        };
        debug_assert!(irql <= 2);
        steps.push(Step {
            act: Act::Raise(raise),
            ..first
        });
        steps.push(first);
        steps.push(second);
        steps.push(Step {
            act: Act::Lower,
            ..second
        });
    }

    /// The I/O manager takes the cancel spin lock, the driver's cancel routine gives it back.
    fn cancel_routine(&mut self, steps: &mut Vec<Step>) {
        let pair = (R::IoAcquireCancelSpinLock, R::IoReleaseCancelSpinLock, 0);
        let [mut acquire, release] = self.pair(CANCEL, Owner::Target, pair);
        acquire.owner = Owner::Nt;
        acquire.unseen = self.random.percent(50);
        steps.push(acquire);
        steps.push(release);
    }
}
