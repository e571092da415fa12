//! The hosts that are asked for a reference: mirrors in their order, then its own.
//!
//! Which they are comes from `<certs_dir>/<host>/hosts.toml`, read afresh whenever it or a file it names
//! changed, or from Docker's `*.crt`, `*.cert` and `*.key` beside where it would be.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderMap;

use super::declared::DeclaredRegistry;
use super::hosts::{self, Capabilities, HostSettings, HostsFile};
use super::proxy::Proxies;
use super::transport::shown_host;
use super::trust::Trust;

/// Bound of a hosts.toml in bytes.
const MAX_FILE: u64 = 1 << 20;

/// One host to ask.
pub struct Endpoint {
    /// `host[:port]`, as shown and as credentials are searched by.
    pub host: String,
    /// Root of its API; none for the reference's own host by whichever scheme it speaks.
    pub root: Option<Url>,
    /// What it may be asked for.
    pub capabilities: Capabilities,
    /// For it alone.
    pub headers: HeaderMap,
    /// How far it is trusted.
    pub trust: Arc<Trust>,
    /// Whether it is where the reference says, rather than a mirror.
    pub upstream: bool,
}

impl Endpoint {
    /// The host a reference names, with nothing said about it.
    pub fn plain(host: &str, trust: Arc<Trust>) -> Self {
        Self {
            host: host.to_owned(),
            root: None,
            capabilities: Capabilities::default(),
            headers: HeaderMap::new(),
            trust,
            upstream: true,
        }
    }

    fn of(settings: &HostSettings, host: &str, upstream: bool, trust: Trust) -> Self {
        Self {
            host: settings.url.as_ref().map_or_else(|| host.to_owned(), shown_host),
            root: settings.url.clone(),
            capabilities: settings.capabilities,
            headers: settings.headers.clone(),
            trust: Arc::new(trust),
            upstream,
        }
    }
}

/// What was looked at: a later look finds the same, or reads again.
#[derive(PartialEq)]
struct Stamp(Option<(u64, u64, i64, i64, u64)>);

impl Stamp {
    fn of(path: &Path) -> Self {
        let found = std::fs::metadata(path).ok();
        // The change time moves even when somebody sets the modification time back.
        Self(found.map(|m| (m.dev(), m.ino(), m.ctime(), m.ctime_nsec(), m.size())))
    }
}

type Found = Result<Arc<[Arc<Endpoint>]>, String>;

struct Cached {
    seen: Vec<(PathBuf, Stamp)>,
    found: Found,
}

/// Everything that is said about hosts.
pub struct Directory {
    root: PathBuf,
    connect: Duration,
    proxies: Arc<Proxies>,
    system: Arc<Trust>,
    declared: RwLock<Arc<[DeclaredRegistry]>>,
    cache: Mutex<HashMap<String, Cached>>,
}

/// Stands for every host of which nothing is said.
const DEFAULT_HOST: &str = "_default";

/// Hosts remembered at most.
const MAX_CACHED: usize = 256;

impl Directory {
    /// Of the directory `root`, which need not exist. `connect` is the deadline where no other is set.
    pub fn new(root: PathBuf, connect: Duration, proxies: Proxies) -> Self {
        let proxies = Arc::new(proxies);
        let system = Arc::new(Trust::system(connect, Arc::clone(&proxies)));
        Self { root, connect, proxies, system, declared: RwLock::new(Arc::from([])), cache: Mutex::default() }
    }

    /// What is declared of hosts from now on. It goes before their files.
    pub fn declare(&self, declared: Vec<DeclaredRegistry>) {
        *self.declared.write().unwrap_or_else(PoisonError::into_inner) = declared.into();
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// All that is declared.
    pub fn all_declared(&self) -> Vec<DeclaredRegistry> {
        self.declared.read().unwrap_or_else(PoisonError::into_inner).to_vec()
    }

    /// What is declared of a host by its own name, or of all others under [`DEFAULT_HOST`].
    fn declared(&self, name: &str) -> Option<DeclaredRegistry> {
        let declared = self.declared.read().unwrap_or_else(PoisonError::into_inner);
        declared.iter().find(|registry| registry.host == name).cloned()
    }

    /// The credential file that is declared for a host.
    pub fn auth_file(&self, host: &str) -> Option<PathBuf> {
        let own = |name: &str| self.declared(name).map(|registry| registry.auth_file);
        own(host).or_else(|| own(DEFAULT_HOST)).flatten()
    }

    /// Who is asked for the references of `host`, in order; the upstream is last. An error begins with a file.
    pub fn endpoints(&self, host: &str) -> Found {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = cache.get(host)
            && cached.seen.iter().all(|(path, stamp)| Stamp::of(path) == *stamp)
        {
            return cached.found.clone();
        }
        let mut seen = Seen::default();
        let found = self.read(host, &mut seen);
        if cache.len() >= MAX_CACHED {
            cache.clear();
        }
        cache.insert(host.to_owned(), Cached { seen: seen.0, found: found.clone() });
        found
    }

    fn read(&self, host: &str, seen: &mut Seen) -> Found {
        let declared = |name: &str| self.declared(name).map(|registry| (registry.hosts(host), registry.host));
        if let Some((file, name)) = declared(host) {
            return self.described(&file?, host, &format!("registry {name}"), seen);
        }
        let plain = || Arc::from([Arc::new(Endpoint::plain(host, Arc::clone(&self.system)))]);
        let Some(dir) = directories(&self.root, host).into_iter().find(|dir| {
            seen.look(dir);
            dir.is_dir()
        }) else {
            return match declared(DEFAULT_HOST) {
                Some((file, name)) => self.described(&file?, host, &format!("registry {name}"), seen),
                None => Ok(plain()),
            };
        };
        // A host's own file goes before the policy of all others, and that before their file.
        if dir.ends_with(DEFAULT_HOST)
            && let Some((file, name)) = declared(DEFAULT_HOST)
        {
            return self.described(&file?, host, &format!("registry {name}"), seen);
        }
        let path = dir.join("hosts.toml");
        seen.look(&path);
        let file = match read_text(&path)? {
            Some(text) => hosts::parse(&path, &text)?,
            None => HostsFile { upstream: certificates(&dir)?, ..HostsFile::default() },
        };
        self.described(&file, host, &dir.display().to_string(), seen)
    }

    /// The endpoints of what is said of a host; `place` is where, for errors.
    fn described(&self, file: &HostsFile, host: &str, place: &str, seen: &mut Seen) -> Found {
        let mut endpoints = Vec::new();
        for (settings, upstream) in
            file.mirrors.iter().map(|m| (m, false)).chain(std::iter::once((&file.upstream, true)))
        {
            settings.ca.iter().for_each(|path| seen.look(path));
            settings.client.iter().for_each(|(certificate, key)| {
                seen.look(certificate);
                key.iter().for_each(|key| seen.look(key));
            });
            let trust = Trust::of(settings, self.connect, Arc::clone(&self.proxies))
                .map_err(|why| format!("{place}: {why}"))?;
            endpoints.push(Arc::new(Endpoint::of(settings, host, upstream, trust)));
        }
        Ok(endpoints.into())
    }
}

#[derive(Default)]
struct Seen(Vec<(PathBuf, Stamp)>);

impl Seen {
    fn look(&mut self, path: &Path) {
        self.0.push((path.to_owned(), Stamp::of(path)));
    }
}

/// Where a host's directory may be, best first: `host_port_`, `host:port`, `_default`.
fn directories(root: &Path, host: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Some((name, port)) = host.rsplit_once(':')
        && !port.ends_with(']')
    {
        found.push(root.join(format!("{name}_{port}_")));
    }
    found.extend([root.join(host), root.join(DEFAULT_HOST)]);
    found
}

fn read_text(path: &Path) -> Result<Option<String>, String> {
    use std::io::Read;
    let shown = path.display();
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("{shown}: {e}")),
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|e| format!("{shown}: {e}"))?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("{shown}: it is larger than {MAX_FILE} bytes"));
    }
    Ok(Some(text))
}

/// Docker's layout: `*.crt` are authorities, `NAME.cert` with `NAME.key` is what is shown.
fn certificates(dir: &Path) -> Result<HostSettings, String> {
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    let mut settings = HostSettings::default();
    for file in files {
        match file.extension().and_then(|e| e.to_str()) {
            Some("crt") => settings.ca.push(file),
            Some("cert") => {
                let key = file.with_extension("key");
                let key = key.exists().then_some(key);
                settings.client.push((file, key));
            }
            _ => {}
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(directory: &Directory, host: &str) -> Vec<String> {
        directory.endpoints(host).unwrap().iter().map(|e| e.host.clone()).collect()
    }

    #[test]
    fn each_spelling_of_the_folder_is_found_and_a_change_is_seen_without_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let write = |folder: &str, mirror: &str| {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
            let text = format!("[host.\"https://{mirror}\"]\n");
            std::fs::write(dir.path().join(folder).join("hosts.toml"), text).unwrap();
        };
        let directory = Directory::new(dir.path().to_owned(), Duration::from_secs(1), Proxies::default());
        assert_eq!(hosts(&directory, "r.local:5000"), ["r.local:5000"]);
        write("_default", "every.local");
        assert_eq!(hosts(&directory, "r.local:5000"), ["every.local", "r.local:5000"]);
        write("r.local:5000", "colon.local");
        assert_eq!(hosts(&directory, "r.local:5000"), ["colon.local", "r.local:5000"]);
        write("r.local_5000_", "underscore.local:80");
        assert_eq!(hosts(&directory, "r.local:5000"), ["underscore.local:80", "r.local:5000"]);
        write("r.local_5000_", "longer-name.local");
        assert_eq!(hosts(&directory, "r.local:5000"), ["longer-name.local", "r.local:5000"]);
        std::fs::write(dir.path().join("r.local_5000_/hosts.toml"), "serve = 1").unwrap();
        let Err(error) = directory.endpoints("r.local:5000") else { panic!("a misspelt key was taken") };
        assert!(error.ends_with("hosts.toml:1:1: unknown key serve; did you mean server?"), "{error}");
        std::fs::remove_dir_all(dir.path().join("r.local_5000_")).unwrap();
        assert_eq!(hosts(&directory, "r.local:5000"), ["colon.local", "r.local:5000"]);
        assert_eq!(hosts(&directory, "other.local"), ["every.local", "other.local"]);
    }
}
