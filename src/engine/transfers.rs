//! What is on its way to the node: every blob of every image that is pulled, for whoever wants to see it.
//!
//! Pulls write, listings and streams read. Nobody who reads slowly holds a pull up: a reader that lags misses
//! moves, and the next move of a blob says all there is to know about it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use crate::image::{Progress, ProgressEvent, ProgressState};
use crate::manifest::ResourceKey;
use crate::oci::Digest;

/// Moves that a slow reader may be behind before it misses some.
const BACKLOG: usize = 1024;

/// A blob moved on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The image it belongs to.
    pub key: ResourceKey,
    /// Which blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Where it is now.
    pub state: ProgressState,
}

impl Move {
    /// Bytes of it that are here.
    pub fn done(&self) -> u64 {
        match self.state {
            ProgressState::Waiting => 0,
            ProgressState::Downloading { done, .. } => done.min(self.size),
            ProgressState::Done | ProgressState::Unpacking => self.size,
        }
    }
}

/// See the module.
pub struct Transfers {
    under_way: Mutex<BTreeMap<ResourceKey, Vec<Move>>>,
    moves: broadcast::Sender<Move>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self { under_way: Mutex::default(), moves: broadcast::Sender::new(BACKLOG) }
    }
}

/// An image on its way; it is forgotten when this goes.
pub(super) struct Transfer {
    transfers: Arc<Transfers>,
    key: ResourceKey,
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.transfers.table().remove(&self.key);
    }
}

impl Transfers {
    fn table(&self) -> MutexGuard<'_, BTreeMap<ResourceKey, Vec<Move>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An image is on its way: as long as the first lives, what the second hears is shown. `further` hears it too.
    pub(super) fn begin(self: &Arc<Self>, key: &ResourceKey, further: Option<Progress>) -> (Transfer, Progress) {
        self.table().insert(key.clone(), Vec::new());
        let transfer = Transfer { transfers: Arc::clone(self), key: key.clone() };
        let (transfers, key) = (Arc::clone(self), key.clone());
        let hear = Arc::new(move |event: ProgressEvent| {
            if let Some(further) = &further {
                further(event.clone());
            }
            transfers.hear(&key, event);
        });
        (transfer, hear)
    }

    fn hear(&self, key: &ResourceKey, event: ProgressEvent) {
        let mut moved = Move { key: key.clone(), digest: event.digest, size: event.size, state: event.state };
        {
            let mut table = self.table();
            let Some(blobs) = table.get_mut(key) else { return };
            match blobs.iter_mut().find(|blob| blob.digest == moved.digest) {
                Some(blob) => {
                    // Who unpacks knows the layer and not always its size.
                    moved.size = moved.size.max(blob.size);
                    blob.clone_from(&moved);
                }
                None => blobs.push(moved.clone()),
            }
        }
        // Nobody listens: nobody is told.
        let _ = self.moves.send(moved);
    }

    /// Bytes here and bytes in all of an image that is on its way; `None` when it is not, or when nothing is
    /// known of it yet.
    pub fn total(&self, key: &ResourceKey) -> Option<(u64, u64)> {
        let table = self.table();
        let blobs = table.get(key).filter(|blobs| !blobs.is_empty())?;
        Some(blobs.iter().fold((0, 0), |(done, total), blob| (done + blob.done(), total + blob.size)))
    }

    /// Where everything is now, and every move from now on.
    pub fn subscribe(&self) -> (Vec<Move>, broadcast::Receiver<Move>) {
        let table = self.table();
        (table.values().flatten().cloned().collect(), self.moves.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Kind;

    #[test]
    fn an_image_on_its_way_is_summed_up_and_then_forgotten() {
        let transfers = Arc::new(Transfers::default());
        let key = ResourceKey::new(Kind::Image, "shop", "registry.local/web:1");
        let (guard, hear) = transfers.begin(&key, None);
        assert_eq!(transfers.total(&key), None, "nothing is known yet");
        let (now, mut moves) = transfers.subscribe();
        assert!(now.is_empty());
        let tell = |blob: &str, size, state| {
            let reference = "registry.local/web:1".parse().unwrap();
            hear(ProgressEvent { reference, digest: Digest::of(blob.as_bytes()), size, state });
        };
        tell("a", 100, ProgressState::Waiting);
        tell("b", 300, ProgressState::Waiting);
        tell("b", 300, ProgressState::Downloading { done: 60, total: 300 });
        assert_eq!(transfers.total(&key), Some((60, 400)));
        tell("a", 100, ProgressState::Done);
        tell("b", 0, ProgressState::Unpacking);
        assert_eq!(transfers.total(&key), Some((400, 400)));
        let states: Vec<u64> = std::iter::from_fn(|| moves.try_recv().ok()).map(|moved| moved.done()).collect();
        assert_eq!(states, [0, 0, 60, 100, 300]);
        let (now, _) = transfers.subscribe();
        assert_eq!(now.len(), 2, "who comes later is told where things are");
        drop(guard);
        assert_eq!(transfers.total(&key), None);
        tell("a", 100, ProgressState::Done);
        assert!(transfers.subscribe().0.is_empty(), "what has ended does not come back");
    }
}
