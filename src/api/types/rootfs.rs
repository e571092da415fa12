//! An image from the tar file of a root file system.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::oci::{Platform, Reference};

/// Imports a root file system, which comes as an archive does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RootfsRequest {
    /// Into which namespace.
    pub namespace: String,
    /// The image's name. It moves when it exists.
    pub reference: Reference,
    /// The machine it is for; absent: the node's.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// ENTRYPOINT.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// CMD.
    #[serde(default)]
    pub cmd: Option<Vec<String>>,
    /// ENV, as `KEY=VALUE`.
    #[serde(default)]
    pub env: Vec<String>,
    /// WORKDIR.
    #[serde(default)]
    pub workdir: Option<String>,
    /// USER.
    #[serde(default)]
    pub user: Option<String>,
    /// LABEL.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// STOPSIGNAL.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// EXPOSE, as `80/tcp`.
    #[serde(default)]
    pub expose: Vec<String>,
}
