//! The daemon's and the command line's settings: one TOML file, its drop-ins, and flags over both.
//!
//! Invariant: a [`Config`] that [`Config::load`] returned is complete and valid: every key has a value,
//! every path is absolute, and no two instances with different roots share a path or cgroup by default.
//! In: `config.toml`, `conf.d/*.toml`, [`Overrides`]. Out: plain values. Depends on
//! [`crate::manifest`] for durations and [`crate::error`] only; nothing here acts on the node.

mod check;
mod load;
mod reload;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::manifest::{Quantity, Span};
use crate::oci::Digest;

pub use check::Finding;
pub use reload::Changes;

/// The file that is read when none is named; it may be missing.
pub const DEFAULT_PATH: &str = "/etc/bayplan/config.toml";
/// What is kept.
pub const DEFAULT_ROOT: &str = "/var/lib/bayplan";
/// What is lost at reboot.
pub const DEFAULT_STATE: &str = "/run/bayplan";
/// The watched directory.
pub const DEFAULT_MANIFESTS: &str = "/etc/bayplan/manifests";
/// Container logs of the default root.
pub const DEFAULT_LOG_DIR: &str = "/var/log/bayplan";
/// What is said of each registry host.
pub const DEFAULT_CERTS_DIR: &str = "/etc/bayplan/certs.d";
/// The only version of the file's format.
pub const VERSION: u32 = 1;

/// Every setting. Optional ones are derived from others; ask the method of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The format's version: 1.
    pub version: u32,
    /// Images, snapshots, the database: kept.
    pub root: PathBuf,
    /// Sockets, bundles, network namespaces: lost at reboot.
    pub state: PathBuf,
    /// The watched directory.
    pub manifests: PathBuf,
    /// The API's socket; see [`Config::address`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<PathBuf>,
    /// Container logs; see [`Config::log_dir`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_dir: Option<PathBuf>,
    /// Cgroups of containers.
    pub cgroup: Cgroup,
    /// OCI runtimes by the name that manifests use; `runc` is always there.
    pub runtimes: BTreeMap<String, Runtime>,
    /// Registries.
    pub registry: Registry,
    /// Unpacking of images.
    pub layers: Layers,
    /// The reconcile loop.
    pub controller: Controller,
    /// Garbage collection of images and snapshots.
    pub gc: Gc,
    /// Events kept.
    pub events: Events,
    /// The shim.
    pub shim: Shim,
    /// The daemon's own log.
    pub log: Log,
}

/// `[cgroup]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cgroup {
    /// Above every container's cgroup, or the slice; see [`Config::cgroup_parent`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Who makes cgroups.
    pub driver: CgroupDriver,
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// systemd where it is process 1, else cgroupfs.
    #[default]
    Auto,
    /// The cgroup file system itself.
    Cgroupfs,
    /// systemd, by scopes in a slice.
    Systemd,
}

/// `[runtimes.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// The binary: an absolute path, or a name looked up in `PATH`.
    pub path: PathBuf,
}

/// `[registry]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registry {
    /// Hosts (`host` or `host:port`) spoken to without TLS. Loopback ones are tried so by themselves.
    pub plain_http: Vec<String>,
    /// Credential files (`auth.json`), first match wins; empty: where Podman and Docker look.
    pub auth_files: Vec<PathBuf>,
    /// Mirrors, certificates and headers by host: `<host>/hosts.toml` in containerd's format.
    pub certs_dir: PathBuf,
    /// Credential files (`auth.json`) by the names that manifests use in `pullSecrets`.
    pub pull_secrets: BTreeMap<String, PathBuf>,
    /// Blobs fetched side by side, all images and hosts together.
    pub max_concurrent_downloads: u32,
    /// Blobs fetched side by side from one host.
    pub max_concurrent_downloads_per_host: u32,
}

/// `[layers]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Layers {
    /// Bytes that one layer may unpack to; a larger one is refused.
    pub max_size: Quantity,
}

/// `[controller]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Controller {
    /// Quiet time after the last change of a file before it is acted on.
    pub debounce: Span,
    /// How often a file system that does not notify is read.
    pub poll: Span,
    /// Steps carried out side by side, pulls apart; 0: see [`Controller::workers`].
    pub workers: u32,
    /// Images pulled side by side.
    pub pulls: u32,
    /// The first wait after a failed step.
    pub backoff_initial: Span,
    /// The longest wait after failed steps.
    pub backoff_max: Span,
}

/// `[gc]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gc {
    /// Whether the daemon collects by itself.
    pub enabled: bool,
    /// What was fetched or asked for less than this ago is kept; so long after something became unused is collected.
    pub grace: Span,
    /// Percent of the file system of `root` from which on unused images go; 0: never.
    pub high_watermark: u8,
    /// Percent below which it must be then.
    pub low_watermark: u8,
}

/// `[events]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Events {
    /// How many are kept; older ones go.
    pub keep: u32,
}

/// `[shim]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shim {
    /// The binary; see [`Config::shim_path`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// `oom_score_adj` of shims, -1000 to 1000; applied where permitted.
    pub oom_score_adj: i32,
}

/// `[log]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// How lines look.
    pub format: LogFormat,
}

/// Levels, most severe first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What needs a person.
    Error,
    /// What may need one.
    Warn,
    /// What was done.
    #[default]
    Info,
    /// Why.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// As a filter directive and flag value.
    pub fn word(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What flags say; each wins over the files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--root`.
    pub root: Option<PathBuf>,
    /// `--state`.
    pub state: Option<PathBuf>,
    /// `--manifests`.
    pub manifests: Option<PathBuf>,
    /// `--address`.
    pub address: Option<PathBuf>,
    /// `--log-level`.
    pub log_level: Option<LogLevel>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: VERSION,
            root: DEFAULT_ROOT.into(),
            state: DEFAULT_STATE.into(),
            manifests: DEFAULT_MANIFESTS.into(),
            address: None,
            log_dir: None,
            cgroup: Cgroup::default(),
            runtimes: BTreeMap::from([("runc".into(), Runtime { path: "runc".into() })]),
            registry: Registry::default(),
            layers: Layers::default(),
            controller: Controller::default(),
            gc: Gc::default(),
            events: Events::default(),
            shim: Shim::default(),
            log: Log::default(),
        }
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            auth_files: Vec::new(),
            certs_dir: DEFAULT_CERTS_DIR.into(),
            pull_secrets: BTreeMap::new(),
            max_concurrent_downloads: 24,
            max_concurrent_downloads_per_host: 6,
        }
    }
}

impl Default for Layers {
    fn default() -> Self {
        Self { max_size: Quantity::mebibytes(64 << 10) }
    }
}

impl Default for Controller {
    fn default() -> Self {
        Self {
            debounce: Span::from_millis(50),
            poll: Span::from_millis(10_000),
            workers: 0,
            pulls: 3,
            backoff_initial: Span::from_millis(1000),
            backoff_max: Span::from_millis(300_000),
        }
    }
}

impl Controller {
    /// Steps carried out side by side: as set, else twice the processors and at least 4.
    pub fn workers(&self) -> usize {
        match usize::try_from(self.workers) {
            Ok(count) if count > 0 => count,
            _ => (2 * std::thread::available_parallelism().map_or(1, usize::from)).max(4),
        }
    }
}

impl Default for Gc {
    fn default() -> Self {
        Self { enabled: true, grace: Span::from_millis(600_000), high_watermark: 85, low_watermark: 80 }
    }
}

impl Default for Events {
    fn default() -> Self {
        Self { keep: 1000 }
    }
}

impl Default for Shim {
    fn default() -> Self {
        Self { path: None, oom_score_adj: -998 }
    }
}

impl Config {
    /// The API's socket: as set, else `bayplan.sock` in the state directory.
    pub fn address(&self) -> PathBuf {
        self.address.clone().unwrap_or_else(|| self.state.join("bayplan.sock"))
    }

    /// Container logs: as set, else [`DEFAULT_LOG_DIR`] for the default root and `log/` in any other.
    pub fn log_dir(&self) -> PathBuf {
        match &self.log_dir {
            Some(dir) => dir.clone(),
            None if self.has_default_root() => DEFAULT_LOG_DIR.into(),
            None => self.root.join("log"),
        }
    }

    /// Above every container's cgroup: as set, else `/bayplan` for the default root and
    /// `/bayplan-<8 hex digits of its canonical path's SHA-256>` for any other, so that instances never meet.
    pub fn cgroup_parent(&self) -> String {
        if let Some(parent) = &self.cgroup.parent {
            return parent.clone();
        }
        if self.has_default_root() {
            return "/bayplan".into();
        }
        let hash = Digest::of(std::os::unix::ffi::OsStrExt::as_bytes(canonical(&self.root).as_os_str()));
        format!("/bayplan-{}", &hash.hex()[..8])
    }

    /// The shim's binary: as set, else beside the running executable, else in `PATH`, else in `/usr/local/bin`.
    pub fn shim_path(&self) -> PathBuf {
        const NAME: &str = "bayplan-shim";
        if let Some(path) = &self.shim.path {
            return path.clone();
        }
        // An upgraded binary's link reads `… (deleted)`; its directory is right all the same.
        let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(NAME)));
        let in_path = std::env::var_os("PATH").unwrap_or_default();
        beside
            .into_iter()
            .chain(std::env::split_paths(&in_path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(NAME)))
            .find(|path| path.is_file())
            .unwrap_or_else(|| Path::new("/usr/local/bin").join(NAME))
    }

    /// The binary of a runtime that a manifest names; `None` for the default one, `runc`.
    pub fn runtime(&self, name: Option<&str>) -> Option<&Path> {
        self.runtimes.get(name.unwrap_or("runc")).map(|runtime| runtime.path.as_path())
    }

    /// The settings in force as TOML, derived ones included.
    pub fn to_toml(&self) -> String {
        let mut shown = self.clone();
        shown.address = Some(self.address());
        shown.log_dir = Some(self.log_dir());
        shown.cgroup.parent = Some(self.cgroup_parent());
        shown.shim.path = Some(self.shim_path());
        // Only a path that is not UTF-8 cannot be written, and `check` refuses those.
        toml::to_string(&shown).unwrap_or_default()
    }

    fn has_default_root(&self) -> bool {
        self.root == Path::new(DEFAULT_ROOT) || canonical(&self.root) == canonical(Path::new(DEFAULT_ROOT))
    }
}

/// The path with its links resolved as far as it exists; the rest as written.
fn canonical(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            return match path.strip_prefix(ancestor) {
                Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
                _ => real,
            };
        }
    }
    path.to_path_buf()
}

#[cfg(test)]
mod tests;
