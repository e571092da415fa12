//! Starts whose end is wanted before they are over. A runtime may hang for a minute while it makes a container; who
//! wants that container stopped, removed or replaced gives its start up instead of waiting.
//!
//! Invariant: while somebody holds a [`GivenUp`] of a container, no start of it is brought to its end, neither one that
//! is under way nor one that begins.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::error::{Class, Fault};

use super::Engine;
use super::container::container_key;
use super::memory::ContainerKey;

/// Containers that are given up, and by how many.
pub(super) type Unwanted = watch::Sender<HashMap<ContainerKey, usize>>;

/// See the module. Dropped when its holder has what it wanted.
pub struct GivenUp {
    engine: Arc<Engine>,
    id: ContainerKey,
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.engine.unwanted.send_modify(|unwanted| {
            if let Some(count) = unwanted.get_mut(&self.id) {
                *count -= 1;
                if *count == 0 {
                    unwanted.remove(&self.id);
                }
            }
        });
    }
}

impl Engine {
    /// Gives a container's start up.
    pub fn give_up(self: &Arc<Self>, id: &ContainerKey) -> GivenUp {
        self.unwanted.send_modify(|unwanted| *unwanted.entry(id.clone()).or_default() += 1);
        GivenUp { engine: Arc::clone(self), id: id.clone() }
    }

    /// Whether somebody has.
    pub fn is_given_up(&self, id: &ContainerKey) -> bool {
        self.unwanted.borrow().contains_key(id)
    }

    /// Returns, with what to tell whoever waits for the start, when somebody has.
    pub(super) async fn given_up(&self, id: &ContainerKey) -> Fault {
        // The sender is ours: waiting for it does not fail.
        let _ = self.unwanted.subscribe().wait_for(|unwanted| unwanted.contains_key(id)).await;
        Fault::new(Class::Refused, format!("{}: its start was given up, because its end is wanted", container_key(id)))
    }
}
