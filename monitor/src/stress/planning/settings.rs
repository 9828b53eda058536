//! A job as it is written in TOML: its keys and the types of their values.
//!
//! Talks to the TOML parser, which refuses an unknown key and names its line. It must not know what the values do.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::job::Profile;
use crate::run::spec::{Limit, RunSpec, Size};

/// What is wrong with a job.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// The file is no TOML, has a key that there is not, or a value of the wrong kind. The text shows the place.
    #[error("{0}")]
    Toml(String),
    /// A value that makes no sense.
    #[error("line {line}: {what}")]
    Line {
        /// Line of the file, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// The same, where no line can be named.
    #[error("{0}")]
    Job(String),
}

/// One number or several to choose from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number or a list of numbers")]
pub(crate) enum OneOrMany {
    /// Always this.
    One(u32),
    /// One of these.
    Many(Vec<u32>),
}

/// `[seeds]`: seeds of the guests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SeedSettings {
    /// All choices come from this and from the number of the night: other seeds every night.
    pub base: Option<u64>,
    /// First of `count` seeds, which are the same every night.
    pub first: Option<u64>,
    /// How many.
    pub count: Option<u64>,
}

/// How a plan comes to its faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Always those that are listed.
    Fixed,
    /// By weights.
    Random,
    /// Each one once.
    Systematic,
}

/// Words to choose from, with weights if some are to come more often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a list of words, or a table of words with weights")]
pub(crate) enum Words {
    /// All alike.
    List(Vec<String>),
    /// By weights.
    Weighted(BTreeMap<String, u32>),
}

/// `[[plan]]`: a fault plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PlanSettings {
    /// What reports call it.
    pub name: Option<String>,
    /// How it comes to its faults; with `faults` it is fixed.
    pub mode: Option<Mode>,
    /// Its share of the iterations.
    pub(crate) weight: Option<u32>,
    /// Fixed: the faults, as `--fault` takes them.
    pub faults: Option<Vec<String>>,
    /// Random, systematic: kinds of faults.
    pub kinds: Option<Words>,
    /// Random, systematic: commands and registers.
    pub what: Option<Words>,
    /// Random, systematic: statuses of failed commands.
    pub(crate) statuses: Option<Vec<u64>>,
    /// Random, systematic: how much later delayed completions come.
    pub(crate) delays: Option<Vec<String>>,
    /// Random: how many commands in a row are hit.
    pub counts: Option<Vec<u64>>,
    /// Random, systematic: how many of the first commands of a kind can be hit.
    pub occurrences: Option<u64>,
    /// Random: fewest faults of a run.
    pub least: Option<u32>,
    /// Random: most faults of a run.
    pub most: Option<u32>,
}

/// `[[serial]]`: what the guest says on its serial port that is a finding, such as that its data are lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialFinding {
    /// What the finding is called.
    pub finding: String,
    /// What a line of the serial log contains then.
    pub contains: String,
}

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct JobFile {
    /// What reports and the history call the job; default: the file's name.
    pub name: Option<String>,
    /// What the other settings are if they are not said.
    pub profile: Option<Profile>,
    /// After so long no iteration is begun.
    pub(crate) duration: Option<Limit>,
    /// So many iterations, over all shards.
    pub iterations: Option<u64>,
    /// How often each case is run.
    pub repeat: Option<u32>,
    /// How often the first case of a new finding is run again.
    pub(crate) confirm: Option<u32>,
    /// Child processes at a time.
    pub jobs: Option<u32>,
    /// End at the first finding that is new.
    pub(crate) stop_at_first_new: Option<bool>,
    /// The output directory.
    pub output: Option<PathBuf>,
    /// Its largest size.
    pub(crate) output_limit: Option<Size>,
    /// Cases that are kept of each finding.
    pub keep: Option<u32>,
    /// Findings that are known.
    pub baseline: Option<PathBuf>,
    /// The database, if it is not to be in the output directory.
    pub history: Option<PathBuf>,
    /// Numbers of vCPUs to choose from; default: that of the guest.
    pub cpus: Option<OneOrMany>,
    /// What is run: the fields of a [`RunSpec`], without what the job decides itself.
    pub guest: RunSpec,
    /// Its seeds.
    pub seeds: SeedSettings,
    /// Fault plans.
    pub plan: Vec<Spanned<PlanSettings>>,
    /// Findings by what the guest says.
    pub serial: Vec<SerialFinding>,
}

impl JobFile {
    /// Reads a job.
    ///
    /// # Errors
    /// [`JobError::Toml`], which names the line and the key.
    pub(crate) fn parse(text: &str) -> Result<Self, JobError> {
        toml::from_str(text).map_err(|error| JobError::Toml(error.to_string().trim_end().to_owned()))
    }

    /// The plans, each with the line where it begins if `text` is what they were read from.
    pub(crate) fn plans<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (Option<usize>, &'a PlanSettings)> {
        self.plan
            .iter()
            .map(move |plan| (line_of(text, &plan.span()), plan.get_ref()))
    }
}

/// Line, from 1, in which a part of the text begins.
fn line_of(text: &str, span: &Range<usize>) -> Option<usize> {
    if text.is_empty() {
        return None;
    }
    let before = text.get(..span.start)?;
    Some(before.matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        JobFile::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name_and_line() {
        for (text, line, key) in [
            ("name = \"a\"\niteration = 3\n", 2, "iteration"),
            ("\n\n[guest]\ndriver = \"a.sys\"\ncpu = 2\n", 5, "cpu"),
            ("[seeds]\nbase = 1\nlast = 3\n", 3, "last"),
            ("[[plan]]\nmode = \"random\"\n[[plan]]\nkind = [\"fail\"]\n", 4, "kind"),
            (
                "[[serial]]\nfinding = \"a\"\ncontains = \"b\"\nregex = \"c\"\n",
                4,
                "regex",
            ),
            ("[guests]\n", 1, "guests"),
        ] {
            let error = error(text);
            assert!(error.contains(&format!("line {line},")), "{text}: {error}");
            assert!(error.contains(&format!("unknown field `{key}`")), "{text}: {error}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_refused_with_its_line() {
        for (text, line, what) in [
            ("name = \"a\"\nduration = \"3 weeks\"\n", 2, "weeks"),
            ("[guest]\nmemory = \"1T\"\n", 2, "unknown suffix `T`"),
            (
                "[guest]\nappend = \"a\"\nfault = [\"drop:read,x=1\"]\n",
                3,
                "unknown key `x`",
            ),
            ("\n\ncpus = \"two\"\n", 3, "expected a number or a list of numbers"),
            ("profile = \"weekly\"\n", 1, "weekly"),
            ("[[plan]]\nmode = \"clever\"\n", 2, "clever"),
            ("jobs = -1\n", 1, "-1"),
        ] {
            let error = error(text);
            assert!(error.contains(&format!("line {line},")), "{text}: {error}");
            assert!(error.contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn a_plan_knows_its_line() {
        let text = "name = \"a\"\n[[plan]]\nmode = \"random\"\n\n[[plan]]\nmode = \"systematic\"\n";
        let job = JobFile::parse(text).unwrap();
        let lines: Vec<_> = job.plans(text).map(|(line, _)| line).collect();
        assert_eq!(lines, [Some(2), Some(5)]);
    }
}
