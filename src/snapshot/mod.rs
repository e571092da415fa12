//! Layers → snapshots shared by chain ID → overlayfs roots.
//!
//! Invariant: a committed snapshot is whole and never written again; extraction never leaves its root
//! (everything is resolved beneath a directory descriptor); an interrupted apply is never mistaken for a
//! finished one. Layer streams flow in, mounts flow out. May use [`crate::image`] and [`crate::oci`].
