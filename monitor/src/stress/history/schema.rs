//! The tables, and the migration of a database from an earlier version.
//!
//! Talks to SQLite. `application_id` marks a database as one of these; `user_version` counts the migrations that it has
//! had.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::HistoryError;

/// `STLK`.
const APPLICATION: i32 = 0x5354_4c4b;

/// What makes a database of version N one of version N + 1. Never changed, only added to.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE nights (
        id INTEGER PRIMARY KEY,
        job TEXT NOT NULL,
        number INTEGER NOT NULL,
        identity TEXT NOT NULL,
        setup TEXT NOT NULL,
        definition TEXT NOT NULL,
        driver TEXT,
        driver_sha256 TEXT,
        UNIQUE (job, number)
    ) STRICT;
    CREATE TABLE shards (
        night INTEGER NOT NULL REFERENCES nights (id),
        shard TEXT NOT NULL,
        host TEXT NOT NULL,
        state TEXT NOT NULL,
        ended TEXT NOT NULL,
        started_at INTEGER NOT NULL,
        ended_at INTEGER NOT NULL,
        active_ms INTEGER NOT NULL,
        PRIMARY KEY (night, shard)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE iterations (
        night INTEGER NOT NULL REFERENCES nights (id),
        iteration INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        plan TEXT NOT NULL,
        point TEXT,
        seed INTEGER NOT NULL,
        cpus INTEGER NOT NULL,
        faults TEXT NOT NULL,
        verdict TEXT NOT NULL,
        reason TEXT,
        started_at INTEGER NOT NULL,
        duration_ms INTEGER NOT NULL,
        PRIMARY KEY (night, iteration, attempt)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE findings (
        signature TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        weight TEXT NOT NULL,
        class TEXT NOT NULL,
        title TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE sightings (
        signature TEXT NOT NULL REFERENCES findings (signature),
        night INTEGER NOT NULL,
        iteration INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        PRIMARY KEY (signature, night, iteration, attempt),
        FOREIGN KEY (night, iteration, attempt) REFERENCES iterations (night, iteration, attempt)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX sightings_of_iteration ON sightings (night, iteration, attempt);
",
    "
    CREATE TABLE sites (
        night INTEGER NOT NULL REFERENCES nights (id),
        routine TEXT NOT NULL,
        place INTEGER NOT NULL,
        name TEXT NOT NULL,
        told INTEGER NOT NULL,
        PRIMARY KEY (night, routine, place)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE reached (
        night INTEGER NOT NULL,
        routine TEXT NOT NULL,
        place INTEGER NOT NULL,
        callback TEXT NOT NULL,
        after_fault INTEGER NOT NULL,
        iteration INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        PRIMARY KEY (night, routine, place, callback, after_fault),
        FOREIGN KEY (night, routine, place) REFERENCES sites (night, routine, place)
    ) STRICT, WITHOUT ROWID;
",
];

/// Makes what was opened a database of this version.
///
/// # Errors
/// [`HistoryError`] if it is a database of something else, or of a later version.
pub(super) fn prepare(connection: &mut Connection) -> Result<(), HistoryError> {
    migrate(connection, MIGRATIONS)
}

/// The same, of one that is there: nothing is made of a file without tables.
///
/// # Errors
/// [`HistoryError`]
pub(super) fn prepare_existing(connection: &mut Connection) -> Result<(), HistoryError> {
    if tables(connection)? == 0 {
        return Err(HistoryError::Empty);
    }
    prepare(connection)
}

fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<(), HistoryError> {
    if version(connection)? == migrations.len() && application(connection)? == APPLICATION {
        return Ok(());
    }
    // Nobody else migrates it at the same time.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if application(&transaction)? != APPLICATION {
        if tables(&transaction)? > 0 {
            return Err(HistoryError::Foreign);
        }
        transaction.pragma_update(None, "application_id", APPLICATION)?;
    }
    let version = version(&transaction)?;
    let Some(pending) = migrations.get(version..) else {
        return Err(HistoryError::Later {
            found: version,
            known: migrations.len(),
        });
    };
    apply(&transaction, pending)?;
    transaction.pragma_update(None, "user_version", i64::try_from(migrations.len()).unwrap_or(0))?;
    transaction.commit()?;
    Ok(())
}

fn apply(transaction: &Transaction<'_>, migrations: &[&str]) -> rusqlite::Result<()> {
    migrations
        .iter()
        .try_for_each(|migration| transaction.execute_batch(migration))
}

fn tables(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))
}

fn application(connection: &Connection) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, "application_id", |row| row.get(0))
}

fn version(connection: &Connection) -> rusqlite::Result<usize> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    // A negative one is none of ours: later than all.
    Ok(usize::try_from(version).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_gets_each_migration_once() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, &["CREATE TABLE one (a)"]).unwrap();
        connection.execute("INSERT INTO one VALUES (7)", []).unwrap();
        let both = ["CREATE TABLE one (a)", "ALTER TABLE one ADD COLUMN b DEFAULT 3"];
        for _ in 0..2 {
            migrate(&mut connection, &both).unwrap();
            let row: (i64, i64) = connection
                .query_row("SELECT a, b FROM one", [], |row| Ok((row.get(0)?, row.get(1)?)))
                .unwrap();
            assert_eq!(row, (7, 3));
        }
        let later = migrate(&mut connection, &["CREATE TABLE one (a)"]).unwrap_err();
        assert!(matches!(later, HistoryError::Later { found: 2, known: 1 }), "{later}");
    }

    #[test]
    fn a_migration_that_fails_leaves_the_database_as_it_was() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, &["CREATE TABLE one (a)"]).unwrap();
        let broken = ["CREATE TABLE one (a)", "CREATE TABLE two (a)", "nonsense"];
        assert!(migrate(&mut connection, &broken).is_err());
        let tables: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))
            .unwrap();
        assert_eq!((tables, version(&connection).unwrap()), (1, 1));
    }

    #[test]
    fn a_database_of_something_else_is_not_touched() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE mine (a)").unwrap();
        assert!(matches!(prepare(&mut connection), Err(HistoryError::Foreign)));
        assert_eq!(application(&connection).unwrap(), 0);
    }
}
