//! Fault plans that have been checked; they choose the faults of each run.
//!
//! Talks to the parser of `--fault`, so that a plan that could name an impossible fault is refused before anything
//! runs.

use storlock_vmm::storage::ControllerKind;

use super::random::RandomPlan;
use super::settings::{Mode, PlanSettings, Words};
use super::systematic;
use super::vocabulary::{self, Value, check};

/// Most words, statuses and the like in one list of a plan.
const MOST_WORDS: usize = 1000;
/// Largest weight.
const MOST_WEIGHT: u32 = 1000;

/// A fault plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What reports call it.
    pub name: String,
    /// Its share of the iterations, from 1.
    pub(crate) weight: u32,
    /// How it comes to its faults.
    pub faults: Faults,
}

/// How a plan comes to the faults of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Faults {
    /// Always these.
    Fixed(Vec<String>),
    /// By weights.
    Random(RandomPlan),
    /// One of these a run, each once.
    Systematic(Vec<String>),
}

impl Faults {
    /// How reports call the mode.
    #[must_use]
    pub(crate) fn mode(&self) -> &'static str {
        match self {
            Self::Fixed(_) => "fixed",
            Self::Random(_) => "random",
            Self::Systematic(_) => "systematic",
        }
    }
}

/// Something to choose from, with its weight.
pub(crate) type Weighted = Vec<(String, u32)>;

impl Plan {
    /// Checks a plan; `number` is its place in the job, from 1, and `controller` the one that is to have the faults.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub(crate) fn new(settings: &PlanSettings, number: usize, controller: &ControllerKind) -> Result<Self, String> {
        let mode = match (settings.mode, &settings.faults) {
            (None | Some(Mode::Fixed), Some(_)) => Mode::Fixed,
            (None, None) => {
                return Err("a plan needs `faults`, or `mode` (fixed, random or systematic)".to_owned());
            }
            (Some(mode), _) => mode,
        };
        check_keys(settings, mode)?;
        let faults = match mode {
            Mode::Fixed => Faults::Fixed(fixed(settings, controller)?),
            Mode::Random => Faults::Random(RandomPlan::new(settings, controller)?),
            Mode::Systematic => Faults::Systematic(systematic::points(settings, controller)?),
        };
        let weight = settings.weight.unwrap_or(1);
        if weight == 0 || weight > MOST_WEIGHT {
            return Err(format!("weight {weight}: use 1 to {MOST_WEIGHT}"));
        }
        let name = settings.name.clone().unwrap_or_else(|| match &faults {
            Faults::Fixed(list) if list.is_empty() => "no faults".to_owned(),
            faults => format!("{} {number}", faults.mode()),
        });
        Ok(Self { name, weight, faults })
    }

    /// No faults at all.
    #[must_use]
    pub(crate) fn none() -> Self {
        Self {
            name: "no faults".to_owned(),
            weight: 1,
            faults: Faults::Fixed(Vec::new()),
        }
    }
}

/// Refuses keys that would have no effect.
fn check_keys(plan: &PlanSettings, mode: Mode) -> Result<(), String> {
    use Mode::{Fixed, Random, Systematic};
    let keys = [
        ("faults", plan.faults.is_some(), &[Fixed][..]),
        ("kinds", plan.kinds.is_some(), &[Random, Systematic]),
        ("what", plan.what.is_some(), &[Random, Systematic]),
        ("statuses", plan.statuses.is_some(), &[Random, Systematic]),
        ("delays", plan.delays.is_some(), &[Random, Systematic]),
        ("occurrences", plan.occurrences.is_some(), &[Random, Systematic]),
        ("counts", plan.counts.is_some(), &[Random]),
        ("least", plan.least.is_some(), &[Random]),
        ("most", plan.most.is_some(), &[Random]),
    ];
    match keys.iter().find(|(_, given, modes)| *given && !modes.contains(&mode)) {
        None => Ok(()),
        Some((key, ..)) => {
            let mode = format!("{mode:?}").to_lowercase();
            Err(format!("`{key}` means nothing in a plan whose mode is {mode}"))
        }
    }
}

fn fixed(plan: &PlanSettings, controller: &ControllerKind) -> Result<Vec<String>, String> {
    let faults = plan.faults.clone().unwrap_or_default();
    faults.iter().try_for_each(|fault| check(fault, controller))?;
    Ok(faults)
}

/// Refuses words that the controller does not know.
fn check_words(kinds: &Weighted, what: &Weighted, controller: &ControllerKind) -> Result<(), String> {
    let known = vocabulary::kinds(controller);
    if let Some((unknown, _)) = kinds.iter().find(|(kind, _)| !known.contains(&kind.as_str())) {
        return Err(format!("unknown kind `{unknown}`: use {}", known.join(", ")));
    }
    what.iter().try_for_each(|(what, _)| {
        let tried = known.iter().map(|kind| vocabulary::fits(kind, what, controller));
        if tried.into_iter().any(|fits| fits) {
            return Ok(());
        }
        Err(check(&vocabulary::fault("drop", what, 0, 1, None), controller)
            .err()
            .unwrap_or_default())
    })
}

/// What random and systematic plans choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vocabulary {
    /// Commands and registers, each with the kinds that fit; none is without.
    pub what: Vec<(String, u32, Weighted)>,
    /// Statuses of failed commands.
    pub(crate) statuses: Vec<u64>,
    /// How much later delayed completions come.
    pub(crate) delays: Vec<String>,
}

impl Vocabulary {
    /// Puts together what a plan names with what it leaves out.
    ///
    /// # Errors
    /// What is unknown, or fits nothing.
    pub(crate) fn new(plan: &PlanSettings, controller: &ControllerKind) -> Result<Self, String> {
        let kinds = words(plan.kinds.as_ref(), &vocabulary::default_kinds(controller), "kinds")?;
        let what = words(plan.what.as_ref(), &vocabulary::default_commands(controller), "what")?;
        check_words(&kinds, &what, controller)?;
        let vocabulary = Self {
            what: what
                .iter()
                .map(|(what, weight)| {
                    let fit = kinds
                        .iter()
                        .filter(|(kind, _)| vocabulary::fits(kind, what, controller));
                    (what.clone(), *weight, fit.cloned().collect())
                })
                .collect(),
            statuses: list(
                plan.statuses.as_ref(),
                &vocabulary::default_statuses(controller),
                "statuses",
            )?,
            delays: list(
                plan.delays.as_ref(),
                &vocabulary::DEFAULT_DELAYS.map(str::to_owned),
                "delays",
            )?,
        };
        vocabulary.check(&kinds, controller)?;
        Ok(vocabulary)
    }

    fn check(&self, kinds: &Weighted, controller: &ControllerKind) -> Result<(), String> {
        if let Some((idle, _)) = kinds.iter().find(|(kind, _)| {
            !self
                .what
                .iter()
                .any(|(_, _, fit)| fit.iter().any(|(one, _)| one == kind))
        }) {
            return Err(format!("kind `{idle}` fits nothing that the plan is about"));
        }
        if let Some((what, ..)) = self.what.iter().find(|(_, _, kinds)| kinds.is_empty()) {
            return Err(format!("none of the plan's kinds fits `{what}`"));
        }
        for (kind, _) in kinds
            .iter()
            .filter(|(kind, _)| ["fail", "delay"].contains(&kind.as_str()))
        {
            self.values(kind)
                .iter()
                .try_for_each(|value| check(&vocabulary::fault(kind, "any", 0, 1, value.as_ref()), controller))?;
        }
        Ok(())
    }

    /// What a fault of this kind can have beside its command.
    #[must_use]
    pub(crate) fn values(&self, kind: &str) -> Vec<Option<Value>> {
        match kind {
            "fail" => self.statuses.iter().copied().map(Value::Status).map(Some).collect(),
            "delay" => self.delays.iter().cloned().map(Value::Time).map(Some).collect(),
            _ => vec![None],
        }
    }
}

fn words(words: Option<&Words>, default: &[&str], key: &str) -> Result<Weighted, String> {
    let weighted: Weighted = match words {
        None => default.iter().map(|word| ((*word).to_owned(), 1)).collect(),
        Some(Words::List(list)) => list.iter().map(|word| (word.clone(), 1)).collect(),
        Some(Words::Weighted(table)) => table.iter().map(|(word, weight)| (word.clone(), *weight)).collect(),
    };
    if weighted.len() > MOST_WORDS || weighted.iter().any(|(_, weight)| *weight > MOST_WEIGHT) {
        return Err(format!(
            "`{key}`: at most {MOST_WORDS} words, with weights up to {MOST_WEIGHT}"
        ));
    }
    // A weight of 0 takes a word out.
    let mut kept: Weighted = Vec::new();
    for (word, weight) in weighted.into_iter().filter(|(_, weight)| *weight > 0) {
        if kept.iter().any(|(known, _)| *known == word) {
            return Err(format!("`{key}` names `{word}` twice"));
        }
        kept.push((word, weight));
    }
    if kept.is_empty() {
        return Err(format!("`{key}` is empty"));
    }
    Ok(kept)
}

/// A list of a plan that is not empty, without repetitions.
pub(super) fn list<T: Clone + PartialEq>(given: Option<&Vec<T>>, default: &[T], key: &str) -> Result<Vec<T>, String> {
    let given = given.map_or(default, Vec::as_slice);
    if given.is_empty() || given.len() > MOST_WORDS {
        return Err(format!("`{key}`: 1 to {MOST_WORDS} values"));
    }
    let mut kept = Vec::new();
    for value in given {
        if !kept.contains(value) {
            kept.push(value.clone());
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stress::planning::JobFile;

    fn plan(text: &str) -> Result<Plan, String> {
        let text = format!("[[plan]]\n{text}");
        let job = JobFile::parse(&text).unwrap();
        Plan::new(job.plan[0].get_ref(), 1, ControllerKind::named("nvme").unwrap())
    }

    #[track_caller]
    fn refused(text: &str, why: &str) {
        let error = plan(text).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }

    #[test]
    fn a_plan_with_faults_is_fixed() {
        let plan = plan("faults = [\"fail:read,after=3\", \"drop:write\"]\nname = \"two\"\nweight = 7").unwrap();
        assert_eq!((plan.name.as_str(), plan.weight), ("two", 7));
        let faults = ["fail:read,after=3".to_owned(), "drop:write".to_owned()];
        assert_eq!(plan.faults, Faults::Fixed(faults.to_vec()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        refused("", "needs `faults`, or `mode`");
        refused("faults = [\"fail:reed\"]", "`reed` is no command");
        refused("mode = \"random\"\nfaults = []", "`faults` means nothing");
        refused(
            "faults = []\nmost = 3",
            "`most` means nothing in a plan whose mode is fixed",
        );
        refused("mode = \"systematic\"\nleast = 1", "`least` means nothing");
        refused("faults = []\nweight = 0", "weight 0");
        refused("mode = \"random\"\nkinds = [\"explode\"]", "unknown kind `explode`");
        refused("mode = \"random\"\nwhat = [\"reed\"]", "`reed` is no command");
        refused(
            "mode = \"random\"\nkinds = [\"delay\"]\nwhat = [\"cc\"]",
            "fits nothing",
        );
        refused(
            "mode = \"random\"\nkinds = [\"delay\"]\nwhat = [\"cc\", \"read\"]",
            "fits `cc`",
        );
        refused("mode = \"random\"\nwhat = []", "`what` is empty");
        refused("mode = \"random\"\nkinds = { fail = 0 }", "`kinds` is empty");
        refused("mode = \"random\"\nwhat = [\"read\", \"read\"]", "`read` twice");
        refused("mode = \"random\"\nstatuses = [0]", "is no failure");
        refused("mode = \"random\"\nstatuses = []", "`statuses`");
        refused("mode = \"random\"\ndelays = [\"1week\"]", "week");
    }
}
