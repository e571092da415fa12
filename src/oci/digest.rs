//! A content digest, as image-spec "Descriptor: Digests" defines it; sha256 only.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// `sha256:` and 64 lower-case hex digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Another algorithm than sha256.
    #[error("digest algorithm {0:?} is not supported; only sha256 is")]
    Algorithm(String),
    /// No colon, wrong length or a character that is not lower-case hex.
    #[error("{0:?} is not a digest: sha256: and 64 lower-case hex digits are expected")]
    Form(String),
}

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_sha256(&Sha256::digest(bytes))
    }

    /// From a finished SHA-256 hash (32 bytes).
    pub fn from_sha256(hash: &[u8]) -> Self {
        let mut text = String::with_capacity(7 + 64);
        text.push_str("sha256:");
        for byte in hash {
            text.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
            text.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
        }
        Self(text)
    }

    /// The 64 hex digits.
    pub fn hex(&self) -> &str {
        &self.0[7..]
    }

    /// The first 12 hex digits, for people.
    pub fn short(&self) -> &str {
        &self.0[7..19]
    }

    /// The whole text, with its algorithm.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(DigestError::Form(text.into()));
        };
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm(algorithm.into()));
        }
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(DigestError::Form(text.into()));
        }
        Ok(Self(text.into()))
    }
}

/// A digest or its beginning, as people write it: `sha256:4f0a12b`, `4f0a12b`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestPrefix(String);

/// Why a text names no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestPrefixError {
    /// Not hex.
    #[error("{0:?} is not a digest: lower-case hex digits are expected, with or without sha256: before them")]
    Form(String),
    /// Too few digits to mean one.
    #[error("{given:?} is too short for a digest: at least {} of its hex digits are needed", DigestPrefix::SHORTEST)]
    Short {
        /// What was written.
        given: String,
    },
    /// Several digests begin so.
    #[error("{given:?} is the beginning of {}", .of.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and of "))]
    Ambiguous {
        /// What was written.
        given: String,
        /// Two of them.
        of: [Digest; 2],
    },
}

impl DigestPrefix {
    /// Hex digits that a digest must be named by at least.
    pub const SHORTEST: usize = 7;

    /// Whether the digest begins so.
    pub fn matches(&self, digest: &Digest) -> bool {
        digest.hex().starts_with(&self.0)
    }

    /// The one of these digests that begins so; `None` when none does.
    pub fn pick(&self, digests: impl IntoIterator<Item = Digest>) -> Result<Option<Digest>, DigestPrefixError> {
        let mut found: Option<Digest> = None;
        for digest in digests.into_iter().filter(|digest| self.matches(digest)) {
            match found {
                Some(first) if first != digest => {
                    let mut of = [first, digest];
                    of.sort();
                    return Err(DigestPrefixError::Ambiguous { given: self.0.clone(), of });
                }
                _ => found = Some(digest),
            }
        }
        Ok(found)
    }
}

impl FromStr for DigestPrefix {
    type Err = DigestPrefixError;
    fn from_str(text: &str) -> Result<Self, DigestPrefixError> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.len() > 64 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(DigestPrefixError::Form(text.into()));
        }
        if hex.len() < Self::SHORTEST {
            return Err(DigestPrefixError::Short { given: text.into() });
        }
        Ok(Self(hex.into()))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl schemars::JsonSchema for Digest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Digest".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_of_seven_digits_means_the_one_digest_that_has_it() {
        let digests = [b"a", b"b"].map(|text| Digest::of(text));
        let pick = |text: &str| text.parse::<DigestPrefix>().and_then(|prefix| prefix.pick(digests.clone()));
        assert_eq!(pick(digests[0].short()).unwrap(), Some(digests[0].clone()));
        assert_eq!(pick(digests[1].as_str()).unwrap(), Some(digests[1].clone()));
        assert_eq!(pick("0000000").unwrap(), None);
        for text in ["sha256:92", "sha256:", "123456"] {
            assert!(matches!(pick(text), Err(DigestPrefixError::Short { .. })), "{text}");
        }
        for text in ["sha256:ABCDEF012", "sha512:abcdef012", "web:1.2.3.4.5"] {
            assert!(matches!(pick(text), Err(DigestPrefixError::Form(_))), "{text}");
        }
    }

    #[test]
    fn a_beginning_of_two_digests_names_both() {
        let of = ["1", "2"].map(|end| format!("sha256:{}{end}", "a".repeat(63)).parse::<Digest>().unwrap());
        let error = "aaaaaaa".parse::<DigestPrefix>().unwrap().pick(of.clone()).unwrap_err();
        assert_eq!(error.to_string(), format!("\"aaaaaaa\" is the beginning of {} and of {}", of[0], of[1]));
    }
}
