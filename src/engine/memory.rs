//! The records of the database, held in memory beside it and written through.
//!
//! Invariant: a change is committed to the database before it is seen here, so memory never promises what
//! a crash would take back.

use std::collections::{BTreeMap, HashMap};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::manifest::{Kind, ResourceKey};
use crate::oci::{Digest, Platform, Reference};
use crate::store::{
    ContainerRecord, DeclaredRecord, Durability, NamespaceRecord, ReferenceRecord, RegistryRecord, Store, StoreError,
};

/// Namespace and name of a container.
pub type ContainerKey = (String, String);

/// The records, by key.
#[derive(Default)]
pub struct Records {
    /// Counts the changes of `declared`.
    pub declarations: u64,
    /// Declared by `apply` and by hand.
    pub declared: BTreeMap<ResourceKey, DeclaredRecord>,
    /// Containers made.
    pub containers: BTreeMap<ContainerKey, ContainerRecord>,
    /// References of every namespace.
    pub references: BTreeMap<(String, Reference), ReferenceRecord>,
    /// Namespaces with settings.
    pub namespaces: BTreeMap<String, NamespaceRecord>,
    /// How declared hosts are reached, by host.
    pub registries: BTreeMap<String, RegistryRecord>,
    /// Whether the store and the snapshots hold all of an image; asked of the disk once for each digest and platform.
    pub complete: HashMap<(Digest, Platform), bool>,
}

impl Records {
    /// Whether a container names this reference. (A tag has its source's digest in a record of its own.)
    pub fn is_used(&self, reference: &ReferenceRecord) -> bool {
        let mut containers = self.containers.values().filter(|r| r.namespace == reference.namespace);
        containers.any(|r| r.resource.container().is_some_and(|spec| spec.image == reference.reference))
    }
}

/// [`Records`] behind a lock that is never held across an await or a disk write.
pub struct Memory {
    records: RwLock<Records>,
}

impl Memory {
    /// Reads everything once.
    pub fn load(store: &Store) -> Result<Self, StoreError> {
        let records = Records {
            declarations: 0,
            declared: store.declared()?.into_iter().map(|r| (r.key(), r)).collect(),
            containers: store.containers()?.into_iter().map(|r| ((r.namespace.clone(), r.name.clone()), r)).collect(),
            references: store
                .references()?
                .into_iter()
                .map(|r| ((r.namespace.clone(), r.reference.clone()), r))
                .collect(),
            namespaces: store.namespaces()?.into_iter().map(|r| (r.name.clone(), r)).collect(),
            registries: store.registries()?.into_iter().map(|r| (r.host.clone(), r)).collect(),
            complete: HashMap::new(),
        };
        Ok(Self { records: RwLock::new(records) })
    }

    /// For reading.
    pub fn read(&self) -> RwLockReadGuard<'_, Records> {
        self.records.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits declarations set and dropped, and then shows them.
    pub fn declare(&self, store: &Store, set: Vec<DeclaredRecord>, drop: &[ResourceKey]) -> Result<(), StoreError> {
        self.declare_as(store, set, drop, Durability::Synced)
    }

    /// As [`Memory::declare`], for what is on the disk with a later commit before anybody is told.
    pub fn declare_as(
        &self,
        store: &Store,
        set: Vec<DeclaredRecord>,
        drop: &[ResourceKey],
        durability: Durability,
    ) -> Result<(), StoreError> {
        store.declare(&set, drop, durability)?;
        let mut records = self.write();
        for key in drop {
            records.declared.remove(key);
        }
        for record in set {
            records.declared.insert(record.key(), record);
        }
        records.declarations += 1;
        Ok(())
    }

    /// Forgets a container and that it was declared, in one transaction.
    pub fn forget_container(&self, store: &Store, id: &ContainerKey) -> Result<(), StoreError> {
        store.forget_container(&id.0, &id.1)?;
        let mut records = self.write();
        records.containers.remove(id);
        records.declared.remove(&ResourceKey::new(Kind::Container, &id.0, &id.1));
        records.declarations += 1;
        Ok(())
    }

    /// For writing, behind the commit.
    pub fn write(&self) -> RwLockWriteGuard<'_, Records> {
        self.records.write().unwrap_or_else(PoisonError::into_inner)
    }
}
