//! Runs one case again: as it was, smaller, or with another driver.

use std::path::{Path, PathBuf};

use tokio::sync::watch;

use super::digest::file_digests;
use super::{Child, Outcome, RunnerError, io};
use crate::output::replace;
use crate::report::json;
use crate::run::input::read_small;
use crate::run::spec::RunSpec;
use crate::stress::case::{self, Case};
use crate::stress::triage::rate::Rate;
use crate::stress::triage::{Finding, Weight};

/// Largest file of a case.
const LIMIT: u64 = 16 << 20;

/// Reads a case: its file, or the directory in which that is.
///
/// # Errors
/// [`RunnerError::Usage`]
pub(crate) fn read_case(path: &Path) -> Result<Case, RunnerError> {
    let file = if path.is_dir() {
        path.join(case::FILE)
    } else {
        path.to_owned()
    };
    let shown = file.display();
    let wrong = |what: String| RunnerError::Usage(format!("{shown}: {what}"));
    let bytes = read_small(&file, " as a case", LIMIT).map_err(|error| RunnerError::Usage(format!("{error:#}")))?;
    let case: Case = json::read(&bytes).map_err(|error| wrong(format!("it is no case: {error}")))?;
    if case.schema != case::SCHEMA {
        return Err(wrong(format!(
            "it has the layout {}, and this program knows {}",
            case.schema,
            case::SCHEMA
        )));
    }
    Ok(case)
}

/// Writes a case into its directory: the case, and its run alone for `storlock run --spec`.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn write_case(directory: &Path, case: &Case) -> Result<(), RunnerError> {
    let write = |name: &str, text: std::io::Result<String>| {
        let path = directory.join(name);
        let written = text.and_then(|text| replace(&path, text.as_bytes()));
        written.map_err(io(path.display().to_string()))
    };
    write(case::RUN_FILE, case.run.to_json().map_err(std::io::Error::other))?;
    write(case::FILE, json::text(case))
}

/// Which of a case's findings is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sought {
    /// The same signature.
    Signature(String),
    /// The same rule and cause, or bug check: what stays from build to build.
    Class(String),
    /// Anything that fails.
    Any,
}

impl Sought {
    fn is_in(&self, findings: &[Finding]) -> bool {
        findings.iter().any(|finding| match self {
            Self::Signature(signature) => finding.signature == *signature,
            Self::Class(class) => finding.class == *class,
            Self::Any => finding.weight == Weight::Failure,
        })
    }
}

/// What became of several runs of one case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Repeated {
    /// How often what is looked for was seen.
    pub rate: Rate,
    /// Exit codes of runs in which it was not, that say that the host failed.
    pub(crate) host_failures: u64,
    /// Titles of what else was seen.
    pub others: Vec<String>,
    /// The user ended it.
    pub interrupted: bool,
}

/// Runs cases again.
#[derive(Debug)]
pub(crate) struct Repeater {
    /// For the runs' files.
    pub directory: PathBuf,
    /// Runs that may still be begun.
    pub(crate) budget: u64,
    /// Set where the user ends it.
    pub(crate) cancel: watch::Receiver<bool>,
}

impl Repeater {
    /// Runs a case up to `times` times; `until_seen`: not again after it was seen.
    ///
    /// # Errors
    /// [`RunnerError`]
    pub(crate) async fn repeat(
        &mut self,
        case: &Case,
        run: &RunSpec,
        sought: &Sought,
        times: u32,
        until_seen: bool,
    ) -> Result<Repeated, RunnerError> {
        let mut repeated = Repeated::default();
        for _ in 0..times {
            let Some(left) = self.budget.checked_sub(1) else { break };
            self.budget = left;
            let child = Child {
                run: run.clone(),
                directory: self.directory.clone(),
                serial: case.serial.clone(),
            };
            match child
                .run(self.cancel.clone())
                .await
                .map_err(io("a run cannot be started"))?
            {
                Outcome::Impossible(text) => return Err(RunnerError::Usage(text)),
                Outcome::Cancelled => {
                    repeated.interrupted = true;
                    break;
                }
                Outcome::Result { findings, verdict, .. } => {
                    let seen = sought.is_in(&findings);
                    repeated.rate.runs += 1;
                    repeated.rate.hits += u64::from(seen);
                    let failed = verdict == crate::stress::triage::Verdict::HostFailed;
                    repeated.host_failures += u64::from(failed && !seen);
                    for finding in findings {
                        if !Sought::is_in(sought, std::slice::from_ref(&finding))
                            && !repeated.others.contains(&finding.title)
                        {
                            repeated.others.push(finding.title);
                        }
                    }
                    if seen && until_seen {
                        break;
                    }
                }
            }
        }
        Ok(repeated)
    }
}

/// The finding to look for: the one that the user names, or the first of the case that fails.
///
/// # Errors
/// If there is none.
pub(crate) fn meant<'a>(case: &'a Case, signature: Option<&str>) -> Result<&'a Finding, RunnerError> {
    let found = match signature {
        Some(signature) => case
            .findings
            .iter()
            .find(|finding| finding.signature.eq_ignore_ascii_case(signature)),
        None => case.findings.first(),
    };
    found.ok_or_else(|| match signature {
        Some(signature) => RunnerError::Usage(format!("the case has not shown {signature}")),
        None => RunnerError::Usage("the case has shown nothing that could be looked for".to_owned()),
    })
}

/// Files of a case that are not what they were, in a sentence each.
///
/// # Errors
/// If one cannot be read.
pub(crate) fn changed_files(case: &Case) -> Result<Vec<String>, RunnerError> {
    let now = file_digests(&case.run)?;
    let changed = now.iter().filter(|file| !case.files.contains(file));
    let sentence = |file: &crate::stress::case::FileDigest| {
        format!(
            "the {} {} is not the file that the case was run with",
            file.role, file.name
        )
    };
    Ok(changed.map(sentence).collect())
}
