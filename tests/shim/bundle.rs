//! A bundle of its own for each test, with everything torn down at the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bayplan::shim::protocol::{self, Policy, Restart, Supervision, TaskState};
use containerd_shim_protos::api::{CreateTaskRequest, Mount};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::Client;

static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Bundle {
    pub dir: TempDir,
    pub path: PathBuf,
    pub id: String,
    group: String,
}

/// The shim's binary: cargo's, or the one beside `BAYPLAN_BIN`.
pub fn shim() -> PathBuf {
    let own = || PathBuf::from(env!("CARGO_BIN_EXE_bayplan-shim"));
    std::env::var_os("BAYPLAN_BIN").map_or_else(own, |path| PathBuf::from(path).with_file_name("bayplan-shim"))
}

/// How many times longer than usual things may take here.
pub fn patience() -> u32 {
    std::env::var("BAYPLAN_TEST_PATIENCE").ok().and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

/// Polls until `holds`, at most ten seconds × patience.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Duration::from_secs(10) * patience();
    let end = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The supervision that most tests change a little.
pub fn supervision(bundle: &Bundle) -> Supervision {
    Supervision {
        version: 1,
        runtime: "/usr/sbin/runc".into(),
        runtime_root: bundle.dir.path().join("runc"),
        systemd_cgroup: false,
        restart: Restart { policy: Policy::Never, limit: None, initial_ms: 10, max_ms: 1000 },
        log_dir: Some(bundle.dir.path().join("log")),
        log_max_size: 0,
        log_max_files: 3,
        first_attempt: 0,
        restarts: 0,
        oom_score_adj: None,
        runtime_timeout_ms: None,
        stop_signal: None,
        grace_ms: None,
        stdin: false,
        reader_patience_ms: None,
    }
}

impl Bundle {
    /// A container that runs `script` in busybox's shell.
    pub fn new(script: &str) -> Self {
        Self::with_args(&["sh", "-c", script])
    }

    pub fn with_args(args: &[&str]) -> Self {
        Self::beneath("b", args)
    }

    /// At `<temporary>/<dir>`.
    pub fn beneath(dir_name: &str, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(dir_name);
        fs::create_dir_all(path.join("rootfs")).unwrap();
        let image = dir.path().join("image");
        for sub in ["bin", "proc", "dev", "sys", "tmp"] {
            fs::create_dir_all(image.join(sub)).unwrap();
        }
        fs::copy("/bin/busybox", image.join("bin/busybox")).unwrap();
        for name in ["sh", "sleep", "cat", "echo", "true", "yes", "head", "seq", "dd", "setsid", "id"] {
            std::os::unix::fs::symlink("busybox", image.join("bin").join(name)).unwrap();
        }
        let id = format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // One of its own: the end of another test must not take the parent away while runc makes a child.
        let group = format!("/bayplan-test-{}", id.trim_start_matches('t'));
        let made = Command::new("runc").arg("spec").current_dir(&path).status().unwrap();
        assert!(made.success());
        let bundle = Self { dir, path, id, group };
        bundle.edit(|spec| {
            spec["process"]["terminal"] = json!(false);
            spec["process"]["args"] = json!(args);
            spec["root"]["readonly"] = json!(false);
            spec["linux"]["cgroupsPath"] = json!(format!("{}/{}", bundle.group, bundle.id));
        });
        bundle.supervise(|_| {});
        bundle
    }

    pub fn edit(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path.join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut spec);
        fs::write(path, serde_json::to_vec(&spec).unwrap()).unwrap();
    }

    pub fn supervise(&self, change: impl FnOnce(&mut Supervision)) {
        let mut wanted = supervision(self);
        change(&mut wanted);
        fs::write(self.path.join(protocol::SUPERVISION_FILE), serde_json::to_vec(&wanted).unwrap()).unwrap();
    }

    /// Runs the shim's binary with an action of containerd's.
    pub fn bootstrap(&self, action: &str) -> Output {
        self.bootstrap_for("", action)
    }

    /// The same for a host that takes events at `address`.
    pub fn bootstrap_for(&self, address: &str, action: &str) -> Output {
        Command::new(shim())
            .args(["-namespace", "test", "-id", &self.id, "-address", address, action])
            .current_dir(&self.path)
            .output()
            .unwrap()
    }

    /// Starts the shim and connects.
    pub fn shim(&self) -> Client {
        let output = self.bootstrap("start");
        assert!(output.status.success(), "{output:?}");
        let address = String::from_utf8(output.stdout).unwrap();
        assert_eq!(address, format!("unix://{}", self.path.join("shim.sock").display()));
        Client::connect(&self.path)
    }

    pub fn request(&self) -> CreateTaskRequest {
        let mount = Mount {
            type_: "bind".into(),
            source: self.dir.path().join("image").display().to_string(),
            options: vec!["rbind".into(), "rw".into()],
            ..Default::default()
        };
        CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.path.display().to_string(),
            rootfs: vec![mount],
            ..Default::default()
        }
    }

    /// Starts shim and container.
    pub fn run(&self) -> Client {
        let mut client = self.shim();
        client.create(&self.request()).unwrap();
        client.start(&self.id).unwrap();
        client
    }

    pub fn state(&self) -> Option<TaskState> {
        serde_json::from_slice(&fs::read(self.path.join(protocol::STATE_FILE)).ok()?).ok()
    }

    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join("log").join(name)).unwrap_or_default()
    }

    /// The text of the log's lines.
    pub fn lines(&self, name: &str) -> Vec<String> {
        self.log(name).lines().map(|line| line.splitn(4, ' ').nth(3).unwrap().to_owned()).collect()
    }

    pub fn shim_pid(&self) -> Option<i32> {
        // Whoever holds the lock.
        let wanted = self.path.join(protocol::LOCK_FILE);
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).find(|pid| {
            let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| target == wanted)
        })
    }

    pub fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.contains(&self.path.join("rootfs").display().to_string())
    }

    /// The container's control groups that exist.
    pub fn groups(&self) -> Vec<PathBuf> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        let below = format!("{}/{}", self.group.trim_start_matches('/'), self.id);
        let all = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]);
        all.map(|hierarchy| hierarchy.join(&below)).filter(|dir| dir.is_dir()).collect()
    }

    pub fn assert_nothing_is_left(&self) {
        assert!(!self.is_mounted(), "the root file system is still mounted");
        assert_eq!(self.groups(), Vec::<PathBuf>::new(), "control groups are left");
        assert!(!self.dir.path().join("runc").join(&self.id).exists(), "runc still knows {}", self.id);
    }
}

/// Ends the process; false if it is not there.
pub fn kill9(pid: i32) -> bool {
    Command::new("kill").args(["-9", &pid.to_string()]).output().unwrap().status.success()
}

pub fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// A field of `/proc/PID/status`.
pub fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().to_owned()
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if let Some(pid) = self.shim_pid() {
            kill9(pid);
            until("the shim ends", || self.shim_pid().is_none());
        }
        let _ = self.bootstrap("delete");
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(self.group.trim_start_matches('/')));
        }
        let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(self.group.trim_start_matches('/')));
    }
}
