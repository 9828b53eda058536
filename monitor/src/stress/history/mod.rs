//! The results of all nights of a job, in a SQLite database.
//!
//! Talks to SQLite. An iteration is written in one transaction, so that it counts wholly or not at all. The journal is
//! SQLite's default, which also works on network file systems. It must not know how runs are carried out or judged.

mod coverage;
mod load;
mod merge;
mod records;
mod schema;
mod view;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, params};

pub use self::records::{NewNight, NightKey, ShardRecord, ShardState, Timing};
pub use self::view::{JobView, SignatureView, ViewStatus};
use super::triage::finding::{Finding, Weight};
use super::triage::report::case_directory;
use super::triage::{Row, SiteCoverage};

/// Name of the database in an output directory.
pub const FILE: &str = "history.sqlite";
/// How long another process may have the database.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a history cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// SQLite, or the file system below it.
    #[error("{}", in_words(.0))]
    Sqlite(#[from] rusqlite::Error),
    /// Nothing is in it.
    #[error("it is empty: no job has written to it")]
    Empty,
    /// Another kind of database.
    #[error("it is a database of something else")]
    Foreign,
    /// A later version wrote it.
    #[error("it has version {found} of the tables, and this program knows {known}: use the program that wrote it")]
    Later {
        /// Version of the file.
        found: usize,
        /// Version of this program.
        known: usize,
    },
    /// What is in it cannot be.
    #[error("its contents are damaged: {0}")]
    Damaged(String),
    /// Two histories say different things of the same run.
    #[error("{0}")]
    Conflict(String),
}

/// What SQLite says, and what to do about it where that is known.
fn in_words(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseBusy) => {
            let seconds = PATIENCE.as_secs();
            format!("another process has had it locked for {seconds} s: try again when that one is done")
        }
        Some(rusqlite::ErrorCode::ReadOnly) => {
            "it has to be written to, and cannot be: make it writable, or use a copy of it that is".to_owned()
        }
        _ => error.to_string(),
    }
}

impl HistoryError {
    /// The disk or the limit that was set is full.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Sqlite(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull))
    }
}

/// A history.
#[derive(Debug)]
pub struct History {
    connection: Connection,
    path: PathBuf,
}

/// A number as SQLite has it. Nights and iterations never come near its end.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn uint(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl History {
    /// Opens a history, which is made if it is not there.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub fn open(path: &Path) -> Result<Self, HistoryError> {
        let create = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        Self::with(path, create, schema::prepare)
    }

    /// Opens a history that is there.
    ///
    /// # Errors
    /// [`HistoryError`]; [`HistoryError::Empty`] if it is only a file, which is left as it is.
    pub fn open_existing(path: &Path) -> Result<Self, HistoryError> {
        Self::with(path, OpenFlags::SQLITE_OPEN_READ_WRITE, schema::prepare_existing)
    }

    fn with(
        path: &Path,
        flags: OpenFlags,
        prepare: fn(&mut Connection) -> Result<(), HistoryError>,
    ) -> Result<Self, HistoryError> {
        let mut connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(PATIENCE)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        prepare(&mut connection)?;
        Ok(Self {
            connection,
            path: path.to_owned(),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the database become no larger than this, in bytes.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub fn limit(&self, bytes: u64) -> Result<(), HistoryError> {
        let page: i64 = self
            .connection
            .pragma_query_value(None, "page_size", |row| row.get(0))?;
        let pages = (int(bytes) / page.max(1)).max(1);
        // It answers with the limit that holds.
        self.connection
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
        Ok(())
    }

    /// Whether SQLite finds the file as it should be.
    ///
    /// # Errors
    /// [`HistoryError::Damaged`] says what is wrong.
    pub fn check(&self) -> Result<(), HistoryError> {
        let found: String = self
            .connection
            .pragma_query_value(None, "integrity_check", |row| row.get(0))?;
        if found == "ok" {
            return Ok(());
        }
        Err(HistoryError::Damaged(found))
    }

    /// A night of a job.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub fn night(&self, job: &str, number: u64) -> Result<Option<NightKey>, HistoryError> {
        let sql = "SELECT id, number, identity, setup FROM nights WHERE job = ?1 AND number = ?2";
        Ok(self
            .connection
            .query_row(sql, params![job, int(number)], night_key)
            .optional()?)
    }

    /// The last night of a job.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub fn last_night(&self, job: &str) -> Result<Option<NightKey>, HistoryError> {
        let sql = "SELECT id, number, identity, setup FROM nights WHERE job = ?1 ORDER BY number DESC LIMIT 1";
        Ok(self.connection.query_row(sql, params![job], night_key).optional()?)
    }

    /// Begins a night.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub fn begin(&mut self, night: &NewNight) -> Result<NightKey, HistoryError> {
        let (driver, hash) = night
            .driver
            .clone()
            .map_or((None, None), |(name, hash)| (Some(name), hash));
        self.connection.execute(
            "INSERT INTO nights (job, number, identity, setup, definition, driver, driver_sha256)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (job, number) DO NOTHING",
            params![
                night.job,
                int(night.number),
                night.identity,
                night.setup,
                night.definition,
                driver,
                hash
            ],
        )?;
        let key = self.night(&night.job, night.number)?;
        key.ok_or_else(|| HistoryError::Damaged("a night that was begun is not there".to_owned()))
    }

    /// The shares of a night that have begun.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub fn shards(&self, night: i64) -> Result<Vec<ShardRecord>, HistoryError> {
        let sql = "SELECT shard, host, state, ended, started_at, ended_at, active_ms FROM shards WHERE night = ?1
                   ORDER BY length(shard), shard";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![night])?;
        let mut shards = Vec::new();
        while let Some(row) = rows.next()? {
            let state: String = row.get(2)?;
            shards.push(ShardRecord {
                shard: row.get(0)?,
                host: row.get(1)?,
                state: ShardState::named(&state)?,
                ended: row.get(3)?,
                started_at: row.get(4)?,
                ended_at: row.get(5)?,
                active_ms: uint(row.get(6)?),
            });
        }
        Ok(shards)
    }

    /// Says how far a share is.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub(crate) fn set_shard(&mut self, night: i64, shard: &ShardRecord) -> Result<(), HistoryError> {
        write_shard(&self.connection, night, shard)?;
        Ok(())
    }

    /// Writes what a run came to, and how far its share is: both or nothing.
    ///
    /// # Errors
    /// [`HistoryError`]; nothing is written then.
    pub fn record(
        &mut self,
        night: i64,
        row: &Row,
        findings: &[Finding],
        coverage: &SiteCoverage,
        timing: Timing,
        shard: &ShardRecord,
    ) -> Result<(), HistoryError> {
        let transaction = self.connection.transaction()?;
        write_row(&transaction, night, row, timing)?;
        for finding in findings {
            write_finding(&transaction, finding)?;
        }
        for signature in &row.findings {
            write_sighting(&transaction, signature, night, row.iteration, row.attempt)?;
        }
        coverage::write(&transaction, night, coverage)?;
        write_shard(&transaction, night, shard)?;
        transaction.commit()?;
        Ok(())
    }

    /// The runs of a night that count, by iteration and attempt.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub fn done(&self, night: i64) -> Result<HashSet<(u64, u32)>, HistoryError> {
        let mut statement = self
            .connection
            .prepare("SELECT iteration, attempt FROM iterations WHERE night = ?1")?;
        let rows = statement.query_map(params![night], |row| Ok((uint(row.get(0)?), row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What systematic plans of a job have tried with this guest, in all nights.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub fn tried(&self, job: &str, setup: &str) -> Result<HashSet<String>, HistoryError> {
        let sql = "SELECT DISTINCT point FROM iterations JOIN nights ON nights.id = iterations.night
                   WHERE nights.job = ?1 AND nights.setup = ?2 AND point IS NOT NULL";
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map(params![job, setup], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether a finding was seen in an earlier night of the job.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub(crate) fn seen_before(&self, job: &str, night: u64, signature: &str) -> Result<bool, HistoryError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM sightings JOIN nights ON nights.id = sightings.night
                   WHERE signature = ?1 AND nights.job = ?2 AND nights.number < ?3)";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_row(params![signature, job, int(night)], |row| row.get(0))?)
    }

    /// The first runs in which a finding was seen, at most `most`: night, iteration, attempt. Further runs of a case come
    /// last.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub(crate) fn first_runs(
        &self,
        job: &str,
        signature: &str,
        most: u32,
    ) -> Result<Vec<(u64, u64, u32)>, HistoryError> {
        let sql = "SELECT nights.number, iteration, attempt FROM sightings JOIN nights ON nights.id = sightings.night
                   WHERE signature = ?1 AND nights.job = ?2 ORDER BY attempt > 0, nights.number, iteration, attempt LIMIT ?3";
        let mut statement = self.connection.prepare_cached(sql)?;
        let row = |row: &rusqlite::Row<'_>| Ok((uint(row.get(0)?), uint(row.get(1)?), row.get(2)?));
        let rows = statement.query_map(params![signature, job, most], row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The cases to keep: the first runs of each finding, at most `most`, as directories of a job's output.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub(crate) fn kept_cases(&self, job: &str, most: u32) -> Result<HashSet<String>, HistoryError> {
        let mut kept = HashSet::new();
        for signature in self.signatures(job)? {
            let runs = self.first_runs(job, &signature, most)?.into_iter();
            kept.extend(runs.map(|(night, iteration, attempt)| case_directory(night, iteration, attempt)));
        }
        Ok(kept)
    }

    /// All signatures that were seen in a job.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub fn signatures(&self, job: &str) -> Result<Vec<String>, HistoryError> {
        let sql =
            "SELECT DISTINCT signature FROM sightings JOIN nights ON nights.id = sightings.night WHERE nights.job = ?1";
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map(params![job], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Names of the jobs in it.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub fn jobs(&self) -> Result<Vec<String>, HistoryError> {
        let mut statement = self
            .connection
            .prepare("SELECT DISTINCT job FROM nights ORDER BY job")?;
        let rows = statement.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn night_key(row: &rusqlite::Row<'_>) -> rusqlite::Result<NightKey> {
    Ok(NightKey {
        id: row.get(0)?,
        number: uint(row.get(1)?),
        identity: row.get(2)?,
        setup: row.get(3)?,
    })
}

fn write_shard(connection: &Connection, night: i64, shard: &ShardRecord) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO shards (night, shard, host, state, ended, started_at, ended_at, active_ms)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let mut statement = connection.prepare_cached(sql)?;
    statement.execute(params![
        night,
        shard.shard,
        shard.host,
        shard.state.text(),
        shard.ended,
        shard.started_at,
        shard.ended_at,
        int(shard.active_ms)
    ])?;
    Ok(())
}

fn write_row(transaction: &Transaction<'_>, night: i64, row: &Row, timing: Timing) -> Result<(), HistoryError> {
    let faults = serde_json::to_string(&row.faults).map_err(|error| HistoryError::Damaged(error.to_string()))?;
    let sql = "INSERT INTO iterations (night, iteration, attempt, plan, point, seed, cpus, faults, verdict, reason, started_at,
               duration_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    let mut statement = transaction.prepare_cached(sql)?;
    statement.execute(params![
        night,
        int(row.iteration),
        row.attempt,
        row.plan,
        row.point,
        row.seed.cast_signed(),
        row.cpus,
        faults,
        row.verdict.text(),
        row.reason,
        timing.started_at,
        int(timing.duration_ms)
    ])?;
    Ok(())
}

/// What is heavier, and what comes first in the alphabet, stays: whoever saw it first does not matter.
fn write_finding(transaction: &Transaction<'_>, finding: &Finding) -> rusqlite::Result<()> {
    let weight = match finding.weight {
        Weight::Failure => "failure",
        Weight::Warning => "warning",
    };
    let sql = "INSERT INTO findings (signature, kind, weight, class, title) VALUES (?1, ?2, ?3, ?4, ?5)
               ON CONFLICT (signature) DO UPDATE
               SET weight = min(weight, excluded.weight), title = min(title, excluded.title)";
    let mut statement = transaction.prepare_cached(sql)?;
    statement.execute(params![
        finding.signature,
        finding.kind.text(),
        weight,
        finding.class,
        finding.title
    ])?;
    Ok(())
}

fn write_sighting(
    transaction: &Transaction<'_>,
    signature: &str,
    night: i64,
    iteration: u64,
    attempt: u32,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO sightings (signature, night, iteration, attempt) VALUES (?1, ?2, ?3, ?4)";
    let mut statement = transaction.prepare_cached(sql)?;
    statement.execute(params![signature, night, int(iteration), attempt])?;
    Ok(())
}

#[cfg(test)]
mod tests;
