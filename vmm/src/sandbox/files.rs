//! Limits which files, and which other processes, can still be reached: Landlock (Linux
//! `Documentation/userspace-api/landlock.rst`).
//!
//! Descriptors that are open already stay usable. Where the kernel can, Landlock also refuses what the system call
//! filter refuses by number: the two mechanisms share little code, so one mistake does not open both.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, Erratum, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::SandboxError;

/// The newest ABI whose rights are asked for: 6, with the scopes of signals and abstract Unix sockets. What the kernel does
/// not know yet is left out, so that an older one limits less.
const NEWEST: ABI = ABI::V6;

/// What came with which ABI, in words.
const STEPS: [(i32, &str); 4] = [
    (3, "the length of existing files"),
    (4, "TCP"),
    (5, "requests to device nodes"),
    (6, "abstract Unix sockets"),
];

/// How far the file system and other processes are out of reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileLimit {
    /// Every access is limited.
    Full,
    /// The kernel's Landlock is of an older ABI than [`FileLimit::Full`] takes.
    Partial {
        /// Its ABI. Below 3 the length of existing files can be cut, below 5 device nodes opened later obey requests; TCP,
        /// abstract Unix sockets and signals are then refused by the system call filter alone.
        abi: i32,
    },
    /// The kernel has no Landlock, or it is not enabled.
    Missing,
    /// Nobody asked for it.
    Off,
}

impl fmt::Display for FileLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("Landlock limits files, TCP, abstract Unix sockets and signals"),
            Self::Partial { abi } => {
                write!(f, "Landlock limits files as far as its ABI {abi} goes, but not")?;
                for (_, what) in STEPS.iter().filter(|(since, _)| abi < since) {
                    write!(f, " {what},")?;
                }
                // The one thing that an errata may keep from a kernel that has it.
                f.write_str(" signals")
            }
            Self::Missing => f.write_str("this kernel has no Landlock (or it is not enabled): files are not limited"),
            Self::Off => f.write_str("files are not limited"),
        }
    }
}

/// The scopes to ask for. The first kernels with that of signals take it for a bound between the threads of a process, too
/// (erratum 2): there a vCPU's thread could not be interrupted any more.
fn scopes() -> BitFlags<Scope> {
    if Erratum::current().contains(Erratum::ScopedSignalHandling) {
        Scope::from_all(NEWEST)
    } else {
        Scope::AbstractUnixSocket.into()
    }
}

/// What is left below the directories: creating files and writing them anew.
pub(super) fn writing() -> BitFlags<AccessFs> {
    AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg
}

/// What is left where a file is written under another name, which it loses when it is whole.
pub(super) fn renaming() -> BitFlags<AccessFs> {
    writing() | AccessFs::RemoveFile
}

/// What is left where only a socket is to be removed at the end.
pub(super) fn removing() -> BitFlags<AccessFs> {
    AccessFs::RemoveFile.into()
}

/// See [`super::Sandbox::limit_files`]; with each directory comes what can still be done below it.
pub(super) fn limit(directories: &[(&Path, BitFlags<AccessFs>)]) -> Result<FileLimit, SandboxError> {
    let refused = |reason: String| SandboxError::Limit {
        action: "limit the files",
        reason,
    };
    let handles = directories
        .iter()
        .map(|&(directory, left)| PathFd::new(directory).map(|handle| (handle, left)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| refused(error.to_string()))?;
    let scopes = scopes();
    let restrict = || {
        Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(scopes)?
            .create()?
            .add_rules(
                handles
                    .into_iter()
                    .map(|(handle, left)| Ok::<_, RulesetError>(PathBeneath::new(handle, left))),
            )?
            .restrict_self()
    };
    let status = restrict().map_err(|error| refused(error.to_string()))?;
    Ok(match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => {
            if status.ruleset == RulesetStatus::FullyEnforced && scopes == Scope::from_all(NEWEST) {
                FileLimit::Full
            } else {
                FileLimit::Partial {
                    abi: effective_abi as i32,
                }
            }
        }
        _ => FileLimit::Missing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_limit_tells_what_it_leaves_out() {
        let told = |abi| FileLimit::Partial { abi }.to_string();
        assert!(told(2).ends_with(
            "ABI 2 goes, but not the length of existing files, TCP, requests to device nodes, abstract Unix sockets, signals"
        ));
        assert!(told(4).ends_with("but not requests to device nodes, abstract Unix sockets, signals"));
        assert!(told(6).ends_with("but not signals"));
    }
}
