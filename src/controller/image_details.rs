//! What images are made of and share, for people who look inside; and their files at a path.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::api::*;
use crate::engine::View;
use crate::error::{Class, Fault, Result};
use crate::image::Image;
use crate::oci::{Digest, Platform};
use crate::snapshot::chain_ids;
use crate::store::ReferenceRecord;

use super::Node;

impl Node {
    /// What an image is made of. Blocking: layers that were never measured are walked.
    pub(super) fn image_details(&self, record: &ReferenceRecord) -> Option<ImageDetails> {
        let image = self.shown_image(record)?;
        let (images, snapshots) = (self.engine.images(), self.engine.snapshots());
        let chains = chain_ids(&image.layers);
        let layers: Vec<LayerDetails> = image
            .layers
            .iter()
            .zip(&chains)
            .map(|(layer, chain)| LayerDetails {
                digest: layer.descriptor.digest.clone(),
                media_type: layer.descriptor.media_type.clone(),
                size: layer.descriptor.size,
                diff_id: layer.diff_id.clone(),
                chain_id: chain.clone(),
                unpacked_size: snapshots.usage(chain),
            })
            .collect();
        let mut sizes = layers.iter().map(|layer| layer.size);
        let history = image.config.history().iter().flatten().map(|entry| {
            let empty_layer = entry.empty_layer().unwrap_or(false);
            HistoryEntry {
                created: entry.created().clone(),
                created_by: entry.created_by().clone(),
                comment: entry.comment().clone(),
                empty_layer,
                size: if empty_layer { None } else { sizes.next() },
            }
        });
        Some(ImageDetails {
            target: record.digest.clone(),
            media_type: record.media_type.clone(),
            manifest: image.manifest.digest.clone(),
            platform: image.platform.clone(),
            platforms: images.platforms(&record.digest),
            size: images.size_on_disk(&record.digest),
            unpacked_size: layers.iter().map(|layer| layer.unpacked_size).sum(),
            history: history.collect(),
            layers: layers.clone(),
        })
    }

    /// The image of the platform that is wanted, else of one that is here.
    pub(super) fn shown_image(&self, record: &ReferenceRecord) -> Option<Image> {
        let images = self.engine.images();
        let wanted = self.wanted_platform(record);
        let platforms = std::iter::once(wanted).chain(images.platforms(&record.digest));
        platforms.into_iter().find_map(|platform| images.load_image(&record.digest, &platform).ok())
    }

    pub(super) async fn image_tree(self: &Arc<Self>, query: Query) -> Result<TreeReport> {
        let node = Arc::clone(self);
        blocking("the tree of images", move || Ok(node.tree_now(query.namespace.as_deref()))).await
    }

    fn tree_now(&self, namespace: Option<&str>) -> TreeReport {
        let records: Vec<ReferenceRecord> = self
            .engine
            .memory()
            .read()
            .references
            .values()
            .filter(|record| namespace.is_none_or(|namespace| record.namespace == namespace))
            .cloned()
            .collect();
        let mut names: BTreeMap<Digest, (BTreeSet<String>, Image)> = BTreeMap::new();
        for record in records {
            let name = format!("{}/{}", record.namespace, record.reference);
            if let Some((known, _)) = names.get_mut(&record.digest) {
                known.insert(name);
            } else if let Some(image) = self.shown_image(&record) {
                names.insert(record.digest, (BTreeSet::from([name]), image));
            }
        }
        let mut grove = Grove::default();
        // How many images have a blob, wherever in them it lies.
        let mut owners: HashMap<&Digest, u64> = HashMap::new();
        for (references, image) in names.values() {
            let digests: HashSet<&Digest> = image.layers.iter().map(|layer| &layer.descriptor.digest).collect();
            for digest in digests {
                *owners.entry(digest).or_default() += 1;
            }
            let chains = chain_ids(&image.layers);
            for (at, (layer, chain)) in image.layers.iter().zip(&chains).enumerate() {
                let parent = at.checked_sub(1).map(|below| chains[below].clone());
                let known = grove.nodes.entry(chain.clone()).or_insert_with(|| TreeNode {
                    chain_id: chain.clone(),
                    digest: layer.descriptor.digest.clone(),
                    size: layer.descriptor.size,
                    unpacked_size: self.engine.snapshots().usage(chain),
                    images: 0,
                    ends: Vec::new(),
                    children: Vec::new(),
                });
                known.images += 1;
                if at + 1 == chains.len() {
                    known.ends.extend(references.iter().cloned());
                }
                grove.above.entry(parent).or_default().insert(chain.clone());
            }
        }
        let mut report = TreeReport::default();
        let mut counted = HashSet::new();
        for (references, image) in names.values() {
            let mut own = HashSet::new();
            let layers: Vec<_> =
                image.layers.iter().map(|layer| &layer.descriptor).filter(|layer| own.insert(&layer.digest)).collect();
            for layer in &layers {
                if counted.insert(&layer.digest) {
                    report.size += layer.size;
                    report.shared_size += if owners[&layer.digest] > 1 { layer.size } else { 0 };
                }
            }
            report.images.push(TreeImage {
                digest: image.target.digest.clone(),
                references: references.iter().cloned().collect(),
                layers: image.layers.len() as u64,
                size: layers.iter().map(|layer| layer.size).sum(),
                unique_size: layers.iter().filter(|layer| owners[&layer.digest] == 1).map(|layer| layer.size).sum(),
            });
        }
        for node in grove.nodes.values() {
            let size = node.unpacked_size.unwrap_or_default();
            report.unpacked_size += size;
            report.shared_unpacked_size += if node.images > 1 { size } else { 0 };
        }
        report.images.sort_by(|a, b| a.references.cmp(&b.references));
        report.roots = grove.grow(None);
        report
    }

    pub(super) async fn mount_image(self: &Arc<Self>, request: MountRequest) -> Result<MountedImage> {
        let MountRequest { namespace, name, platform, target, writable } = request;
        let found = self.named_images(&namespace, &name)?;
        let Some(record) = found.first() else { return Err(self.no_image(&namespace, &name)) };
        if !target.is_absolute() {
            return Err(Fault::new(Class::Usage, format!("{} is not an absolute path", target.display())));
        }
        let platform = platform.unwrap_or_else(|| self.wanted_platform(record));
        let shown = record.reference.to_string();
        self.engine.mount_view(&shown, &record.digest, &platform, &target, writable).await.map(mounted)
    }

    pub(super) fn unmount_image(&self, request: &UnmountRequest) -> Result<MountedImage> {
        self.engine.unmount_view(&request.target).map(mounted)
    }

    pub(super) fn mounted_images(&self) -> Vec<MountedImage> {
        self.engine.mounted_views().into_iter().map(mounted).collect()
    }

    pub(super) async fn snapshot_infos(self: &Arc<Self>) -> Result<Vec<SnapshotInfo>> {
        let node = Arc::clone(self);
        blocking("the list of snapshots", move || {
            let snapshots = node.engine.snapshots();
            let mut users: HashMap<Digest, BTreeSet<String>> = HashMap::new();
            let records: Vec<ReferenceRecord> = node.engine.memory().read().references.values().cloned().collect();
            for record in &records {
                let images = node.engine.images();
                for platform in images.platforms(&record.digest).into_iter().chain([Platform::host()]) {
                    let Ok(image) = images.load_image(&record.digest, &platform) else { continue };
                    for chain in chain_ids(&image.layers) {
                        users.entry(chain).or_default().insert(format!("{}/{}", record.namespace, record.reference));
                    }
                }
            }
            let mut infos: Vec<SnapshotInfo> = snapshots
                .list()?
                .into_iter()
                .map(|snapshot| SnapshotInfo {
                    size: snapshots.usage(&snapshot.chain).unwrap_or_default(),
                    used_by: users.remove(&snapshot.chain).unwrap_or_default().into_iter().collect(),
                    name: snapshot.chain.to_string(),
                    parent: snapshot.parent,
                    kind: "committed".into(),
                })
                .collect();
            for key in snapshots.keys()? {
                let records = node.engine.memory().read();
                let owner = records.containers.values().find(|r| format!("{}/{}", r.namespace, r.uid) == key);
                let owner = owner.map(|r| (format!("{}/{}", r.namespace, r.name), r.image.clone()));
                drop(records);
                let below = owner.as_ref().and_then(|(_, image)| {
                    let image = node.engine.images().load_image(image, &Platform::host()).ok()?;
                    chain_ids(&image.layers).pop()
                });
                infos.push(SnapshotInfo {
                    size: snapshots.writable_usage(&key)?,
                    name: key,
                    parent: below,
                    kind: "active".into(),
                    used_by: owner.map(|(name, _)| name).into_iter().collect(),
                });
            }
            Ok(infos)
        })
        .await
    }
}

/// Layers by chain ID, and which lie upon which.
#[derive(Default)]
struct Grove {
    nodes: BTreeMap<Digest, TreeNode>,
    above: BTreeMap<Option<Digest>, BTreeSet<Digest>>,
}

impl Grove {
    /// What lies upon a layer. Images have at most some hundred layers, and so has the tree.
    fn grow(&self, below: Option<&Digest>) -> Vec<TreeNode> {
        let upon = self.above.get(&below.cloned()).into_iter().flatten();
        upon.filter_map(|chain| {
            let node = self.nodes.get(chain)?;
            Some(TreeNode { children: self.grow(Some(chain)), ..node.clone() })
        })
        .collect()
    }
}

fn mounted(view: View) -> MountedImage {
    MountedImage {
        target: view.target,
        name: view.name,
        digest: view.digest,
        platform: view.platform,
        writable: view.writable,
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(Fault::new(Class::Bug, format!("{what}: {error}"))))
}
