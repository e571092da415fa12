//! Everything that an index leads to: the images of all platforms, and what is attached to them.

use std::collections::HashSet;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::descriptor::Descriptor;
use super::document::{self, Document, MAX_MANIFEST};
use super::error::ImageError;
use super::progress::Progress;
use super::registry::PullOptions;
use super::{Images, fetch, index};
use crate::oci::Reference;

/// Manifests that one index may lead to.
const MAX_MANIFESTS: usize = 1000;

impl Images {
    /// Brings all that the reference points at into the store; gives its target. A manifest that is no image
    /// is brought with its blobs when it is attached to one, and refused otherwise.
    pub async fn pull_all(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: &Progress,
    ) -> Result<Descriptor, ImageError> {
        let session = self.session(reference, options);
        let pinned = options.digest.as_ref().or(reference.digest());
        let (target, bytes) = self.top(&session, pinned).await?;
        let what = format!("image {reference}");
        let malformed = |why: String| ImageError::Malformed { what: what.clone(), why };
        let mut seen = HashSet::from([target.digest.clone()]);
        let mut stack = vec![(target.clone(), Some(bytes), 0, false)];
        let mut blobs: Vec<Descriptor> = Vec::new();
        while let Some((descriptor, bytes, depth, attached)) = stack.pop() {
            let bytes = match bytes {
                Some(bytes) => bytes,
                None if descriptor.size > MAX_MANIFEST => {
                    return Err(ImageError::TooLarge { what, limit: MAX_MANIFEST });
                }
                None if attached => self.attached(&session, &descriptor).await?,
                None => self.manifest(&session, &descriptor.digest, Some(descriptor.size)).await?.1,
            };
            match document::parse(&what, &bytes) {
                Ok(Document::Index(children)) => {
                    if depth >= index::MAX_DEPTH {
                        return Err(malformed(format!("it nests indexes more than {} deep", index::MAX_DEPTH)));
                    }
                    for child in children {
                        if seen.insert(child.descriptor.digest.clone()) {
                            stack.push((child.descriptor, None, depth + 1, child.attached));
                        }
                    }
                    if seen.len() > MAX_MANIFESTS {
                        return Err(malformed(format!("it leads to more than {MAX_MANIFESTS} manifests")));
                    }
                }
                Ok(Document::Manifest { config, layers }) => blobs.extend(std::iter::once(config).chain(layers)),
                Err(ImageError::Unsupported { .. }) if attached => blobs.extend(document::blobs(&what, &bytes)?),
                Err(error) => return Err(error),
            }
        }
        let mut once = HashSet::new();
        blobs.retain(|blob| once.insert(blob.digest.clone()));
        let mut fetches: FuturesUnordered<_> =
            blobs.iter().map(|blob| self.fetch_one(&session, blob, progress)).collect();
        while let Some(result) = fetches.next().await {
            result?;
        }
        let store = self.store().clone();
        fetch::joined(tokio::task::spawn_blocking(move || store.sync_names())).await?;
        Ok(target)
    }
}
