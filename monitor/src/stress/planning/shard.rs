//! The share of one machine: from `--shard`, or from the environment variables of the system that started this process.
//!
//! Talks to nothing: the environment is given as a function. It must not know what is shared out.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// How iterations are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// In turn, as a hand of cards is dealt.
    Slice,
    /// By a hash of the iteration's number.
    Hash,
}

/// One of several shares of a job: the `index`th, from 1, of `total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shard {
    /// How.
    pub way: Way,
    /// Which, from 1 to `total`.
    pub index: u32,
    /// Of how many.
    pub total: u32,
}

impl Shard {
    /// All of the job.
    pub(crate) const WHOLE: Self = Self {
        way: Way::Slice,
        index: 1,
        total: 1,
    };

    /// Share `index`, from 1, of `total`, dealt in turn.
    ///
    /// # Errors
    /// If there is no such share.
    pub fn new(index: u32, total: u32) -> Result<Self, String> {
        if total == 0 || index == 0 || index > total {
            return Err(format!(
                "there is no shard {index} of {total}: shards are numbered from 1"
            ));
        }
        Ok(Self {
            index,
            total,
            ..Self::WHOLE
        })
    }

    /// Whether an iteration is in this share. Every iteration is in exactly one of the shares of one way.
    #[must_use]
    pub fn has(self, iteration: u64) -> bool {
        let number = match self.way {
            Way::Slice => iteration,
            Way::Hash => {
                let hash = Sha256::digest(iteration.to_le_bytes());
                hash.iter()
                    .take(8)
                    .fold(0, |number, &byte| number << 8 | u64::from(byte))
            }
        };
        number % u64::from(self.total) == u64::from(self.index - 1)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.way {
            Way::Slice => "",
            Way::Hash => "hash:",
        };
        write!(f, "{way}{}/{}", self.index, self.total)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (way, numbers) = match text.split_once(':') {
            None => (Way::Slice, text),
            Some(("slice" | "count", numbers)) => (Way::Slice, numbers),
            Some(("hash", numbers)) => (Way::Hash, numbers),
            Some((other, _)) => return Err(format!("`{other}` is no way of sharing: use slice or hash")),
        };
        let form = || format!("`{text}` is not of the form INDEX/TOTAL, such as 2/8, slice:2/8 or hash:2/8");
        let (index, total) = numbers.split_once('/').ok_or_else(form)?;
        let number = |text: &str| text.parse::<u32>().map_err(|_| form());
        Ok(Self {
            way,
            ..Self::new(number(index)?, number(total)?)?
        })
    }
}

/// Variables of one engine.
struct Engine {
    name: &'static str,
    index: &'static str,
    /// Number of the first share.
    first: u32,
    total: &'static str,
}

/// Engines that number their parallel jobs. Kubernetes does not say how many there are: the job's manifest has to.
const ENGINES: [Engine; 7] = [
    Engine {
        name: "GitLab",
        index: "CI_NODE_INDEX",
        first: 1,
        total: "CI_NODE_TOTAL",
    },
    Engine {
        name: "Buildkite",
        index: "BUILDKITE_PARALLEL_JOB",
        first: 0,
        total: "BUILDKITE_PARALLEL_JOB_COUNT",
    },
    Engine {
        name: "CircleCI",
        index: "CIRCLE_NODE_INDEX",
        first: 0,
        total: "CIRCLE_NODE_TOTAL",
    },
    Engine {
        name: "Azure Pipelines",
        index: "SYSTEM_JOBPOSITIONINPHASE",
        first: 1,
        total: "SYSTEM_TOTALJOBSINPHASE",
    },
    Engine {
        name: "Bitbucket",
        index: "BITBUCKET_PARALLEL_STEP",
        first: 0,
        total: "BITBUCKET_PARALLEL_STEP_COUNT",
    },
    Engine {
        name: "Semaphore",
        index: "SEMAPHORE_JOB_INDEX",
        first: 1,
        total: "SEMAPHORE_JOB_COUNT",
    },
    Engine {
        name: "Kubernetes",
        index: "JOB_COMPLETION_INDEX",
        first: 0,
        total: "STORLOCK_SHARDS",
    },
];

/// Where a share is named by the user, for every engine that is not known here.
pub(crate) const VARIABLE: &str = "STORLOCK_SHARD";

/// The share that the environment names, and where it was found; `None`: nothing there says that there are several.
/// `variable` gives the value of an environment variable.
///
/// # Errors
/// If a variable has no sense, or two engines disagree.
pub(crate) fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<(Shard, String)>, String> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(text) = variable(VARIABLE) {
        let shard = text.parse().map_err(|reason| format!("{VARIABLE}: {reason}"))?;
        return Ok(Some((shard, VARIABLE.to_owned())));
    }
    let mut found: Vec<(Shard, String)> = Vec::new();
    for engine in &ENGINES {
        found.extend(engine_share(engine, &variable)?);
    }
    found.extend(slurm_share(&variable)?);
    // Engines name one job of one, too; that says nothing.
    let several: Vec<_> = found.iter().filter(|(shard, _)| shard.total > 1).collect();
    if let [first, rest @ ..] = several.as_slice()
        && let Some(other) = rest.iter().find(|other| other.0 != first.0)
    {
        return Err(format!(
            "{} says shard {}, {} says shard {}: say which by --shard or {VARIABLE}",
            first.1, first.0, other.1, other.0
        ));
    }
    Ok(several.first().map(|&found| found.clone()))
}

fn number(name: &str, text: &str) -> Result<u32, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("{name}={text} is not a number of a shard; say which by --shard or {VARIABLE}"))
}

fn engine_share(
    engine: &Engine,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<Option<(Shard, String)>, String> {
    let Some(index) = variable(engine.index) else {
        return Ok(None);
    };
    let Some(total) = variable(engine.total) else {
        return Err(format!(
            "{} ({}) numbers this process, and nothing says of how many: set {} to that number, or use --shard",
            engine.index, engine.name, engine.total
        ));
    };
    let index = number(engine.index, &index)?;
    let total = number(engine.total, &total)?;
    let place = format!("{} and {} ({})", engine.index, engine.total, engine.name);
    let counted = index.checked_add(1 - engine.first).unwrap_or(0);
    let shard = Shard::new(counted, total).map_err(|reason| format!("{place}: {reason}"))?;
    Ok(Some((shard, place)))
}

/// An array of Slurm may begin anywhere and have steps.
fn slurm_share(variable: &impl Fn(&str) -> Option<String>) -> Result<Option<(Shard, String)>, String> {
    const ID: &str = "SLURM_ARRAY_TASK_ID";
    const COUNT: &str = "SLURM_ARRAY_TASK_COUNT";
    let Some(id) = variable(ID) else {
        return Ok(None);
    };
    let get = |name: &str, default: Option<u32>| match variable(name) {
        Some(text) => number(name, &text),
        None => default.ok_or_else(|| format!("{ID} is set and {name} is not: use --shard")),
    };
    let (id, total) = (number(ID, &id)?, get(COUNT, None)?);
    let (first, step) = (
        get("SLURM_ARRAY_TASK_MIN", Some(0))?,
        get("SLURM_ARRAY_TASK_STEP", Some(1))?,
    );
    let place = format!("{ID} and {COUNT} (Slurm)");
    let odd = || format!("{place}: task {id} is none of {total} from {first} in steps of {step}: use --shard");
    let distance = id.checked_sub(first).ok_or_else(odd)?;
    if step == 0 || distance % step != 0 {
        return Err(odd());
    }
    let shard = Shard::new((distance / step).saturating_add(1), total).map_err(|_| odd())?;
    Ok(Some((shard, place)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shard(index: u32, total: u32) -> Shard {
        Shard::new(index, total).unwrap()
    }

    fn found(variables: &[(&str, &str)]) -> Result<Option<(Shard, String)>, String> {
        from_environment(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    proptest! {
        #[test]
        fn every_iteration_is_in_exactly_one_share(iteration: u64, total in 1u32..200, hash: bool) {
            let way = if hash { Way::Hash } else { Way::Slice };
            let shares = (1..=total).filter(|&index| Shard { way, index, total }.has(iteration));
            prop_assert_eq!(shares.count(), 1);
        }

        #[test]
        fn what_is_shown_is_what_is_read(index in 1u32..50, more in 0u32..50, hash: bool) {
            let way = if hash { Way::Hash } else { Way::Slice };
            let shard = Shard { way, index, total: index + more };
            prop_assert_eq!(shard.to_string().parse(), Ok(shard));
        }
    }

    #[test]
    fn shards_are_numbered_from_one() {
        assert_eq!("2/8".parse(), Ok(shard(2, 8)));
        assert_eq!("slice:2/8".parse(), Ok(shard(2, 8)));
        for wrong in ["0/8", "9/8", "1/0", "1", "a/b", "1/2/3", "odd:1/2", "-1/2", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_engine_numbers_its_jobs_in_its_own_way() {
        for (index, total, place) in [
            (("JOB_COMPLETION_INDEX", "0"), ("STORLOCK_SHARDS", "4"), "Kubernetes"),
            (("SLURM_ARRAY_TASK_ID", "0"), ("SLURM_ARRAY_TASK_COUNT", "4"), "Slurm"),
            (("CI_NODE_INDEX", "1"), ("CI_NODE_TOTAL", "4"), "GitLab"),
            (
                ("BUILDKITE_PARALLEL_JOB", "0"),
                ("BUILDKITE_PARALLEL_JOB_COUNT", "4"),
                "Buildkite",
            ),
            (("CIRCLE_NODE_INDEX", "0"), ("CIRCLE_NODE_TOTAL", "4"), "CircleCI"),
            (
                ("SYSTEM_JOBPOSITIONINPHASE", "1"),
                ("SYSTEM_TOTALJOBSINPHASE", "4"),
                "Azure",
            ),
            (
                ("BITBUCKET_PARALLEL_STEP", "0"),
                ("BITBUCKET_PARALLEL_STEP_COUNT", "4"),
                "Bitbucket",
            ),
            (("SEMAPHORE_JOB_INDEX", "1"), ("SEMAPHORE_JOB_COUNT", "4"), "Semaphore"),
        ] {
            let (first, told) = found(&[index, total]).unwrap().unwrap();
            assert_eq!(first, shard(1, 4), "{place}");
            assert!(told.contains(index.0) && told.contains(place), "{told}");
            let beyond = found(&[(index.0, "5"), total]).unwrap_err();
            assert!(beyond.contains(index.0), "{beyond}");
        }
    }

    #[test]
    fn a_slurm_array_may_begin_anywhere_and_have_steps() {
        let array = |id| {
            found(&[
                ("SLURM_ARRAY_TASK_ID", id),
                ("SLURM_ARRAY_TASK_COUNT", "3"),
                ("SLURM_ARRAY_TASK_MIN", "10"),
                ("SLURM_ARRAY_TASK_STEP", "5"),
            ])
        };
        assert_eq!(array("20").unwrap().unwrap().0, shard(3, 3));
        assert!(array("21").is_err() && array("25").is_err() && array("5").is_err());
    }

    #[test]
    fn one_job_of_one_is_no_share_and_nonsense_is_refused() {
        let gitlab = [("CI_NODE_INDEX", "1"), ("CI_NODE_TOTAL", "1")];
        assert_eq!(found(&gitlab), Ok(None));
        assert_eq!(found(&[("CI_NODE_TOTAL", "1")]), Ok(None));
        assert!(
            found(&[("JOB_COMPLETION_INDEX", "3")])
                .unwrap_err()
                .contains("STORLOCK_SHARDS")
        );
        assert!(
            found(&[("CI_NODE_INDEX", "x"), ("CI_NODE_TOTAL", "2")])
                .unwrap_err()
                .contains("CI_NODE_INDEX=x")
        );
        assert!(found(&[(VARIABLE, "3/2")]).unwrap_err().contains(VARIABLE));
    }

    #[test]
    fn engines_that_disagree_are_refused_and_the_users_word_wins() {
        let mut both = vec![
            ("CI_NODE_INDEX", "2"),
            ("CI_NODE_TOTAL", "3"),
            ("SLURM_ARRAY_TASK_ID", "4"),
            ("SLURM_ARRAY_TASK_COUNT", "9"),
        ];
        let error = found(&both).unwrap_err();
        assert!(
            error.contains("CI_NODE_INDEX") && error.contains("SLURM_ARRAY_TASK_ID"),
            "{error}"
        );
        both.push((VARIABLE, "hash:7/7"));
        assert_eq!(found(&both).unwrap().unwrap().0.to_string(), "hash:7/7");
    }
}
