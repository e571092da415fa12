//! Images that are in the store already.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::descriptor::{Descriptor, Image};
use super::document::{self, Document, MAX_CONFIG};
use super::error::ImageError;
use super::pull::{leads_to_images, stored};
use super::store::ContentStore;
use super::{Images, index};
use crate::oci::{Digest, Platform};

/// Parsed images kept in memory.
const MAX_CACHED: usize = 128;

/// Parsed images by target and platform asked for; the least recently used goes first.
#[derive(Default)]
pub(super) struct Cache(Mutex<Uses>);

#[derive(Default)]
struct Uses {
    /// Counts look-ups; stands for the time.
    now: u64,
    /// With the look-up that used it last.
    images: HashMap<(Digest, Platform), (u64, Arc<Image>)>,
}

impl Cache {
    fn get(&self, key: &(Digest, Platform)) -> Option<Arc<Image>> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guard.now += 1;
        let now = guard.now;
        guard.images.get_mut(key).map(|(used, image)| {
            *used = now;
            Arc::clone(image)
        })
    }

    fn put(&self, key: (Digest, Platform), image: Arc<Image>) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guard.now += 1;
        let now = guard.now;
        guard.images.insert(key, (now, image));
        if guard.images.len() > MAX_CACHED
            && let Some(oldest) = guard.images.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| key.clone())
        {
            guard.images.remove(&oldest);
        }
    }

    /// Forgets all; blobs may have gone.
    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).images.clear();
    }
}

/// Puts an image together from blobs in the store; every missing one is named.
pub(super) fn assemble(
    store: &ContentStore,
    target: Descriptor,
    manifest: Descriptor,
    config: Descriptor,
    layers: Vec<Descriptor>,
    wanted: Option<&Platform>,
) -> Result<Image, ImageError> {
    let absent = |d: &&Descriptor| store.size(&d.digest) != Some(d.size);
    let missing: Vec<String> =
        std::iter::once(&config).chain(&layers).filter(absent).map(|d| d.digest.to_string()).collect();
    let image = target.digest.to_string();
    // One that is for something else lacks nothing.
    if missing.is_empty() || !absent(&&config) {
        let described = describe(store, target, manifest, config, layers, wanted)?;
        if missing.is_empty() {
            return Ok(described);
        }
    }
    Err(ImageError::NotPresent { image, missing })
}

/// The same for an image whose configuration is in the store; its layers may be on their way.
pub(super) fn describe(
    store: &ContentStore,
    target: Descriptor,
    manifest: Descriptor,
    config: Descriptor,
    layers: Vec<Descriptor>,
    wanted: Option<&Platform>,
) -> Result<Image, ImageError> {
    let mut counted = HashSet::new();
    let size = [&target, &manifest, &config].into_iter().chain(&layers).filter(|d| counted.insert(&d.digest));
    let size = size.map(|d| d.size).sum();
    let what = format!("image {}: its configuration {}", target.digest, config.digest);
    let (config, platform, layers) = document::parse_config(&what, &store.read(&config.digest, MAX_CONFIG)?, layers)?;
    if let Some(wanted) = wanted
        && index::distance(wanted, &platform).is_none()
    {
        let (image, wanted) = (target.digest.to_string(), wanted.clone());
        return Err(ImageError::Platform { image, wanted, offered: vec![platform] });
    }
    Ok(Image { target, manifest, platform, config, layers, size })
}

impl Images {
    /// An image from the store alone. Parsed once and kept; [`ImageError::NotPresent`] lists what is missing.
    pub fn load_image(&self, target: &Digest, platform: &Platform) -> Result<Image, ImageError> {
        let key = (target.clone(), platform.clone());
        if let Some(image) = self.inner.cache.get(&key) {
            return Ok(Image::clone(&image));
        }
        let image = self.find(target, platform)?;
        self.inner.cache.put(key, Arc::new(image.clone()));
        Ok(image)
    }

    /// The same, of an image that people know by a name.
    pub fn load_named(&self, name: &str, target: &Digest, platform: &Platform) -> Result<Image, ImageError> {
        self.load_image(target, platform).map_err(|error| self.explain(error, name, target, platform))
    }

    /// The image for a platform or, where an index has none for it, for the first that it has.
    pub fn of_any_platform(&self, target: &Digest, platform: &Platform) -> Result<Image, ImageError> {
        let error = match self.load_image(target, platform) {
            Ok(image) => return Ok(image),
            Err(error) => error,
        };
        let here = self.platforms(target);
        if let Some(image) = here.iter().find_map(|other| self.load_image(target, other).ok()) {
            return Ok(image);
        }
        // Nothing is for what the index says: that is what is wrong, whatever was asked for.
        let offered = if let ImageError::Platform { offered, .. } = &error { offered.as_slice() } else { &[] };
        let lie = offered.iter().find_map(|other| match self.load_image(target, other) {
            Err(lie @ ImageError::Mislabelled { .. }) => Some(lie),
            _ => None,
        });
        Err(lie.unwrap_or(error))
    }

    /// Why an image that people know by a name is not here for a platform.
    pub fn explain(&self, error: ImageError, name: &str, target: &Digest, platform: &Platform) -> ImageError {
        match (error, self.platforms(target)) {
            (ImageError::NotPresent { .. }, here) if !here.is_empty() && !here.contains(platform) => {
                ImageError::Absent { image: name.to_owned(), wanted: platform.clone(), here }
            }
            (error, _) => error.named(name),
        }
    }

    /// The same, looked at now whatever is remembered.
    pub fn whole(&self, target: &Digest, platform: &Platform) -> Result<Image, ImageError> {
        self.find(target, platform)
    }

    pub(super) fn remember(&self, image: &Image, platform: &Platform) {
        self.inner.cache.put((image.target.digest.clone(), platform.clone()), Arc::new(image.clone()));
    }

    fn find(&self, target: &Digest, platform: &Platform) -> Result<Image, ImageError> {
        let store = self.store();
        if !store.has(target) {
            return Err(ImageError::NotPresent { image: target.to_string(), missing: vec![target.to_string()] });
        }
        let (top, document) = stored(store, target)?;
        let mut offered = Vec::new();
        let mut missing = Vec::new();
        let mut mislabelled = None;
        let mut seen = HashSet::from([target.clone()]);
        let mut stack = vec![(top.clone(), Some(document), 0, None)];
        while let Some((descriptor, document, depth, said)) = stack.pop() {
            let document = match document {
                Some(document) => document,
                None if !store.has(&descriptor.digest) => {
                    missing.push(descriptor.digest.to_string());
                    continue;
                }
                None => stored(store, &descriptor.digest)?.1,
            };
            match document {
                Document::Manifest { config, layers } => {
                    let (image, manifest) = (target.to_string(), descriptor.digest.clone());
                    match assemble(store, top.clone(), descriptor, config, layers, Some(platform)) {
                        Err(ImageError::Platform { offered: other, .. }) => match (said, other.first().cloned()) {
                            (Some(said), Some(is)) => {
                                mislabelled.get_or_insert(ImageError::Mislabelled {
                                    image,
                                    manifest,
                                    said: Box::new(said),
                                    is: Box::new(is),
                                });
                            }
                            // Its index did not say so.
                            _ => offered.extend(other),
                        },
                        result => return result,
                    }
                }
                Document::Index(children) if depth < index::MAX_DEPTH => {
                    offered.extend(index::offered(&children));
                    for child in index::candidates(&children, platform).into_iter().rev() {
                        if seen.insert(child.descriptor.digest.clone()) {
                            stack.push((child.descriptor.clone(), None, depth + 1, child.platform.clone()));
                        }
                    }
                }
                Document::Index(_) => {}
            }
        }
        if let (true, Some(mislabelled)) = (missing.is_empty(), mislabelled) {
            return Err(mislabelled);
        }
        if missing.is_empty() {
            offered.sort();
            offered.dedup();
            Err(ImageError::Platform { image: target.to_string(), wanted: platform.clone(), offered })
        } else {
            Err(ImageError::NotPresent { image: target.to_string(), missing })
        }
    }

    /// The documents that lead to the image for a platform, and its manifest, as far as they are here: where a pull
    /// would find the one it wants. Empty when nothing is for it.
    pub(super) fn way_to(&self, target: &Digest, platform: &Platform) -> Vec<Digest> {
        let mut seen = HashSet::from([target.clone()]);
        self.way_from(target, true, platform, 0, &mut seen)
    }

    /// `told`: an index says that this is for the platform.
    fn way_from(
        &self,
        digest: &Digest,
        told: bool,
        platform: &Platform,
        depth: usize,
        seen: &mut HashSet<Digest>,
    ) -> Vec<Digest> {
        match stored(self.store(), digest) {
            Ok((manifest, Document::Manifest { config, layers })) if !told => {
                let described = describe(self.store(), manifest.clone(), manifest, config, layers, Some(platform));
                match described {
                    Err(ImageError::Platform { .. }) => Vec::new(),
                    _ => vec![digest.clone()],
                }
            }
            Ok((_, Document::Index(children))) if depth < index::MAX_DEPTH => {
                for child in index::candidates(&children, platform) {
                    if !seen.insert(child.descriptor.digest.clone()) {
                        continue;
                    }
                    let told = child.platform.is_some();
                    let mut way = self.way_from(&child.descriptor.digest, told, platform, depth + 1, seen);
                    if !way.is_empty() {
                        way.push(digest.clone());
                        return way;
                    }
                }
                Vec::new()
            }
            // What cannot be read may be the one.
            _ => vec![digest.clone()],
        }
    }

    /// The platforms whose images are whole in the store, sorted.
    pub fn platforms(&self, target: &Digest) -> Vec<Platform> {
        let store = self.store();
        let mut found = Vec::new();
        let mut seen = HashSet::from([target.clone()]);
        let mut stack = vec![(target.clone(), 0)];
        while let Some((digest, depth)) = stack.pop() {
            match stored(store, &digest) {
                Ok((manifest, Document::Manifest { config, layers })) => {
                    let image = assemble(store, manifest.clone(), manifest, config, layers, None);
                    found.extend(image.ok().map(|i| i.platform));
                }
                Ok((_, Document::Index(children))) if depth < index::MAX_DEPTH => {
                    let images = children.into_iter().filter(|c| !c.attached && leads_to_images(&c.descriptor));
                    let fresh: Vec<_> = images.filter(|c| seen.insert(c.descriptor.digest.clone())).collect();
                    stack.extend(fresh.into_iter().map(|c| (c.descriptor.digest, depth + 1)));
                }
                _ => {}
            }
        }
        found.sort();
        found.dedup();
        found
    }
}
