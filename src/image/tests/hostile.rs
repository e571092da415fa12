//! What registries must not be able to do with what they send. Each case: a clear error, nothing left over, and in time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::fixture::{Blobs, LayerTar, SmallDisk, noise};
use super::registry::Node;
use super::server::{Reply, Request, Server};
use crate::image::descriptor::{Descriptor, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use crate::image::{ImageError, OnWait, PullOptions, RegistryConfig, RegistryFailure, Timeouts, silent};
use crate::oci::Digest;

pub(super) fn node() -> Node {
    let timeouts = Timeouts { stall: Duration::from_secs(1), headers: Duration::from_secs(5), ..Timeouts::default() };
    node_with(timeouts)
}

fn node_with(timeouts: Timeouts) -> Node {
    Node::new(RegistryConfig { timeouts, ..RegistryConfig::for_tests() })
}

pub(super) fn options() -> PullOptions {
    PullOptions { platform: "linux/amd64".parse().unwrap(), ..PullOptions::default() }
}

pub(super) fn small(blobs: &mut Blobs) -> Descriptor {
    blobs.image("amd64", &[LayerTar::new().file("a", &[b'x'; 5000]).done()])
}

/// What a person sees of the failure, without what differs from run to run.
pub(super) fn seen(error: ImageError, host: &str) -> String {
    let fault = crate::error::Fault::from(error);
    assert!(!fault.message.ends_with('.'), "{}", fault.message);
    let help = fault.help.map_or(String::new(), |help| format!("\n  help: {help}"));
    let text = format!("error: {}{help}\n  exit {}", fault.message, fault.class.exit_status()).replace(host, "HOST");
    let mut out = String::new();
    for word in text.split_inclusive([' ', ';', ',']) {
        let digest = word.split_once("sha256:").filter(|(_, hex)| hex.len() >= 64);
        out += &digest.map_or(word.to_owned(), |(before, hex)| format!("{before}sha256:…{}", &hex[64..]));
    }
    out
}

/// Pulls `a` from a server with this quirk; the error, and what is seen of it.
pub(super) fn pull(
    build: impl FnOnce(&mut Blobs) -> Descriptor,
    quirk: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
) -> (ImageError, String) {
    pull_by(&node(), &options(), build, quirk)
}

pub(super) fn pull_by(
    node: &Node,
    options: &PullOptions,
    build: impl FnOnce(&mut Blobs) -> Descriptor,
    quirk: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
) -> (ImageError, String) {
    let (error, host) = node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = build(&mut blobs);
        let server = Server::start(blobs, &[("a", &image)], quirk).await;
        let reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        let error = node.images.pull(&reference, options, silent()).await.unwrap_err();
        (error, server.host.clone())
    });
    let text = seen(error.clone(), &host);
    (error, text)
}

fn is_layer(request: &Request, blobs: &Digest) -> bool {
    request.path.ends_with(blobs.hex())
}

/// The digest of the small image's layer.
fn layer() -> (Digest, Vec<u8>) {
    let mut blobs = Blobs::default();
    small(&mut blobs);
    blobs.0.into_iter().find(|(_, bytes)| bytes.starts_with(&[0x1f, 0x8b])).unwrap()
}

#[test]
fn a_blob_that_is_not_its_digest_is_refused_and_removed() {
    let (digest, bytes) = layer();
    let node = node();
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = small(&mut blobs);
        let wrong = digest.clone();
        let server = Server::start(blobs, &[("a", &image)], move |r| {
            is_layer(r, &wrong).then(|| Reply::new(200, "application/octet-stream", vec![b'z'; bytes.len()]))
        })
        .await;
        let reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        let error = node.images.pull(&reference, &options(), silent()).await.unwrap_err();
        assert!(matches!(&error, ImageError::Digest { expected, .. } if *expected == digest), "{error}");
        insta::assert_snapshot!(seen(error, &server.host));
    });
    assert!(!node.images.store().has(&digest));
    // Others of the image may be there, to be taken up again.
    assert!(!node.root.path().join("content/ingest").join(digest.hex()).exists());
}

#[test]
fn a_body_longer_than_its_descriptor_is_refused() {
    let (digest, bytes) = layer();
    let (_, text) = pull(small, move |r| {
        is_layer(r, &digest).then(|| Reply::new(200, "application/octet-stream", [&bytes[..], b"more"].concat()))
    });
    insta::assert_snapshot!(text);
}

#[test]
fn a_content_length_below_the_size_is_refused() {
    let (digest, bytes) = layer();
    let (_, text) = pull(small, move |r| {
        let reply = Reply::new(200, "application/octet-stream", bytes.clone());
        is_layer(r, &digest).then_some(Reply { length: Some(10), ..reply })
    });
    insta::assert_snapshot!(text);
}

#[test]
fn a_body_that_ends_early_is_asked_for_again_and_then_given_up() {
    let (digest, bytes) = layer();
    let (_, text) = pull(small, move |r| {
        let reply = Reply::new(200, "application/octet-stream", bytes.clone());
        is_layer(r, &digest).then_some(Reply { cut: Some(10), ..reply })
    });
    insta::assert_snapshot!(text);
}

#[test]
fn a_stall_ends() {
    let (digest, bytes) = layer();
    let begun = Instant::now();
    let (_, text) = pull(small, move |r| {
        let reply = Reply::new(200, "application/octet-stream", bytes.clone());
        is_layer(r, &digest).then_some(Reply { cut: Some(10), stall: true, ..reply })
    });
    insta::assert_snapshot!(text);
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_body_that_drips_ends() {
    let (digest, _) = layer();
    let (error, text) = pull(small, move |r| {
        // As long as promised, were it ever to end.
        let reply = Reply::new(200, "application/octet-stream", layer().1);
        is_layer(r, &digest).then_some(Reply { drip: Some(Duration::from_millis(50)), ..reply })
    });
    let ImageError::Registry { why: RegistryFailure::Slow { came, .. }, .. } = error else { panic!("{error}") };
    insta::assert_snapshot!(text.replace(&format!(" {came} bytes"), " FEW bytes"));
    assert!(came < 100, "{came}");
}

#[test]
fn a_port_that_says_nothing_is_given_up_in_three_tries_each_of_them_told() {
    let timeouts = Timeouts { headers: Duration::from_secs(1), ..Timeouts::default() };
    let waits: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&waits);
    let on_wait: OnWait = Arc::new(move |wait| heard.lock().unwrap().push(wait.to_string()));
    let options = PullOptions { on_wait: Some(on_wait), ..options() };
    let begun = Instant::now();
    let (error, text) = pull_by(&node_with(timeouts), &options, small, |_| {
        Some(Reply { silent: true, ..Reply::new(200, "text/plain", "") })
    });
    insta::assert_snapshot!(text);
    assert!(begun.elapsed() < Duration::from_secs(20));
    let ImageError::Registry { host, .. } = error else { panic!("{error}") };
    let told: Vec<_> = waits.lock().unwrap().iter().map(|wait| wait.replace(&host, "HOST")).collect();
    assert_eq!(
        told,
        [
            "waiting for HOST, try 2 of 3: it sent nothing for 1 s",
            "waiting for HOST, try 3 of 3: it sent nothing for 1 s"
        ]
    );
}

#[test]
fn a_port_where_nobody_listens_is_told_at_once() {
    let begun = Instant::now();
    let error = node().pull("127.0.0.1:1/lab/app:a", &options()).unwrap_err();
    insta::assert_snapshot!(seen(error, "127.0.0.1:1"));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn html_in_place_of_json_is_not_a_manifest() {
    let (_, text) = pull(small, |_| Some(Reply::new(200, "text/html", "<html>hello</html>")));
    insta::assert_snapshot!(text);
}

#[test]
fn half_a_document_is_not_a_manifest() {
    let (_, text) = pull(small, |_| Some(Reply::new(200, OCI_MANIFEST, r#"{"schemaVersion": 2, "config": "#)));
    insta::assert_snapshot!(text);
}

#[test]
fn a_content_type_that_the_document_contradicts_is_refused_and_one_that_says_nothing_is_not() {
    let document = || {
        let mut blobs = Blobs::default();
        let image = small(&mut blobs);
        blobs.0[&image.digest].clone()
    };
    let manifest = document();
    let (_, text) =
        pull(small, move |r| r.path.contains("/manifests/").then(|| Reply::new(200, OCI_INDEX, manifest.clone())));
    insta::assert_snapshot!(text);
    let node = node();
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = small(&mut blobs);
        let server = Server::start(blobs, &[("a", &image)], move |r| {
            r.path.contains("/manifests/").then(|| Reply::new(200, "text/plain; charset=utf-8", document()))
        })
        .await;
        let reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        node.images.pull(&reference, &options(), silent()).await.unwrap();
    });
}

#[test]
fn a_manifest_of_100_mib_is_not_read() {
    let (_, text) =
        pull(small, |_| Some(Reply { length: Some(100 << 20), stall: true, ..Reply::new(200, OCI_MANIFEST, "{") }));
    insta::assert_snapshot!(text);
}

#[test]
fn a_manifest_without_a_length_and_an_end_is_not_read_to_its_end() {
    let (_, text) =
        pull(small, |_| Some(Reply { endless: true, ..Reply::new(200, OCI_MANIFEST, vec![b' '; 1 << 16]) }));
    insta::assert_snapshot!(text);
}

#[test]
fn an_index_that_is_given_for_its_own_entry_is_refused() {
    let index = Arc::new(Mutex::new(Vec::new()));
    let given = Arc::clone(&index);
    let (_, text) = pull(
        move |blobs| {
            let image = small(blobs);
            let top = blobs.index(&[(&image, Some("amd64"))]);
            *index.lock().unwrap() = blobs.0[&top.digest].clone();
            top
        },
        move |r| r.path.contains("/manifests/").then(|| Reply::new(200, OCI_INDEX, given.lock().unwrap().clone())),
    );
    insta::assert_snapshot!(text);
}

#[test]
fn a_tag_that_moves_between_head_and_get_gives_what_was_resolved_or_nothing() {
    let node = node();
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let before = small(&mut blobs);
        let after = blobs.image("amd64", &[LayerTar::new().file("b", b"moved").done()]);
        let gone = Arc::new(AtomicBool::new(false));
        let (digest, is_gone) = (before.digest.to_string(), Arc::clone(&gone));
        let server = Server::start(blobs, &[("a", &after)], move |r| {
            let of_tag = r.method == "HEAD" && r.path.ends_with("/manifests/a");
            let head = || Reply::new(200, OCI_MANIFEST, "x").header("Docker-Content-Digest", digest.clone());
            let lost = is_gone.load(Ordering::Relaxed) && r.path.ends_with(&digest);
            if lost { Some(Reply::new(404, "text/plain", "manifest unknown")) } else { of_tag.then(head) }
        })
        .await;
        let reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        let resolved = node.images.resolve(&reference, &options()).await.unwrap();
        assert_eq!(resolved.digest, before.digest);
        let pinned = PullOptions { digest: Some(resolved.digest), ..options() };
        gone.store(true, Ordering::Relaxed);
        let error = node.images.pull(&reference, &pinned, silent()).await.unwrap_err();
        insta::assert_snapshot!(seen(error, &server.host));
        gone.store(false, Ordering::Relaxed);
        assert_eq!(node.images.pull(&reference, &pinned, silent()).await.unwrap().target.digest, before.digest);
    });
}

#[test]
fn indexes_that_nest_too_deep_end() {
    let (_, text) = pull(
        |blobs| {
            let mut top = small(blobs);
            for _ in 0..6 {
                top = blobs.index(&[(&top, None)]);
            }
            top
        },
        |_| None,
    );
    insta::assert_snapshot!(text);
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let (_, text) = pull(
        |blobs| {
            let config = blobs.add("application/vnd.oci.empty.v1+json", b"{}".to_vec());
            let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
                "artifactType": "application/vnd.cyclonedx+json", "config": config, "layers": []});
            blobs.add(OCI_MANIFEST, manifest.to_string().into_bytes())
        },
        |_| None,
    );
    insta::assert_snapshot!("artifact", text);
    let (_, text) = pull(
        |blobs| {
            let text = r#"{"schemaVersion":1,"name":"lab/app","tag":"a","fsLayers":[]}"#;
            blobs.add("application/vnd.docker.distribution.manifest.v1+prettyjws", text.into())
        },
        |_| None,
    );
    insta::assert_snapshot!("schema_1", text);
    let (_, text) = pull(
        |blobs| {
            let config = blobs.add(OCI_CONFIG, b"{}".to_vec());
            let both = serde_json::json!({"schemaVersion": 2, "config": config, "layers": [], "manifests": []});
            blobs.add(OCI_INDEX, both.to_string().into_bytes())
        },
        |_| None,
    );
    insta::assert_snapshot!("index_and_manifest", text);
    let (_, text) = pull(
        |blobs| {
            let layer = Descriptor {
                media_type: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into(),
                digest: Digest::of(b"x"),
                size: 1,
            };
            blobs.image_of("amd64", vec![layer], &[Digest::of(b"x")])
        },
        |_| None,
    );
    insta::assert_snapshot!("foreign_layer", text);
    let (_, text) = pull(
        |blobs| {
            let layer = blobs.add("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", b"x".to_vec());
            blobs.image_of("amd64", vec![layer], &[Digest::of(b"y")])
        },
        |_| None,
    );
    insta::assert_snapshot!("encrypted_layer", text);
}

#[test]
fn sizes_that_no_disk_has_are_refused_before_anything_is_fetched() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let (_, text) = pull(
        |blobs| {
            let layer = |mark: &[u8]| Descriptor {
                media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
                digest: Digest::of(mark),
                size: u64::MAX,
            };
            blobs.image_of("amd64", vec![layer(b"x"), layer(b"y")], &[Digest::of(b"x"), Digest::of(b"y")])
        },
        move |r| {
            counted.fetch_add(usize::from(r.path.contains("/blobs/")), Ordering::Relaxed);
            None
        },
    );
    insta::assert_snapshot!(text);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[test]
fn a_disk_that_is_full_in_the_middle_of_a_blob_is_told_and_gets_its_space_back() {
    let disk = SmallDisk::new(4);
    let node = Node::at(disk.root(), RegistryConfig::for_tests());
    let before = disk.free();
    let (_, text) = pull_by(
        &node,
        &options(),
        |blobs| blobs.image("amd64", &[LayerTar::new().file("large", &noise(6 << 20, 1)).done()]),
        |_| None,
    );
    insta::assert_snapshot!(text.replace(node.root.path().to_str().unwrap(), "ROOT"));
    assert!(node.ingest_is_empty());
    // Manifest and configuration stay.
    assert!(before - disk.free() < 8, "{} blocks less than before", before - disk.free());
}

#[test]
fn no_manifest_for_the_platform_says_what_there_is() {
    let (_, text) = pull(
        |blobs| {
            let image = blobs.image("arm64", &[]);
            blobs.index(&[(&image, Some("arm64"))])
        },
        |_| None,
    );
    insta::assert_snapshot!(text);
}

#[test]
fn a_busy_registry_is_asked_again_and_one_that_stays_broken_is_given_up() {
    let node = node();
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = small(&mut blobs);
        let count = AtomicUsize::new(0);
        let server = Server::start(blobs, &[("a", &image)], move |_| {
            let busy = Reply::new(429, "text/plain", "slow down").header("Retry-After", "0");
            (count.fetch_add(1, Ordering::Relaxed) % 3 < 2).then_some(busy)
        })
        .await;
        let reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        node.images.pull(&reference, &options(), silent()).await.unwrap();
    });
    let (_, text) = pull(small, |_| Some(Reply::new(503, "text/plain", "out of order").header("Retry-After", "0")));
    insta::assert_snapshot!("broken", text);
    let (_, text) = pull(small, |_| Some(Reply::new(429, "text/plain", "enough").header("Retry-After", "600")));
    insta::assert_snapshot!("limited", text);
}
