//! Tokens and credential helpers.

use super::fixture::{Blobs, LayerTar};
use super::registry::Node;
use super::server::{Reply, Server};
use crate::image::{PullOptions, silent};

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
