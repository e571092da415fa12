//! A manifest in the directory becomes a running container, and what runs is what manifest and image say.

use std::fs;
use std::path::{Path, PathBuf};

use crate::image::Image;
use crate::node::{TestNode, environment, lives, pid};
use crate::registry::TestRegistry;
use crate::wait::eventually;

/// Writes what it sees to /out/facts, then stays.
const REPORT: &str = r#"
  { echo "args=$*"; echo "pwd=$(pwd)"; echo "user=$(id -u):$(id -g)"; echo "groups=$(id -G)"; echo "image=$FROM_IMAGE"
    echo "both=$FROM_BOTH"; echo "own=$FROM_MANIFEST"; echo "host=$(hostname)"; echo "low=$(cat /layers/low)"; echo "top=$(cat /layers/top)"
    test -e /layers/gone && echo "gone=there" || echo "gone=gone"
    touch /data/x 2>/dev/null && echo "data=writable" || echo "data=read-only"
    grep -q ' /scratch .*tmpfs' /proc/self/mountinfo && echo "scratch=tmpfs"
    echo "links=$(ls /sys/class/net | tr '\n' ' ')"; grep -i ^NoNewPrivs /proc/self/status | tr -d '\t' | tr ':' '='
    echo "nofile=$(ulimit -n)"
  } >/out/facts.new; mv /out/facts.new /out/facts; exec sleep 100000"#;

fn layered() -> Image {
    Image::busybox()
        .layer(|layer| {
            layer.directory("layers", 0o755);
            layer.file("layers/low", 0o644, b"low");
            layer.file("layers/top", 0o644, b"covered");
            layer.file("layers/gone", 0o644, b"gone");
        })
        .layer(|layer| {
            layer.file("layers/top", 0o644, b"top");
            layer.whiteout("layers/gone");
        })
        .env("FROM_IMAGE", "yes")
        .env("FROM_BOTH", "image")
        .workdir("/layers")
        .user("app")
        .entrypoint(&["sh", "-c", REPORT, "report"])
        .cmd(&["from", "cmd"])
}

/// The facts that the container wrote, as `name=value` lines.
fn facts(out: &Path) -> String {
    eventually("the container reports", 30, || fs::read_to_string(out.join("facts")).ok())
}

#[track_caller]
fn expect(facts: &str, lines: &[&str]) {
    for line in lines {
        assert!(facts.lines().any(|fact| fact.trim_end() == *line), "{line} is not among:\n{facts}");
    }
}

/// The file of a process's cgroup that holds a limit: v2's name, or v1's controller and name.
fn limit(pid: u32, v2: &str, controller: &str, v1: &str) -> String {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let base = PathBuf::from("/sys/fs/cgroup");
    let unified = base.join("cgroup.controllers").exists();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) =
            (parts.next(), parts.next().unwrap(), parts.next().unwrap().trim_start_matches('/'));
        let file = if unified && controllers.is_empty() {
            base.join(path).join(v2)
        } else if !unified && controllers.split(',').any(|one| one == controller) {
            base.join(controller).join(path).join(v1)
        } else {
            continue;
        };
        return fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())).trim().into();
    }
    panic!("no {controller} in:\n{cgroups}");
}

#[test]
fn a_pulled_image_runs_as_image_and_manifest_say() {
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    let image = registry.push(&layered(), "lab/report:1");
    for name in ["out", "out2", "data"] {
        fs::create_dir(node.dir().join(name)).unwrap();
        std::os::unix::fs::chown(node.dir().join(name), Some(1000), Some(1000)).unwrap();
    }
    let dir = node.dir().display();
    node.manifest(
        "lab.yaml",
        format!(
            r#"
apiVersion: bayplan.dev/v1
kind: Container
metadata: {{name: plain, namespace: lab}}
spec:
  image: {image}
  mounts: ["{dir}/out:/out", "{dir}/data:/data:ro", {{type: tmpfs, target: /scratch}}]
  env: {{FROM_BOTH: manifest, FROM_MANIFEST: "yes"}}
  resources: {{limits: {{memory: 64Mi, cpu: 250m, pids: 100}}}}
  rlimits: [{{type: NOFILE, soft: 512, hard: 512}}]
---
apiVersion: bayplan.dev/v1
kind: Container
metadata: {{name: other, namespace: lab}}
spec:
  image: {image}
  args: [from, manifest]
  user: "0:2000"
  workingDir: /tmp
  hostname: elsewhere
  mounts: ["{dir}/out2:/out"]
  securityContext: {{noNewPrivileges: false}}
"#
        ),
    );
    node.start_daemon();

    let plain = facts(&node.dir().join("out"));
    expect(
        &plain,
        &[
            "args=from cmd",
            "pwd=/layers",
            "user=1000:1000",
            "image=yes",
            "both=manifest",
            "own=yes",
            "host=plain",
            "low=low",
            "top=top",
            "gone=gone",
            "data=read-only",
            "scratch=tmpfs",
            "links=lo",
            "NoNewPrivs=1",
            "nofile=512",
        ],
    );
    let other = facts(&node.dir().join("out2"));
    expect(
        &other,
        &["args=from manifest", "pwd=/tmp", "user=0:2000", "both=image", "own=", "host=elsewhere", "NoNewPrivs=0"],
    );

    let container = node.phase("lab", "plain", "Running");
    let process = pid(&container);
    assert_eq!(limit(process, "memory.max", "memory", "memory.limit_in_bytes"), (64 << 20).to_string());
    assert_eq!(limit(process, "pids.max", "pids", "pids.max"), "100");
    let cpu = limit(process, "cpu.max", "cpu", "cpu.cfs_quota_us");
    assert_eq!(cpu.split(' ').next(), Some("25000"), "a quarter of 100 ms");

    assert_eq!(container["metadata"]["source"], "dir:lab.yaml");
    assert_eq!(container["status"]["imageDigest"], layered().digest());
    assert_eq!(container["status"]["restarts"], 0);
    node.close();
}

#[test]
fn a_bayplan_with_archives_and_tags_runs_without_any_registry() {
    let mut node = TestNode::new();
    let archives = node.manifests().join("images");
    fs::create_dir(&archives).unwrap();
    let image = Image::busybox().env("FROM", "archive").script("exec sleep 100000");
    image.oci_archive(&archives.join("box.tar"), None);
    node.manifest(
        "shop.yaml",
        r#"
apiVersion: bayplan.dev/v1
kind: BayPlan
metadata: {name: shop}
spec:
  namespaces:
    shop:
      images: [{archive: images/box.tar, reference: registry.local/box:1.0}]
      tags: {registry.local/web:stable: registry.local/box:1.0}
      containers:
        web: {image: registry.local/web:stable, env: {TZ: UTC}}
        api: {image: registry.local/box:1.0, env: [{name: PORT, value: "8080"}]}
    office:
      images: [{archive: images/box.tar, reference: registry.local/box:1.0}]
      containers:
        web: {image: registry.local/box:1.0}
"#,
    );
    node.start_daemon();
    let web = node.running("shop", "web");
    let api = node.running("shop", "api");
    let office = node.running("office", "web");
    node.converged();
    assert_eq!(environment(web, "TZ").as_deref(), Some("UTC"));
    assert_eq!(environment(api, "PORT").as_deref(), Some("8080"));
    assert_eq!(environment(office, "FROM").as_deref(), Some("archive"));
    let names: Vec<_> = node.get("tags").iter().map(|tag| tag["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["registry.local/web:stable"]);

    // An edit replaces what it is about, and nothing else.
    let text = fs::read_to_string(node.manifests().join("shop.yaml")).unwrap();
    node.manifest("shop.yaml", text.replace("TZ: UTC", "TZ: CET"));
    eventually("web is replaced", 30, || {
        let item = node.container("shop", "web")?;
        let now = u32::try_from(item["status"]["pid"].as_u64()?).ok()?;
        (now != web && environment(now, "TZ")? == "CET").then_some(())
    });
    assert_eq!(node.running("shop", "api"), api);
    assert_eq!(node.running("office", "web"), office);
    assert!(!lives(web));

    // The manifest goes, and all of it.
    node.remove_manifest("shop.yaml");
    eventually("everything is gone", 40, || node.get("all").is_empty().then_some(()));
    node.close();
}

#[test]
fn logs_hold_what_the_container_said() {
    let mut node = TestNode::new();
    let image = Image::busybox().script("echo to stdout; echo to stderr >&2; seq 1 100; exec sleep 100000");
    let archive = node.dir().join("box.tar");
    image.oci_archive(&archive, Some("registry.local/talker:1"));
    node.manifest(
        "talker.yaml",
        format!(
            "apiVersion: bayplan.dev/v1\nkind: Image\nmetadata: {{name: talker}}\nspec: {{archive: {}, reference: 'registry.local/talker:1'}}\n---\n\
             apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: talker}}\nspec: {{image: 'registry.local/talker:1'}}\n",
            archive.display()
        ),
    );
    node.start_daemon();
    node.running("default", "talker");
    let run = eventually("the log is complete", 20, || {
        let run = node.bayplan(&["logs", "talker"]);
        (run.status == 0 && run.stdout.lines().any(|line| line == "100")).then_some(run)
    });
    assert!(run.stdout.lines().any(|line| line == "to stdout"), "{}", run.stdout);
    eventually("standard error is there, on standard error", 20, || {
        node.bayplan(&["logs", "talker"]).stderr.lines().any(|line| line == "to stderr").then_some(())
    });
    let tail = node.bayplan(&["logs", "--tail", "2", "talker"]).ok();
    // The two streams are two pipes, so only lines of one of them have an order.
    assert_eq!(tail.stdout.lines().count() + tail.stderr.lines().count(), 2, "{}", tail.stdout);
    assert!(run.stdout.ends_with(&tail.stdout), "{}", tail.stdout);

    // The file itself is in the CRI format.
    let path = node.container("default", "talker").unwrap()["status"]["logPath"].as_str().unwrap().to_owned();
    let first = fs::read_to_string(path).unwrap();
    let words: Vec<_> = first.lines().next().unwrap().splitn(4, ' ').collect();
    assert!(words[0].parse::<jiff::Timestamp>().is_ok() && words[2] == "F", "{words:?}");
    node.close();
}
