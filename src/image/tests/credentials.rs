//! Tokens and credential helpers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::fixture::{Blobs, LayerTar};
use super::registry::{Node, Registry};
use super::server::{Reply, Server};
use crate::image::{Descriptor, PullOptions, PullSecret, RegistryConfig, silent};

#[test]
fn a_bearer_token_is_fetched_once_and_used_for_the_whole_pull() {
    let node = Node::plain();
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = blobs.image("amd64", &[LayerTar::new().file("a", b"1").done()]);
        let server = Server::start(blobs, &[("a", &image)], |request| {
            let host = request.headers.get("host").cloned().unwrap_or_default();
            if request.path.starts_with("/token") {
                let right = request.headers.get("authorization").is_some_and(|a| a == "Basic dTpw")
                    && request.path.contains("scope=repository%3Alab%2Fapp%3Apull")
                    && request.path.contains("service=reg");
                let status = if right { 200 } else { 401 };
                return Some(Reply::new(status, "application/json", r#"{"access_token": "T", "expires_in": 300}"#));
            }
            if request.headers.get("authorization").is_some_and(|a| a == "Bearer T") {
                return None;
            }
            let value = format!(r#"Bearer realm="http://{host}/token",service="reg",scope="repository:lab/app:pull""#);
            Some(Reply::new(401, "application/json", "{}").header("WWW-Authenticate", value))
        })
        .await;
        let platform = "linux/amd64".parse().unwrap();
        let options = PullOptions { platform, credentials: Some(("u".into(), "p".into())), ..PullOptions::default() };
        let reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        node.images.pull(&reference, &options, silent()).await.unwrap();
        assert_eq!(server.gets().iter().filter(|p| p.starts_with("/token")).count(), 1);
    });
}

/// A registry whose tokens are each good for so many requests, and the number of tokens it gave.
async fn expiring(blobs: Blobs, image: &Descriptor, uses: usize) -> (Server, Arc<AtomicUsize>) {
    let (given, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(BTreeMap::<String, usize>::new())));
    let counted = Arc::clone(&given);
    let server = Server::start(blobs, &[("a", image)], move |request| {
        let host = request.headers.get("host").cloned().unwrap_or_default();
        if request.path.starts_with("/token") {
            let token = format!("T{}", counted.fetch_add(1, Ordering::SeqCst));
            left.lock().unwrap().insert(format!("Bearer {token}"), uses);
            return Some(Reply::new(200, "application/json", format!(r#"{{"token": "{token}", "expires_in": 300}}"#)));
        }
        let mut left = left.lock().unwrap();
        let uses = request.headers.get("authorization").and_then(|header| left.get_mut(header));
        if let Some(uses) = uses.filter(|uses| **uses > 0) {
            *uses -= 1;
            return None;
        }
        let value = format!(r#"Bearer realm="http://{host}/token",service="reg""#);
        Some(Reply::new(401, "application/json", "{}").header("WWW-Authenticate", value))
    })
    .await;
    (server, given)
}

fn many_layers(count: usize) -> (Blobs, Descriptor) {
    let mut blobs = Blobs::default();
    let tars: Vec<_> = (0..count).map(|n| LayerTar::new().file("a", n.to_string().as_bytes()).done()).collect();
    let image = blobs.image("amd64", &tars);
    (blobs, image)
}

fn options() -> PullOptions {
    PullOptions { platform: "linux/amd64".parse().unwrap(), ..PullOptions::default() }
}

#[test]
fn a_token_that_expires_in_the_middle_of_a_pull_is_replaced() {
    // One blob at a time: each finds the token used up by the one before.
    let node = Node::new(RegistryConfig { concurrency: 1, ..RegistryConfig::for_tests() });
    node.runtime.block_on(async {
        let (blobs, image) = many_layers(4);
        let (server, given) = expiring(blobs, &image, 2).await;
        let reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        node.images.pull(&reference, &options(), silent()).await.unwrap();
        // A question, a manifest, a configuration and four layers, two requests a token.
        assert_eq!(given.load(Ordering::SeqCst), 4);
    });
}

#[test]
fn blobs_that_are_refused_side_by_side_share_one_new_token() {
    let node = Node::plain();
    node.runtime.block_on(async {
        let (blobs, image) = many_layers(5);
        // The first is good for the manifest alone; six blobs then want another at once.
        let first = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&first);
        let server = Server::start(blobs, &[("a", &image)], move |request| {
            let host = request.headers.get("host").cloned().unwrap_or_default();
            if request.path.starts_with("/token") {
                let token = format!("T{}", counted.fetch_add(1, Ordering::SeqCst));
                return Some(Reply::new(
                    200,
                    "application/json",
                    format!(r#"{{"token": "{token}", "expires_in": 300}}"#),
                ));
            }
            let wanted = if request.path.contains("/blobs/") { "Bearer T1" } else { "Bearer T0" };
            if request.headers.get("authorization").is_some_and(|header| header == wanted) {
                return None;
            }
            let value = format!(r#"Bearer realm="http://{host}/token",service="reg""#);
            Some(Reply::new(401, "application/json", "{}").header("WWW-Authenticate", value))
        })
        .await;
        let reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        node.images.pull(&reference, &options(), silent()).await.unwrap();
        assert_eq!(first.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn a_token_that_is_refused_at_once_is_replaced_once_and_no_more() {
    let node = Node::new(RegistryConfig { concurrency: 1, ..RegistryConfig::for_tests() });
    node.runtime.block_on(async {
        let (blobs, image) = many_layers(1);
        let (server, given) = expiring(blobs, &image, 0).await;
        let reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        let error = node.images.pull(&reference, &options(), silent()).await.unwrap_err().to_string();
        assert!(error.contains("answers 401"), "{error}");
        // Once for HEAD, once for the GET that has the registry's words.
        assert_eq!(given.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn an_identity_token_is_exchanged_by_post_and_never_put_into_a_url() {
    let node = Node::plain();
    node.runtime.block_on(async {
        let (blobs, image) = many_layers(1);
        let server = Server::start(blobs, &[("a", &image)], |request| {
            let host = request.headers.get("host").cloned().unwrap_or_default();
            if request.path.starts_with("/token") {
                let body = String::from_utf8_lossy(&request.body);
                let right = request.method == "POST"
                    && body.contains("grant_type=refresh_token&client_id=bayplan&refresh_token=long%2Fsecret")
                    && body.contains("scope=repository%3Alab%2Fapp%3Apull");
                let status = if right { 200 } else { 400 };
                return Some(Reply::new(status, "application/json", r#"{"access_token": "T"}"#));
            }
            if request.headers.get("authorization").is_some_and(|header| header == "Bearer T") {
                return None;
            }
            let value = format!(r#"Bearer realm="http://{host}/token",service="reg""#);
            Some(Reply::new(401, "application/json", "{}").header("WWW-Authenticate", value))
        })
        .await;
        let text = format!(r#"{{"auths": {{"{}": {{"identitytoken": "long/secret"}}}}}}"#, server.host);
        let secret = PullSecret { name: "secret shop/registry".into(), text };
        let with = PullOptions { pull_secrets: vec![secret], ..options() };
        let reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        node.images.pull(&reference, &with, silent()).await.unwrap();
        assert!(server.requests().iter().all(|request| !request.path.contains("secret")));
    });
}

#[test]
fn what_one_namespaces_secret_opens_stays_closed_to_another() {
    let registry = Registry::start(Some(("admin", "pass:word")));
    let dir = tempfile::tempdir().unwrap();
    let (blobs, image) = many_layers(1);
    blobs.layout(dir.path(), &[("x", &image)]);
    registry.push(dir.path(), "x", "lab/secret:1", &["--dest-creds", "admin:pass:word"]);
    let name = format!("{}/lab/secret:1", registry.host);
    // admin:pass:word, under a key more specific than one that is wrong.
    let text = format!(
        r#"{{"auths": {{"{0}": {{"auth": "d3Jvbmc6d3Jvbmc="}}, "{0}/lab": {{"auth": "YWRtaW46cGFzczp3b3Jk"}}}},
            "credHelpers": {{"{0}/lab/secret": "must-not-run"}}}}"#,
        registry.host
    );
    let secret = PullSecret { name: "secret shop/registry".into(), text };
    assert_eq!(format!("{secret:?}"), "PullSecret(secret shop/registry, …)");
    let with = PullOptions { pull_secrets: vec![secret], ..options() };
    let node = Node::plain();
    let resolve = |options: &PullOptions| {
        let reference = name.parse().unwrap();
        node.runtime.block_on(node.images.resolve(&reference, options)).map_err(|error| error.to_string())
    };
    assert_eq!(resolve(&with).unwrap().digest, image.digest);
    assert!(resolve(&options()).unwrap_err().contains("no credentials were sent"));
    let broken = PullSecret { name: "secret shop/broken".into(), text: "{\"auths\": [\"s3cret\"]}".into() };
    let error = resolve(&PullOptions { pull_secrets: vec![broken], ..options() }).unwrap_err();
    assert!(error.contains("secret shop/broken is not an auth.json") && !error.contains("s3cret"), "{error}");
}
