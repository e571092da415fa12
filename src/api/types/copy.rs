//! Files of containers, out and in.

use serde::{Deserialize, Serialize};

/// Asks for a file or directory of a container, as a tar stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyFromRequest {
    /// In which namespace.
    pub namespace: String,
    /// Which container.
    pub name: String,
    /// Where, from its root. One that ends with `/.` means what a directory holds.
    pub path: String,
}

/// Puts what a tar stream holds into a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyIntoRequest {
    /// In which namespace.
    pub namespace: String,
    /// Which container.
    pub name: String,
    /// Where, from its root.
    pub path: String,
    /// The stream's entries go into the directory at `path`; else it is one file or directory that goes where `cp` puts
    /// it.
    #[serde(default)]
    pub extract: bool,
    /// With the owners that the stream names; else they belong to root.
    #[serde(default)]
    pub owners: bool,
}

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Copied {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Devices and the like, which are not copied.
    #[serde(default)]
    pub skipped: u64,
}
