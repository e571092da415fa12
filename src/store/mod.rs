//! The metadata database: what was declared by hand and by `apply`, what was made, what happened.
//!
//! Invariant: a row is committed before the effect that needs it and outlives the effect that removes it,
//! so that a crash between any two leaves a row to repair by. Nothing is written when nothing changed.
//! Records flow in and out as JSON columns; the keys beside them are the only things queried.
//! Depends on types of [`crate::manifest`], [`crate::plan`], [`crate::oci`] and [`crate::shim::protocol`] (the last
//! state of a task is kept as its shim said it); asks no shim and reads no image.

mod migrations;
mod records;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use records::{
    ContainerRecord, DeclaredRecord, EventRecord, EventType, ManifestFile, NamespaceRecord, ReferenceRecord,
    RegistryRecord,
};

use crate::error::{Class, Fault};
use crate::manifest::ResourceKey;
use crate::oci::Reference;

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("database {path}: {source}")]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// A row does not hold what this version writes.
    #[error("database {path}: a record of {table} cannot be read: {source}")]
    Record {
        /// The database file.
        path: PathBuf,
        /// The table.
        table: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It was written by a later version.
    #[error("database {path} has schema {found}, and this version knows up to {known}")]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        let help = match &error {
            StoreError::Newer { .. } => "start the newer bayplan again, or restore the backup made before the upgrade",
            StoreError::Record { .. } => "this is a bug, or the file was edited; `bayplan doctor` tells more",
            StoreError::Sqlite { .. } => "check that the disk is writable and not full",
        };
        Fault::new(Class::Runtime, error.to_string()).help(help)
    }
}

type Result<T> = std::result::Result<T, StoreError>;

/// What a commit survives. Either is safe from the end of this process at any instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A power failure: it is on the disk when the call returns.
    Synced,
    /// Until the next [`Durability::Synced`] commit a power failure may take it back, and with it all that came
    /// behind it, never anything before it (the write-ahead log is a sequence). For what a start after a power
    /// failure, which finds no task alive, decides anew anyway.
    InOrder,
}

/// Makes the file for root alone, or makes it so. What hinders this hinders SQLite too, which says so.
fn private(path: &Path) {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let file = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    let _ = file.and_then(|file| file.set_permissions(std::fs::Permissions::from_mode(0o600)));
}

/// The database, open. One writer at a time by the node's lock; cheap to share.
pub struct Store {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl Store {
    /// Opens or makes `<root>/bayplan.db`, WAL and fully synchronous, and brings its schema up to date.
    pub fn open(root: &Path) -> Result<Self> {
        let path = root.join("bayplan.db");
        let sqlite = |source| StoreError::Sqlite { path: path.clone(), source };
        // Environments of containers are nobody else's to read, whatever the umask; SQLite gives its journals the same mode.
        private(&path);
        let mut connection = Connection::open(&path).map_err(sqlite)?;
        connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(sqlite)?;
        connection
            .execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=256;")
            .map_err(sqlite)?;
        migrations::run(&path, &mut connection)?;
        Ok(Self { path, connection: Mutex::new(connection) })
    }

    /// Opens it for reading only: nothing is made or migrated. `None` when there is no database yet.
    pub fn open_read_only(root: &Path) -> Result<Option<Self>> {
        let path = root.join("bayplan.db");
        if !path.exists() {
            return Ok(None);
        }
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .map_err(|source| StoreError::Sqlite { path: path.clone(), source })?;
        Ok(Some(Self { path, connection: Mutex::new(connection) }))
    }

    // A panic while the lock was held left at worst a rolled-back transaction.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One commit, as durable as it has to be.
    fn commit(&self, durability: Durability, run: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>) -> Result<()> {
        let mut connection = self.lock();
        let commit = || {
            if durability == Durability::InOrder {
                connection.execute_batch("PRAGMA synchronous=NORMAL")?;
            }
            let transaction = connection.transaction()?;
            run(&transaction)?;
            transaction.commit()
        };
        let done = commit();
        if durability == Durability::InOrder {
            self.sqlite(connection.execute_batch("PRAGMA synchronous=FULL"))?;
        }
        self.sqlite(done)
    }

    fn sqlite<T>(&self, result: rusqlite::Result<T>) -> Result<T> {
        result.map_err(|source| StoreError::Sqlite { path: self.path.clone(), source })
    }

    fn encode<T: Serialize>(&self, table: &'static str, record: &T) -> Result<String> {
        serde_json::to_string(record).map_err(|source| StoreError::Record { path: self.path.clone(), table, source })
    }

    fn all<T: DeserializeOwned>(&self, table: &'static str) -> Result<Vec<T>> {
        let connection = self.lock();
        let mut statement = self.sqlite(connection.prepare_cached(&format!("SELECT record FROM {table}")))?;
        let rows = self.sqlite(statement.query_map([], |row| row.get::<_, String>(0)))?;
        let mut records = Vec::new();
        for row in rows {
            let text = self.sqlite(row)?;
            records.push(serde_json::from_str(&text).map_err(|source| StoreError::Record {
                path: self.path.clone(),
                table,
                source,
            })?);
        }
        Ok(records)
    }

    /// Everything declared by `apply` and by hand.
    pub fn declared(&self) -> Result<Vec<DeclaredRecord>> {
        self.all("declared")
    }

    /// Sets and drops declarations in one transaction.
    pub fn declare(&self, set: &[DeclaredRecord], drop: &[ResourceKey], durability: Durability) -> Result<()> {
        if set.is_empty() && drop.is_empty() {
            return Ok(());
        }
        let mut texts = Vec::with_capacity(set.len());
        for record in set {
            texts.push((record.key(), self.encode("declared", record)?));
        }
        self.commit(durability, |transaction| {
            for (key, text) in &texts {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO declared VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![key.namespace, key.kind.word(), key.name, text])?;
            }
            for key in drop {
                transaction
                    .prepare_cached("DELETE FROM declared WHERE namespace = ?1 AND kind = ?2 AND name = ?3")?
                    .execute(params![key.namespace, key.kind.word(), key.name])?;
            }
            Ok(())
        })
    }

    /// Every container made.
    pub fn containers(&self) -> Result<Vec<ContainerRecord>> {
        self.all("container")
    }

    /// Writes a container's record. What has neither been started nor been stopped by hand is on the disk with
    /// the commit that says so; one that removes itself outlives no power failure anyway.
    pub fn put_container(&self, record: &ContainerRecord) -> Result<()> {
        let text = self.encode("container", record)?;
        let told = (record.started || record.stopped_by_hand) && !record.auto_remove;
        self.commit(if told { Durability::Synced } else { Durability::InOrder }, |transaction| {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO container VALUES (?1, ?2, ?3)")?
                .execute(params![record.namespace, record.name, text])
                .map(drop)
        })
    }

    /// Forgets a container. That it is no longer wanted is on the disk already: should this come back, it is
    /// removed again.
    pub fn remove_container(&self, namespace: &str, name: &str) -> Result<()> {
        self.commit(Durability::InOrder, |transaction| {
            transaction
                .prepare_cached("DELETE FROM container WHERE namespace = ?1 AND name = ?2")?
                .execute(params![namespace, name])
                .map(drop)
        })
    }

    /// Forgets a container that removes itself, and that it was declared, in one transaction. Should it come
    /// back, its task is lost, and so it is removed again.
    pub fn forget_container(&self, namespace: &str, name: &str) -> Result<()> {
        self.commit(Durability::InOrder, |transaction| {
            transaction
                .prepare_cached("DELETE FROM declared WHERE namespace = ?1 AND kind = 'container' AND name = ?2")?
                .execute(params![namespace, name])?;
            transaction
                .prepare_cached("DELETE FROM container WHERE namespace = ?1 AND name = ?2")?
                .execute(params![namespace, name])
                .map(drop)
        })
    }

    /// Every reference of every namespace.
    pub fn references(&self) -> Result<Vec<ReferenceRecord>> {
        self.all("reference")
    }

    /// Writes a reference.
    pub fn put_reference(&self, record: &ReferenceRecord) -> Result<()> {
        let text = self.encode("reference", record)?;
        let connection = self.lock();
        let done = connection
            .prepare_cached("INSERT OR REPLACE INTO reference VALUES (?1, ?2, ?3)")
            .and_then(|mut s| s.execute(params![record.namespace, record.reference.to_string(), text]));
        self.sqlite(done).map(drop)
    }

    /// Forgets a reference.
    pub fn remove_reference(&self, namespace: &str, reference: &Reference) -> Result<()> {
        let connection = self.lock();
        let done = connection
            .prepare_cached("DELETE FROM reference WHERE namespace = ?1 AND reference = ?2")
            .and_then(|mut s| s.execute(params![namespace, reference.to_string()]));
        self.sqlite(done).map(drop)
    }

    /// Every namespace with settings.
    pub fn namespaces(&self) -> Result<Vec<NamespaceRecord>> {
        self.all("namespace")
    }

    /// Writes a namespace's settings.
    pub fn put_namespace(&self, record: &NamespaceRecord) -> Result<()> {
        let text = self.encode("namespace", record)?;
        let connection = self.lock();
        let done = connection
            .prepare_cached("INSERT OR REPLACE INTO namespace VALUES (?1, ?2)")
            .and_then(|mut s| s.execute(params![record.name, text]));
        self.sqlite(done).map(drop)
    }

    /// Forgets a namespace's settings.
    pub fn remove_namespace(&self, name: &str) -> Result<()> {
        let connection = self.lock();
        let done = connection
            .prepare_cached("DELETE FROM namespace WHERE name = ?1")
            .and_then(|mut s| s.execute(params![name]));
        self.sqlite(done).map(drop)
    }

    /// How every declared host is reached.
    pub fn registries(&self) -> Result<Vec<RegistryRecord>> {
        self.all("registry")
    }

    /// Writes how a host is reached.
    pub fn put_registry(&self, record: &RegistryRecord) -> Result<()> {
        let text = self.encode("registry", record)?;
        let connection = self.lock();
        let done = connection
            .prepare_cached("INSERT OR REPLACE INTO registry VALUES (?1, ?2)")
            .and_then(|mut s| s.execute(params![record.host, text]));
        self.sqlite(done).map(drop)
    }

    /// Forgets how a host is reached.
    pub fn remove_registry(&self, host: &str) -> Result<()> {
        let connection = self.lock();
        let done = connection
            .prepare_cached("DELETE FROM registry WHERE host = ?1")
            .and_then(|mut s| s.execute(params![host]));
        self.sqlite(done).map(drop)
    }

    /// The last good version of every manifest file.
    pub fn manifest_files(&self) -> Result<Vec<ManifestFile>> {
        let connection = self.lock();
        let read = || {
            connection
                .prepare_cached("SELECT path, hash, content FROM manifest_file ORDER BY path")?
                .query_map([], |row| Ok(ManifestFile { path: row.get(0)?, hash: row.get(1)?, content: row.get(2)? }))?
                .collect::<rusqlite::Result<Vec<_>>>()
        };
        self.sqlite(read())
    }

    /// Keeps and drops last good versions, and sets a small named value with them, in one transaction.
    pub fn keep_manifest_files(
        &self,
        keep: &[ManifestFile],
        drop: &[String],
        value: Option<(&str, &str)>,
    ) -> Result<()> {
        if keep.is_empty() && drop.is_empty() && value.is_none() {
            return Ok(());
        }
        self.commit(Durability::Synced, |transaction| {
            for file in keep {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO manifest_file VALUES (?1, ?2, ?3)")?
                    .execute(params![file.path, file.hash, file.content])?;
            }
            for path in drop {
                transaction.prepare_cached("DELETE FROM manifest_file WHERE path = ?1")?.execute(params![path])?;
            }
            if let Some((name, value)) = value {
                transaction.execute("INSERT OR REPLACE INTO value VALUES (?1, ?2)", params![name, value])?;
            }
            Ok(())
        })
    }

    /// A small named value (the identity of the manifest directory, for one).
    pub fn value(&self, name: &str) -> Result<Option<String>> {
        let connection = self.lock();
        let read =
            connection.query_row("SELECT value FROM value WHERE name = ?1", params![name], |row| row.get(0)).optional();
        self.sqlite(read)
    }

    /// Sets a small named value; an equal one is not written again.
    pub fn set_value(&self, name: &str, value: &str) -> Result<()> {
        if self.value(name)?.as_deref() == Some(value) {
            return Ok(());
        }
        let connection = self.lock();
        self.sqlite(connection.execute("INSERT OR REPLACE INTO value VALUES (?1, ?2)", params![name, value])).map(drop)
    }

    /// Appends events (one with the id of a kept one replaces it) and keeps the last `keep`, in one transaction.
    pub fn append_events(&self, events: &[EventRecord], keep: u32) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let mut texts = Vec::with_capacity(events.len());
        for event in events {
            texts.push((event.id, self.encode("event", event)?));
        }
        self.commit(Durability::InOrder, |transaction| {
            for (id, text) in &texts {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO event (id, record) VALUES (?1, ?2)")?
                    .execute(params![id, text])?;
            }
            transaction
                .prepare_cached("DELETE FROM event WHERE id <= (SELECT MAX(id) FROM event) - ?1")?
                .execute(params![keep])
                .map(drop)
        })
    }

    /// The events kept, oldest first.
    pub fn events(&self) -> Result<Vec<EventRecord>> {
        let mut events: Vec<EventRecord> = self.all("event")?;
        events.sort_by_key(|event| event.id);
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_reads_the_database() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("bayplan.db");
        // As an older version, or a copy from a backup, left it.
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let store = Store::open(root.path()).unwrap();
        store.set_value("a", "1").unwrap();
        for entry in std::fs::read_dir(root.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
    }

    #[test]
    fn a_reopened_database_holds_what_was_committed_and_an_unchanged_one_is_not_written() {
        let root = tempfile::tempdir().unwrap();
        {
            let store = Store::open(root.path()).unwrap();
            store.set_value("a", "1").unwrap();
            store
                .keep_manifest_files(
                    &[ManifestFile { path: "x.yaml".into(), hash: "h".into(), content: b"x".to_vec() }],
                    &[],
                    None,
                )
                .unwrap();
        }
        let bytes = std::fs::read(root.path().join("bayplan.db")).unwrap();
        {
            let store = Store::open(root.path()).unwrap();
            assert_eq!(store.value("a").unwrap().as_deref(), Some("1"));
            assert_eq!(store.manifest_files().unwrap().len(), 1);
            store.set_value("a", "1").unwrap();
        }
        assert_eq!(std::fs::read(root.path().join("bayplan.db")).unwrap(), bytes);
    }

    #[test]
    fn a_database_of_a_later_version_is_refused() {
        let root = tempfile::tempdir().unwrap();
        drop(Store::open(root.path()).unwrap());
        let connection = Connection::open(root.path().join("bayplan.db")).unwrap();
        connection.execute_batch("PRAGMA user_version = 999").unwrap();
        drop(connection);
        assert!(matches!(Store::open(root.path()), Err(StoreError::Newer { found: 999, .. })));
    }
}
