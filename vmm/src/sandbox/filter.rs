//! The lists of system calls as seccomp programs (Linux `Documentation/userspace-api/seccomp_filter.rst`).
//!
//! It must not know what the calls are for.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::SandboxError;
use super::ThreadKind;
use super::calls::{Argument, calls};
use super::requests::requests;

/// The conditions of which one has to hold.
fn alternatives(argument: &Argument) -> Result<Vec<SeccompCondition>, BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, Gt, MaskedEq};
    let one =
        |index, length, operator, value| SeccompCondition::new(index, length, operator, value).map(|one| vec![one]);
    match *argument {
        Argument::Int { index, free, values } => {
            let equal = |&value: &u32| SeccompCondition::new(index, Dword, MaskedEq(u64::from(!free)), value.into());
            values.iter().map(equal).collect()
        }
        Argument::Null(index) => one(index, Qword, Eq, 0),
        Argument::ThisProcess(index) => one(index, Dword, Eq, std::process::id().into()),
        Argument::NotStandard(index) => one(index, Dword, Gt, libc::STDERR_FILENO as u64),
    }
}

/// The rules of which one has to hold for a call; none if it is allowed whatever its arguments.
fn rules(arguments: &[Argument]) -> Result<Vec<SeccompRule>, BackendError> {
    if arguments.is_empty() {
        return Ok(Vec::new());
    }
    // A rule holds if all its conditions do: one rule for each combination.
    let mut combinations = vec![Vec::new()];
    for argument in arguments {
        let alternatives = alternatives(argument)?;
        combinations = combinations
            .iter()
            .flat_map(|conditions: &Vec<SeccompCondition>| {
                alternatives
                    .iter()
                    .map(|one| conditions.iter().cloned().chain([one.clone()]).collect())
            })
            .collect();
    }
    combinations.into_iter().map(SeccompRule::new).collect()
}

fn filter(kind: ThreadKind) -> Result<SeccompFilter, BackendError> {
    let mut all: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in calls(kind) {
        all.entry(call.number).or_default().extend(rules(call.arguments)?);
    }
    let values = requests(kind);
    if !values.is_empty() {
        let request = Argument::Int {
            index: 1,
            free: 0,
            values,
        };
        all.insert(libc::SYS_ioctl, rules(&[request])?);
    }
    SeccompFilter::new(all, SeccompAction::Trap, SeccompAction::Allow, TargetArch::x86_64)
}

/// The filter of a kind of thread, ready to be installed.
pub(super) fn program(kind: ThreadKind) -> Result<BpfProgram, SandboxError> {
    filter(kind)
        .and_then(BpfProgram::try_from)
        .map_err(|error| SandboxError::Limit {
            action: "build a system call filter",
            reason: error.to_string(),
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_a_program_that_is_unambiguous() {
        for kind in ThreadKind::ALL {
            assert!(!program(kind).unwrap().is_empty(), "{kind:?}");
            // A call that is allowed whatever its arguments would lose that, or its rules, beside a second entry.
            let (free, ruled): (Vec<_>, Vec<_>) = calls(kind).into_iter().partition(|call| call.arguments.is_empty());
            let free: BTreeSet<_> = free.iter().map(|call| call.number).collect();
            assert!(ruled.iter().all(|call| !free.contains(&call.number)), "{kind:?}");
            assert!(!free.contains(&libc::SYS_ioctl), "{kind:?}");
        }
    }

    #[test]
    fn conditions_on_several_arguments_have_to_hold_together() {
        let two = |index, values| Argument::Int { index, free: 0, values };
        assert_eq!(rules(&[]).unwrap().len(), 0);
        assert_eq!(
            rules(&[two(0, &[1, 2]), Argument::Null(4), two(3, &[5, 6, 7])])
                .unwrap()
                .len(),
            6
        );
    }
}
