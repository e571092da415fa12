//! Where the command line meets the engine: configuration, the node in this process, the daemon.

use std::sync::Arc;

use super::args::Global;
use crate::api::Service;
use crate::config::Config;
use crate::controller::{Node, NodeService, Reload, run_daemon};
use crate::error::{Class, Fault, Result};

/// The configuration in force: files, and flags over them.
pub(super) fn configuration(global: &Global) -> Result<Config> {
    Config::load(global.config.as_deref(), &global.overrides())
}

/// This process' own node, under the state lock.
pub(super) async fn open(config: Config) -> Result<Arc<dyn Service>> {
    let node = Node::open(config, false).await?;
    Ok(Arc::new(NodeService(node)))
}

/// How registries are spoken to. Logging in is about a file and needs no node.
pub(super) fn registries(config: &Config) -> crate::image::RegistryConfig {
    crate::engine::registry_config(config)
}

/// Runs the controller until it is asked to end.
pub(super) async fn daemon(config: Config, global: &Global) -> Result<()> {
    run_daemon(config, Reload { file: global.config.clone(), overrides: global.overrides() }).await
}

/// The JSON Schema of manifests.
pub(super) fn schema(kind: Option<&str>) -> Result<serde_json::Value> {
    crate::manifest::schema(kind).map_err(unknown)
}

/// A field's meaning.
pub(super) fn explain(path: &str) -> Result<String> {
    crate::manifest::explain(path).map_err(unknown)
}

fn unknown(error: crate::manifest::Unknown) -> Fault {
    Fault::new(Class::NotFound, error.to_string()).help(error.help)
}
