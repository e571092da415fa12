//! An image's layers brought to disk: side by side, each once, published from the lowest up.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use super::ahead::Ahead;
use super::chain::chain_ids;
use super::compare::Difference;
use super::error::SnapshotError;
use super::store::{Draft, Record};
use super::writeback::Writeback;
use super::{Snapshots, compare, implied, layer};
use crate::image::{ContentStore, Following, Image, ImageError, Layer, Packed, compression};
use crate::oci::Digest;

/// Where the packed bytes of layers come from: the store, or a download that is still under way.
pub trait LayerSource: Sync {
    /// The layer's blob from its first byte on.
    fn open(&self, layer: &Layer) -> Result<Packed, ImageError>;
}

impl LayerSource for ContentStore {
    fn open(&self, layer: &Layer) -> Result<Packed, ImageError> {
        Ok(Packed::verified(self.open_blob(&layer.descriptor.digest)?))
    }
}

impl LayerSource for Following {
    fn open(&self, layer: &Layer) -> Result<Packed, ImageError> {
        Following::open(self, &layer.descriptor.digest, layer.descriptor.size)
    }
}

/// Chain IDs that somebody in this process is unpacking.
#[derive(Default)]
pub struct Claims {
    taken: Mutex<HashSet<Digest>>,
    changed: Condvar,
    /// Chains of images that are being unpacked, those that are there already included, with the number
    /// of calls: garbage collection leaves them.
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    chains: HashMap<Digest, usize>,
    /// Counts beginnings and ends, so that a listing can be known to be out of date.
    generation: u64,
}

/// What [`Claims::if_unused`] found.
pub enum Unused<T> {
    /// Nobody uses it; what was done to it gave this.
    Done(T),
    /// Somebody unpacks an image with it.
    InUse,
    /// Images were unpacked since the listing: a chain may have one above it by now.
    Outdated,
}

/// Keeps chains from garbage collection as long as it lives.
struct Use<'a> {
    claims: &'a Claims,
    chains: &'a [Digest],
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        let mut used = self.claims.used.lock().unwrap_or_else(PoisonError::into_inner);
        for chain in self.chains {
            if let Some(count) = used.chains.get_mut(chain) {
                *count -= 1;
                if *count == 0 {
                    used.chains.remove(chain);
                }
            }
        }
        used.generation += 1;
    }
}

/// The right to unpack one chain ID; given up when dropped.
struct Claim<'a> {
    claims: &'a Claims,
    chain: Digest,
}

impl Claims {
    fn use_all<'a>(&'a self, chains: &'a [Digest]) -> Use<'a> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        for chain in chains {
            *used.chains.entry(chain.clone()).or_default() += 1;
        }
        used.generation += 1;
        Use { claims: self, chains }
    }

    /// To be taken before a listing.
    pub fn generation(&self) -> u64 {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).generation
    }

    /// Does something to a chain that nobody uses, and that nobody begins to use meanwhile, if what is known
    /// of it since `generation` still holds.
    pub fn if_unused<T>(&self, chain: &Digest, generation: u64, act: impl FnOnce() -> T) -> Unused<T> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.chains.contains_key(chain) {
            Unused::InUse
        } else if used.generation != generation {
            Unused::Outdated
        } else {
            Unused::Done(act())
        }
    }

    fn try_take(&self, chain: &Digest) -> Option<Claim<'_>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.insert(chain.clone()).then(|| Claim { claims: self, chain: chain.clone() })
    }

    fn wait_while_taken(&self, chain: &Digest) {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let _taken =
            self.changed.wait_while(taken, |taken| taken.contains(chain)).unwrap_or_else(PoisonError::into_inner);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.claims.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.chain);
        self.claims.changed.notify_all();
    }
}

/// A layer on disk that is not published yet.
struct Applied {
    draft: Draft,
    implied: File,
}

impl Snapshots {
    /// Brings every layer of the image to disk. Blocking. Layers that are there are left alone, those that
    /// another call in this process works on are waited for, and none becomes visible before it is whole,
    /// matches its diff ID, and is durable. `progress` hears each layer when it begins.
    pub fn unpack(
        &self,
        image: &Image,
        source: &impl LayerSource,
        progress: &(dyn Fn(&Digest) + Sync),
    ) -> Result<(), SnapshotError> {
        let chains = chain_ids(&image.layers);
        let _use = self.inner.claims.use_all(&chains);
        while !self.is_unpacked(image) {
            self.round(image, &chains, source, progress)?;
        }
        for chain in &chains {
            self.inner.store.touch(chain);
        }
        Ok(())
    }

    /// Whether every layer is there. Chains are published from the lowest up, so the uppermost tells.
    pub fn is_unpacked(&self, image: &Image) -> bool {
        chain_ids(&image.layers).last().is_none_or(|top| self.inner.store.find(top).is_some())
    }

    /// Unpacks what nobody else is unpacking, and publishes it as far as what lies below is published.
    ///
    /// Claims are taken without waiting and each is given up at the latest when what lies below was waited
    /// for; whoever holds a claim waits only for lower ones of its own chain, so nobody waits in a circle.
    fn round(
        &self,
        image: &Image,
        chains: &[Digest],
        source: &impl LayerSource,
        progress: &(dyn Fn(&Digest) + Sync),
    ) -> Result<(), SnapshotError> {
        let store = &self.inner.store;
        let mut claims: HashMap<usize, Claim<'_>> = HashMap::new();
        for (at, chain) in chains.iter().enumerate() {
            if store.find(chain).is_some() {
                continue;
            }
            if let Some(claim) = self.inner.claims.try_take(chain) {
                // Published between the look and the claim?
                if store.find(chain).is_none() {
                    claims.insert(at, claim);
                }
            }
        }
        let mut todo: Vec<usize> = claims.keys().copied().collect();
        todo.sort_unstable();
        let mut applied = self.apply_all(image, chains, &todo, source, progress)?;
        let mut lower: Vec<PathBuf> = Vec::with_capacity(chains.len());
        let mut ready: Vec<(usize, Draft)> = Vec::new();
        for (at, chain) in chains.iter().enumerate() {
            if let Some(Applied { draft, mut implied }) = applied.remove(&at) {
                let fs = draft.fs();
                let root = open_root(&fs)?;
                let below: Vec<PathBuf> = lower.iter().rev().cloned().collect();
                implied::settle(&root, &mut implied, &below)
                    .map_err(SnapshotError::at("describe implied directories in", &fs))?;
                lower.push(fs);
                ready.push((at, draft));
                continue;
            }
            if store.find(chain).is_none() {
                // Somebody else's. What is ours below it is published first: they may wait for that.
                self.publish(chains, &mut ready, &mut claims)?;
                // Another process may have been first with one of them.
                lower = chains[..at].iter().filter_map(|below| store.find(below)).collect();
                self.inner.claims.wait_while_taken(chain);
            }
            match store.find(chain) {
                Some(fs) => lower.push(fs),
                // They failed. What we have above it is dropped, and the next round does all of it.
                None => return Ok(()),
            }
        }
        self.publish(chains, &mut ready, &mut claims)
    }

    /// What of an unpacked layer is not as its blob says: the blob is unpacked once more, aside, and the two are
    /// compared. Blocking. The blob must be whole. Nothing differs of one that is not unpacked, or goes meanwhile.
    pub fn compare(&self, image: &Image, at: usize, store: &ContentStore) -> Result<Vec<Difference>, SnapshotError> {
        let chains = chain_ids(&image.layers);
        // A clock that file systems read is some milliseconds behind.
        let since = jiff::Timestamp::now().as_second() - 1;
        let mut applied = self.apply_all(image, &chains, &[at], store, &|_| {})?;
        let Some(Applied { draft, mut implied }) = applied.remove(&at) else { return Ok(Vec::new()) };
        let aside = draft.fs();
        let failed = |error| SnapshotError::io(format!("compare {}", aside.display()), error);
        let root = open_root(&aside)?;
        let below: Vec<PathBuf> = chains[..at].iter().rev().filter_map(|chain| self.inner.store.find(chain)).collect();
        implied::settle(&root, &mut implied, &below).map_err(failed)?;
        let Some(fs) = self.inner.store.find(&chains[at]) else { return Ok(Vec::new()) };
        match open_root(&fs).and_then(|fs| compare::trees(root, fs, since).map_err(failed)) {
            _ if self.inner.store.find(&chains[at]).is_none() => Ok(Vec::new()),
            result => result,
        }
    }

    fn publish(
        &self,
        chains: &[Digest],
        ready: &mut Vec<(usize, Draft)>,
        claims: &mut HashMap<usize, Claim<'_>>,
    ) -> Result<(), SnapshotError> {
        if ready.is_empty() {
            return Ok(());
        }
        let store = &self.inner.store;
        store.sync()?;
        let mut done = Vec::with_capacity(ready.len());
        for (at, draft) in ready.drain(..) {
            store.publish(&chains[at], draft)?;
            done.extend(claims.remove(&at));
        }
        store.sync_names()
    }

    /// Applies layers on as many threads as there are cores, larger ones first.
    fn apply_all(
        &self,
        image: &Image,
        chains: &[Digest],
        todo: &[usize],
        source: &impl LayerSource,
        progress: &(dyn Fn(&Digest) + Sync),
    ) -> Result<HashMap<usize, Applied>, SnapshotError> {
        let mut order = todo.to_vec();
        order.sort_by_key(|at| std::cmp::Reverse(image.layers[*at].descriptor.size));
        let threads = std::thread::available_parallelism().map_or(2, usize::from).min(order.len());
        let next = AtomicUsize::new(0);
        let writeback = self.inner.store.writeback()?;
        let results: Mutex<Vec<(usize, Result<Applied, SnapshotError>)>> = Mutex::default();
        let work = || {
            if let Err(error) = own_umask() {
                results.lock().unwrap_or_else(PoisonError::into_inner).push((0, Err(error)));
                return;
            }
            loop {
                let Some(at) = order.get(next.fetch_add(1, Ordering::Relaxed)).copied() else { return };
                let layer = &image.layers[at];
                progress(&layer.descriptor.digest);
                let parent = at.checked_sub(1).map(|below| chains[below].clone());
                let record = Record { chain: chains[at].clone(), parent, diff_id: layer.diff_id.clone() };
                let result = self.apply_one(layer, &record, source, &writeback);
                if result.is_err() {
                    // The others need not begin what will not be used.
                    next.store(order.len(), Ordering::Relaxed);
                }
                results.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
            }
        };
        // Threads of their own even for one layer: their umask is not the caller's.
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_by_key(|(at, _)| *at);
        results.into_iter().map(|(at, result)| result.map(|applied| (at, applied))).collect()
    }

    /// Applies one layer. What a download that was broken off gave is dropped, and the layer read again.
    fn apply_one(
        &self,
        layer: &Layer,
        record: &Record,
        source: &impl LayerSource,
        writeback: &Writeback,
    ) -> Result<Applied, SnapshotError> {
        loop {
            let packed = source.open(layer).map_err(|source| SnapshotError::Source {
                layer: layer.descriptor.digest.clone(),
                source: Box::new(source),
            })?;
            let (blob, right) = packed.split();
            let result = self.apply_blob(layer, record, blob, writeback);
            // A blob that is not what its digest says is told as that, not by what is odd in its bytes.
            if right() {
                return result;
            }
        }
    }

    fn apply_blob(
        &self,
        layer: &Layer,
        record: &Record,
        blob: Box<dyn Read + Send>,
        writeback: &Writeback,
    ) -> Result<Applied, SnapshotError> {
        let store = &self.inner.store;
        let digest = &layer.descriptor.digest;
        let draft = store.draft(record)?;
        let root = open_root(&draft.fs())?;
        let (done, diff_id) = std::thread::scope(|scope| {
            let mut stream = Ahead::start(scope, move || compression::reader(blob), self.inner.limit);
            let done = layer::apply(digest, root, &mut stream, || store.spool(&draft), self.inner.limit, writeback)?;
            Ok((done, stream.digest()))
        })?;
        if diff_id != layer.diff_id {
            let (expected, actual) = (layer.diff_id.clone(), diff_id);
            return Err(SnapshotError::DiffId { layer: digest.clone(), expected, actual });
        }
        if done.skipped > 0 {
            tracing::warn!(layer = %digest, entries = done.skipped, "devices and entries of unknown kinds were left out");
        }
        Ok(Applied { draft, implied: done.implied })
    }
}

/// Gives the calling thread a umask of its own, 0: modes are a layer's, not this process'.
fn own_umask() -> Result<(), SnapshotError> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)
        .map_err(|e| SnapshotError::io("separate the umask of a thread", io::Error::from(e)))?;
    rustix::process::umask(rustix::fs::Mode::empty());
    Ok(())
}

fn open_root(path: &PathBuf) -> Result<OwnedFd, SnapshotError> {
    File::open(path).map(OwnedFd::from).map_err(SnapshotError::at("open", path))
}
