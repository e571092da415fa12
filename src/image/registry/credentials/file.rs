//! What stands in an `auth.json`.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Deserializer};

use super::{Credentials, normal};

/// Bound of an auth.json in bytes.
const MAX_FILE: u64 = 4 << 20;

/// A parsed file. What is `null` in it counts as left out, as it does to Docker and Podman.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthFile {
    #[serde(deserialize_with = "without_nulls")]
    auths: HashMap<String, AuthEntry>,
    #[serde(deserialize_with = "without_nulls")]
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

/// A map; `null` is an empty one, and `null` for a value no entry.
fn without_nulls<'d, D: Deserializer<'d>, T: Deserialize<'d>>(from: D) -> Result<HashMap<String, T>, D::Error> {
    let map: Option<HashMap<String, Option<T>>> = Deserialize::deserialize(from)?;
    Ok(map.into_iter().flatten().filter_map(|(key, value)| Some((key, value?))).collect())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl AuthFile {
    /// The file; `None` when it is absent or empty.
    pub fn load(path: &Path) -> Result<Option<Self>, String> {
        let Some(text) = read(path)? else { return Ok(None) };
        Self::parse(&text).map(Some).map_err(|why| format!("{} {why}", path.display()))
    }

    /// A document. The error follows its name and quotes nothing of it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        // An array is no object, though the fields of one could be read from it.
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err("is not an auth.json: it is no JSON object".into());
        }
        serde_json::from_slice(text)
            .map_err(|e| format!("is not an auth.json: line {} column {}", e.line(), e.column()))
    }

    /// What stands under a key.
    pub fn entry(&self, key: &str) -> Result<Option<Credentials>, String> {
        match self.auths.iter().find(|(k, _)| normal(k) == key) {
            Some((_, entry)) => entry.decode(),
            None => Ok(None),
        }
    }

    /// The server as written and the helper for a key.
    pub fn helper(&self, key: &str) -> Option<(&str, &str)> {
        let found = self.cred_helpers.iter().find(|(k, name)| normal(k) == key && !name.is_empty());
        found.map(|(server, name)| (server.as_str(), name.as_str()))
    }

    /// All helpers by server.
    pub fn helpers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.cred_helpers.iter().map(|(server, name)| (server.as_str(), name.as_str()))
    }

    /// The keys of all entries, as written.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.auths.keys().map(String::as_str)
    }

    /// The helper for everything else.
    pub fn store(&self) -> Option<&str> {
        self.creds_store.as_deref().filter(|name| !name.is_empty())
    }
}

/// The bytes of a file; `None` when it is absent or empty.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let shown = path.display();
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(format!("{shown}: {e}")),
    };
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(|e| format!("{shown}: {e}"))?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("{shown}: it is larger than {MAX_FILE} bytes"));
    }
    Ok((!text.iter().all(u8::is_ascii_whitespace)).then_some(text))
}

impl AuthEntry {
    fn decode(&self) -> Result<Option<Credentials>, String> {
        let some = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        if let Some(token) = some(&self.registrytoken) {
            return Ok(Some(Credentials::RegistryToken(token)));
        }
        if let Some(token) = some(&self.identitytoken) {
            return Ok(Some(Credentials::IdentityToken(token)));
        }
        if let Some(packed) = some(&self.auth) {
            let engine = GeneralPurpose::new(
                &base64::alphabet::STANDARD,
                GeneralPurposeConfig::new().with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
            );
            let text = engine.decode(packed.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            // The first colon ends the user; a password may have more of them.
            let pair = text.as_deref().and_then(|t| t.split_once(':'));
            let (user, password) = pair.ok_or("an auth entry is not base64 of user:password")?;
            // Docker pads old entries with NUL.
            let password = password.trim_end_matches('\0');
            return Ok(Some(Credentials::Password { user: user.into(), password: password.into() }));
        }
        match (some(&self.username), some(&self.password)) {
            (Some(user), Some(password)) => Ok(Some(Credentials::Password { user, password })),
            _ => Ok(None),
        }
    }
}
