//! An index with all that it names: the images of two platforms, and what is attached to them.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;

use super::fixture::{Blobs, LayerTar};
use super::registry::{Node, Registry};
use super::server::Server;
use crate::image::closure::Part;
use crate::image::descriptor::{Descriptor, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use crate::image::{PullOptions, Sweep, silent};

/// What BuildKit attaches: a manifest by its media types, whose layer is a statement rather than a file system.
fn attestation(blobs: &mut Blobs) -> Descriptor {
    let config = json!({"architecture": "unknown", "os": "unknown", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [crate::oci::Digest::of(b"statement")]}});
    let config = blobs.add(OCI_CONFIG, config.to_string().into_bytes());
    let layer = blobs.add("application/vnd.in-toto+json", b"statement".to_vec());
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]});
    blobs.add(OCI_MANIFEST, manifest.to_string().into_bytes())
}

/// Images for two platforms and an attestation of the first.
fn index(blobs: &mut Blobs) -> Descriptor {
    let amd64 = blobs.image("amd64", &[LayerTar::new().file("a", b"amd64").done()]);
    let arm64 = blobs.image("arm64", &[LayerTar::new().file("a", b"arm64").done()]);
    let attached = attestation(blobs);
    let entry = |descriptor: &Descriptor, os: &str, architecture: &str| {
        let mut entry = serde_json::to_value(descriptor).unwrap();
        entry["platform"] = json!({"os": os, "architecture": architecture});
        entry
    };
    let mut about = entry(&attached, "unknown", "unknown");
    about["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": amd64.digest});
    let manifests = [entry(&amd64, "linux", "amd64"), entry(&arm64, "linux", "arm64"), about];
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    blobs.add(OCI_INDEX, index.to_string().into_bytes())
}

#[test]
fn all_platforms_come_with_what_is_attached_and_stay_as_long_as_the_index_does() {
    let registry = Registry::start(None);
    let layout = registry.path().join("layout");
    let mut blobs = Blobs::default();
    let index = index(&mut blobs);
    blobs.layout(&layout, &[("multi", &index)]);
    registry.push(&layout, "multi", "lab/multi:1", &[]);
    let node = Node::plain();
    let store = node.images.store();
    let reference = format!("{}/lab/multi:1", registry.host).parse().unwrap();
    let options = |all_platforms| {
        let platform = "linux/amd64".parse().unwrap();
        PullOptions { all_platforms, platform, ..PullOptions::default() }
    };

    // Of one platform comes what it needs: the index, a manifest, a configuration, a layer.
    node.runtime.block_on(node.images.pull(&reference, &options(false), silent())).unwrap();
    assert_eq!(store.digests().unwrap().len(), 4);

    let target = node.runtime.block_on(node.images.pull_all(&reference, &options(true), &silent())).unwrap();
    assert_eq!(target, index);
    let platforms = node.images.platforms(&index.digest);
    assert_eq!(platforms, ["linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap()]);
    let all: HashSet<_> = blobs.0.keys().cloned().collect();
    let here = || store.digests().unwrap().into_iter().collect::<HashSet<_>>();
    assert_eq!(here(), all);

    let now = Sweep::older_than(Duration::ZERO);
    let report = node.images.gc(&[index.digest.clone()].into(), now).unwrap();
    assert_eq!((report.blobs, report.problems), (Vec::new(), Vec::new()));
    assert_eq!(here(), all);
    // So that all of it can go on from here.
    assert_eq!(node.images.for_push("multi", &index, &Part::All).unwrap().missing, []);

    node.images.gc(&HashSet::new(), now).unwrap();
    assert_eq!(here(), HashSet::new());
}

/// umoci and others write indexes whose entries do not say what they are for.
#[test]
fn entries_that_do_not_say_what_they_are_for_are_looked_into() {
    let mut blobs = Blobs::default();
    let arm64 = blobs.image("arm64", &[LayerTar::new().file("a", b"arm64").done()]);
    let amd64 = blobs.image("amd64", &[LayerTar::new().file("a", b"amd64").done()]);
    let inner = blobs.index(&[(&arm64, None), (&amd64, None)]);
    let index = blobs.index(&[(&arm64, None), (&inner, None)]);
    let node = Node::plain();
    let server = node.runtime.block_on(Server::start(blobs, &[("untold", &index)], |_| None));
    let name = format!("{}/lab/app:untold", server.host);
    let options = |platform: &str| PullOptions { platform: platform.parse().unwrap(), ..PullOptions::default() };

    let image = node.pull(&name, &options("linux/amd64")).unwrap();
    assert_eq!((&image.manifest.digest, &image.target.digest), (&amd64.digest, &index.digest));
    let amd64 = "linux/amd64".parse().unwrap();
    assert_eq!(node.images.whole(&index.digest, &amd64).unwrap(), image);
    // The other is not here but for its documents, and nothing is wrong with that.
    let parts = node.images.parts(&index.digest, None, &amd64);
    let needed = parts.iter().filter(|part| part.needed);
    assert_eq!(needed.filter(|part| !node.images.store().has(&part.digest)).count(), 0, "{parts:?}");
    assert!(parts.iter().any(|part| !part.needed && !node.images.store().has(&part.digest)), "{parts:?}");
    node.images.store().remove(&image.layers[0].descriptor.digest).unwrap();
    let parts = node.images.parts(&index.digest, None, &amd64);
    let lacks = parts.iter().filter(|part| part.needed && !node.images.store().has(&part.digest));
    assert_eq!(lacks.map(|part| &part.digest).collect::<Vec<_>>(), [&image.layers[0].descriptor.digest]);

    let error = node.pull(&name, &options("linux/s390x")).unwrap_err().to_string();
    let offers = "has no manifest for linux/s390x; it offers linux/amd64, linux/arm64";
    assert!(error.ends_with(offers), "{error}");
}

/// The lie is told, whichever way it is met: not that the index offers what was asked for and has none of it.
#[test]
fn an_index_that_lies_about_a_platform_is_told_as_such() {
    let mut blobs = Blobs::default();
    let arm64 = blobs.image("arm64", &[LayerTar::new().file("a", b"arm64").done()]);
    let amd64 = blobs.image("amd64", &[LayerTar::new().file("a", b"amd64").done()]);
    let lie = blobs.index(&[(&arm64, Some("amd64"))]);
    let foreign = blobs.index(&[(&amd64, Some("s390x"))]);
    let half = blobs.index(&[(&arm64, Some("amd64")), (&amd64, Some("amd64"))]);
    let node = Node::plain();
    let pointers = [("lie", &lie), ("foreign", &foreign), ("half", &half)];
    let server = node.runtime.block_on(Server::start(blobs, &pointers, |_| None));
    let name = |tag: &str| format!("{}/lab/app:{tag}", server.host);
    let amd = "linux/amd64".parse().unwrap();
    let options = || PullOptions { platform: "linux/amd64".parse().unwrap(), ..PullOptions::default() };
    let all = |tag: &str| {
        let (reference, options, silent) = (name(tag).parse().unwrap(), options(), silent());
        let pulled = node.runtime.block_on(node.images.pull_all(&reference, &options, &silent)).unwrap();
        node.images.of_any_platform(&pulled.digest, &amd)
    };

    let told = format!("says that {} is for linux/amd64, and its configuration says linux/arm64", arm64.digest);
    let single = node.pull(&name("lie"), &options()).unwrap_err().to_string();
    assert!(single.ends_with(&told), "{single}");
    let every = all("lie").unwrap_err().to_string();
    assert!(every.ends_with(&told), "{every}");
    // Of a platform that was not asked for.
    let told = format!("says that {} is for linux/s390x, and its configuration says linux/amd64", amd64.digest);
    let every = all("foreign").unwrap_err().to_string();
    assert!(every.ends_with(&told), "{every}");
    // An entry that is right is taken, lies beside it or not.
    assert_eq!(node.pull(&name("half"), &options()).unwrap().manifest.digest, amd64.digest);
    assert_eq!(all("half").unwrap().manifest.digest, amd64.digest);
}
