//! What manifests say of images: where they come from, by whose credentials, and what they are called.

use base64::Engine as _;

use crate::image::Image;
use crate::node::TestNode;
use crate::registry::TestRegistry;
use crate::wait::eventually;

fn sleeper() -> Image {
    Image::busybox().script("exec sleep 100000")
}

fn resource(kind: &str, name: &str, spec: &str) -> String {
    format!("---\napiVersion: bayplan.dev/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn a_registry_is_in_force_before_what_comes_from_it() {
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    registry.push(&sleeper(), "lab/app:1");
    registry.push(&sleeper().env("N", "2"), "lab/app:2");
    // A host that is nowhere, and its mirror.
    let mirror = format!("{{host: images.invalid, mirrors: ['http://{}']}}", registry.host());
    let text =
        resource("Registry", "lab", &mirror) + &resource("Container", "app", "{image: 'images.invalid/lab/app:1'}");
    node.manifest("app.yaml", text);
    let planned = node.bayplan(&["diff"]).exits(1).steps();
    assert_eq!(planned[0], "+ registry images.invalid");
    node.start_daemon();
    node.running("default", "app");
    node.converged();
    let listed = node.bayplan(&["get", "registries"]).ok().stdout;
    assert!(listed.contains("images.invalid") && listed.contains(&registry.host()), "{listed}");
    assert_eq!(node.get("registries")[0]["status"]["conditions"][0]["status"], "True");
    // By hand it is reached by the same road, and after a restart too.
    node.bayplan(&["pull", "images.invalid/lab/app:2"]).ok();
    node.bayplan(&["rmi", "images.invalid/lab/app:2"]).ok();
    node.kill_daemon();
    node.bayplan(&["pull", "images.invalid/lab/app:2"]).ok();
    node.start_daemon();
    // Without it, nobody knows the host.
    node.manifest("app.yaml", resource("Container", "app", "{image: 'images.invalid/lab/app:1'}"));
    eventually("the registry is gone", 20, || node.get("registries").is_empty().then_some(()));
    node.bayplan(&["rmi", "images.invalid/lab/app:2"]).ok();
    node.bayplan(&["pull", "images.invalid/lab/app:2"]).exits(6);
    node.close();
}

#[test]
fn an_image_brings_its_own_credentials_and_says_where_they_are_missing() {
    let registry = TestRegistry::with_login("admin", "123456");
    let mut node = TestNode::new();
    let reference = registry.push(&sleeper(), "lab/private:1");
    let auth = base64::engine::general_purpose::STANDARD.encode("admin:123456");
    let file = node.file("team.json", format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, registry.host()));
    let empty = node.file("none.json", "{}");
    let configure = |secret: &str| {
        node.configure(&format!(
            "[registry]\nauth_files = [\"{empty}\"]\n[registry.pull_secrets]\n{secret} = \"{file}\"\n"
        ));
    };
    configure("other");
    let spec = format!("\n  reference: '{reference}'\n  pullSecrets:\n  - name: team");
    let manifest = node.file("private.yaml", resource("Image", "private", &spec));
    let refused = node.bayplan(&["apply", "-f", &manifest]).exits(1);
    assert!(refused.stderr.contains("pull secret team is not in the configuration"), "{}", refused.stderr);
    assert!(refused.stderr.contains("private.yaml:"), "the place is named:\n{}", refused.stderr);
    configure("team");
    let applied = node.bayplan(&["apply", "-f", &manifest]).ok();
    assert!(!applied.stdout.contains("123456") && !applied.stderr.contains(&auth));
    // With the policy Always the tag is asked for by the same credentials.
    node.start_daemon();
    registry.push(&sleeper().env("N", "2"), "lab/private:1");
    let spec = format!("{{reference: '{reference}', pullPolicy: Always, pullSecrets: [team]}}");
    node.file("private.yaml", resource("Image", "private", &spec));
    node.bayplan(&["apply", "-f", &manifest]).ok();
    let images = node.get("images");
    assert_eq!(images[0]["status"]["digest"], sleeper().env("N", "2").digest());
    node.close();
}

#[test]
fn a_tag_moves_with_its_source_and_its_containers_follow() {
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    let one = registry.push(&sleeper().env("N", "1"), "lab/web:1");
    let two = registry.push(&sleeper().env("N", "2"), "lab/web:2");
    let manifest = |source: &str| {
        resource("Image", "web", &format!("{{reference: '{source}'}}"))
            + &resource("Tag", "stable", &format!("{{reference: 'local.test/web:stable', source: '{source}'}}"))
            + &resource("Container", "web", "{image: 'local.test/web:stable'}")
    };
    node.manifest("web.yaml", manifest(&one));
    node.start_daemon();
    let old = node.running("default", "web");
    node.manifest("web.yaml", manifest(&two));
    eventually("the container follows the tag", 40, || {
        let item = node.container("default", "web")?;
        (item["status"]["imageDigest"] == sleeper().env("N", "2").digest() && item["status"]["phase"] == "Running")
            .then_some(())
    });
    assert_ne!(node.running("default", "web"), old);
    assert_eq!(node.get("tags")[0]["status"]["digest"], sleeper().env("N", "2").digest());
    // The same name made by hand before: both are named, and neither is touched.
    node.bayplan(&["tag", &two, "local.test/taken:1"]).ok();
    let taken = resource("Tag", "taken", &format!("{{reference: 'local.test/taken:1', source: '{two}'}}"));
    node.manifest("taken.yaml", taken);
    let status = eventually("the conflict is told", 20, || {
        let run = node.bayplan(&["status"]);
        run.stdout.contains("both give the reference local.test/taken:1").then_some(run.stdout)
    });
    assert!(status.contains("made by hand") && status.contains("taken.yaml"), "{status}");
    node.bayplan(&["rmi", "local.test/taken:1"]).ok();
    node.converged();
    let tags = node.get("tags");
    assert!(tags.iter().any(|tag| tag["metadata"]["name"] == "local.test/taken:1"), "{tags:?}");
    node.close();
}

#[test]
fn an_image_that_need_not_be_kept_is_collected_and_comes_back_when_it_is_used() {
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    node.configure("[gc]\ngrace = \"0s\"\n");
    let loose = registry.push(&sleeper().env("N", "loose"), "lab/loose:1");
    let other = registry.push(&sleeper().env("N", "other"), "lab/other:1");
    let image = resource("Image", "loose", &format!("{{reference: '{loose}', keep: false}}"));
    node.manifest("loose.yaml", &image);
    node.start_daemon();
    node.converged();
    // A removal has the garbage collected.
    node.bayplan(&["pull", &other]).ok();
    node.bayplan(&["rmi", &other]).ok();
    let unpacked = |node: &TestNode| {
        let images = node.get("images");
        images
            .iter()
            .find(|item| item["metadata"]["name"] == loose.as_str())
            .map(|item| item["status"]["unpacked"] == true)
    };
    eventually("its content is gone, its name is not", 20, || (unpacked(&node) == Some(false)).then_some(()));
    node.converged();
    let fetched = || sleeper().env("N", "loose").layer_blobs().iter().map(|hex| registry.fetches(hex)).sum::<usize>();
    let before = fetched();
    node.bayplan(&["sync"]).ok();
    assert_eq!(fetched(), before, "nobody uses it: it is not fetched again");
    node.manifest("loose.yaml", image + &resource("Container", "user", &format!("{{image: '{loose}'}}")));
    node.running("default", "user");
    assert!(fetched() > before);
    node.close();
}
