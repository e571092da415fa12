//! What can go wrong with snapshots, each naming its object, the cause and the next step.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Class, Fault};
use crate::image::{ImageError, MAKE_ROOM};
use crate::oci::Digest;

/// A failure of the snapshot side.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SnapshotError {
    /// The file system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with its path.
        what: String,
        /// What the kernel said.
        source: Arc<io::Error>,
    },
    /// The store did not have the layer, or could not read it.
    #[error("layer {layer}: {source}")]
    Source {
        /// The layer's blob.
        layer: Digest,
        /// Why.
        source: Box<ImageError>,
    },
    /// A layer's stream is damaged or not a tar archive.
    #[error("layer {layer}: {why}")]
    Stream {
        /// The layer's blob.
        layer: Digest,
        /// What is wrong with it.
        why: String,
    },
    /// An entry that cannot be made beneath the root, or that asks to leave it.
    #[error("layer {layer}: entry {entry:?}: {why}")]
    Entry {
        /// The layer's blob.
        layer: Digest,
        /// The entry's name as it stands in the layer.
        entry: String,
        /// Why not.
        why: String,
    },
    /// The unpacked bytes are not what the image's configuration says.
    #[error("layer {layer} is corrupt: its diff ID is {actual}, not {expected}")]
    DiffId {
        /// The layer's blob.
        layer: Digest,
        /// By the configuration.
        expected: Digest,
        /// Of what came.
        actual: Digest,
    },
    /// A layer of the image has no snapshot.
    #[error("image {image} is not unpacked on this node: the snapshot of {chain} is missing")]
    NotUnpacked {
        /// The image's target.
        image: Digest,
        /// The first chain ID without one.
        chain: Digest,
    },
    /// A root directory that overlayfs could not be told.
    #[error("{path} cannot hold snapshots: overlayfs options cannot carry a path with {character:?} in it")]
    Root {
        /// The directory.
        path: String,
        /// `:`, `,` or a backslash.
        character: char,
    },
    /// A key that names no writable layer.
    #[error("{key:?} cannot name a writable layer: {why}")]
    Key {
        /// The key.
        key: String,
        /// Why.
        why: String,
    },
}

impl SnapshotError {
    /// `what` names the operation and its path.
    pub(super) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { what: what.into(), source: Arc::new(source.into()) }
    }

    /// For `map_err` on an operation on one path.
    pub(super) fn at<'a, E: Into<io::Error>>(verb: &'a str, path: &'a Path) -> impl Fn(E) -> Self + 'a {
        move |source| Self::io(format!("{verb} {}", path.display()), source)
    }
}

impl From<SnapshotError> for Fault {
    fn from(error: SnapshotError) -> Fault {
        let message = error.to_string();
        let full = matches!(&error, SnapshotError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull);
        match error {
            SnapshotError::Io { .. } if full => Fault::new(Class::Runtime, message).help(MAKE_ROOM),
            SnapshotError::Io { .. } => Fault::new(Class::Runtime, message),
            SnapshotError::Source { source, .. } => {
                let inner = Fault::from(*source);
                Fault { message, ..inner }
            }
            SnapshotError::Stream { .. } | SnapshotError::DiffId { .. } => Fault::new(Class::Registry, message)
                .help("the image is broken where it was made or pushed; tell its owner"),
            SnapshotError::Entry { .. } => {
                Fault::new(Class::Refused, message).help("the layer is malformed or hostile; nothing of it was kept")
            }
            SnapshotError::NotUnpacked { .. } => Fault::new(Class::NotFound, message).help("pull or load it again"),
            SnapshotError::Root { .. } => Fault::new(Class::Invalid, message).help("choose another --root"),
            SnapshotError::Key { .. } => Fault::new(Class::Bug, message),
        }
    }
}
