//! From a reference to an image in the store: resolve, choose the platform, fetch what is missing.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;

use super::descriptor::{self, Descriptor, Image, Kind};
use super::document::{self, Document, MAX_CONFIG, MAX_MANIFEST};
use super::error::{ImageError, RegistryFailure};
use super::follow::Following;
use super::index;
use super::progress::{Progress, ProgressEvent, ProgressState};
use super::registry::{PullOptions, PullSecret, Session};
use super::store::ContentStore;
use super::{Images, fetch};
use crate::oci::{Digest, Platform, Reference};

impl Images {
    /// What the reference points at now, by one HEAD; by GET where a registry's HEAD says no digest.
    pub async fn resolve(&self, reference: &Reference, options: &PullOptions) -> Result<Descriptor, ImageError> {
        let session = self.session(reference, options);
        let head = session.head(reference.manifest_name()).await?;
        if let (Some(digest), Some(size)) = (head.digest, head.size.filter(|size| *size > 0)) {
            let expected = reference.digest();
            if let Some(expected) = expected.filter(|e| **e != digest) {
                let what = format!("image {reference}");
                return Err(ImageError::Digest { what, expected: expected.clone(), actual: digest });
            }
            return Ok(Descriptor { media_type: head.media_type, digest, size });
        }
        self.top(&session, reference.digest()).await.map(|(descriptor, _)| descriptor)
    }

    /// Brings the image of one platform into the store: every blob verified, each fetched once however many
    /// pulls want it, layers side by side. What is in the store is not asked for again.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: Progress,
    ) -> Result<Image, ImageError> {
        let pull = self.begin(reference, options, Arc::clone(&progress)).await?;
        pull.run(&progress).await?;
        pull.finish().await
    }

    /// Resolves the reference, chooses the platform, and brings manifest and configuration into the store.
    /// [`Pull::run`] brings the layers.
    pub async fn begin(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: Progress,
    ) -> Result<Pull, ImageError> {
        let session = self.session(reference, options);
        let pinned = options.digest.as_ref().or(reference.digest());
        let (target, bytes) = self.top(&session, pinned).await?;
        let name = reference.to_string();
        let mut search = Search::new(&name, &options.platform, target.clone(), bytes);
        // An entry that does not say what it is for is looked into: what its configuration says counts.
        while let Some((manifest, bytes, said)) = search.next(self, &session).await? {
            let Document::Manifest { config, layers } = document::parse(&format!("image {name}"), &bytes)? else {
                return Err(ImageError::Malformed {
                    what: format!("image {name}"),
                    why: "its manifest is an index".into(),
                });
            };
            if config.size > MAX_CONFIG {
                let what = format!("image {name}: its configuration");
                return Err(ImageError::TooLarge { what, limit: MAX_CONFIG });
            }
            self.fetch_one(&session, &config, &progress).await?;
            let (platform, target, digest) = (options.platform.clone(), target.clone(), manifest.digest.clone());
            let store = self.store().clone();
            let described = fetch::joined(tokio::task::spawn_blocking(move || {
                super::load::describe(&store, target, manifest, config, layers, Some(&platform))
            }));
            let image = match described.await {
                Ok(image) => image,
                Err(ImageError::Platform { offered, .. }) => {
                    search.is_for_others(digest, said, offered);
                    continue;
                }
                Err(error) => return Err(error.named(&name)),
            };
            let images = self.clone();
            return Ok(Pull { images, session, asked: options.platform.clone(), image, end: watch::channel(None).0 });
        }
        Err(search.nothing())
    }

    pub(super) fn session(&self, reference: &Reference, options: &PullOptions) -> Session {
        let options = self.as_declared(reference, options);
        Session::new(Arc::clone(&self.inner.registries), reference.clone(), &options)
    }

    /// The options with the credentials that are declared for the host; they are read now, for they may have been
    /// renewed.
    fn as_declared(&self, reference: &Reference, options: &PullOptions) -> PullOptions {
        let mut options = options.clone();
        if let Some(file) = self.inner.registries.declared_auth_file(reference.host()) {
            match std::fs::read_to_string(&file) {
                Ok(text) => options.pull_secrets.push(PullSecret { name: file.display().to_string(), text }),
                Err(error) => tracing::warn!("credentials {} cannot be read: {error}", file.display()),
            }
        }
        options
    }

    /// The index or manifest at the top, from the store when its digest is known and it is there.
    pub(super) async fn top(
        &self,
        session: &Session,
        pinned: Option<&Digest>,
    ) -> Result<(Descriptor, Vec<u8>), ImageError> {
        let reference = session.reference();
        match pinned {
            Some(digest) => self.manifest(session, digest, None).await,
            None => {
                // HEAD costs registries nothing and us one small answer; what it names is asked for by its
                // digest, so that a tag that moves meanwhile changes nothing.
                match session.head(reference.manifest_name()).await {
                    Ok(head) => {
                        if let Some(digest) = head.digest {
                            return self.manifest(session, &digest, None).await;
                        }
                    }
                    // HEAD has no body: GET gets the registry's own words, and an answer where HEAD is not known.
                    Err(ImageError::Registry {
                        why:
                            RegistryFailure::NotFound(_) | RegistryFailure::Denied { .. } | RegistryFailure::Status { .. },
                        ..
                    }) => {}
                    Err(error) => return Err(error),
                }
                let answer = session.manifest(reference.manifest_name()).await?;
                let bytes = answer.bytes;
                let digest = Digest::of(&bytes);
                self.keep(session, digest, &answer.media_type, bytes).await
            }
        }
    }

    /// A manifest or index by digest.
    pub(super) async fn manifest(
        &self,
        session: &Session,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<(Descriptor, Vec<u8>), ImageError> {
        // Concurrent pulls of one image ask once: the second finds it in the store.
        let _turn = self.inner.manifests.lock(digest).await;
        if self.store().touch(digest)
            && let Ok(bytes) = self.store().read(digest, MAX_MANIFEST)
        {
            let media_type = document::media_type_of(&format!("image {}", session.reference()), &bytes)?;
            let descriptor = Descriptor { media_type, digest: digest.clone(), size: bytes.len() as u64 };
            return Ok((descriptor, bytes));
        }
        let answer = session.manifest(digest.as_str()).await?;
        let actual = Digest::of(&answer.bytes);
        let what = || format!("image {}: manifest {digest}", session.reference());
        if let Some(size) = size.filter(|size| *size != answer.bytes.len() as u64) {
            return Err(ImageError::Size { what: what(), expected: size, actual: answer.bytes.len() as u64 });
        }
        if actual != *digest {
            return Err(ImageError::Digest { what: what(), expected: digest.clone(), actual });
        }
        self.keep(session, actual, &answer.media_type, answer.bytes).await
    }

    /// Checks that the bytes are a manifest and stores them.
    async fn keep(
        &self,
        session: &Session,
        digest: Digest,
        content_type: &str,
        bytes: Vec<u8>,
    ) -> Result<(Descriptor, Vec<u8>), ImageError> {
        let what = format!("image {}", session.reference());
        let media_type = match document::media_type_of(&what, &bytes) {
            Ok(own) => own,
            Err(_) if !matches!(bytes.trim_ascii_start().first(), Some(b'{')) => {
                let kind = if content_type.is_empty() { "something without a type" } else { content_type };
                let why = format!("it answers {kind} where a manifest is asked for");
                return Err(session.error(RegistryFailure::Protocol(why)));
            }
            Err(error) => return Err(error),
        };
        document::parse(&what, &bytes)?;
        let descriptor = Descriptor { media_type, digest, size: bytes.len() as u64 };
        let store = self.store().clone();
        let bytes = fetch::joined(tokio::task::spawn_blocking(move || store.put(&bytes).map(|_| bytes))).await?;
        Ok((descriptor, bytes))
    }

    /// A manifest that is attached to an image and may be none itself: verified, and not judged.
    pub(super) async fn attached(&self, session: &Session, wanted: &Descriptor) -> Result<Vec<u8>, ImageError> {
        if let Ok(bytes) = self.store().read(&wanted.digest, MAX_MANIFEST) {
            return Ok(bytes);
        }
        let bytes = session.manifest(wanted.digest.as_str()).await?.bytes;
        let actual = Digest::of(&bytes);
        if actual != wanted.digest {
            let what = format!("image {}: manifest {}", session.reference(), wanted.digest);
            return Err(ImageError::Digest { what, expected: wanted.digest.clone(), actual });
        }
        let store = self.store().clone();
        fetch::joined(tokio::task::spawn_blocking(move || store.put(&bytes).map(|_| bytes))).await
    }

    pub(super) async fn fetch_one(
        &self,
        session: &Session,
        descriptor: &Descriptor,
        progress: &Progress,
    ) -> Result<(), ImageError> {
        let tell = |state| {
            let (reference, digest) = (session.reference().clone(), descriptor.digest.clone());
            progress(ProgressEvent { reference, digest, size: descriptor.size, state });
        };
        tell(ProgressState::Waiting);
        let bytes = |done| tell(ProgressState::Downloading { done, total: descriptor.size });
        self.inner.fetcher.fetch(session, descriptor, &bytes).await?;
        tell(ProgressState::Done);
        Ok(())
    }
}

/// The way down through indexes to manifests that may be for a platform. Depth first, best entry first; bounded, and
/// no index is looked into twice.
struct Search<'a> {
    name: &'a str,
    platform: &'a Platform,
    /// What there is beside, for the error.
    offered: Vec<Platform>,
    /// The first manifest that is not for what an index says.
    mislabelled: Option<ImageError>,
    seen: HashSet<Digest>,
    stack: Vec<Due>,
}

/// A document that is to be looked at.
struct Due {
    descriptor: Descriptor,
    /// Where they are here.
    bytes: Option<Vec<u8>>,
    depth: usize,
    /// What an index says that it is for.
    said: Option<Platform>,
}

impl<'a> Search<'a> {
    fn new(name: &'a str, platform: &'a Platform, target: Descriptor, bytes: Vec<u8>) -> Self {
        let seen = HashSet::from([target.digest.clone()]);
        let stack = vec![Due { descriptor: target, bytes: Some(bytes), depth: 0, said: None }];
        Self { name, platform, offered: Vec::new(), mislabelled: None, seen, stack }
    }

    /// The next manifest, and what an index says that it is for.
    async fn next(
        &mut self,
        images: &Images,
        session: &Session,
    ) -> Result<Option<(Descriptor, Vec<u8>, Option<Platform>)>, ImageError> {
        let what = || format!("image {}", self.name);
        while let Some(Due { descriptor, bytes, depth, said }) = self.stack.pop() {
            let bytes = match bytes {
                Some(bytes) => bytes,
                None => images.manifest(session, &descriptor.digest, Some(descriptor.size)).await?.1,
            };
            let Document::Index(children) = document::parse(&what(), &bytes)? else {
                return Ok(Some((descriptor, bytes, said)));
            };
            if depth >= index::MAX_DEPTH {
                let why = format!("it nests indexes more than {} deep", index::MAX_DEPTH);
                return Err(ImageError::Malformed { what: what(), why });
            }
            self.offered.extend(index::offered(&children));
            for child in index::candidates(&children, self.platform).into_iter().rev() {
                if child.descriptor.size > MAX_MANIFEST {
                    return Err(ImageError::TooLarge { what: what(), limit: MAX_MANIFEST });
                }
                if self.seen.insert(child.descriptor.digest.clone()) {
                    let (descriptor, said) = (child.descriptor.clone(), child.platform.clone());
                    self.stack.push(Due { descriptor, bytes: None, depth: depth + 1, said });
                }
            }
        }
        Ok(None)
    }

    /// A manifest is for something else, by its configuration.
    fn is_for_others(&mut self, manifest: Digest, said: Option<Platform>, offered: Vec<Platform>) {
        match (said, offered.first()) {
            (Some(said), Some(is)) => {
                let (image, is) = (self.name.to_owned(), is.clone());
                self.mislabelled.get_or_insert(ImageError::Mislabelled {
                    image,
                    manifest,
                    said: Box::new(said),
                    is: Box::new(is),
                });
            }
            _ => self.offered.extend(offered),
        }
    }

    /// That there is none.
    fn nothing(mut self) -> ImageError {
        if let Some(mislabelled) = self.mislabelled {
            return mislabelled;
        }
        self.offered.sort();
        self.offered.dedup();
        let (image, wanted) = (self.name.to_owned(), self.platform.clone());
        ImageError::Platform { image, wanted, offered: self.offered }
    }
}

/// An image on its way: manifest and configuration are here. Given up when dropped.
pub struct Pull {
    images: Images,
    session: Session,
    /// The platform that was asked for; the image's own may be a variant of it.
    asked: Platform,
    image: Image,
    end: watch::Sender<Option<Result<(), ImageError>>>,
}

impl Pull {
    /// The image.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The layers, each to be read while it comes.
    pub fn layers(&self) -> Following {
        Following::new(&self.images, self.end.subscribe())
    }

    /// Brings the layers into the store. [`Pull::finish`] makes that last.
    pub async fn run(&self, progress: &Progress) -> Result<(), ImageError> {
        let result = self.fetch_layers(progress).await;
        self.end.send_replace(Some(result.clone()));
        result
    }

    /// Makes what came durable, once for all blobs: each by itself would hold up whoever writes beside, for
    /// a file system commits everybody's work at once.
    pub async fn finish(&self) -> Result<Image, ImageError> {
        let store = self.images.store().clone();
        fetch::joined(tokio::task::spawn_blocking(move || store.sync_names())).await?;
        self.images.remember(&self.image, &self.asked);
        Ok(self.image.clone())
    }

    async fn fetch_layers(&self, progress: &Progress) -> Result<(), ImageError> {
        let mut seen = HashSet::new();
        let mut layers: Vec<&Descriptor> = self.image.layers.iter().map(|layer| &layer.descriptor).collect();
        layers.retain(|layer| seen.insert(&layer.digest));
        // The largest first, as they are unpacked.
        layers.sort_by_key(|layer| std::cmp::Reverse(layer.size));
        let mut fetches: FuturesUnordered<_> =
            layers.into_iter().map(|layer| self.images.fetch_one(&self.session, layer, progress)).collect();
        // The first failure ends the others: dropped, their streams close and what they have is kept.
        while let Some(result) = fetches.next().await {
            result?;
        }
        // One blob that is listed twice with different sizes.
        for Descriptor { digest, size, .. } in self.image.layers.iter().map(|layer| &layer.descriptor) {
            if let Some(actual) = self.images.store().size(digest).filter(|actual| actual != size) {
                return Err(ImageError::Size { what: format!("blob {digest}"), expected: *size, actual });
            }
        }
        Ok(())
    }
}

/// Whether a descriptor is one that leads to images.
pub(super) fn leads_to_images(descriptor: &Descriptor) -> bool {
    matches!(descriptor::kind(&descriptor.media_type), Kind::Index | Kind::Manifest)
}

/// The document that a descriptor points at, from the store.
pub(super) fn stored(store: &ContentStore, digest: &Digest) -> Result<(Descriptor, Document), ImageError> {
    let bytes = store.read(digest, MAX_MANIFEST)?;
    let what = format!("image {digest}");
    let media_type = document::media_type_of(&what, &bytes)?;
    let document = document::parse(&what, &bytes)?;
    Ok((Descriptor { media_type, digest: digest.clone(), size: bytes.len() as u64 }, document))
}
