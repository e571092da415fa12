//! Mirrors: asked in order, left for the next one whatever they do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::fixture::{Blobs, LayerTar, noise};
use super::registry::{Node, Registry};
use super::server::{Reply, Request, Server};
use crate::image::{Descriptor, PullOptions, RegistryConfig, Timeouts, silent};
use crate::oci::Reference;

fn options() -> PullOptions {
    PullOptions { platform: "linux/amd64".parse().unwrap(), ..PullOptions::default() }
}

fn image() -> (Blobs, Descriptor) {
    let mut blobs = Blobs::default();
    let tars = [LayerTar::new().file("big", &noise(1_000_000, 3)).done(), LayerTar::new().file("s", b"small").done()];
    let image = blobs.image("amd64", &tars);
    (blobs, image)
}

/// A node with a directory for hosts.toml.
struct Place {
    node: Node,
    certs: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let certs = tempfile::tempdir().unwrap();
        let timeouts = Timeouts { headers: Duration::from_secs(2), ..Timeouts::default() };
        let config = RegistryConfig { certs_dir: certs.path().into(), timeouts, ..RegistryConfig::for_tests() };
        Self { node: Node::new(config), certs }
    }

    fn hosts(&self, host: &str, text: &str) {
        let dir = self.certs.path().join(host);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("hosts.toml"), text).unwrap();
    }
}

fn mirror(host: &str, more: &str) -> String {
    format!("[host.\"http://{host}\"]\n{more}\n")
}

#[test]
fn mirrors_are_asked_in_order_with_the_name_of_the_registry_and_with_nothing_that_is_not_theirs() {
    let mut place = Place::new();
    let auth = place.certs.path().join("auth.json");
    let config = RegistryConfig {
        certs_dir: place.certs.path().into(),
        auth_files: vec![auth.clone()],
        ..RegistryConfig::for_tests()
    };
    place.node = Node::new(config);
    place.node.runtime.block_on(async {
        let (blobs, image) = image();
        // The first one asks who we are: credentials for the registry are not for it.
        let closed = Server::start(blobs.clone(), &[("a", &image)], |_| {
            Some(Reply::new(401, "text/plain", "").header("WWW-Authenticate", "Basic realm=x"))
        })
        .await;
        let empty = Server::start(Blobs::default(), &[], |_| None).await;
        let full = Server::start(blobs, &[("a", &image)], |_| None).await;
        let upstream = Server::start(Blobs::default(), &[], |_| None).await;
        let text = format!(r#"{{"auths": {{"{}": {{"auth": "dTpw"}}}}}}"#, upstream.host);
        std::fs::write(&auth, text).unwrap();
        let header = "[host.\"http://HOST\".header]\nx-key = \"secret\"".replace("HOST", &empty.host);
        let hosts = [mirror(&closed.host, ""), mirror(&empty.host, &header), mirror(&full.host, "")].concat();
        place.hosts(&upstream.host, &hosts);
        let reference: Reference = format!("{}/lab/app:a", upstream.host).parse().unwrap();
        let pulled = place.node.images.pull(&reference, &options(), silent()).await.unwrap();
        assert_eq!(pulled.target.digest, image.digest);
        assert!(upstream.requests().is_empty());
        let ns = format!("?ns={}", upstream.host.replace(':', "%3A"));
        for server in [&closed, &empty, &full] {
            let requests = server.requests();
            assert!(requests[0].path.starts_with("/v2/lab/app/manifests/a?ns="), "{requests:?}");
            assert!(requests.iter().all(|r| r.path.ends_with(&ns)), "{requests:?}");
            assert!(requests.iter().all(|r| !r.headers.contains_key("authorization")));
            let keyed = server.host == empty.host;
            assert!(requests.iter().all(|r| r.headers.contains_key("x-key") == keyed), "{requests:?}");
        }
    });
}

/// A mirror that hangs up in the middle of the large layer, and is gone from then on.
fn dies(blobs: &Blobs, after: usize) -> impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static {
    let large = blobs.0.iter().max_by_key(|(_, bytes)| bytes.len()).map(|(d, b)| (d.clone(), b.clone())).unwrap();
    let count = AtomicUsize::new(0);
    move |request| {
        let of_large = request.path.contains(large.0.hex());
        if !of_large && count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let reply = Reply::new(200, "application/octet-stream", large.1.clone());
        let cut = if count.fetch_add(1, Ordering::SeqCst) == 0 { after } else { 0 };
        Some(Reply { cut: Some(cut), ..reply })
    }
}

#[test]
fn a_mirror_that_dies_in_the_middle_of_a_blob_is_followed_by_the_next_from_that_byte() {
    let place = Place::new();
    place.node.runtime.block_on(async {
        let (blobs, image) = image();
        let dying = Server::start(blobs.clone(), &[("a", &image)], dies(&blobs, 700_000)).await;
        let upstream = Server::start(blobs, &[("a", &image)], |_| None).await;
        place.hosts(&upstream.host, &mirror(&dying.host, ""));
        let reference: Reference = format!("{}/lab/app:a", upstream.host).parse().unwrap();
        place.node.images.pull(&reference, &options(), silent()).await.unwrap();
        let ranges: Vec<_> = upstream.requests().iter().filter_map(|r| r.headers.get("range").cloned()).collect();
        assert_eq!(ranges, ["bytes=700000-"]);
    });
    assert!(place.node.ingest_is_empty());
}

#[test]
fn a_real_registry_takes_over_from_a_mirror_that_dies() {
    let registry = Registry::start(None);
    let dir = tempfile::tempdir().unwrap();
    let (blobs, image) = image();
    blobs.layout(dir.path(), &[("x", &image)]);
    registry.push(dir.path(), "x", "lab/app:a", &[]);
    let place = Place::new();
    let name = format!("{}/lab/app:a", registry.host);
    place.node.runtime.block_on(async {
        let dying = Server::start(blobs.clone(), &[("a", &image)], dies(&blobs, 500_000)).await;
        place.hosts(&registry.host, &mirror(&dying.host, ""));
        let pulled = place.node.images.pull(&name.parse().unwrap(), &options(), silent()).await.unwrap();
        assert_eq!(pulled.target.digest, image.digest);
        assert!(dying.requests().len() >= 2);
    });
    // And the other way round: the registry as a mirror of something that is not there at all.
    let place = Place::new();
    place.hosts("gone.invalid", &mirror(&registry.host, ""));
    assert_eq!(place.node.pull("gone.invalid/lab/app:a", &options()).unwrap().target.digest, image.digest);
}

#[test]
fn a_mirror_that_lies_is_left_for_one_that_does_not() {
    let place = Place::new();
    place.node.runtime.block_on(async {
        let (blobs, image) = image();
        let content = blobs.0.clone();
        // Everything it has is of the right length and wrong.
        let lying = Server::start(blobs.clone(), &[("a", &image)], move |request| {
            let digest = request.path.split('?').next()?.rsplit('/').next()?.parse().ok()?;
            let bytes = content.get(&digest)?;
            let first = if request.path.contains("/manifests/") { b'{' } else { b'!' };
            let wrong = std::iter::once(first).chain(std::iter::repeat(b' ')).take(bytes.len());
            Some(Reply::new(200, "application/octet-stream", wrong.collect::<Vec<_>>()))
        })
        .await;
        let upstream = Server::start(blobs, &[("a", &image)], |_| None).await;
        place.hosts(&upstream.host, &mirror(&lying.host, ""));
        let pinned = PullOptions { digest: Some(image.digest.clone()), ..options() };
        let reference: Reference = format!("{}/lab/app:a", upstream.host).parse().unwrap();
        let pulled = place.node.images.pull(&reference, &pinned, silent()).await.unwrap();
        assert_eq!(pulled.target.digest, image.digest);
        assert!(lying.requests().len() >= 4, "it was asked for the manifest and each blob");
    });
    assert!(place.node.ingest_is_empty());
}

#[test]
fn a_mirror_is_asked_only_for_what_it_is_capable_of() {
    let place = Place::new();
    place.node.runtime.block_on(async {
        let (blobs, image) = image();
        let stale = Server::start(blobs.clone(), &[("a", &image)], |_| None).await;
        let upstream = Server::start(blobs, &[("a", &image)], |_| None).await;
        place.hosts(&upstream.host, &mirror(&stale.host, "capabilities = [\"pull\"]"));
        let reference: Reference = format!("{}/lab/app:a", upstream.host).parse().unwrap();
        place.node.images.pull(&reference, &options(), silent()).await.unwrap();
        // What the tag points at, upstream says; what has a digest may come from anywhere.
        assert!(upstream.gets().is_empty());
        assert!(stale.gets().iter().all(|path| path.contains("/sha256:")));
        assert_eq!(upstream.requests().len(), 1);
        place.hosts(&upstream.host, "capabilities = [\"push\"]");
        let error = place.node.images.resolve(&reference, &options()).await.unwrap_err();
        insta::assert_snapshot!(error.to_string().replace(&upstream.host, "HOST"));
    });
}

#[test]
fn a_mirror_that_says_nothing_is_waited_for_once() {
    let place = Place::new();
    place.node.runtime.block_on(async {
        let (blobs, image) = image();
        let quiet = |_: &Request| Some(Reply { silent: true, ..Reply::new(200, "text/plain", "") });
        let silent_one = Server::start(Blobs::default(), &[], quiet).await;
        let upstream = Server::start(blobs, &[("a", &image)], |_| None).await;
        place.hosts(&upstream.host, &mirror(&silent_one.host, ""));
        let reference: Reference = format!("{}/lab/app:a", upstream.host).parse().unwrap();
        place.node.images.pull(&reference, &options(), silent()).await.unwrap();
        assert_eq!(silent_one.requests().len(), 1);
    });
}

#[test]
fn when_nobody_has_it_each_of_them_is_named() {
    let place = Place::new();
    place.node.runtime.block_on(async {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let busy = Server::start(Blobs::default(), &[], move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Some(Reply::new(503, "text/plain", "out of order").header("Retry-After", "0"))
        })
        .await;
        let upstream = Server::start(Blobs::default(), &[], |_| None).await;
        let hosts = [mirror("127.0.0.1:1", ""), mirror(&busy.host, "")].concat();
        place.hosts(&upstream.host, &hosts);
        let reference: Reference = format!("{}/lab/app:a", upstream.host).parse().unwrap();
        let error = place.node.images.pull(&reference, &options(), silent()).await.unwrap_err();
        let text = error.to_string().replace(&upstream.host, "HOST").replace(&busy.host, "BUSY");
        insta::assert_snapshot!(text);
        assert!(count.load(Ordering::Relaxed) > 1, "a busy mirror is worth another round");
    });
}
