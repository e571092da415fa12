//! How hosts are reached by what manifests declare: the same things as a `hosts.toml` says of a host. What
//! stands here for a host is all that counts for it; its `hosts.toml` is not looked at.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::hosts::{Capabilities, HostSettings, HostsFile};

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

impl DeclaredRegistry {
    /// The same as a `hosts.toml` of `host` would say it.
    pub(super) fn hosts(&self, host: &str) -> Result<HostsFile, String> {
        let mut upstream = self.upstream.settings(Capabilities::default())?;
        if self.plain_http && upstream.url.is_none() {
            upstream.url = Some(url(&format!("http://{host}"), false)?);
        }
        let for_mirrors = Capabilities { push: false, ..Capabilities::default() };
        let mirrors = self.mirrors.iter().map(|mirror| mirror.settings(for_mirrors)).collect::<Result<_, _>>()?;
        Ok(HostsFile { mirrors, upstream })
    }
}

impl DeclaredHost {
    fn settings(&self, otherwise: Capabilities) -> Result<HostSettings, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let wrong = |_| format!("header {name} cannot be sent");
            let name = HeaderName::try_from(name.as_str()).map_err(|error| wrong(error.to_string()))?;
            let value = HeaderValue::try_from(value.as_str()).map_err(|error| wrong(error.to_string()))?;
            headers.append(name, value);
        }
        let capabilities = self.capabilities.map_or(otherwise, |named| Capabilities {
            pull: named.pull,
            resolve: named.resolve,
            push: named.push,
        });
        Ok(HostSettings {
            url: self.url.as_deref().map(|text| url(text, self.override_path)).transpose()?,
            capabilities,
            ca: self.ca.clone(),
            client: self.client.iter().cloned().collect(),
            skip_verify: self.skip_verify,
            headers,
            dial_timeout: self.dial_timeout,
        })
    }
}

/// Root of the API: with `/v2`, unless the path is the writer's own.
fn url(text: &str, override_path: bool) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| format!("{text:?} is not a registry's URL: {error}"))?;
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&if override_path || path.ends_with("/v2") { path } else { format!("{path}/v2") });
    Ok(url)
}
