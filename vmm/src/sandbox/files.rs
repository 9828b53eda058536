//! Which files can still be opened: Landlock (Linux `Documentation/userspace-api/landlock.rst`).
//!
//! Descriptors that are open already are not concerned.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus,
};

use crate::error::Error;

/// The newest ABI whose rights are asked for: 5, with the requests to device nodes. What the kernel does not know yet is
/// left out, so that an older one limits less.
const NEWEST: ABI = ABI::V5;

/// How far the file system is out of reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileLimit {
    /// Every access is limited.
    Full,
    /// The kernel's Landlock is of an older ABI than [`FileLimit::Full`] takes.
    Partial {
        /// Its ABI. Below 3 the length of existing files can be cut, below 5 device nodes opened earlier obey requests.
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
            Self::Full => f.write_str("Landlock limits files"),
            Self::Partial { abi } => write!(f, "Landlock limits files as far as its ABI {abi} goes"),
            Self::Missing => f.write_str("this kernel has no Landlock (or it is not enabled): files are not limited"),
            Self::Off => f.write_str("files are not limited"),
        }
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
pub(super) fn limit(directories: &[(&Path, BitFlags<AccessFs>)]) -> Result<FileLimit, Error> {
    let refused = |reason: String| Error::Sandbox {
        action: "limit the files",
        reason,
    };
    let handles = directories
        .iter()
        .map(|&(directory, left)| PathFd::new(directory).map(|handle| (handle, left)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| refused(error.to_string()))?;
    let restrict = || {
        Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))?
            .create()?
            .add_rules(
                handles
                    .into_iter()
                    .map(|(handle, left)| Ok::<_, RulesetError>(PathBeneath::new(handle, left))),
            )?
            .restrict_self()
    };
    let status = restrict().map_err(|error| refused(error.to_string()))?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::FullyEnforced, _) => FileLimit::Full,
        (RulesetStatus::PartiallyEnforced, LandlockStatus::Available { effective_abi, .. }) => FileLimit::Partial {
            abi: effective_abi as i32,
        },
        _ => FileLimit::Missing,
    })
}
