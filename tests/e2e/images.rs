//! Images by hand and by manifest: pulled, named, refused, loaded, verified.

use std::fs;

use base64::Engine;

use crate::image::Image;
use crate::node::TestNode;
use crate::registry::TestRegistry;
use crate::wait::eventually;

fn sleeper() -> Image {
    Image::busybox().script("exec sleep 100000")
}

fn digest_of(node: &TestNode, reference: &str) -> Option<String> {
    let item =
        node.get("images").into_iter().chain(node.get("tags")).find(|item| item["metadata"]["name"] == reference)?;
    item["status"]["digest"].as_str().map(str::to_owned)
}

#[test]
fn short_names_are_refused_with_the_full_name() {
    let node = TestNode::new();
    let run = node.bayplan(&["pull", "nginx"]);
    assert_ne!(run.status, 0);
    run.says("docker.io/library/nginx:latest");
    node.close();
}

#[test]
fn pull_tag_and_remove() {
    let registry = TestRegistry::new();
    let node = TestNode::new();
    let one = registry.push(&sleeper(), "lab/one:1");
    let two = registry.push(&sleeper().env("N", "2"), "lab/two:1");
    let pulled = node.bayplan(&["pull", "-q", &one]).ok();
    assert_eq!(pulled.stdout.trim(), sleeper().digest());
    node.bayplan(&["pull", &two]).ok();
    assert_eq!(digest_of(&node, &one), Some(sleeper().digest()));

    node.bayplan(&["tag", &one, "registry.local/x:1"]).ok();
    node.bayplan(&["tag", &two, "registry.local/x:1"]).exits(5);
    assert_eq!(digest_of(&node, "registry.local/x:1"), Some(sleeper().digest()));
    node.bayplan(&["tag", "--force", &two, "registry.local/x:1"]).ok();
    assert_eq!(digest_of(&node, "registry.local/x:1"), digest_of(&node, &two));

    node.bayplan(&["run", "-d", &one, "user"]).ok();
    node.bayplan(&["rmi", &one]).exits(5).says("user");
    node.bayplan(&["rm", "-f", "user"]).ok();
    node.bayplan(&["rmi", &one]).ok();
    assert_eq!(digest_of(&node, &one), None);
    node.bayplan(&["rmi", &one]).exits(4);
    let listing = node.bayplan(&["images"]).ok();
    assert!(listing.stdout.contains("registry.local/x"), "{}", listing.stdout);
    node.bayplan(&["pull", &registry.reference("lab/none:1")]).exits(4).says("lab/none");
    node.close();
}

#[test]
fn a_blob_of_several_images_crosses_the_wire_once() {
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    let images: Vec<_> = (0..4).map(|n| sleeper().env("N", &n.to_string())).collect();
    let references: Vec<_> =
        images.iter().enumerate().map(|(n, image)| registry.push(image, &format!("lab/i{n}:1"))).collect();
    let mut text =
        "apiVersion: bayplan.dev/v1\nkind: BayPlan\nmetadata: {name: many}\nspec: {namespaces: {many: {containers: {"
            .to_owned();
    for (n, reference) in references.iter().enumerate() {
        text += &format!("c{n}: {{image: '{reference}'}}, ");
    }
    node.manifest("many.yaml", text + "}}}}\n");
    node.start_daemon();
    for n in 0..4 {
        node.running("many", &format!("c{n}"));
    }
    for layer in images[0].layer_blobs() {
        assert_eq!(registry.fetches(&layer), 1, "layer {layer}");
    }
    // And nothing at all for what is there.
    let before = registry.requests();
    node.bayplan(&["sync"]).ok();
    assert_eq!(registry.requests(), before);
    node.close();
}

#[test]
fn credentials_come_from_the_auth_file() {
    let registry = TestRegistry::with_login("admin", "123456");
    let node = TestNode::new();
    let reference = registry.push(&sleeper(), "lab/private:1");
    node.configure("[registry]\nauth_files = []\n");
    let refused = node.bayplan(&["pull", &reference]).exits(6);
    assert!(!refused.stderr.contains("123456"));
    let auth = base64::engine::general_purpose::STANDARD.encode("admin:123456");
    let file = node.file("auth.json", format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, registry.host()));
    node.configure(&format!("[registry]\nauth_files = [\"{file}\"]\n"));
    node.bayplan(&["pull", &reference]).ok();
    node.bayplan(&["rmi", &reference]).ok();
    node.configure("[registry]\nauth_files = []\n");
    node.bayplan(&["pull", "--user", "admin:123456", &reference]).ok();
    node.bayplan(&["pull", "--user", "admin:wrong", &registry.reference("lab/private:1")]).exits(6);
    node.close();
}

#[test]
fn a_moved_tag_replaces_what_asks_always() {
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    let reference = registry.push(&sleeper().env("N", "1"), "lab/moving:latest");
    node.manifest(
        "m.yaml",
        format!(
            "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: always}}\nspec: {{image: '{reference}'}}\n---\n\
             apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: present}}\nspec: {{image: '{reference}', imagePullPolicy: IfNotPresent}}\n"
        ),
    );
    node.start_daemon();
    let first = node.running("default", "always");
    node.running("default", "present");
    node.converged();
    registry.push(&sleeper().env("N", "2"), "lab/moving:latest");
    node.bayplan(&["sync"]).ok();
    eventually("it runs the new digest", 40, || {
        let item = node.container("default", "always")?;
        (item["status"]["imageDigest"] == sleeper().env("N", "2").digest()
            && item["status"]["pid"].as_u64().is_some_and(|pid| pid != u64::from(first)))
        .then_some(())
    });
    node.close();
}

#[test]
fn archives_of_either_kind_load_plain_or_compressed() {
    let node = TestNode::new();
    let (oci, docker) = (node.dir().join("oci.tar"), node.dir().join("docker.tar"));
    sleeper().env("KIND", "oci").oci_archive(&oci, Some("registry.local/oci:1"));
    sleeper().env("KIND", "docker").docker_archive(&docker, &["busybox:docker"]);
    node.bayplan(&["load", oci.to_str().unwrap()]).ok();
    node.bayplan(&["load", docker.to_str().unwrap()]).ok();
    for (reference, kind) in [("registry.local/oci:1", "oci"), ("docker.io/library/busybox:docker", "docker")] {
        let run = node.bayplan(&["run", "--rm", reference, "x", "sh", "-c", "echo $KIND"]).ok();
        assert_eq!(run.stdout.trim(), kind);
    }
    for (tool, args) in [("gzip", vec!["-kf"]), ("zstd", vec!["-qkf"])] {
        let status = std::process::Command::new(tool).args(args).arg(&oci).status().unwrap();
        assert!(status.success());
    }
    for suffix in ["gz", "zst"] {
        node.bayplan(&["rmi", "registry.local/oci:1"]).ok();
        node.bayplan(&["load", &format!("{}.{suffix}", oci.display())]).ok();
        node.bayplan(&["run", "--rm", "registry.local/oci:1", "x", "true"]).ok();
    }
    // From standard input.
    node.bayplan(&["rmi", "registry.local/oci:1"]).ok();
    let mut command = node.command(&["load"]);
    command.stdin(fs::File::open(&oci).unwrap());
    crate::node::Run::of(&mut command).ok();
    node.close();
}

#[test]
fn bytes_that_do_not_match_their_digest_are_never_used() {
    let node = TestNode::new();
    let archive = node.dir().join("box.tar");
    sleeper().oci_archive(&archive, Some("registry.local/bad:1"));
    let mut bytes = fs::read(&archive).unwrap();
    // In the middle of the largest entry: the layer.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&archive, bytes).unwrap();
    let run = node.bayplan(&["load", archive.to_str().unwrap()]);
    assert_ne!(run.status, 0);
    assert!(run.stderr.contains("sha256:"), "it names the blob:\n{}", run.stderr);
    assert!(node.get("images").is_empty());
    node.close();
}

#[test]
fn an_image_of_127_layers_runs() {
    let node = TestNode::new();
    let image =
        (1..127).fold(Image::busybox(), |image, n| image.layer(|layer| layer.file(&format!("many/{n}"), 0o644, b"x")));
    let archive = node.dir().join("many.tar");
    image.oci_archive(&archive, Some("registry.local/many:1"));
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    let run = node.bayplan(&["run", "--rm", "registry.local/many:1", "many", "sh", "-c", "ls /many | wc -l"]).ok();
    assert_eq!(run.stdout.trim(), "126");
    node.close();
}
