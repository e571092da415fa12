//! Authentication: challenges (RFC 9110), the token endpoint of distribution, and remembered answers.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use super::credentials::Credentials;
use crate::oci::Digest;

/// What a 401 asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// A user and a password with each request.
    Basic,
    /// A token from elsewhere.
    Bearer {
        /// The token endpoint.
        realm: String,
        /// Who the token is for.
        service: Option<String>,
        /// What it must permit.
        scope: Option<String>,
    },
}

/// The strongest challenge among the values of `WWW-Authenticate`.
pub fn challenge<'a>(values: impl Iterator<Item = &'a HeaderValue>) -> Option<Challenge> {
    let mut basic = None;
    for value in values {
        let text = String::from_utf8_lossy(value.as_bytes());
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            let mut parameters = parameters(rest);
            if let Some(realm) = parameters.remove("realm") {
                let (service, scope) = (parameters.remove("service"), parameters.remove("scope"));
                return Some(Challenge::Bearer { realm, service, scope });
            }
        } else if scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        }
    }
    basic
}

/// `a="b, c",d=e`, with backslash escapes inside quotes.
fn parameters(text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut rest = text.chars().peekable();
    loop {
        let key: String = std::iter::from_fn(|| rest.next_if(|c| *c != '=')).collect();
        if rest.next().is_none() {
            return found;
        }
        let mut value = String::new();
        if rest.next_if_eq(&'"').is_some() {
            while let Some(c) = rest.next() {
                match c {
                    '"' => break,
                    '\\' => value.extend(rest.next()),
                    c => value.push(c),
                }
            }
        }
        value.extend(std::iter::from_fn(|| rest.next_if(|c| *c != ',')));
        rest.next();
        found.insert(key.trim().trim_start_matches(',').trim().to_ascii_lowercase(), value.trim_end().to_owned());
    }
}

/// The `Authorization` header of RFC 7617.
pub fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    let packed = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    secret(format!("Basic {packed}"))
}

/// The `Authorization` header of RFC 6750.
pub fn bearer(token: &str) -> Option<HeaderValue> {
    secret(format!("Bearer {token}"))
}

fn secret(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What a token endpoint answers.
#[derive(Deserialize)]
pub struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl TokenAnswer {
    /// The header and how long it may be used: a tenth less than granted; a minute when nothing is said.
    pub fn header(&self) -> Option<(HeaderValue, Duration)> {
        let token = if self.token.is_empty() { &self.access_token } else { &self.token };
        let seconds = self.expires_in.unwrap_or(60).clamp(1, 24 * 3600);
        (!token.is_empty()).then(|| bearer(token)).flatten().map(|h| (h, Duration::from_secs(seconds) * 9 / 10))
    }
}

/// The token endpoint with its query.
pub fn token_url(
    realm: &str,
    service: Option<&str>,
    scope: Option<&str>,
    credentials: Option<&Credentials>,
) -> Result<Url, String> {
    let mut url = Url::parse(realm).map_err(|e| format!("its token endpoint {realm:?} is no URL: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("its token endpoint {realm:?} is neither http nor https"));
    }
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        if let Some(scope) = scope {
            query.append_pair("scope", scope);
        }
        if let Some(Credentials::Password { user, .. }) = credentials {
            query.append_pair("account", user);
        }
    }
    Ok(url)
}

/// Who asks whom for what: headers are remembered by this. A hash, so that no secret lies about twice.
pub type Key = Digest;

/// The key of these parts.
pub fn key(parts: &[&str]) -> Key {
    // Lengths first: no two lists of parts look alike.
    let text: String = parts.iter().map(|part| format!("{}:{part}", part.len())).collect();
    Digest::of(text.as_bytes())
}

/// An `Authorization` header that worked.
#[derive(Clone)]
pub struct Grant {
    /// The header.
    pub header: HeaderValue,
    /// Whether it was given to nobody in particular.
    pub anonymous: bool,
}

/// Grants, until they expire. Bounded.
#[derive(Default)]
pub struct Remembered(Mutex<HashMap<Key, (Grant, Instant)>>);

/// Entries kept at most.
const MAX_REMEMBERED: usize = 1024;

impl Remembered {
    /// One that is still good.
    pub fn get(&self, key: &Key) -> Option<Grant> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(key).filter(|(_, until)| *until > Instant::now()).map(|(grant, _)| grant.clone())
    }

    /// Remembers one for `life`.
    pub fn put(&self, key: Key, grant: Grant, life: Duration) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= MAX_REMEMBERED {
            let now = Instant::now();
            map.retain(|_, (_, until)| *until > now);
            if map.len() >= MAX_REMEMBERED {
                map.clear();
            }
        }
        map.insert(key, (grant, Instant::now() + life));
    }

    /// Forgets one that was refused.
    pub fn forget(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(values: &[&str]) -> Option<Challenge> {
        let headers: Vec<_> = values.iter().map(|v| HeaderValue::from_str(v).unwrap()).collect();
        challenge(headers.iter())
    }

    #[test]
    fn challenges_are_read_with_commas_inside_quotes() {
        let bearer = r#"Bearer realm="https://auth.local/token",service="r.local",scope="repository:a/b:pull,push""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.local/token".into(),
            service: Some("r.local".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(parse(&["Basic realm=x", bearer]), Some(expected));
        assert_eq!(parse(&[r#"basic realm="Registry Realm""#]), Some(Challenge::Basic));
        assert_eq!(parse(&["Negotiate"]), None);
        assert_eq!(parse(&["Bearer"]), None);
    }
}
