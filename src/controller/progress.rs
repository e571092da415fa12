//! Images on their way, as the API tells of them.

use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;

use crate::api::{BlobState, Portion, ProgressRequest, Stream, Transfer, channel};
use crate::engine::Move;
use crate::image::ProgressState;
use crate::manifest::{Kind, ResourceKey, Spec};
use crate::oci::Reference;

use super::Node;

/// Tags that are followed to the image behind them.
const LONGEST_CHAIN: usize = 32;

impl Node {
    /// What is on its way and asked for, and every move of it, until nobody listens.
    pub(super) fn progress(self: &Arc<Self>, request: ProgressRequest) -> Stream<Transfer> {
        let (sender, stream) = channel(256);
        let (now, mut moves) = self.engine.transfers().subscribe();
        let node = Arc::clone(self);
        let wanted = move |key: &ResourceKey| {
            request.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
                && request
                    .reference
                    .as_ref()
                    .is_none_or(|reference| node.pulled_for(&key.namespace, reference).name == key.name)
        };
        tokio::spawn(async move {
            for moved in now.into_iter().filter(|moved| wanted(&moved.key)) {
                if sender.send(Ok(transfer(moved))).await.is_err() {
                    return;
                }
            }
            loop {
                let moved = tokio::select! {
                    moved = moves.recv() => moved,
                    () = sender.closed() => return,
                };
                match moved {
                    Ok(moved) if wanted(&moved.key) => {
                        if sender.send(Ok(transfer(moved))).await.is_err() {
                            return;
                        }
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        });
        stream
    }

    /// Does something, and tells meanwhile where the blobs of an image are, whoever brings them. `tell` must not
    /// block. What moved before the end is told before it.
    pub(super) async fn showing<T>(
        &self,
        image: &ResourceKey,
        mut tell: impl FnMut(Transfer),
        work: impl Future<Output = T>,
    ) -> T {
        let (now, mut moves) = self.engine.transfers().subscribe();
        let mut hear = |moved: Move| {
            if moved.key == *image {
                tell(transfer(moved));
            }
        };
        now.into_iter().for_each(&mut hear);
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => {
                    while let Ok(moved) = moves.try_recv() {
                        hear(moved);
                    }
                    return done;
                }
                moved = moves.recv() => match moved {
                    Ok(moved) => hear(moved),
                    Err(RecvError::Lagged(_)) => {}
                    // The sender lives as long as the node.
                    Err(RecvError::Closed) => return work.await,
                },
            }
        }
    }

    /// The image that must come from a registry for this reference to be here: its own, or that behind its tags.
    pub(super) fn pulled_for(&self, namespace: &str, reference: &Reference) -> ResourceKey {
        let desired = self.desired();
        let mut name = reference.to_string();
        for _ in 0..LONGEST_CHAIN {
            match desired.resources.get(&ResourceKey::new(Kind::Tag, namespace, &name)).map(|tag| &tag.resource.spec) {
                Some(Spec::Tag(tag)) => name = tag.source.to_string(),
                _ => break,
            }
        }
        ResourceKey::new(Kind::Image, namespace, name)
    }

    /// How far an image is that is on its way.
    pub(super) fn portion(&self, image: &ResourceKey) -> Option<Portion> {
        self.engine.transfers().total(image).map(|(done, total)| Portion { done, total })
    }
}

/// A move, as the API says it.
pub(super) fn transfer(moved: Move) -> Transfer {
    let done = moved.done();
    Transfer {
        key: moved.key,
        digest: moved.digest,
        state: blob_state(&moved.state),
        done,
        total: moved.size,
        fetched: moved.fetched,
    }
}

/// A blob's state, as the API says it.
fn blob_state(state: &ProgressState) -> BlobState {
    match state {
        ProgressState::Waiting => BlobState::Waiting,
        ProgressState::Downloading { .. } => BlobState::Downloading,
        ProgressState::Done => BlobState::Done,
        ProgressState::Unpacking => BlobState::Unpacking,
    }
}
