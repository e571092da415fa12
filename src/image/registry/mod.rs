//! A client of the distribution protocol, read side.
//!
//! Owns what must be ours to promise: redirects (credentials stay with their host, never from TLS to
//! plain HTTP), bounded bodies, deadlines, retries and authentication. Requests flow in, responses whose
//! status is success flow out; nothing here writes to disk.

mod auth;
pub mod credentials;
mod session;
mod transport;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use session::{Head, Manifest, Session, Tries};
pub use transport::Registries;
pub(super) use transport::chain as cause;

use crate::oci::{Digest, Platform};

/// How registries are spoken to.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Hosts (`host[:port]`) that are spoken to without TLS. Loopback hosts need not be named.
    pub plain_http_hosts: Vec<String>,
    /// `auth.json` files in the order they are searched; absent ones are skipped.
    pub auth_files: Vec<PathBuf>,
    /// Blobs that are downloaded at once, from all hosts together.
    pub concurrency: usize,
    /// Blobs that are downloaded at once from one host.
    pub per_host: usize,
    /// Deadlines.
    pub timeouts: Timeouts,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            plain_http_hosts: Vec::new(),
            auth_files: credentials::default_files(),
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
    /// Between two pieces of a body.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), headers: Duration::from_secs(30), stall: Duration::from_secs(30) }
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
    /// The digest the reference was resolved to before; this is fetched whatever the tag says now.
    pub digest: Option<Digest>,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            platform: Platform::host(),
            all_platforms: false,
            plain_http: false,
            skip_verify: false,
            credentials: None,
            digest: None,
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
            .field("digest", &self.digest)
            .finish()
    }
}
