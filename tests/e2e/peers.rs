//! Images between bayplan and the others: whoever makes, pushes or exports one, everybody reads the same digest.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use bayplan::oci::Digest;
use tempfile::TempDir;

use crate::containerd::Containerd;
use crate::image::Image;
use crate::node::{Run, TestNode};
use crate::registry::TestRegistry;

/// Something that runs for long and is small.
fn app(mark: &str) -> Image {
    Image::busybox()
        .layer(|layer| layer.file("mark", 0o644, mark.as_bytes()))
        .script("cat /mark; exec sleep 100000")
        .env("MARK", mark)
}

/// Runs a program of somebody else.
#[track_caller]
fn run(program: &str, args: &[&str]) -> String {
    Run::of(Command::new(program).args(args).stdin(Stdio::null())).ok().stdout
}

/// The digest of what skopeo reads.
#[track_caller]
fn skopeo(source: &str) -> String {
    Digest::of(run("skopeo", &["inspect", "--raw", "--tls-verify=false", source]).as_bytes()).as_str().to_owned()
}

/// Podman with a root of its own.
struct Podman(TempDir);

impl Podman {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("podman-").tempdir_in("/tmp").unwrap())
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        let path = |name: &str| self.0.path().join(name).to_str().unwrap().to_owned();
        let (root, run_root) = (path("root"), path("run"));
        let own = ["--root", &root, "--runroot", &run_root, "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"];
        run("podman", &[&own, args].concat())
    }

    #[track_caller]
    fn digest(&self, name: &str) -> String {
        self.run(&["image", "inspect", "--format", "{{.Digest}}", name]).trim().to_owned()
    }
}

fn digest_here(node: &TestNode, reference: &str) -> Option<String> {
    let item = node.get("images").into_iter().find(|item| item["metadata"]["name"] == reference)?;
    item["status"]["digest"].as_str().map(str::to_owned)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_skopeo_umoci_and_podman_push_is_pulled() {
    let registry = TestRegistry::new();
    let node = TestNode::new();
    let archive = node.dir().join("app.tar");
    app("peer").oci_archive(&archive, Some("registry.local/peer:1"));
    let by_skopeo = registry.push(&app("skopeo"), "lab/skopeo:1");

    // umoci adds a layer of its own to what is there.
    let layout = node.dir().join("layout");
    run(
        "skopeo",
        &[
            "--insecure-policy",
            "copy",
            "-q",
            &format!("oci-archive:{}", text(&archive)),
            &format!("oci:{}:base", text(&layout)),
        ],
    );
    let added = node.file("added", "by umoci\n");
    run("umoci", &["insert", "--image", &format!("{}:base", text(&layout)), "--tag", "more", &added, "/added"]);
    run(
        "umoci",
        &["config", "--image", &format!("{}:more", text(&layout)), "--config.cmd", "cat", "--config.cmd", "/added"],
    );
    let by_umoci = registry.reference("lab/umoci:1");
    let args = ["--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "--preserve-digests"];
    let copy = [format!("oci:{}:more", text(&layout)), format!("docker://{by_umoci}")];
    run("skopeo", &[&args[..], &[&copy[0], &copy[1]]].concat());

    let podman = Podman::new();
    podman.run(&["load", "-q", "-i", text(&archive)]);
    let by_podman = registry.reference("lab/podman:1");
    podman.run(&["push", "-q", "--tls-verify=false", "registry.local/peer:1", &by_podman]);

    for (reference, says) in [(&by_skopeo, "skopeo"), (&by_umoci, "by umoci\n"), (&by_podman, "peer")] {
        let pulled = node.bayplan(&["pull", "-q", reference]).ok();
        assert_eq!(pulled.stdout.trim(), skopeo(&format!("docker://{reference}")), "{reference}");
        let file = if reference == &by_umoci { "/added" } else { "/mark" };
        assert_eq!(node.bayplan(&["run", "--rm", reference, "x", "cat", file]).ok().stdout, says);
    }
    node.close();
}

#[test]
fn what_is_pushed_is_read_by_skopeo_podman_and_containerd_with_the_same_digest() {
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    node.start_daemon();
    let archive = node.dir().join("app.tar");
    app("pushed").oci_archive(&archive, Some("registry.local/app:1"));
    node.bayplan(&["load", text(&archive)]).ok();
    let target = registry.reference("team/app:1");
    let pushed = node.bayplan(&["push", "registry.local/app:1", &target]).ok();
    let digest = app("pushed").digest();
    assert!(pushed.stdout.contains(&digest), "{}", pushed.stdout);
    assert_eq!(skopeo(&format!("docker://{target}")), digest);
    // A second time nothing is sent, and it says so.
    node.bayplan(&["push", "-q", "registry.local/app:1", &target]).ok();
    assert!(node.bayplan(&["push", "registry.local/app:1", &target]).ok().stdout.contains("was there"));
    // Under a name of its own, from where it was pushed to.
    node.bayplan(&["tag", "registry.local/app:1", &target]).ok();
    let other = registry.reference("team/other:1");
    let mounted = node.bayplan(&["push", &target, &other]).ok();
    assert!(mounted.stderr.contains("mounted from team/app"), "{}", mounted.stderr);
    assert_eq!(skopeo(&format!("docker://{other}")), digest);

    let podman = Podman::new();
    podman.run(&["pull", "-q", "--tls-verify=false", &target]);
    assert_eq!(podman.digest(&target), digest);
    let containerd = Containerd::start();
    containerd.ctr(&["content", "fetch", "--plain-http", &target]);
    assert_eq!(containerd.digest(&target), digest);

    node.bayplan(&["push", "registry.local/app:1", "127.0.0.1:1/x:1"]).exits(6).says("127.0.0.1:1 cannot be reached");
    node.bayplan(&["push", "registry.local/none:1"]).exits(4).says("registry.local/none:1 is not in namespace default");
    node.close();
}

#[test]
fn what_is_saved_is_read_by_skopeo_umoci_podman_and_containerd_with_the_same_digest() {
    let mut node = TestNode::new();
    node.start_daemon();
    let archive = node.dir().join("app.tar");
    let names = ["registry.local/one:1", "registry.local/two:1"];
    for name in names {
        app(name).oci_archive(&archive, Some(name));
        node.bayplan(&["load", text(&archive)]).ok();
    }
    let saved = node.dir().join("saved.tar");
    node.bayplan(&["save", text(&saved), names[0], names[1]]).ok();

    let podman = Podman::new();
    podman.run(&["load", "-q", "-i", text(&saved)]);
    let containerd = Containerd::start();
    containerd.ctr(&["image", "import", "--no-unpack", text(&saved)]);
    let layout = node.dir().join("layout");
    fs::create_dir(&layout).unwrap();
    run("tar", &["-xf", text(&saved), "-C", text(&layout)]);
    let manifests: serde_json::Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    for (at, name) in names.into_iter().enumerate() {
        let digest = app(name).digest();
        assert_eq!(manifests["manifests"][at]["digest"], digest);
        run("umoci", &["stat", "--image", &format!("{}:{name}", text(&layout))]);
        assert_eq!(skopeo(&format!("oci-archive:{}:{name}", text(&saved))), digest);
        assert_eq!(containerd.digest(name), digest);
        // Podman takes Docker's side of it, whose manifest is made anew: the same configuration is the same image.
        let config = run("skopeo", &["inspect", "--config", "--raw", &format!("oci-archive:{}:{name}", text(&saved))]);
        let id = podman.run(&["image", "inspect", "--format", "{{.Id}}", name]);
        assert_eq!(id.trim(), Digest::of(config.as_bytes()).hex(), "{name}");
    }
    node.close();
}

#[test]
fn an_archive_comes_back_as_the_same_bytes_whichever_way_it_went() {
    let node = TestNode::new();
    let mut other = TestNode::new();
    other.start_daemon();
    let archive = node.dir().join("app.tar");
    app("round").oci_archive(&archive, Some("registry.local/app:1"));
    node.bayplan(&["load", text(&archive)]).ok();
    for ending in ["tar", "tar.gz", "tar.zst"] {
        let first = node.dir().join(format!("first.{ending}"));
        node.bayplan(&["image", "export", text(&first), "registry.local/app:1"]).ok();
        // In by standard input, out by standard output, over the daemon's socket.
        let mut load = other.command(&["load"]);
        load.stdin(fs::File::open(&first).unwrap());
        Run::of(&mut load).ok();
        assert_eq!(digest_here(&other, "registry.local/app:1"), Some(app("round").digest()));
        let second = other.dir().join("second");
        let compress = match ending {
            "tar.gz" => "gzip",
            "tar.zst" => "zstd",
            _ => "none",
        };
        let mut save = other.command(&["save", "--compress", compress, "-", "registry.local/app:1"]);
        let status = save.stdout(fs::File::create(&second).unwrap()).status().unwrap();
        assert!(status.success());
        assert!(fs::read(&second).unwrap() == fs::read(&first).unwrap(), "{ending}");
        other.bayplan(&["run", "--rm", "registry.local/app:1", "x", "cat", "/mark"]).ok();
        other.bayplan(&["rmi", "registry.local/app:1"]).ok();
    }
    // What comes in is kept nowhere but in the store, and what fails says why.
    let cut = other.file("cut.tar", &fs::read(&archive).unwrap()[..700_000]);
    let mut load = other.command(&["load"]);
    load.stdin(fs::File::open(&cut).unwrap());
    Run::of(&mut load).exits(3).says("archive standard input: ").says("cut short");
    other.bayplan(&["load", &cut]).exits(3).says(&format!("archive {cut}: "));
    assert_eq!(
        fs::read_dir(other.state())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("load"))
            .count(),
        0
    );
    node.close();
    other.close();
}

#[test]
fn names_come_from_the_archive_its_tag_or_its_digest() {
    let node = TestNode::new();
    let archive = node.dir().join("app.tar");
    let digest = app("named").digest();
    let listed =
        |run: Run| run.stdout.lines().map(|line| line.split("  ").next().unwrap().to_owned()).collect::<Vec<_>>();
    app("named").oci_archive(&archive, Some("v2"));
    node.bayplan(&["load", text(&archive)]).exits(3).says("names none of its images").says("--base-name");
    assert_eq!(listed(node.bayplan(&["load", "--base-name", "a.local/app", text(&archive)]).ok()), ["a.local/app:v2"]);
    app("named").oci_archive(&archive, None);
    let pinned = format!("a.local/app@{digest}");
    assert_eq!(listed(node.bayplan(&["load", "--base-name", "a.local/app", text(&archive)]).ok()), [pinned.as_str()]);
    app("named").oci_archive(&archive, Some("b.local/app:1"));
    let both = node.bayplan(&["image", "import", "--digests", text(&archive)]).ok();
    assert_eq!(listed(both), ["b.local/app:1".to_owned(), format!("b.local/app@{digest}")]);
    node.bayplan(&["load", "--base-name", "a.local/app:1", text(&archive)]).exits(2);
    node.bayplan(&["load", "--platform", "linux/s390x", text(&archive)]).exits(4).says("linux/s390x");
    node.close();
}

#[test]
fn an_index_moves_with_what_is_here_unless_all_of_it_is_asked_for() {
    let registry = TestRegistry::new();
    let node = TestNode::new();
    let (archive, layout) = (node.dir().join("app.tar"), node.dir().join("layout"));
    app("part").oci_archive(&archive, None);
    fs::create_dir(&layout).unwrap();
    run("tar", &["-xf", text(&archive), "-C", text(&layout)]);
    // Around the image an index that names another, which nobody has.
    let top: serde_json::Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let (own, mut other) = (top["manifests"][0].clone(), top["manifests"][0].clone());
    other["digest"] = Digest::of(b"elsewhere").as_str().into();
    other["platform"] = serde_json::json!({"os": "linux", "architecture": "s390x"});
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": kind, "manifests": [other, own]}).to_string();
    let digest = Digest::of(index.as_bytes());
    fs::write(layout.join("blobs/sha256").join(digest.hex()), &index).unwrap();
    let named = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": kind, "digest": digest.as_str(), "size": index.len(),
        "annotations": {"org.opencontainers.image.ref.name": "registry.local/part:1"},
    }]});
    fs::write(layout.join("index.json"), named.to_string()).unwrap();
    let part = node.dir().join("part.tar");
    run("tar", &["-C", text(&layout), "-cf", text(&part), "."]);

    node.bayplan(&["load", "--all-platforms", text(&part)]).exits(4).says(Digest::of(b"elsewhere").as_str());
    node.bayplan(&["load", text(&part)]).ok();
    assert_eq!(digest_here(&node, "registry.local/part:1"), Some(digest.as_str().to_owned()));
    let target = registry.reference("lab/part:1");
    node.bayplan(&["push", "--all-platforms", "registry.local/part:1", &target]).exits(5).says("--platform");
    node.bayplan(&["push", "registry.local/part:1", &target]).ok().says("by itself");
    assert_eq!(skopeo(&format!("docker://{target}")), app("part").digest());
    let saved = node.dir().join("saved.tar");
    node.bayplan(&["save", "--all-platforms", text(&saved), "registry.local/part:1"]).exits(5);
    assert!(!saved.exists());
    node.bayplan(&["save", text(&saved), "registry.local/part:1"]).ok();
    let second = TestNode::new();
    second.bayplan(&["load", text(&saved)]).ok();
    assert_eq!(digest_here(&second, "registry.local/part:1"), Some(digest.as_str().to_owned()));
    second.bayplan(&["run", "--rm", "registry.local/part:1", "x", "cat", "/mark"]).ok();
    second.close();
    node.close();
}

#[test]
fn a_root_file_system_becomes_an_image_that_runs_and_is_pushed() {
    let registry = TestRegistry::new();
    let node = TestNode::new();
    let root = node.dir().join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
    let tar = node.dir().join("root.tar");
    run("tar", &["-C", text(&root), "-cf", text(&tar), "."]);
    let args = [
        "image",
        "import",
        "-q",
        "--rootfs",
        "--env",
        "A=b",
        "--workdir",
        "/bin",
        "--cmd",
        r#"["/bin/sh","-c","echo $A; pwd"]"#,
    ];
    let import = |file: &Path| node.bayplan(&[&args[..], &[text(file), "a.local/root:1"]].concat()).ok().stdout;
    let digest = import(&tar);
    assert_eq!(import(&tar), digest);
    assert_eq!(node.bayplan(&["run", "--rm", "a.local/root:1", "x"]).ok().stdout, "b\n/bin\n");
    let target = registry.reference("lab/root:1");
    node.bayplan(&["push", "a.local/root:1", &target]).ok();
    assert_eq!(skopeo(&format!("docker://{target}")), digest.trim());
    // What is an archive of images is told apart, either way round.
    node.bayplan(&["load", text(&tar)]).exits(3).says("--rootfs");
    node.close();
}
