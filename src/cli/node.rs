//! Where the command line meets the engine: configuration, the node in this process, the daemon.

use std::sync::Arc;

use super::args::Global;
use crate::api::Service;
use crate::config::Config;
use crate::error::{Class, Fault, Result};

/// The configuration in force: files, and flags over them.
pub(super) fn configuration(global: &Global) -> Result<Config> {
    Config::load(global.config.as_deref(), &global.overrides())
}

/// This process' own node, under the state lock.
pub(super) async fn open(_config: Config) -> Result<Arc<dyn Service>> {
    Err(Fault::new(Class::Refused, "no daemon answers, and this build has no node of its own"))
}

/// Runs the controller until it is asked to end.
pub(super) async fn daemon(_config: Config) -> Result<()> {
    Err(Fault::new(Class::Bug, "this build has no controller"))
}

/// The JSON Schema of manifests.
pub(super) fn schema(_kind: Option<&str>) -> Result<serde_json::Value> {
    Err(Fault::new(Class::Bug, "this build has no schema"))
}

/// A field's meaning.
pub(super) fn explain(_path: &str) -> Result<String> {
    Err(Fault::new(Class::Bug, "this build has no schema"))
}
