//! Unites histories: the result has each run of each history once.
//!
//! If two histories have the same run, it must be equal in both, and if they have the same night, it must be of the
//! same job; otherwise nothing is written.

use std::collections::BTreeMap;

use super::{
    History, HistoryError, NightKey, ShardRecord, Timing, coverage, write_finding, write_row, write_shard,
    write_sighting,
};
use crate::stress::planning::Shard;
use crate::stress::triage::{Row, SiteCoverage};

/// A night as it is taken over.
struct Part {
    night: super::NewNight,
    shards: Vec<ShardRecord>,
    rows: Vec<(Row, Timing)>,
    coverage: SiteCoverage,
}

impl History {
    /// Takes over all that is in another history.
    ///
    /// # Errors
    /// [`HistoryError::Conflict`] if both have a run, a share or a night that are not the same; nothing is taken over then.
    pub fn merge(&mut self, other: &Self) -> Result<(), HistoryError> {
        // As it is at one moment: a job may be writing to it.
        let snapshot = other.connection.unchecked_transaction()?;
        let mut parts = Vec::new();
        for job in other.jobs()? {
            for key in other.nights(&job)? {
                let part = Part {
                    night: other.new_night(&job, &key)?,
                    shards: other.shards(key.id)?,
                    rows: other.rows(key.id)?,
                    coverage: other.coverage(key.id)?,
                };
                parts.push(self.what_is_new(part)?);
            }
        }
        let findings = other.findings()?;
        snapshot.finish()?;
        let keys: Vec<NightKey> = parts
            .iter()
            .map(|part| self.begin(&part.night))
            .collect::<Result<_, _>>()?;
        let transaction = self.connection.transaction()?;
        for finding in findings.values() {
            write_finding(&transaction, finding)?;
        }
        for (part, key) in parts.iter().zip(keys) {
            for shard in &part.shards {
                write_shard(&transaction, key.id, shard)?;
            }
            coverage::write(&transaction, key.id, &part.coverage)?;
            for (row, timing) in &part.rows {
                write_row(&transaction, key.id, row, *timing)?;
                for signature in &row.findings {
                    write_sighting(&transaction, signature, key.id, row.iteration, row.attempt)?;
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// The part without what is here already.
    fn what_is_new(&self, mut part: Part) -> Result<Part, HistoryError> {
        let (job, number) = (&part.night.job, part.night.number);
        let Some(key) = self.night(job, number)? else {
            return Ok(part);
        };
        let conflict = |what: String| HistoryError::Conflict(format!("night {number} of {job}: {what}"));
        if key.identity != part.night.identity {
            return Err(conflict(
                "the parts are of different jobs or drivers: give the nights numbers of their own by --night"
                    .to_owned(),
            ));
        }
        let shards = self.shards(key.id)?;
        for new in &part.shards {
            let Some(old) = shards.iter().find(|old| old.shard == new.shard) else {
                continue;
            };
            if old != new {
                return Err(conflict(format!(
                    "shard {} was done twice, by {} and by {}: leave one out",
                    new.shard, old.host, new.host
                )));
            }
        }
        check_division(shards.iter().chain(&part.shards)).map_err(conflict)?;
        let here: BTreeMap<(u64, u32), (Row, Timing)> = self
            .rows(key.id)?
            .into_iter()
            .map(|(row, timing)| ((row.iteration, row.attempt), (row, timing)))
            .collect();
        for (row, timing) in &part.rows {
            let Some((old, time)) = here.get(&(row.iteration, row.attempt)) else {
                continue;
            };
            if old != row || time != timing {
                return Err(conflict(format!(
                    "iteration {} was run twice: leave one out",
                    row.iteration
                )));
            }
        }
        part.rows
            .retain(|(row, _)| !here.contains_key(&(row.iteration, row.attempt)));
        Ok(part)
    }
}

/// Shares of a night are cut in one way.
fn check_division<'a>(shards: impl Iterator<Item = &'a ShardRecord>) -> Result<(), String> {
    let mut first: Option<Shard> = None;
    for shard in shards.filter_map(|shard| shard.shard.parse::<Shard>().ok()) {
        let known = *first.get_or_insert(shard);
        if (known.way, known.total) != (shard.way, shard.total) {
            return Err(format!("shards {known} and {shard} are cut in different ways"));
        }
    }
    Ok(())
}
