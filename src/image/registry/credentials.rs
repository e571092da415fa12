//! Credentials from `auth.json`, the format that Docker and Podman share (containers-auth.json(5)), and
//! from the credential helpers it names.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use crate::oci::Reference;

/// How long a credential helper may think.
const HELPER_TIMEOUT: Duration = Duration::from_secs(15);
/// Bound of an auth.json in bytes.
const MAX_FILE: u64 = 4 << 20;

/// What to authenticate with. Never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// Basic, or for the token endpoint.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// An OAuth2 refresh token for the token endpoint.
    IdentityToken(String),
    /// A bearer token for the registry itself.
    RegistryToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// A document like auth.json from somewhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct PullSecret {
    /// For errors: where it is from.
    pub name: String,
    /// The JSON text. Helpers that it names are not run: only files of this node may name programs.
    pub text: String,
}

impl fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PullSecret({}, …)", self.name)
    }
}

/// The first credentials that these documents have for the reference.
pub fn find_in(secrets: &[PullSecret], reference: &Reference) -> Result<Option<Credentials>, String> {
    for secret in secrets {
        let file: AuthFile = serde_json::from_str(&secret.text)
            .map_err(|e| format!("{} is not an auth.json: line {} column {}", secret.name, e.line(), e.column()))?;
        for key in keys(reference) {
            if let Some((_, entry)) = file.auths.iter().find(|(k, _)| normal(k) == key)
                && let Some(found) = decode(entry).map_err(|why| format!("{}: {why}", secret.name))?
            {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

/// Where credentials are searched by default: ours, then Podman's, then Docker's places.
pub fn default_files() -> Vec<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let mut files = Vec::new();
    files.extend(var("REGISTRY_AUTH_FILE"));
    files.push("/etc/bayplan/auth.json".into());
    files.extend(var("XDG_RUNTIME_DIR").map(|d| d.join("containers/auth.json")));
    let home = var("HOME");
    files.extend(
        var("XDG_CONFIG_HOME").or(home.clone().map(|h| h.join(".config"))).map(|d| d.join("containers/auth.json")),
    );
    files.extend(var("DOCKER_CONFIG").or(home.map(|h| h.join(".docker"))).map(|d| d.join("config.json")));
    files
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: HashMap<String, AuthEntry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
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

/// The keys under which a reference's credentials may stand, most specific first: `host/a/b`, `host/a`,
/// `host`; Docker Hub also by its historic names.
fn keys(reference: &Reference) -> Vec<String> {
    let mut keys = Vec::new();
    let mut name = format!("{}/{}", reference.host(), reference.path());
    while let Some(slash) = name.rfind('/') {
        keys.push(name.clone());
        name.truncate(slash);
    }
    keys.push(name);
    if reference.host() == "docker.io" {
        keys.extend(["index.docker.io".to_owned(), "registry-1.docker.io".to_owned()]);
    }
    keys
}

/// `https://index.docker.io/v1/` → `index.docker.io`: what Docker writes, as Podman reads it.
fn normal(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

fn decode(entry: &AuthEntry) -> Result<Option<Credentials>, String> {
    let some = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    if let Some(token) = some(&entry.registrytoken) {
        return Ok(Some(Credentials::RegistryToken(token)));
    }
    if let Some(token) = some(&entry.identitytoken) {
        return Ok(Some(Credentials::IdentityToken(token)));
    }
    if let Some(packed) = some(&entry.auth) {
        let engine = GeneralPurpose::new(
            &base64::alphabet::STANDARD,
            GeneralPurposeConfig::new().with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
        );
        let text = engine.decode(packed.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = text.as_deref().and_then(|t| t.split_once(':'));
        let (user, password) = pair.ok_or("an auth entry is not base64 of user:password")?;
        // Docker pads old entries with NUL.
        let password = password.trim_end_matches('\0');
        return Ok(Some(Credentials::Password { user: user.into(), password: password.into() }));
    }
    match (some(&entry.username), some(&entry.password)) {
        (Some(user), Some(password)) => Ok(Some(Credentials::Password { user, password })),
        _ => Ok(None),
    }
}

/// The first credentials that the files have for the reference. An error names the file or the helper.
pub async fn find(files: &[PathBuf], reference: &Reference) -> Result<Option<Credentials>, String> {
    for path in files {
        let Some(file) = load(path)? else { continue };
        for key in keys(reference) {
            let helper = file.cred_helpers.iter().find(|(k, _)| normal(k) == key);
            if let Some((server, name)) = helper
                && let Some(found) = ask(name, server).await?
            {
                return Ok(Some(found));
            }
            let entry = file.auths.iter().find(|(k, _)| normal(k) == key);
            if let Some((_, entry)) = entry
                && let Some(found) = decode(entry).map_err(|why| format!("{}: {why}", path.display()))?
            {
                return Ok(Some(found));
            }
        }
        if let Some(store) = &file.creds_store {
            let server = if reference.host() == "docker.io" { "https://index.docker.io/v1/" } else { reference.host() };
            if let Some(found) = ask(store, server).await? {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

fn load(path: &Path) -> Result<Option<AuthFile>, String> {
    use std::io::Read;
    let shown = path.display();
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(format!("{shown}: {e}")),
    };
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text).map_err(|e| format!("{shown}: {e}"))?;
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    // The message of serde_json quotes no values of strings, so no secret gets into it.
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|e| format!("{shown} is not an auth.json: line {} column {}", e.line(), e.column()))
}

/// `docker-credential-NAME get`, as docker-credential-helpers defines it.
async fn ask(name: &str, server: &str) -> Result<Option<Credentials>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    if name.is_empty() || name.contains('/') {
        return Err(format!("{name:?} is not the name of a credential helper"));
    }
    let program = format!("docker-credential-{name}");
    let mut child = tokio::process::Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("{program}: {e}"))?;
    let talk = async {
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read its input fails by what it answers.
            let _ = stdin.write_all(server.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(HELPER_TIMEOUT, talk)
        .await
        .map_err(|_| format!("{program} did not answer within {} s", HELPER_TIMEOUT.as_secs()))?
        .map_err(|e| format!("{program}: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(format!("{program} ended with {}", output.status));
    }
    let answer: Answer =
        serde_json::from_slice(&output.stdout).map_err(|_| format!("{program} answered something other than JSON"))?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credentials::IdentityToken(answer.secret),
        _ => Credentials::Password { user: answer.username, password: answer.secret },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn look_up(text: &str, reference: &str) -> Result<Option<Credentials>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        std::fs::write(&path, text).unwrap();
        let files = [dir.path().join("absent.json"), path];
        runtime().block_on(find(&files, &reference.parse().unwrap()))
    }

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { user: user.into(), password: password.into() })
    }

    #[test]
    fn the_most_specific_entry_wins_and_docker_hub_has_its_old_name() {
        let text = r#"{"auths": {
            "r.local": {"auth": "aG9zdDpw"}, "r.local/team": {"auth": "dGVhbTpw"},
            "https://index.docker.io/v1/": {"auth": "aHViOnA6cQ=="}, "x.local": {}}}"#;
        assert_eq!(look_up(text, "r.local/team/app:1"), Ok(password("team", "p")));
        assert_eq!(look_up(text, "r.local/other/app:1"), Ok(password("host", "p")));
        assert_eq!(look_up(text, "docker.io/library/nginx:1"), Ok(password("hub", "p:q")));
        assert_eq!(look_up(text, "x.local/a:1"), Ok(None));
    }

    #[test]
    fn a_broken_file_is_named_without_its_secrets() {
        let error = look_up(r#"{"auths": {"r.local": {"auth": ["c2VjcmV0"]}}}"#, "r.local/a:1").unwrap_err();
        assert!(error.contains("auth.json"), "{error}");
        assert!(!error.contains("c2VjcmV0"), "{error}");
    }
}
