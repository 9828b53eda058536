//! Systematic fault plans: every fault of a space once, the early commands of all kinds before the later ones.
//!
//! Talks to nothing. A fault that was tried is remembered by its text as `--fault` takes it, which stays the same when
//! the rest of the job changes.

use storlock_vmm::storage::ControllerKind;

use super::faults::Vocabulary;
use super::settings::PlanSettings;
use super::vocabulary;

/// How many of the first commands of a kind are hit without being told.
const OCCURRENCES: u64 = 4;
/// Most points of a plan.
const MOST_POINTS: u64 = 1_000_000;

/// All points, each once, in the order in which they are tried.
///
/// # Errors
/// What is wrong with the settings, or that there are too many.
pub(crate) fn points(plan: &PlanSettings, controller: &ControllerKind) -> Result<Vec<String>, String> {
    let vocabulary = Vocabulary::new(plan, controller)?;
    let occurrences = plan.occurrences.unwrap_or(OCCURRENCES);
    let mut each = Vec::new();
    for (what, _, kinds) in &vocabulary.what {
        for (kind, _) in kinds {
            each.extend(
                vocabulary
                    .values(kind)
                    .into_iter()
                    .map(|value| (what.as_str(), kind.as_str(), value)),
            );
        }
    }
    let number = occurrences.checked_mul(each.len() as u64);
    if number.is_none_or(|number| number == 0 || number > MOST_POINTS) {
        return Err(format!(
            "a systematic plan of {occurrences} occurrences of {} faults: 1 to {MOST_POINTS} points can be tried",
            each.len()
        ));
    }
    let at = |after| {
        each.iter()
            .map(move |(what, kind, value)| vocabulary::fault(kind, what, after, 1, value.as_ref()))
    };
    Ok((0..occurrences).flat_map(at).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::run::spec::PlannedFault;
    use crate::stress::planning::JobFile;

    fn of(text: &str) -> Result<Vec<String>, String> {
        let job = JobFile::parse(&format!("[[plan]]\nmode = \"systematic\"\n{text}")).unwrap();
        points(job.plan[0].get_ref(), ControllerKind::named("nvme").unwrap())
    }

    #[test]
    fn every_combination_is_there_once_and_early_commands_come_first() {
        let points = of(
            "what = [\"read\", \"cc\"]\nkinds = [\"fail\", \"drop\", \"delay\"]\nstatuses = [0x281, 0x6, 0x281]\n\
             delays = [\"1s\"]\noccurrences = 2",
        );
        assert_eq!(
            points.unwrap(),
            [
                "fail:read,after=0,status=0x281",
                "fail:read,after=0,status=0x6",
                "drop:read,after=0",
                "delay:read,after=0,for=1s",
                "drop:cc,after=0",
                "fail:read,after=1,status=0x281",
                "fail:read,after=1,status=0x6",
                "drop:read,after=1",
                "delay:read,after=1,for=1s",
                "drop:cc,after=1",
            ]
        );
    }

    #[test]
    fn what_comes_without_settings_is_all_of_it_different_and_possible() {
        let points = of("").unwrap();
        // Four commands, each with five statuses, three delays and four further kinds; the first four of each.
        assert_eq!(points.len(), 4 * 4 * (5 + 3 + 4));
        assert_eq!(points.iter().collect::<BTreeSet<_>>().len(), points.len());
        assert!(points.iter().all(|point| point.parse::<PlannedFault>().is_ok()));
    }

    #[test]
    fn a_space_without_bounds_is_refused() {
        assert!(of("occurrences = 0").is_err());
        assert!(of("occurrences = 9223372036854775807").unwrap_err().contains("points"));
        assert!(of("occurrences = 100000").is_err());
    }
}
