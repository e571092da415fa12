//! What a verb works with: the flags, the streams, the time, and the node when it asks for it.

use std::sync::Arc;

use jiff::Timestamp;

use super::args::{Global, Output};
use super::{node, ui::Ui};
use crate::api::Client;
use crate::config::Config;
use crate::error::{Class, Fault, Result};

/// See the module.
pub struct Context {
    /// The global flags.
    pub global: Global,
    /// The streams.
    pub ui: Ui,
    /// Now, for ages.
    pub now: Timestamp,
    config: Option<Config>,
    node: Option<Arc<Client>>,
}

/// How long a daemon that has the lock may take until it answers.
const DAEMON_STARTS: std::time::Duration = std::time::Duration::from_secs(10);

impl Context {
    /// Lets go of the node, if one was asked for.
    pub(super) fn forget_node(&mut self) {
        self.node = None;
    }

    /// A context that has looked at nothing yet.
    pub fn new(global: Global, ui: Ui) -> Self {
        Self { global, ui, now: Timestamp::now(), config: None, node: None }
    }

    /// A context whose node is this one.
    #[cfg(test)]
    pub(super) fn with_node(global: Global, ui: Ui, node: Client, now: Timestamp) -> Self {
        let mut config = Config::default();
        if let Some(state) = &global.state {
            config.state.clone_from(state);
        }
        Self { global, ui, now, config: Some(config), node: Some(Arc::new(node)) }
    }

    /// The configuration in force.
    pub fn config(&mut self) -> Result<&Config> {
        let config = match self.config.take() {
            Some(config) => config,
            None => node::configuration(&self.global)?,
        };
        Ok(self.config.insert(config))
    }

    /// Looks whether a daemon answers. Needs no runtime.
    pub fn find_daemon(&mut self) -> Result<bool> {
        if self.node.is_none() {
            let (address, broken) = match self.config() {
                Ok(config) => (config.address(), None),
                // A daemon has a configuration that was good; what flags say about where it is needs no file.
                Err(fault) => (self.global.address().ok_or_else(|| fault.clone())?, Some(fault)),
            };
            self.node = Client::connect(&address)?.map(Arc::new);
            match broken {
                Some(fault) if self.node.is_none() => return Err(fault),
                Some(fault) => {
                    let place = fault.place.map(|place| format!(" ({place})")).unwrap_or_default();
                    let message = format!("the configuration cannot be used: {}{place}", fault.message);
                    let text = super::render::diagnostic::warning(&message, self.ui.colour_err);
                    self.ui.message(&text);
                }
                None => {}
            }
        }
        Ok(self.node.is_some())
    }

    /// The node: the daemon's if one answers, else this process' own.
    pub async fn node(&mut self) -> Result<Arc<Client>> {
        self.find_daemon()?;
        if let Some(node) = &self.node {
            return Ok(node.clone());
        }
        // Nothing but the address was said: any other node would be the wrong one.
        let global = &self.global;
        if let Some(address) = &global.address
            && global.root.is_none()
            && global.state.is_none()
            && global.config.is_none()
        {
            let message = format!("no daemon answers at {}", address.display());
            return Err(Fault::new(Class::Refused, message).help(
                "start it; or leave --address out and name the node by --root and --state, to do without a daemon",
            ));
        }
        let refused = match node::open(self.config()?.clone()).await {
            Ok(service) => return Ok(self.node.insert(Arc::new(Client::in_process(service))).clone()),
            Err(fault) => fault,
        };
        // A daemon takes the node's lock first and answers a moment later.
        let by_daemon = refused.class == Class::Refused && refused.message.contains(" daemon");
        let deadline = tokio::time::Instant::now() + DAEMON_STARTS;
        while by_daemon && tokio::time::Instant::now() < deadline {
            if self.find_daemon()?
                && let Some(node) = &self.node
            {
                return Ok(node.clone());
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Err(refused)
    }

    /// How results are printed.
    pub fn output(&self) -> Output {
        self.global.output.unwrap_or(Output::Table)
    }

    /// The namespace asked for.
    pub fn namespace(&self) -> String {
        self.global.namespace().to_owned()
    }
}
