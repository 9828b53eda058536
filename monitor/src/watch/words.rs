//! Why an export is watched, what follows where one is not, and how the debug registers are used: the plan's sentences.
//!
//! Pure. It must not choose anything.

use storlock_check::contract::{Routine, RoutineSet, contract};

use super::choice::judged;
use super::{Candidate, WatchPlan, name_of};

/// The kernel's export through which every new object goes: on its entry a debug register waits for the driver object.
pub(crate) const WITNESS: &str = "ObInsertObject";

impl WatchPlan {
    /// How the debug registers are used, and why, a line each.
    #[must_use]
    pub(crate) fn explain(&self) -> Vec<String> {
        let mut lines = vec![format!("debug registers: {}", self.summary)];
        lines.extend(self.uses.iter().cloned());
        lines.push(format!(
            "until the driver is loaded, 1 register waits for its driver object (nt!{WITNESS}); it is given back for these:"
        ));
        for (index, watch) in self.watches.iter().enumerate() {
            lines.push(format!(
                "register {}: {}: {}",
                index + 1,
                name_of(watch.module, watch.export),
                watch.reason
            ));
        }
        let needed: Vec<&str> = self
            .watched
            .iter()
            .filter(|&routine| contract(routine).result.may_fail())
            .map(Routine::name)
            .collect();
        lines.push(match (self.free_registers, needed.is_empty()) {
            (0, true) => "caught returns: no watched routine needs them".to_owned(),
            (0, false) => format!(
                "caught returns: no register, since a call that is not seen is lost, and what {} returned is told from later events",
                needed.join(", ")
            ),
            (free, true) => format!("{free} free; no watched routine needs its return caught"),
            (free, false) => format!("{free} free: the returns of {} are caught", needed.join(", ")),
        });
        lines.extend(
            self.gaps
                .iter()
                .map(|gap| format!("no register: {}: {}", gap.routine, gap.consequence)),
        );
        for rotation in &self.turns {
            let when = if self.turns.len() > 1 {
                format!(", if {} is called often", rotation.clock)
            } else {
                String::new()
            };
            lines.extend(rotation.later.iter().enumerate().map(|(index, turn)| {
                let exports = turn.watches.iter().map(|watch| name_of(watch.module, watch.export));
                let exports: Vec<String> = exports.collect();
                format!("in turn {}{when}: {}", index + 2, exports.join(", "))
            }));
        }
        lines
    }
}

fn names(routines: impl Iterator<Item = Routine>) -> String {
    routines.map(Routine::name).collect::<Vec<_>>().join(", ")
}

pub(super) fn reason(candidate: &Candidate, whether: &str, watched: RoutineSet, imported: RoutineSet) -> String {
    let mut parts = Vec::new();
    let feeds = |release: &Routine| {
        let fed_by = contract(*release).fed_by;
        watched.contains(*release) && !fed_by.intersection(candidate.routines).is_empty()
    };
    let fed: RoutineSet = RoutineSet::ALL.iter().filter(feeds).collect();
    if candidate.acquires().next().is_some() {
        parts.push(if fed.is_empty() {
            format!("acquires ({}), to see a second acquire", names(candidate.acquires()))
        } else {
            format!(
                "acquires ({}) that may come before {}",
                names(candidate.acquires()),
                names(fed.iter())
            )
        });
    }
    if candidate.releases().next().is_some() {
        let judged = judged(watched, imported);
        let (can, cannot): (Vec<_>, Vec<_>) = candidate.releases().partition(|&release| judged.contains(release));
        if !can.is_empty() {
            parts.push(format!("releases to judge ({})", names(can.into_iter())));
        }
        if !cannot.is_empty() {
            let list = names(cannot.into_iter());
            parts.push(format!(
                "releases that are suspect at most, since not every acquire is watched ({list})"
            ));
        }
    }
    format!("{whether} it: {}", parts.join("; "))
}

pub(super) fn consequence(left_out: &Candidate, watched: RoutineSet) -> String {
    let mut parts = Vec::new();
    if left_out.releases().next().is_some() {
        parts.push(format!(
            "calls of {} are not seen and not judged",
            names(left_out.releases())
        ));
    }
    let feeds = |release: &Routine| !contract(*release).fed_by.intersection(left_out.routines).is_empty();
    let fed: RoutineSet = watched.iter().filter(feeds).collect();
    if fed.is_empty() {
        if left_out.acquires().next().is_some() {
            parts.push(format!("acquires by {} are not seen", names(left_out.acquires())));
        }
    } else {
        parts.push(format!(
            "a release by {} without a record may follow an acquire by {}: it is reported as suspect, not as a defect",
            names(fed.iter()),
            names(left_out.acquires())
        ));
    }
    parts.join("; ")
}

pub(super) fn summary(candidates: &[Candidate], chosen: &[Candidate], registers: usize, whether: &str) -> String {
    let free = registers.saturating_sub(chosen.len());
    if candidates.is_empty() {
        format!("{whether} no lock routine: there is nothing to watch")
    } else if candidates.len() <= registers {
        let returns = if free > 0 {
            format!("{free} of {registers} debug registers stay free, for catching returns")
        } else {
            "no debug register stays free, so what a routine returned is told from later events".into()
        };
        format!(
            "all {} lock exports that {whether} are watched; {returns}",
            candidates.len()
        )
    } else {
        format!(
            "{whether} {} lock exports and there are {registers} debug registers: chosen are those by which \
             most releases can be judged; no register stays free, so what a routine returned is told from later events",
            candidates.len()
        )
    }
}
