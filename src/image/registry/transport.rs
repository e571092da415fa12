//! HTTP clients by how much of TLS they trust, and what is remembered of each host.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use reqwest::{Client, Response, StatusCode};
use tokio::time::timeout;

use super::auth::Remembered;
use super::{RegistryConfig, Timeouts};
use crate::image::error::RegistryFailure;

/// `http` or `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    /// As in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// All registries: clients and what was learnt of hosts, shared by every session.
pub struct Registries {
    config: RwLock<Arc<RegistryConfig>>,
    pub(super) remembered: Remembered,
    schemes: Mutex<HashMap<String, Scheme>>,
    plain: OnceLock<Client>,
    verified: OnceLock<Client>,
    unverified: OnceLock<Client>,
}

/// Whether a host is this machine by its spelling alone: `localhost`, `127.0.0.0/8`, `[::1]`.
pub fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl Registries {
    /// No connection is made and no certificate read before the first request.
    pub fn new(config: RegistryConfig) -> Self {
        Self {
            config: RwLock::new(Arc::new(config)),
            remembered: Remembered::default(),
            schemes: Mutex::default(),
            plain: OnceLock::new(),
            verified: OnceLock::new(),
            unverified: OnceLock::new(),
        }
    }

    /// What the configuration says now.
    pub fn config(&self) -> Arc<RegistryConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says something else from the next request on.
    pub fn configure(&self, config: RegistryConfig) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// The schemes to try for a host, in order.
    pub(super) fn schemes(&self, host: &str, plain_http: bool) -> Vec<Scheme> {
        if plain_http || self.config().plain_http_hosts.iter().any(|h| h == host) {
            return vec![Scheme::Http];
        }
        if !is_loopback(host) {
            return vec![Scheme::Https];
        }
        match self.schemes.lock().unwrap_or_else(PoisonError::into_inner).get(host) {
            Some(scheme) => vec![*scheme],
            None => vec![Scheme::Http, Scheme::Https],
        }
    }

    /// Remembers which scheme a loopback host answered by.
    pub(super) fn learn(&self, host: &str, scheme: Option<Scheme>) {
        let mut schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        match scheme {
            Some(scheme) => schemes.insert(host.to_owned(), scheme),
            None => schemes.remove(host),
        };
    }

    /// Whether credentials may go to this host without TLS.
    pub(super) fn plain_is_asked_for(&self, host: &str) -> bool {
        is_loopback(host) || self.config().plain_http_hosts.iter().any(|h| h == host)
    }

    pub(super) fn client(&self, scheme: Scheme, skip_verify: bool) -> Result<Client, RegistryFailure> {
        let slot = match (scheme, skip_verify) {
            (Scheme::Http, _) => &self.plain,
            (Scheme::Https, false) => &self.verified,
            (Scheme::Https, true) => &self.unverified,
        };
        if let Some(client) = slot.get() {
            return Ok(client.clone());
        }
        // An error means that one was installed before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("bayplan/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(self.config().timeouts.connect)
            .pool_idle_timeout(std::time::Duration::from_secs(15))
            .tcp_nodelay(true)
            .no_proxy();
        builder = match (scheme, skip_verify) {
            // Reading the system's certificates takes milliseconds and megabytes that this one never needs.
            (Scheme::Http, _) => builder.tls_certs_only([]),
            (Scheme::Https, true) => builder.tls_danger_accept_invalid_certs(true),
            (Scheme::Https, false) => builder,
        };
        let client = builder.build().map_err(|e| RegistryFailure::Tls(chain(&e)))?;
        Ok(slot.get_or_init(|| client).clone())
    }
}

/// The innermost cause, which is the one that says something.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    text
}

/// What a request or a body broke by.
pub(super) fn classify(error: &reqwest::Error) -> RegistryFailure {
    let mut all = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        all.push_str(": ");
        all.push_str(&inner.to_string());
        source = inner.source();
    }
    let cause = chain(error);
    if all.contains("certificate") {
        RegistryFailure::Tls(cause)
    } else if error.is_connect() {
        RegistryFailure::Unreachable(cause)
    } else {
        RegistryFailure::Broken(cause)
    }
}

/// The whole body, when it is no longer than `limit` bytes; `None` when it is.
pub(super) async fn body(
    response: &mut Response,
    limit: u64,
    timeouts: Timeouts,
) -> Result<Option<Vec<u8>>, RegistryFailure> {
    let mut bytes = Vec::new();
    if response.content_length().is_some_and(|n| n > limit) {
        return Ok(None);
    }
    // A document of this size that takes longer than ten stalls is not going to end.
    let deadline = tokio::time::Instant::now() + timeouts.stall * 10;
    loop {
        let chunk = timeout(timeouts.stall, response.chunk())
            .await
            .map_err(|_| RegistryFailure::Stalled(timeouts.stall))?
            .map_err(|e| classify(&e))?;
        let Some(chunk) = chunk else { return Ok(Some(bytes)) };
        if bytes.len() as u64 + chunk.len() as u64 > limit {
            return Ok(None);
        }
        if tokio::time::Instant::now() > deadline {
            return Err(RegistryFailure::Stalled(timeouts.stall * 10));
        }
        bytes.extend_from_slice(&chunk);
    }
}

/// The failure behind a status that is not success, with the registry's own words: distribution-spec
/// "Error Codes", else the first line of text, else the status' name.
pub(super) async fn refusal(mut response: Response, anonymous: bool, timeouts: Timeouts) -> RegistryFailure {
    #[derive(serde::Deserialize)]
    struct Answer {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    struct Entry {
        code: String,
        message: String,
    }
    let status = response.status();
    let retry_after = response
        .headers()
        .get(reqwest::header::RETRY_AFTER)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.trim().parse().ok())
        .map(std::time::Duration::from_secs);
    let name = status.canonical_reason().unwrap_or("an unknown status").to_lowercase();
    let text = body(&mut response, 64 << 10, timeouts).await.ok().flatten().unwrap_or_default();
    let message = match serde_json::from_slice::<Answer>(&text) {
        Ok(answer) if !answer.errors.is_empty() => answer
            .errors
            .iter()
            .take(3)
            .map(|e| if e.message.is_empty() { e.code.to_lowercase() } else { e.message.clone() })
            .collect::<Vec<_>>()
            .join("; "),
        _ => {
            let text = String::from_utf8_lossy(&text);
            let line = text.trim().lines().next().unwrap_or_default().trim();
            let useful = !line.is_empty() && line.len() < 200 && !line.starts_with(['<', '{', '[']);
            if useful { line.to_owned() } else { name }
        }
    };
    let message = printable(&message);
    match status {
        StatusCode::NOT_FOUND => RegistryFailure::NotFound(message),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            RegistryFailure::Denied { status: status.as_u16(), message, anonymous }
        }
        _ => RegistryFailure::Status { status: status.as_u16(), message, retry_after },
    }
}

/// What others wrote goes to terminals: no control characters, bounded.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect::<String>().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_by_its_spelling() {
        for host in ["localhost", "LOCALHOST:5000", "127.0.0.1", "127.1.2.3:5000", "[::1]:5000", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example:5000", "128.0.0.1:5000", "registry.local", "[::2]:5000", "127.0.0.1.example"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
