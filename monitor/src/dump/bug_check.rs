//! Describes a violation by a bug check code and its four parameters; `docs/dump.md` has the table for users.
//!
//! None of Windows' own codes is used, because Windows did not stop: a debugger would explain something that has not
//! happened.

use storlock_check::event::LockOperand;
use storlock_check::finding::Finding;

use crate::report::{BugCheck, DumpReason};

/// The code: severity "error" and the bit for customers, as in an NTSTATUS, then `SLK` in ASCII.
pub(crate) const CODE: u32 = 0xe053_4c4b;

/// The bug check that stands for a violation.
#[must_use]
pub(crate) fn of(finding: &Finding) -> BugCheck {
    BugCheck {
        code: CODE.into(),
        parameters: [
            u64::from(finding.rule.number()) << 8 | u64::from(finding.cause.number()),
            lock(&finding.call.operand),
            finding.call.context.return_address,
            finding.sequence,
        ],
    }
}

/// The bug check that stands for another reason than a violation, after the event with that number.
#[must_use]
pub(crate) fn of_reason(reason: DumpReason, event: u64) -> BugCheck {
    BugCheck {
        code: CODE.into(),
        parameters: [reason.number() << 16, 0, 0, event],
    }
}

/// How the call names its lock: by an address, except for the lock of a message.
const fn lock(operand: &LockOperand) -> u64 {
    match *operand {
        LockOperand::Address(address) | LockOperand::Interrupt(address) => address,
        LockOperand::Queued { lock, .. } => lock,
        LockOperand::QueuedHandle { handle, .. }
        | LockOperand::StorPort { handle, .. }
        | LockOperand::StorPortHandle { handle, .. } => handle,
        LockOperand::Msi { message, .. } => message as u64,
        LockOperand::Cancel => 0,
    }
}

#[cfg(test)]
mod tests {
    use storlock_check::finding::Cause;
    use storlock_check::rules::RuleId;

    use crate::report::DumpReason;

    #[test]
    fn the_page_for_users_has_every_number() {
        let page = include_str!("../../../docs/dump.md");
        let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
        let list = |mut numbers: Vec<(u16, &str)>| {
            numbers.sort_unstable();
            let numbers = numbers.iter().map(|(number, name)| format!("{number} {name}"));
            numbers.collect::<Vec<_>>().join(", ")
        };
        let rules = RuleId::ALL.iter().map(|rule| (rule.number(), rule.meta().name));
        let causes = Cause::ALL.iter().map(|cause| (cause.number(), cause.name()));
        let reasons = DumpReason::ALL.map(|reason| (reason.number() as u16, reason.text()));
        for list in [
            format!("Reasons: {}.", list(reasons.to_vec())),
            format!("Rules: {}.", list(rules.collect())),
            format!("Causes: {}.", list(causes.collect())),
        ] {
            assert!(page.contains(&list), "docs/dump.md lacks: {list}");
        }
    }
}
