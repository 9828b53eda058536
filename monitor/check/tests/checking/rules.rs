//! Every rule is complete: documented, registered, with a right example on which it is silent and a wrong one that it
//! finds.

use std::collections::BTreeSet;

use storlock_check::contract::{PortModel, Routine as R};
use storlock_check::event::{EventKind, LockOperand, PortTold};
use storlock_check::rules::RuleId;

use crate::sequences::{LOCK, PAIR, SECOND, Sequence, stack, stor, stor_handle, who};

const DOCUMENTATION: &str = include_str!("../../../../docs/rules.md");

/// A scene of a rule: legal, or illegal.
type Scene = fn(&mut Sequence);

const QUEUED: LockOperand = LockOperand::Queued {
    lock: 0x1000,
    handle: 0x700,
};
const fn queued_handle(handle: u64) -> LockOperand {
    LockOperand::QueuedHandle {
        handle,
        lock: Some(0x1000),
    }
}

fn pair(s: &mut Sequence) {
    s.call(who(0, 0, 1), PAIR[0], LOCK, Some(0));
    s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(0));
}

/// Two locks, the one inside of the other.
fn taken_together(s: &mut Sequence, outer: LockOperand, inner: LockOperand) {
    s.call(who(0, 0, 1), PAIR[0], outer, Some(0));
    s.call((0, 2, 1, 0xf040, stack(1)), PAIR[0], inner, Some(0));
    s.call_back_to(who(0, 2, 1), PAIR[1], inner, Some(1), Some(2));
    s.call_back_to(who(0, 2, 1), PAIR[1], outer, Some(1), Some(0));
}

fn stor_pair(s: &mut Sequence) {
    s.call(
        who(0, 2, 1),
        R::StorPortAcquireSpinLock,
        stor(0xad, 1, 0x500, 0x700),
        None,
    );
    s.call(
        who(0, 2, 1),
        R::StorPortReleaseSpinLock,
        stor_handle(0xad, 0x700, 1),
        None,
    );
}

fn port(s: &mut Sequence, port: PortModel) {
    s.event(EventKind::PortTold(PortTold { adapter: 0xad, port }));
}

fn message_pair(s: &mut Sequence) {
    let message = LockOperand::Msi {
        adapter: 0xad,
        message: 1,
    };
    s.call(who(0, 2, 1), R::StorPortAcquireMSISpinLock, message, None);
    let call = s.number;
    s.came_back(call, who(0, 5, 1), R::StorPortAcquireMSISpinLock, message, 0);
    let release = R::StorPortReleaseMSISpinLock;
    s.call_back_to(who(0, 5, 1), release, message, None, Some(2));
}

/// The legal and the illegal scene of a rule: the compiler asks for those of a new one.
fn scenes(rule: RuleId) -> (Scene, Scene) {
    match rule {
        RuleId::SpinLockRelease => (pair, |s| {
            s.call(who(0, 2, 1), PAIR[1], LOCK, Some(0));
        }),
        RuleId::QueuedSpinLockRelease => (
            |s| {
                s.call(who(0, 0, 1), R::KeAcquireInStackQueuedSpinLock, QUEUED, Some(0));
                let release = R::KeReleaseInStackQueuedSpinLock;
                s.call(who(0, 2, 1), release, queued_handle(0x700), Some(1));
            },
            |s| {
                s.call(who(0, 0, 1), R::KeAcquireInStackQueuedSpinLock, QUEUED, Some(0));
                let release = R::KeReleaseInStackQueuedSpinLock;
                s.call(who(0, 2, 1), release, queued_handle(0x780), Some(1));
            },
        ),
        RuleId::StorPortSpinLock4 => (stor_pair, |s| {
            s.call(
                who(0, 2, 1),
                R::StorPortReleaseSpinLock,
                stor_handle(0xad, 0x700, 0),
                None,
            );
        }),
        RuleId::CancelSpinLock => (
            |s| {
                s.call(who(0, 0, 1), R::IoAcquireCancelSpinLock, LockOperand::Cancel, None);
                s.call(who(0, 2, 1), R::IoReleaseCancelSpinLock, LockOperand::Cancel, None);
            },
            |s| {
                s.call(who(0, 0, 1), R::IoReleaseCancelSpinLock, LockOperand::Cancel, None);
            },
        ),
        RuleId::DoubleAcquire => (pair, |s| {
            s.call(who(0, 0, 1), PAIR[0], LOCK, Some(0));
            s.call(who(0, 2, 1), PAIR[0], LOCK, Some(1));
        }),
        RuleId::MissingRelease => (
            |s| {
                pair(s);
                s.low(0);
            },
            |s| {
                s.call(who(0, 2, 1), R::KeAcquireSpinLockAtDpcLevel, LOCK, Some(0));
                s.low(0);
            },
        ),
        RuleId::LockCleared => (
            |s| {
                pair(s);
                pair(s);
            },
            |s| {
                pair(s);
                s.call(who(0, 0, 1), PAIR[0], LOCK, Some(0));
                s.call(who(0, 2, 1), PAIR[1], LOCK, Some(0));
            },
        ),
        RuleId::StorPortSpinLock => (stor_pair, |s| {
            s.call(who(0, 2, 1), R::StorPortAcquireSpinLock, stor(0xad, 1, 0, 0x700), None);
        }),
        RuleId::StorPortSpinLock3 => (
            |s| {
                stor_pair(s);
                // The interrupt lock comes last, and may be taken with a DPC lock held.
                let interrupt = stor(0xad, 3, 0, 0x740);
                s.call(
                    who(0, 2, 1),
                    R::StorPortAcquireSpinLock,
                    stor(0xad, 1, 0x500, 0x700),
                    None,
                );
                s.call(who(0, 2, 1), R::StorPortAcquireSpinLock, interrupt, None);
                s.call(
                    who(0, 5, 1),
                    R::StorPortReleaseSpinLock,
                    stor_handle(0xad, 0x740, 3),
                    None,
                );
                s.call(
                    who(0, 2, 1),
                    R::StorPortReleaseSpinLock,
                    stor_handle(0xad, 0x700, 1),
                    None,
                );
                // What is refused takes nothing.
                let refused = R::StorPortAcquireSpinLockEx;
                s.call(who(0, 5, 1), refused, stor(0xad, 2, 0, 0x780), None);
            },
            |s| {
                s.call(
                    who(0, 5, 1),
                    R::StorPortAcquireSpinLock,
                    stor(0xad, 1, 0x500, 0x700),
                    None,
                );
            },
        ),
        RuleId::StorPortMSILock => (
            |s| {
                port(s, PortModel::MODE_KNOWN | PortModel::PER_MESSAGE);
                message_pair(s);
            },
            |s| {
                port(s, PortModel::MODE_KNOWN);
                message_pair(s);
            },
        ),
        RuleId::IrqlKeReleaseSpinLock => (pair, |s| {
            s.call(who(0, 0, 1), PAIR[0], LOCK, Some(0));
            s.call_back_to(who(0, 2, 1), PAIR[1], LOCK, Some(1), Some(2));
        }),
        RuleId::LockOrder => (
            |s| {
                for _ in 0..2 {
                    taken_together(s, LOCK, SECOND);
                }
            },
            |s| {
                taken_together(s, LOCK, SECOND);
                taken_together(s, SECOND, LOCK);
            },
        ),
        RuleId::LockStorage => (pair, |s| {
            let on_stack = LockOperand::Address(stack(1) + 0x20);
            s.call(who(0, 0, 1), PAIR[0], on_stack, Some(0));
            s.call_back_to(who(0, 2, 1), PAIR[1], on_stack, Some(1), Some(0));
        }),
        RuleId::LockRoutineIrql => (pair, |s| {
            s.call(
                (0, 0, 1, 0xf000, stack(1)),
                R::KeAcquireSpinLockAtDpcLevel,
                LOCK,
                Some(0),
            );
        }),
    }
}

/// The rules that are broken in a scene, and how.
fn broken(scene: Scene) -> Vec<(RuleId, storlock_check::finding::Verdict, storlock_check::finding::Cause)> {
    let routines: Vec<R> = R::ALL.to_vec();
    let mut s = Sequence::ready(&routines, true);
    scene(&mut s);
    let findings = s.checker.findings().iter();
    findings
        .map(|finding| (finding.rule, finding.verdict, finding.cause))
        .collect()
}

#[test]
fn every_rule_is_silent_on_its_legal_scene_and_finds_its_illegal_one() {
    for &rule in RuleId::ALL {
        let (legal, illegal) = scenes(rule);
        assert_eq!(broken(legal), [], "{rule:?}");
        let found = broken(illegal);
        let own = found.iter().find(|(broken, ..)| *broken == rule);
        let (_, verdict, cause) = own.unwrap_or_else(|| panic!("{rule:?} is not among {found:?}"));
        let meta = rule.meta();
        assert!(
            meta.verdicts.contains(verdict) && meta.causes.contains(cause),
            "{rule:?}"
        );
    }
}

#[test]
fn every_rule_has_its_section_with_page_and_examples() {
    for &rule in RuleId::ALL {
        let meta = rule.meta();
        let heading = format!("\n### {}\n", meta.name);
        let start = DOCUMENTATION.find(&heading).unwrap_or_else(|| panic!("{heading}"));
        let section = &DOCUMENTATION[start + heading.len()..];
        let end = section.find("\n## ").unwrap_or(section.len());
        let end = end.min(section.find("\n### ").unwrap_or(section.len()));
        let section = &section[..end];
        assert_eq!(section.matches("```c\n").count(), 2, "{}: legal and illegal", meta.name);
        let page = meta.source.split([';', ' ']).next().unwrap_or_default();
        assert!(section.contains(page), "{} does not name {page}", meta.name);
        let row = format!("| [{}](#{}) |", meta.name, meta.name.to_lowercase());
        assert!(DOCUMENTATION.contains(&row), "{row}");
    }
}

#[test]
fn numbers_and_names_of_rules_are_their_own() {
    let numbers: BTreeSet<u16> = RuleId::ALL.iter().map(|rule| rule.number()).collect();
    let names: BTreeSet<&str> = RuleId::ALL.iter().map(|rule| rule.meta().name).collect();
    assert_eq!((numbers.len(), names.len()), (RuleId::ALL.len(), RuleId::ALL.len()));
    // They are written into dumps and signatures: these stay.
    let known = [
        (RuleId::SpinLockRelease, 1),
        (RuleId::QueuedSpinLockRelease, 2),
        (RuleId::StorPortSpinLock4, 3),
        (RuleId::DoubleAcquire, 4),
        (RuleId::MissingRelease, 5),
        (RuleId::IrqlKeReleaseSpinLock, 6),
        (RuleId::LockRoutineIrql, 7),
        (RuleId::LockCleared, 8),
        (RuleId::CancelSpinLock, 9),
        (RuleId::StorPortSpinLock, 10),
        (RuleId::LockOrder, 11),
        (RuleId::LockStorage, 12),
        (RuleId::StorPortSpinLock3, 13),
        (RuleId::StorPortMSILock, 14),
    ];
    for (rule, number) in known {
        assert_eq!(rule.number(), number);
    }
}
