//! Archives that are written, read back by others and by us; and images of root file systems.

use std::path::Path;
use std::process::Command;

use super::fixture::{Blobs, LayerTar, gzip, noise, zstd};
use super::registry::Node;
use crate::error::Fault;
use crate::image::compression::{self, Compression};
use crate::image::{Descriptor, ExportOptions, Format, ImageError, Packing, Part, RootfsConfig};
use crate::oci::{Digest, Platform, Reference};

const OCI: ExportOptions = ExportOptions { part: Part::Here, format: Format::Oci, packing: Packing::Plain };

fn node_with(blobs: &Blobs) -> Node {
    let node = Node::plain();
    for bytes in blobs.0.values() {
        node.images.store().put(bytes).unwrap();
    }
    node
}

fn named(names: &[(&str, &Descriptor)]) -> Vec<(Reference, Descriptor)> {
    names.iter().map(|(name, image)| (name.parse().unwrap(), (*image).clone())).collect()
}

fn export(node: &Node, names: &[(&str, &Descriptor)], options: &ExportOptions) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    node.images.export(&named(names), options)?.write(&mut bytes)?;
    Ok(bytes)
}

fn arch() -> String {
    Platform::host().architecture
}

fn image(blobs: &mut Blobs, mark: &[u8]) -> Descriptor {
    let base = LayerTar::new().dir("etc", 0o755).file("etc/x", b"1").done();
    let top = LayerTar::new().file("big", &noise(200_000, 2)).file("mark", mark).done();
    let tars = [base, top];
    let layers =
        tars.iter().map(|tar| blobs.add(&format!("{}+gzip", crate::image::descriptor::OCI_LAYER), gzip(tar))).collect();
    blobs.image_of(&arch(), layers, &tars.iter().map(|tar| Digest::of(tar)).collect::<Vec<_>>())
}

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn skopeo_digest(source: &str) -> Digest {
    Digest::of(run("skopeo", &["inspect", "--raw", source]).as_bytes())
}

#[test]
fn an_archive_of_two_images_is_the_same_bytes_each_time_and_after_an_import() {
    let mut blobs = Blobs::default();
    let (one, two) = (image(&mut blobs, b"one"), image(&mut blobs, b"two"));
    let node = node_with(&blobs);
    let names = [("b.local/two:1", &two), ("a.local/one:1", &one), ("a.local/one:latest", &one)];
    let first = export(&node, &names, &OCI).unwrap();
    // Whatever the order in which they are asked for, and from whichever store.
    let reversed = [names[2], names[1], names[0]];
    assert_eq!(export(&node, &reversed, &OCI).unwrap(), first);
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let packed = export(&node, &names, &ExportOptions { packing, ..OCI }).unwrap();
        let kind = [Compression::Plain, Compression::Gzip, Compression::Zstd][packing as usize];
        assert_eq!(Compression::of(&packed), kind);
        let other = Node::plain();
        let imported = other.images.import("standard input", &packed[..]).unwrap();
        let back: Vec<_> = imported.into_iter().map(|i| (i.reference.unwrap(), i.target)).collect();
        let mut again = Vec::new();
        other.images.export(&back, &ExportOptions { packing, ..OCI }).unwrap().write(&mut again).unwrap();
        assert_eq!(again, packed);
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut compression::reader(&packed[..]).unwrap(), &mut plain).unwrap();
        assert_eq!(plain, first);
    }
    // Nothing of this moment or machine stands in it.
    let mut archive = tar::Archive::new(&first[..]);
    for entry in archive.entries().unwrap() {
        let header = entry.unwrap().header().clone();
        assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
        assert_eq!((header.username().unwrap(), header.groupname().unwrap()), (Some(""), Some("")));
    }
}

#[test]
fn skopeo_and_umoci_find_each_image_by_its_full_name_and_skopeo_reads_dockers_side_too() {
    let mut blobs = Blobs::default();
    let (one, two) = (image(&mut blobs, b"one"), image(&mut blobs, b"two"));
    let node = node_with(&blobs);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("two.tar");
    let bytes = export(&node, &[("a.local/one:1", &one), ("a.local/two:1", &two)], &OCI).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let shown = path.display();
    assert_eq!(skopeo_digest(&format!("oci-archive:{shown}:a.local/one:1")), one.digest);
    assert_eq!(skopeo_digest(&format!("oci-archive:{shown}:a.local/two:1")), two.digest);
    // umoci reads the layout.
    let layout = dir.path().join("layout");
    std::fs::create_dir(&layout).unwrap();
    run("tar", &["-xf", path.to_str().unwrap(), "-C", layout.to_str().unwrap()]);
    let stat = run("umoci", &["stat", "--json", "--image", &format!("{}:a.local/two:1", layout.display())]);
    assert!(stat.contains("history"), "{stat}");
    // Docker's side: the same layers.
    let docker = |name: &str, path: &Path| {
        let config = run("skopeo", &["inspect", "--config", &format!("docker-archive:{}:{name}", path.display())]);
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        config["rootfs"]["diff_ids"].as_array().unwrap().len()
    };
    assert_eq!(docker("a.local/two:1", &path), 2);
    let unpacked = dir.path().join("docker.tar");
    let options = ExportOptions { format: Format::Docker, ..OCI };
    std::fs::write(&unpacked, export(&node, &[("a.local/one:1", &one)], &options).unwrap()).unwrap();
    assert_eq!(docker("a.local/one:1", &unpacked), 2);
    run(
        "skopeo",
        &[
            "--insecure-policy",
            "copy",
            "-q",
            &format!("docker-archive:{}:a.local/one:1", unpacked.display()),
            &format!("dir:{}", dir.path().join("out").display()),
        ],
    );
    // Ours reads it as well, and finds the same layers under the same name.
    let other = Node::plain();
    let imported = other.images.import_file(&unpacked).unwrap();
    assert_eq!(imported[0].reference, Some("a.local/one:1".parse().unwrap()));
    let diff_ids = |node: &Node, target: &Digest| {
        let image = node.images.load_image(target, &Platform::host()).unwrap();
        image.layers.into_iter().map(|layer| layer.diff_id).collect::<Vec<_>>()
    };
    assert_eq!(diff_ids(&other, &imported[0].target.digest), diff_ids(&node, &one.digest));
}

#[test]
fn an_index_keeps_its_digest_also_when_not_all_of_it_is_here() {
    let mut blobs = Blobs::default();
    let own = image(&mut blobs, b"own");
    let mut all = blobs.clone();
    let other = all.image("s390x", &[LayerTar::new().file("a", b"1").done()]);
    let index = all.index(&[(&other, Some("s390x")), (&own, Some(&arch()))]);
    blobs.0.insert(index.digest.clone(), all.0[&index.digest].clone());
    let node = node_with(&blobs);
    let names = [("a.local/multi:1", &index)];
    let back = Node::plain();
    let imported = back.images.import("x", &export(&node, &names, &OCI).unwrap()[..]).unwrap();
    assert_eq!(imported[0].target, index);
    assert_eq!(back.images.platforms(&index.digest), [Platform::host()]);
    let error = export(&node, &names, &ExportOptions { part: Part::All, ..OCI }).unwrap_err();
    assert!(matches!(&error, ImageError::Partial { here, .. } if here == &[Platform::host()]), "{error}");
    // One platform is an image by itself.
    let part = Part::Platform(Platform::host());
    let bytes = export(&node, &names, &ExportOptions { part, ..OCI }).unwrap();
    assert_eq!(Node::plain().images.import("x", &bytes[..]).unwrap()[0].target, own);
    // With everything here, everything goes.
    let whole = node_with(&all);
    let bytes = export(&whole, &names, &ExportOptions { part: Part::All, ..OCI }).unwrap();
    let back = Node::plain();
    back.images.import("x", &bytes[..]).unwrap();
    assert_eq!(back.images.platforms(&index.digest).len(), 2);
}

#[test]
fn a_blob_that_has_rotted_is_not_exported() {
    let mut blobs = Blobs::default();
    let one = image(&mut blobs, b"one");
    let node = node_with(&blobs);
    let digest = blobs.0.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap().0;
    let path = node.images.store().path(digest);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = export(&node, &[("a.local/one:1", &one)], &OCI).unwrap_err();
    assert!(matches!(&error, ImageError::Digest { expected, .. } if expected == digest), "{error}");
    std::fs::write(&path, &bytes[..500]).unwrap();
    let error = export(&node, &[("a.local/one:1", &one)], &OCI).unwrap_err();
    assert!(matches!(&error, ImageError::NotPresent { missing, .. } if missing == &[digest.to_string()]), "{error}");
}

fn config() -> RootfsConfig {
    RootfsConfig {
        platform: Platform::host(),
        entrypoint: None,
        cmd: Some(vec!["/bin/sh".into()]),
        env: vec!["A=b".into()],
        workdir: Some("/srv".into()),
        user: None,
        labels: [("k".to_owned(), "v".to_owned())].into(),
        stop_signal: Some("SIGINT".into()),
        expose: vec!["80/tcp".into()],
    }
}

#[test]
fn a_root_file_system_becomes_the_same_image_each_time_and_its_layer_stays_as_it_was_packed() {
    let tar = LayerTar::new().dir("bin", 0o755).file("bin/sh", &noise(300_000, 4)).symlink("sh", "bin/sh").done();
    let mut seen = Vec::new();
    for packed in [tar.clone(), gzip(&tar), zstd(&tar)] {
        let node = Node::plain();
        let target = node.images.import_rootfs("standard input", &packed[..], &config()).unwrap();
        let again = Node::plain().images.import_rootfs("standard input", &packed[..], &config()).unwrap();
        assert_eq!(again, target);
        let image = node.images.load_image(&target.digest, &Platform::host()).unwrap();
        assert_eq!(image.layers.len(), 1);
        assert_eq!(image.layers[0].diff_id, Digest::of(&tar));
        if Compression::of(&packed) != Compression::Plain {
            assert_eq!(image.layers[0].descriptor.digest, Digest::of(&packed), "it is kept as it came");
        }
        assert!(node.ingest_is_empty());
        seen.push(image.layers[0].descriptor.media_type.clone());
        let own = image.config.config().as_ref().unwrap();
        assert_eq!(own.cmd().as_deref(), Some(&["/bin/sh".to_owned()][..]));
        assert_eq!((own.working_dir().as_deref(), own.stop_signal().as_deref()), (Some("/srv"), Some("SIGINT")));
        // Others read it.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        std::fs::write(&path, export(&node, &[("a.local/root:1", &target)], &OCI).unwrap()).unwrap();
        assert_eq!(skopeo_digest(&format!("oci-archive:{}:a.local/root:1", path.display())), target.digest);
    }
    assert_eq!(
        seen.iter().map(|t| t.rsplit('.').next().unwrap()).collect::<Vec<_>>(),
        ["tar+gzip", "tar+gzip", "tar+zstd"]
    );
}

#[test]
fn what_is_no_root_file_system_is_refused_and_leaves_nothing() {
    let mut told = String::new();
    let mut blobs = Blobs::default();
    let one = image(&mut blobs, b"one");
    let tar = LayerTar::new().file("a", &noise(50_000, 1)).done();
    let packed = gzip(&tar);
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("no entry", LayerTar::new().done()),
        ("not tar", b"no tar file at all ".repeat(100)),
        ("cut short", tar[..20_000].to_vec()),
        ("cut short, packed", packed[..packed.len() / 2].to_vec()),
        ("an archive of images", blobs.archive(&[("a.local/one:1", &one)])),
    ] {
        let node = Node::plain();
        let fault = Fault::from(node.images.import_rootfs("/r.tar", &bytes[..], &config()).unwrap_err());
        told += &format!("{what}: {:?} {}\n", fault.class, fault.message);
        assert!(node.ingest_is_empty() && node.images.store().digests().unwrap().is_empty(), "{what}");
    }
    insta::assert_snapshot!(told);
}
