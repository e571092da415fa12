//! What all conversations share: what is said of hosts, what was learnt of them, and what answers mean.

use std::collections::HashMap;
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode, Url};

use super::auth::Remembered;
use super::authorize::{Ask, Asker};
use super::declared::DeclaredRegistry;
use super::endpoint::Directory;
use super::patience::Body;
use super::trust::Scheme;
use super::{RegistryConfig, Timeouts};
use crate::image::error::RegistryFailure;
use crate::image::turns::Turns;

/// How long a mirror that could not be reached is asked last.
const REST: Duration = Duration::from_secs(30);

/// All registries, shared by every session.
pub struct Registries {
    config: RwLock<Arc<RegistryConfig>>,
    directory: RwLock<Arc<Directory>>,
    pub(super) remembered: Remembered,
    /// One at a time asks for the same token.
    pub(super) asking: Turns,
    schemes: Mutex<HashMap<String, Scheme>>,
    resting: Mutex<HashMap<String, Instant>>,
}

/// Whether a host is this machine by its spelling alone: `localhost`, `127.0.0.0/8`, `[::1]`.
pub fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn directory_of(config: &RegistryConfig) -> Directory {
    Directory::new(config.certs_dir.clone(), config.timeouts.connect, config.proxies.clone())
}

impl Registries {
    /// No connection is made and no certificate read before the first request.
    pub fn new(config: RegistryConfig) -> Self {
        let directory = directory_of(&config);
        Self {
            config: RwLock::new(Arc::new(config)),
            directory: RwLock::new(Arc::new(directory)),
            remembered: Remembered::default(),
            asking: Turns::default(),
            schemes: Mutex::default(),
            resting: Mutex::default(),
        }
    }

    /// What the configuration says now.
    pub fn config(&self) -> Arc<RegistryConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says something else from the next request on.
    pub fn configure(&self, config: RegistryConfig) {
        let directory = directory_of(&config);
        directory.declare(self.directory().all_declared());
        *self.directory.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(directory);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// Who is asked for which host.
    pub(super) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reaches these hosts in this way from now on, whatever files say of them.
    pub fn declare(&self, declared: Vec<DeclaredRegistry>) {
        self.directory().declare(declared);
    }

    /// The credential file that is declared for a host.
    pub fn declared_auth_file(&self, host: &str) -> Option<PathBuf> {
        self.directory().auth_file(host)
    }

    /// Asks by the scheme the host speaks, and finds out which where nobody said.
    pub(super) async fn by_scheme(&self, asker: &Asker<'_>, ask: &Ask) -> Result<Response, RegistryFailure> {
        let host = &asker.endpoint.host;
        let schemes = match &asker.endpoint.root {
            Some(root) if root.scheme() == "http" => vec![Scheme::Http],
            Some(_) => vec![Scheme::Https],
            None => self.schemes(host, asker.options.plain_http),
        };
        let [first, fallback] = schemes.as_slice() else {
            let only = schemes.first().copied().unwrap_or(Scheme::Https);
            let result = asker.send(only, ask).await;
            if matches!(result, Err(RegistryFailure::Unreachable(_) | RegistryFailure::Broken(_))) {
                // It may come back speaking the other one.
                self.learn(host, None);
            }
            return result;
        };
        // A server that speaks only TLS answers plain HTTP with 400 (Go, nginx), rubbish, or by hanging up.
        let plain = asker.send(*first, ask).await;
        match &plain {
            Err(RegistryFailure::Unreachable(_) | RegistryFailure::Broken(_))
            | Err(RegistryFailure::Status { status: 400, .. }) => {}
            _ => {
                self.learn(host, Some(*first));
                return plain;
            }
        }
        match asker.send(*fallback, ask).await {
            Err(RegistryFailure::Unreachable(_) | RegistryFailure::Broken(_) | RegistryFailure::Protocol(_)) => plain,
            answered => {
                self.learn(host, Some(*fallback));
                answered
            }
        }
    }

    /// The schemes to try for a host, in order.
    fn schemes(&self, host: &str, plain_http: bool) -> Vec<Scheme> {
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
    fn learn(&self, host: &str, scheme: Option<Scheme>) {
        let mut schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        match scheme {
            Some(scheme) => schemes.insert(host.to_owned(), scheme),
            None => schemes.remove(host),
        };
    }

    /// Whether credentials may go to this host without TLS.
    pub(super) fn plain_is_asked_for(&self, host: &str) -> bool {
        is_loopback(host) || self.plain_is_listed(host)
    }

    /// Whether the configuration says that this host speaks plain HTTP.
    pub(super) fn plain_is_listed(&self, host: &str) -> bool {
        self.config().plain_http_hosts.iter().any(|h| h == host)
    }

    /// A host that could not be reached is asked after others for a while.
    pub(super) fn rest(&self, host: &str) {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        resting.retain(|_, until| *until > now);
        resting.insert(host.to_owned(), now + REST);
    }

    /// Whether it rests.
    pub(super) fn rests(&self, host: &str) -> bool {
        let resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.get(host).is_some_and(|until| *until > Instant::now())
    }
}

/// `host[:port]` of a URL.
pub(super) fn shown_host(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => "nowhere".to_owned(),
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
    let named = |sign: &str| all.contains(sign);
    // The words are rustls' and its verifier's.
    if named("UnknownIssuer") || named("CaUsedAsEndEntity") {
        RegistryFailure::Tls("its certificate is of an authority that this node does not know".into())
    } else if named("alert: CertificateRequired") || named("alert: BadCertificate") {
        // TLS 1.3 has a word of its own for it; Go says the other one, too.
        RegistryFailure::Tls("it asks for a client certificate (client = … in hosts.toml)".into())
    } else if named("NotValidForName") || named("not valid for name") {
        RegistryFailure::Tls("its certificate is for another name".into())
    } else if named("InvalidContentType") {
        RegistryFailure::Protocol("it does not speak TLS".into())
    } else if named("certificate") {
        RegistryFailure::Tls(cause)
    } else if error.is_connect() {
        RegistryFailure::Unreachable(cause)
    } else {
        RegistryFailure::Broken(cause)
    }
}

/// The failure behind a status that is not success, with the registry's own words: distribution-spec
/// "Error Codes", else the first line of text, else the status' name.
pub(super) async fn refusal(response: Response, anonymous: bool, timeouts: Timeouts) -> RegistryFailure {
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
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(rest_asked);
    let name = status.canonical_reason().unwrap_or("an unknown status").to_lowercase();
    let text = Body::new(response, timeouts, None).whole(64 << 10).await.ok().flatten().unwrap_or_default();
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

/// `Retry-After`: seconds or a date (RFC 9110, 10.2.3).
fn rest_asked(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(jiff::Timestamp::now())).unwrap_or_default())
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
