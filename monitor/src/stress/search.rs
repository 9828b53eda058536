//! Makes a case smaller while it still shows the same finding, and finds the build that introduced a finding.
//!
//! Pure: the caller gives a function that says whether a candidate shows the finding; that function may run the
//! candidate several times.

use std::fmt;

/// What of a case can be made smaller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Faults, as `--fault` takes them.
    pub faults: Vec<String>,
    /// vCPUs.
    pub cpus: u32,
    /// Command line of the guest's kernel: words `KEY=NUMBER` are numbers to be made smaller.
    pub append: String,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--cpus {}", self.cpus)?;
        if !self.append.is_empty() {
            write!(f, " --append '{}'", self.append)?;
        }
        self.faults.iter().try_for_each(|fault| write!(f, " --fault {fault}"))
    }
}

/// The smallest case that was found: no fault can be left out, no fault can hit fewer commands, there are as few vCPUs as
/// were tried, and no number of the command line can be halved. `shows` says whether a candidate still shows it; the
/// case that is given is taken for granted. Ends early, with what it has, where `shows` gives `None`.
pub(crate) fn minimise(case: &Candidate, mut shows: impl FnMut(&Candidate) -> Option<bool>) -> Candidate {
    let mut best = case.clone();
    loop {
        let before = best.clone();
        for step in [fewer_faults, fewer_commands, fewer_cpus, smaller_numbers] {
            if step(&mut best, &mut shows).is_none() {
                return best;
            }
        }
        // A step may have made room for an earlier one.
        if best == before {
            return best;
        }
    }
}

type Shows<'a> = &'a mut dyn FnMut(&Candidate) -> Option<bool>;

/// Takes over the candidate if it shows it.
fn try_one(best: &mut Candidate, candidate: Candidate, shows: Shows<'_>) -> Option<bool> {
    let better = shows(&candidate)?;
    if better {
        *best = candidate;
    }
    Some(better)
}

/// Leaves out faults: all, halves, then each.
fn fewer_faults(best: &mut Candidate, shows: Shows<'_>) -> Option<()> {
    let mut size = best.faults.len();
    while size > 0 {
        let mut start = 0;
        while start < best.faults.len() {
            let end = (start + size).min(best.faults.len());
            let mut candidate = best.clone();
            candidate.faults.drain(start..end);
            if !try_one(best, candidate, shows)? {
                start = end;
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    Some(())
}

/// Has each fault hit one command instead of several.
fn fewer_commands(best: &mut Candidate, shows: Shows<'_>) -> Option<()> {
    for index in 0..best.faults.len() {
        let parts = best.faults[index].split(',');
        let once: Vec<&str> = parts.filter(|part| !part.starts_with("count=")).collect();
        let once = once.join(",");
        if once != best.faults[index] {
            let mut candidate = best.clone();
            candidate.faults[index] = once;
            try_one(best, candidate, shows)?;
        }
    }
    Some(())
}

/// One vCPU, two, and so on.
fn fewer_cpus(best: &mut Candidate, shows: Shows<'_>) -> Option<()> {
    for cpus in 1..best.cpus {
        let candidate = Candidate { cpus, ..best.clone() };
        if try_one(best, candidate, shows)? {
            break;
        }
    }
    Some(())
}

/// Halves each number of the kernel's command line as often as it may be.
fn smaller_numbers(best: &mut Candidate, shows: Shows<'_>) -> Option<()> {
    for index in 0..best.append.split(' ').count() {
        while let Some(append) = halved(&best.append, index) {
            let candidate = Candidate { append, ..best.clone() };
            if !try_one(best, candidate, shows)? {
                break;
            }
        }
    }
    Some(())
}

/// The text with the number of its `index`th word halved, if that is `KEY=NUMBER` with more than 1.
fn halved(text: &str, index: usize) -> Option<String> {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let (key, number) = words.get(index)?.split_once('=')?;
    let number: u64 = number.parse().ok().filter(|&number| number > 1)?;
    words[index] = format!("{key}={}", number / 2);
    Some(words.join(" "))
}

/// What a search among builds came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bisected {
    /// The newest build does not show it.
    NotInNewest,
    /// The oldest build shows it already.
    InOldest,
    /// This build shows it, the one before it does not.
    First(usize),
}

/// Searches `builds` builds, oldest first, for the first that shows it. `None` where `shows` gives `None`.
pub(crate) fn bisect(builds: usize, mut shows: impl FnMut(usize) -> Option<bool>) -> Option<Bisected> {
    let Some(newest) = builds.checked_sub(1) else {
        return Some(Bisected::NotInNewest);
    };
    if !shows(newest)? {
        return Some(Bisected::NotInNewest);
    }
    if newest == 0 || shows(0)? {
        return Some(Bisected::InOldest);
    }
    let (mut good, mut bad) = (0, newest);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if shows(middle)? {
            bad = middle;
        } else {
            good = middle;
        }
    }
    Some(Bisected::First(bad))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn case(faults: &[&str], cpus: u32, append: &str) -> Candidate {
        Candidate {
            faults: faults.iter().map(|&fault| fault.to_owned()).collect(),
            cpus,
            append: append.to_owned(),
        }
    }

    #[test]
    fn what_does_not_matter_goes_and_what_matters_stays() {
        let big = case(
            &[
                "fail:read,after=1,count=5",
                "drop:write",
                "fatal:cc",
                "delay:read,for=1s",
            ],
            4,
            "ops=100 mode=fast threads=8 timeout=3",
        );
        let shows = |candidate: &Candidate| {
            let has = |what: &str| candidate.faults.iter().any(|fault| fault.starts_with(what));
            let ops = candidate
                .append
                .split(' ')
                .next()
                .and_then(|word| word.strip_prefix("ops="));
            Some(
                has("fail:read")
                    && has("fatal")
                    && candidate.cpus >= 2
                    && ops.is_some_and(|ops| ops.parse::<u32>().unwrap() >= 10),
            )
        };
        let smallest = minimise(&big, shows);
        assert_eq!(
            smallest,
            case(
                &["fail:read,after=1", "fatal:cc"],
                2,
                "ops=12 mode=fast threads=1 timeout=1"
            )
        );
    }

    #[test]
    fn it_ends_with_what_it_has() {
        let big = case(&["a:b", "c:d"], 2, "");
        let mut left = 1;
        let found = minimise(&big, |_| {
            left -= 1;
            (left >= 0).then_some(true)
        });
        assert_eq!(found, case(&[], 2, ""));
    }

    proptest! {
        #[test]
        fn the_result_shows_it_and_no_fault_can_be_left_out(
            needed in proptest::collection::btree_set(0usize..12, 0..5), cpus in 1u32..6, least in 1u32..6
        ) {
            let least = least.min(cpus);
            let faults: Vec<String> = (0..12).map(|number| format!("drop:io.{number}")).collect();
            let big = Candidate { faults: faults.clone(), cpus, append: String::new() };
            let shows = |candidate: &Candidate| {
                needed.iter().all(|&number| candidate.faults.contains(&faults[number])) && candidate.cpus >= least
            };
            let smallest = minimise(&big, |candidate| Some(shows(candidate)));
            prop_assert!(shows(&smallest));
            prop_assert_eq!(smallest.faults.len(), needed.len());
            prop_assert_eq!(smallest.cpus, least);
        }

        #[test]
        fn the_first_bad_build_is_found_with_few_questions(builds in 1usize..300, bad in 0usize..400) {
            let mut asked = 0;
            let found = bisect(builds, |build| {
                asked += 1;
                Some(build >= bad)
            });
            let expected = match bad {
                0 => Bisected::InOldest,
                bad if bad < builds => Bisected::First(bad),
                _ => Bisected::NotInNewest,
            };
            prop_assert_eq!(found, Some(expected));
            prop_assert!(asked <= 2 + builds.ilog2() + 1);
        }
    }

    #[test]
    fn a_search_that_is_interrupted_says_nothing() {
        assert_eq!(bisect(9, |_| None), None);
    }
}
