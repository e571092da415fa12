//! One reference's conversation: mirrors are asked in their order, then its own host.
//!
//! Whatever a mirror answers that is not what was asked for, the next host is asked: being down, not having it,
//! refusing us, or handing out something else. A blob that breaks off goes on at the next host where it broke.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};

use super::authorize::{Ask, Asker};
use super::endpoint::Endpoint;
use super::patience::{Body, Tries};
use super::transport::Registries;
use super::{PullOptions, Timeouts};
use crate::image::descriptor::{self, ACCEPT_MANIFESTS, Kind};
use crate::image::document::MAX_MANIFEST;
use crate::image::error::{ImageError, RegistryFailure};
use crate::oci::{Digest, Reference};

/// The conversation. Cheap to clone.
#[derive(Clone)]
pub struct Session {
    registries: Arc<Registries>,
    reference: Reference,
    options: Arc<PullOptions>,
    blobs: Arc<Mutex<HashMap<Digest, Served>>>,
}

/// Who was asked for a blob so far.
#[derive(Default)]
struct Served {
    /// How often.
    asked: usize,
    /// Who answered last.
    by: Option<String>,
    /// Whose bytes turned out wrong.
    wrong: HashSet<String>,
}

/// What a host must be capable of.
#[derive(Clone, Copy)]
enum Need {
    Pull,
    Resolve,
}

/// A manifest as a registry gave it.
pub struct Manifest {
    /// By its Content-Type.
    pub media_type: String,
    /// The bytes, at most [`MAX_MANIFEST`].
    pub bytes: Vec<u8>,
}

/// What HEAD said about a manifest.
pub struct Head {
    /// By its Content-Type.
    pub media_type: String,
    /// `Docker-Content-Digest`.
    pub digest: Option<Digest>,
    /// `Content-Length`.
    pub size: Option<u64>,
}

impl Session {
    /// A conversation about `reference`.
    pub fn new(registries: Arc<Registries>, reference: Reference, options: &PullOptions) -> Self {
        Self { registries, reference, options: Arc::new(options.clone()), blobs: Arc::default() }
    }

    /// The reference it is about.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Deadlines.
    pub fn timeouts(&self) -> Timeouts {
        self.registries.config.timeouts
    }

    /// Attempts at something this conversation is about.
    pub fn tries(&self) -> Tries {
        Tries::new(self.reference.host().to_owned(), self.timeouts().patience, self.options.on_wait.clone())
    }

    /// The failure, with this conversation's names.
    pub fn error(&self, why: RegistryFailure) -> ImageError {
        ImageError::registry(self.reference.to_string(), self.reference.host(), why)
    }

    /// A manifest or index by tag or digest.
    pub async fn manifest(&self, name: &str) -> Result<Manifest, ImageError> {
        let mut tries = self.tries();
        loop {
            match self.manifest_once(name).await {
                Ok(got) => return Ok(got),
                Err(why) => tries.pause(why).await.map_err(|why| self.error(why))?,
            }
        }
    }

    /// What a manifest's headers say, without its bytes.
    pub async fn head(&self, name: &str) -> Result<Head, ImageError> {
        let mut tries = self.tries();
        loop {
            match self.head_once(name).await {
                Ok(head) => return Ok(head),
                Err(why) => tries.pause(why).await.map_err(|why| self.error(why))?,
            }
        }
    }

    /// A blob from byte `from` on. One attempt at each host: what comes of it is known only when the body was
    /// read. The second value is where the body starts, which is 0 when the registry knows no ranges.
    ///
    /// Asked again for the same blob, what came before has broken: another host begins.
    pub async fn blob(&self, digest: &Digest, from: u64) -> Result<(Body, u64), RegistryFailure> {
        let mut endpoints = self.endpoints(Need::Pull)?;
        {
            let mut blobs = self.blobs();
            let served = blobs.entry(digest.clone()).or_default();
            let turn = served.asked % endpoints.len().max(1);
            endpoints.rotate_left(turn);
            // Nobody but liars is left only where `distrust` was not asked.
            if endpoints.iter().any(|endpoint| !served.wrong.contains(&endpoint.host)) {
                endpoints.retain(|endpoint| !served.wrong.contains(&endpoint.host));
            }
            served.asked += 1;
        }
        let mut failed = Failed::default();
        for endpoint in &endpoints {
            match self.blob_of(endpoint, digest, from).await {
                Ok(got) => {
                    self.blobs().entry(digest.clone()).or_default().by = Some(endpoint.host.clone());
                    return Ok(got);
                }
                Err(why) => self.failed(&mut failed, endpoint, why, endpoints.len()),
            }
        }
        Err(failed.end(self.reference.host()))
    }

    /// The blob's bytes were wrong: whoever sent the last of them is not asked for it again. Whether there is
    /// anybody else.
    pub fn distrust(&self, digest: &Digest) -> bool {
        let Ok(endpoints) = self.endpoints(Need::Pull) else { return false };
        let mut blobs = self.blobs();
        let Some(served) = blobs.get_mut(digest) else { return false };
        if let Some(host) = served.by.take() {
            tracing::warn!(blob = %digest, %host, "sent other bytes than it was asked for");
            served.wrong.insert(host);
        }
        endpoints.iter().any(|endpoint| !served.wrong.contains(&endpoint.host))
    }

    fn blobs(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Served>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who can be asked, in order; mirrors that were down a moment ago come last.
    fn endpoints(&self, need: Need) -> Result<Vec<Arc<Endpoint>>, RegistryFailure> {
        let all = self.registries.directory.endpoints(self.reference.host()).map_err(RegistryFailure::Config)?;
        let mut able: Vec<_> = all
            .iter()
            .filter(|endpoint| match need {
                Need::Pull => endpoint.capabilities.pull,
                Need::Resolve => endpoint.capabilities.resolve,
            })
            .cloned()
            .collect();
        if able.is_empty() {
            let what = match need {
                Need::Pull => "pull",
                Need::Resolve => "resolve",
            };
            return Err(RegistryFailure::Config(format!("its hosts.toml names nobody with the capability {what}")));
        }
        able.sort_by_key(|endpoint| self.registries.rests(&endpoint.host));
        Ok(able)
    }

    fn failed(&self, failed: &mut Failed, endpoint: &Endpoint, why: RegistryFailure, of: usize) {
        if of > 1 {
            tracing::info!(reference = %self.reference, "{} {why}; the next host is asked", endpoint.host);
            if matches!(why, RegistryFailure::Unreachable(_) | RegistryFailure::Stalled(_)) {
                self.registries.rest(&endpoint.host);
            }
        }
        failed.0.push((endpoint.upstream, endpoint.host.clone(), why));
    }

    async fn manifest_once(&self, name: &str) -> Result<Manifest, RegistryFailure> {
        let digest: Option<Digest> = name.parse().ok();
        let mut ask = Ask::new(Method::GET, format!("manifests/{name}"));
        ask.headers.insert(ACCEPT, HeaderValue::from_static(ACCEPT_MANIFESTS));
        let endpoints = self.endpoints(if digest.is_some() { Need::Pull } else { Need::Resolve })?;
        let mut failed = Failed::default();
        for endpoint in &endpoints {
            let got = match self.document(endpoint, &ask).await {
                // At the last one who is asked it is for the caller to say what is wrong with it.
                Ok(got) if !endpoint.upstream && digest.as_ref().is_some_and(|d| *d != Digest::of(&got.bytes)) => {
                    Err(RegistryFailure::Protocol("it sent another manifest than the digest asked for".into()))
                }
                other => other,
            };
            match got {
                Ok(got) => return Ok(got),
                Err(why) => self.failed(&mut failed, endpoint, why, endpoints.len()),
            }
        }
        Err(failed.end(self.reference.host()))
    }

    async fn head_once(&self, name: &str) -> Result<Head, RegistryFailure> {
        let mut ask = Ask::new(Method::HEAD, format!("manifests/{name}"));
        ask.headers.insert(ACCEPT, HeaderValue::from_static(ACCEPT_MANIFESTS));
        let need = if name.parse::<Digest>().is_ok() { Need::Pull } else { Need::Resolve };
        let endpoints = self.endpoints(need)?;
        let mut failed = Failed::default();
        for endpoint in &endpoints {
            match self.send(endpoint, &ask).await {
                Ok(response) => {
                    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
                    return Ok(Head {
                        media_type: content_type(&response),
                        digest: header("docker-content-digest").and_then(|v| v.parse().ok()),
                        size: header("content-length").and_then(|v| v.parse().ok()),
                    });
                }
                Err(why) => self.failed(&mut failed, endpoint, why, endpoints.len()),
            }
        }
        Err(failed.end(self.reference.host()))
    }

    async fn blob_of(&self, endpoint: &Endpoint, digest: &Digest, from: u64) -> Result<(Body, u64), RegistryFailure> {
        let mut ask = Ask::new(Method::GET, format!("blobs/{digest}"));
        if from > 0
            && let Ok(range) = HeaderValue::try_from(format!("bytes={from}-"))
        {
            ask.headers.insert(RANGE, range);
        }
        let response = self.send(endpoint, &ask).await?;
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        // RFC 9110, 14.4: `bytes 10-99/100`.
        let start = response
            .headers()
            .get(reqwest::header::CONTENT_RANGE)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.strip_prefix("bytes "))
            .and_then(|v| v.split('-').next())
            .and_then(|v| v.trim().parse().ok());
        let host = (endpoint.host != self.reference.host()).then(|| endpoint.host.clone());
        let body = Body::new(response, self.timeouts(), host);
        match start {
            _ if !partial => Ok((body, 0)),
            Some(start) if start == from => Ok((body, start)),
            _ => Err(RegistryFailure::Protocol(format!("it was asked for bytes from {from} on and sent others"))),
        }
    }

    /// A manifest's bytes and type, when they can be one.
    async fn document(&self, endpoint: &Endpoint, ask: &Ask) -> Result<Manifest, RegistryFailure> {
        let response = self.send(endpoint, ask).await?;
        let media_type = content_type(&response);
        let bytes = Body::new(response, self.timeouts(), None)
            .whole(MAX_MANIFEST)
            .await?
            .ok_or(RegistryFailure::TooLarge(MAX_MANIFEST))?;
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            let kind = if media_type.is_empty() { "something without a type" } else { &media_type };
            return Err(RegistryFailure::Protocol(format!("it answers {kind} where a manifest is asked for")));
        }
        agrees(&media_type, &bytes)?;
        Ok(Manifest { media_type, bytes })
    }

    /// One request by the scheme the host speaks; a response that is not success is an error.
    async fn send(&self, endpoint: &Endpoint, ask: &Ask) -> Result<Response, RegistryFailure> {
        let asker = Asker {
            registries: &self.registries,
            endpoint,
            options: &self.options,
            name: self.reference.host(),
            repository: Some(self.reference.path()),
            actions: "pull",
        };
        self.registries.by_scheme(&asker, ask).await
    }
}

/// What each host did, until one does what it should.
#[derive(Default)]
struct Failed(Vec<(bool, String, RegistryFailure)>);

impl Failed {
    /// The upstream's failure if it was asked, else the last one's, after those of the others.
    fn end(mut self, name: &str) -> RegistryFailure {
        let at = self.0.iter().position(|(upstream, ..)| *upstream).unwrap_or(self.0.len().saturating_sub(1));
        if self.0.is_empty() {
            return RegistryFailure::Config("nobody is named to be asked".into());
        }
        let (_, host, why) = self.0.remove(at);
        let before: Box<[_]> = self.0.into_iter().map(|(_, host, why)| (host, why)).collect();
        if before.is_empty() && host == name {
            return why;
        }
        RegistryFailure::At { host, why: Box::new(why), before }
    }
}

fn content_type(response: &Response) -> String {
    response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

/// Whether a Content-Type that says index or manifest is not contradicted by the document itself
/// (distribution-spec, "Pulling manifests"). Types that say neither are tolerated: plain file servers send them.
fn agrees(content_type: &str, bytes: &[u8]) -> Result<(), RegistryFailure> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
    }
    let told = content_type.split(';').next().unwrap_or_default().trim();
    let own = serde_json::from_slice::<Typed>(bytes).ok().and_then(|typed| typed.media_type).unwrap_or_default();
    match (descriptor::kind(told), descriptor::kind(&own)) {
        (Kind::Index, Kind::Manifest) | (Kind::Manifest, Kind::Index) => {
            Err(RegistryFailure::Protocol(format!("it sends as {told} what calls itself {own}")))
        }
        _ => Ok(()),
    }
}
