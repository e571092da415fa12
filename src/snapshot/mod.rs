//! Layers → snapshots shared by chain ID → overlayfs roots.
