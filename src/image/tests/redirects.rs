//! Where registries must not be able to lead us, and what they must not get out of us: redirects, challenges,
//! token endpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::certificates::Authority;
use super::fixture::Blobs;
use super::hostile::{node, options, pull, pull_by, seen, small};
use super::registry::Node;
use super::server::{Reply, Request, Server};
use crate::image::{PullOptions, RegistryConfig, silent};

#[test]
fn a_redirect_loop_ends() {
    let (_, text) = pull(small, |r| Some(Reply::new(307, "text/plain", "").header("Location", r.path.clone())));
    insta::assert_snapshot!(text);
}

#[test]
fn a_redirect_out_of_http_is_refused() {
    let (_, text) = pull(small, |_| Some(Reply::new(302, "text/plain", "").header("Location", "file:///etc/passwd")));
    insta::assert_snapshot!(text);
}

/// A server over TLS that this node trusts, with this quirk.
fn pull_by_tls(options: &PullOptions, quirk: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> String {
    let authority = Authority::new();
    let certs = tempfile::tempdir().unwrap();
    let node = Node::new(RegistryConfig { certs_dir: certs.path().into(), ..RegistryConfig::for_tests() });
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = small(&mut blobs);
        let tls = authority.sign("server", Some("IP:127.0.0.1"));
        let server = Server::start_tls(blobs, &[("a", &image)], tls, quirk).await;
        let dir = certs.path().join(&server.host);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("hosts.toml"), format!("ca = \"{}\"\n", authority.ca().display())).unwrap();
        let reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        let error = node.images.pull(&reference, options, silent()).await.unwrap_err();
        seen(error, &server.host)
    })
}

#[test]
fn a_redirect_from_tls_to_plain_http_is_refused() {
    let text = pull_by_tls(&options(), |r| {
        let to = format!("http://elsewhere.example{}", r.path);
        r.path.contains("/blobs/").then(|| Reply::new(307, "text/plain", "").header("Location", to))
    });
    insta::assert_snapshot!(text);
}

#[test]
fn a_token_endpoint_without_tls_gets_no_credentials_of_a_registry_with_it() {
    let options = PullOptions { credentials: Some(("u".into(), "p".into())), ..options() };
    let text = pull_by_tls(&options, |_| {
        let value = "Bearer realm=\"http://127.0.0.1:1/token\",service=\"s\"";
        Some(Reply::new(401, "text/plain", "").header("WWW-Authenticate", value))
    });
    insta::assert_snapshot!(text);
}

#[test]
fn a_challenge_by_a_redirects_target_is_not_answered() {
    let node = node();
    node.runtime.block_on(async {
        let mut blobs = Blobs::default();
        let image = small(&mut blobs);
        let thief = Server::start(Blobs::default(), &[], |r| {
            let host = r.headers.get("host").cloned().unwrap_or_default();
            Some(match r.path.starts_with("/token") {
                true => Reply::new(200, "application/json", r#"{"token": "T"}"#),
                false => unauthorized(&format!("Bearer realm=\"http://{host}/token\",service=\"s\"")),
            })
        })
        .await;
        let target = thief.host.clone();
        let server = Server::start(blobs, &[("a", &image)], move |r| {
            let to = format!("http://{target}{}", r.path);
            r.path.contains("/blobs/").then(|| Reply::new(307, "text/plain", "").header("Location", to))
        })
        .await;
        let options = PullOptions { credentials: Some(("u".into(), "p".into())), ..options() };
        let reference = format!("{}/lab/app:a", server.host).parse().unwrap();
        let error = node.images.pull(&reference, &options, silent()).await.unwrap_err();
        insta::assert_snapshot!(seen(error, &server.host));
        assert!(thief.requests().iter().all(|r| !r.path.starts_with("/token")));
        assert!(thief.requests().iter().all(|r| !r.headers.contains_key("authorization")));
    });
}

#[test]
fn redirects_take_no_credentials_along() {
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

fn unauthorized(challenge: &str) -> Reply {
    let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"no way"}]}"#;
    Reply::new(401, "application/json", body).header("WWW-Authenticate", challenge)
}

#[test]
fn a_registry_that_always_says_401_is_not_asked_for_ever() {
    let (_, text) = pull(small, |_| Some(unauthorized("Basic realm=x")));
    insta::assert_snapshot!("anonymous", text);
    let options = PullOptions { credentials: Some(("u".into(), "p".into())), ..options() };
    let (_, text) = pull_by(&node(), &options, small, |_| Some(unauthorized("Basic realm=x")));
    insta::assert_snapshot!("with_credentials", text);
}

#[test]
fn tokens_that_are_never_good_enough_end() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let (_, text) = pull(small, move |r| {
        let host = r.headers.get("host").cloned().unwrap_or_default();
        if r.path.starts_with("/token") {
            counted.fetch_add(1, Ordering::Relaxed);
            return Some(Reply::new(200, "application/json", r#"{"token": "T"}"#));
        }
        Some(unauthorized(&format!("Bearer realm=\"http://{host}/token\",service=\"s\"")))
    });
    insta::assert_snapshot!(text);
    // Once for HEAD, once for the GET that has the registry's words.
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[test]
fn a_token_endpoint_that_is_down_is_named() {
    let (_, text) = pull(small, |_| Some(unauthorized("Bearer realm=\"http://127.0.0.1:1/token\",service=\"s\"")));
    insta::assert_snapshot!(text);
}

#[test]
fn a_token_endpoint_that_talks_rubbish_is_named() {
    let (_, text) = pull(small, |r| {
        let host = r.headers.get("host").cloned().unwrap_or_default();
        Some(match r.path.starts_with("/token") {
            true => Reply::new(200, "text/html", "<html>"),
            false => unauthorized(&format!("Bearer realm=\"http://{host}/token\",service=\"s\"")),
        })
    });
    insta::assert_snapshot!(text);
}
