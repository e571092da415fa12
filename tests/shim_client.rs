//! The shim client against real shims: ours, and containerd's for runc as a foreign one.
//!
//! They need root, `runc` and a static busybox, the foreign one also `containerd-shim-runc-v2`; each says so
//! where one is missing. `BAYPLAN_SHIM` names another build of our shim.

#![allow(clippy::unwrap_used, reason = "clippy spares tests only their own functions, not their helpers")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bayplan::manifest::ContainerSpec;
use bayplan::runtime::cgroup::{self, CgroupParent};
use bayplan::runtime::spec::{self, EtcFiles, LayerFiles, SpecInput};
use bayplan::runtime::{
    Bundle, CgroupDriver, CgroupPath, HostFacts, Launch, RootMount, RuncOptions, RuntimeError, ShimClient, Stdio,
    TaskStatus, cleanup, host, read_state, shim_alive, shim_binary_for,
};
use bayplan::shim::protocol::{Policy, Restart, Supervision, TaskPhase};
use oci_spec::image::ImageConfiguration;

/// A program that ends with 7 when told to, and that a shell can tell apart.
const OBEDIENT: &str = "trap 'exit 7' TERM; while :; do sleep 0.05; done";

struct Node {
    state: tempfile::TempDir,
    root: PathBuf,
    host: HostFacts,
    parent: CgroupParent,
    runc: PathBuf,
    shim: PathBuf,
    own: bool,
    bundle: Bundle,
}

impl Node {
    fn new(name: &str, runtime: Option<&str>) -> Option<Self> {
        let own =
            std::env::var_os("BAYPLAN_SHIM").map_or_else(|| env!("CARGO_BIN_EXE_bayplan-shim").into(), PathBuf::from);
        let (shim, runc) = (shim_binary_for(runtime, &own), host::find_runc(None));
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let (Ok(shim), Ok(runc), Some(busybox), true) = (shim, runc, busybox, rustix::process::geteuid().is_root())
        else {
            eprintln!("skipped: needs root, runc, busybox-static and the shim of {runtime:?}");
            return None;
        };
        let state = tempfile::tempdir().unwrap();
        let root = state.path().join("image");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy(busybox, root.join("bin/busybox")).unwrap();
        for applet in ["sh", "sleep", "echo"] {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let parent = CgroupParent::new(&format!("/bayplan-client-{name}-{}", std::process::id())).unwrap();
        let host = HostFacts::detect().unwrap();
        let bundle = Bundle::create(state.path(), "shop", name).unwrap();
        Some(Self { state, root, host, parent, runc, shim, own: runtime.is_none(), bundle })
    }

    fn prepare(&self, script: &str, policy: Policy) {
        let mut container = ContainerSpec::of("registry.local/test/busybox:1".parse().unwrap());
        container.command = Some(vec!["/bin/sh".into(), "-c".into(), script.into()]);
        let built = spec::build(&SpecInput {
            name: self.bundle.id(),
            namespace: "shop",
            container: &container,
            image: &ImageConfiguration::default(),
            files: &LayerFiles { layers: vec![self.root.clone()] },
            netns: None,
            cgroup: &CgroupPath::below(&self.parent, "shop", self.bundle.id()).unwrap(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            host: &self.host,
            console: None,
            bundle: self.bundle.path(),
        })
        .unwrap();
        let etc = EtcFiles { hostname: built.hostname.clone(), ..EtcFiles::default() };
        spec::write_etc_files(self.bundle.path(), &etc).unwrap();
        self.bundle.write_config(&built.spec).unwrap();
        if self.own {
            self.bundle
                .write_supervision(&Supervision {
                    version: 1,
                    runtime: self.runc.clone(),
                    runtime_root: self.state.path().join("runc"),
                    systemd_cgroup: false,
                    restart: Restart { policy, limit: None, initial_ms: 10, max_ms: 1000 },
                    log_dir: None,
                    log_max_size: 1 << 20,
                    log_max_files: 2,
                    first_attempt: 1,
                    restarts: 0,
                    oom_score_adj: None,
                    runtime_timeout_ms: None,
                    stop_signal: None,
                    grace_ms: None,
                    stdin: false,
                    reader_patience_ms: None,
                })
                .unwrap();
        }
    }

    async fn launch(&self) -> ShimClient {
        let launch = Launch {
            shim_binary: self.shim.clone(),
            bundle: self.bundle.path().to_owned(),
            address: self.state.path().join("bayplan.sock"),
            foreign: !self.own,
            debug: false,
        };
        ShimClient::launch(&launch).await.unwrap()
    }

    async fn create(&self, shim: &ShimClient) -> u32 {
        let mount = RootMount {
            kind: "bind".into(),
            source: self.root.to_str().unwrap().into(),
            options: vec!["rbind".into(), "rw".into()],
        };
        let options =
            RuncOptions { binary: self.runc.clone(), root: self.state.path().join("runc"), systemd_cgroup: false };
        shim.create_with(&[mount], &Stdio::default(), (!self.own).then_some(&options)).await.unwrap()
    }

    async fn cleanup(&self) -> Result<(), RuntimeError> {
        cleanup(&self.shim, self.bundle.path(), &self.state.path().join("bayplan.sock")).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let driver = CgroupDriver::Cgroupfs;
        let left = cgroup::leftovers(&self.host, driver, &self.parent);
        for path in &left {
            cgroup::remove(&self.host, driver, path).unwrap();
        }
        cgroup::prune(&self.host, driver, &self.parent, &Default::default());
        self.bundle.remove().unwrap();
        if !std::thread::panicking() {
            assert!(left.is_empty(), "cgroups left behind: {left:?}");
        }
    }
}

/// Looks until the condition holds; processes that are not our children cannot be waited for.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn lives(pid: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie waits for its parent, it does not live.
    state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn kill_shim(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Create, start, look, signal, wait, delete, shut down: the same for every shim.
async fn whole_life(node: &Node) {
    node.prepare(OBEDIENT, Policy::Never);
    let shim = node.launch().await;
    let created = node.create(&shim).await;
    assert!(lives(created));
    let info = shim.state().await.unwrap();
    assert_eq!((info.pid, info.status), (created, TaskStatus::Created));
    assert_eq!(shim.start().await.unwrap(), created);
    assert_eq!(shim.state().await.unwrap().status, TaskStatus::Running);
    assert!(shim.pids().await.unwrap().iter().any(|(pid, _)| *pid == created));
    let shim_pid = shim.shim_pid().await.unwrap();
    assert!(lives(shim_pid));

    // Another connection, as after a restart of the engine, and a wait that is under way when it ends.
    let second = ShimClient::connect(node.bundle.path()).await.unwrap();
    let waiting = tokio::spawn({
        let second = second.clone();
        async move { second.wait().await }
    });
    // The trap is set when the shell has started its first child.
    eventually("the shell runs its loop", || {
        fs::read_to_string(format!("/proc/{created}/task/{created}/children")).is_ok_and(|list| !list.trim().is_empty())
    })
    .await;
    shim.kill(15, false).await.unwrap();
    let exit = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(exit.code, 7);
    assert!(exit.at.is_some());
    let info = second.state().await.unwrap();
    assert_eq!((info.status, info.exit.unwrap().code), (TaskStatus::Stopped, 7));
    assert_eq!(second.delete().await.unwrap().code, 7);
    assert!(second.state().await.unwrap_err().is_not_found());
    shim.shutdown().await.unwrap();
    eventually("the shim ends", || !lives(shim_pid)).await;
    let gone = shim.state().await.unwrap_err();
    assert!(gone.shim_is_gone(), "{gone:?}");
    let error = ShimClient::connect(node.bundle.path()).await.unwrap_err();
    assert!(error.shim_is_gone(), "{error:?}");
}

/// What a killed shim leaves behind is taken away, twice over.
async fn killed_shim(node: &Node) {
    node.prepare("while :; do sleep 1; done", Policy::Always);
    let shim = node.launch().await;
    let pid = node.create(&shim).await;
    shim.start().await.unwrap();
    let shim_pid = shim.shim_pid().await.unwrap();
    let waiting = tokio::spawn({
        let shim = shim.clone();
        async move { shim.wait().await }
    });
    kill_shim(shim_pid);
    let error = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap().unwrap_err();
    assert!(error.shim_is_gone(), "{error:?}");
    assert!(lives(pid), "a container outlives its shim");
    node.cleanup().await.unwrap();
    eventually("the container ends", || !lives(pid)).await;
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(node.bundle.path().join("rootfs").to_str().unwrap()), "the root is unmounted");
    node.cleanup().await.unwrap();
}

#[tokio::test]
async fn our_shim_leads_a_task_through_its_life() {
    if let Some(node) = Node::new("own-life", None) {
        whole_life(&node).await;
        assert!(!shim_alive(node.bundle.path()));
    }
}

#[tokio::test]
async fn another_runtimes_shim_leads_a_task_through_its_life() {
    if let Some(node) = Node::new("foreign-life", Some("io.containerd.runc.v2")) {
        whole_life(&node).await;
    }
}

#[tokio::test]
async fn what_our_killed_shim_left_is_cleaned_up() {
    if let Some(node) = Node::new("own-killed", None) {
        killed_shim(&node).await;
    }
}

#[tokio::test]
async fn what_another_runtimes_killed_shim_left_is_cleaned_up() {
    if let Some(node) = Node::new("foreign-killed", Some("io.containerd.runc.v2")) {
        killed_shim(&node).await;
    }
}

#[tokio::test]
async fn our_shim_restarts_tells_and_stops() {
    let Some(node) = Node::new("own-watch", None) else { return };
    node.prepare(OBEDIENT, Policy::Always);
    let shim = node.launch().await;
    node.create(&shim).await;
    let first = shim.start().await.unwrap();
    assert!(shim_alive(node.bundle.path()));
    // A crash: the watch sees it come back with another process.
    let before = shim.watch(0).await.unwrap();
    assert_eq!((before.phase, before.pid, before.restarts), (TaskPhase::Running, Some(first), 0));
    shim.kill(9, false).await.unwrap();
    let mut state = before;
    while state.restarts == 0 || state.phase != TaskPhase::Running {
        let next = tokio::time::timeout(Duration::from_secs(10), shim.watch(state.seq)).await.unwrap().unwrap();
        assert!(next.seq > state.seq);
        state = next;
    }
    assert_ne!(state.pid, Some(first));
    assert_eq!(read_state(node.bundle.path()), Some(state));
    // In-place changes of the policy are read again.
    node.prepare(OBEDIENT, Policy::Never);
    shim.reload().await.unwrap();
    let stopped = shim.stop(15, Duration::from_secs(5)).await.unwrap();
    assert_eq!(stopped.phase, TaskPhase::Stopped);
    assert_eq!(stopped.pid, None);
    shim.delete().await.unwrap();
    shim.shutdown().await.unwrap();
    eventually("the shim ends", || !shim_alive(node.bundle.path())).await;
}

#[tokio::test]
async fn a_bundle_with_a_path_too_long_for_a_socket_address_is_reached_all_the_same() {
    let Some(mut node) = Node::new("own-long", None) else { return };
    let state = node.state.path().join("a".repeat(100));
    let empty = std::mem::replace(&mut node.bundle, Bundle::create(&state, "shop", "own-long").unwrap());
    empty.remove().unwrap();
    node.prepare(OBEDIENT, Policy::Never);
    assert!(node.bundle.path().as_os_str().len() > 120);
    let shim = node.launch().await;
    node.create(&shim).await;
    shim.start().await.unwrap();
    let again = ShimClient::connect(node.bundle.path()).await.unwrap();
    assert_eq!(again.stop(9, Duration::ZERO).await.unwrap().phase, TaskPhase::Stopped);
    again.delete().await.unwrap();
    again.shutdown().await.unwrap();
    eventually("the shim ends", || !shim_alive(node.bundle.path())).await;
}
