//! When a crash dump is written, and where.

use std::fmt;
use std::str::FromStr;

use super::units::as_text;
use super::{FilePath, RunSpec};
use crate::report::DumpReason;

/// Something at which a crash dump is written, by its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DumpOn(pub(crate) DumpReason);

impl FromStr for DumpOn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = DumpReason::ALL.into_iter().find(|reason| reason.text() == text);
        known.map(Self).ok_or_else(|| {
            let words = DumpReason::ALL.map(DumpReason::text).join(", ");
            format!("`{text}` is nothing at which a dump is written: use {words}")
        })
    }
}

impl fmt::Display for DumpOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.text())
    }
}

as_text!(DumpOn, "violation, reset, timeout or hang");

/// A crash dump that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DumpWish {
    /// The option that names the file.
    pub(crate) option: &'static str,
    /// The file.
    pub(crate) file: FilePath,
    /// What it is written at: the first of these.
    pub(crate) on: Vec<DumpReason>,
}

impl RunSpec {
    /// The crash dump that is asked for, if one is.
    #[must_use]
    pub(crate) fn dump_wish(&self) -> Option<DumpWish> {
        if let Some(file) = &self.dump {
            let on: Vec<DumpReason> = self.dump_on.iter().map(|DumpOn(reason)| *reason).collect();
            return Some(DumpWish {
                option: "--dump",
                file: file.clone(),
                on: if on.is_empty() { DumpReason::ALL.to_vec() } else { on },
            });
        }
        self.dump_on_violation.as_ref().map(|file| DumpWish {
            option: "--dump-on-violation",
            file: file.clone(),
            on: vec![DumpReason::Violation],
        })
    }
}
