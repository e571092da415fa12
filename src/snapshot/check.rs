//! Whether the snapshots are what their names and records say.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};

use rustix::fs::{FlockOperation, flock};

use super::Snapshots;
use super::chain::chain_id;
use super::compare::Difference;
use super::error::SnapshotError;
use super::unpack::Unused;
use crate::oci::Digest;

/// What is wrong with a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotFault {
    /// A directory without a name that nobody is writing: an interrupted unpacking.
    HalfMade,
    /// A name whose directory is gone.
    Lost,
    /// Its record cannot be read, or is another chain's.
    Record(String),
    /// The snapshot below it is not there.
    NoParent(Digest),
    /// Its files are not as its blob has them.
    Files(Vec<Difference>),
    /// Its files could not be compared with its blob.
    Uncompared(String),
}

/// A snapshot that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFinding {
    /// Its chain ID; `None` for a directory without a name.
    pub chain: Option<Digest>,
    /// Its directory's name.
    pub directory: String,
    /// What is wrong.
    pub fault: SnapshotFault,
}

impl Snapshots {
    /// Whether a chain has its directory.
    pub fn usable(&self, chain: &Digest) -> bool {
        self.inner.store.find(chain).is_some_and(|fs| fs.is_dir())
    }

    /// Looks at every name, directory and record. Blocking. [`Snapshots::compare`] looks at a layer's files.
    pub fn check(&self) -> Result<Vec<SnapshotFinding>, SnapshotError> {
        let store = &self.inner.store;
        // A collection takes a name and its directory away in one breath, under the other half of this lock.
        let _exclusive = store.lock(FlockOperation::LockExclusive)?;
        let mut found = Vec::new();
        let published: HashMap<Digest, String> = store.published()?.into_iter().collect();
        for (chain, name) in &published {
            let fault = if !store.path("l").join(name).join("fs").is_dir() {
                Some(SnapshotFault::Lost)
            } else {
                match store.record(name) {
                    None => Some(SnapshotFault::Record("its record cannot be read".into())),
                    Some(record) if record.chain != *chain => {
                        Some(SnapshotFault::Record(format!("its record is that of {}", record.chain)))
                    }
                    Some(record) if chain_id(record.parent.as_ref(), &record.diff_id) != *chain => {
                        Some(SnapshotFault::Record("its record's parent and diff ID make another chain".into()))
                    }
                    Some(record) => {
                        record.parent.filter(|below| !published.contains_key(below)).map(SnapshotFault::NoParent)
                    }
                }
            };
            if let Some(fault) = fault {
                found.push(SnapshotFinding { chain: Some(chain.clone()), directory: name.clone(), fault });
            }
        }
        let named: HashSet<String> = store.published()?.into_iter().map(|(_, name)| name).collect();
        let layers = store.path("l");
        for entry in fs::read_dir(&layers).map_err(SnapshotError::at("list", &layers))?.filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let written = || {
                File::open(entry.path()).is_ok_and(|dir| flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err())
            };
            // Whoever publishes one holds its lock until it has its name: looked at again behind the lock.
            let fresh = || store.published().is_ok_and(|all| all.iter().any(|(_, known)| *known == name));
            if !named.contains(&name) && !written() && !fresh() {
                found.push(SnapshotFinding { chain: None, directory: name, fault: SnapshotFault::HalfMade });
            }
        }
        found.sort_by(|a, b| (&a.chain, &a.directory).cmp(&(&b.chain, &b.directory)));
        Ok(found)
    }

    /// Takes these chains and all that lie above them away, to be unpacked again; whether all of them could be
    /// had, for what is being unpacked is left. No container may run on them. Blocking.
    pub fn discard(&self, chains: &HashSet<Digest>) -> Result<bool, SnapshotError> {
        let store = &self.inner.store;
        let published: HashMap<Digest, String> = store.published()?.into_iter().collect();
        let above = |chain: &Digest| {
            let mut at = Some(chain.clone());
            for _ in 0..=published.len() {
                let Some(here) = at else { return false };
                if chains.contains(&here) {
                    return true;
                }
                at = published.get(&here).and_then(|name| store.record(name)).and_then(|record| record.parent);
            }
            false
        };
        let mut all = true;
        for (chain, name) in published.iter().filter(|(chain, _)| above(chain)) {
            let _shared = store.lock(FlockOperation::LockShared)?;
            let generation = self.inner.claims.generation();
            match self.inner.claims.if_unused(chain, generation, || store.unpublish(chain)) {
                Unused::Done(result) => {
                    result?;
                    store.remove_tree("l", name.as_bytes())?;
                }
                Unused::InUse | Unused::Outdated => all = false,
            }
        }
        Ok(all)
    }
}
