//! Archives that lie, lack or lead elsewhere: each refused by name, with nothing half-made left.

use super::fixture::{Blobs, LayerTar, gzip, noise};
use super::registry::Node;
use crate::error::Fault;
use crate::oci::Digest;

/// What an import says to people. Digests are shortened.
fn refused(archive: &[u8]) -> String {
    let node = Node::plain();
    let fault = match node.images.import("/a.tar", archive) {
        Err(error) => Fault::from(error),
        Ok(imported) => panic!("imported: {imported:?}"),
    };
    assert!(node.ingest_is_empty(), "{}", fault.message);
    let mut text = format!("{:?}: {}", fault.class, fault.message);
    while let Some(at) = text.find("sha256:") {
        let end = text[at + 7..].find(|c: char| !c.is_ascii_hexdigit()).map_or(text.len(), |n| at + 7 + n);
        text.replace_range(at..end, "DIGEST");
    }
    text
}

/// A Docker archive of one image, whose layers are these entries and whose documents these.
fn docker(layers: &[&str], tars: &[&[u8]], fill: impl FnOnce(LayerTar) -> LayerTar) -> Vec<u8> {
    let diffs: Vec<_> = tars.iter().map(|tar| Digest::of(tar)).collect();
    let config =
        serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diffs}});
    let manifest = serde_json::json!([{"Config": "c.json", "RepoTags": ["a.local/x:1"], "Layers": layers}]);
    fill(LayerTar::new().file("c.json", config.to_string().as_bytes()))
        .file("manifest.json", manifest.to_string().as_bytes())
        .done()
}

#[test]
fn every_broken_archive_is_refused_by_name() {
    let mut blobs = Blobs::default();
    let base = LayerTar::new().file("etc/x", b"1").done();
    let image = blobs.image("amd64", &[base.clone(), LayerTar::new().file("big", &noise(500_000, 2)).done()]);
    let named: &[(&str, &crate::image::Descriptor)] = &[("x.local/a:1", &image)];
    let whole = blobs.archive(named);
    let without = |digest: &Digest| {
        let mut blobs = blobs.clone();
        blobs.0.remove(digest);
        blobs.archive(named)
    };
    let layer = blobs.0.iter().max_by_key(|(_, b)| b.len()).unwrap().0.clone();
    let mut lying = blobs.clone();
    lying.0.insert(layer.clone(), noise(500_000, 9));
    let mut short = image.clone();
    short.size -= 1;
    let remade = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut blobs = blobs.clone();
        let mut manifest = serde_json::from_slice(&blobs.0[&image.digest]).unwrap();
        change(&mut manifest);
        let media_type = crate::image::descriptor::OCI_MANIFEST;
        let image = blobs.add(media_type, manifest.to_string().into_bytes());
        blobs.archive(&[("x.local/a:1", &image)])
    };
    let mut artifact = Blobs::default();
    let config = artifact.add("application/vnd.cncf.helm.config.v1+json", b"{}".to_vec());
    let helm = serde_json::json!({"schemaVersion": 2, "mediaType": crate::image::descriptor::OCI_MANIFEST, "config": config, "layers": []});
    let helm = artifact.add(crate::image::descriptor::OCI_MANIFEST, helm.to_string().into_bytes());
    let packed = gzip(&whole);
    let one: &[&[u8]] = &[&base];
    let two: &[&[u8]] = &[&base, &base];
    let link = |to: &'static str| {
        docker(&["1/layer.tar", "2/layer.tar"], two, |t| t.file("1/layer.tar", &base).symlink("2/layer.tar", to))
    };
    let hard = docker(&["1/layer.tar"], one, |t| t.hard_link("1/layer.tar", "/etc/shadow"));
    let mut sparse = LayerTar::new();
    sparse = sparse.pax(&[("GNU.sparse.size", b"5"), ("GNU.sparse.offset", b"0"), ("GNU.sparse.numbytes", b"5")]);
    let large = "x".repeat((8 << 20) + 1);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("no tar file", b"not an archive at all, whatever its name".repeat(50)),
        ("cut short", whole[..whole.len() / 2].to_vec()),
        ("cut short, packed", packed[..packed.len() - 20].to_vec()),
        ("no manifest", LayerTar::new().file("hello", b"x").done()),
        ("no image in the index", blobs.archive(&[])),
        ("no image in the manifest", LayerTar::new().file("manifest.json", b"[]").done()),
        ("index is no JSON", LayerTar::new().file("index.json", b"<html>").done()),
        ("manifest is no JSON", LayerTar::new().file("manifest.json", b"{").done()),
        ("before Docker 1.10", LayerTar::new().file("repositories", b"{}").done()),
        ("missing manifest", without(&image.digest)),
        ("missing layer", without(&layer)),
        ("other bytes than the digest", lying.archive(named)),
        ("another size than the index says", blobs.archive(&[("x.local/a:1", &short)])),
        ("another size than the manifest says", remade(&|manifest| manifest["layers"][1]["size"] = 7.into())),
        ("layers without diff IDs", remade(&|manifest| manifest["layers"] = serde_json::json!([]))),
        ("an artifact", artifact.archive(&[("x.local/chart:1", &helm)])),
        (
            "missing configuration",
            LayerTar::new().file("manifest.json", br#"[{"Config":"c.json","Layers":[]}]"#).done(),
        ),
        ("missing layer file", docker(&["1/layer.tar"], one, |t| t)),
        ("more layers than diff IDs", docker(&["1/layer.tar", "1/layer.tar"], one, |t| t.file("1/layer.tar", &base))),
        ("layer with another diff ID", docker(&["1/layer.tar"], one, |t| t.file("1/layer.tar", b"other"))),
        ("absolute symlink", link("/etc/passwd")),
        ("symlink out of the archive", link("../../etc/passwd")),
        ("symlink to itself", link("layer.tar")),
        ("hard link out of the archive", hard),
        ("layer named out of the archive", docker(&["../../../etc/passwd"], one, |t| t)),
        ("sparse layer", docker(&["1/layer.tar"], one, |_| sparse.file("1/layer.tar", b"12345"))),
        ("a name of 100,000 bytes", {
            let name = "n/".repeat(50_000) + "n";
            let archive = LayerTar::new().pax(&[("path", name.as_bytes())]).file("x", b"1").done();
            // Two blocks of zeros end it, and the file's one before them is missing.
            archive[..archive.len() - 3 * 512].to_vec()
        }),
        ("document of more than 8 MiB", LayerTar::new().file("index.json", large.as_bytes()).done()),
    ];
    let told: String = cases.iter().map(|(what, archive)| format!("{what}\n    {}\n", refused(archive))).collect();
    insta::assert_snapshot!(told);
}

#[test]
fn names_that_lead_out_of_an_archive_are_names_and_nothing_is_written_there() {
    // Absolute and climbing names of entries are cleaned: nothing of an archive is ever a path of this machine.
    let base = LayerTar::new().file("a", b"1").done();
    let outside = tempfile::tempdir().unwrap();
    let absolute = format!("{}/layer.tar", outside.path().display());
    let archive = docker(&[&absolute, "../../up/layer.tar"], &[&base, &base], |t| {
        t.file(&absolute, &base).file("../../up/layer.tar", &base)
    });
    let node = Node::plain();
    assert_eq!(node.images.import("x", &archive[..]).unwrap().len(), 1);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_stream_of_documents_is_bounded_in_memory() {
    // 100 documents of 4 MiB each, highly packed: refused long before they are all held.
    let document = format!("{{{}", " ".repeat((4 << 20) - 2));
    let mut archive = LayerTar::new();
    for n in 0..24 {
        archive = archive.file(&format!("{n}.json"), document.as_bytes());
    }
    assert_eq!(refused(&gzip(&archive.done())), "Invalid: archive /a.tar: it has too many or too large documents");
}
