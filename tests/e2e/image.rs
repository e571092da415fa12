//! Images for tests: layers of busybox and of what a test adds, written as OCI or Docker archives.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

use bayplan::oci::{Digest, Platform};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};
use tar::{Builder, EntryType, Header};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The layers and configuration of an image that does not exist yet.
#[derive(Clone)]
pub struct Image {
    /// Uncompressed tars, lowest first.
    layers: Vec<Vec<u8>>,
    config: Map<String, Value>,
}

impl Image {
    /// busybox with its applets, `/etc/passwd` with `root` and `app` (1000:1000), `/tmp`. One layer.
    pub fn busybox() -> Self {
        static LAYER: OnceLock<Vec<u8>> = OnceLock::new();
        let layer = LAYER.get_or_init(|| {
            let mut layer = Layer::new();
            for directory in ["bin", "dev", "etc", "proc", "root", "sys", "usr", "usr/bin", "var"] {
                layer.directory(directory, 0o755);
            }
            layer.directory("tmp", 0o1777);
            let busybox = ["/bin/busybox", "/usr/bin/busybox"]
                .iter()
                .find_map(|path| fs::read(path).ok())
                .expect("busybox-static is installed");
            layer.file("bin/busybox", 0o755, &busybox);
            for applet in [
                "sh", "ls", "pwd", "cat", "echo", "env", "id", "sleep", "true", "false", "kill", "hostname", "date",
                "mkdir", "touch", "mv", "rm", "stat", "test", "seq", "head", "tail", "wc", "grep", "ps", "printf",
                "readlink", "ip", "nc", "dd", "yes", "trap", "tr", "ulimit", "cut", "md5sum",
            ] {
                layer.link(&format!("bin/{applet}"), "busybox");
            }
            layer.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/tmp:/bin/sh\n");
            layer.file("etc/group", 0o644, b"root:x:0:\napp:x:1000:\nextra:x:2000:app\n");
            layer.finish()
        });
        let mut config = Map::new();
        config.insert("Env".into(), json!(["PATH=/bin:/usr/bin"]));
        // Process 1 ignores SIGTERM unless it handles it; nobody here waits for grace periods to pass.
        config.insert("StopSignal".into(), json!("SIGKILL"));
        Self { layers: vec![layer.clone()], config }
    }

    /// Another layer on top, of so many bytes that no compression makes smaller; other seeds, other bytes.
    pub fn noise(self, bytes: usize, seed: u64) -> Self {
        self.layer(|layer| {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut noise = Vec::with_capacity(bytes + 8);
            while noise.len() < bytes {
                // xorshift64.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                noise.extend_from_slice(&state.to_le_bytes());
            }
            noise.truncate(bytes);
            layer.file(&format!("noise-{seed}"), 0o644, &noise);
        })
    }

    /// Another layer on top.
    pub fn layer(mut self, fill: impl FnOnce(&mut Layer)) -> Self {
        let mut layer = Layer::new();
        fill(&mut layer);
        self.layers.push(layer.finish());
        self
    }

    fn set(mut self, field: &str, value: Value) -> Self {
        self.config.insert(field.into(), value);
        self
    }

    /// ENTRYPOINT.
    pub fn entrypoint(self, words: &[&str]) -> Self {
        self.set("Entrypoint", json!(words))
    }

    /// CMD.
    pub fn cmd(self, words: &[&str]) -> Self {
        self.set("Cmd", json!(words))
    }

    /// A shell script as CMD, under no ENTRYPOINT.
    pub fn script(self, text: &str) -> Self {
        self.cmd(&["sh", "-c", text])
    }

    /// ENV, beside PATH.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        if let Some(Value::Array(list)) = self.config.get_mut("Env") {
            list.push(json!(format!("{name}={value}")));
        }
        self
    }

    /// WORKDIR.
    pub fn workdir(self, path: &str) -> Self {
        self.set("WorkingDir", json!(path))
    }

    /// USER.
    pub fn user(self, user: &str) -> Self {
        self.set("User", json!(user))
    }

    /// The image's blobs, with the digest of its manifest.
    fn build(&self) -> (BTreeMap<String, Vec<u8>>, Digest, Vec<u8>, Vec<String>) {
        let mut blobs = BTreeMap::new();
        let mut add = |bytes: Vec<u8>| {
            let digest = Digest::of(&bytes);
            let size = bytes.len();
            blobs.insert(digest.hex().to_owned(), bytes);
            (digest, size)
        };
        let (mut layers, mut diff_ids, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for tar in &self.layers {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(tar).unwrap();
            let (digest, size) = add(gzip.finish().unwrap());
            names.push(digest.hex().to_owned());
            layers.push(json!({"mediaType": LAYER, "digest": digest.as_str(), "size": size}));
            diff_ids.push(Digest::of(tar).as_str().to_owned());
        }
        let platform = serde_json::to_value(Platform::host()).unwrap();
        let config = json!({
            "architecture": architecture(&platform),
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = serde_json::to_vec(&config).unwrap();
        let (config_digest, config_size) = add(config.clone());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config_digest.as_str(), "size": config_size},
            "layers": layers,
        });
        let (digest, _) = add(serde_json::to_vec(&manifest).unwrap());
        (blobs, digest, config, names)
    }

    /// The digest of its manifest.
    pub fn digest(&self) -> String {
        self.build().1.as_str().to_owned()
    }

    /// Hex digests of its (compressed) layers.
    pub fn layer_blobs(&self) -> Vec<String> {
        self.build().3
    }

    /// An OCI archive; `reference` goes into its index, as a full name.
    pub fn oci_archive(&self, path: &Path, reference: Option<&str>) {
        let (blobs, digest, _, _) = self.build();
        let size = blobs[digest.hex()].len();
        let mut entry = json!({"mediaType": MANIFEST, "digest": digest.as_str(), "size": size});
        if let Some(reference) = reference {
            entry["annotations"] =
                json!({"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference});
        }
        let mut archive = Layer::new();
        archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        archive.file("index.json", 0o644, &serde_json::to_vec(&index).unwrap());
        for (hex, bytes) in &blobs {
            archive.file(&format!("blobs/sha256/{hex}"), 0o644, bytes);
        }
        File::create(path).unwrap().write_all(&archive.finish()).unwrap();
    }

    /// What `docker save` writes.
    pub fn docker_archive(&self, path: &Path, names: &[&str]) {
        let (_, _, config, _) = self.build();
        let config_name = format!("{}.json", Digest::of(&config).hex());
        let mut archive = Layer::new();
        archive.file(&config_name, 0o644, &config);
        let mut layers = Vec::new();
        for tar in &self.layers {
            let name = format!("{}/layer.tar", Digest::of(tar).hex());
            archive.file(&name, 0o644, tar);
            layers.push(name);
        }
        let manifest = json!([{"Config": config_name, "RepoTags": names, "Layers": layers}]);
        archive.file("manifest.json", 0o644, &serde_json::to_vec(&manifest).unwrap());
        File::create(path).unwrap().write_all(&archive.finish()).unwrap();
    }
}

/// `amd64` and the like, whatever the shape of a serialised platform.
fn architecture(platform: &Value) -> String {
    match platform {
        Value::String(text) => text.split('/').nth(1).unwrap_or("amd64").to_owned(),
        other => other["architecture"].as_str().unwrap_or("amd64").to_owned(),
    }
}

/// A tar in the making: a layer, or an archive around layers.
pub struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(1_700_000_000);
        header
    }

    /// A directory.
    pub fn directory(&mut self, path: &str, mode: u32) {
        let mut header = Self::header(EntryType::Directory, mode, 0);
        self.0.append_data(&mut header, format!("{path}/"), std::io::empty()).unwrap();
    }

    /// A regular file of root.
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        let mut header = Self::header(EntryType::Regular, mode, bytes.len() as u64);
        self.0.append_data(&mut header, path, bytes).unwrap();
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        let mut header = Self::header(EntryType::Symlink, 0o777, 0);
        self.0.append_link(&mut header, path, target).unwrap();
    }

    /// A whiteout: what is below at this path is gone.
    pub fn whiteout(&mut self, path: &str) {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let separator = if parent.is_empty() { "" } else { "/" };
        self.file(&format!("{parent}{separator}.wh.{name}"), 0o644, b"");
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}
