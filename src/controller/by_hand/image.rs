//! Images pulled, tagged and removed by hand.

use std::sync::Arc;
use std::time::Duration;

use crate::api::*;
use crate::api::{Stream, channel};
use crate::controller::Node;
use crate::error::{Class, Fault, Result};
use crate::image::{Progress, ProgressState, PullOptions};
use crate::manifest::{Kind, PullPolicy, ResourceKey};
use crate::oci::{Platform, Reference};
use crate::plan::Source;

use super::{by_hand, image_resource, removal};

impl Node {
    pub(in crate::controller) fn pull_by_hand(self: &Arc<Self>, request: PullRequest) -> Result<Stream<PullEvent>> {
        let (sender, stream) = channel(256);
        let node = Arc::clone(self);
        tokio::spawn(async move {
            let telling = sender.clone();
            let progress: Progress = Arc::new(move |event| {
                let (state, done, total) = match event.state {
                    ProgressState::Waiting => (BlobState::Waiting, 0, 0),
                    ProgressState::Downloading { done, total } => (BlobState::Downloading, done, total),
                    ProgressState::Done => (BlobState::Done, 0, 0),
                    ProgressState::Unpacking => (BlobState::Unpacking, 0, 0),
                };
                // A slow reader misses progress, never the pull.
                let _ = telling.try_send(Ok(PullEvent::Blob { digest: event.digest, state, done, total }));
            });
            let result = node.pull_now(request, progress).await;
            let _ = sender.send(result).await;
        });
        Ok(stream)
    }

    async fn pull_now(self: &Arc<Self>, request: PullRequest, progress: Progress) -> Result<PullEvent> {
        let PullRequest { namespace, reference, platform, plain_http, skip_verify, credentials } = request;
        let key = ResourceKey::new(Kind::Image, &namespace, reference.to_string());
        let _claim = self.claim_when_free(&key).await;
        let options = PullOptions {
            platform: platform.clone().unwrap_or_else(Platform::host),
            plain_http,
            skip_verify,
            credentials: credentials.map(|c| (c.user, c.password)),
            ..PullOptions::default()
        };
        let before = self
            .engine
            .memory()
            .read()
            .references
            .get(&(namespace.clone(), reference.clone()))
            .map(|r| r.digest.clone());
        let image = self.engine.pull_by_hand(&key, &reference, &options, self.declared(&key), progress).await?;
        if self.declared(&key).is_none() {
            self.engine.memory().declare(
                self.engine.store(),
                vec![by_hand(image_resource(&namespace, &reference, PullPolicy::IfNotPresent, platform))],
                &[],
            )?;
        }
        self.wake.notify_one();
        Ok(PullEvent::Pulled {
            unchanged: before.as_ref() == Some(&image.target.digest),
            reference,
            digest: image.target.digest,
            size: image.size,
        })
    }

    pub(in crate::controller) async fn tag_by_hand(self: &Arc<Self>, request: TagRequest) -> Result<Item> {
        let TagRequest { namespace, source, target, force } = request;
        let key = ResourceKey::new(Kind::Image, &namespace, target.to_string());
        let (found, before) = {
            let records = self.engine.memory().read();
            (
                records.references.get(&(namespace.clone(), source.clone())).cloned(),
                records.references.get(&(namespace.clone(), target.clone())).cloned(),
            )
        };
        let Some(found) = found else { return Err(self.no_image(&namespace, &source.to_string())) };
        for kind in [Kind::Image, Kind::Tag] {
            if let Some(declared) = self.declared(&ResourceKey::new(kind, &namespace, target.to_string()))
                && declared.source != Source::Cli
            {
                return Err(Fault::new(
                    Class::Refused,
                    format!("{kind} {namespace}/{target} is declared by {}", declared.source),
                )
                .help("change it there"));
            }
        }
        if let Some(before) = before
            && before.digest != found.digest
            && !force
        {
            return Err(Fault::new(
                Class::Refused,
                format!("{target} exists in namespace {namespace} and points at sha256:{}", before.digest.short()),
            )
            .help("--force moves it"));
        }
        let resource = image_resource(&namespace, &target, PullPolicy::Never, None);
        {
            let _claim = self.claim_when_free(&key).await;
            self.engine.name_by_hand(&namespace, &target, &found)?;
            self.engine.memory().declare(self.engine.store(), vec![by_hand(resource)], &[])?;
        }
        self.wake.notify_one();
        let listed =
            self.list(&Query { kinds: vec![Kind::Image], namespace: Some(namespace), name: Some(target.to_string()) })?;
        listed
            .into_iter()
            .next()
            .ok_or_else(|| Fault::new(Class::Bug, format!("{target} was tagged and is not listed")))
    }

    pub(in crate::controller) async fn remove_image_by_hand(
        self: &Arc<Self>,
        request: RemoveImageRequest,
    ) -> Result<RemovedImage> {
        let RemoveImageRequest { namespace, name, force } = request;
        let key = self.image_key(&namespace, &name)?;
        let Ok(reference) = key.name.parse::<Reference>() else { return Err(self.no_image(&namespace, &name)) };
        if !self.is_on_node(&key) {
            return Err(self.no_image(&namespace, &name));
        }
        let users: Vec<String> = self.users_of(&namespace, &reference);
        if !users.is_empty() && !force {
            let plural = if users.len() == 1 { "" } else { "s" };
            return Err(Fault::new(
                Class::Refused,
                format!("image {namespace}/{reference} is in use by container{plural} {}", users.join(", ")),
            )
            .help(format!("remove the container{plural} first, or use rmi -f")));
        }
        let declared = [Kind::Image, Kind::Tag]
            .into_iter()
            .find_map(|kind| self.declared(&ResourceKey::new(kind, &namespace, reference.to_string())));
        let others = declared.filter(|declared| declared.source != Source::Cli);
        if let Some(others) = &others
            && !force
        {
            return Err(Fault::new(
                Class::Refused,
                format!("image {namespace}/{reference} is declared by {}", others.source),
            )
            .help("remove it there, or use rmi -f (it comes back)"));
        }
        if others.is_none() {
            let keys = [Kind::Image, Kind::Tag].map(|kind| ResourceKey::new(kind, &namespace, reference.to_string()));
            self.engine.memory().declare(self.engine.store(), Vec::new(), &keys)?;
        }
        self.take(removal(key)).await?;
        let freed = self.engine.collect_garbage(Duration::ZERO).await;
        self.wake.notify_one();
        Ok(RemovedImage {
            reference: reference.to_string(),
            freed: freed.bytes,
            declared_by: others.map(|declared| declared.source.to_string()),
        })
    }

    /// An image's key, by its reference or its handle.
    fn image_key(&self, namespace: &str, name: &str) -> Result<ResourceKey> {
        let canonical = name.parse::<Reference>().map(|reference| reference.to_string());
        let direct = ResourceKey::new(Kind::Image, namespace, canonical.clone().unwrap_or_else(|_| name.to_owned()));
        if canonical.is_ok() {
            return Ok(direct);
        }
        for kind in [Kind::Image, Kind::Tag] {
            let key = self.resolve_handle(&ResourceKey::new(kind, namespace, name));
            if key.name != name {
                return Ok(key);
            }
        }
        match canonical {
            Err(error @ crate::oci::ReferenceError::Short { .. }) => Err(Fault::new(Class::Usage, error.to_string())),
            _ => Ok(direct),
        }
    }
}
