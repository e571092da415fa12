//! Images pulled, tagged and removed by hand.

use std::sync::Arc;

use crate::api::*;
use crate::api::{Stream, channel};
use crate::controller::Node;
use crate::error::{Class, Fault, Result};
use crate::image::{OnWait, PullOptions, Wait};
use crate::manifest::{Kind, PullPolicy, ResourceKey};
use crate::oci::{Platform, Reference};
use crate::plan::Source;

use super::{MOVES, by_hand, image_resource};

impl Node {
    pub(in crate::controller) fn pull_by_hand(self: &Arc<Self>, request: PullRequest) -> Result<Stream<PullEvent>> {
        let (sender, stream) = channel(MOVES);
        let node = Arc::clone(self);
        tokio::spawn(async move {
            // A slow reader misses progress, never the pull.
            let tell = |transfer| {
                let Transfer { digest, state, done, total, fetched, .. } = transfer;
                let _ = sender.try_send(Ok(PullEvent::Blob { digest, state, done, total, fetched }));
            };
            let telling = sender.clone();
            let on_wait: OnWait = Arc::new(move |wait| {
                let Wait { host, attempt, of, why } = wait;
                let _ = telling.try_send(Ok(PullEvent::Waiting { host, attempt, of, why }));
            });
            let key = ResourceKey::new(Kind::Image, &request.namespace, request.reference.to_string());
            let result = node.showing(&key, tell, node.pull_now(request, on_wait)).await;
            let _ = sender.send(result).await;
        });
        Ok(stream)
    }

    async fn pull_now(self: &Arc<Self>, request: PullRequest, on_wait: OnWait) -> Result<PullEvent> {
        let PullRequest {
            namespace,
            reference,
            platform,
            all_platforms,
            blobs_only,
            plain_http,
            skip_verify,
            credentials,
        } = request;
        let key = ResourceKey::new(Kind::Image, &namespace, reference.to_string());
        let _claim = self.claim_when_free(&key).await;
        let options = PullOptions {
            platform: platform.clone().unwrap_or_else(Platform::host),
            all_platforms,
            plain_http,
            skip_verify,
            credentials: credentials.map(|c| (c.user, c.password)),
            on_wait: Some(on_wait),
            ..PullOptions::default()
        };
        let before = self
            .engine
            .memory()
            .read()
            .references
            .get(&(namespace.clone(), reference.clone()))
            .map(|r| r.digest.clone());
        let declared = self.declared(&key);
        let image = match blobs_only {
            true => self.engine.fetch_by_hand(&key, &reference, &options, declared).await?,
            false => self.engine.pull_by_hand(&key, &reference, &options, declared).await?,
        };
        // A declared image is one that is unpacked: one that was only fetched has its name, and no more.
        if !blobs_only && self.declared(&key).is_none() {
            // Of an image that the node cannot run, the platform that is here is what is wanted.
            let platform = platform.or_else(|| (!image.runs_here()).then(|| image.platform.clone()));
            self.engine.memory().declare(
                self.engine.store(),
                vec![by_hand(image_resource(&namespace, &reference, PullPolicy::IfNotPresent, platform))],
                &[],
            )?;
        }
        self.relieve_disk().await;
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

    /// An image's key, by its reference or its handle.
    pub(in crate::controller) fn image_key(&self, namespace: &str, name: &str) -> Result<ResourceKey> {
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
            Err(error @ crate::oci::ReferenceError::Short { .. }) => Err(error.into()),
            _ => Ok(direct),
        }
    }
}
