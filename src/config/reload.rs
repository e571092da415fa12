//! What SIGHUP can change in a running daemon, and what needs a restart.

use std::collections::BTreeSet;

use super::Config;

/// Keys that differ between two configurations, dotted and sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// In force as soon as the daemon takes the new configuration.
    pub live: Vec<String>,
    /// In force after a restart of the daemon; containers are not disturbed by one.
    pub restart: Vec<String>,
}

impl Changes {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.restart.is_empty()
    }
}

/// What is opened, locked or handed out once at start.
const NEEDS_RESTART: [&str; 8] =
    ["version", "root", "state", "manifests", "address", "log_dir", "cgroup", "log.format"];

impl Config {
    /// What would change with `new`. Derived values count: another `state` also moves an unset `address`.
    pub fn changes(&self, new: &Config) -> Changes {
        let (old, new) = (flat(self), flat(new));
        let keys: BTreeSet<&String> = old.symmetric_difference(&new).map(|(key, _)| key).collect();
        let mut changes = Changes::default();
        for key in keys {
            let needs_restart = NEEDS_RESTART
                .iter()
                .any(|fixed| key == fixed || key.strip_prefix(fixed).is_some_and(|rest| rest.starts_with('.')));
            if needs_restart { &mut changes.restart } else { &mut changes.live }.push(key.clone());
        }
        changes
    }

    /// This configuration with every live key of `new`, and what needs a restart left as it is.
    #[must_use]
    pub fn with_live(&self, new: &Config) -> Config {
        Config {
            version: self.version,
            root: self.root.clone(),
            state: self.state.clone(),
            manifests: self.manifests.clone(),
            address: self.address.clone(),
            log_dir: self.log_dir.clone(),
            cgroup: self.cgroup.clone(),
            log: super::Log { level: new.log.level, format: self.log.format },
            ..new.clone()
        }
    }
}

fn flat(config: &Config) -> BTreeSet<(String, String)> {
    fn walk(prefix: &str, table: &toml::Table, into: &mut BTreeSet<(String, String)>) {
        for (key, value) in table {
            match value {
                toml::Value::Table(inner) => walk(&format!("{prefix}{key}."), inner, into),
                value => {
                    into.insert((format!("{prefix}{key}"), value.to_string()));
                }
            }
        }
    }
    let mut keys = BTreeSet::new();
    if let Ok(table) = config.to_toml().parse::<toml::Table>() {
        walk("", &table, &mut keys);
    }
    keys
}
