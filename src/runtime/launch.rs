//! Shims started and cleaned up after, by containerd's bootstrap protocol: `SHIM -namespace NS -id ID … start`
//! leaves a serving process behind and prints its address; `… delete` takes away what a dead one left.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio as ProcessStdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::client::names;
use super::host::find_executable;
use super::{RuntimeError, ShimClient, bundle, runc};
use crate::oci::Digest;

/// A shim prints its address within this time.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Cleaning up kills, unmounts and runs `runc delete`.
const DELETE_TIMEOUT: Duration = Duration::from_secs(60);
/// After the command ended its output is there, unless a process it left behind holds the pipe.
const DRAIN: Duration = Duration::from_millis(200);
/// Nobody prints more than this of use.
const MAX_OUTPUT: u64 = 64 * 1024;
/// Where containerd (2.x) keeps how to reach a shim; we do so for shims that are not ours.
const BOOTSTRAP_FILE: &str = "bootstrap.json";
/// Where containerd's shims themselves write their address, before they print it.
const ADDRESS_FILE: &str = "address";
/// Where they make their sockets, named by the SHA-256 of `<address>/<namespace>/<id>`.
const SOCKETS: &str = "/run/containerd/s";
/// Other shims write their own log here, and end when they cannot open it. containerd makes a fifo of it; a
/// plain file needs no reader, so that they do not depend on our life.
const LOG_FILE: &str = "log";
/// What a service manager gives to its own service, not to shims and containers that outlive it (`runc`
/// would even mount the notification socket into them).
const NOT_INHERITED: [&str; 8] = [
    "NOTIFY_SOCKET",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "CREDENTIALS_DIRECTORY",
    "INVOCATION_ID",
];

/// Which shim to start for which task.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The shim's binary (see [`shim_binary_for`]).
    pub shim_binary: PathBuf,
    /// The bundle `<state>/tasks/<namespace>/<id>`. It must exist; our shim needs nothing in it yet, others
    /// read `config.json`.
    pub bundle: PathBuf,
    /// The instance's API socket. Nothing is sent to it; other runtimes' shims derive their socket's name
    /// from it, so that two instances never share one.
    pub address: PathBuf,
    /// It is another runtime's shim (see [`is_own`]): it wants a log to open in its bundle.
    pub foreign: bool,
    /// Have the shim say more in its log.
    pub debug: bool,
}

/// Which version of the Task API a shim serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// `containerd.task.v2.Task`.
    V2,
    /// `containerd.task.v3.Task`: the same messages under another name.
    V3,
}

impl Protocol {
    pub(super) fn service(self) -> &'static str {
        match self {
            Self::V2 => "containerd.task.v2.Task",
            Self::V3 => "containerd.task.v3.Task",
        }
    }
}

/// How a shim is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bootstrap {
    /// Its socket's path.
    pub address: PathBuf,
    /// What it speaks.
    pub protocol: Protocol,
}

/// `bootstrap.json`, and what newer shims print.
#[derive(Serialize, Deserialize)]
struct BootstrapParams {
    version: u32,
    address: String,
    #[serde(default)]
    protocol: String,
}

impl Bootstrap {
    /// Understands what `start` prints: a bare address (Task API v2) or JSON.
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let params = match serde_json::from_str::<BootstrapParams>(text) {
            Ok(params) => params,
            Err(_) if text.starts_with('{') => return Err(format!("{text:?} is not what a shim prints")),
            Err(_) => BootstrapParams { version: 2, address: text.to_owned(), protocol: String::new() },
        };
        let protocol = match (params.version, params.protocol.as_str()) {
            (2, "" | "ttrpc") => Protocol::V2,
            (3, "" | "ttrpc") => Protocol::V3,
            (version, protocol) => {
                return Err(format!("it speaks {protocol} version {version}, which bayplan does not"));
            }
        };
        let address = params.address.strip_prefix("unix://").unwrap_or(&params.address);
        if !address.starts_with('/') {
            return Err(format!("{address:?} is not the address of a socket with a path"));
        }
        Ok(Self { address: address.into(), protocol })
    }

    /// What was written when the shim was launched.
    pub(super) fn read(bundle: &Path) -> Result<Option<Self>, RuntimeError> {
        let path = bundle.join(BOOTSTRAP_FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                Self::parse(&text).map(Some).map_err(|e| RuntimeError::io("reading", path, std::io::Error::other(e)))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(RuntimeError::io("reading", path, error)),
        }
    }

    fn write(&self, bundle: &Path) -> Result<(), RuntimeError> {
        let path = bundle.join(BOOTSTRAP_FILE);
        let version = if self.protocol == Protocol::V3 { 3 } else { 2 };
        let params = BootstrapParams {
            version,
            address: format!("unix://{}", self.address.display()),
            protocol: "ttrpc".into(),
        };
        let text = serde_json::to_vec(&params)
            .map_err(|source| RuntimeError::Json { what: path.display().to_string(), source })?;
        bundle::write_file(&path, &text)
    }
}

impl ShimClient {
    /// Starts the shim of a bundle and connects to it. May run while the bundle is being filled: our shim
    /// reads it only when the task is created.
    pub async fn launch(launch: &Launch) -> Result<Self, RuntimeError> {
        let (namespace, id) = names(&launch.bundle);
        let object = format!("{namespace}/{id}");
        if launch.foreign {
            let log = launch.bundle.join(LOG_FILE);
            let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&log);
            opened.map_err(|error| RuntimeError::io("making", log, error))?;
        }
        let mut command = command(&launch.shim_binary, &launch.bundle, &launch.address);
        if launch.debug {
            command.arg("-debug");
        }
        command.arg("start");
        let output = run(command, &launch.shim_binary, &object, "start", START_TIMEOUT).await?;
        let said = String::from_utf8_lossy(&output.stdout);
        let bootstrap =
            Bootstrap::parse(&said).map_err(|reason| RuntimeError::ShimCommand { object, command: "start", reason })?;
        if bootstrap.address.parent() != Some(launch.bundle.as_path()) {
            bootstrap.write(&launch.bundle)?;
        }
        Self::connect_to(&launch.bundle, &bootstrap).await
    }
}

/// After a dead shim: kills what is left in the container's cgroup, removes runc's state, unmounts the root.
/// The bundle's files stay. Idempotent.
pub async fn cleanup(shim_binary: &Path, bundle: &Path, address: &Path) -> Result<(), RuntimeError> {
    let (namespace, id) = names(bundle);
    let object = format!("{namespace}/{id}");
    let mut command = command(shim_binary, bundle, address);
    command.arg("delete");
    run(command, shim_binary, &object, "delete", DELETE_TIMEOUT).await?;
    // Ours lies in the bundle; another's, outside, is its host's to remove.
    if let Some(bootstrap) = Bootstrap::read(bundle)? {
        let _ = std::fs::remove_file(bootstrap.address);
    }
    Ok(())
}

/// The files of a bundle that say how another runtime's shim is reached.
pub(super) fn addresses(bundle: &Path) -> [PathBuf; 2] {
    [bundle.join(BOOTSTRAP_FILE), bundle.join(ADDRESS_FILE)]
}

/// Another runtime's shim has ended: its socket goes, and that it was there. `host` is what it was given as `-address`.
pub(super) fn forget_address(bundle: &Path, host: &Path) {
    // Where containerd's library for shims makes it, before anybody is told: a `start` that was killed told nobody.
    let (namespace, id) = names(bundle);
    let digest = Digest::of(host.join(namespace).join(id).as_os_str().as_encoded_bytes());
    let _ = std::fs::remove_file(Path::new(SOCKETS).join(digest.hex()));
    for file in addresses(bundle) {
        if let Ok(text) = std::fs::read_to_string(&file)
            && let Ok(bootstrap) = Bootstrap::parse(&text)
        {
            let _ = std::fs::remove_file(bootstrap.address);
        }
        let _ = std::fs::remove_file(file);
    }
}

fn command(shim_binary: &Path, bundle: &Path, address: &Path) -> Command {
    let (namespace, id) = names(bundle);
    let mut command = Command::new(shim_binary);
    command.args(["-namespace", &namespace, "-id", &id, "-address"]).arg(address);
    // What a shim would publish its events with: nobody listens.
    command.args(["-publish-binary", "/bin/true", "-bundle"]).arg(bundle);
    command.current_dir(bundle).env("MAX_SHIM_VERSION", "3").env("GOMAXPROCS", "2");
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    command
}

/// Runs a bootstrap command to its end, whoever holds its pipes after that.
async fn run(
    mut command: Command,
    binary: &Path,
    object: &str,
    what: &'static str,
    allowed: Duration,
) -> Result<Output, RuntimeError> {
    command.stdin(ProcessStdio::null()).stdout(ProcessStdio::piped()).stderr(ProcessStdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            RuntimeError::ShimMissing { whose: format!("of {object}"), looked_for: binary.to_owned() }
        }
        _ => RuntimeError::io("running", binary, error),
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let reading = async {
        let out = async {
            if let Some(stream) = stdout {
                let _ = stream.take(MAX_OUTPUT).read_to_end(&mut said).await;
            }
        };
        let err = async {
            if let Some(stream) = stderr {
                let _ = stream.take(MAX_OUTPUT).read_to_end(&mut complained).await;
            }
        };
        tokio::join!(out, err);
    };
    let ended = async {
        tokio::pin!(reading);
        let mut all_read = false;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                () = &mut reading, if !all_read => all_read = true,
            }
        };
        if !all_read {
            let _ = timeout(DRAIN, reading).await;
        }
        status
    };
    let status = timeout(allowed, ended)
        .await
        .map_err(|_| RuntimeError::TimedOut {
            object: object.to_owned(),
            what: "the shim's bootstrap",
            after: allowed,
        })?
        .map_err(|error| RuntimeError::io("waiting for", binary, error))?;
    if !status.success() {
        let reason = runc::message_of(&complained).unwrap_or_else(|| status.to_string());
        return Err(RuntimeError::ShimCommand { object: object.to_owned(), command: what, reason });
    }
    Ok(Output { status, stdout: said, stderr: complained })
}

/// Whether a runtime is run by our own shim: none named, `runc`, or containerd's name for ours.
pub fn is_own(runtime: Option<&str>) -> bool {
    matches!(runtime, None | Some("" | "runc" | "io.containerd.bayplan.v1"))
}

/// Refuses when our own shim is not where it should be.
pub fn check_own_shim(own: &Path) -> Result<(), RuntimeError> {
    match find_executable(own) {
        Some(_) => Ok(()),
        None => Err(RuntimeError::OwnShimMissing { looked_for: own.to_owned() }),
    }
}

/// The shim of a runtime: ours (see [`is_own`]); an absolute path is itself; other names follow containerd's rule: `io.containerd.kata.v2` is `containerd-shim-kata-v2` on PATH.
pub fn shim_binary_for(runtime: Option<&str>, own: &Path) -> Result<PathBuf, RuntimeError> {
    let Some(name) = runtime.filter(|_| !is_own(runtime)) else {
        return Ok(own.to_owned());
    };
    let binary = if name.starts_with('/') {
        PathBuf::from(name)
    } else {
        let wrong = || RuntimeError::RuntimeName(name.to_owned());
        let parts: Vec<&str> = name.split('.').collect();
        let [.., kind, version] = parts.as_slice() else { return Err(wrong()) };
        let plain =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if !parts.iter().all(|part| plain(part)) {
            return Err(wrong());
        }
        PathBuf::from(format!("containerd-shim-{kind}-{version}"))
    };
    find_executable(&binary)
        .ok_or_else(|| RuntimeError::ShimMissing { whose: format!("of runtime {name}"), looked_for: binary })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shims_are_found_by_containerds_rule() {
        let own = Path::new("/usr/local/bin/bayplan-shim");
        for ours in [None, Some("runc"), Some(""), Some("io.containerd.bayplan.v1")] {
            assert_eq!(shim_binary_for(ours, own).unwrap(), own);
        }
        let missing = shim_binary_for(Some("io.containerd.nosuchthing.v7"), own).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "the shim containerd-shim-nosuchthing-v7 of runtime io.containerd.nosuchthing.v7 is not there"
        );
        assert_eq!(shim_binary_for(Some("/bin/sh"), own).unwrap(), Path::new("/bin/sh"));
        for name in ["kata", "../x.v1", "io..v2", "io.containerd.a/b.v2"] {
            assert!(matches!(shim_binary_for(Some(name), own), Err(RuntimeError::RuntimeName(_))), "{name}");
        }
    }

    #[test]
    fn both_forms_of_an_address_are_understood() {
        for (said, address, protocol) in [
            ("unix:///run/containerd/s/ab", "/run/containerd/s/ab", Protocol::V2),
            ("/run/x.sock\n", "/run/x.sock", Protocol::V2),
            (r#"{"version":3,"address":"unix:///run/y","protocol":"ttrpc"}"#, "/run/y", Protocol::V3),
            (r#"{"version":2,"address":"unix:///run/y"}"#, "/run/y", Protocol::V2),
        ] {
            assert_eq!(Bootstrap::parse(said).unwrap(), Bootstrap { address: address.into(), protocol });
        }
        for said in ["", "unix://@abstract", "{", r#"{"version":3,"address":"unix:///y","protocol":"grpc"}"#] {
            assert!(Bootstrap::parse(said).is_err(), "{said}");
        }
    }

    #[tokio::test]
    async fn a_shim_that_does_not_start_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let launch = |script: &str| {
            let shim = dir.path().join("shim");
            std::fs::write(&shim, format!("#!/bin/sh\n{script}\n")).unwrap();
            let mut mode = std::fs::metadata(&shim).unwrap().permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
            std::fs::set_permissions(&shim, mode).unwrap();
            let bundle = dir.path().join("tasks/shop/web");
            std::fs::create_dir_all(&bundle).unwrap();
            Launch { shim_binary: shim, bundle, address: dir.path().join("api.sock"), foreign: false, debug: false }
        };
        let error = ShimClient::launch(&launch("echo broken >&2; exit 1")).await.unwrap_err();
        assert_eq!(error.to_string(), "shim of shop/web: start: broken");
        let error = ShimClient::launch(&launch("echo nonsense")).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "shim of shop/web: start: \"nonsense\" is not the address of a socket with a path"
        );
        // What the command leaves behind may hold its pipes open: nobody waits for that.
        let error = ShimClient::launch(&launch("sleep 3 & echo /nowhere.sock")).await.unwrap_err();
        assert!(error.shim_is_gone(), "{error}");
    }
}
