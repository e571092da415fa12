//! The schema, step by step. A step is never edited once released; the next one is appended.

use std::path::Path;

use rusqlite::Connection;

use super::{Result, StoreError};

const STEPS: [&str; 2] = [
    "
    CREATE TABLE declared (namespace TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, record TEXT NOT NULL,
        PRIMARY KEY (namespace, kind, name)) WITHOUT ROWID;
    CREATE TABLE container (namespace TEXT NOT NULL, name TEXT NOT NULL, record TEXT NOT NULL,
        PRIMARY KEY (namespace, name)) WITHOUT ROWID;
    CREATE TABLE reference (namespace TEXT NOT NULL, reference TEXT NOT NULL, record TEXT NOT NULL,
        PRIMARY KEY (namespace, reference)) WITHOUT ROWID;
    CREATE TABLE namespace (name TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE manifest_file (path TEXT PRIMARY KEY, hash TEXT NOT NULL, content BLOB NOT NULL);
    CREATE TABLE value (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE event (id INTEGER PRIMARY KEY, record TEXT NOT NULL);
",
    "CREATE TABLE registry (host TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;",
];

/// Brings the schema up to date, each step in a transaction with its number.
pub(super) fn run(path: &Path, connection: &mut Connection) -> Result<()> {
    let sqlite = |source| StoreError::Sqlite { path: path.to_owned(), source };
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sqlite)?;
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    for (number, step) in (1_i64..).zip(STEPS) {
        if number > found {
            let transaction = connection.transaction().map_err(sqlite)?;
            transaction.execute_batch(step).map_err(sqlite)?;
            transaction.pragma_update(None, "user_version", number).map_err(sqlite)?;
            transaction.commit().map_err(sqlite)?;
        }
    }
    Ok(())
}
