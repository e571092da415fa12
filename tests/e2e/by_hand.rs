//! What people do with images by hand, line by line as they type it.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use crate::image::Image;
use crate::node::{Run, TestNode};
use crate::registry::TestRegistry;

const APP: &str = "registry.local/debug/app:latest";

/// Says where a host of references really is.
fn reach(node: &TestNode, host: &str, url: &str) {
    let dir = node.dir().join("certs.d").join(host);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("hosts.toml"), format!("server = \"{url}\"\n")).unwrap();
}

fn digest(node: &TestNode, namespace: &str, name: &str) -> String {
    let image = node.bayplan(&["-n", namespace, "image", "inspect", name]).ok().json();
    image["item"]["status"]["digest"].as_str().unwrap().to_owned()
}

fn shell(node: &TestNode, line: &str) {
    Run::of(Command::new("bash").args(["-euo", "pipefail", "-c", line]).current_dir(node.dir())).ok();
}

#[test]
fn images_go_through_peoples_hands() {
    let (secret, open) = (TestRegistry::with_tls("admin", "123456"), TestRegistry::new());
    let image = Image::busybox().cmd(&["sleep", "1000"]);
    secret.push(&image, "debug/app:latest");
    open.push(&image, "debug/app:latest");
    let mut node = TestNode::new();
    node.configure(&format!("[registry]\ncerts_dir = \"{}\"\n", node.dir().join("certs.d").display()));
    reach(&node, "registry.local", &format!("https://{}", secret.host()));
    reach(&node, "plain.local", &format!("http://{}", open.host()));
    reach(&node, "b.example", &format!("http://{}", open.host()));
    node.start_daemon();

    // What is not trusted says both ways out; what is not known who says how to say it.
    node.bayplan(&["pull", APP]).exits(6).says("registry.local/hosts.toml").says("-k");
    node.bayplan(&["pull", "-k", APP]).exits(6).says("bayplan login registry.local");
    node.bayplan(&["pull", "-k", "--user", "admin:wrong", APP]).exits(6).says("401");
    node.bayplan(&["pull", "-k", "--user", "admin:123456", APP]).ok();
    node.bayplan(&["pull", "--plain-http", "plain.local/debug/app:latest"]).ok();
    let wanted = digest(&node, "default", APP);
    assert_eq!(digest(&node, "default", "plain.local/debug/app:latest"), wanted);

    // Names belong to a namespace, bytes to all.
    node.bayplan(&["-n", "k8s.io", "pull", "-k", "-u", "admin:123456", APP]).ok().says("was here");
    let k8s = |args: &[&str]| node.bayplan(&[&["-n", "k8s.io"], args].concat());
    k8s(&["image", "tag", APP, "a.example/pause:3.2"]).ok();
    let other = Image::busybox().cmd(&["true"]);
    k8s(&["pull", "-q", &open.push(&other, "other:1")]).ok();
    k8s(&["tag", &open.reference("other:1"), "b.example/pause:3.2"]).ok();
    k8s(&["image", "tag", "a.example/pause:3.2", "b.example/pause:3.2"]).exits(5).says("--force");
    k8s(&["image", "tag", "--force", "a.example/pause:3.2", "b.example/pause:3.2"]).ok();
    assert_eq!(digest(&node, "k8s.io", "b.example/pause:3.2"), wanted);
    node.bayplan(&["image", "inspect", "b.example/pause:3.2"]).exits(4);

    k8s(&["push", "b.example/pause:3.2"]).ok();
    assert_eq!(open.digest(&open.reference("pause:3.2")), wanted);
    k8s(&["image", "export", "pause.tar.zst", "b.example/pause:3.2"]).ok();
    k8s(&["image", "rm", "b.example/pause:3.2"]).ok();
    shell(&node, "zstd -dcq pause.tar.zst | gzip > pause.tar.gz");
    let mut import = node.command(&["-n", "k8s.io", "image", "import"]);
    Run::of(import.stdin(File::open(node.dir().join("pause.tar.gz")).unwrap())).ok();
    assert_eq!(digest(&node, "k8s.io", "b.example/pause:3.2"), wanted);
    let mut export = node.command(&["-n", "k8s.io", "image", "export", "-", "b.example/pause:3.2"]);
    let plain = File::create(node.dir().join("pause.tar")).unwrap();
    assert!(export.stdout(plain).stderr(Stdio::null()).status().unwrap().success());
    shell(&node, "zstd -dcq pause.tar.zst | cmp - pause.tar");

    let mount = node.dir().join("mnt");
    fs::create_dir(&mount).unwrap();
    node.bayplan(&["image", "mount", APP, mount.to_str().unwrap()]).ok();
    assert!(mount.join("bin/busybox").is_file());
    node.bayplan(&["image", "unmount", mount.to_str().unwrap()]).ok();
    node.bayplan(&["image", "check"]).ok();

    // The store is a layout for everybody, while the daemon runs.
    let output = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false"])
        .arg(format!("oci:{}:{APP}", node.root().join("content").display()))
        .arg(format!("docker://{}", open.reference("by/skopeo:1")))
        .output()
        .expect("skopeo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(open.digest(&open.reference("by/skopeo:1")), wanted);

    node.bayplan(&["run", "-d", APP, "user"]).ok();
    node.bayplan(&["rmi", APP]).exits(5).says("in use by container user");
    node.bayplan(&["rmi", "-f", APP]).ok().says("container user uses registry.local/debug/app:latest: it comes back");
    let names = node.bayplan(&["namespace", "ls", "-o", "name"]).ok().stdout;
    assert_eq!(names, "namespace/default\nnamespace/k8s.io\n");
    node.running("default", "user");
    node.bayplan(&["rm", "-f", "user"]).ok();
    node.bayplan(&["-A", "image", "prune", "--all", "--yes"]).ok();
    assert_eq!(node.bayplan(&["-A", "images", "-o", "name"]).ok().stdout, "");
    assert_eq!(fs::read_dir(node.root().join("content/blobs/sha256")).unwrap().count(), 0);
    node.close();
}
