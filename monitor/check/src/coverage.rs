//! What a choice of watched routines lets one judge.
//!
//! Pure sets: used by whoever chooses the breakpoints and by the report. Must not know how many there are.

use crate::contract::{CONTRACTS, Role, Routine, RoutineSet, SystemModule, contract};

/// An exported name that has to be watched to see the routines behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryPoint {
    /// The exporting module.
    pub module: SystemModule,
    /// The exported name.
    pub export: &'static str,
    /// The lock routines behind it.
    pub routines: RoutineSet,
}

/// Which calls can be judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Watched releases whose feeders are watched, as far as the driver imports them.
    pub judged: RoutineSet,
    /// Watched releases that could follow an acquire that is not seen: without a record they are only suspect.
    pub suspect: RoutineSet,
    /// Imported routines that are not watched.
    pub unwatched: RoutineSet,
}

/// The entry points of a set of routines, each once, in the order of the contract table.
#[must_use]
pub fn entry_points(routines: RoutineSet) -> Vec<EntryPoint> {
    let mut points: Vec<EntryPoint> = Vec::new();
    for row in routines.iter().map(contract) {
        match points
            .iter_mut()
            .find(|point| point.module == row.module && point.export == row.export)
        {
            Some(point) => point.routines.insert(row.routine),
            None => points.push(EntryPoint {
                module: row.module,
                export: row.export,
                routines: RoutineSet::of(&[row.routine]),
            }),
        }
    }
    points
}

/// The routines that a driver can reach by an imported name.
#[must_use]
pub fn routines_of_import(export: &str) -> RoutineSet {
    CONTRACTS
        .iter()
        .filter(|row| row.export == export)
        .map(|row| row.routine)
        .collect()
}

/// What can be judged if the driver imports `imported` and `watched` is watched.
#[must_use]
pub fn coverage(imported: RoutineSet, watched: RoutineSet) -> Coverage {
    let releases = watched
        .iter()
        .filter(|&routine| contract(routine).role == Role::Release);
    let mut coverage = Coverage {
        unwatched: imported.difference(watched),
        ..Coverage::default()
    };
    for release in releases {
        if watched.contains_all(feeders(release).intersection(imported)) {
            coverage.judged.insert(release);
        } else {
            coverage.suspect.insert(release);
        }
    }
    coverage
}

/// The acquires and conversions that a release may follow.
#[must_use]
pub fn feeders(release: Routine) -> RoutineSet {
    contract(release).fed_by
}

/// The releases that an acquire may be followed by.
#[must_use]
pub fn releases(acquire: Routine) -> RoutineSet {
    CONTRACTS
        .iter()
        .filter(|row| row.fed_by.contains(acquire))
        .map(|row| row.routine)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Routine as R;

    #[test]
    fn storport_locks_are_behind_two_entry_points() {
        let points = entry_points(routines_of_import("StorPortNotification").union(RoutineSet::of(&[
            R::StorPortAcquireSpinLockEx,
            R::StorPortAcquireMSISpinLock,
            R::StorPortReleaseMSISpinLock,
        ])));
        let names: Vec<_> = points
            .iter()
            .map(|point| (point.export, point.routines.len()))
            .collect();
        assert_eq!(names, [("StorPortNotification", 2), ("StorPortExtendedFunction", 3)]);
    }

    #[test]
    fn release_is_suspect_if_an_imported_feeder_is_not_watched() {
        let watched = RoutineSet::of(&[R::KeAcquireSpinLockRaiseToDpc, R::KeReleaseSpinLock]);
        let release = RoutineSet::of(&[R::KeReleaseSpinLock]);
        assert_eq!(coverage(watched, watched).judged, release);
        let imported = watched.union(RoutineSet::of(&[R::KeTryToAcquireSpinLockAtDpcLevel]));
        let found = coverage(imported, watched);
        assert_eq!((found.judged, found.suspect), (RoutineSet::EMPTY, release));
        assert_eq!(found.unwatched, RoutineSet::of(&[R::KeTryToAcquireSpinLockAtDpcLevel]));
    }

    #[test]
    fn every_acquire_has_a_release_and_every_release_a_feeder() {
        for row in &CONTRACTS {
            match row.role {
                Role::Release => assert!(!row.fed_by.is_empty(), "{}", row.routine),
                _ => assert!(!releases(row.routine).is_empty(), "{}", row.routine),
            }
            assert!(
                row.fed_by.iter().all(|feeder| contract(feeder).role != Role::Release),
                "{}",
                row.routine
            );
        }
    }
}
