//! SIGHUP: the configuration is read again, and what of it can be is in force at once.
//!
//! Invariant: the settings in force are always one whole valid configuration: the one of the start, with every
//! live key of the last file that could be taken. Whoever needs a setting asks [`crate::engine::Engine::config`]
//! when he needs it; the loop and the directory's follower are woken to do so.

use crate::config::{Config, LogLevel, Overrides};
use crate::error::Fault;
use crate::manifest::{Kind, ResourceKey};
use crate::store::EventType;

use super::Node;

/// Sets the level of the daemon's own log.
pub type SetLogLevel = Box<dyn Fn(LogLevel) + Send + Sync>;

/// Where the daemon's configuration comes from, to read it again at SIGHUP.
pub struct Reload {
    /// The file given by flag.
    pub file: Option<std::path::PathBuf>,
    /// Flags over it.
    pub overrides: Overrides,
    /// The log belongs to the command line.
    pub set_log_level: SetLogLevel,
}

/// What is to be said of the last reload; nothing when it was taken whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reloaded {
    /// The file could not be taken.
    pub refused: Option<Fault>,
    /// Keys that were changed and wait for a restart.
    pub restart: Vec<String>,
}

impl Reloaded {
    /// Sentences for `status`.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let refused = self.refused.as_ref().map(|fault| {
            let place = fault.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
            format!("the changed configuration is not taken, the one before stays in force: {place}{}", fault.message)
        });
        let restart = (!self.restart.is_empty()).then(|| {
            let (is, keys) = (if self.restart.len() == 1 { "is" } else { "are" }, self.restart.join(", "));
            format!(
                "{keys} {is} changed in the configuration and in force after a restart, which disturbs no container"
            )
        });
        refused.into_iter().chain(restart)
    }
}

/// Takes what can be taken of the configuration as it is now, says what cannot, and has the directory read.
pub(super) async fn read_again(node: &std::sync::Arc<Node>, reload: &Reload) {
    let running = node.engine.config();
    let reloaded = match Config::load(reload.file.as_deref(), &reload.overrides) {
        Ok(new) => {
            let changes = running.changes(&new);
            if !changes.live.is_empty() {
                let config = running.with_live(&new);
                (reload.set_log_level)(config.log.level);
                node.configure(config);
                let message = format!("in force: {}", changes.live.join(", "));
                node.engine.event(&key(), EventType::Normal, "ConfigurationTaken", message);
            }
            Reloaded { refused: None, restart: changes.restart }
        }
        Err(fault) => Reloaded { refused: Some(fault), restart: node.reloaded().restart.clone() },
    };
    let event = if reloaded.refused.is_some() { "ConfigurationRefused" } else { "RestartNeeded" };
    for warning in reloaded.warnings() {
        node.engine.event(&key(), EventType::Warning, event, warning);
    }
    *node.reloaded() = reloaded;
    if let Err(fault) = node.look(true).await {
        tracing::error!(%fault, "the manifest directory could not be read");
    }
    node.wake.notify_one();
}

/// What events about the configuration are told of.
fn key() -> ResourceKey {
    ResourceKey::new(Kind::Namespace, "configuration", "configuration")
}
