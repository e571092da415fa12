//! How far a host is trusted: certificates to trust and to show, and the HTTP clients made of them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Certificate, Client};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::hosts::HostSettings;
use super::identity::Identities;
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
    ca: Vec<CertificateDer<'static>>,
    identities: Arc<Identities>,
    skip_verify: bool,
    connect: Duration,
    proxies: Arc<Proxies>,
    clients: Mutex<HashMap<Manner, Client>>,
}

impl Trust {
    /// The system's certificates and nothing to show.
    pub fn system(connect: Duration, proxies: Arc<Proxies>) -> Self {
        let identities = Arc::new(Identities::none());
        Self { ca: Vec::new(), identities, skip_verify: false, connect, proxies, clients: Mutex::default() }
    }

    /// What a host's settings say; an error names the file. Reads the files.
    pub fn of(settings: &HostSettings, connect: Duration, proxies: Arc<Proxies>) -> Result<Self, String> {
        let mut ca = Vec::new();
        for path in &settings.ca {
            let found: Vec<_> =
                CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<_, _>>().unwrap_or_default();
            if found.is_empty() {
                return Err(format!("{} holds no PEM certificate", path.display()));
            }
            ca.extend(found);
        }
        let identities = Arc::new(Identities::of(&settings.client, read)?);
        let connect = settings.dial_timeout.unwrap_or(connect);
        let skip_verify = settings.skip_verify;
        Ok(Self { ca, identities, skip_verify, connect, proxies, clients: Mutex::default() })
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
            identity: own && !self.identities.is_empty() && scheme == Scheme::Https,
        };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&manner) {
            return Ok(client.clone());
        }
        let client = self.build(manner)?;
        clients.insert(manner, client.clone());
        Ok(client)
    }

    fn build(&self, manner: Manner) -> Result<Client, RegistryFailure> {
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
            Manner { identity: true, skip_verify, .. } => {
                let tls = self.identities.config(&self.ca, skip_verify);
                builder.tls_backend_preconfigured(tls.map_err(|e| RegistryFailure::Tls(e.to_string()))?)
            }
            Manner { skip_verify: true, .. } => builder.tls_danger_accept_invalid_certs(true),
            Manner { .. } => {
                let ca: reqwest::Result<Vec<_>> = self.ca.iter().map(|der| Certificate::from_der(der)).collect();
                builder.tls_certs_merge(ca.map_err(|e| RegistryFailure::Tls(chain(&e)))?)
            }
        };
        builder.build().map_err(|e| RegistryFailure::Tls(chain(&e)))
    }

    /// The proxy that requests to a URL take, as shown.
    pub fn proxy_of(&self, url: &reqwest::Url) -> Option<String> {
        self.proxies.for_url(url).map(super::transport::shown_host)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    file.take(MAX_PEM).read_to_end(&mut bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(bytes)
}
