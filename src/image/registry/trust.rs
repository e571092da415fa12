//! How far a host is trusted: certificates to trust and to show, and the HTTP clients made of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Certificate, Client, Identity};

use super::hosts::HostSettings;
use super::proxy::Proxies;
use super::transport::chain;
use crate::image::error::RegistryFailure;

/// Bound of a PEM file in bytes; the system's own bundle has some 200 KiB.
const MAX_PEM: u64 = 4 << 20;

/// `http` or `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// One client is made for each of these that is used.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Manner {
    scheme: Scheme,
    skip_verify: bool,
    identity: bool,
}

/// See the module. Its clients live as long as it does.
pub struct Trust {
    ca: Vec<Certificate>,
    identity: Option<Identity>,
    skip_verify: bool,
    connect: Duration,
    proxies: Arc<Proxies>,
    clients: Mutex<HashMap<Manner, Client>>,
}

impl Trust {
    /// The system's certificates and nothing to show.
    pub fn system(connect: Duration, proxies: Arc<Proxies>) -> Self {
        Self { ca: Vec::new(), identity: None, skip_verify: false, connect, proxies, clients: Mutex::default() }
    }

    /// What a host's settings say; an error names the file. Reads the files.
    pub fn of(settings: &HostSettings, connect: Duration, proxies: Arc<Proxies>) -> Result<Self, String> {
        let mut ca = Vec::new();
        for path in &settings.ca {
            let found = Certificate::from_pem_bundle(&read(path)?).unwrap_or_default();
            if found.is_empty() {
                return Err(format!("{} holds no PEM certificate", path.display()));
            }
            ca.extend(found);
        }
        let identity = match settings.client.as_slice() {
            [] => None,
            [pair] => Some(identity(pair)?),
            [_, second, ..] => {
                return Err(format!("{} is a second client certificate; one is shown to a host", second.0.display()));
            }
        };
        let connect = settings.dial_timeout.unwrap_or(connect);
        Ok(Self { ca, identity, skip_verify: settings.skip_verify, connect, proxies, clients: Mutex::default() })
    }

    /// Whether whatever certificate is shown is trusted.
    pub fn skips_verification(&self) -> bool {
        self.skip_verify
    }

    /// The client for requests to the host itself (`own`), or to where it sends us: those are trusted by the
    /// same authorities, and shown no certificate.
    pub fn client(&self, scheme: Scheme, skip_verify: bool, own: bool) -> Result<Client, RegistryFailure> {
        if let Some(why) = self.proxies.broken() {
            return Err(RegistryFailure::Config(why.to_owned()));
        }
        let manner = Manner {
            scheme,
            skip_verify: skip_verify || self.skip_verify,
            identity: own && self.identity.is_some() && scheme == Scheme::Https,
        };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&manner) {
            return Ok(client.clone());
        }
        let client = self.build(manner).map_err(|e| RegistryFailure::Tls(chain(&e)))?;
        clients.insert(manner, client.clone());
        Ok(client)
    }

    fn build(&self, manner: Manner) -> reqwest::Result<Client> {
        // An error means that one was installed before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let proxies = Arc::clone(&self.proxies);
        let mut builder = Client::builder()
            .user_agent(concat!("bayplan/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(self.connect)
            .pool_idle_timeout(Duration::from_secs(15))
            .tcp_nodelay(true)
            .no_proxy()
            .proxy(reqwest::Proxy::custom(move |url| proxies.for_url(url).cloned()));
        builder = match manner {
            // Reading the system's certificates takes milliseconds and megabytes that this one never needs.
            Manner { scheme: Scheme::Http, .. } if !self.proxies.speak_tls() => builder.tls_certs_only([]),
            Manner { skip_verify: true, .. } => builder.tls_danger_accept_invalid_certs(true),
            Manner { .. } => builder.tls_certs_merge(self.ca.iter().cloned()),
        };
        if let Some(identity) = self.identity.as_ref().filter(|_| manner.identity) {
            builder = builder.identity(identity.clone());
        }
        builder.build()
    }

    /// The proxy that requests to a URL take, as shown.
    pub fn proxy_of(&self, url: &reqwest::Url) -> Option<String> {
        self.proxies.for_url(url).map(super::transport::shown_host)
    }
}

/// A certificate with its key, from two files or one.
fn identity((certificate, key): &(PathBuf, Option<PathBuf>)) -> Result<Identity, String> {
    let mut pem = read(certificate)?;
    if let Some(key) = key {
        pem.push(b'\n');
        pem.extend(read(key)?);
    }
    // The error may quote the file, which holds a key.
    Identity::from_pem(&pem).map_err(|_| match key {
        Some(key) => format!("{} and {} are not a PEM certificate and its key", certificate.display(), key.display()),
        None => format!("{} does not hold both a PEM certificate and its key", certificate.display()),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    file.take(MAX_PEM).read_to_end(&mut bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(bytes)
}
