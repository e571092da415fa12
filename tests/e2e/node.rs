//! One node under test: directories, daemon, command line, and the end of it all.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bayplan::api::{Client, Service as _, WaitExitRequest};
use bayplan::error::Fault;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::leaks;
use crate::wait::{Turn, eventually, patience};

/// Where the binaries are: cargo's, or those of `BAYPLAN_BIN`.
pub fn binary() -> PathBuf {
    std::env::var_os("BAYPLAN_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_bayplan")), PathBuf::from)
}

/// Our shim, beside it.
pub fn shim() -> PathBuf {
    binary().with_file_name("bayplan-shim")
}

/// A node with directories of its own.
pub struct TestNode {
    dir: PathBuf,
    state: PathBuf,
    daemon: Option<Child>,
    /// Whether what remains is an assertion of the test (`close`) or only swept away (a panic).
    closed: bool,
    _turn: Turn,
}

impl TestNode {
    /// A node that shares the machine with other tests. No daemon runs yet.
    pub fn new() -> Self {
        Self::with(Turn::shared())
    }

    /// A node that has the machine to itself, for tests that measure.
    pub fn alone() -> Self {
        Self::with(Turn::alone())
    }

    /// A second node beside another of the same test.
    fn with(turn: Turn) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "end-to-end tests need root; `make test` runs them so");
        let dir = tempfile::Builder::new().prefix("bp-").tempdir_in("/tmp").unwrap().keep();
        let node = Self { state: dir.join("s"), dir, daemon: None, closed: false, _turn: turn };
        fs::create_dir(node.manifests()).unwrap();
        node.configure("");
        node
    }

    /// Moves `--state` to a path of more than 200 bytes: past what a socket's address holds, twice over.
    pub fn with_long_state(mut self) -> Self {
        self.state = self.dir.join("x".repeat(100)).join("y".repeat(100));
        fs::create_dir_all(&self.state).unwrap();
        // Where the search for leaks looks.
        std::os::unix::fs::symlink(&self.state, self.dir.join("s")).unwrap();
        self
    }

    /// The directory around it all; free for the test's own files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `--root`.
    pub fn root(&self) -> PathBuf {
        self.dir.join("r")
    }

    /// `--state`.
    pub fn state(&self) -> PathBuf {
        self.state.clone()
    }

    /// `--manifests`.
    pub fn manifests(&self) -> PathBuf {
        self.dir.join("m")
    }

    /// What the daemon has said so far.
    pub fn daemon_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("daemon.log")).unwrap_or_default()).into_owned()
    }

    /// Writes the configuration, after the line `version = 1`.
    pub fn configure(&self, toml: &str) {
        fs::write(self.dir.join("config.toml"), format!("version = 1\n{toml}")).unwrap();
    }

    fn globals(&self) -> Vec<String> {
        let path = |path: PathBuf| path.to_str().unwrap().to_owned();
        vec![
            "--config".into(),
            path(self.dir.join("config.toml")),
            "--root".into(),
            path(self.root()),
            "--state".into(),
            path(self.state()),
            "--manifests".into(),
            path(self.manifests()),
        ]
    }

    /// A command line of this node, ready for more.
    pub fn command(&self, args: &[&str]) -> Command {
        // Coreutils' timeout: a command that hangs fails its own test only.
        let mut command = Command::new("timeout");
        command.args(["-k", "5", &(120 * patience()).to_string()]).arg(binary()).args(self.globals()).args(args);
        command.current_dir(&self.dir).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// The same without a guard around it: what is started is bayplan itself, to be killed.
    pub fn bare(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(self.globals()).args(args).current_dir(&self.dir).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Runs `bayplan ARGS` to its end.
    pub fn bayplan(&self, args: &[&str]) -> Run {
        Run::of(&mut self.command(args))
    }

    /// Starts the daemon and waits until it answers.
    pub fn start_daemon(&mut self) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        let log = File::options().create(true).append(true).open(self.dir.join("daemon.log")).unwrap();
        let child = Command::new(binary())
            .args(self.globals())
            .arg("daemon")
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(child);
        // By a path of any length: a socket's address holds 108 bytes.
        let state = self.state();
        eventually("the daemon listens", 30, || {
            if let Some(status) = self.daemon.as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("the daemon ended at once, {status}:\n{}", self.daemon_log());
            }
            let directory = File::open(&state).ok()?;
            let socket = format!("/proc/self/fd/{}/bayplan.sock", std::os::fd::AsRawFd::as_raw_fd(&directory));
            std::os::unix::net::UnixStream::connect(socket).ok()
        });
    }

    /// The daemon's process id.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("the daemon runs").id()
    }

    /// `kill -9`.
    pub fn kill_daemon(&mut self) {
        let mut child = self.daemon.take().expect("the daemon runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; it must end by itself, soon and well.
    pub fn stop_daemon(&mut self) {
        let mut child = self.daemon.take().expect("the daemon runs");
        signal(child.id(), Signal::SIGTERM);
        let status = eventually("the daemon ends on SIGTERM", 10, || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "the daemon's exit after SIGTERM:\n{}", self.daemon_log());
    }

    /// How many descriptors the daemon has open.
    pub fn daemon_descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.daemon_pid())).unwrap().count()
    }

    /// Puts a manifest into the directory, by rename as careful programs do.
    pub fn manifest(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.manifests().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let new = self.dir.join("new-manifest");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
        path
    }

    /// Takes a manifest out of the directory.
    pub fn remove_manifest(&self, name: &str) {
        fs::remove_file(self.manifests().join(name)).unwrap();
    }

    /// A file of the test's own, outside the manifest directory.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.dir.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The items of `get KIND -A -o json`.
    #[track_caller]
    pub fn get(&self, kind: &str) -> Vec<Value> {
        let list = self.bayplan(&["get", kind, "-A", "-o", "json"]).ok().json();
        assert_eq!(list["kind"], "List", "{list}");
        list["items"].as_array().unwrap().clone()
    }

    /// One container as `get` shows it.
    #[track_caller]
    pub fn container(&self, namespace: &str, name: &str) -> Option<Value> {
        self.get("containers")
            .into_iter()
            .find(|item| item["metadata"]["namespace"] == namespace && item["metadata"]["name"] == name)
    }

    /// Waits for a container's phase and gives the container.
    #[track_caller]
    pub fn phase(&self, namespace: &str, name: &str, phase: &str) -> Value {
        let mut last = None;
        let started = std::time::Instant::now();
        loop {
            let now = self.container(namespace, name);
            if let Some(item) = &now
                && item["status"]["phase"] == phase
            {
                return item.clone();
            }
            last = now.or(last);
            assert!(
                started.elapsed().as_secs() < u64::from(30 * patience()),
                "container {namespace}/{name} is not {phase}; last seen: {}\n{}\ndaemon:\n{}",
                last.map_or_else(|| "nothing".into(), |item| item["status"].to_string()),
                self.bayplan(&["status"]).stdout,
                self.daemon_log(),
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// What is told to who waits for an attempt of a container of namespace `default`.
    pub fn exit_of(&self, name: &str, attempt: u32) -> Result<u32, Fault> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let socket = self.state().join("bayplan.sock");
        let ended = runtime.block_on(async {
            let node = Client::connect(&socket).unwrap().expect("a daemon answers");
            let (namespace, name) = ("default".to_owned(), name.to_owned());
            let request = WaitExitRequest { namespace, name, uid: None, attempt: Some(attempt), removed: false };
            let patience = std::time::Duration::from_secs(30) * patience();
            tokio::time::timeout(patience, node.wait_exit(request)).await.expect("the wait ends")
        });
        ended.map(|ended| ended.exit.code)
    }

    /// Waits until it runs, and gives its process id.
    #[track_caller]
    pub fn running(&self, namespace: &str, name: &str) -> u32 {
        pid(&self.phase(namespace, name, "Running"))
    }

    /// Waits until `status` says that all is as wanted.
    #[track_caller]
    pub fn converged(&self) {
        let mut last = None;
        let started = std::time::Instant::now();
        loop {
            let run = self.bayplan(&["status"]);
            if run.status == 0 {
                return;
            }
            last = Some(run).or(last);
            if started.elapsed().as_secs() >= u64::from(60 * patience()) {
                let run = last.expect("asked at least once");
                panic!("not converged: {}\n{}\ndaemon:\n{}", run.stdout, run.stderr, self.daemon_log());
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Takes down whatever is left, through bayplan's own commands.
    fn empty(&mut self) {
        if self.daemon.is_some() {
            self.stop_daemon();
        }
        for item in self.get("containers") {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (namespace, name) = (text(&item["metadata"]["namespace"]), text(&item["metadata"]["name"]));
            if text(&item["metadata"]["source"]).starts_with("apply:") {
                self.bayplan(&["-n", &namespace, "delete", "container", &name]).ok();
            } else {
                let run = self.bayplan(&["-n", &namespace, "rm", "-f", &name]);
                // One that goes by itself after its end may go before that.
                if run.status != 4 || self.container(&namespace, &name).is_some() {
                    run.ok();
                }
            }
        }
    }

    /// Namespace and name of every container that something happened to.
    fn known(&self) -> Vec<(String, String)> {
        let run = self.bayplan(&["events", "-A", "-o", "json"]);
        let events: Value = serde_json::from_str(&run.stdout).unwrap_or_default();
        let keys = events["items"].as_array().into_iter().flatten().map(|event| &event["key"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        keys.map(|key| (text(&key["namespace"]), text(&key["name"]))).collect()
    }

    /// The end of a test that went well: takes everything down and asserts that nothing is left.
    pub fn close(mut self) {
        self.empty();
        let mut found = leaks::find(&self.dir);
        found.extend(leaks::shim_sockets(&self.state(), &self.known()));
        self.closed = true;
        assert!(found.is_empty(), "left behind:\n  {}\ndaemon:\n{}", found.join("\n  "), self.daemon_log());
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            child.kill().ok();
            child.wait().ok();
        }
        if !self.closed && std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.daemon_log());
        }
        leaks::sweep(&self.dir);
        assert!(self.closed || std::thread::panicking(), "a test ends with node.close()");
    }
}

/// A command that ended.
pub struct Run {
    /// Exit status; 128 + N for a signal.
    pub status: i32,
    /// What it gave.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

impl Run {
    /// Runs it.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let status = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// It ended with this status.
    #[track_caller]
    pub fn exits(self, status: i32) -> Self {
        assert_eq!(self.status, status, "exit status; stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// It ended well.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    /// Its message says this.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no {text:?} in stderr:\n{}", self.stderr);
        self
    }

    /// What it gave, as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}:\n{}\n{}", self.stdout, self.stderr))
    }

    /// The steps among its lines, as `mark kind namespace/name`: what `diff` and `apply` must agree on.
    pub fn steps(&self) -> Vec<String> {
        let mark = |word: &str| ["+", "-", "~", ">", "-/+"].contains(&word);
        self.stdout
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let (first, kind, name) = (words.next()?, words.next()?, words.next()?);
                let known = ["namespace", "registry", "image", "tag", "container"].contains(&kind);
                (mark(first) && known).then(|| format!("{first} {kind} {}", name.trim_end_matches(':')))
            })
            .collect()
    }
}

/// A container's process id, out of what `get` shows.
#[track_caller]
pub fn pid(item: &Value) -> u32 {
    let pid = item["status"]["pid"].as_u64().unwrap_or_else(|| panic!("no pid: {}", item["status"]));
    u32::try_from(pid).unwrap()
}

/// Sends a signal.
pub fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Whether the process exists and is no zombie.
pub fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']))
}

/// One variable of a process's environment. A container runs from the moment at which the runtime lets it go; what it
/// executes is there a moment later.
pub fn environment(pid: u32, name: &str) -> Option<String> {
    crate::wait::eventually("its program was executed", 20, || {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        (!comm.starts_with("runc:")).then_some(())
    });
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
    bytes.split(|byte| *byte == 0).find_map(|entry| {
        let text = String::from_utf8_lossy(entry);
        text.strip_prefix(&format!("{name}=")).map(str::to_owned)
    })
}
