//! Lock call sites of the driver, by night: the sites, and the ways by which they were reached, each with the first run.
//!
//! Talks to SQLite. A way keeps its first run and no count: so histories that share runs unite to the same rows.

use std::collections::BTreeSet;

use rusqlite::{Transaction, params};

use super::{History, HistoryError, NightKey, int, uint};
use crate::stress::triage::SiteCoverage;
use crate::stress::triage::coverage::{Path, SiteKey, SiteRow};

/// Adds what runs of a night have shown.
pub(super) fn write(transaction: &Transaction<'_>, night: i64, coverage: &SiteCoverage) -> rusqlite::Result<()> {
    let sql = "INSERT INTO sites (night, routine, place, name, told) VALUES (?1, ?2, ?3, ?4, ?5)
               ON CONFLICT (night, routine, place) DO UPDATE SET told = max(told, excluded.told), name = CASE
               WHEN excluded.name = '' THEN name WHEN name = '' THEN excluded.name ELSE min(name, excluded.name) END";
    let mut statement = transaction.prepare_cached(sql)?;
    for ((routine, place), site) in &coverage.sites {
        statement.execute(params![night, routine, int(*place), site.name, site.told])?;
    }
    let sql = "INSERT INTO reached (night, routine, place, callback, after_fault, iteration, attempt)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (night, routine, place, callback, after_fault) DO UPDATE
               SET iteration = excluded.iteration, attempt = excluded.attempt
               WHERE (excluded.attempt > 0, excluded.iteration, excluded.attempt) < (attempt > 0, iteration, attempt)";
    let mut statement = transaction.prepare_cached(sql)?;
    for (path, (_, iteration, attempt)) in &coverage.reached {
        let (routine, place) = &path.site;
        let values = params![
            night,
            routine,
            int(*place),
            path.callback,
            path.after_fault,
            int(*iteration),
            attempt
        ];
        statement.execute(values)?;
    }
    Ok(())
}

impl History {
    /// What the runs of a night have shown.
    pub(super) fn coverage(&self, night: i64) -> Result<SiteCoverage, HistoryError> {
        let mut coverage = SiteCoverage::default();
        let sql = "SELECT routine, place, name, told FROM sites WHERE night = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![night])?;
        while let Some(row) = rows.next()? {
            let site = SiteRow {
                name: row.get(2)?,
                told: row.get(3)?,
            };
            coverage.sites.insert((row.get(0)?, uint(row.get(1)?)), site);
        }
        let sql = "SELECT routine, place, callback, after_fault, iteration, attempt FROM reached WHERE night = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![night])?;
        while let Some(row) = rows.next()? {
            let path = Path {
                site: (row.get(0)?, uint(row.get(1)?)),
                callback: row.get(2)?,
                after_fault: row.get(3)?,
            };
            let (iteration, attempt): (i64, u32) = (row.get(4)?, row.get(5)?);
            coverage.reached.insert(path, (attempt > 0, uint(iteration), attempt));
        }
        Ok(coverage)
    }

    /// The sites that nights before that one have reached with the same build of the driver; `None`: there is no such night,
    /// or the driver is in the guest only, so that nobody knows.
    pub(super) fn reached_before(&self, job: &str, key: &NightKey) -> Result<Option<BTreeSet<SiteKey>>, HistoryError> {
        let mut before = None;
        for other in self
            .nights_of_driver(job, key)?
            .into_iter()
            .filter(|other| other.number < key.number)
        {
            let reached = self.coverage(other.id)?.reached_sites();
            before.get_or_insert_with(BTreeSet::new).extend(reached);
        }
        Ok(before)
    }

    /// The nights of a job with the same build of the driver as that one, which is among them.
    pub(super) fn nights_of_driver(&self, job: &str, key: &NightKey) -> Result<Vec<NightKey>, HistoryError> {
        let driver = self.new_night(job, key)?.driver;
        let known = driver.as_ref().is_some_and(|(_, hash)| hash.is_some());
        let mut nights = Vec::new();
        for other in self.nights(job)? {
            if other.id == key.id || known && self.new_night(job, &other)?.driver == driver {
                nights.push(other);
            }
        }
        Ok(nights)
    }
}
