//! Names taken away by hand: by reference, by handle, by digest.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::api::{RemoveImageRequest, RemovedImage};
use crate::engine::Garbage;
use crate::error::{Class, Fault, Result};
use crate::manifest::{Kind, ResourceKey, Spec};
use crate::oci::{DigestPrefix, Reference};
use crate::plan::{Declared, Source};
use crate::store::ReferenceRecord;

use super::Node;
use super::by_hand::removal;

impl Node {
    pub(super) async fn remove_image_by_hand(self: &Arc<Self>, request: RemoveImageRequest) -> Result<RemovedImage> {
        let RemoveImageRequest { namespace, name, force } = request;
        let named = self.named_images(&namespace, &name)?;
        let names: Vec<String> = named.iter().map(|record| record.reference.to_string()).collect();
        let Some(first) = named.first() else { return Err(self.no_image(&namespace, &name)) };
        if named.len() > 1 && !force {
            return Err(Fault::new(
                Class::Refused,
                format!(
                    "image {} has {} names in namespace {namespace}: {}",
                    first.digest,
                    names.len(),
                    names.join(", ")
                ),
            )
            .help("name one of them, or take all away with rmi -f"));
        }
        let mut declared_by = BTreeSet::new();
        let mut used_by = BTreeSet::new();
        let mut keys = Vec::new();
        // Every refusal comes before anything is done.
        for record in &named {
            let reference = &record.reference;
            let users = self.wanted_by(&namespace, reference);
            if !users.is_empty() && !force {
                let plural = if users.len() == 1 { "" } else { "s" };
                return Err(Fault::new(
                    Class::Refused,
                    format!("image {namespace}/{reference} is in use by container{plural} {}", users.join(", ")),
                )
                .help(format!("remove the container{plural} first, or use rmi -f")));
            }
            used_by.extend(users);
            let others = self.declares(&namespace, reference).filter(|declared| declared.source != Source::Cli);
            match others {
                Some(others) if !force => {
                    return Err(Fault::new(
                        Class::Refused,
                        format!("image {namespace}/{reference} is declared by {}", others.source),
                    )
                    .help("remove it there, or use rmi -f (it comes back)"));
                }
                Some(others) => drop(declared_by.insert(others.source.to_string())),
                None => keys.extend(
                    [Kind::Image, Kind::Tag].map(|kind| ResourceKey::new(kind, &namespace, reference.to_string())),
                ),
            }
        }
        self.engine.memory().declare(self.engine.store(), Vec::new(), &keys)?;
        let digests = named.iter().map(|record| record.digest.clone()).collect();
        for reference in &names {
            self.take(removal(ResourceKey::new(Kind::Image, &namespace, reference))).await?;
        }
        // What it alone needed goes at once; what else lies about has its grace.
        let garbage = Garbage { of: Some(digests), ..Garbage::older_than(Duration::ZERO) };
        let freed = self.engine.take_out(garbage).await?;
        self.wake.notify_one();
        let mut names = names.into_iter();
        Ok(RemovedImage {
            reference: names.next().unwrap_or_default(),
            also: names.collect(),
            freed: freed.blob_bytes() + freed.snapshot_bytes(),
            used_by: used_by.into_iter().collect(),
            declared_by: (!declared_by.is_empty()).then(|| declared_by.into_iter().collect::<Vec<_>>().join(", ")),
        })
    }

    /// The references of a namespace that a word means: one by its name or handle, or all of a digest, which may
    /// be cut short.
    pub(super) fn named_images(&self, namespace: &str, name: &str) -> Result<Vec<ReferenceRecord>> {
        let by_digest = |matches: &dyn Fn(&ReferenceRecord) -> bool| -> Vec<ReferenceRecord> {
            let records = self.engine.memory().read();
            records.references.values().filter(|r| r.namespace == namespace && matches(r)).cloned().collect()
        };
        let says_digest = name.starts_with("sha256:");
        match name.parse::<DigestPrefix>() {
            Ok(prefix) => {
                let found = by_digest(&|record| prefix.matches(&record.digest));
                prefix
                    .pick(found.iter().map(|record| record.digest.clone()))
                    .map_err(|error| Fault::new(Class::Usage, error.to_string()).help("give more of its digits"))?;
                if !found.is_empty() || says_digest {
                    return Ok(found);
                }
            }
            Err(error) if says_digest => return Err(Fault::new(Class::Usage, error.to_string())),
            // A name, then.
            Err(_) => {}
        }
        let key = self.image_key(namespace, name)?;
        let Ok(reference) = key.name.parse::<Reference>() else { return Err(self.no_image(namespace, name)) };
        let found = by_digest(&|record| record.reference == reference);
        match reference.digest() {
            // NAME@DIGEST of something that was pulled by a tag.
            Some(digest) if found.is_empty() => Ok(by_digest(&|record| {
                record.digest == *digest
                    && (record.reference.host(), record.reference.path()) == (reference.host(), reference.path())
            })),
            _ => Ok(found),
        }
    }

    /// Who declares a reference, as an `Image` or as a `Tag`.
    pub(super) fn declares(&self, namespace: &str, reference: &Reference) -> Option<Declared> {
        [Kind::Image, Kind::Tag]
            .into_iter()
            .find_map(|kind| self.declared(&ResourceKey::new(kind, namespace, reference.to_string())))
    }

    /// Containers of a namespace that run a reference, or that are wanted and will.
    pub(super) fn wanted_by(&self, namespace: &str, reference: &Reference) -> Vec<String> {
        let mut users: BTreeSet<String> = self.users_of(namespace, reference).into_iter().collect();
        for (key, declared) in &self.desired().resources {
            if key.namespace == namespace
                && matches!(&declared.resource.spec, Spec::Container(spec) if spec.image == *reference)
            {
                users.insert(key.name.clone());
            }
        }
        users.into_iter().collect()
    }
}
