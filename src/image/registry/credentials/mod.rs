//! Credentials from `auth.json`, the format that Docker and Podman share (containers-auth.json(5)), from the
//! credential helpers it names, and from pull secrets in the same format.
//!
//! Invariant: nothing here prints or logs a secret; errors name files, helpers and places in them.

mod edit;
mod file;
mod helper;

use std::fmt;
use std::path::{Path, PathBuf};

pub use edit::{Stored, forget, forget_all, store};
pub use file::AuthFile;

/// Where `login` writes when nothing else is said: the daemon finds it whatever its environment.
pub const DEFAULT_FILE: &str = "/etc/bayplan/auth.json";

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

/// A document like auth.json from somewhere else (Kubernetes' `.dockerconfigjson`).
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

/// Where credentials are searched by default: Podman's and Docker's places in their order, then ours.
pub fn default_files() -> Vec<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let mut files = Vec::new();
    files.extend(var("REGISTRY_AUTH_FILE"));
    // containers-auth.json(5): without a runtime directory, root's is /run/containers/0.
    let runtime = var("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json"));
    files.push(
        runtime.unwrap_or_else(|| format!("/run/containers/{}/auth.json", rustix::process::geteuid().as_raw()).into()),
    );
    let home = var("HOME");
    files.extend(
        var("XDG_CONFIG_HOME").or(home.clone().map(|h| h.join(".config"))).map(|d| d.join("containers/auth.json")),
    );
    files.extend(var("DOCKER_CONFIG").or(home.map(|h| h.join(".docker"))).map(|d| d.join("config.json")));
    files.push(DEFAULT_FILE.into());
    files
}

/// The keys under which credentials for a repository may stand, most specific first: `host/a/b`, `host/a`,
/// `host`; Docker Hub also by its historic names.
fn keys(host: &str, path: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut name = format!("{host}/{path}");
    while let Some(slash) = name.rfind('/') {
        keys.push(name.clone());
        name.truncate(slash);
    }
    keys.push(name);
    if matches!(host, "docker.io" | "registry-1.docker.io") {
        keys.extend(["docker.io", "index.docker.io", "registry-1.docker.io"].map(str::to_owned));
    }
    keys
}

/// `https://index.docker.io/v1/` → `index.docker.io`: what Docker writes, as Podman reads it.
fn normal(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

/// The name that helpers know a host by.
fn server_of(host: &str) -> &str {
    if matches!(host, "docker.io" | "registry-1.docker.io") { "https://index.docker.io/v1/" } else { host }
}

/// The first credentials for a repository that the secrets, then the files have. An error names the secret, the
/// file or the helper.
pub async fn find(
    secrets: &[PullSecret],
    files: &[PathBuf],
    host: &str,
    path: &str,
) -> Result<Option<Credentials>, String> {
    let keys = keys(host, path);
    for secret in secrets {
        let document = AuthFile::parse(secret.text.as_bytes()).map_err(|why| format!("{} {why}", secret.name))?;
        for key in &keys {
            if let Some(found) = document.entry(key).map_err(|why| format!("{}: {why}", secret.name))? {
                return Ok(Some(found));
            }
        }
    }
    // A helper that is not there or fails may be one that nobody here uses: others may have what is looked for.
    let mut broken = None;
    for path in files {
        let Some(file) = AuthFile::load(path)? else { continue };
        for key in &keys {
            if let Some((server, name)) = file.helper(key)
                && let Some(found) = heard(helper::get(name, server).await, path, &mut broken)
            {
                return Ok(Some(found));
            }
            if let Some(found) = file.entry(key).map_err(|why| format!("{}: {why}", path.display()))? {
                return Ok(Some(found));
            }
        }
        if let Some(store) = file.store()
            && let Some(found) = heard(helper::get(store, server_of(host)).await, path, &mut broken)
        {
            return Ok(Some(found));
        }
    }
    broken.map_or(Ok(None), Err)
}

/// What a helper that `file` names has; the first that fails is kept in `broken`.
fn heard(answer: Result<Option<Credentials>, String>, file: &Path, broken: &mut Option<String>) -> Option<Credentials> {
    answer.unwrap_or_else(|why| {
        broken.get_or_insert(format!("{why} ({} names it)", file.display()));
        None
    })
}

/// Files that are searched before `stored` and have something for the host: what was stored will not be used.
pub fn searched_before<'f>(files: &'f [PathBuf], stored: &Path, host: &str) -> Vec<&'f Path> {
    let before = files.iter().take_while(|file| *file != stored);
    before.map(PathBuf::as_path).filter(|file| has(file, host)).collect()
}

/// Files other than `but` that have something for the host.
pub fn others<'f>(files: &'f [PathBuf], but: &Path, host: &str) -> Vec<&'f Path> {
    files.iter().map(PathBuf::as_path).filter(|file| *file != but && has(file, host)).collect()
}

fn has(file: &Path, host: &str) -> bool {
    let Ok(Some(found)) = AuthFile::load(file) else { return false };
    keys(host, "").iter().any(|key| found.helper(key).is_some() || matches!(found.entry(key), Ok(Some(_))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Reference;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn look_up(text: &str, reference: &str) -> Result<Option<Credentials>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        std::fs::write(&path, text).unwrap();
        let files = [dir.path().join("absent.json"), path];
        let reference: Reference = reference.parse().unwrap();
        runtime().block_on(find(&[], &files, reference.host(), reference.path()))
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
    fn null_is_nothing_and_an_array_is_no_file() {
        let text = r#"{"auths": {"r.local": null, "x.local": {"auth": "aHViOnA6cQ=="}}, "credHelpers": null, "credsStore": null}"#;
        assert_eq!(look_up(text, "r.local/a:1"), Ok(None));
        assert_eq!(look_up(text, "x.local/a:1"), Ok(password("hub", "p:q")));
        assert_eq!(look_up(r#"{"auths": null}"#, "r.local/a:1"), Ok(None));
        let error = look_up(r#"[{"r.local": {"auth": "aHViOnA6cQ=="}}]"#, "r.local/a:1").unwrap_err();
        assert!(error.ends_with("is not an auth.json: it is no JSON object"), "{error}");
    }

    #[test]
    fn a_helper_that_is_not_there_hides_nothing_that_others_have() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let desktop = file("config.json", r#"{"credsStore": "of-another-machine"}"#);
        let own = file("auth.json", r#"{"auths": {"r.local": {"auth": "aHViOnA6cQ=="}}}"#);
        let files = [desktop.clone(), own];
        let find = |host: &str| runtime().block_on(find(&[], &files, host, "a"));
        assert_eq!(find("r.local"), Ok(password("hub", "p:q")));
        let error = find("x.local").unwrap_err();
        let named = format!("({} names it)", desktop.display());
        assert!(error.starts_with("docker-credential-of-another-machine: ") && error.ends_with(&named), "{error}");
    }

    #[test]
    fn a_broken_file_is_named_without_its_secrets() {
        let error = look_up(r#"{"auths": {"r.local": {"auth": ["c2VjcmV0"]}}}"#, "r.local/a:1").unwrap_err();
        assert!(error.contains("auth.json"), "{error}");
        assert!(!error.contains("c2VjcmV0"), "{error}");
    }

    proptest::proptest! {
        /// An answer or an error that quotes nothing of the file, whatever it holds.
        #[test]
        fn no_auth_json_is_too_strange(auth in "[A-Za-z0-9+/=]{0,24}|\\PC{0,12}", tail in "[}\\],\"]{0,3}") {
            let text = serde_json::json!({"auths": {"r.local": {"auth": &auth}}}).to_string() + &tail;
            if let Err(error) = look_up(&text, "r.local/a:1") {
                proptest::prop_assert!(auth.len() < 4 || !error.contains(&auth), "{}", error);
            }
        }
    }
}
