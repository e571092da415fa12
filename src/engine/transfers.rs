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
    /// Bytes of it came over the wire; of one that was here, none.
    pub fetched: bool,
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

/// What is known of a blob. Fetching and unpacking go on side by side and tell of themselves; it counts as
/// unpacked only once it is here.
struct Blob {
    shown: Move,
    here: bool,
    unpacking: bool,
}

impl Blob {
    fn new(key: &ResourceKey, event: &ProgressEvent) -> Self {
        let (key, digest, state) = (key.clone(), event.digest.clone(), ProgressState::Waiting);
        Self { shown: Move { key, digest, size: 0, state, fetched: false }, here: false, unpacking: false }
    }

    fn hear(&mut self, event: ProgressEvent) {
        // Who unpacks knows the layer and not always its size.
        self.shown.size = self.shown.size.max(event.size);
        match event.state {
            ProgressState::Done => self.here = true,
            ProgressState::Unpacking => self.unpacking = true,
            ProgressState::Downloading { .. } => {
                self.shown.fetched = true;
                self.shown.state = event.state;
            }
            ProgressState::Waiting => {}
        }
        match (self.here, self.unpacking) {
            (true, true) => self.shown.state = ProgressState::Unpacking,
            (true, false) => self.shown.state = ProgressState::Done,
            (false, _) => {}
        }
    }
}

/// See the module.
pub struct Transfers {
    under_way: Mutex<BTreeMap<ResourceKey, Vec<Blob>>>,
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
    fn table(&self) -> MutexGuard<'_, BTreeMap<ResourceKey, Vec<Blob>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An image is on its way: as long as the first lives, what the second hears is shown.
    pub(super) fn begin(self: &Arc<Self>, key: &ResourceKey) -> (Transfer, Progress) {
        self.table().insert(key.clone(), Vec::new());
        let transfer = Transfer { transfers: Arc::clone(self), key: key.clone() };
        let (transfers, key) = (Arc::clone(self), key.clone());
        (transfer, Arc::new(move |event| transfers.hear(&key, event)))
    }

    fn hear(&self, key: &ResourceKey, event: ProgressEvent) {
        let moved = {
            let mut table = self.table();
            let Some(blobs) = table.get_mut(key) else { return };
            let known = blobs.iter().position(|blob| blob.shown.digest == event.digest);
            let at = known.unwrap_or_else(|| {
                blobs.push(Blob::new(key, &event));
                blobs.len() - 1
            });
            let before = blobs[at].shown.clone();
            blobs[at].hear(event);
            if known.is_some() && blobs[at].shown == before {
                return;
            }
            blobs[at].shown.clone()
        };
        // Nobody listens: nobody is told.
        let _ = self.moves.send(moved);
    }

    /// Bytes here and bytes in all of an image that is on its way; `None` when it is not, or when nothing is
    /// known of it yet.
    pub fn total(&self, key: &ResourceKey) -> Option<(u64, u64)> {
        let table = self.table();
        let blobs = table.get(key).filter(|blobs| !blobs.is_empty())?;
        Some(blobs.iter().fold((0, 0), |(done, total), blob| (done + blob.shown.done(), total + blob.shown.size)))
    }

    /// Where everything is now, and every move from now on.
    pub fn subscribe(&self) -> (Vec<Move>, broadcast::Receiver<Move>) {
        let table = self.table();
        (table.values().flatten().map(|blob| blob.shown.clone()).collect(), self.moves.subscribe())
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
        let (guard, hear) = transfers.begin(&key);
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
        tell("b", 300, ProgressState::Done);
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

    #[test]
    fn a_layer_that_is_unpacked_while_it_comes_is_fetched_until_it_is_here() {
        let transfers = Arc::new(Transfers::default());
        let (_guard, hear) = transfers.begin(&ResourceKey::new(Kind::Image, "shop", "registry.local/web:1"));
        let (_, mut moves) = transfers.subscribe();
        let tell = |blob: &str, size, state| {
            let reference = "registry.local/web:1".parse().unwrap();
            hear(ProgressEvent { reference, digest: Digest::of(blob.as_bytes()), size, state });
        };
        tell("a", 0, ProgressState::Unpacking);
        tell("a", 100, ProgressState::Waiting);
        tell("a", 100, ProgressState::Downloading { done: 60, total: 100 });
        tell("a", 100, ProgressState::Done);
        tell("b", 50, ProgressState::Waiting);
        tell("b", 50, ProgressState::Done);
        let heard: Vec<_> = std::iter::from_fn(|| moves.try_recv().ok()).map(|m| (m.state, m.fetched)).collect();
        let expected = [
            (ProgressState::Waiting, false),
            (ProgressState::Waiting, false),
            (ProgressState::Downloading { done: 60, total: 100 }, true),
            (ProgressState::Unpacking, true),
            (ProgressState::Waiting, false),
            (ProgressState::Done, false),
        ];
        assert_eq!(heard, expected);
    }
}
