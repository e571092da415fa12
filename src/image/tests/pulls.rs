//! Pulls that share, resume, and find things half-done.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::fixture::{Blobs, LayerTar, noise};
use super::registry::Node;
use super::server::{Reply, Server};
use crate::image::{Image, ImageError, PullOptions, RegistryConfig, Timeouts, silent};
use crate::oci::Reference;

fn options() -> PullOptions {
    PullOptions { platform: "linux/amd64".parse().unwrap(), ..PullOptions::default() }
}

fn big_image(blobs: &mut Blobs, shared: &[u8], own: u64) -> crate::image::Descriptor {
    let top = LayerTar::new().file("own", &noise(100_000, own)).done();
    blobs.image("amd64", &[LayerTar::new().file("shared", shared).done(), top])
}

#[test]
fn five_pulls_at_once_of_two_images_ask_for_each_blob_once() {
    let node = Node::plain();
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let shared = noise(3_000_000, 5);
        let (a, b) = (big_image(&mut blobs, &shared, 1), big_image(&mut blobs, &shared, 2));
        let server = Server::start(blobs, &[("a", &a), ("b", &b)], |_| None).await;
        let pulls = (0..5).map(|n| {
            let tag = if n % 2 == 0 { "a" } else { "b" };
            let reference: Reference = format!("{}/lab/app:{tag}", server.host).parse().unwrap();
            let images = node.images.clone();
            tokio::spawn(async move { images.pull(&reference, &options(), silent()).await })
        });
        for pull in pulls.collect::<Vec<_>>() {
            pull.await.unwrap().unwrap();
        }
        let mut asked: Vec<_> = server.gets().into_iter().filter(|p| p.contains("/blobs/")).collect();
        let all = asked.len();
        asked.sort();
        asked.dedup();
        // Two configurations, the shared layer, two of their own.
        assert_eq!((asked.len(), all), (5, 5));
        assert!(node.ingest_is_empty());
    });
}

#[test]
fn a_stream_that_breaks_is_taken_up_where_it_broke() {
    let node = Node::plain();
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = big_image(&mut blobs, &noise(2_000_000, 3), 1);
        let content = blobs.0.clone();
        let breaks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&breaks);
        let server = Server::start(blobs, &[("a", &image)], move |request| {
            let bytes = content.get(&request.path.rsplit('/').next()?.parse().ok()?)?;
            // The large one is cut after 700,000 bytes, twice.
            let large = request.path.contains("/blobs/") && bytes.len() > 1_000_000;
            if !large || counted.fetch_add(1, Ordering::Relaxed) >= 2 {
                return None;
            }
            let from: usize = match request.headers.get("range") {
                Some(range) => range["bytes=".len()..range.len() - 1].parse().unwrap(),
                None => 0,
            };
            let status = if from == 0 { 200 } else { 206 };
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            let reply = Reply::new(status, "application/octet-stream", &bytes[from..]).header("Content-Range", range);
            Some(Reply { cut: Some(700_000), ..reply })
        })
        .await;
        let reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        node.images.pull(&reference, &options(), silent()).await.unwrap();
        let ranges: Vec<_> = server.requests().iter().filter_map(|r| r.headers.get("range").cloned()).collect();
        assert_eq!(ranges, ["bytes=700000-", "bytes=1400000-"]);
    });
}

#[test]
fn what_a_dead_process_left_of_a_blob_is_taken_up_and_rubbish_is_begun_anew() {
    for (left, rubbish) in [(400_000, false), (400_000, true)] {
        let node = Node::plain();
        node.runtime.block_on(async {
            let mut blobs = Blobs::default();
            let image = big_image(&mut blobs, &noise(1_000_000, 9), 1);
            let (digest, bytes) =
                blobs.0.iter().max_by_key(|(_, b)| b.len()).map(|(d, b)| (d.clone(), b.clone())).unwrap();
            let part = node.root.path().join("content/ingest").join(digest.hex());
            std::fs::write(&part, if rubbish { vec![0; left] } else { bytes[..left].to_vec() }).unwrap();
            let server = Server::start(blobs, &[("a", &image)], |_| None).await;
            let reference = format!("{}/lab/app:a", server.host).parse().unwrap();
            node.images.pull(&reference, &options(), silent()).await.unwrap();
            assert!(server.requests().iter().any(|r| r.headers.get("range").is_some_and(|r| r == "bytes=400000-")));
            let asked = server.gets().iter().filter(|p| p.ends_with(digest.hex())).count();
            assert_eq!(asked, if rubbish { 2 } else { 1 });
            assert_eq!(node.images.store().read(&digest, 10 << 20).unwrap(), bytes);
            assert!(node.ingest_is_empty());
        });
    }
}

#[test]
fn a_second_pull_asks_for_nothing_but_the_tag() {
    let node = Node::plain();
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = big_image(&mut blobs, b"x", 1);
        let server = Server::start(blobs, &[("a", &image)], |_| None).await;
        let reference: Reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        let first: Image = node.images.pull(&reference, &options(), silent()).await.unwrap();
        let before = server.requests().len();
        assert_eq!(node.images.pull(&reference, &options(), silent()).await.unwrap(), first);
        assert_eq!(server.requests().len(), before + 1);
        // Pinned to a digest that is here, nothing is asked at all.
        let pinned = PullOptions { digest: Some(image.digest.clone()), ..options() };
        assert_eq!(node.images.pull(&reference, &pinned, silent()).await.unwrap(), first);
        assert_eq!(server.requests().len(), before + 1);
    });
}

#[test]
fn a_pull_that_is_given_up_hands_over_to_the_one_that_waits() {
    let node = Node::plain();
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = big_image(&mut blobs, &noise(1_000_000, 4), 1);
        let content = blobs.0.clone();
        let first = Arc::new(AtomicUsize::new(0));
        let (asked, counted) = (Arc::clone(&first), first);
        let server = Server::start(blobs, &[("a", &image)], move |request| {
            let bytes = content.get(&request.path.rsplit('/').next()?.parse().ok()?)?;
            if bytes.len() < 500_000 || counted.fetch_add(1, Ordering::SeqCst) > 0 {
                return None;
            }
            let reply = Reply::new(200, "application/octet-stream", bytes.clone());
            Some(Reply { cut: Some(300_000), stall: true, ..reply })
        })
        .await;
        let reference: Reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        let pull = || {
            let (images, reference) = (node.images.clone(), reference.clone());
            tokio::spawn(async move { images.pull(&reference, &options(), silent()).await })
        };
        let leader = pull();
        while asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let waiting = pull();
        leader.abort();
        waiting.await.unwrap().unwrap();
    });
}

#[test]
fn pulls_that_wait_for_a_failing_fetch_fail_with_their_own_name() {
    let node = Node::plain();
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let (a, b) = (big_image(&mut blobs, b"shared", 1), big_image(&mut blobs, b"shared", 2));
        let server = Server::start(blobs, &[("a", &a), ("b", &b)], |request| {
            request.path.contains("/blobs/").then(|| Reply::new(403, "application/json", "{}"))
        })
        .await;
        for tag in ["a", "b"] {
            let reference: Reference = format!("{}/lab/app:{tag}", server.host).parse().unwrap();
            let error = node.images.pull(&reference, &options(), silent()).await.unwrap_err();
            let ImageError::Registry { reference: named, .. } = &error else { panic!("{error}") };
            assert_eq!(named, &reference.to_string());
        }
    });
}

#[test]
fn a_blob_can_be_read_while_it_comes() {
    let timeouts = Timeouts { stall: Duration::from_millis(500), ..Timeouts::default() };
    let node = Node::new(RegistryConfig { auth_files: Vec::new(), timeouts, ..RegistryConfig::default() });
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = big_image(&mut blobs, &noise(1_000_000, 4), 1);
        let (digest, bytes) = blobs.0.iter().max_by_key(|(_, b)| b.len()).map(|(d, b)| (d.clone(), b.clone())).unwrap();
        let content = bytes.clone();
        let layer = digest.clone();
        // Half of it, then silence until the stall is noticed and the rest is asked for.
        let server = Server::start(blobs, &[("a", &image)], move |request| {
            let first = request.path.ends_with(layer.hex()) && !request.headers.contains_key("range");
            let reply = Reply::new(200, "application/octet-stream", content.clone());
            first.then_some(Reply { cut: Some(500_000), stall: true, ..reply })
        })
        .await;
        let reference: Reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        let images = node.images.clone();
        let pull = tokio::spawn(async move { images.pull(&reference, &options(), silent()).await });
        let mut growing = loop {
            match node.images.inner.fetcher.follow(&digest) {
                Some(growing) => break growing,
                None => tokio::task::yield_now().await,
            }
        };
        // A thread of its own, as unpacking has.
        let reader = std::thread::spawn(move || {
            let mut first = vec![0; 1000];
            growing.read_exact(&mut first).unwrap();
            let early = Instant::now();
            growing.read_to_end(&mut first).unwrap();
            (first, early.elapsed())
        });
        pull.await.unwrap().unwrap();
        let (read, waited) = reader.join().unwrap();
        assert!(read == bytes);
        assert!(waited > Duration::from_millis(100), "the first bytes came with the last ones");
    });
}

#[test]
fn two_processes_over_one_store_ask_for_a_blob_once() {
    let node = Node::plain();
    // Locks belong to open files: another `Images` is as another process.
    let config = RegistryConfig { auth_files: Vec::new(), ..RegistryConfig::default() };
    let other = crate::image::Images::open(node.root.path(), config).unwrap();
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = big_image(&mut blobs, &noise(3_000_000, 8), 1);
        let content = blobs.0.clone();
        let server = Server::start(blobs, &[("a", &image)], move |request| {
            // Slow enough that both are under way at once.
            let large = content.get(&request.path.rsplit('/').next()?.parse().ok()?)?.len() > 1_000_000;
            if large {
                std::thread::sleep(Duration::from_millis(300));
            }
            None
        })
        .await;
        let reference: Reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        let pulls = [node.images.clone(), other].map(|images| {
            let reference = reference.clone();
            tokio::spawn(async move { images.pull(&reference, &options(), silent()).await })
        });
        for pull in pulls {
            pull.await.unwrap().unwrap();
        }
        let mut asked: Vec<_> = server.gets().into_iter().filter(|p| p.contains("/blobs/")).collect();
        asked.sort();
        let all = asked.len();
        asked.dedup();
        assert_eq!((asked.len(), all), (3, 3));
        assert!(node.ingest_is_empty());
    });
}

#[test]
fn a_registry_that_stalls_holds_up_no_other() {
    let timeouts = Timeouts { stall: Duration::from_secs(60), ..Timeouts::default() };
    let config = RegistryConfig { auth_files: Vec::new(), timeouts, per_host: 1, concurrency: 2, ..Default::default() };
    let node = Node::new(config);
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let stuck = big_image(&mut blobs, &noise(200_000, 6), 1);
        let mut others = Blobs::default();
        let fine = big_image(&mut others, &noise(200_000, 7), 2);
        let silent_one = Server::start(blobs, &[("a", &stuck)], |request| {
            let reply = Reply::new(200, "application/octet-stream", vec![0; 10]);
            let layer = request.path.contains("/blobs/") && request.method == "GET";
            layer.then_some(Reply { cut: Some(1), stall: true, length: Some(100_000), ..reply })
        })
        .await;
        let server = Server::start(others, &[("a", &fine)], |_| None).await;
        let pull = |host: &str| {
            let (images, reference) = (node.images.clone(), format!("{host}/lab/app:a").parse().unwrap());
            tokio::spawn(async move { images.pull(&reference, &options(), silent()).await })
        };
        let hanging: Vec<_> = (0..5).map(|_| pull(&silent_one.host)).collect();
        while silent_one.gets().iter().all(|path| !path.contains("/blobs/")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::timeout(Duration::from_secs(20), pull(&server.host)).await.unwrap().unwrap().unwrap();
        hanging.into_iter().for_each(|pull| pull.abort());
    });
}
