//! Images that are pushed, saved, loaded and imported by hand.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::api::*;
use crate::api::{Archive, Stream, channel};
use crate::engine::{ImportMove, ImportProgress, Incoming};
use crate::error::{Class, Fault, Result};
use crate::image::{
    Descriptor, ExportOptions, Format, Packing, Part, PullOptions, PushOptions, PushProgress, PushState, RootfsConfig,
    Sent,
};
use crate::manifest::PullPolicy;
use crate::oci::{Digest, Platform, Reference, ReferenceError};
use crate::store::DeclaredRecord;

use super::Node;
use super::by_hand::{by_hand, image_resource};

/// How often a blob's bytes are told.
const TOLD: Duration = Duration::from_millis(100);

impl Node {
    pub(super) fn push_by_hand(self: &Arc<Self>, request: PushRequest) -> Result<Stream<PushEvent>> {
        let (source, target) = self.image_of(&request.namespace, &request.source)?;
        let (sender, stream) = channel(256);
        let node = Arc::clone(self);
        tokio::spawn(async move {
            let told = sender.clone();
            let progress = throttled(move |event| {
                // A slow reader misses progress, never the push.
                let _ = told.try_send(Ok(event));
            });
            let push = node.push_now(request, source, target, progress);
            tokio::select! {
                result = push => drop(sender.send(result).await),
                // Who asked for it has gone: what is sent already is there when it is asked for again.
                () = sender.closed() => {}
            }
        });
        Ok(stream)
    }

    async fn push_now(
        &self,
        request: PushRequest,
        source: Reference,
        target: Descriptor,
        progress: PushProgress,
    ) -> Result<PushEvent> {
        let to = request.target.unwrap_or_else(|| source.clone());
        let known = {
            let records = self.engine.memory().read();
            let same = |(namespace, reference): &(&String, &Reference)| {
                **namespace == request.namespace && reference.host() == to.host()
            };
            let all =
                records.references.iter().map(|((namespace, reference), record)| ((namespace, reference), record));
            all.filter(|(key, _)| same(key))
                .map(|((_, reference), record)| {
                    let (media_type, digest) = (record.media_type.clone(), record.digest.clone());
                    (reference.clone(), Descriptor { media_type, digest, size: record.size })
                })
                .collect()
        };
        let registry = PullOptions {
            plain_http: request.plain_http,
            skip_verify: request.skip_verify,
            credentials: request.credentials.map(|c| (c.user, c.password)),
            ..PullOptions::default()
        };
        let options = PushOptions { registry, part: part(request.part), known };
        let pushed = self.engine.push_by_hand(&source.to_string(), &target, &to, &options, progress).await?;
        Ok(PushEvent::Pushed {
            reference: to,
            part_of: (pushed.root.digest != target.digest).then_some(target.digest),
            digest: pushed.root.digest,
            size: pushed.size,
            sent: pushed.sent,
            unchanged: pushed.unchanged,
        })
    }

    pub(super) async fn save(self: &Arc<Self>, request: SaveRequest) -> Result<Stream<Bytes>> {
        let wanted =
            request.names.iter().map(|name| self.image_of(&request.namespace, name)).collect::<Result<Vec<_>>>()?;
        let options = ExportOptions {
            part: part(request.part),
            format: match request.format {
                ArchiveFormat::Oci => Format::Oci,
                ArchiveFormat::Docker => Format::Docker,
            },
            packing: match request.packing {
                ArchivePacking::Plain => Packing::Plain,
                ArchivePacking::Gzip => Packing::Gzip,
                ArchivePacking::Zstd => Packing::Zstd,
            },
        };
        let export = self.engine.export_by_hand(wanted, options).await?;
        let (sender, stream) = channel(4);
        tokio::spawn(crate::engine::Engine::write_export(export, sender));
        Ok(stream)
    }

    pub(super) fn load(self: &Arc<Self>, request: LoadRequest, archive: Archive) -> Result<Stream<LoadEvent>> {
        let base = request.base_name.as_deref().map(repository).transpose()?;
        let node = Arc::clone(self);
        Ok(importing(move |progress| async move { node.load_now(request, base, archive, &progress).await }))
    }

    async fn load_now(
        self: &Arc<Self>,
        request: LoadRequest,
        base: Option<Reference>,
        archive: Archive,
        progress: &ImportProgress,
    ) -> Result<Vec<LoadedImage>> {
        let (platform, all) = (request.platform.as_ref(), request.all_platforms);
        let imported = self.engine.import_by_hand(incoming(archive), platform, all, progress).await?;
        let mut loaded = Vec::new();
        for image in imported {
            let named = image.reference.clone().or_else(|| in_base(base.as_ref()?, image.name.as_deref()));
            let pinned = named
                .as_ref()
                .or(base.as_ref())
                .filter(|_| request.digests || named.is_none())
                .map(|name| name.with_digest(image.target.digest.clone()));
            let names: Vec<_> = named.into_iter().chain(pinned).collect();
            let anonymous =
                names.is_empty().then(|| LoadedImage { reference: None, digest: image.target.digest.clone() });
            for reference in names {
                self.name_imported(&request.namespace, &reference, &image.target, request.platform.clone()).await?;
                loaded.push(LoadedImage { reference: Some(reference), digest: image.target.digest.clone() });
            }
            loaded.extend(anonymous);
        }
        if loaded.iter().all(|image| image.reference.is_none()) {
            return Err(Fault::new(Class::Invalid, "the archive names none of its images")
                .help("give them a name: --base-name HOST/PATH"));
        }
        self.wake.notify_one();
        Ok(loaded)
    }

    pub(super) fn import_rootfs(self: &Arc<Self>, request: RootfsRequest, archive: Archive) -> Stream<LoadEvent> {
        let node = Arc::clone(self);
        importing(move |progress| async move {
            node.import_rootfs_now(request, archive, &progress).await.map(|image| vec![image])
        })
    }

    async fn import_rootfs_now(
        self: &Arc<Self>,
        request: RootfsRequest,
        archive: Archive,
        progress: &ImportProgress,
    ) -> Result<LoadedImage> {
        let given = request.platform.clone();
        let config = RootfsConfig {
            platform: request.platform.unwrap_or_else(Platform::host),
            entrypoint: request.entrypoint,
            cmd: request.cmd,
            env: request.env,
            workdir: request.workdir,
            user: request.user,
            labels: request.labels,
            stop_signal: request.stop_signal,
            expose: request.expose,
        };
        let target = self.engine.import_rootfs_by_hand(incoming(archive), config, &request.reference, progress).await?;
        self.name_imported(&request.namespace, &request.reference, &target, given).await?;
        self.wake.notify_one();
        Ok(LoadedImage { reference: Some(request.reference), digest: target.digest })
    }

    /// Names an image that is here, and declares the name as made by hand unless a source declares it. Under the claim of
    /// the name: a plan made between the two would take away what nobody declares.
    async fn name_imported(
        self: &Arc<Self>,
        namespace: &str,
        reference: &Reference,
        target: &Descriptor,
        platform: Option<Platform>,
    ) -> Result<()> {
        let record: DeclaredRecord = by_hand(image_resource(namespace, reference, PullPolicy::Never, platform));
        let _claim = self.claim_when_free(&record.key()).await;
        self.engine.name_target_by_hand(namespace, reference, target)?;
        if self.declared(&record.key()).is_none() {
            self.engine.memory().declare(self.engine.store(), vec![record], &[])?;
        }
        Ok(())
    }

    /// What a reference, a handle or a digest of a namespace points at.
    fn image_of(&self, namespace: &str, name: &str) -> Result<(Reference, Descriptor)> {
        let found = self.named_images(namespace, name)?;
        let [record] = found.as_slice() else {
            let Some(first) = found.first() else { return Err(self.no_image(namespace, name)) };
            let names: Vec<String> = found.iter().map(|record| record.reference.to_string()).collect();
            let message = format!("image {} has several names: {}", first.digest, names.join(", "));
            return Err(Fault::new(Class::Usage, message).help("write one of them: it goes along"));
        };
        let (media_type, digest) = (record.media_type.clone(), record.digest.clone());
        Ok((record.reference.clone(), Descriptor { media_type, digest, size: record.size }))
    }
}

/// Imports, and tells meanwhile how far it is. Given up when nobody listens.
fn importing<F>(work: impl FnOnce(ImportProgress) -> F + Send + 'static) -> Stream<LoadEvent>
where
    F: Future<Output = Result<Vec<LoadedImage>>> + Send + 'static,
{
    let (sender, stream) = channel(2048);
    tokio::spawn(async move {
        let told = sender.clone();
        let progress: ImportProgress = Arc::new(move |moved| {
            // A slow reader misses progress, never the end.
            let _ = told.try_send(Ok(load_event(moved)));
        });
        tokio::select! {
            done = work(progress) => drop(sender.send(done.map(|images| LoadEvent::Loaded { images })).await),
            () = sender.closed() => {}
        }
    });
    stream
}

fn load_event(moved: ImportMove) -> LoadEvent {
    LoadEvent::Blob(match moved {
        ImportMove::Archive { done, total } => return LoadEvent::Archive { done, total },
        ImportMove::Reading { name, done, total } => {
            LoadedBlob { name: Some(name), digest: None, state: LoadState::Reading, done, total }
        }
        ImportMove::Read { name, digest, size, known } => LoadedBlob {
            name: Some(name),
            digest: Some(digest),
            state: if known { LoadState::Existed } else { LoadState::Read },
            done: size,
            total: size,
        },
        ImportMove::Unpacking { digest } => {
            LoadedBlob { name: None, digest: Some(digest), state: LoadState::Unpacking, done: 0, total: 0 }
        }
    })
}

fn incoming(archive: Archive) -> Incoming {
    match archive {
        Archive::Path(path) => Incoming::File(path),
        Archive::Bytes(bytes) => Incoming::Bytes(bytes),
    }
}

fn part(part: ImagePart) -> Part {
    match part {
        ImagePart::Here => Part::Here,
        ImagePart::All => Part::All,
        ImagePart::Platform(platform) => Part::Platform(platform),
    }
}

/// `--base-name`: a repository, without tag and digest.
fn repository(text: &str) -> Result<Reference> {
    let parsed: Reference = text.parse().map_err(|error: ReferenceError| {
        let fault = Fault::from(error);
        Fault { message: format!("base name: {}", fault.message), ..fault }
    })?;
    let path = format!("{}/{}", parsed.host(), parsed.path());
    if path != text {
        return Err(Fault::new(Class::Usage, format!("base name {text} has a tag or a digest"))
            .help(format!("write {path}: the archive says the rest")));
    }
    Ok(parsed)
}

/// A bare tag of an archive, in the repository given for it.
fn in_base(base: &Reference, name: Option<&str>) -> Option<Reference> {
    format!("{}/{}:{}", base.host(), base.path(), name?).parse().ok()
}

/// Progress as events; bytes of one blob not more than ten times a second.
fn throttled(tell: impl Fn(PushEvent) + Send + Sync + 'static) -> PushProgress {
    let last: Mutex<std::collections::HashMap<Digest, Instant>> = Mutex::default();
    Arc::new(move |what, state| {
        let (state, done, from) = match state {
            PushState::Waiting => (SendState::Waiting, 0, None),
            PushState::Sending(done) => {
                let mut last = last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let now = Instant::now();
                if last.get(&what.digest).is_some_and(|last| now.duration_since(*last) < TOLD) {
                    return;
                }
                last.insert(what.digest.clone(), now);
                (SendState::Sending, done, None)
            }
            PushState::There(Sent::Existed) => (SendState::Existed, what.size, None),
            PushState::There(Sent::Mounted(from)) => (SendState::Mounted, what.size, Some(from)),
            PushState::There(Sent::Uploaded) => (SendState::Sent, what.size, None),
        };
        tell(PushEvent::Blob(PushedBlob { digest: what.digest.clone(), state, done, total: what.size, from }));
    })
}
