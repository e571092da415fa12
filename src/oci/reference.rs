//! Image references: `HOST[:PORT]/PATH[:TAG][@DIGEST]`, the grammar of distribution-spec with the
//! host required, because a name that means another image on another node is a trap.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Digest, DigestError};

/// A parsed reference. Ordered and compared by its canonical text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Bytes that are looked into at all.
const MAX_LENGTH: usize = 1024;
/// Bytes of a host, and of a repository: with the longest tag and digest there are fewer than [`MAX_LENGTH`], so that
/// what has an implied tag, or is pinned, can be written out and read again.
const MAX_NAME: usize = 255;

/// Why a text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// A Docker-style short name.
    #[error("{given:?} names no registry host")]
    Short {
        /// What was written.
        given: String,
        /// What Docker would make of it.
        suggestion: String,
    },
    /// Nothing was written.
    #[error("an image reference is empty")]
    Empty,
    /// A part of it is malformed.
    #[error("{given:?} is not an image reference: {why}")]
    Form {
        /// What was written.
        given: String,
        /// The part that is wrong.
        why: String,
    },
    /// The digest behind `@` is malformed.
    #[error("{given:?} is not an image reference: {source}")]
    Digest {
        /// What was written.
        given: String,
        /// What is wrong with the digest.
        source: DigestError,
    },
}

impl Reference {
    /// Host with its port, as written: `docker.io`, `127.0.0.1:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository beneath the host: `library/nginx`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one was written or implied; `None` only beside a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was written.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What the registry's manifest endpoint is asked for: the digest if there is one, else the tag.
    pub fn manifest_name(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }

    /// The same repository at this digest.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// Kubernetes' rule: `:latest` and no tag mean `Always`, anything else `IfNotPresent`.
    pub fn is_mutable_latest(&self) -> bool {
        self.digest.is_none() && self.tag.as_deref() == Some("latest")
    }

    /// Parses as Docker does, expanding short names to `docker.io/library/…`. For the names inside
    /// Docker archives only.
    pub fn parse_docker(text: &str) -> Result<Self, ReferenceError> {
        match text.parse() {
            Err(ReferenceError::Short { suggestion, .. }) => suggestion.parse(),
            other => other,
        }
    }
}

/// Whether the first component of a name is a host (Docker's rule).
fn is_host(component: &str) -> bool {
    component == "localhost" || component.contains(['.', ':']) || component.chars().any(char::is_uppercase)
}

fn valid_host(host: &str) -> bool {
    if host.len() > MAX_NAME {
        return false;
    }
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, rest)) => {
            if v6.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match rest {
                "" => return true,
                _ => ("v6", rest.strip_prefix(':')),
            }
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, Some("1")),
        },
    };
    let name_ok = !name.is_empty()
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
    name_ok && port.is_some_and(|p| p.parse::<u16>().is_ok_and(|p| p != 0))
}

/// distribution-spec: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn valid_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let alnum = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alnum(*first) || !alnum(*last) {
        return false;
    }
    let mut rest = bytes;
    while let Some(start) = rest.iter().position(|b| !alnum(*b)) {
        let separator = &rest[start..];
        let length = separator.iter().position(|b| alnum(*b)).unwrap_or(separator.len());
        match &separator[..length] {
            b"." | b"_" | b"__" => {}
            dashes if dashes.iter().all(|b| *b == b'-') => {}
            _ => return false,
        }
        rest = &separator[length..];
    }
    true
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let form = |why: &str| ReferenceError::Form { given: text.into(), why: why.into() };
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() > MAX_LENGTH {
            let given = text.chars().take(64).chain(['…']).collect();
            return Err(ReferenceError::Form { given, why: format!("it is longer than {MAX_LENGTH} bytes") });
        }
        if text.contains("://") {
            return Err(form("leave out the scheme"));
        }
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(form(&format!("{bad:?} may not stand in it")));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = digest.parse().map_err(|source| ReferenceError::Digest { given: text.into(), source })?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        let (repository, tag) = match name.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (name, None),
        };
        let (host, path) = match repository.split_once('/') {
            Some((host, path)) if is_host(host) => (host, path),
            _ => {
                let library = if repository.contains('/') { "" } else { "library/" };
                let latest = if tag.is_none() && digest.is_none() { ":latest" } else { "" };
                let suggestion = format!("docker.io/{library}{text}{latest}");
                return match suggestion.parse::<Self>() {
                    Ok(_) => Err(ReferenceError::Short { given: text.into(), suggestion }),
                    Err(ReferenceError::Form { why, .. }) => Err(form(&why)),
                    Err(other) => Err(other),
                };
            }
        };
        if !valid_host(host) {
            return Err(form(&format!("{host:?} is not a host[:port]")));
        }
        if path.is_empty() || path.len() > MAX_NAME {
            return Err(form(&format!("the repository is empty or longer than {MAX_NAME} bytes")));
        }
        if let Some(bad) = path.split('/').find(|component| !valid_component(component)) {
            return Err(form(&format!(
                "{bad:?} is not a repository component: lower-case letters, digits and single . _ - between them"
            )));
        }
        if let Some(tag) = tag {
            let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            let ok = tag.len() <= 128
                && tag.bytes().next().is_some_and(word)
                && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
            if !ok {
                return Err(form(&format!("{tag:?} is not a tag")));
            }
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Self { host: host.to_owned(), path: path.to_owned(), tag, digest })
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;
    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> String {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl schemars::JsonSchema for Reference {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Reference".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "HOST[:PORT]/PATH[:TAG][@DIGEST]; the host is required, a missing tag means latest",
            "examples": ["docker.io/library/nginx:1.27"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_names_round_trip_and_a_missing_tag_means_latest() {
        for (text, canonical) in [
            ("docker.io/library/nginx:1.27", "docker.io/library/nginx:1.27"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/a/b__c-d.e", "localhost:5000/a/b__c-d.e:latest"),
            ("[::1]:5000/app:v1", "[::1]:5000/app:v1"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), canonical);
        }
        let digest = Digest::of(b"x");
        let pinned: Reference = format!("127.0.0.1:5000/lab/app@{digest}").parse().unwrap();
        assert_eq!((pinned.tag(), pinned.digest()), (None, Some(&digest)));
    }

    #[test]
    fn short_names_are_refused_with_the_full_name() {
        for (text, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("team/app", "docker.io/team/app:latest"),
        ] {
            let error = text.parse::<Reference>().unwrap_err();
            assert_eq!(error, ReferenceError::Short { given: text.into(), suggestion: full.into() });
        }
    }

    #[test]
    fn the_longest_name_is_read_again_with_an_implied_tag_and_pinned() {
        let name = format!("{}.io/{}", "h".repeat(252), "p".repeat(255));
        for text in [name.clone(), format!("{name}:{}@{}", "t".repeat(128), Digest::of(b"x"))] {
            let reference: Reference = text.parse().unwrap();
            for longest in [reference.with_digest(Digest::of(b"x")), reference] {
                assert_eq!(longest.to_string().parse(), Ok(longest));
            }
        }
        for text in [format!("h{name}"), format!("{name}p"), format!("{name}:{}", "t".repeat(129))] {
            assert!(matches!(text.parse::<Reference>(), Err(ReferenceError::Form { .. })), "{text}");
        }
        let error = "x/".repeat(1 << 20).parse::<Reference>().unwrap_err().to_string();
        assert!(error.len() < 200, "{error}");
    }

    #[test]
    fn malformed_references_name_the_part() {
        for text in [
            "",
            "UPPER.io/App",
            "a.io/",
            "a.io/x:",
            "a.io/x:-t",
            "a.io/x@sha256:12",
            "https://a.io/x",
            "a.io/a//b",
            "a.io:x/y",
            "a.io/_x",
            "a b",
            "a.io/x y",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
