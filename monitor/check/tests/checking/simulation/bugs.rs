//! Wrong programs: what the driver under test does wrong, once.

use storlock_check::contract::Routine as R;

use super::Owner;
use super::code::{Act, Author, Given, Program, Step, pairs};
use super::locks::Class;

/// What the driver under test does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    Stray,
    WrongOwner,
    Twice,
    OtherLock,
    WrongRoutine,
    Double,
    /// A lock that is the one that is held by another name, or a part of it.
    OtherName,
    MissingRelease,
    /// The same, and the very same call once more.
    TakenAgain,
    NewIrql,
    CopiedHandle,
    WrongAdapter,
    EmptyHandle,
    CancelTwice,
    TakesNothing,
    RefusedIgnored,
    WrongIrql,
    Cleared,
    Order,
}

impl Bug {
    pub const ALL: [Self; 19] = [
        Self::Stray,
        Self::WrongOwner,
        Self::Twice,
        Self::OtherLock,
        Self::WrongRoutine,
        Self::Double,
        Self::OtherName,
        Self::MissingRelease,
        Self::TakenAgain,
        Self::NewIrql,
        Self::CopiedHandle,
        Self::WrongAdapter,
        Self::EmptyHandle,
        Self::CancelTwice,
        Self::TakesNothing,
        Self::RefusedIgnored,
        Self::WrongIrql,
        Self::Cleared,
        Self::Order,
    ];
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

impl Author<'_> {
    /// A program of the driver under test with a bug. A bug that does not apply leaves it right.
    pub fn wrong(&mut self, bug: Bug, irql: u8) -> Program {
        let mut program = self.right(Owner::Target, irql);
        for step in &mut program.steps {
            step.owner = Owner::Target;
        }
        self.spoil(&mut program.steps, bug, irql);
        program
    }

    /// Two locks in the order of their groups, and in the other.
    fn both_orders(&mut self, locks: &[usize]) -> Vec<Step> {
        let pair = (R::KeAcquireSpinLockRaiseToDpc, R::KeReleaseSpinLock, 0);
        let mut sections = Vec::new();
        for [outer, inner] in [[locks[0], locks[1]], [locks[1], locks[0]]] {
            let mut own = |lock| {
                self.pair(lock, Owner::Target, pair).map(|step| Step {
                    owner: Owner::Target,
                    ..step
                })
            };
            let ([first, last], [second, third]) = (own(outer), own(inner));
            sections.extend([first, second, third, last]);
        }
        sections
    }

    /// A lock of the port driver's, and inside of it one that is the same by another name, or a part of it; none, where each is
    /// one of its own.
    fn other_name(&mut self) -> Vec<Step> {
        let outer = self.random.pick(&[6, 8, 10, 11]);
        let excludes = self.locks.0[outer].excludes;
        let same = |lock: &usize| *lock != outer && excludes >> lock & 1 != 0;
        let others: Vec<usize> = (0..self.locks.0.len()).filter(same).collect();
        if others.is_empty() {
            return Vec::new();
        }
        let inner = self.random.pick(&others);
        let mut pair = |lock: usize, slot, place| {
            let pair = pairs(self.locks.0[lock].class, 2)[0];
            let steps = self.pair(lock, Owner::Target, pair);
            steps.map(|step| Step {
                owner: Owner::Target,
                slot,
                site: step.site + place,
                ..step
            })
        };
        let [first, last] = pair(outer, 0, 0);
        let [second, third] = pair(inner, 8, 1000);
        vec![first, second, third, last]
    }

    /// Puts a bug in.
    fn spoil(&mut self, steps: &mut Vec<Step>, bug: Bug, irql: u8) {
        let classes: &[Class] = match bug {
            Bug::CancelTwice => &[Class::Cancel],
            Bug::CopiedHandle | Bug::EmptyHandle => &[Class::Queued, Class::Dpc, Class::StartIo],
            Bug::WrongAdapter => &[Class::Dpc, Class::StartIo],
            Bug::TakesNothing | Bug::RefusedIgnored => &[Class::Dpc],
            Bug::OtherLock => &[Class::Spin, Class::Dpc, Class::StartIo],
            Bug::Cleared | Bug::WrongIrql | Bug::Order => &[Class::Spin],
            Bug::NewIrql | Bug::TakenAgain => &[Class::Spin, Class::Ex],
            _ => &[Class::Spin, Class::Queued, Class::Ex, Class::Dpc, Class::StartIo],
        };
        if irql > 2 {
            return;
        }
        // A section of its own before the others, so that the bug is all that is wrong.
        let class = self.random.pick(classes);
        let of_class: Vec<usize> = (0..self.locks.0.len())
            .filter(|&lock| self.locks.0[lock].class == class && self.locks.0[lock].owner == Owner::Target)
            .collect();
        let lock = self.random.pick(&of_class);
        let mut possible = pairs(class, irql);
        possible.retain(|pair| match bug {
            Bug::WrongRoutine => wrong_release(pair.0).is_some(),
            Bug::NewIrql => {
                matches!(
                    pair.1,
                    R::KeReleaseSpinLock | R::ExReleaseSpinLockShared | R::ExReleaseSpinLockExclusive
                ) && pair.0 != R::KeTryToAcquireSpinLockAtDpcLevel
            }
            Bug::TakenAgain => !super::pages::shared(pair.0) && pair.0 != R::KeTryToAcquireSpinLockAtDpcLevel,
            _ => pair.0 != R::KeTryToAcquireSpinLockAtDpcLevel,
        });
        possible.retain(|pair| irql >= 2 || pair.2 != 5);
        if possible.is_empty() {
            return;
        }
        let pair = self.random.pick(&possible);
        let [mut acquire, mut release] = self.pair(lock, Owner::Target, pair);
        (acquire.owner, release.owner) = (Owner::Target, Owner::Target);
        let other = Step {
            slot: 9,
            site: release.site + 1000,
            ..release
        };
        let mut section = match bug {
            Bug::Stray => vec![other],
            Bug::WrongOwner => vec![
                Step {
                    act: Act::Await,
                    ..other
                },
                other,
            ],
            Bug::Twice | Bug::CancelTwice => vec![acquire, release, Step { slot: 0, ..other }],
            Bug::OtherLock => {
                let others: Vec<usize> = of_class.into_iter().filter(|&other| other != lock).collect();
                vec![
                    acquire,
                    Step {
                        lock: others[0],
                        ..other
                    },
                ]
            }
            Bug::WrongRoutine => {
                release.routine = wrong_release(pair.0).unwrap_or(pair.1);
                vec![acquire, release]
            }
            Bug::Double => vec![
                acquire,
                Step {
                    slot: 8,
                    site: acquire.site + 1000,
                    ..acquire
                },
                release,
            ],
            Bug::MissingRelease => vec![
                acquire,
                Step {
                    act: Act::Leave,
                    ..release
                },
            ],
            Bug::TakenAgain if irql >= 2 => return,
            Bug::TakenAgain => {
                let leave = Step {
                    act: Act::Leave,
                    ..release
                };
                vec![acquire, leave, acquire, release]
            }
            Bug::NewIrql => vec![
                acquire,
                Step {
                    given: Given::Wrong,
                    ..release
                },
            ],
            Bug::CopiedHandle => vec![
                acquire,
                Step {
                    act: Act::Copy(9),
                    ..release
                },
                other,
            ],
            Bug::WrongAdapter => {
                let adapters = super::locks::ADAPTERS;
                let wrong = adapters
                    .into_iter()
                    .find(|&adapter| adapter != self.locks.0[lock].adapter);
                vec![
                    acquire,
                    Step {
                        adapter: wrong,
                        ..release
                    },
                ]
            }
            Bug::EmptyHandle => vec![
                acquire,
                Step {
                    act: Act::Zero,
                    ..release
                },
                release,
            ],
            Bug::TakesNothing => {
                acquire.routine = R::StorPortAcquireSpinLock;
                acquire.kind = self.random.pick(&[0, 1, 4, 5]);
                acquire.no_context = acquire.kind == 1;
                vec![acquire, release]
            }
            Bug::RefusedIgnored => {
                acquire.routine = R::StorPortAcquireSpinLockEx;
                acquire.kind = if irql < 2 { 5 } else { 1 };
                acquire.no_context = irql >= 2;
                vec![acquire, release]
            }
            Bug::Order => self.both_orders(&of_class),
            Bug::OtherName => self.other_name(),
            Bug::WrongIrql if irql < 2 => {
                acquire.routine = R::KeAcquireSpinLockAtDpcLevel;
                release.routine = R::KeReleaseSpinLockFromDpcLevel;
                vec![acquire, release]
            }
            Bug::WrongIrql => return,
            Bug::Cleared => vec![
                acquire,
                Step {
                    act: Act::Clear,
                    ..release
                },
                release,
            ],
        };
        let moved = section.len();
        for step in steps.iter_mut() {
            if let Act::Try { skip } = &mut step.act {
                *skip += moved;
            }
        }
        section.append(steps);
        *steps = section;
    }
}
