//! Counts lock calls by routine and calling module.

use storlock_check::contract::{Routine, contract};

use super::guest::ModuleId;
use crate::report::{CallCount, LockRoutine};

/// The counters: one row a module, one column a routine.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    rows: Vec<[u64; Routine::ALL.len()]>,
}

impl Calls {
    /// Counts one call of `routine` that returns into `module`.
    pub(crate) fn count(&mut self, routine: Routine, module: ModuleId) {
        let row = module.index();
        if row >= self.rows.len() {
            // Module numbers are bounded by the map that gives them out.
            self.rows.resize(row + 1, [0; Routine::ALL.len()]);
        }
        if let Some(count) = self.rows.get_mut(row).and_then(|row| row.get_mut(routine as usize)) {
            *count += 1;
        }
    }

    /// How many of a module's calls took or tried to take a lock.
    #[must_use]
    pub(crate) fn acquires(&self, module: ModuleId) -> u64 {
        use storlock_check::contract::Role;
        let Some(row) = self.rows.get(module.index()) else {
            return 0;
        };
        let takes = |routine: Routine| matches!(contract(routine).role, Role::Acquire | Role::TryAcquire);
        Routine::ALL
            .iter()
            .zip(row)
            .filter(|(routine, _)| takes(**routine))
            .map(|(_, count)| count)
            .sum()
    }

    /// Everything counted, by routine and then by the module's name, since a replay may meet the modules in another order;
    /// `name` names a module.
    #[must_use]
    pub(crate) fn list<'a>(&self, name: impl Fn(ModuleId) -> &'a str) -> Vec<CallCount> {
        let mut list = Vec::new();
        for &routine in Routine::ALL {
            let first = list.len();
            for (row, counts) in self.rows.iter().enumerate() {
                let calls = counts.get(routine as usize).copied().unwrap_or(0);
                if calls > 0 {
                    list.push(CallCount {
                        routine: LockRoutine(routine),
                        module: name(ModuleId::from_index(row)).to_owned(),
                        calls,
                    });
                }
            }
            list[first..].sort_by(|one: &CallCount, other| one.module.cmp(&other.module));
        }
        list
    }
}
