//! Layers unpacked while they are downloaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::image::tests::fixture::{Blobs, LayerTar, noise};
use crate::image::tests::registry::Node;
use crate::image::tests::server::{Reply, Server};
use crate::image::{ImageError, PullOptions, RegistryConfig, Timeouts, silent};
use crate::snapshot::{SnapshotError, Snapshots};

fn options() -> PullOptions {
    PullOptions { platform: "linux/amd64".parse().unwrap(), ..PullOptions::default() }
}

fn layers() -> [Vec<u8>; 2] {
    [
        LayerTar::new().file("first", b"1").file("large", &noise(2_000_000, 3)).done(),
        LayerTar::new().file("second", &noise(300_000, 4)).done(),
    ]
}

fn is_large(blobs: &Blobs, path: &str) -> Option<Vec<u8>> {
    let bytes = blobs.0.get(&path.rsplit('/').next()?.parse().ok()?)?;
    (path.contains("/blobs/") && bytes.len() > 1_000_000).then(|| bytes.clone())
}

/// What came of a pull with unpacking beside it, as the engine does both.
struct Outcome {
    fetched: Result<(), ImageError>,
    unpacked: Result<(), SnapshotError>,
    visible: bool,
    drafts: usize,
}

async fn pull(node: &Node, host: &str) -> Outcome {
    let snapshots = Snapshots::open(node.root.path()).unwrap();
    let reference = format!("{host}/lab/app:a").parse().unwrap();
    let pull = node.images.begin(&reference, &options(), silent()).await.unwrap();
    let (image, source, own) = (pull.image().clone(), pull.layers(), snapshots.clone());
    let unpack = tokio::task::spawn_blocking(move || own.unpack(&image, &source, &|_| {}));
    let fetched = pull.run(&silent()).await;
    let unpacked = unpack.await.unwrap();
    let drafts = std::fs::read_dir(node.root.path().join("snapshots/l")).unwrap().count();
    Outcome { fetched, unpacked, visible: snapshots.is_unpacked(pull.image()), drafts }
}

fn quick() -> Node {
    let timeouts = Timeouts { stall: Duration::from_millis(400), ..Timeouts::default() };
    Node::new(RegistryConfig { auth_files: Vec::new(), timeouts, ..RegistryConfig::default() })
}

#[test]
fn files_are_there_before_the_last_byte_came_and_names_only_after_it() {
    let node = quick();
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = blobs.image("amd64", &layers());
        let content = blobs.clone();
        let root = node.root.path().join("snapshots");
        let seen = Arc::new(AtomicBool::new(false));
        let saw = Arc::clone(&seen);
        // Half of the large layer, then silence. When the rest is asked for, the first file must be there, and
        // no layer be published.
        let server = Server::start(blobs, &[("a", &image)], move |request| {
            let bytes = is_large(&content, &request.path)?;
            if request.headers.contains_key("range") {
                let made = std::fs::read_dir(root.join("l"))
                    .unwrap()
                    .any(|layer| layer.unwrap().path().join("fs/first").exists());
                let published = std::fs::read_dir(root.join("chains")).unwrap().count();
                saw.store(made && published == 0, Ordering::SeqCst);
                return None;
            }
            let reply = Reply::new(200, "application/octet-stream", bytes);
            Some(Reply { cut: Some(1_000_000), stall: true, ..reply })
        })
        .await;
        let outcome = pull(&node, &server.host).await;
        outcome.fetched.unwrap();
        outcome.unpacked.unwrap();
        assert!(outcome.visible && seen.load(Ordering::SeqCst));
    });
}

#[test]
fn a_blob_that_turns_out_wrong_leaves_nothing_and_is_told_as_that() {
    let node = quick();
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = blobs.image("amd64", &layers());
        let content = blobs.clone();
        // Right but for one byte near its end: most of the layer is applied by then.
        let server = Server::start(blobs, &[("a", &image)], move |request| {
            let mut bytes = is_large(&content, &request.path)?;
            let at = bytes.len() - 100;
            bytes[at] ^= 1;
            Some(Reply::new(200, "application/octet-stream", bytes))
        })
        .await;
        let outcome = pull(&node, &server.host).await;
        assert!(matches!(outcome.fetched, Err(ImageError::Digest { .. })), "{:?}", outcome.fetched);
        let told = outcome.unpacked.unwrap_err();
        assert!(
            matches!(&told, SnapshotError::Source { source, .. } if matches!(**source, ImageError::Digest { .. })),
            "{told}"
        );
        assert!(!outcome.visible);
        assert_eq!(outcome.drafts, 0);
    });
}

#[test]
fn rubbish_that_a_dead_process_left_is_unpacked_by_nobody() {
    let node = quick();
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = blobs.image("amd64", &layers());
        let (digest, bytes) = blobs.0.iter().max_by_key(|(_, b)| b.len()).unwrap();
        // It looks right at first, so that an unpacking follows it for a while.
        let rubbish = [&bytes[..300_000], &[0; 300_000]].concat();
        std::fs::write(node.root.path().join("content/ingest").join(digest.hex()), rubbish).unwrap();
        let server = Server::start(blobs.clone(), &[("a", &image)], |_| None).await;
        let outcome = pull(&node, &server.host).await;
        outcome.fetched.unwrap();
        outcome.unpacked.unwrap();
        assert!(outcome.visible);
    });
}

#[test]
fn a_pull_that_is_given_up_ends_the_unpacking() {
    let node = Node::plain();
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = blobs.image("amd64", &layers());
        let content = blobs.clone();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let server = Server::start(blobs, &[("a", &image)], move |request| {
            let reply = Reply::new(200, "application/octet-stream", is_large(&content, &request.path)?);
            counted.fetch_add(1, Ordering::SeqCst);
            Some(Reply { cut: Some(500_000), stall: true, ..reply })
        })
        .await;
        let snapshots = Snapshots::open(node.root.path()).unwrap();
        let reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        let pull = node.images.begin(&reference, &options(), silent()).await.unwrap();
        let (image, source, own) = (pull.image().clone(), pull.layers(), snapshots.clone());
        let unpack = tokio::task::spawn_blocking(move || own.unpack(&image, &source, &|_| {}));
        let run = tokio::spawn(async move { pull.run(&silent()).await });
        while asked.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        run.abort();
        let error = unpack.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("given up"), "{error}");
        assert_eq!(std::fs::read_dir(node.root.path().join("snapshots/l")).unwrap().count(), 0);
    });
}
