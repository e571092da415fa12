//! One at a time for each digest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::oci::Digest;

/// Locks by digest, kept only while somebody holds or awaits one.
#[derive(Default)]
pub struct Turns(Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for the turn; it ends when the guard is dropped.
    pub async fn lock(&self, digest: &Digest) -> OwnedMutexGuard<()> {
        let lock = {
            let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Ours in the map is the one count that is not a user.
            map.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(map.entry(digest.clone()).or_default())
        };
        lock.lock_owned().await
    }
}
