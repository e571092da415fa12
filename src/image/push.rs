//! From the store to a registry: what is there already is not sent, what another repository of the same
//! registry has is mounted, the rest goes side by side; documents follow what they name, the tag is last.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::closure::{self, Closure, Part};
use super::descriptor::Descriptor;
use super::document::MAX_MANIFEST;
use super::error::{ImageError, RegistryFailure};
use super::registry::{PullOptions, Sent, Session, Told};
use super::{Images, fetch};
use crate::oci::{Digest, Reference};

/// Repositories of the same registry that are offered to be mounted from.
const MAX_SOURCES: usize = 8;

/// Hears of blobs and documents; called from many threads, must not block.
pub type PushProgress = Arc<dyn Fn(&Descriptor, PushState) + Send + Sync>;

/// Where a blob or a document is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushState {
    /// Its turn has not come.
    Waiting,
    /// So many of its bytes are on their way.
    Sending(u64),
    /// It is there.
    There(Sent),
}

/// What one push wants.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// How the registry is spoken to. Platform and digest are not looked at.
    pub registry: PullOptions,
    /// Which part of the image.
    pub part: Part,
    /// Images that came from the same registry or went there, for blobs to be mounted.
    pub known: Vec<(Reference, Descriptor)>,
}

/// What came of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// What the name points at now.
    pub root: Descriptor,
    /// Bytes of everything that it reaches.
    pub size: u64,
    /// Bytes of the blobs that were sent.
    pub sent: u64,
    /// The name pointed at it before, and nothing was sent.
    pub unchanged: bool,
}

impl Images {
    /// Pushes the image at `target` of the store to `to`. `name` names it in errors.
    pub async fn push(
        &self,
        name: &str,
        target: &Descriptor,
        to: &Reference,
        options: &PushOptions,
        progress: PushProgress,
    ) -> Result<Pushed, ImageError> {
        let (images, known) = (self.clone(), options.known.clone());
        let (name, target, part, host) = (name.to_owned(), target.clone(), options.part.clone(), to.clone());
        let work = move || {
            let moving = images.for_push(&name, &target, &part)?;
            let sources = images.sources(&moving, &host, &known);
            Ok((moving, sources))
        };
        let (moving, sources) = fetch::joined(tokio::task::spawn_blocking(work)).await?;
        if let Some(pinned) = to.digest().filter(|pinned| **pinned != moving.root.digest) {
            let what = format!("image {to}");
            return Err(ImageError::Digest { what, expected: pinned.clone(), actual: moving.root.digest });
        }
        let session = Session::new(Arc::clone(&self.inner.registries), to.clone(), &options.registry);
        let tag = to.tag().unwrap_or(moving.root.digest.as_str()).to_owned();
        let (session, before) = open(&session, &sources, &tag).await?;
        let (root, size) = (moving.root.clone(), moving.size());
        if before.as_ref() == Some(&root.digest) {
            return Ok(Pushed { root, size, sent: 0, unchanged: true });
        }
        let sent = self.blobs(&session, &moving, &sources, &progress).await?;
        self.documents(&session, &moving, &tag, &progress).await?;
        Ok(Pushed { root, size, sent, unchanged: false })
    }

    /// Which repository of the target's registry may have which blob. Blocking.
    fn sources(&self, moving: &Closure, to: &Reference, known: &[(Reference, Descriptor)]) -> HashMap<Digest, String> {
        let mut sources = HashMap::new();
        let mut repositories = Vec::new();
        for (reference, target) in known {
            let repository = reference.path();
            if reference.host() != to.host() || repository == to.path() || repositories.contains(&repository) {
                continue;
            }
            let Ok(other) = closure::of(self.store(), target) else { continue };
            let shared: Vec<_> = other.blobs.into_iter().filter(|b| moving.blobs.contains(b)).collect();
            if shared.is_empty() {
                continue;
            }
            repositories.push(repository);
            for blob in shared {
                sources.entry(blob.digest).or_insert_with(|| repository.to_owned());
            }
            if repositories.len() >= MAX_SOURCES {
                break;
            }
        }
        sources
    }

    /// Brings every blob there, some at a time; the bytes that were sent.
    async fn blobs(
        &self,
        session: &Session,
        moving: &Closure,
        sources: &HashMap<Digest, String>,
        progress: &PushProgress,
    ) -> Result<u64, ImageError> {
        for blob in &moving.blobs {
            progress(blob, PushState::Waiting);
        }
        let one = async |blob: &Descriptor| {
            let file = Arc::new(self.store().open_blob(&blob.digest)?);
            let told: Told = {
                let (progress, blob) = (Arc::clone(progress), blob.clone());
                Arc::new(move |done| progress(&blob, PushState::Sending(done)))
            };
            let from = sources.get(&blob.digest).map(String::as_str);
            let sent = session.upload(blob, file, from, told).await.map_err(|why| session.error(why))?;
            let bytes = if sent == Sent::Uploaded { blob.size } else { 0 };
            progress(blob, PushState::There(sent));
            Ok::<_, ImageError>(bytes)
        };
        let concurrency = self.inner.registries.config().concurrency.max(1);
        // The first failure ends the others.
        stream::iter(&moving.blobs).map(one).buffer_unordered(concurrency).try_fold(0, async |sum, n| Ok(sum + n)).await
    }

    /// Children before parents, each by its digest and as its bytes are; the root by its tag, last.
    async fn documents(
        &self,
        session: &Session,
        moving: &Closure,
        tag: &str,
        progress: &PushProgress,
    ) -> Result<(), ImageError> {
        for document in &moving.documents {
            let name = if *document == moving.root { tag } else { document.digest.as_str() };
            let bytes = Bytes::from(self.store().read(&document.digest, MAX_MANIFEST)?);
            progress(document, PushState::Sending(0));
            session.put_manifest(name, document, bytes).await.map_err(|why| session.error(why))?;
            progress(document, PushState::There(Sent::Uploaded));
        }
        Ok(())
    }
}

/// The conversation with its rights, and what the name points at so far. Rights to mount are asked for, and
/// done without where they are not given.
async fn open(
    session: &Session,
    sources: &HashMap<Digest, String>,
    tag: &str,
) -> Result<(Session, Option<Digest>), ImageError> {
    let mut from: Vec<String> = sources.values().cloned().collect();
    from.sort();
    from.dedup();
    loop {
        let session = session.writing(&from);
        match session.tagged(tag).await {
            Ok(before) => return Ok((session, before)),
            Err(RegistryFailure::Denied { .. } | RegistryFailure::Auth(_)) if !from.is_empty() => from.clear(),
            Err(why) => return Err(session.error(why)),
        }
    }
}
