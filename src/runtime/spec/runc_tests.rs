//! Specs run by the real `runc`, and what a process sees inside.
//!
//! They need root, `runc` and a static busybox, and say so where one is missing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use oci_spec::image::ConfigBuilder;

use super::tests::{container, image_config};
use super::*;
use crate::manifest::{Mount, MountKind, Rlimit};
use crate::network;
use crate::runtime::cgroup::{self, CgroupParent};
use crate::runtime::host::{find_executable, find_runc};
use crate::runtime::{Bundle, runc};

/// A bundle with a busybox root, a cgroup parent of its own, and everything taken away at the end.
struct Node {
    state: tempfile::TempDir,
    runc: PathBuf,
    host: HostFacts,
    parent: CgroupParent,
    driver: CgroupDriver,
    bundle: Bundle,
}

impl Node {
    /// One for each way in which this node makes cgroups.
    fn each() -> Vec<Self> {
        let systemd = HostFacts::detect().unwrap().systemd.then_some(CgroupDriver::Systemd);
        [CgroupDriver::Cgroupfs].into_iter().chain(systemd).filter_map(Self::with).collect()
    }

    fn new() -> Option<Self> {
        Self::with(CgroupDriver::Cgroupfs)
    }

    fn with(driver: CgroupDriver) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let busybox = find_executable(Path::new("busybox"));
        let (Some(busybox), Ok(runc), true) = (busybox, find_runc(None), rustix::process::geteuid().is_root()) else {
            eprintln!("skipped: needs root, runc and busybox-static");
            return None;
        };
        let parent = format!("/bayplan-spec-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let state = tempfile::tempdir().unwrap();
        let bundle = Bundle::create(state.path(), "shop", "web").unwrap();
        let root = bundle.path().join("rootfs");
        for directory in ["bin", "etc", "tmp", "data"] {
            fs::create_dir(root.join(directory)).unwrap();
        }
        fs::copy(busybox, root.join("bin/busybox")).unwrap();
        for name in ["sh", "cat", "id", "ls", "pwd", "grep", "touch", "hostname", "ifconfig", "env", "sleep", "mknod"] {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:100::/home/app:/bin/sh\n").unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nusers:x:100:\nwheel:x:10:app\n").unwrap();
        let host = HostFacts::detect().unwrap();
        Some(Self { runc, host, parent: CgroupParent::new(&parent).unwrap(), driver, bundle, state })
    }

    fn cgroup(&self) -> CgroupPath {
        CgroupPath::below(&self.parent, "shop", "web").unwrap()
    }

    fn build(&self, container: &ContainerSpec, netns: Option<PathBuf>) -> Built {
        let config = ConfigBuilder::default().entrypoint(vec!["ls".to_owned()]).cmd(vec!["/".to_owned()]);
        let image = image_config(config.working_dir("/etc").env(vec!["FROM_IMAGE=yes".to_owned()]).build().unwrap());
        check_sources(&container.mounts).unwrap();
        let built = build(&SpecInput {
            name: "web",
            namespace: "shop",
            container,
            image: &image,
            files: &LayerFiles { layers: vec![self.bundle.path().join("rootfs")] },
            console: None,
            netns,
            cgroup: &self.cgroup(),
            cgroup_driver: self.driver,
            host: &self.host,
            bundle: self.bundle.path(),
        })
        .unwrap();
        let etc = EtcFiles { hostname: built.hostname.clone(), ..EtcFiles::default() };
        write_etc_files(self.bundle.path(), &etc).unwrap();
        self.bundle.write_config(&built.spec).unwrap();
        built
    }

    fn runc_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.runc);
        command.arg("--root").arg(self.state.path().join("runc"));
        if self.driver == CgroupDriver::Systemd {
            command.arg("--systemd-cgroup");
        }
        command.args(arguments).current_dir(self.bundle.path());
        command
    }

    fn runc(&self, arguments: &[&str]) -> Output {
        self.runc_command(arguments).output().unwrap()
    }

    /// Runs a script inside; its output by `key value` lines.
    fn run(&self, container: &ContainerSpec, netns: Option<PathBuf>, script: &str) -> BTreeMap<String, String> {
        let mut container = container.clone();
        container.command = Some(vec!["sh".into(), "-c".into(), script.into()]);
        self.build(&container, netns);
        let output = self.runc(&["run", "web"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let pair = |line: &str| line.split_once(' ').map(|(key, value)| (key.to_owned(), value.to_owned()));
        text.lines().filter_map(pair).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.runc(&["delete", "-f", "web"]);
        let _ = network::remove(self.state.path(), "shop", "web");
        cgroup::remove(&self.host, self.driver, &self.cgroup()).unwrap();
        cgroup::prune(&self.host, self.driver, &self.parent, &Default::default());
        self.bundle.remove().unwrap();
        let left = cgroup::leftovers(&self.host, self.driver, &self.parent);
        assert!(left.is_empty(), "{left:?}");
    }
}

fn mount(kind: MountKind, source: Option<&Path>, target: &str) -> Mount {
    let source = source.map(|path| path.to_str().unwrap().to_owned());
    Mount { kind, source, target: target.into(), read_only: false, options: vec![], create: false }
}

/// Prints a file's only line after its key; the first of several files that exists.
const SHOW: &str =
    r#"show() { k=$1; shift; for f in "$@"; do [ -e "$f" ] && { echo "$k $(cat $f)"; return; }; done; }; "#;

#[test]
fn the_process_is_what_manifest_and_image_say() {
    Node::each().iter().for_each(process_is_as_wanted);
}

fn process_is_as_wanted(node: &Node) {
    let data = node.state.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "from the node").unwrap();
    let mut wanted = container();
    wanted.user = Some("app".into());
    wanted.env = [("GREETING".to_owned(), "hello".to_owned())].into();
    wanted.mounts = vec![
        mount(MountKind::Tmpfs, None, "/data/inner"),
        mount(MountKind::Tmpfs, None, "/scratch"),
        Mount { read_only: true, ..mount(MountKind::Bind, Some(&data), "/data") },
    ];
    fs::create_dir(data.join("inner")).unwrap();
    wanted.resources = serde_json::from_str(
        r#"{"limits": {"memory": "64Mi", "cpu": "500m", "pids": 50}, "requests": {"cpu": "250m"}}"#,
    )
    .unwrap();
    wanted.rlimits = vec![Rlimit { kind: "nofile".into(), soft: 512, hard: 1024 }];
    let netns = network::create(node.state.path(), "shop", "web").unwrap();
    let seen = node.run(
        &wanted,
        Some(netns),
        &format!(
            r#"{SHOW}
            echo cwd $(pwd); echo id $(id -u):$(id -g) $(id -G); echo env $GREETING $FROM_IMAGE $HOSTNAME $HOME $PATH
            echo name $(hostname) $(cat /etc/hostname)
            grep -E '^(CapEff|CapBnd|CapPrm|CapInh|CapAmb|NoNewPrivs)' /proc/self/status | while read k v; do echo ${{k%:}} $v; done
            echo kcore $(cat /proc/kcore | busybox wc -c); touch /proc/sys/kernel/domainname 2>/dev/null && echo sysctl written
            echo bind $(cat /data/file); touch /data/x 2>/dev/null && echo bind written
            touch /scratch/x && echo tmpfs written
            echo inner $(grep ' /data/inner ' /proc/self/mountinfo | grep -o tmpfs | busybox head -1)
            touch /sys/x 2>/dev/null; echo root $(touch /x 2>&1 | grep -o denied)
            show memory /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max
            show swap /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes /sys/fs/cgroup/memory.swap.max
            show quota /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max
            show shares /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpu.weight
            show pids /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max
            echo nofile $(ulimit -Sn) $(ulimit -Hn)
            echo lo $(ifconfig lo | grep -o 'UP LOOPBACK') $(ls /sys/class/net)
            echo hosts $(grep -c web /etc/hosts)
            echo dev $(ls /dev | busybox wc -l); echo pid $$"#
        ),
    );
    let expect =
        |key: &str, value: &str| assert_eq!(seen.get(key).map(String::as_str), Some(value), "{key}: {seen:#?}");
    expect("cwd", "/etc");
    expect("id", "1000:100 100 10");
    expect("env", "hello yes web /home/app /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    expect("name", "web web");
    for (set, bits) in [
        ("CapBnd", "00000000a80425fb"),
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
    ] {
        expect(set, bits);
    }
    expect("NoNewPrivs", "1");
    expect("kcore", "0");
    expect("bind", "from the node");
    expect("tmpfs", "written");
    expect("inner", "tmpfs");
    expect("root", "denied");
    assert_eq!(seen.get("sysctl"), None);
    let v2 = node.host.cgroup == CgroupMode::V2;
    expect("memory", "67108864");
    if node.host.swap_accounting {
        expect("swap", if v2 { "0" } else { "67108864" });
    }
    expect("quota", if v2 { "50000 100000" } else { "50000" });
    if !v2 {
        expect("shares", "256");
    }
    expect("pids", "50");
    expect("nofile", "512 1024");
    expect("lo", "UP LOOPBACK lo");
    expect("hosts", "1");
    expect("pid", "1");
    assert!(!data.join("x").exists());
}

#[test]
fn the_images_own_command_runs_when_none_is_given() {
    let Some(node) = Node::new() else { return };
    node.build(&container(), None);
    let output = node.runc(&["run", "web"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["bin", "data", "dev", "etc", "proc", "sys", "tmp"]);
}

#[test]
fn a_privileged_container_has_capabilities_devices_and_nothing_masked() {
    let Some(node) = Node::new() else { return };
    let mut wanted = container();
    wanted.security_context.privileged = true;
    let script = "grep -E '^(CapEff|NoNewPrivs)' /proc/self/status | while read k v; do echo ${k%:} $v; done
        echo devices $(ls /dev | busybox wc -l); touch /sys/kernel/x 2>&1 | grep -q 'Read-only' && echo sys read-only
        mknod /tmp/d b 7 99 && (: < /tmp/d) 2>&1 | grep -o 'not permitted' | busybox sed 's/^/open /'; echo done yes";
    let seen = node.run(&wanted, None, script);
    assert_eq!(seen["CapEff"], format!("{:016x}", node.host.capabilities));
    assert_eq!(seen["NoNewPrivs"], "0");
    assert!(seen["devices"].parse::<usize>().unwrap() > 15, "{seen:?}");
    assert_eq!((seen.get("sys"), seen.get("open"), seen["done"].as_str()), (None, None, "yes"));
}

#[test]
fn the_nodes_network_and_a_read_only_root_are_given() {
    let Some(node) = Node::new() else { return };
    let mut wanted = container();
    wanted.host_network = true;
    wanted.security_context.read_only_root_filesystem = true;
    wanted.security_context.capabilities.drop = vec!["ALL".into()];
    let script = "echo net $(busybox readlink /proc/self/ns/net); echo root $(touch /x 2>&1 | grep -o 'Read-only')
        grep CapBnd /proc/self/status | while read k v; do echo bounding $v; done; echo hosts $(busybox wc -c < /etc/hosts)";
    let seen = node.run(&wanted, None, script);
    assert_eq!(seen["net"], fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap());
    assert_eq!((seen["root"].as_str(), seen["bounding"].as_str()), ("Read-only", "0000000000000000"));
    if let Ok(hosts) = fs::metadata("/etc/hosts") {
        assert_eq!(seen["hosts"], hosts.len().to_string());
    }
}

#[tokio::test]
async fn limits_of_a_running_container_change_in_place_and_are_lifted() {
    for node in Node::each() {
        limits_change(&node).await;
    }
}

async fn limits_change(node: &Node) {
    let mut wanted = container();
    wanted.command = Some(vec!["sleep".into(), "600".into()]);
    wanted.resources = serde_json::from_str(r#"{"limits": {"memory": "64Mi", "cpu": "1", "pids": 9}}"#).unwrap();
    node.build(&wanted, None);
    // `-d` leaves the container behind with our pipes, so it gets none.
    let null = || std::process::Stdio::null();
    let status = node.runc_command(&["run", "-d", "web"]).stdin(null()).stdout(null()).stderr(null()).status();
    assert!(status.unwrap().success());
    let v2 = node.host.cgroup == CgroupMode::V2;
    let read = |controller: &str, v1: &str, file: &str| {
        let directories = node.cgroup().directories(&node.host, node.driver);
        let own = |path: &&PathBuf| v2 || path.to_str().unwrap().contains(&format!("/{controller}/"));
        let directory = directories.iter().find(own).unwrap();
        fs::read_to_string(directory.join(if v2 { file } else { v1 })).unwrap().trim().to_owned()
    };
    let limits = || {
        [
            read("memory", "memory.limit_in_bytes", "memory.max"),
            read("cpu", "cpu.cfs_quota_us", "cpu.max"),
            read("pids", "pids.max", "pids.max"),
        ]
    };
    let quota = |quota: &str| if v2 { format!("{quota} 100000") } else { quota.to_owned() };
    assert_eq!(limits(), ["67108864".to_owned(), quota("100000"), "9".to_owned()]);
    let root = node.state.path().join("runc");
    for (manifest, expected) in [
        (
            r#"{"limits": {"memory": "32Mi", "cpu": "250m", "pids": 20}}"#,
            ["33554432".to_owned(), quota("25000"), "20".to_owned()],
        ),
        (r#"{"limits": {"memory": "128Mi", "cpu": "2"}}"#, ["134217728".to_owned(), quota("200000"), "max".to_owned()]),
        (
            "{}",
            [
                if v2 { "max" } else { "9223372036854771712" }.to_owned(),
                if v2 { quota("max") } else { "-1".to_owned() },
                "max".to_owned(),
            ],
        ),
    ] {
        let limits_wanted = resources(&serde_json::from_str(manifest).unwrap(), &node.host);
        runc::update_resources(&node.runc, &root, "web", &limits_wanted, node.driver == CgroupDriver::Systemd)
            .await
            .unwrap();
        assert_eq!(limits(), expected, "{manifest}");
    }
    let mode = fs::metadata(node.bundle.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
