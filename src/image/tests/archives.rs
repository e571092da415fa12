//! Archives of both kinds, packed or not, by our hand and by skopeo's.

use std::path::Path;
use std::process::Command;

use super::fixture::{Blobs, LayerTar, SmallDisk, gzip, noise, zstd};
use super::registry::Node;
use crate::image::{Descriptor, ImageError, RegistryConfig};
use crate::oci::Digest;

fn image(blobs: &mut Blobs) -> Descriptor {
    let base = LayerTar::new().dir("etc", 0o755).file("etc/x", b"1").done();
    blobs.image("amd64", &[base, LayerTar::new().file("big", &noise(500_000, 2)).done()])
}

#[test]
fn an_oci_archive_is_the_same_image_plain_gzip_and_zstd_and_as_a_stream() {
    let mut blobs = Blobs::default();
    let image = image(&mut blobs);
    let plain = blobs.archive(&[("registry.local/app:1", &image), ("v2", &image)]);
    for packed in [plain.clone(), gzip(&plain), zstd(&plain)] {
        let node = Node::plain();
        let path = node.root.path().join("a.tar");
        std::fs::write(&path, &packed).unwrap();
        let told = node.images.archive_images(&path).unwrap();
        // Telling imports nothing.
        assert!(node.images.store().digests().unwrap().is_empty());
        let imported = node.images.import("standard input", &packed[..]).unwrap();
        assert_eq!(told, imported);
        assert_eq!(node.images.import_file(&path).unwrap(), imported);
        assert_eq!(imported[0].reference, Some("registry.local/app:1".parse().unwrap()));
        assert_eq!((&imported[1].reference, imported[1].name.as_deref()), (&None, Some("v2")));
        assert_eq!(imported[0].target, image);
        let loaded = node.images.load_image(&image.digest, &"linux/amd64".parse().unwrap()).unwrap();
        assert_eq!(loaded.layers.len(), 2);
        assert!(node.ingest_is_empty());
    }
}

fn docker_archive(dir: &Path, layers: &[Vec<u8>]) -> std::path::PathBuf {
    let mut blobs = Blobs::default();
    // Docker knows no zstd.
    let image = blobs.gzip_image(layers);
    let layout = dir.join("layout");
    blobs.layout(&layout, &[("x", &image)]);
    let path = dir.join("docker.tar");
    let out = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "-q"])
        .arg(format!("oci:{}:x", layout.display()))
        .arg(format!("docker-archive:{}:app:1", path.display()))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    path
}

#[test]
fn a_docker_archive_gets_the_same_digest_every_time_and_dockers_names() {
    let dir = tempfile::tempdir().unwrap();
    let layers = [LayerTar::new().file("a", b"1").done(), LayerTar::new().file("b", &noise(100_000, 3)).done()];
    let path = docker_archive(dir.path(), &layers);
    let bytes = std::fs::read(&path).unwrap();
    let node = Node::plain();
    let told = node.images.archive_images(&path).unwrap();
    let imported = node.images.import_file(&path).unwrap();
    assert_eq!(told, imported);
    assert_eq!(imported[0].reference, Some("docker.io/library/app:1".parse().unwrap()));
    for packed in [gzip(&bytes), zstd(&bytes)] {
        assert_eq!(Node::plain().images.import("x", &packed[..]).unwrap(), imported);
    }
    let image = node.images.load_image(&imported[0].target.digest, &"linux/amd64".parse().unwrap()).unwrap();
    let diffs: Vec<_> = image.layers.iter().map(|l| l.diff_id.clone()).collect();
    assert_eq!(diffs, layers.iter().map(|l| Digest::of(l)).collect::<Vec<_>>());
}

fn refused(archive: Vec<u8>) -> String {
    let node = Node::plain();
    let error = node.images.import("/a.tar", &archive[..]).unwrap_err();
    assert!(node.ingest_is_empty());
    error.to_string()
}

#[test]
fn archives_that_lie_or_lack_are_refused_with_their_name() {
    let mut blobs = Blobs::default();
    let image = image(&mut blobs);
    let mut lacking = blobs.clone();
    let layer = lacking.0.iter().max_by_key(|(_, b)| b.len()).map(|(d, _)| d.clone()).unwrap();
    lacking.0.remove(&layer);
    let text = refused(lacking.archive(&[("x.local/a:1", &image)]));
    assert_eq!(text, format!("archive /a.tar: image {} is not whole: {layer} missing", image.digest));

    let mut lying = blobs.clone();
    lying.0.insert(layer.clone(), b"other bytes".to_vec());
    let text = refused(lying.archive(&[("x.local/a:1", &image)]));
    assert!(text.contains(&layer.to_string()) && text.contains("is corrupt"), "{text}");

    let whole = blobs.archive(&[("x.local/a:1", &image)]);
    assert!(refused(whole[..whole.len() / 2].to_vec()).contains("cut short"));
    let packed = gzip(&whole);
    assert!(refused(packed[..packed.len() - 20].to_vec()).starts_with("archive /a.tar: "));
    assert!(refused(b"not an archive at all, whatever its name".repeat(50)).contains("not a tar archive"));
    assert!(refused(LayerTar::new().file("hello", b"x").done()).contains("neither index.json"));
    assert!(refused(LayerTar::new().file("repositories", b"{}").done()).contains("before Docker 1.10"));
    assert!(refused(LayerTar::new().file("manifest.json", b"[]").done()).contains("holds no image"));
}

#[test]
fn links_between_equal_layers_work_and_links_out_of_the_archive_do_not() {
    let tar = LayerTar::new().file("a", b"1").done();
    let diff = Digest::of(&tar);
    let config = serde_json::json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [diff, diff]}});
    let manifest = br#"[{"Config":"c.json","RepoTags":["a.local/x:1"],"Layers":["1/layer.tar","2/layer.tar"]}]"#;
    let archive = |link: &str| {
        LayerTar::new()
            .file("c.json", config.to_string().as_bytes())
            .file("1/layer.tar", &tar)
            .symlink("2/layer.tar", link)
            .file("manifest.json", manifest)
            .done()
    };
    let node = Node::plain();
    node.images.import("x", &archive("../1/layer.tar")[..]).unwrap();
    for link in ["/etc/passwd", "../../etc/passwd"] {
        let text = refused(archive(link));
        assert_eq!(text, format!("archive /a.tar: 2/layer.tar is a link out of the archive, to {link}"));
    }
    assert!(refused(archive("layer.tar")).contains("leads to itself"));
}

#[test]
fn configurations_and_layers_may_have_any_name() {
    // As go-containerregistry (crane, ko, kaniko) writes them.
    let tar = LayerTar::new().file("a", b"1").done();
    let config = serde_json::json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&tar)]}})
    .to_string();
    let name = Digest::of(config.as_bytes()).to_string();
    let manifest = serde_json::json!([{"Config": name, "RepoTags": ["ko.local/x:1"], "Layers": ["aa.tar.gz"]}]);
    let archive = LayerTar::new()
        .file(&name, config.as_bytes())
        .file("aa.tar.gz", &gzip(&tar))
        .file("manifest.json", manifest.to_string().as_bytes())
        .done();
    let node = Node::plain();
    let imported = node.images.import("x", &archive[..]).unwrap();
    let image = node.images.load_image(&imported[0].target.digest, &"linux/amd64".parse().unwrap()).unwrap();
    assert_eq!(image.layers[0].descriptor.media_type, "application/vnd.oci.image.layer.v1.tar+gzip");
}

#[test]
fn a_changed_archive_is_read_again() {
    let node = Node::plain();
    let path = node.root.path().join("a.tar");
    let mut digests = Vec::new();
    for seed in [1, 2] {
        let mut blobs = Blobs::default();
        let image = blobs.image("amd64", &[LayerTar::new().file("a", &noise(1000 + seed, seed as u64)).done()]);
        std::fs::write(&path, blobs.archive(&[("a.local/x:1", &image)])).unwrap();
        let told = node.images.archive_images(&path).unwrap();
        assert_eq!(told[0].target.digest, image.digest);
        digests.push(told[0].target.digest.clone());
    }
    assert_ne!(digests[0], digests[1]);
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(node.images.archive_images(&path), Err(ImageError::Io { .. })));
}

#[test]
fn of_a_tar_file_that_is_no_archive_of_images_nothing_is_left() {
    let node = Node::plain();
    let mut blobs = Blobs::default();
    let image = blobs.image("amd64", &[LayerTar::new().file("etc/x", b"1").done()]);
    let whole = blobs.archive(&[("x.local/a:1", &image)]);
    let torn = &whole[..whole.len() - 3000];
    let rootfs = LayerTar::new().file("bin/sh", &noise(300_000, 1)).file("etc/config.json", b"{}").done();
    for bytes in [&rootfs[..], torn] {
        node.images.import("x", bytes).unwrap_err();
        assert_eq!(node.images.store().digests().unwrap(), []);
        assert!(node.ingest_is_empty());
    }
    // A document may begin with blanks, as pretty-printed ones do.
    assert_eq!(node.images.import("x", &whole[..]).unwrap()[0].target, image);
}

#[test]
fn what_a_killed_import_left_is_swept_and_what_a_living_one_has_is_not() {
    let node = Node::plain();
    let ingest = node.images.store().root().join("ingest");
    for name in ["1-import-0", "2-import-0"] {
        std::fs::create_dir(ingest.join(name)).unwrap();
        std::fs::write(ingest.join(name).join("0"), "x").unwrap();
    }
    let living = std::fs::File::open(ingest.join("2-import-0")).unwrap();
    rustix::fs::flock(&living, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert_eq!(node.images.store().sweep_ingest(std::time::Duration::from_secs(3600)).unwrap(), 1);
    assert!(!ingest.join("1-import-0").exists() && ingest.join("2-import-0/0").exists());
}

#[test]
fn a_disk_that_an_archive_fills_is_named_and_gets_its_space_back() {
    let disk = SmallDisk::new(2);
    let node = Node::at(disk.root(), RegistryConfig::for_tests());
    let before = disk.free();
    let mut blobs = Blobs::default();
    let image = blobs.image("amd64", &[LayerTar::new().file("big", &noise(4 << 20, 3)).done()]);
    let error = node.images.import("/a.tar", &blobs.archive(&[("x.local/a:1", &image)])[..]).unwrap_err();
    let place = node.root.path().join("content/ingest");
    assert_eq!(error.to_string(), format!("no space left on the file system of {}", place.display()));
    assert!(node.ingest_is_empty());
    assert_eq!(disk.free(), before);
}

#[test]
fn a_manifest_that_is_no_document_is_told_as_that() {
    let mut blobs = Blobs::default();
    let manifest = blobs.add(crate::image::descriptor::OCI_MANIFEST, b"<html>no such page</html>".to_vec());
    let error = Node::plain().images.import("/a.tar", &blobs.archive(&[("x.local/a:1", &manifest)])[..]).unwrap_err();
    let expected = format!("archive /a.tar: blob {} is malformed: it is no JSON document", manifest.digest);
    assert_eq!(error.to_string(), expected);
}
