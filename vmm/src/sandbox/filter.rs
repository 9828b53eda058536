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
use super::profile::{Argument, ThreadProfile};

/// The `int` argument `index` is `value`, but for the bits `free`.
fn equal(index: u8, free: u32, value: u32) -> Result<SeccompCondition, BackendError> {
    let operator = SeccompCmpOp::MaskedEq(u64::from(!free));
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value.into())
}

/// The conditions of which one has to hold.
fn alternatives(argument: &Argument) -> Result<Vec<SeccompCondition>, BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, Gt};
    let one =
        |index, length, operator, value| SeccompCondition::new(index, length, operator, value).map(|one| vec![one]);
    match *argument {
        Argument::Int { index, free, values } => {
            let equal = |&value: &u32| equal(index, free, value);
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

/// # Errors
/// What is wrong with the profile, in words.
fn filter(profile: &ThreadProfile) -> Result<SeccompFilter, String> {
    let wrong = |error: BackendError| error.to_string();
    let mut all: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in profile.all_calls() {
        let rules = rules(call.arguments).map_err(wrong)?;
        // A call that is allowed whatever its arguments would lose that, or its rules, beside a second entry.
        let contradicted = all
            .get(&call.number)
            .is_some_and(|known| known.is_empty() != rules.is_empty());
        if contradicted || call.number == libc::SYS_ioctl {
            return Err(format!(
                "the {} thread has contradicting entries for system call {}",
                profile.name, call.number
            ));
        }
        all.entry(call.number).or_default().extend(rules);
    }
    for request in profile.all_requests() {
        let rule = equal(1, 0, request)
            .and_then(|one| SeccompRule::new(vec![one]))
            .map_err(wrong)?;
        all.entry(libc::SYS_ioctl).or_default().push(rule);
    }
    SeccompFilter::new(all, SeccompAction::Trap, SeccompAction::Allow, TargetArch::x86_64).map_err(wrong)
}

/// The filter of a kind of thread, ready to be installed.
pub(super) fn program(profile: &ThreadProfile) -> Result<BpfProgram, SandboxError> {
    filter(profile)
        .and_then(|filter| BpfProgram::try_from(filter).map_err(|error| error.to_string()))
        .map_err(|reason| SandboxError::Limit {
            action: "build a system call filter",
            reason,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Call;

    #[test]
    fn a_call_cannot_be_both_free_and_ruled() {
        static PLAIN: ThreadProfile = ThreadProfile::new("plain");
        static FREE_READ: ThreadProfile = ThreadProfile {
            calls: &[&[Call::any(libc::SYS_read)]],
            ..ThreadProfile::new("careless")
        };
        static RULED_WRITE: ThreadProfile = ThreadProfile {
            calls: &[&[Call::only(libc::SYS_write, &[Argument::NotStandard(0)])]],
            ..ThreadProfile::new("careful")
        };
        static DEVICES: ThreadProfile = ThreadProfile {
            calls: &[&[Call::any(libc::SYS_ioctl)]],
            ..ThreadProfile::new("careless")
        };
        assert!(!program(&PLAIN).unwrap().is_empty());
        for (profile, number) in [
            (&FREE_READ, libc::SYS_read),
            (&RULED_WRITE, libc::SYS_write),
            (&DEVICES, libc::SYS_ioctl),
        ] {
            let error = program(profile).unwrap_err().to_string();
            assert!(error.contains(&format!("system call {number}")), "{error}");
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
