//! What the threads, DPCs and interrupts of the simulated kernel do: random sequences of lock calls, with or without
//! a bug.

use storlock_check::contract::Routine as R;

/// Small generator of random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
    pub fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Spin,
    Queued,
    Ex,
    StorPort,
    Msi,
}

/// The classes of the simulated locks, by lock number. Locks are acquired in ascending order only.
pub const LOCKS: [Class; 8] = [
    Class::Spin,
    Class::Spin,
    Class::Queued,
    Class::Ex,
    Class::StorPort,
    Class::StorPort,
    Class::Msi,
    Class::Msi,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Acquire,
    /// `skip`: where to go on if the acquire fails.
    Try {
        skip: usize,
    },
    Release,
}

#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub action: Action,
    pub lock: usize,
    pub routine: R,
    /// Number of the handle among those of the caller.
    pub slot: u64,
    /// How deep in the stack the call is made.
    pub depth: u64,
    /// Number of the call site.
    pub site: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    Stray,
    Twice,
    Other,
    WrongRoutine,
    Double,
}

/// What somebody runs.
#[derive(Clone, Debug, Default)]
pub struct Program {
    pub steps: Vec<Step>,
    pub bug: Option<Bug>,
}

/// A pair of routines for a lock; `high`: the caller is at `DISPATCH_LEVEL` or above.
fn pair(random: &mut Random, class: Class, high: bool) -> (R, R) {
    let low_pairs: &[(R, R)] = match class {
        Class::Spin => &[
            (R::KeAcquireSpinLockRaiseToDpc, R::KeReleaseSpinLock),
            (R::KeAcquireSpinLockRaiseToDpc, R::KeReleaseSpinLock),
            (R::KeAcquireSpinLockForDpc, R::KeReleaseSpinLockForDpc),
        ],
        Class::Queued => &[
            (R::KeAcquireInStackQueuedSpinLock, R::KeReleaseInStackQueuedSpinLock),
            (
                R::KeAcquireInStackQueuedSpinLockForDpc,
                R::KeReleaseInStackQueuedSpinLockForDpc,
            ),
        ],
        Class::Ex => &[
            (R::ExAcquireSpinLockExclusive, R::ExReleaseSpinLockExclusive),
            (R::ExAcquireSpinLockShared, R::ExReleaseSpinLockShared),
        ],
        Class::StorPort => &[
            (R::StorPortAcquireSpinLock, R::StorPortReleaseSpinLock),
            (R::StorPortAcquireSpinLockEx, R::StorPortReleaseSpinLock),
        ],
        Class::Msi => &[(R::StorPortAcquireMSISpinLock, R::StorPortReleaseMSISpinLock)],
    };
    let high_pairs: &[(R, R)] = match class {
        Class::Spin => &[
            (R::KeAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel),
            (R::KeAcquireSpinLockRaiseToDpc, R::KeReleaseSpinLock),
            (R::KeTryToAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLockFromDpcLevel),
            (R::KeTryToAcquireSpinLockAtDpcLevel, R::KeReleaseSpinLock),
        ],
        Class::Queued => &[(
            R::KeAcquireInStackQueuedSpinLockAtDpcLevel,
            R::KeReleaseInStackQueuedSpinLockFromDpcLevel,
        )],
        Class::Ex => &[
            (
                R::ExAcquireSpinLockExclusiveAtDpcLevel,
                R::ExReleaseSpinLockExclusiveFromDpcLevel,
            ),
            (
                R::ExAcquireSpinLockSharedAtDpcLevel,
                R::ExReleaseSpinLockSharedFromDpcLevel,
            ),
        ],
        Class::StorPort | Class::Msi => low_pairs,
    };
    random.pick(if high { high_pairs } else { low_pairs })
}

/// A release of the right operands and the wrong kind.
fn wrong_release(acquire: R) -> Option<R> {
    Some(match acquire {
        R::KeAcquireSpinLockRaiseToDpc => R::KeReleaseSpinLockFromDpcLevel,
        R::KeAcquireSpinLockAtDpcLevel => R::KeReleaseSpinLock,
        R::KeAcquireInStackQueuedSpinLock => R::KeReleaseInStackQueuedSpinLockFromDpcLevel,
        R::KeAcquireInStackQueuedSpinLockAtDpcLevel => R::KeReleaseInStackQueuedSpinLock,
        R::ExAcquireSpinLockExclusive | R::ExAcquireSpinLockExclusiveAtDpcLevel => R::ExReleaseSpinLockShared,
        R::ExAcquireSpinLockShared => R::ExReleaseSpinLockExclusive,
        _ => return None,
    })
}

impl Program {
    /// A program for a caller at `irql` (0 a thread, 2 a DPC, 5 an interrupt).
    pub fn new(random: &mut Random, irql: u8, bug: Option<Bug>) -> Self {
        let mut program = Self::default();
        for _ in 0..=random.below(3) {
            program.section(random, irql);
        }
        if let Some(bug) = bug {
            program.spoil(random, bug);
        }
        program
    }

    /// One or two locks taken in order and given back in reverse.
    fn section(&mut self, random: &mut Random, irql: u8) {
        let first = if irql > 2 { 6 } else { 0 };
        let outer = first + random.below(LOCKS.len() - first);
        let mut open = Vec::new();
        let mut locks = vec![outer];
        if outer + 1 < LOCKS.len() && random.percent(40) {
            locks.push(outer + 1 + random.below(LOCKS.len() - outer - 1));
        }
        for (level, lock) in locks.into_iter().enumerate() {
            let (acquire, release) = pair(random, LOCKS[lock], irql >= 2 || level > 0);
            let step = Step {
                action: Action::Acquire,
                lock,
                routine: acquire,
                slot: level as u64,
                depth: random.next() % 4,
                site: random.next() % 1000,
            };
            open.push((self.steps.len(), release));
            self.steps.push(step);
        }
        while let Some((place, routine)) = open.pop() {
            let depth = random.next() % 4;
            let step = Step {
                action: Action::Release,
                routine,
                depth,
                site: random.next() % 1000,
                ..self.steps[place]
            };
            self.steps.push(step);
            let may_fail = matches!(
                self.steps[place].routine,
                R::KeTryToAcquireSpinLockAtDpcLevel | R::StorPortAcquireSpinLockEx
            );
            if may_fail {
                self.steps[place].action = Action::Try { skip: self.steps.len() };
            }
        }
    }

    /// Puts a bug in. A bug that does not apply leaves the program right.
    fn spoil(&mut self, random: &mut Random, bug: Bug) {
        let releases: Vec<_> = (0..self.steps.len())
            .filter(|&place| self.steps[place].action == Action::Release)
            .collect();
        let place = random.pick(&releases);
        let release = self.steps[place];
        let acquire = self.steps[..place]
            .iter()
            .rposition(|step| step.lock == release.lock && step.action != Action::Release)
            .expect("every release has an acquire");
        if matches!(self.steps[acquire].action, Action::Try { .. }) && bug != Bug::Stray {
            return;
        }
        match bug {
            Bug::Stray => {
                // Before everything else, so that nothing is held; by a handle that was never filled in.
                let first = self
                    .steps
                    .iter()
                    .position(|step| step.lock == release.lock)
                    .unwrap_or(0);
                if first != 0 {
                    return;
                }
                self.insert(0, Step { slot: 9, ..release });
            }
            Bug::Twice => self.insert(
                place + 1,
                Step {
                    site: release.site + 1000,
                    ..release
                },
            ),
            Bug::Other => {
                let class = LOCKS[release.lock];
                let Some(other) = (0..LOCKS.len()).find(|&lock| lock != release.lock && LOCKS[lock] == class) else {
                    return;
                };
                if self.steps.iter().any(|step| step.lock == other) {
                    return;
                }
                self.steps[place] = Step {
                    lock: other,
                    slot: 9,
                    ..release
                };
            }
            Bug::WrongRoutine => {
                let Some(routine) = wrong_release(self.steps[acquire].routine) else {
                    return;
                };
                self.steps[place].routine = routine;
            }
            Bug::Double => {
                let again = self.steps[acquire];
                self.insert(
                    acquire + 1,
                    Step {
                        site: again.site + 1000,
                        ..again
                    },
                );
            }
        }
        self.bug = Some(bug);
    }

    fn insert(&mut self, at: usize, step: Step) {
        self.steps.insert(at, step);
        for step in &mut self.steps {
            if let Action::Try { skip } = &mut step.action {
                *skip += usize::from(*skip > at);
            }
        }
    }
}
