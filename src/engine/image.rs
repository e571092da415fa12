//! The steps of images, tags and namespaces: have a reference point at the right bytes, or be gone.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Class, Fault, Result};
use crate::image::{Descriptor, Image, Progress, ProgressEvent, ProgressState, PullOptions};
use crate::manifest::{Resource, ResourceKey, Spec};
use crate::oci::{Digest, Platform, Reference};
use crate::plan::{Declared, ReferenceRole, Source};
use crate::snapshot::LayerSource;
use crate::store::{EventType, NamespaceRecord, ReferenceRecord};

use super::{Engine, lock_of};

/// Why a reference is here and what is written at it.
pub(super) struct Standing {
    pub role: ReferenceRole,
    pub source: Source,
    pub resource: Option<Resource>,
}

impl Standing {
    /// As it is declared; in this role where it is not.
    fn by_hand(declared: Option<Declared>, role: ReferenceRole) -> Self {
        match declared {
            Some(declared) => {
                Self { role: ReferenceRole::Image, source: declared.source, resource: Some(declared.resource) }
            }
            None => Self { role, source: Source::Cli, resource: None },
        }
    }
}

impl Engine {
    pub(super) async fn pull(
        self: &Arc<Self>,
        key: &ResourceKey,
        reference: &Reference,
        digest: Option<&Digest>,
        resource: Option<&Resource>,
        source: Source,
    ) -> Result<()> {
        let standing = Standing {
            role: if resource.is_some() { ReferenceRole::Image } else { ReferenceRole::Implied },
            source,
            resource: resource.cloned(),
        };
        let platform = platform_of(resource);
        // The planner gives the digest when it is known: bytes that are here are only named.
        let _lease = self.lease();
        if let Some(digest) = digest
            && let Some(target) = self.complete_target(digest, &platform).await
        {
            return self.set_reference(&key.namespace, reference, &target, standing);
        }
        let pull_secrets = self.pull_secrets(resource)?;
        let options = PullOptions { platform, digest: digest.cloned(), pull_secrets, ..PullOptions::default() };
        self.fetch(key, reference, &options, standing).await.map(drop)
    }

    /// The descriptor of an image all of which is in the store and unpacked, and stays under the caller's lease.
    async fn complete_target(self: &Arc<Self>, digest: &Digest, platform: &Platform) -> Option<Descriptor> {
        let engine = Arc::clone(self);
        let (digest, platform) = (digest.clone(), platform.clone());
        tokio::task::spawn_blocking(move || {
            engine.hold(&digest);
            // Looked at only after it is held, and not from what was remembered before.
            let image = engine.images.whole(&digest, &platform).ok()?;
            engine.snapshots.is_unpacked(&image).then_some(image.target)
        })
        .await
        .ok()?
    }

    /// Fetches, unpacks and names an image.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        key: &ResourceKey,
        reference: &Reference,
        options: &PullOptions,
        standing: Standing,
    ) -> Result<Image> {
        let _lease = self.lease();
        let (_transfer, progress) = self.transfers.begin(key);
        let started = std::time::Instant::now();
        let pulled = self.pull_and_unpack(reference, options, progress).await;
        let image = pulled.map_err(|fault| of_image(&reference.to_string(), fault))?;
        self.set_reference(&key.namespace, reference, &image.target, standing)?;
        self.tell_of(key, "Pulled", &image, started);
        Ok(image)
    }

    fn tell_of(&self, key: &ResourceKey, reason: &str, image: &Image, started: std::time::Instant) {
        let (digest, took) = (&image.target.digest, started.elapsed().as_millis());
        let size = humansize::format_size(image.size, humansize::BINARY);
        self.event(key, EventType::Normal, reason, format!("{digest} in {took} ms, {size}"));
    }

    /// Unpacks layers while they are downloaded. The first failure ends both.
    async fn pull_and_unpack(
        self: &Arc<Self>,
        reference: &Reference,
        options: &PullOptions,
        progress: Progress,
    ) -> Result<Image> {
        if options.all_platforms {
            return self.pull_all(reference, options, progress).await;
        }
        let pull = self.images.begin(reference, options, Arc::clone(&progress)).await.map_err(Fault::from)?;
        let layers = pull.layers();
        let unpack = self.unpack_from(pull.image(), layers, unpacking(reference.clone(), Arc::clone(&progress)));
        let run = pull.run(&progress);
        tokio::pin!(unpack, run);
        tokio::select! {
            // When the download fails, unpacking fails by that, and the download says it better.
            biased;
            fetched = &mut run => {
                let unpacked = unpack.await;
                fetched.map_err(Fault::from)?;
                unpacked?;
            }
            unpacked = &mut unpack => {
                unpacked?;
                run.await.map_err(Fault::from)?;
            }
        }
        let image = pull.finish().await.map_err(Fault::from)?;
        self.now_complete(&image);
        Ok(image)
    }

    /// Every platform's image; the node's own is unpacked and given, or the first where there is none.
    async fn pull_all(
        self: &Arc<Self>,
        reference: &Reference,
        options: &PullOptions,
        progress: Progress,
    ) -> Result<Image> {
        let image = self.fetch_all(reference, options, &progress).await?;
        self.unpack(&image, Some((reference.clone(), progress))).await?;
        Ok(image)
    }

    /// The blobs of every platform's image; that of the node's own platform, or the first where there is none.
    async fn fetch_all(&self, reference: &Reference, options: &PullOptions, progress: &Progress) -> Result<Image> {
        let target = self.images.pull_all(reference, options, progress).await.map_err(Fault::from)?;
        let found = self.images.of_any_platform(&target.digest, &options.platform);
        found.map_err(|error| Fault::from(error.named(&reference.to_string())))
    }

    fn now_complete(&self, image: &Image) {
        let mut memory = self.memory.write();
        memory.complete.insert((image.target.digest.clone(), image.platform.clone()), true);
        // The platform chosen may be a variant of the one asked for.
        memory.complete.retain(|_, complete| *complete);
    }

    /// Unpacks an image whose blobs are in the store.
    pub(super) async fn unpack(self: &Arc<Self>, image: &Image, progress: Option<(Reference, Progress)>) -> Result<()> {
        match progress {
            None => self.unpack_telling(image, |_: &Digest| {}).await,
            Some((reference, progress)) => self.unpack_telling(image, unpacking(reference, progress)).await,
        }
    }

    /// The same; `told` hears each layer when it begins, must not block.
    pub(super) async fn unpack_telling(
        self: &Arc<Self>,
        image: &Image,
        told: impl Fn(&Digest) + Send + Sync + 'static,
    ) -> Result<()> {
        self.unpack_from(image, self.images.store().clone(), told).await?;
        self.now_complete(image);
        Ok(())
    }

    async fn unpack_from(
        self: &Arc<Self>,
        image: &Image,
        source: impl LayerSource + Send + 'static,
        told: impl Fn(&Digest) + Send + Sync + 'static,
    ) -> Result<()> {
        let (engine, unpacked) = (Arc::clone(self), image.clone());
        tokio::task::spawn_blocking(move || engine.snapshots.unpack(&unpacked, &source, &told).map_err(Fault::from))
            .await
            .map_err(|error| Fault::new(Class::Bug, format!("unpacking image {}: {error}", image.target.digest)))?
    }

    pub(super) async fn import(
        self: &Arc<Self>,
        key: &ResourceKey,
        reference: &Reference,
        archive: &str,
        digest: &Digest,
        resource: &Resource,
        source: Source,
    ) -> Result<()> {
        let standing = Standing { role: ReferenceRole::Image, source, resource: Some(resource.clone()) };
        let platform = platform_of(Some(resource));
        let _lease = self.lease();
        if let Some(target) = self.complete_target(digest, &platform).await {
            return self.set_reference(&key.namespace, reference, &target, standing);
        }
        let engine = Arc::clone(self);
        let path = archive.to_owned();
        let imported = tokio::task::spawn_blocking(move || engine.images.import_file(Path::new(&path)))
            .await
            .map_err(|error| Fault::new(Class::Bug, format!("importing {archive}: {error}")))?
            .map_err(Fault::from)?;
        let Some(found) = imported.into_iter().find(|image| image.target.digest == *digest) else {
            return Err(Fault::new(
                Class::Invalid,
                format!("archive {archive} no longer holds image {digest}; it changed while it was read"),
            )
            .help("write archives under another name and rename them into place"));
        };
        let named = |error: crate::image::ImageError| error.named(&reference.to_string());
        let image = self.images.load_image(&found.target.digest, &platform).map_err(named)?;
        self.unpack(&image, None).await.map_err(|fault| of_image(&reference.to_string(), fault))?;
        self.set_reference(&key.namespace, reference, &image.target, standing)?;
        self.event(key, EventType::Normal, "Imported", format!("{} from {archive}", image.target.digest));
        Ok(())
    }

    pub(super) fn set_tag(
        &self,
        key: &ResourceKey,
        reference: &Reference,
        from: &Reference,
        digest: Option<&Digest>,
        resource: &Resource,
        source: Source,
    ) -> Result<()> {
        let _lease = self.lease();
        if let Some(digest) = digest {
            self.hold(digest);
        }
        let found = {
            let records = self.memory.read();
            let of = |name: &Reference| records.references.get(&(key.namespace.clone(), name.clone())).cloned();
            // A tag outlives its source: the digest that was planned may be its own.
            of(from)
                .filter(|record| digest.is_none_or(|digest| record.digest == *digest))
                .or_else(|| of(reference).filter(|record| Some(&record.digest) == digest))
        };
        let Some(found) = found else {
            return Err(Fault::new(
                Class::NotFound,
                format!("tag {reference}: its source {from} is not in namespace {}", key.namespace),
            )
            .help("declare an Image for the source, or pull it"));
        };
        let target = Descriptor { media_type: found.media_type, digest: found.digest, size: found.size };
        let standing = Standing { role: ReferenceRole::Tag, source, resource: Some(resource.clone()) };
        self.set_reference(&key.namespace, reference, &target, standing)?;
        self.event(key, EventType::Normal, "Tagged", format!("{from} at {}", target.digest));
        Ok(())
    }

    /// Has a reference point at these bytes, which must be here. Writes nothing when it does already.
    pub(super) fn set_reference(
        &self,
        namespace: &str,
        reference: &Reference,
        target: &Descriptor,
        standing: Standing,
    ) -> Result<()> {
        let key = (namespace.to_owned(), reference.clone());
        let before = self.memory.read().references.get(&key).cloned();
        let kept = !matches!(standing.resource.as_ref().map(|r| &r.spec), Some(Spec::Image(spec)) if !spec.is_kept());
        let metadata = standing.resource.map(|resource| resource.metadata).unwrap_or_default();
        let record = ReferenceRecord {
            namespace: namespace.to_owned(),
            reference: reference.clone(),
            digest: target.digest.clone(),
            media_type: target.media_type.clone(),
            size: target.size,
            role: standing.role,
            source: standing.source,
            labels: metadata.labels,
            annotations: metadata.annotations,
            kept,
            uid: before.as_ref().map_or_else(new_uid, |r| r.uid.clone()),
            revision: before.as_ref().map_or(1, |r| r.revision),
            created: before.as_ref().map_or_else(jiff::Timestamp::now, |r| r.created),
        };
        if before.as_ref() == Some(&record) {
            return Ok(());
        }
        let record = ReferenceRecord { revision: before.as_ref().map_or(1, |r| r.revision + 1), ..record };
        self.store.put_reference(&record)?;
        if before.is_some_and(|before| before.digest != record.digest) {
            self.leave_garbage();
        }
        self.memory.write().references.insert(key, record);
        self.write_index();
        self.touch();
        Ok(())
    }

    /// Fetches an image that a person asked for, with the person's own options.
    pub async fn pull_by_hand(
        self: &Arc<Self>,
        key: &ResourceKey,
        reference: &Reference,
        options: &PullOptions,
        declared: Option<Declared>,
    ) -> Result<Image> {
        let standing = Standing::by_hand(declared, ReferenceRole::Image);
        self.fetch(key, reference, options, standing).await.inspect_err(|_| self.leave_garbage())
    }

    /// Brings an image's blobs and names it; nothing is unpacked.
    pub async fn fetch_by_hand(
        self: &Arc<Self>,
        key: &ResourceKey,
        reference: &Reference,
        options: &PullOptions,
        declared: Option<Declared>,
    ) -> Result<Image> {
        let _lease = self.lease();
        let (_transfer, progress) = self.transfers.begin(key);
        let started = std::time::Instant::now();
        let fetched = match options.all_platforms {
            true => self.fetch_all(reference, options, &progress).await,
            false => self.images.pull(reference, options, progress).await.map_err(Fault::from),
        };
        let image =
            fetched.map_err(|fault| of_image(&reference.to_string(), fault)).inspect_err(|_| self.leave_garbage())?;
        let standing = Standing::by_hand(declared, ReferenceRole::Implied);
        self.set_reference(&key.namespace, reference, &image.target, standing)?;
        self.tell_of(key, "Fetched", &image, started);
        Ok(image)
    }

    /// Has a name made by hand point at what another reference points at.
    pub fn name_by_hand(&self, namespace: &str, reference: &Reference, from: &ReferenceRecord) -> Result<()> {
        let _lease = self.lease();
        self.hold(&from.digest);
        let source = (from.namespace.clone(), from.reference.clone());
        if self.memory.read().references.get(&source).is_none_or(|record| record.digest != from.digest) {
            return Err(Fault::new(Class::NotFound, format!("image {} was removed meanwhile", from.reference)));
        }
        let target = Descriptor { media_type: from.media_type.clone(), digest: from.digest.clone(), size: from.size };
        self.name_target_by_hand(namespace, reference, &target)
    }

    /// Has a name made by hand point at an image of the store.
    pub fn name_target_by_hand(&self, namespace: &str, reference: &Reference, target: &Descriptor) -> Result<()> {
        let standing = Standing { role: ReferenceRole::Image, source: Source::Cli, resource: None };
        self.set_reference(namespace, reference, target, standing)
    }

    pub(super) fn remove_reference(&self, key: &ResourceKey) -> Result<()> {
        let reference: Reference = key
            .name
            .parse()
            .map_err(|error| Fault::new(Class::Bug, format!("{key} has no reference as its name: {error}")))?;
        self.store.remove_reference(&key.namespace, &reference)?;
        let removed = self.memory.write().references.remove(&(key.namespace.clone(), reference));
        if removed.is_some() {
            self.leave_garbage();
            self.write_index();
            self.event(key, EventType::Normal, "Removed", "the reference is gone");
        }
        Ok(())
    }

    /// The layout's `index.json`, for other programs that read the content store. Ours read the database.
    pub(super) fn write_index(&self) {
        // Whoever comes later has the later records.
        let _in_order = lock_of(&self.index);
        let mut entries: Vec<(String, Reference, Descriptor)> = self
            .memory
            .read()
            .references
            .values()
            .map(|r| {
                let target = Descriptor { media_type: r.media_type.clone(), digest: r.digest.clone(), size: r.size };
                (r.namespace.clone(), r.reference.clone(), target)
            })
            .collect();
        // Where other tools see one name only, it is that of the namespace that needs no flag.
        entries.sort_by_key(|(namespace, ..)| namespace != "default");
        if let Err(error) = self.images.store().write_index(&entries) {
            tracing::warn!(%error, "index.json of the content store could not be written");
        }
    }

    pub(super) fn set_namespace(&self, key: &ResourceKey, resource: &Resource, source: Source) -> Result<()> {
        let before = self.memory.read().namespaces.get(&key.name).cloned();
        let record = NamespaceRecord {
            name: key.name.clone(),
            resource: resource.clone(),
            source,
            uid: before.as_ref().map_or_else(new_uid, |r| r.uid.clone()),
            revision: before.as_ref().map_or(1, |r| r.revision + 1),
            created: before.as_ref().map_or_else(jiff::Timestamp::now, |r| r.created),
        };
        self.store.put_namespace(&record)?;
        self.memory.write().namespaces.insert(key.name.clone(), record);
        Ok(())
    }

    pub(super) fn remove_namespace(&self, name: &str) -> Result<()> {
        self.store.remove_namespace(name)?;
        self.memory.write().namespaces.remove(name);
        Ok(())
    }
}

/// Tells of layers that are being unpacked as of blobs of an image.
fn unpacking(reference: Reference, progress: Progress) -> impl Fn(&Digest) + Send + Sync + 'static {
    move |digest| {
        let (reference, digest) = (reference.clone(), digest.clone());
        progress(ProgressEvent { reference, digest, size: 0, state: ProgressState::Unpacking });
    }
}

/// What went wrong with an image says with which, whatever of it was worked on.
pub(super) fn of_image(name: &str, fault: Fault) -> Fault {
    match fault.message.contains(name) {
        true => fault,
        false => Fault { message: format!("image {name}: {}", fault.message), ..fault },
    }
}

/// The platform that an `Image` names, else the node's.
fn platform_of(resource: Option<&Resource>) -> Platform {
    match resource.map(|resource| &resource.spec) {
        Some(Spec::Image(spec)) => spec.platform.clone().unwrap_or_else(Platform::host),
        _ => Platform::host(),
    }
}

/// A new unique id.
pub(super) fn new_uid() -> String {
    uuid::Uuid::new_v4().to_string()
}
