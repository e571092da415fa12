//! A real registry (Debian's docker-registry) on a free loopback port, and pulls from it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::certificates::Authority;
use super::fixture::{Blobs, LayerTar, noise};
use crate::image::{Image, ImageError, Images, PullOptions, RegistryConfig, RegistryFailure, silent};
use crate::oci::Reference;

/// The registry; it ends when this is dropped.
pub struct Registry {
    pub host: String,
    child: Child,
    dir: tempfile::TempDir,
}

impl Registry {
    pub fn start(htpasswd: Option<(&str, &str)>) -> Self {
        Self::start_with(htpasswd, "")
    }

    /// With a `tls: {…}` of its configuration.
    pub fn start_with(htpasswd: Option<(&str, &str)>, tls: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The port may be taken by another between our look and the registry's: then it is tried again.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let auth = htpasswd.map_or(String::new(), |(user, password)| {
                let file = dir.path().join("htpasswd");
                let made = Command::new("htpasswd").args(["-Bbc"]).arg(&file).args([user, password]).output().unwrap();
                assert!(made.status.success());
                format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display())
            });
            let config = dir.path().join("config.yml");
            let text = format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'{tls}}}\n{auth}",
                dir.path().join("data").display()
            );
            std::fs::write(&config, text).unwrap();
            let mut child = Command::new("docker-registry")
                .args(["serve"])
                .arg(&config)
                .env_remove("OTEL_TRACES_EXPORTER")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let deadline = Instant::now() + Duration::from_secs(30);
            while Instant::now() < deadline {
                if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Self { host: format!("127.0.0.1:{port}"), child, dir };
                }
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("docker-registry does not start");
    }

    /// Pushes an image of a layout by skopeo.
    pub fn push(&self, layout: &Path, tag: &str, name: &str, extra: &[&str]) {
        let out = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "-q", "--all", "--preserve-digests", "--dest-tls-verify=false"])
            .args(extra)
            .arg(format!("oci:{}:{tag}", layout.display()))
            .arg(format!("docker://{}/{name}", self.host))
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Images over a temporary root, and a runtime to use them on.
pub struct Node {
    pub images: Images,
    pub root: tempfile::TempDir,
    pub runtime: tokio::runtime::Runtime,
}

impl Node {
    pub fn new(config: RegistryConfig) -> Self {
        Self::at(tempfile::tempdir().unwrap(), config)
    }

    pub fn at(root: tempfile::TempDir, config: RegistryConfig) -> Self {
        let images = Images::open(root.path(), config).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { images, root, runtime }
    }

    pub fn plain() -> Self {
        Self::new(RegistryConfig::for_tests())
    }

    pub fn pull(&self, reference: &str, options: &PullOptions) -> Result<Image, ImageError> {
        let reference: Reference = reference.parse().unwrap();
        self.runtime.block_on(self.images.pull(&reference, options, silent()))
    }

    pub fn ingest_is_empty(&self) -> bool {
        std::fs::read_dir(self.root.path().join("content/ingest")).unwrap().next().is_none()
    }
}

fn options(platform: &str) -> PullOptions {
    PullOptions { platform: platform.parse().unwrap(), ..PullOptions::default() }
}

fn two_layers(mark: &[u8]) -> Vec<Vec<u8>> {
    vec![
        LayerTar::new().dir("etc", 0o755).file("etc/mark", mark).done(),
        LayerTar::new().file("big", &noise(300_000, 7)).done(),
    ]
}

#[test]
fn an_index_is_pulled_for_the_platform_and_the_store_is_a_layout_that_skopeo_reads() {
    let registry = Registry::start(None);
    let dir = tempfile::tempdir().unwrap();
    let mut blobs = Blobs::default();
    let amd64 = blobs.image("amd64", &two_layers(b"amd64"));
    let arm64 = blobs.image("arm64", &two_layers(b"arm64"));
    let index = blobs.index(&[(&arm64, Some("arm64")), (&amd64, Some("amd64"))]);
    blobs.layout(dir.path(), &[("multi", &index)]);
    registry.push(dir.path(), "multi", "lab/app:1", &[]);

    let node = Node::plain();
    let name = format!("{}/lab/app:1", registry.host);
    let image = node.pull(&name, &options("linux/amd64")).unwrap();
    assert_eq!((&image.target.digest, &image.manifest.digest), (&index.digest, &amd64.digest));
    assert_eq!(image.layers.len(), 2);
    let total: u64 = [&index.digest, &amd64.digest].iter().map(|d| node.images.store().size(d).unwrap()).sum();
    assert!(image.size > total);
    assert_eq!(image.config.config().as_ref().unwrap().env().as_deref(), Some(&["A=b".to_owned()][..]));
    assert!(node.ingest_is_empty());
    // Only one platform came, and is what the store knows.
    assert_eq!(node.images.platforms(&index.digest), ["linux/amd64".parse().unwrap()]);
    assert_eq!(node.images.load_image(&index.digest, &"linux/amd64".parse().unwrap()).unwrap(), image);
    let missing = node.images.load_image(&index.digest, &"linux/arm64".parse().unwrap()).unwrap_err();
    assert!(matches!(&missing, ImageError::NotPresent { missing, .. } if missing == &[arm64.digest.to_string()]));
    // The same digest by HEAD alone.
    let reference: Reference = name.parse().unwrap();
    let resolved = node.runtime.block_on(node.images.resolve(&reference, &options("linux/amd64"))).unwrap();
    assert_eq!(resolved, image.target);
    // Another reader of the store.
    let tagged: Reference = "a.local/x:1".parse().unwrap();
    node.images.store().write_index(&[("default".into(), tagged, image.manifest.clone())]).unwrap();
    let out = Command::new("skopeo")
        .args(["inspect", "--raw", &format!("oci:{}:a.local/x:1", node.root.path().join("content").display())])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(crate::oci::Digest::of(&out.stdout), amd64.digest);
}

#[test]
fn docker_schema_2_is_an_image_too() {
    let registry = Registry::start(None);
    let dir = tempfile::tempdir().unwrap();
    let mut blobs = Blobs::default();
    let tar = LayerTar::new().file("a", b"1").done();
    let layer = blobs.add(&format!("{}+gzip", crate::image::descriptor::OCI_LAYER), super::fixture::gzip(&tar));
    let image = blobs.image_of("amd64", vec![layer], &[crate::oci::Digest::of(&tar)]);
    blobs.layout(dir.path(), &[("x", &image)]);
    let out = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "-q", "--format", "v2s2", "--dest-tls-verify=false"])
        .arg(format!("oci:{}:x", dir.path().display()))
        .arg(format!("docker://{}/lab/docker:1", registry.host))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let node = Node::plain();
    let pulled = node.pull(&format!("{}/lab/docker:1", registry.host), &options("linux/amd64")).unwrap();
    assert_eq!(pulled.manifest.media_type, crate::image::descriptor::DOCKER_MANIFEST);
    assert_eq!(pulled.layers[0].diff_id, crate::oci::Digest::of(&tar));
}

#[test]
fn what_is_not_there_and_who_is_not_there_are_told_apart() {
    let registry = Registry::start(None);
    let node = Node::plain();
    let error = node.pull(&format!("{}/lab/none:1", registry.host), &options("linux/amd64")).unwrap_err();
    let ImageError::Registry { why: RegistryFailure::NotFound(said), .. } = &error else { panic!("{error}") };
    assert!(said.contains("unknown"), "{said}");
    assert!(error.to_string().starts_with(&format!("image {0}/lab/none:1: {0} answers 404", registry.host)));
    let host = registry.host.clone();
    drop(registry);
    let error = node.pull(&format!("{host}/lab/none:1"), &options("linux/amd64")).unwrap_err();
    assert!(matches!(&error, ImageError::Registry { why: RegistryFailure::Unreachable(_), .. }), "{error:?}");
}

#[test]
fn a_registry_with_basic_authentication_takes_what_auth_json_has() {
    let registry = Registry::start(Some(("admin", "pass:word")));
    let dir = tempfile::tempdir().unwrap();
    let mut blobs = Blobs::default();
    let image = blobs.image("amd64", &two_layers(b"x"));
    blobs.layout(dir.path(), &[("x", &image)]);
    registry.push(dir.path(), "x", "lab/secret:1", &["--dest-creds", "admin:pass:word"]);
    let name = format!("{}/lab/secret:1", registry.host);

    let anonymous = Node::plain();
    let error = anonymous.pull(&name, &options("linux/amd64")).unwrap_err();
    let ImageError::Registry { why: RegistryFailure::Denied { status: 401, anonymous: true, .. }, .. } = error else {
        panic!("{error}");
    };
    // auth.json as `podman login` writes it.
    let auth = registry.path().join("auth.json");
    let login = |password: &str| {
        use base64::Engine as _;
        let packed = base64::engine::general_purpose::STANDARD.encode(format!("admin:{password}"));
        std::fs::write(&auth, format!(r#"{{"auths":{{"{}":{{"auth":"{packed}"}}}}}}"#, registry.host)).unwrap();
    };
    login("wrong");
    let node = Node::new(RegistryConfig { auth_files: vec![auth.clone()], ..RegistryConfig::for_tests() });
    let error = node.pull(&name, &options("linux/amd64")).unwrap_err();
    let fault = crate::error::Fault::from(error);
    assert!(!format!("{fault:?}").contains("wrong") && fault.message.contains("401"), "{fault:?}");
    // Mended, it is read anew.
    login("pass:word");
    assert_eq!(node.pull(&name, &options("linux/amd64")).unwrap().manifest.digest, image.digest);
    // Given by hand, no file is needed.
    let given = PullOptions { credentials: Some(("admin".into(), "pass:word".into())), ..options("linux/amd64") };
    assert_eq!(anonymous.pull(&name, &given).unwrap().manifest.digest, image.digest);
}

#[test]
fn a_loopback_registry_with_tls_only_is_found_and_trusted_only_when_asked() {
    let authority = Authority::new();
    let registry = Registry::start_with(None, &authority.docker_registry("IP:127.0.0.1", false));
    let dir = tempfile::tempdir().unwrap();
    let mut blobs = Blobs::default();
    let image = blobs.image("amd64", &two_layers(b"x"));
    blobs.layout(dir.path(), &[("x", &image)]);
    registry.push(dir.path(), "x", "lab/tls:1", &[]);
    let name = format!("{}/lab/tls:1", registry.host);
    let node = Node::plain();
    let error = node.pull(&name, &options("linux/amd64")).unwrap_err();
    let fault = crate::error::Fault::from(error);
    let text = format!("{}\n  help: {}", fault.message, fault.help.unwrap()).replace(&registry.host, "HOST");
    insta::assert_snapshot!(text);
    let trusting = PullOptions { skip_verify: true, ..options("linux/amd64") };
    assert_eq!(node.pull(&name, &trusting).unwrap().manifest.digest, image.digest);
    // Plain HTTP by force is not answered, and says so.
    let plain = PullOptions { plain_http: true, ..options("linux/amd64") };
    let text = Node::plain().pull(&name, &plain).unwrap_err().to_string();
    assert!(text.contains("HTTPS server"), "{text}");
}
