//! Releases that could not be judged, because the state of their lock was not known: how many, and where they came from.
//!
//! It must not know why a state is unknown, nor how a caller is found. If one of them is the driver under test's, the
//! run is not Completed.

use std::collections::HashMap;

use storlock_check::contract::Routine;
use storlock_check::event::LockCall;

use crate::report::{Location, LockRoutine, UnknownRelease};

/// Places that are told apart.
const PLACES: usize = 256;
/// Places that a sentence names.
const NAMED: usize = 4;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Unknowns {
    /// By routine and return address.
    places: HashMap<(Routine, u64), Place>,
    /// Those of the driver under test, and of others, from further places.
    more_of_target: u64,
    more: u64,
}

#[derive(Debug)]
struct Place {
    by_target: bool,
    caller: Location,
    /// Of the first that came from here.
    event: u64,
    count: u64,
}

impl Unknowns {
    /// Counts a release from a place that is known already; says whether it is.
    pub(super) fn count_again(&mut self, call: &LockCall) -> bool {
        let place = self.places.get_mut(&(call.routine, call.context.return_address));
        place.map(|place| place.count += 1).is_some()
    }

    /// Adds a place, where the release is the event with this number.
    pub(super) fn insert(&mut self, call: &LockCall, event: u64, caller: Location, by_target: bool) {
        if self.places.len() < PLACES {
            let place = Place {
                by_target,
                caller,
                event,
                count: 1,
            };
            self.places.insert((call.routine, call.context.return_address), place);
        } else if by_target {
            self.more_of_target += 1;
        } else {
            self.more += 1;
        }
    }

    /// How many there are of the driver under test.
    pub(crate) fn of_target(&self) -> u64 {
        let own = self.places.values().filter(|place| place.by_target);
        own.map(|place| place.count).sum::<u64>() + self.more_of_target
    }

    /// Where they came from, those of the driver under test first, each kind in the order of the first occurrence.
    pub(crate) fn list(&self) -> Vec<UnknownRelease> {
        let mut places: Vec<_> = self.places.iter().collect();
        places.sort_by_key(|(_, place)| (!place.by_target, place.event));
        let told = |((routine, _), place): (&(Routine, u64), &Place)| UnknownRelease {
            routine: LockRoutine(*routine),
            caller: place.caller.clone(),
            by_target: place.by_target,
            count: place.count,
        };
        places.into_iter().map(told).collect()
    }

    /// Why the run cannot be Completed: the releases of the driver under test, with the first places that they came from.
    pub(crate) fn reason(&self, target: &str) -> Option<String> {
        let count = self.of_target();
        let own: Vec<_> = self.list().into_iter().filter(|place| place.by_target).collect();
        let named = own.iter().take(NAMED).map(|place| match place.count {
            1 => format!("{} from {}", place.routine, place.caller),
            times => format!("{} from {}, {times} times", place.routine, place.caller),
        });
        let named: Vec<String> = named.collect();
        let more = if own.len() > NAMED || self.more_of_target > 0 {
            "; and others"
        } else {
            ""
        };
        let releases = if count == 1 { "release" } else { "releases" };
        (count > 0).then(|| {
            format!(
                "{count} {releases} by {target} could not be judged, since the state of the lock was not known: {}{more}",
                named.join("; ")
            )
        })
    }
}
