//! What registries must not be able to do. Each case: a clear error, nothing left over, and in time.

use std::time::{Duration, Instant};

use super::fixture::{Blobs, LayerTar};
use super::registry::Node;
use super::server::{Reply, Request, Server};
use crate::image::descriptor::{Descriptor, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use crate::image::{ImageError, PullOptions, RegistryConfig, Timeouts, silent};
use crate::oci::Digest;

fn node() -> Node {
    let timeouts =
        Timeouts { stall: Duration::from_millis(300), headers: Duration::from_secs(5), ..Timeouts::default() };
    Node::new(RegistryConfig { auth_files: Vec::new(), timeouts, ..RegistryConfig::default() })
}

fn options() -> PullOptions {
    PullOptions { platform: "linux/amd64".parse().unwrap(), ..PullOptions::default() }
}

fn small(blobs: &mut Blobs) -> Descriptor {
    blobs.image("amd64", &[LayerTar::new().file("a", &[b'x'; 5000]).done()])
}

/// Pulls `a` from a server with this quirk; the error's text with the host taken out of it.
fn pull(
    build: impl FnOnce(&mut Blobs) -> Descriptor,
    quirk: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
) -> (ImageError, String) {
    let node = node();
    let (error, host) = node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = build(&mut blobs);
        let server = Server::start(blobs, &[("a", &image)], quirk).await;
        let reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        let error = node.images.pull(&reference, &options(), silent()).await.unwrap_err();
        (error, server.host.clone())
    });
    let text = error.to_string().replace(&host, "HOST");
    assert!(!text.ends_with('.'), "{text}");
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
    });
    assert!(!node.images.store().has(&digest));
    // Others of the image may be there, to be taken up again.
    assert!(!node.root.path().join("content/ingest").join(digest.hex()).exists());
}

#[test]
fn wrong_lengths_are_refused() {
    let (digest, bytes) = layer();
    let (longer, wrong) = (bytes.clone(), digest.clone());
    let (error, _) = pull(small, move |r| {
        is_layer(r, &wrong).then(|| Reply::new(200, "application/octet-stream", [&longer[..], b"more"].concat()))
    });
    assert!(matches!(error, ImageError::Size { .. }), "{error}");
    // A Content-Length larger than what comes: broken, tried again, given up.
    let (error, text) = pull(small, move |r| {
        let reply = Reply::new(200, "application/octet-stream", bytes.clone());
        is_layer(r, &digest).then_some(Reply { cut: Some(10), ..reply })
    });
    assert!(matches!(error, ImageError::Registry { .. }), "{error}");
    assert!(text.contains("broke the connection"), "{text}");
}

#[test]
fn a_stall_ends() {
    let (digest, bytes) = layer();
    let begun = Instant::now();
    let (_, text) = pull(small, move |r| {
        let reply = Reply::new(200, "application/octet-stream", bytes.clone());
        is_layer(r, &digest).then_some(Reply { cut: Some(10), stall: true, ..reply })
    });
    assert!(text.contains("sent nothing for"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn redirects_stay_bounded_and_take_no_credentials_along() {
    let (_, text) = pull(small, |r| Some(Reply::new(307, "text/plain", "").header("Location", r.path.clone())));
    assert_eq!(text, "image HOST/lab/app:a: HOST redirects more than 5 times");
    let (_, text) = pull(small, |_| Some(Reply::new(302, "text/plain", "").header("Location", "file:///etc/passwd")));
    assert_eq!(text, "image HOST/lab/app:a: HOST redirects to a file URL");

    let node = node();
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = small(&mut blobs);
        let elsewhere = Server::start(blobs.clone(), &[], |_| None).await;
        let target = elsewhere.host.clone();
        let server = Server::start(blobs, &[("a", &image)], move |r| {
            if !r.headers.contains_key("authorization") {
                return Some(Reply::new(401, "text/plain", "").header("WWW-Authenticate", "Basic realm=x"));
            }
            let path = r.path.contains("/blobs/").then(|| r.path.clone())?;
            Some(Reply::new(307, "text/plain", "").header("Location", format!("http://{target}{path}")))
        })
        .await;
        let options = PullOptions { credentials: Some(("u".into(), "p".into())), ..options() };
        let reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        node.images.pull(&reference, &options, silent()).await.unwrap();
        assert!(!elsewhere.requests().is_empty());
        assert!(elsewhere.requests().iter().all(|r| !r.headers.contains_key("authorization")));
    });
}

#[test]
fn a_registry_that_always_says_401_is_not_asked_for_ever() {
    let (error, text) = pull(small, |_| {
        Some(
            Reply::new(401, "application/json", r#"{"errors":[{"code":"UNAUTHORIZED","message":"no way"}]}"#)
                .header("WWW-Authenticate", "Basic realm=x"),
        )
    });
    assert_eq!(text, "image HOST/lab/app:a: HOST answers 401: no way (no credentials were sent)");
    let fault = crate::error::Fault::from(error);
    assert!(fault.help.unwrap().contains("bayplan login"));
}

#[test]
fn a_token_endpoint_that_is_down_or_talks_rubbish_is_named() {
    let challenge = |realm: &str| {
        let value = format!("Bearer realm=\"{realm}\",service=\"s\"");
        Reply::new(401, "text/plain", "").header("WWW-Authenticate", value)
    };
    let (_, text) = pull(small, move |_| Some(challenge("http://127.0.0.1:1/token")));
    assert!(text.starts_with("image HOST/lab/app:a: HOST could not be authenticated with: its token endpoint 127.0.0.1:1 cannot be reached"), "{text}");
    let (_, text) = pull(small, move |r| {
        let host = r.headers.get("host").cloned().unwrap_or_default();
        Some(match r.path.starts_with("/token") {
            true => Reply::new(200, "text/html", "<html>"),
            false => challenge(&format!("http://{host}/token")),
        })
    });
    assert!(text.ends_with("answered without a token"), "{text}");
}

#[test]
fn html_in_place_of_json_is_not_a_manifest() {
    let (_, text) = pull(small, |_| Some(Reply::new(200, "text/html", "<html>hello</html>")));
    assert_eq!(
        text,
        "image HOST/lab/app:a: HOST does not speak the registry protocol: it answers text/html where a manifest is asked for"
    );
    let (_, text) = pull(small, |_| Some(Reply::new(200, OCI_MANIFEST, r#"{"schemaVersion": 2, "config": "#)));
    assert!(text.contains("is malformed"), "{text}");
}

#[test]
fn a_manifest_of_100_mib_is_not_read() {
    let (error, _) =
        pull(small, |_| Some(Reply { length: Some(100 << 20), stall: true, ..Reply::new(200, OCI_MANIFEST, "{") }));
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");
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
    assert!(text.contains("nests indexes more than 4 deep"), "{text}");
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
    assert!(text.contains("it is an artifact of type application/vnd.cyclonedx+json"), "{text}");
    let (_, text) = pull(
        |blobs| {
            let text = r#"{"schemaVersion":1,"name":"lab/app","tag":"a","fsLayers":[]}"#;
            blobs.add("application/vnd.docker.distribution.manifest.v1+prettyjws", text.into())
        },
        |_| None,
    );
    assert!(text.contains("schema 1"), "{text}");
    let (_, text) = pull(
        |blobs| {
            let config = blobs.add(OCI_CONFIG, b"{}".to_vec());
            let both = serde_json::json!({"schemaVersion": 2, "config": config, "layers": [], "manifests": []});
            blobs.add(OCI_INDEX, both.to_string().into_bytes())
        },
        |_| None,
    );
    assert!(text.contains("an index and a manifest at once"), "{text}");
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
    assert!(text.contains("is foreign"), "{text}");
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
    assert_eq!(text, "image HOST/lab/app:a has no manifest for linux/amd64; it offers linux/arm64");
}

#[test]
fn a_busy_registry_is_asked_again_and_one_that_stays_broken_is_given_up() {
    use std::sync::atomic::{AtomicUsize, Ordering};
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
    assert_eq!(text, "image HOST/lab/app:a: HOST answers 503: out of order");
}
