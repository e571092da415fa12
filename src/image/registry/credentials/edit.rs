//! `login` and `logout`: an `auth.json` changed in place of what others wrote into it.
//!
//! Invariant: the file is replaced by rename, complete and durable, readable by its owner alone; what is not
//! about the host stays as it is.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Map, Value};

use super::file::{self, AuthFile};
use super::{helper, keys, normal, server_of};

/// How long another program's change of the same file is waited for.
const LOCK: Duration = Duration::from_secs(5);

/// Where credentials went.
#[derive(Debug, PartialEq, Eq)]
pub enum Stored {
    /// Into the file.
    File,
    /// To the helper that the file names for this host.
    Helper(String),
}

/// Keeps a password for a host, in the file or by the helper it names. Errors name the file or the helper.
pub async fn store(path: &Path, host: &str, user: &str, password: &str) -> Result<Stored, String> {
    if user.contains(':') {
        return Err("a user's name holds no colon".into());
    }
    let file = AuthFile::load(path)?.unwrap_or_default();
    let named = keys(host, "").iter().find_map(|key| file.helper(key).map(|(s, n)| (s.to_owned(), n.to_owned())));
    let named = named.or_else(|| file.store().map(|name| (server_of(host).to_owned(), name.to_owned())));
    if let Some((server, name)) = &named {
        helper::store(name, server, user, password).await?;
    }
    change(path, |document| {
        let auths = table(document, "auths");
        auths.retain(|key, _| normal(key) != host);
        // Docker lists the hosts whose credentials a helper has, too.
        let entry = match &named {
            Some(_) => Value::Object(Map::new()),
            None => {
                let packed = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                serde_json::json!({ "auth": packed })
            }
        };
        auths.insert(host.to_owned(), entry);
        true
    })?;
    Ok(named.map_or(Stored::File, |(_, name)| Stored::Helper(name)))
}

/// Forgets a host, in the file and with the helpers it names. Whether there was anything.
pub async fn forget(path: &Path, host: &str) -> Result<bool, String> {
    let Some(file) = AuthFile::load(path)? else { return Ok(false) };
    let keys = keys(host, "");
    let mut had = false;
    for key in &keys {
        if let Some((server, name)) = file.helper(key) {
            had |= helper::erase(name, server).await?;
        }
    }
    let known = file.entries().any(|key| keys.iter().any(|k| normal(key) == k));
    if let Some(name) = file.store().filter(|_| known) {
        helper::erase(name, server_of(host)).await?;
    }
    let changed = change(path, |document| {
        let auths = table(document, "auths");
        let before = auths.len();
        auths.retain(|key, _| !keys.iter().any(|k| normal(key) == k));
        auths.len() != before
    })?;
    Ok(had || changed)
}

/// Forgets every host of the file. How many there were.
pub async fn forget_all(path: &Path) -> Result<usize, String> {
    let Some(file) = AuthFile::load(path)? else { return Ok(0) };
    for (server, name) in file.helpers() {
        helper::erase(name, server).await?;
    }
    let mut entries = 0;
    for key in file.entries() {
        entries += 1;
        if let Some(name) = file.store() {
            helper::erase(name, key).await?;
        }
    }
    change(path, |document| {
        table(document, "auths").clear();
        true
    })?;
    Ok(entries)
}

fn table<'d>(document: &'d mut Map<String, Value>, key: &str) -> &'d mut Map<String, Value> {
    let value = document.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// Reads, changes and replaces the file while nobody else of us does. `change` says whether there is anything
/// to write; so does the result.
fn change(path: &Path, change: impl FnOnce(&mut Map<String, Value>) -> bool) -> Result<bool, String> {
    let at = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
    // A link stays one: what it leads to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir: PathBuf = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => ".".into(),
    };
    fs::create_dir_all(&dir).map_err(|e| at(&dir, e))?;
    let _lock = lock(&dir)?;
    let mut document = match file::read(&path)? {
        Some(text) => serde_json::from_slice::<Map<String, Value>>(&text)
            .map_err(|e| format!("{} is not an auth.json: line {} column {}", path.display(), e.line(), e.column()))?,
        None => Map::new(),
    };
    if !change(&mut document) {
        return Ok(false);
    }
    let mut text = serde_json::to_vec_pretty(&document).map_err(|e| format!("{}: {e}", path.display()))?;
    text.push(b'\n');
    let part = dir.join(format!(".auth.json.{}", uuid::Uuid::new_v4()));
    let written = write(&part, &text).and_then(|()| fs::rename(&part, &path));
    if let Err(e) = written {
        let _ = fs::remove_file(&part);
        return Err(at(&path, e));
    }
    // The name is durable once its directory is.
    File::open(&dir).and_then(|dir| dir.sync_all()).map_err(|e| at(&dir, e))?;
    Ok(true)
}

fn write(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// The directory's lock; no file of ours is left beside the one that counts.
fn lock(dir: &Path) -> Result<File, String> {
    let file = File::open(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let deadline = Instant::now() + LOCK;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(format!("{} is locked by another program: {e}", dir.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::{Credentials, find};
    use super::*;

    #[test]
    fn a_login_is_kept_beside_what_others_wrote_and_a_logout_takes_only_its_own() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("deep/auth.json");
            fs::create_dir(dir.path().join("deep")).unwrap();
            let foreign = r#"{"HttpHeaders": {"a": "b"}, "auths": {"https://r.local/v2/": {"auth": "b2xkOm9sZA=="}, "x.local": {"auth": "eDp5"}}}"#;
            fs::write(&path, foreign).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            assert_eq!(store(&path, "r.local", "me", "pass:word").await, Ok(Stored::File));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let files = [path.clone()];
            let found = find(&[], &files, "r.local", "a/b").await.unwrap();
            assert_eq!(found, Some(Credentials::Password { user: "me".into(), password: "pass:word".into() }));
            let document: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            assert_eq!(document["HttpHeaders"]["a"], "b");
            assert_eq!(document["auths"].as_object().unwrap().len(), 2);
            assert_eq!(forget(&path, "r.local").await, Ok(true));
            assert_eq!(forget(&path, "r.local").await, Ok(false));
            assert_eq!(find(&[], &files, "r.local", "a").await, Ok(None));
            assert!(find(&[], &files, "x.local", "a").await.unwrap().is_some());
            assert_eq!(forget_all(&path).await, Ok(1));
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "something was left beside it");
        });
    }
}
