//! One request to one host: redirects followed, challenges answered.
//!
//! What holds here: `Authorization`, a host's own headers and its client certificate go to that origin (scheme,
//! host, port) and nowhere else; TLS is never left by a redirect; credentials go over plain HTTP only to hosts
//! that were asked for so; a 401 is answered once, and only if it is the host's own.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::time::timeout;

use super::PullOptions;
use super::auth::{self, Challenge, Grant, Key};
use super::credentials::{self, Credentials};
use super::endpoint::Endpoint;
use super::patience::Body;
use super::transport::{self, Registries, is_loopback, shown_host};
use super::trust::Scheme;
use crate::image::error::RegistryFailure;

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 5;

/// A request, without what authentication adds.
pub struct Ask {
    /// GET or HEAD.
    pub method: Method,
    /// Beneath the repository, or beneath the API's root where there is none.
    pub path: String,
    /// Sent wherever a redirect leads.
    pub headers: HeaderMap,
}

impl Ask {
    /// Without headers.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: HeaderMap::new() }
    }
}

/// Who asks which host, about what.
pub struct Asker<'a> {
    /// All hosts.
    pub registries: &'a Registries,
    /// The one that is asked.
    pub endpoint: &'a Endpoint,
    /// Trust and credentials given for this occasion; they count for the upstream alone.
    pub options: &'a PullOptions,
    /// The host as references name it.
    pub name: &'a str,
    /// The repository beneath it.
    pub repository: Option<&'a str>,
    /// What a token must permit, in words of the protocol: `pull` or `pull,push`.
    pub actions: &'static str,
}

impl Asker<'_> {
    /// The answer if it is success; any other status is an error.
    pub async fn send(&self, scheme: Scheme, ask: &Ask) -> Result<Response, RegistryFailure> {
        let url = self.url(scheme, &ask.path)?;
        let key = self.key(&url);
        let remembered = self.registries.remembered.get(&key);
        let mut response = self.follow(url.clone(), ask, remembered.as_ref()).await?;
        let mut grant = remembered;
        // Who was not asked by us but by a redirect has no business asking who we are.
        if response.status() == StatusCode::UNAUTHORIZED
            && response.url().origin() == url.origin()
            && let Some(challenge) = auth::challenge(response.headers().get_all(WWW_AUTHENTICATE).iter())
        {
            drop(response);
            grant = self.renew(&url, &challenge, &key, grant.as_ref()).await?;
            // Refused once more with what we just got, there is nothing else to show: no loop.
            response = self.follow(url, ask, grant.as_ref()).await?;
        }
        if response.status().is_success() {
            return Ok(response);
        }
        if response.status() == StatusCode::UNAUTHORIZED {
            self.registries.remembered.forget(&key);
        }
        let anonymous = grant.is_none_or(|grant| grant.anonymous);
        Err(transport::refusal(response, anonymous, self.registries.config.timeouts).await)
    }

    /// Whether it was asked who we are, and satisfied.
    pub fn has_grant(&self, scheme: Scheme) -> bool {
        self.url(scheme, "").is_ok_and(|url| self.registries.remembered.get(&self.key(&url)).is_some())
    }

    fn url(&self, scheme: Scheme, path: &str) -> Result<Url, RegistryFailure> {
        let root = match &self.endpoint.root {
            Some(root) => root.as_str().trim_end_matches('/').to_owned(),
            None => {
                let host = if self.name == "docker.io" { "registry-1.docker.io" } else { self.name };
                format!("{}://{host}/v2", scheme.as_str())
            }
        };
        let text = match self.repository {
            Some(repository) => format!("{root}/{repository}/{path}"),
            None => format!("{root}/{path}"),
        };
        let mut url = Url::parse(&text).map_err(|e| RegistryFailure::Protocol(format!("{text} is no URL: {e}")))?;
        // containerd's way to tell a mirror of several registries which one is meant.
        let docker = self.name == "docker.io" && self.endpoint.host == "registry-1.docker.io";
        if self.repository.is_some() && self.endpoint.host != self.name && !docker {
            url.query_pairs_mut().append_pair("ns", self.name);
        }
        Ok(url)
    }

    fn skip_verify(&self) -> bool {
        self.options.skip_verify && self.endpoint.upstream
    }

    fn key(&self, url: &Url) -> Key {
        let origin = url.origin().ascii_serialization();
        let unverified = self.skip_verify() || self.endpoint.trust.skips_verification();
        // A token got over an unverified connection is not used on a verified one.
        let mut parts = vec![&*origin, self.repository.unwrap_or(""), self.actions, if unverified { "k" } else { "" }];
        if let Some((user, password)) = self.given() {
            parts.extend(["given", user, password]);
        }
        // What one namespace's secrets got is not another's.
        parts.extend(self.options.pull_secrets.iter().map(|secret| secret.text.as_str()));
        auth::key(&parts)
    }

    fn given(&self) -> Option<&(String, String)> {
        self.options.credentials.as_ref().filter(|_| self.endpoint.upstream)
    }

    /// Sends and follows redirects.
    async fn follow(&self, origin: Url, ask: &Ask, grant: Option<&Grant>) -> Result<Response, RegistryFailure> {
        let mut url = origin.clone();
        for _ in 0..=MAX_REDIRECTS {
            let scheme = if url.scheme() == "http" { Scheme::Http } else { Scheme::Https };
            let own = url.origin() == origin.origin();
            let client = self.endpoint.trust.client(scheme, self.skip_verify(), own)?;
            let mut request = client.request(ask.method.clone(), url.clone()).headers(ask.headers.clone());
            if own {
                request = request.headers(self.endpoint.headers.clone());
                if let Some(grant) = grant {
                    request = request.header(AUTHORIZATION, grant.header.clone());
                }
            }
            let response = self.execute(request, &url).await?;
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

    async fn execute(&self, request: reqwest::RequestBuilder, url: &Url) -> Result<Response, RegistryFailure> {
        let headers = self.registries.config.timeouts.headers;
        let result = timeout(headers, request.send()).await.map_err(|_| RegistryFailure::Stalled(headers))?;
        result.map_err(|e| match (transport::classify(&e), self.endpoint.trust.proxy_of(url)) {
            (RegistryFailure::Unreachable(why), Some(proxy)) => {
                RegistryFailure::Unreachable(format!("{why} (by way of proxy {proxy})"))
            }
            (why, _) => why,
        })
    }

    /// What to show instead of what was refused. One asks, those who were refused beside it take what it got.
    async fn renew(
        &self,
        url: &Url,
        challenge: &Challenge,
        key: &Key,
        refused: Option<&Grant>,
    ) -> Result<Option<Grant>, RegistryFailure> {
        let _turn = self.registries.asking.lock(key).await;
        if let Some(newer) = self.registries.remembered.get(key)
            && refused.is_none_or(|old| old.header != newer.header)
        {
            return Ok(Some(newer));
        }
        self.registries.remembered.forget(key);
        let credentials = self.credentials().await?;
        if credentials.is_some() && url.scheme() == "http" && !self.plain_is_asked_for(url) {
            return Err(RegistryFailure::Auth("it would get the credentials without TLS".into()));
        }
        let Some((header, life)) = self.answer(url, challenge, credentials.as_ref()).await? else { return Ok(None) };
        let grant = Grant { header, anonymous: credentials.is_none() };
        self.registries.remembered.put(key.clone(), grant.clone(), life);
        Ok(Some(grant))
    }

    /// Whether credentials may go there without TLS: somebody wrote down that this host speaks plain HTTP, or
    /// it is this machine.
    fn plain_is_asked_for(&self, url: &Url) -> bool {
        let host = shown_host(url);
        let configured = self.endpoint.root.as_ref().is_some_and(|root| root.origin() == url.origin());
        let by_hand = self.options.plain_http && self.endpoint.upstream && host == self.name;
        configured || by_hand || self.registries.plain_is_asked_for(&host)
    }

    async fn credentials(&self) -> Result<Option<Credentials>, RegistryFailure> {
        if let Some((user, password)) = self.given() {
            return Ok(Some(Credentials::Password { user: user.clone(), password: password.clone() }));
        }
        let path = self.repository.unwrap_or("");
        // The upstream is known by the name that references have for it, wherever hosts.toml says it is.
        let mut names = vec![self.endpoint.host.as_str()];
        if self.endpoint.upstream && self.endpoint.host != self.name {
            names.insert(0, self.name);
        }
        for name in names {
            let files = &self.registries.config.auth_files;
            let found = credentials::find(&self.options.pull_secrets, files, name, path).await;
            if let Some(found) = found.map_err(RegistryFailure::Auth)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The header that answers a challenge, and how long it may be used.
    async fn answer(
        &self,
        url: &Url,
        challenge: &Challenge,
        credentials: Option<&Credentials>,
    ) -> Result<Option<(reqwest::header::HeaderValue, Duration)>, RegistryFailure> {
        const KEPT: Duration = Duration::from_secs(300);
        let header = match (challenge, credentials) {
            (_, Some(Credentials::RegistryToken(token))) => auth::bearer(token),
            (Challenge::Basic, Some(Credentials::Password { user, password })) => auth::basic(user, password),
            (Challenge::Basic, Some(Credentials::IdentityToken(_))) => {
                return Err(RegistryFailure::Auth("it asks for a password, and there is an identity token".into()));
            }
            (Challenge::Basic, None) => return Ok(None),
            (Challenge::Bearer { realm, service, scope }, credentials) => {
                let own = self.repository.map(|path| format!("repository:{path}:{}", self.actions));
                let scope = scope.as_deref().filter(|s| !s.is_empty()).or(own.as_deref());
                return self.token(url, realm, service.as_deref(), scope, credentials).await.map(Some);
            }
        };
        let header =
            header.ok_or_else(|| RegistryFailure::Auth("the credentials hold characters no header can".into()))?;
        Ok(Some((header, KEPT)))
    }

    /// A token from the endpoint that the registry named (distribution "Token Authentication").
    async fn token(
        &self,
        registry: &Url,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        credentials: Option<&Credentials>,
    ) -> Result<(reqwest::header::HeaderValue, Duration), RegistryFailure> {
        let mut url = auth::token_url(realm, service, scope, credentials).map_err(RegistryFailure::Auth)?;
        let endpoint = shown_host(&url);
        let (scheme, secure) = if url.scheme() == "https" { (Scheme::Https, true) } else { (Scheme::Http, false) };
        // A registry that speaks TLS does not get us to hand them out on this machine either.
        let beside = registry.scheme() == "http" && (is_loopback(&endpoint) || self.plain_is_asked_for(&url));
        if credentials.is_some() && !secure && !beside && !self.registries.plain_is_listed(&endpoint) {
            return Err(RegistryFailure::Auth(format!("its token endpoint {endpoint} would get them without TLS")));
        }
        let own = url.origin() == registry.origin();
        let client = self.endpoint.trust.client(scheme, self.skip_verify(), own)?;
        let request = match credentials {
            Some(Credentials::IdentityToken(token)) => {
                let mut form = url.clone();
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("client_id", "bayplan")
                    .append_pair("refresh_token", token);
                let body = form.query().unwrap_or_default().to_owned();
                url.set_query(None);
                client.post(url.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
            }
            Some(Credentials::Password { user, password }) => client.get(url.clone()).basic_auth(user, Some(password)),
            _ => client.get(url.clone()),
        };
        let failed = |why: RegistryFailure| match why {
            // A token endpoint that is busy is worth another try like the registry itself.
            busy @ RegistryFailure::Status { .. } if busy.transient().is_some() => busy,
            other => RegistryFailure::Auth(format!("its token endpoint {endpoint} {other}")),
        };
        let timeouts = self.registries.config.timeouts;
        let response = self.execute(request, &url).await.map_err(failed)?;
        if !response.status().is_success() {
            let why = transport::refusal(response, credentials.is_none(), timeouts).await;
            return Err(match why {
                denied @ RegistryFailure::Denied { .. } => denied,
                other => failed(other),
            });
        }
        let body = Body::new(response, timeouts, None).whole(1 << 20).await.map_err(failed)?;
        let answer: Option<auth::TokenAnswer> = body.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        answer
            .and_then(|answer| answer.header())
            .ok_or_else(|| RegistryFailure::Auth(format!("its token endpoint {endpoint} answered without a token")))
    }
}
