//! One reference's conversation with its registry.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, RANGE, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::time::timeout;

use super::auth::{self, Challenge, Key};
use super::credentials::{self, Credentials};
use super::transport::{self, Registries, Scheme};
use super::{PullOptions, Timeouts};
use crate::image::descriptor::ACCEPT_MANIFESTS;
use crate::image::document::MAX_MANIFEST;
use crate::image::error::{ImageError, RegistryFailure};
use crate::oci::{Digest, Reference};

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 5;
/// Attempts of one request or one stream without progress.
const MAX_TRIES: u32 = 5;

/// The conversation. Cheap to clone.
#[derive(Clone)]
pub struct Session {
    registries: Arc<Registries>,
    reference: Reference,
    options: Arc<PullOptions>,
}

/// A request, without what authentication adds.
struct Ask<'a> {
    method: Method,
    path: &'a str,
    accept: Option<&'static str>,
    from: u64,
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
        Self { registries, reference, options: Arc::new(options.clone()) }
    }

    /// The reference it is about.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Deadlines.
    pub fn timeouts(&self) -> Timeouts {
        self.registries.config.timeouts
    }

    /// The failure, with this conversation's names.
    pub fn error(&self, why: RegistryFailure) -> ImageError {
        ImageError::Registry { reference: self.reference.to_string(), host: self.reference.host().to_owned(), why }
    }

    /// A manifest or index by tag or digest.
    pub async fn manifest(&self, name: &str) -> Result<Manifest, ImageError> {
        let path = format!("manifests/{name}");
        let ask = Ask { method: Method::GET, path: &path, accept: Some(ACCEPT_MANIFESTS), from: 0 };
        let mut tries = Tries::default();
        let got = loop {
            match self.document(&ask).await {
                Ok(got) => break got,
                Err(why) => tries.pause(why).await.map_err(|why| self.error(why))?,
            }
        };
        let (media_type, Some(bytes)) = got else {
            return Err(ImageError::TooLarge {
                what: format!("image {}: its manifest", self.reference),
                limit: MAX_MANIFEST,
            });
        };
        Ok(Manifest { media_type, bytes })
    }

    /// What a manifest's headers say, without its bytes.
    pub async fn head(&self, name: &str) -> Result<Head, ImageError> {
        let path = format!("manifests/{name}");
        let ask = Ask { method: Method::HEAD, path: &path, accept: Some(ACCEPT_MANIFESTS), from: 0 };
        let mut tries = Tries::default();
        let response = loop {
            match self.send(&ask).await {
                Ok(response) => break response,
                Err(why) => tries.pause(why).await.map_err(|why| self.error(why))?,
            }
        };
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        Ok(Head {
            media_type: content_type(&response),
            digest: header("docker-content-digest").and_then(|v| v.parse().ok()),
            size: header("content-length").and_then(|v| v.parse().ok()),
        })
    }

    /// A blob from byte `from` on. One attempt: what comes of it is known only when the body was read. The
    /// second value is where the body starts, which is 0 when the registry knows no ranges.
    pub async fn blob(&self, digest: &Digest, from: u64) -> Result<(Response, u64), RegistryFailure> {
        let path = format!("blobs/{digest}");
        let response = self.send(&Ask { method: Method::GET, path: &path, accept: None, from }).await?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok((response, 0));
        }
        // RFC 9110, 14.4: `bytes 10-99/100`.
        let start = response
            .headers()
            .get(reqwest::header::CONTENT_RANGE)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.strip_prefix("bytes "))
            .and_then(|v| v.split('-').next())
            .and_then(|v| v.trim().parse().ok());
        match start {
            Some(start) if start == from => Ok((response, start)),
            _ => Err(RegistryFailure::Protocol(format!("it was asked for bytes from {from} on and sent others"))),
        }
    }

    /// Media type and bytes; `None` for more bytes than a manifest may have.
    async fn document(&self, ask: &Ask<'_>) -> Result<(String, Option<Vec<u8>>), RegistryFailure> {
        let mut response = self.send(ask).await?;
        let media_type = content_type(&response);
        let bytes = transport::body(&mut response, MAX_MANIFEST, self.timeouts()).await?;
        Ok((media_type, bytes))
    }

    /// One request by the scheme the host speaks; a response that is not success is an error.
    async fn send(&self, ask: &Ask<'_>) -> Result<Response, RegistryFailure> {
        let host = self.reference.host();
        let schemes = self.registries.schemes(host, self.options.plain_http);
        let [first, fallback] = schemes.as_slice() else {
            let only = schemes.first().copied().unwrap_or(Scheme::Https);
            let result = self.authorized(only, ask).await;
            if matches!(result, Err(RegistryFailure::Unreachable(_) | RegistryFailure::Broken(_))) {
                // It may come back speaking the other one.
                self.registries.learn(host, None);
            }
            return result;
        };
        // A server that speaks only TLS answers plain HTTP with 400 (Go, nginx), rubbish, or by hanging up.
        let plain = self.authorized(*first, ask).await;
        match &plain {
            Err(RegistryFailure::Unreachable(_) | RegistryFailure::Broken(_))
            | Err(RegistryFailure::Status { status: 400, .. }) => {}
            _ => {
                self.registries.learn(host, Some(*first));
                return plain;
            }
        }
        match self.authorized(*fallback, ask).await {
            Err(RegistryFailure::Unreachable(_) | RegistryFailure::Broken(_)) => plain,
            answered => {
                self.registries.learn(host, Some(*fallback));
                answered
            }
        }
    }

    /// One request, authenticated as far as the registry asks for it.
    async fn authorized(&self, scheme: Scheme, ask: &Ask<'_>) -> Result<Response, RegistryFailure> {
        let host = match self.reference.host() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let url = format!("{}://{host}/v2/{}/{}", scheme.as_str(), self.reference.path(), ask.path);
        let url = Url::parse(&url).map_err(|e| RegistryFailure::Protocol(format!("{url} is no URL: {e}")))?;
        let key = Key {
            host: self.reference.host().to_owned(),
            repository: self.reference.path().to_owned(),
            given: self.options.credentials.clone(),
            skip_verify: self.options.skip_verify || scheme == Scheme::Http,
        };
        let remembered = self.registries.remembered.get(&key);
        let mut response = self.follow(url.clone(), ask, remembered.as_ref()).await?;
        let mut anonymous = false;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.registries.remembered.forget(&key);
            if let Some(challenge) = auth::challenge(response.headers().get_all(WWW_AUTHENTICATE).iter()) {
                drop(response);
                let credentials = self.credentials().await?;
                anonymous = credentials.is_none();
                let header = self.answer(&challenge, credentials.as_ref(), &key).await?;
                // Refused once more with what we just got, there is nothing else to show: no loop.
                response = self.follow(url, ask, header.as_ref()).await?;
            }
        }
        if response.status().is_success() {
            return Ok(response);
        }
        if response.status() == StatusCode::UNAUTHORIZED {
            self.registries.remembered.forget(&key);
        }
        Err(transport::refusal(response, anonymous, self.timeouts()).await)
    }

    /// Sends and follows redirects. Authorization stays with the origin it was meant for.
    async fn follow(
        &self,
        origin: Url,
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RegistryFailure> {
        let mut url = origin.clone();
        for _ in 0..=MAX_REDIRECTS {
            let scheme = if url.scheme() == "http" { Scheme::Http } else { Scheme::Https };
            let mut request =
                self.registries.client(scheme, self.options.skip_verify)?.request(ask.method.clone(), url.clone());
            if let Some(accept) = ask.accept {
                request = request.header(ACCEPT, accept);
            }
            if ask.from > 0 {
                request = request.header(RANGE, format!("bytes={}-", ask.from));
            }
            if let Some(header) = authorization
                && url.origin() == origin.origin()
            {
                request = request.header(AUTHORIZATION, header.clone());
            }
            let response = self.execute(request).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
            let location = location.ok_or_else(|| RegistryFailure::Redirect("without saying where".into()))?;
            let next =
                url.join(location).map_err(|_| RegistryFailure::Redirect("to something that is no URL".into()))?;
            match (url.scheme(), next.scheme()) {
                ("https", "http") => {
                    return Err(RegistryFailure::Redirect(format!("from TLS to plain HTTP at {}", shown_host(&next))));
                }
                (_, "http" | "https") => url = next,
                (_, other) => return Err(RegistryFailure::Redirect(format!("to a {other} URL"))),
            }
        }
        Err(RegistryFailure::Redirect(format!("more than {MAX_REDIRECTS} times")))
    }

    async fn execute(&self, request: reqwest::RequestBuilder) -> Result<Response, RegistryFailure> {
        let headers = self.timeouts().headers;
        timeout(headers, request.send())
            .await
            .map_err(|_| RegistryFailure::Stalled(headers))?
            .map_err(|e| transport::classify(&e))
    }

    async fn credentials(&self) -> Result<Option<Credentials>, RegistryFailure> {
        if let Some((user, password)) = &self.options.credentials {
            return Ok(Some(Credentials::Password { user: user.clone(), password: password.clone() }));
        }
        if let Some(found) =
            credentials::find_in(&self.options.pull_secrets, &self.reference).map_err(RegistryFailure::Auth)?
        {
            return Ok(Some(found));
        }
        credentials::find(&self.registries.config.auth_files, &self.reference).await.map_err(RegistryFailure::Auth)
    }

    /// The header that answers a challenge, remembered for the next request.
    async fn answer(
        &self,
        challenge: &Challenge,
        credentials: Option<&Credentials>,
        key: &Key,
    ) -> Result<Option<HeaderValue>, RegistryFailure> {
        let (header, life) = match (challenge, credentials) {
            (_, Some(Credentials::RegistryToken(token))) => (auth::bearer(token), Duration::from_secs(300)),
            (Challenge::Basic, Some(Credentials::Password { user, password })) => {
                (auth::basic(user, password), Duration::from_secs(300))
            }
            (Challenge::Basic, _) => return Ok(None),
            (Challenge::Bearer { realm, service, scope }, credentials) => {
                let own = format!("repository:{}:pull", self.reference.path());
                let scope = scope.as_deref().filter(|s| !s.is_empty()).unwrap_or(&own);
                let (header, life) = self.token(realm, service.as_deref(), scope, credentials).await?;
                (Some(header), life)
            }
        };
        let header =
            header.ok_or_else(|| RegistryFailure::Auth("the credentials hold characters no header can".into()))?;
        self.registries.remembered.put(key.clone(), header.clone(), life);
        Ok(Some(header))
    }

    /// A token from the endpoint that the registry named (distribution "Token Authentication").
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        credentials: Option<&Credentials>,
    ) -> Result<(HeaderValue, Duration), RegistryFailure> {
        let mut url = auth::token_url(realm, service, scope, credentials).map_err(RegistryFailure::Auth)?;
        let endpoint = shown_host(&url);
        let (scheme, secure) = if url.scheme() == "https" { (Scheme::Https, true) } else { (Scheme::Http, false) };
        let asked_for = self.registries.plain_is_asked_for(&endpoint)
            || (self.options.plain_http && endpoint == self.reference.host());
        if credentials.is_some() && !secure && !asked_for {
            return Err(RegistryFailure::Auth(format!("its token endpoint {endpoint} would get them without TLS")));
        }
        let client = self.registries.client(scheme, self.options.skip_verify)?;
        let request = match credentials {
            Some(Credentials::IdentityToken(token)) => {
                let mut form = url.clone();
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("client_id", "bayplan")
                    .append_pair("refresh_token", token);
                let body = form.query().unwrap_or_default().to_owned();
                url.set_query(None);
                client.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
            }
            Some(Credentials::Password { user, password }) => client.get(url).basic_auth(user, Some(password)),
            _ => client.get(url),
        };
        let failed = |why: RegistryFailure| match why {
            // A token endpoint that is busy is worth another try like the registry itself.
            busy @ RegistryFailure::Status { .. } if busy.transient().is_some() => busy,
            other => RegistryFailure::Auth(format!("its token endpoint {endpoint} {other}")),
        };
        let mut response = self.execute(request).await.map_err(failed)?;
        if !response.status().is_success() {
            let why = transport::refusal(response, credentials.is_none(), self.timeouts()).await;
            return Err(match why {
                denied @ RegistryFailure::Denied { .. } => denied,
                other => failed(other),
            });
        }
        let body = transport::body(&mut response, 1 << 20, self.timeouts()).await.map_err(failed)?;
        let answer: Option<auth::TokenAnswer> = body.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        answer
            .and_then(|answer| answer.header())
            .ok_or_else(|| RegistryFailure::Auth(format!("its token endpoint {endpoint} answered without a token")))
    }
}

fn content_type(response: &Response) -> String {
    response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

fn shown_host(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => "nowhere".to_owned(),
    }
}

/// Attempts at one thing, and the pauses between them.
#[derive(Default)]
pub struct Tries(u32);

impl Tries {
    /// Progress was made: what broke before does not count any more.
    pub fn forgive(&mut self) {
        self.0 = 0;
    }

    /// Waits before the next attempt; gives the failure back when it will not pass by itself or there were
    /// attempts enough.
    pub async fn pause(&mut self, why: RegistryFailure) -> Result<(), RegistryFailure> {
        self.0 += 1;
        match why.transient() {
            Some(asked) if self.0 < MAX_TRIES => {
                tokio::time::sleep(back_off(self.0, asked)).await;
                Ok(())
            }
            _ => Err(why),
        }
    }
}

/// The pause before try `tries + 1`: 0.2 s doubling to 5 s with up to half as much again at random, or
/// what `Retry-After` asked for, at most half a minute.
fn back_off(tries: u32, asked: Option<Duration>) -> Duration {
    use std::hash::{BuildHasher, Hasher};
    if let Some(asked) = asked {
        return asked.min(Duration::from_secs(30));
    }
    let base = Duration::from_millis(200 << tries.saturating_sub(1).min(5)).min(Duration::from_secs(5));
    // The seed of a hash map is as random as jitter needs.
    let noise = std::collections::hash_map::RandomState::new().build_hasher().finish() % 512;
    base + base * (noise as u32) / 1024
}
