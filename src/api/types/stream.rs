//! What arrives over time: events and log lines.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::manifest::{Kind, ResourceKey};

/// Selects events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventFilter {
    /// One namespace; `None` means all.
    #[serde(default)]
    pub namespace: Option<String>,
    /// One kind.
    #[serde(default)]
    pub kind: Option<Kind>,
    /// One name.
    #[serde(default)]
    pub name: Option<String>,
    /// Goes on with those to come.
    #[serde(default)]
    pub follow: bool,
    /// Only the last so many of those kept.
    #[serde(default)]
    pub tail: Option<u64>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRecord {
    /// When (the last time, when it is counted).
    pub time: Timestamp,
    /// To what.
    pub key: ResourceKey,
    /// Whether somebody should look.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// One CamelCase word: `Started`, `BackOff`, `PullFailed`.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// How often in a row.
    pub count: u64,
}

/// Whether somebody should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Asks for a container's log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogRequest {
    /// In which namespace.
    pub namespace: String,
    /// Which container.
    pub name: String,
    /// Goes on with lines to come.
    #[serde(default)]
    pub follow: bool,
    /// Only the last so many lines.
    #[serde(default)]
    pub tail: Option<u64>,
    /// Only lines from this time on.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// Only lines up to this time.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// The attempt before the current one.
    #[serde(default)]
    pub previous: bool,
}

/// One line (or a part of a long one) of a log, as the CRI log format holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// When it was written.
    pub time: Timestamp,
    /// Where.
    pub stream: LogStream,
    /// Its bytes, without the line feed.
    #[serde(with = "text_or_base64")]
    pub text: Vec<u8>,
    /// The line goes on in the next one of the same stream.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// Which stream a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Bytes as a JSON string where they are UTF-8, else as `{"base64": "…"}`: logs are mostly text, and
/// never altered.
mod text_or_base64 {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Bytes { base64: String },
    }

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => text.serialize(serializer),
            Err(_) => Form::Bytes { base64: BASE64_STANDARD.encode(bytes) }.serialize(serializer),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        match Form::deserialize(deserializer)? {
            Form::Text(text) => Ok(text.into_bytes()),
            Form::Bytes { base64 } => BASE64_STANDARD.decode(base64).map_err(serde::de::Error::custom),
        }
    }
}
