//! A client of the distribution protocol.
//!
//! Owns what must be ours to promise: who is asked in which order, redirects (credentials stay with their host,
//! never from TLS to plain HTTP), bounded bodies, deadlines, retries and authentication. Requests flow in,
//! responses whose status is success flow out; nothing here writes blobs to disk.
//!
//! | file | owns |
//! | --- | --- |
//! | `session` | one reference's conversation: fall-through from mirror to mirror |
//! | `authorize`, `auth` | one request to one host: redirects, challenges, tokens |
//! | `write`, `upload` | what a push needs beyond reading: requests with bodies, one blob there |
//! | `endpoint`, [`hosts`], [`declared`] | who is asked: `hosts.toml`, found and parsed, and what goes before it |
//! | `trust`, `identity`, [`proxy`] | TLS, what is shown to whom, and the way there |
//! | `patience` | tries, pauses, the pace of a body |
//! | [`credentials`], [`login`] | `auth.json` and helpers, read and written |

mod auth;
mod authorize;
pub mod credentials;
pub mod declared;
mod endpoint;
pub mod hosts;
mod identity;
pub mod login;
mod patience;
pub mod proxy;
mod session;
mod transport;
mod trust;
mod upload;
mod write;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use credentials::PullSecret;
pub use patience::{Body, OnWait, Tries, Wait};
pub use proxy::Proxies;
pub use session::{Head, Manifest, Session};
pub use transport::Registries;
pub use upload::{Sent, Told};

use crate::oci::{Digest, Platform};

/// How registries are spoken to.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Hosts (`host[:port]`) that are spoken to without TLS. Loopback hosts need not be named.
    pub plain_http_hosts: Vec<String>,
    /// `auth.json` files in the order they are searched; absent ones are skipped.
    pub auth_files: Vec<PathBuf>,
    /// `<certs_dir>/<host>/hosts.toml`: mirrors, TLS, headers.
    pub certs_dir: PathBuf,
    /// Proxies.
    pub proxies: Proxies,
    /// Blobs that are downloaded at once, from all hosts together.
    pub concurrency: usize,
    /// Blobs that are downloaded at once from one host.
    pub per_host: usize,
    /// Deadlines.
    pub timeouts: Timeouts,
}

impl RegistryConfig {
    /// With hosts described in this directory; the rest as it is without a configuration.
    pub fn with_certs(certs_dir: impl Into<PathBuf>) -> Self {
        Self {
            plain_http_hosts: Vec::new(),
            auth_files: credentials::default_files(),
            certs_dir: certs_dir.into(),
            proxies: Proxies::from_environment(),
            concurrency: 24,
            per_host: 6,
            timeouts: Timeouts::default(),
        }
    }
}

/// Deadlines of one request.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Until the connection is made.
    pub connect: Duration,
    /// Until the headers of the answer are here.
    pub headers: Duration,
    /// Between two pieces of a body, and the stretch over which its pace is looked at.
    pub stall: Duration,
    /// After which nothing is tried again that made no progress.
    pub patience: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(10), headers: seconds(15), stall: seconds(15), patience: seconds(45) }
    }
}

/// What one pull wants.
#[derive(Clone)]
pub struct PullOptions {
    /// Which of an index's images.
    pub platform: Platform,
    /// Every one of an index's images.
    pub all_platforms: bool,
    /// Speak to this reference's host without TLS.
    pub plain_http: bool,
    /// Trust whatever certificate the host shows.
    pub skip_verify: bool,
    /// User and password, instead of what auth.json has.
    pub credentials: Option<(String, String)>,
    /// Searched before any auth.json.
    pub pull_secrets: Vec<PullSecret>,
    /// The digest the reference was resolved to before; this is fetched whatever the tag says now.
    pub digest: Option<Digest>,
    /// Hears that a host is waited for.
    pub on_wait: Option<OnWait>,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            platform: Platform::host(),
            all_platforms: false,
            plain_http: false,
            skip_verify: false,
            credentials: None,
            pull_secrets: Vec::new(),
            digest: None,
            on_wait: None,
        }
    }
}

impl fmt::Debug for PullOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullOptions")
            .field("platform", &self.platform)
            .field("all_platforms", &self.all_platforms)
            .field("plain_http", &self.plain_http)
            .field("skip_verify", &self.skip_verify)
            .field("credentials", &self.credentials.as_ref().map(|_| "…"))
            .field("pull_secrets", &self.pull_secrets)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Default for RegistryConfig {
    fn default() -> Self {
        Self::with_certs("/nonexistent")
    }
}

#[cfg(test)]
impl RegistryConfig {
    /// Nothing of the machine that tests run on.
    pub(crate) fn for_tests() -> Self {
        Self { auth_files: Vec::new(), proxies: Proxies::default(), ..Self::default() }
    }
}
