//! Where releases came from that could not be judged, because the state of their lock was not known.
//!
//! It must not know why a state is unknown, nor how a caller is found. The checker counts such releases, and those of
//! them that concern the driver under test.

use std::collections::HashMap;

use storlock_check::contract::{LockClass, Routine, contract};
use storlock_check::event::LockCall;

use crate::report::{Location, LockRoutine, UnknownRelease};

/// Places that are counted separately.
const PLACES: usize = 256;
/// Places that the reason for an Inconclusive run names.
const NAMED: usize = 4;

/// Who made such a release.
#[derive(Debug)]
pub(crate) struct UnknownCaller {
    /// The place of the call, as far as it is known.
    pub(crate) place: Location,
    /// The driver under test made it.
    pub(crate) by_target: bool,
    /// The function of the driver under test that has made it by a jump.
    pub(crate) jumped_from: Option<u64>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Unknowns {
    /// By routine and return address.
    places: HashMap<(Routine, u64), Place>,
    /// There were further places of the driver under test.
    more_of_target: bool,
}

#[derive(Debug)]
struct Place {
    caller: UnknownCaller,
    /// Numbers of the first and the last event from this place.
    events: [u64; 2],
    count: u64,
}

impl Unknowns {
    /// Adds a release, the event with this number; `caller` is asked if its place is new. Returns the function of the driver
    /// under test that has made it by a jump.
    pub(super) fn add(&mut self, call: &LockCall, event: u64, caller: impl FnOnce() -> UnknownCaller) -> Option<u64> {
        let key = (call.routine, call.context.return_address);
        if let Some(place) = self.places.get_mut(&key) {
            place.count += 1;
            place.events[1] = event;
            return place.caller.jumped_from;
        }
        let caller = caller();
        let jumped_from = caller.jumped_from;
        if self.places.len() < PLACES {
            let place = Place {
                caller,
                events: [event; 2],
                count: 1,
            };
            self.places.insert(key, place);
        } else {
            self.more_of_target |= caller.by_target;
        }
        jumped_from
    }

    /// A release that was added turns out to be one of the driver under test.
    pub(super) fn claim(&mut self, event: u64, caller: Location) {
        let mut places = self.places.values_mut();
        if let Some(place) = places.find(|place| place.events[1] == event) {
            place.caller.place = caller;
            place.caller.by_target = true;
        }
    }

    /// The places, the driver's under test first, each kind in the order of the first occurrence.
    pub(crate) fn list(&self) -> Vec<UnknownRelease> {
        let mut places: Vec<_> = self.places.iter().collect();
        places.sort_by_key(|(_, place)| (!place.caller.by_target, place.events[0]));
        let told = |((routine, _), place): (&(Routine, u64), &Place)| UnknownRelease {
            routine: LockRoutine(*routine),
            caller: place.caller.place.clone(),
            by_target: place.caller.by_target,
            count: place.count,
        };
        places.into_iter().map(told).collect()
    }

    /// The first places of the driver under test, and whether there are more of its. Cancel routines are entered with the
    /// cancel spin lock held: their releases of it are no reason.
    pub(crate) fn first_of_target(&self) -> (Vec<UnknownRelease>, bool) {
        let mut own = self.list();
        let cancels = |place: &UnknownRelease| contract(place.routine.0).class == LockClass::CancelSpinLock;
        own.retain(|place| place.by_target && !cancels(place));
        let more = own.len() > NAMED || self.more_of_target;
        own.truncate(NAMED);
        (own, more)
    }
}
