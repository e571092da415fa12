//! Images mounted for a person to look into: `<state>/mounts/<id>/view.json`, and the mount itself.
//!
//! The record comes first and goes last. Both are gone after a reboot, for the state directory is. A record whose
//! mount is gone (taken down with `umount`) is cleared at the next look.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Class, Fault, Result};
use crate::oci::{Digest, Platform};
use crate::snapshot::view;

use super::{Engine, lock_of};

/// An image mounted at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// What the mount's source ends with.
    pub id: String,
    /// Where.
    pub target: PathBuf,
    /// The image, as it was asked for.
    pub name: String,
    /// What it points at.
    pub digest: Digest,
    /// For which platform.
    pub platform: Platform,
    /// Whether it can be written to; what is written goes with the mount.
    pub writable: bool,
    /// What it is made of; kept as long as it is mounted.
    pub chains: Vec<Digest>,
}

impl Engine {
    fn views_dir(&self) -> PathBuf {
        self.config().state.join("mounts")
    }

    /// The views that are mounted. Records of others are cleared.
    pub fn mounted_views(&self) -> Vec<View> {
        // Not while one is being made: its record comes before its mount.
        let _making = lock_of(&self.views);
        let mut mounted = Vec::new();
        for entry in fs::read_dir(self.views_dir()).into_iter().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            let record = fs::read(entry.path().join("view.json")).ok();
            let record = record.and_then(|text| serde_json::from_slice::<View>(&text).ok());
            match record {
                Some(record) if view::is_anywhere(&id) => mounted.push(record),
                _ if view::is_anywhere(&id) => tracing::warn!(id, "a mounted image has no record; it is left alone"),
                _ => drop(fs::remove_dir_all(entry.path())),
            }
        }
        mounted.sort_by(|a, b| a.target.cmp(&b.target));
        mounted
    }

    /// Mounts an image at an existing directory. Unpacks it first if need be.
    pub async fn mount_view(
        self: &Arc<Self>,
        name: &str,
        digest: &Digest,
        platform: &Platform,
        target: &Path,
        writable: bool,
    ) -> Result<View> {
        let refuse = |why: &str| Fault::new(Class::Refused, format!("{} {why}", target.display()));
        let target = target.canonicalize().map_err(|error| {
            Fault::new(Class::NotFound, format!("{}: {error}", target.display())).help("name a directory that is there")
        })?;
        if !target.is_dir() {
            return Err(refuse("is no directory"));
        }
        if let Some(other) = self.mounted_views().into_iter().find(|view| view.target == target) {
            return Err(refuse(&format!("has image {} mounted already", other.name))
                .help(format!("bayplan image unmount {}", target.display())));
        }
        let _lease = self.lease();
        self.hold(digest);
        let image = self.images.whole(digest, platform);
        let image = image.map_err(|error| self.images.explain(error, name, digest, platform))?;
        if !self.snapshots.is_unpacked(&image) {
            self.unpack(&image, None).await?;
        }
        let made = View {
            id: super::image::new_uid(),
            target,
            name: name.to_owned(),
            digest: digest.clone(),
            platform: image.platform.clone(),
            writable,
            chains: crate::snapshot::chain_ids(&image.layers),
        };
        let engine = Arc::clone(self);
        let record = made.clone();
        tokio::task::spawn_blocking(move || {
            let _making = lock_of(&engine.views);
            let directory = engine.views_dir().join(&record.id);
            let io = |error: std::io::Error| Fault::new(Class::Runtime, format!("{}: {error}", directory.display()));
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(io)?;
            fs::write(directory.join("view.json"), serde_json::to_vec(&record).unwrap_or_default()).map_err(io)?;
            let scratch = record.writable.then_some(directory.as_path());
            engine.snapshots.mount_view(&record.id, &image, &record.target, scratch).map_err(|error| {
                let _ = fs::remove_dir_all(&directory);
                Fault::from(error)
            })
        })
        .await
        .map_err(|error| Fault::new(Class::Bug, format!("mounting {name}: {error}")))??;
        Ok(made)
    }

    /// Takes a view down, and what was written into it.
    pub fn unmount_view(&self, target: &Path) -> Result<View> {
        let full = target.canonicalize().unwrap_or_else(|_| target.to_owned());
        let Some(found) = self.mounted_views().into_iter().rev().find(|view| view.target == full) else {
            return Err(Fault::new(Class::NotFound, format!("no image is mounted at {}", target.display()))
                .help("bayplan image mount lists those that are"));
        };
        if !view::is_mounted(&found.id, &full) {
            return Err(Fault::new(
                Class::Refused,
                format!("something else is mounted over image {} at {}", found.name, full.display()),
            )
            .help("unmount that first"));
        }
        let _making = lock_of(&self.views);
        view::unmount(&full)
            .map_err(|error| Fault::from(error).help("end what uses files below it: fuser -vm shows them"))?;
        let directory = self.views_dir().join(&found.id);
        fs::remove_dir_all(&directory)
            .map_err(|error| Fault::new(Class::Runtime, format!("{}: {error}", directory.display())))?;
        Ok(found)
    }
}
