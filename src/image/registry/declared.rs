//! How hosts are reached by what manifests declare: the same things as a `hosts.toml` says of a host. What
//! stands here for a host is all that counts for it; its `hosts.toml` is not looked at.

use std::path::PathBuf;
use std::time::Duration;

/// The policy of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeclaredRegistry {
    /// `host[:port]` as references name it, or `_default`.
    pub host: String,
    /// Asked first, in this order.
    pub mirrors: Vec<DeclaredHost>,
    /// Asked last; without a URL the host itself, by TLS.
    pub upstream: DeclaredHost,
    /// The host itself is spoken to without TLS.
    pub plain_http: bool,
    /// An `auth.json`, searched before the node's own.
    pub auth_file: Option<PathBuf>,
}

/// One host and how to speak to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeclaredHost {
    /// `http(s)://HOST[:PORT][/PATH]`; none for the host that a reference names.
    pub url: Option<String>,
    /// The URL has the whole path: `/v2` is not added.
    pub override_path: bool,
    /// What it may be asked for; none where nothing is said: all for the upstream, pull and resolve for a mirror.
    pub capabilities: Option<DeclaredCapabilities>,
    /// Files of PEM certificates to trust beside the system's.
    pub ca: Vec<PathBuf>,
    /// The certificate to show, and its key's file unless that is in the same one.
    pub client: Option<(PathBuf, Option<PathBuf>)>,
    /// Trust whatever certificate it shows.
    pub skip_verify: bool,
    /// Sent with each request to this host and no other.
    pub headers: Vec<(String, String)>,
    /// Until the connection is made.
    pub dial_timeout: Option<Duration>,
}

/// What a host may be asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeclaredCapabilities {
    /// Manifests by digest, and blobs.
    pub pull: bool,
    /// What a tag points at.
    pub resolve: bool,
    /// Writing.
    pub push: bool,
}

/// The policy for a host: its own, else the one for every other.
pub fn policy<'a>(declared: &'a [DeclaredRegistry], host: &str) -> Option<&'a DeclaredRegistry> {
    let of = |name: &str| declared.iter().find(|registry| registry.host == name);
    of(host).or_else(|| of("_default"))
}
