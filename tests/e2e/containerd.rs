//! Debian's containerd with directories of its own, and its client `ctr`. Our shim is on its PATH.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::image::Image;
use crate::leaks;
use crate::node::Run;
use crate::wait::{eventually, patience};

/// A containerd; it ends, and what it left is swept away, when this is dropped.
pub struct Containerd {
    dir: PathBuf,
    namespace: String,
    child: Child,
}

impl Containerd {
    /// Starts one and waits until it answers.
    pub fn start() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new().prefix("ctrd-").tempdir_in("/tmp").unwrap().keep();
        let place = dir.display();
        let config = format!(
            "version = 2\nroot = '{place}/root'\nstate = '{place}/state'\n\
             disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.internal.v1.opt', 'io.containerd.internal.v1.tracing',\n\
             'io.containerd.tracing.processor.v1.otlp']\n[grpc]\naddress = '{place}/sock'\n"
        );
        fs::write(dir.join("config.toml"), config).unwrap();
        fs::create_dir(dir.join("bin")).unwrap();
        symlink(crate::node::shim(), dir.join("bin/containerd-shim-bayplan-v1")).unwrap();
        // Runtime state and cgroups of containerd are the machine's: a namespace keeps tests apart there.
        let namespace = format!("bp{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let child = Self::spawn(&dir);
        let own = Self { dir, namespace, child };
        own.answers();
        own
    }

    fn spawn(dir: &Path) -> Child {
        let log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let path = format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").unwrap_or_default());
        Command::new("containerd")
            .arg("--config")
            .arg(dir.join("config.toml"))
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("containerd is installed")
    }

    fn answers(&self) {
        eventually("containerd answers", 30, || (Run::of(&mut self.command(&["version"])).status == 0).then_some(()));
    }

    /// `kill -9`, and another in its place.
    pub fn kill_and_start_again(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(&self.dir);
        self.answers();
    }

    /// Around it all; free for the test's own files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// The namespace in which `ctr` works.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `ctr ARGS`, ready for more.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", &(60 * patience()).to_string(), "ctr", "-a"]).arg(self.dir.join("sock"));
        command.args(["-n", self.namespace()]).args(args).stdin(Stdio::null());
        command
    }

    /// Runs `ctr ARGS` to its end, whatever that is.
    pub fn run(&self, args: &[&str]) -> Run {
        Run::of(&mut self.command(args))
    }

    /// What `ctr ARGS` prints; it must go well.
    #[track_caller]
    pub fn ctr(&self, args: &[&str]) -> String {
        self.run(args).ok().stdout
    }

    /// The digest of an image.
    #[track_caller]
    pub fn digest(&self, name: &str) -> String {
        let listed = self.ctr(&["images", "ls", &format!("name=={name}")]);
        let line = listed.lines().nth(1).unwrap_or_else(|| panic!("ctr has no {name}:\n{listed}"));
        line.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap().to_owned()
    }

    /// Brings an image.
    #[track_caller]
    pub fn import(&self, image: &Image, reference: &str) {
        let archive = self.dir.join("image.tar");
        image.oci_archive(&archive, Some(reference));
        // ctr 1.6 names an image after its base name and tag.
        let (name, _) = reference.rsplit_once(':').unwrap();
        self.ctr(&["images", "import", "--base-name", name, archive.to_str().unwrap()]);
        let listed = self.ctr(&["images", "ls", "-q"]);
        assert!(listed.lines().any(|line| line == reference), "{listed}");
    }

    /// Process id and status of a task, as `ctr task ls` shows them.
    pub fn task(&self, id: &str) -> Option<(u32, String)> {
        let listed = self.ctr(&["task", "ls"]);
        listed.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()).find_map(|words| match words[..]
        {
            [name, pid, status] if name == id => Some((pid.parse().ok()?, status.to_owned())),
            _ => None,
        })
    }

    /// Waits until a task has this status, and gives its process id.
    #[track_caller]
    pub fn until(&self, id: &str, status: &str) -> u32 {
        let mut last = None;
        let began = std::time::Instant::now();
        while began.elapsed().as_secs() < u64::from(20 * patience()) {
            last = self.task(id);
            if let Some((pid, seen)) = &last
                && seen == status
            {
                return *pid;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("task {id} is not {status}: {last:?}\n{}", self.log());
    }

    /// The shim of a task: the process that works in its bundle.
    pub fn shim(&self, id: &str) -> u32 {
        let bundle = self.dir.join("state/io.containerd.runtime.v2.task").join(&self.namespace).join(id);
        let shims: Vec<u32> = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}"));
                link("cwd").is_ok_and(|cwd| cwd == bundle)
                    && link("exe").is_ok_and(|exe| exe.to_string_lossy().contains("shim"))
            })
            .collect();
        assert_eq!(shims.len(), 1, "shims of {id}: {shims:?}");
        shims[0]
    }

    /// What is left on the machine of this containerd's tasks.
    pub fn left(&self) -> Vec<String> {
        let own = self.child.id().cast_signed();
        let mut left: Vec<String> = leaks::processes(&self.dir)
            .into_iter()
            .filter(|(pid, command)| *pid != own && !command.contains("ctr -a"))
            .map(|(pid, command)| format!("process {pid}: {command}"))
            .collect();
        left.extend(leaks::mounts(&self.dir).iter().map(|path| format!("mount {}", path.display())));
        let children = |path: &Path| -> Vec<PathBuf> {
            fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
        };
        for path in self.cgroups().iter().flat_map(|cgroup| children(cgroup)).filter(|path| path.is_dir()) {
            left.push(format!("cgroup {}", path.display()));
        }
        let bundles = self.dir.join("state/io.containerd.runtime.v2.task").join(&self.namespace);
        let state = Path::new("/run/containerd/runc").join(&self.namespace);
        left.extend(children(&bundles).into_iter().chain(children(&state)).map(|path| path.display().to_string()));
        for link in children(Path::new("/run/containerd/s")) {
            if fs::read_link(&link).is_ok_and(|target| target.starts_with(&self.dir)) {
                left.push(link.display().to_string());
            }
        }
        left
    }

    /// Nothing is, soon.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        let began = std::time::Instant::now();
        let mut left = self.left();
        while !left.is_empty() {
            assert!(began.elapsed().as_secs() < u64::from(10 * patience()), "left: {left:#?}\n{}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(20));
            left = self.left();
        }
    }

    /// The cgroup of its namespace, in every hierarchy.
    fn cgroups(&self) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        let all = std::iter::once(root.to_owned()).chain(hierarchies.filter(|path| path.is_dir()));
        all.map(|path| path.join(&self.namespace)).filter(|path| path.is_dir()).collect()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        for (pid, _) in leaks::processes(&self.dir) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
        let directories = |path: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
            entries.filter(|path| path.is_dir()).collect()
        };
        for cgroup in self.cgroups() {
            for path in directories(&cgroup) {
                for pid in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
                    if let Ok(pid) = pid.parse() {
                        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
                    }
                }
                for _ in 0..100 {
                    if fs::remove_dir(&path).is_ok() || !path.exists() {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            }
            fs::remove_dir(&cgroup).ok();
        }
        for target in leaks::mounts(&self.dir).into_iter().rev() {
            rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH).ok();
        }
        fs::remove_dir_all(Path::new("/run/containerd/runc").join(&self.namespace)).ok();
        fs::remove_dir_all(&self.dir).ok();
    }
}
