//! Reads a night from the database, and what earlier nights know of its findings.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::params;

use super::{History, HistoryError, NewNight, NightKey, ShardRecord, ShardState, Timing, uint};
use crate::stress::planning::Shard;
use crate::stress::triage::baseline::timestamp;
use crate::stress::triage::finding::{Finding, FindingKind, Weight};
use crate::stress::triage::rate::Rate;
use crate::stress::triage::report::{DriverInfo, Execution, ShardReport};
use crate::stress::triage::{Earlier, Night, Row, Verdict};

impl History {
    /// All that is known of a night.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub fn load(&self, job: &str, key: &NightKey) -> Result<Night, HistoryError> {
        let shards = self.shards(key.id)?;
        let driver = self.connection.query_row(
            "SELECT driver, driver_sha256 FROM nights WHERE id = ?1",
            params![key.id],
            |row| Ok((row.get::<_, Option<String>>(0)?, row.get(1)?)),
        )?;
        let rows = self.rows(key.id)?;
        let run_ms: i64 = self.connection.query_row(
            "SELECT coalesce(sum(duration_ms), 0) FROM iterations WHERE night = ?1",
            params![key.id],
            |row| row.get(0),
        )?;
        Ok(Night {
            job: job.to_owned(),
            number: key.number,
            driver: driver.0.map(|name| DriverInfo { name, sha256: driver.1 }),
            missing_shards: missing(&shards),
            own_shard: None,
            rows: rows.into_iter().map(|(row, _)| row).collect(),
            findings: self.findings()?,
            earlier: self.earlier(job, key.number)?,
            coverage: self.coverage(key.id)?,
            reached_before: self.reached_before(job, key)?,
            execution: execution(&shards, uint(run_ms)),
        })
    }

    /// The runs of a night, by iteration and attempt.
    pub(super) fn rows(&self, night: i64) -> Result<Vec<(Row, Timing)>, HistoryError> {
        let mut sightings = self.sightings(night)?;
        let sql = "SELECT iteration, attempt, plan, point, seed, cpus, faults, verdict, reason, started_at, duration_ms
                   FROM iterations WHERE night = ?1 ORDER BY iteration, attempt";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut found = statement.query(params![night])?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            let (iteration, attempt) = (uint(row.get(0)?), row.get(1)?);
            let (faults, verdict): (String, String) = (row.get(6)?, row.get(7)?);
            let damaged = |what: &str| HistoryError::Damaged(format!("iteration {iteration} has {what}"));
            let one = Row {
                iteration,
                attempt,
                plan: row.get(2)?,
                point: row.get(3)?,
                seed: row.get::<_, i64>(4)?.cast_unsigned(),
                cpus: row.get(5)?,
                faults: serde_json::from_str(&faults).map_err(|_| damaged("no list of faults"))?,
                verdict: Verdict::named(&verdict).ok_or_else(|| damaged("no verdict"))?,
                reason: row.get(8)?,
                findings: sightings.remove(&(iteration, attempt)).unwrap_or_default(),
            };
            let timing = Timing {
                started_at: row.get(9)?,
                duration_ms: uint(row.get(10)?),
            };
            rows.push((one, timing));
        }
        Ok(rows)
    }

    fn sightings(&self, night: i64) -> Result<BTreeMap<(u64, u32), Vec<String>>, HistoryError> {
        let sql = "SELECT iteration, attempt, signature FROM sightings WHERE night = ?1 ORDER BY signature";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut found = statement.query(params![night])?;
        let mut sightings: BTreeMap<(u64, u32), Vec<String>> = BTreeMap::new();
        while let Some(row) = found.next()? {
            let key = (uint(row.get(0)?), row.get(1)?);
            sightings.entry(key).or_default().push(row.get(2)?);
        }
        Ok(sightings)
    }

    /// All findings by signature.
    pub(super) fn findings(&self) -> Result<BTreeMap<String, Finding>, HistoryError> {
        let sql = "SELECT signature, kind, weight, class, title FROM findings";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut found = statement.query([])?;
        let mut findings = BTreeMap::new();
        while let Some(row) = found.next()? {
            let signature: String = row.get(0)?;
            let (kind, weight): (String, String) = (row.get(1)?, row.get(2)?);
            let kind = FindingKind::named(&kind);
            let finding = Finding {
                signature: signature.clone(),
                kind: kind.ok_or_else(|| HistoryError::Damaged(format!("finding {signature} has no kind")))?,
                weight: if weight == "warning" {
                    Weight::Warning
                } else {
                    Weight::Failure
                },
                class: row.get(3)?,
                title: row.get(4)?,
            };
            findings.insert(signature, finding);
        }
        Ok(findings)
    }

    /// Iterations of each night of a job in which each finding was seen: signature, night, how many.
    pub(super) fn hits(&self, job: &str) -> Result<Vec<(String, u64, u64)>, HistoryError> {
        let sql = "SELECT signature, nights.number, sum(attempt = 0)
                   FROM sightings JOIN nights ON nights.id = sightings.night
                   WHERE nights.job = ?1 GROUP BY signature, nights.number ORDER BY signature, nights.number";
        let mut statement = self.connection.prepare_cached(sql)?;
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, uint(row.get(1)?), uint(row.get(2)?)));
        let rows = statement.query_map(params![job], row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Iterations of each night of a job.
    pub(super) fn sizes(&self, job: &str) -> Result<BTreeMap<u64, u64>, HistoryError> {
        let sql = "SELECT nights.number, count(*) FROM iterations JOIN nights ON nights.id = iterations.night
                   WHERE nights.job = ?1 AND attempt = 0 GROUP BY nights.number";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params![job], |row| Ok((uint(row.get(0)?), uint(row.get(1)?))))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn earlier(&self, job: &str, night: u64) -> Result<BTreeMap<String, Earlier>, HistoryError> {
        let sizes = self.sizes(job)?;
        let mut earlier: BTreeMap<String, Earlier> = BTreeMap::new();
        for (signature, number, hits) in self.hits(job)? {
            if number >= night {
                continue;
            }
            let runs = sizes.get(&number).copied().unwrap_or(0);
            let one = earlier.entry(signature).or_insert(Earlier {
                first_night: number,
                last_night: number,
                seen: Rate::default(),
            });
            one.last_night = number;
            one.seen = one.seen.and(Rate { hits, runs });
        }
        Ok(earlier)
    }

    /// First and last time at which a night ran, in seconds since 1970.
    pub(super) fn times(&self, job: &str) -> Result<BTreeMap<u64, (i64, i64)>, HistoryError> {
        let sql =
            "SELECT nights.number, min(started_at), max(ended_at) FROM shards JOIN nights ON nights.id = shards.night
                   WHERE nights.job = ?1 GROUP BY nights.number";
        let mut statement = self.connection.prepare_cached(sql)?;
        let row = |row: &rusqlite::Row<'_>| Ok((uint(row.get(0)?), (row.get(1)?, row.get(2)?)));
        let rows = statement.query_map(params![job], row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The nights of a job, by number.
    pub(super) fn nights(&self, job: &str) -> Result<Vec<NightKey>, HistoryError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT number FROM nights WHERE job = ?1 ORDER BY number")?;
        let numbers: Vec<i64> = statement
            .query_map(params![job], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let mut nights = Vec::new();
        for number in numbers {
            nights.extend(self.night(job, uint(number))?);
        }
        Ok(nights)
    }

    /// What a night of a job was begun as.
    pub(super) fn new_night(&self, job: &str, key: &NightKey) -> Result<NewNight, HistoryError> {
        let sql = "SELECT definition, driver, driver_sha256 FROM nights WHERE id = ?1";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, Option<String>>(1)?, row.get(2)?));
        let (definition, driver, hash) = self.connection.query_row(sql, params![key.id], row)?;
        Ok(NewNight {
            job: job.to_owned(),
            number: key.number,
            identity: key.identity.clone(),
            setup: key.setup.clone(),
            definition,
            driver: driver.map(|name| (name, hash)),
        })
    }
}

/// Shards that have not come to their end, or are not here. All of a night are shared out in the same way.
pub(super) fn missing(shards: &[ShardRecord]) -> Vec<String> {
    let Some(first) = shards.first().and_then(|shard| shard.shard.parse::<Shard>().ok()) else {
        return vec![Shard::WHOLE.to_string()];
    };
    let complete: BTreeSet<&str> = shards
        .iter()
        .filter(|shard| shard.state == ShardState::Complete)
        .map(|shard| shard.shard.as_str())
        .collect();
    let all = (1..=first.total).map(|index| Shard { index, ..first }.to_string());
    all.filter(|shard| !complete.contains(shard.as_str())).collect()
}

fn execution(shards: &[ShardRecord], run_ms: u64) -> Execution {
    let time = |time: Option<i64>| time.map(timestamp).unwrap_or_default();
    Execution {
        started: time(shards.iter().map(|shard| shard.started_at).min()),
        ended: time(shards.iter().map(|shard| shard.ended_at).max()),
        seconds: shards.iter().map(|shard| shard.active_ms).sum::<u64>() / 1000,
        run_seconds: run_ms / 1000,
        shards: shards
            .iter()
            .map(|shard| ShardReport {
                shard: shard.shard.clone(),
                host: shard.host.clone(),
                ended: match shard.state {
                    ShardState::Running => "has not ended".to_owned(),
                    _ => shard.ended.clone(),
                },
            })
            .collect(),
    }
}
