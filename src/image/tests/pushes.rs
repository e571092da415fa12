//! Pushes: to a real registry, read back by skopeo, and to one that breaks off, moves uploads elsewhere and
//! asks for tokens.

use std::collections::{BTreeMap, HashMap};
use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;

use super::fixture::{Blobs, LayerTar, noise};
use super::registry::{Node, Registry};
use crate::error::Fault;
use crate::image::{
    Descriptor, ImageError, Part, PullOptions, PushOptions, PushProgress, PushState, Pushed, RegistryConfig, Sent,
    Timeouts,
};
use crate::oci::{Digest, Reference};

fn put(node: &Node, blobs: &Blobs) {
    for bytes in blobs.0.values() {
        node.images.store().put(bytes).unwrap();
    }
}

fn options(part: Part) -> PushOptions {
    PushOptions { registry: PullOptions::default(), part, known: Vec::new() }
}

/// How blobs and documents came to be there.
type Ways = Arc<Mutex<BTreeMap<Digest, Sent>>>;

fn heard() -> (Ways, PushProgress) {
    let ways = Ways::default();
    let told = Arc::clone(&ways);
    let progress: PushProgress = Arc::new(move |what, state| {
        if let PushState::There(sent) = state {
            told.lock().unwrap().insert(what.digest.clone(), sent);
        }
    });
    (ways, progress)
}

impl Node {
    fn push(&self, image: &Descriptor, to: &str, options: &PushOptions) -> Result<(Pushed, Ways), ImageError> {
        let to: Reference = to.parse().unwrap();
        let (ways, progress) = heard();
        let pushed = self.runtime.block_on(self.images.push("a.local/app:1", image, &to, options, progress))?;
        Ok((pushed, ways))
    }
}

/// The digest of what skopeo finds under a name.
fn skopeo(name: &str) -> Digest {
    let out =
        Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]).output();
    let out = out.unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Digest::of(&out.stdout)
}

fn two_layers(mark: &[u8]) -> Vec<Vec<u8>> {
    vec![
        LayerTar::new().file("mark", mark).done(),
        // Larger than what goes by one request.
        LayerTar::new().file("big", &noise(6_000_000, 7)).done(),
    ]
}

#[test]
fn an_index_goes_whole_and_as_it_is_and_a_second_push_sends_nothing() {
    let registry = Registry::start(None);
    let node = Node::plain();
    let mut blobs = Blobs::default();
    let (amd64, arm64) = (blobs.image("amd64", &two_layers(b"amd64")), blobs.image("arm64", &two_layers(b"arm64")));
    let index = blobs.index(&[(&arm64, Some("arm64")), (&amd64, Some("amd64"))]);
    put(&node, &blobs);
    let name = format!("{}/lab/app:1", registry.host);
    let (pushed, ways) = node.push(&index, &name, &options(Part::Here)).unwrap();
    assert_eq!((&pushed.root, pushed.unchanged), (&index, false));
    assert!(ways.lock().unwrap().values().all(|way| *way == Sent::Uploaded), "{ways:?}");
    assert_eq!(ways.lock().unwrap().len(), blobs.0.len());
    assert_eq!(skopeo(&name), index.digest);

    let (again, ways) = node.push(&index, &name, &options(Part::All)).unwrap();
    assert_eq!((again.sent, again.unchanged), (0, true));
    assert!(ways.lock().unwrap().is_empty());
    // Another tag: documents go, blobs are there.
    let (other, ways) = node.push(&index, &format!("{}/lab/app:2", registry.host), &options(Part::All)).unwrap();
    assert_eq!((other.sent, other.unchanged), (0, false));
    assert_eq!(ways.lock().unwrap().values().filter(|way| **way == Sent::Existed).count(), blobs.0.len() - 3);
    // One platform by itself.
    let part = Part::Platform("linux/arm64".parse().unwrap());
    let (one, _) = node.push(&index, &format!("{}/lab/app:arm", registry.host), &options(part)).unwrap();
    assert_eq!(one.root.digest, arm64.digest);
    assert_eq!(skopeo(&format!("{}/lab/app:arm", registry.host)), arm64.digest);
    // What skopeo pulls from there is what we have.
    let pulled = Node::plain();
    let image = pulled.pull(&name, &PullOptions { platform: "linux/amd64".parse().unwrap(), ..Default::default() });
    assert_eq!(image.unwrap().manifest.digest, amd64.digest);
}

#[test]
fn blobs_that_another_repository_of_the_registry_has_are_mounted() {
    let registry = Registry::start(None);
    let node = Node::plain();
    let mut blobs = Blobs::default();
    let base = blobs.image("amd64", &two_layers(b"base"));
    let mut layers = two_layers(b"base");
    layers.push(LayerTar::new().file("own", b"1").done());
    let app = blobs.image("amd64", &layers);
    put(&node, &blobs);
    let from = format!("{}/lab/base:1", registry.host);
    node.push(&base, &from, &options(Part::Here)).unwrap();
    let known = vec![(from.parse().unwrap(), base.clone())];
    let (pushed, ways) = node
        .push(&app, &format!("{}/team/app:1", registry.host), &PushOptions { known, ..options(Part::Here) })
        .unwrap();
    let ways = ways.lock().unwrap();
    let mounted = ways.values().filter(|way| **way == Sent::Mounted("lab/base".into())).count();
    assert_eq!(mounted, 2, "{ways:?}");
    assert!(pushed.sent < 100_000, "{pushed:?}");
    assert_eq!(skopeo(&format!("{}/team/app:1", registry.host)), app.digest);
}

#[test]
fn of_an_index_that_is_not_all_here_the_nodes_image_goes_alone_and_all_of_it_is_refused() {
    let registry = Registry::start(None);
    let node = Node::plain();
    let mut blobs = Blobs::default();
    let own = crate::oci::Platform::host().architecture;
    let image = blobs.image(&own, &two_layers(b"own"));
    let mut elsewhere = blobs.clone();
    let (s390x, riscv) =
        (elsewhere.image("s390x", &two_layers(b"s390x")), elsewhere.image("riscv64", &two_layers(b"riscv64")));
    let entries = [(&s390x, Some("s390x")), (&image, Some(own.as_str())), (&riscv, Some("riscv64"))];
    let index = elsewhere.index(&entries);
    blobs.0.insert(index.digest.clone(), elsewhere.0[&index.digest].clone());
    put(&node, &blobs);
    let name = format!("{}/lab/part:1", registry.host);
    let (pushed, _) = node.push(&index, &name, &options(Part::Here)).unwrap();
    assert_eq!(pushed.root.digest, image.digest);
    assert_eq!(skopeo(&name), image.digest);
    let text = |error: ImageError| {
        let fault = Fault::from(error);
        format!("{}\n{}", fault.message, fault.help.unwrap_or_default()).replace(&own, "ARCH")
    };
    insta::assert_snapshot!(text(node.push(&index, &name, &options(Part::All)).unwrap_err()), @r"
    image a.local/app:1 is here for linux/ARCH only, and its index names others
    choose one with --platform, or bring the others: bayplan pull --all-platforms a.local/app:1
    ");
    let part = Part::Platform("linux/s390x".parse().unwrap());
    insta::assert_snapshot!(text(node.push(&index, &name, &options(part)).unwrap_err()), @r"
    image a.local/app:1 is here for linux/ARCH, and not for linux/s390x
    bring it: bayplan pull --platform linux/s390x a.local/app:1; or choose one that is here
    ");
    // A name that is pinned to something else is not pushed to.
    let pinned = format!("{}/lab/part:1@{}", registry.host, Digest::of(b"else"));
    assert!(matches!(node.push(&image, &pinned, &options(Part::Here)), Err(ImageError::Digest { .. })));
}

#[test]
fn a_registry_with_a_password_takes_what_it_may_and_says_what_it_may_not() {
    let registry = Registry::start(Some(("admin", "pass:word")));
    let node = Node::plain();
    let mut blobs = Blobs::default();
    let image = blobs.image("amd64", &two_layers(b"x"));
    put(&node, &blobs);
    let name = format!("{}/lab/secret:1", registry.host);
    let fault = Fault::from(node.push(&image, &name, &options(Part::Here)).unwrap_err());
    assert!(fault.message.contains("401") && fault.help.unwrap().contains("login"), "{}", fault.message);
    let mut given = options(Part::Here);
    given.registry.credentials = Some(("admin".into(), "pass:word".into()));
    assert_eq!(node.push(&image, &name, &given).unwrap().0.root, image);
}

/// A registry that takes what is pushed, and is difficult.
#[derive(Default)]
struct Held {
    blobs: HashMap<String, Vec<u8>>,
    uploads: HashMap<String, Vec<u8>>,
    manifests: BTreeMap<String, Vec<u8>>,
    log: Vec<String>,
    scopes: Vec<String>,
    /// Breaks the connection once an upload has so many bytes.
    cut: Option<usize>,
    forgets: bool,
    no_chunks: bool,
    token: bool,
    /// Where uploads go on instead.
    elsewhere: Option<String>,
}

struct Difficult {
    host: String,
    held: Arc<Mutex<Held>>,
}

impl Difficult {
    async fn start(set: impl FnOnce(&mut Held)) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let held = Arc::new(Mutex::new(Held::default()));
        set(&mut held.lock().unwrap());
        let (shared, own) = (Arc::clone(&held), host.clone());
        let app =
            axum::Router::new().fallback(move |request: Request| answer(Arc::clone(&shared), own.clone(), request));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { host, held }
    }

    fn log(&self) -> Vec<String> {
        self.held.lock().unwrap().log.clone()
    }
}

async fn answer(held: Arc<Mutex<Held>>, host: String, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let get = |name: header::HeaderName| parts.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    let last = path.rsplit('/').next().unwrap().to_owned();
    if path == "/token" {
        held.lock().unwrap().scopes.push(query);
        return r#"{"token": "T", "expires_in": 300}"#.into_response();
    }
    let range = get(header::CONTENT_RANGE).unwrap_or_default();
    let authorization = get(header::AUTHORIZATION);
    {
        let mut held = held.lock().unwrap();
        if held.token && authorization.as_deref() != Some("Bearer T") {
            let challenge =
                format!(r#"Bearer realm="http://{host}/token",service="s",scope="repository:lab/app:pull""#);
            return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response();
        }
        if path.contains("/uploads/") {
            let shown = authorization.map_or("", |_| " authorized");
            let query = if parts.method == Method::POST && !query.is_empty() { "mount" } else { "" };
            held.log.push(format!("{} {range}{query}{shown}", parts.method).trim().to_owned());
        }
    }
    let location = |held: &Held| match &held.elsewhere {
        Some(other) => format!("http://{other}/v2/lab/app/blobs/uploads/{last}?s=1"),
        None => format!("/v2/lab/app/blobs/uploads/{last}?s=1"),
    };
    match parts.method {
        Method::HEAD => {
            let there = held.lock().unwrap().blobs.contains_key(&last);
            if there { StatusCode::OK } else { StatusCode::NOT_FOUND }.into_response()
        }
        Method::POST => {
            let mut held = held.lock().unwrap();
            let id = format!("u{}", held.uploads.len());
            held.uploads.insert(id.clone(), Vec::new());
            let at = location(&held).replace("uploads/?", &format!("uploads/{id}?"));
            (StatusCode::ACCEPTED, [(header::LOCATION, at)]).into_response()
        }
        Method::GET => {
            let held = held.lock().unwrap();
            match held.uploads.get(&last).filter(|_| !held.forgets) {
                Some(bytes) => {
                    let headers = [
                        (header::RANGE, format!("0-{}", bytes.len().saturating_sub(1))),
                        (header::LOCATION, location(&held)),
                    ];
                    (StatusCode::NO_CONTENT, headers).into_response()
                }
                None => StatusCode::NOT_FOUND.into_response(),
            }
        }
        Method::PATCH if held.lock().unwrap().no_chunks => {
            // Read to its end as proxies do, for an answer is easily lost with a connection that breaks.
            axum::body::to_bytes(body, usize::MAX).await.unwrap();
            StatusCode::PAYLOAD_TOO_LARGE.into_response()
        }
        Method::PATCH | Method::PUT if path.contains("/uploads/") => {
            if let Some(first) = range.split('-').next().and_then(|first| first.parse::<usize>().ok())
                && held.lock().unwrap().uploads.get(&last).map_or(0, Vec::len) != first
            {
                return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
            }
            take(&held, &last, body).await;
            let mut held = held.lock().unwrap();
            let bytes = held.uploads.get(&last).cloned().unwrap_or_default();
            if parts.method == Method::PATCH {
                let headers = [(header::RANGE, format!("0-{}", bytes.len() - 1)), (header::LOCATION, location(&held))];
                return (StatusCode::ACCEPTED, headers).into_response();
            }
            let digest = Digest::of(&bytes).to_string();
            if !query.ends_with(&format!("digest={}", digest.replace(':', "%3A"))) {
                return StatusCode::BAD_REQUEST.into_response();
            }
            held.blobs.insert(digest, bytes);
            StatusCode::CREATED.into_response()
        }
        Method::PUT => {
            let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec();
            held.lock().unwrap().manifests.insert(last, bytes);
            StatusCode::CREATED.into_response()
        }
        _ => StatusCode::NO_CONTENT.into_response(),
    }
}

/// Takes what comes of an upload, until the connection is to break.
async fn take(held: &Mutex<Held>, id: &str, body: Body) {
    let mut chunks = body.into_data_stream();
    while let Some(Ok(chunk)) = chunks.next().await {
        let mut held = held.lock().unwrap();
        let cut = held.cut;
        let bytes = held.uploads.entry(id.to_owned()).or_default();
        bytes.extend_from_slice(&chunk);
        if cut.is_some_and(|cut| bytes.len() >= cut) {
            held.cut = None;
            drop(held);
            // The connection's own task ends with it, and so does the connection.
            std::panic::resume_unwind(Box::new("cut"));
        }
    }
}

/// Pushes an image with one large layer to a difficult registry.
fn difficult(set: impl FnOnce(&mut Held)) -> (Node, Difficult, Blobs, Descriptor, Pushed) {
    let timeouts = Timeouts { headers: std::time::Duration::from_secs(5), ..Timeouts::default() };
    let node =
        Node::new(RegistryConfig { auth_files: Vec::new(), concurrency: 1, timeouts, ..RegistryConfig::default() });
    let mut blobs = Blobs::default();
    let image = blobs.image("amd64", &two_layers(b"x")[1..]);
    put(&node, &blobs);
    let server = node.runtime.block_on(Difficult::start(set));
    let other: Reference = format!("{}/lab/base:1", server.host).parse().unwrap();
    let known = vec![(other, image.clone())];
    let (pushed, _) = node
        .push(&image, &format!("{}/lab/app:1", server.host), &PushOptions { known, ..options(Part::Here) })
        .unwrap();
    (node, server, blobs, image, pushed)
}

fn arrived(server: &Difficult, blobs: &Blobs, image: &Descriptor) {
    let held = server.held.lock().unwrap();
    for (digest, bytes) in &blobs.0 {
        match digest == &image.digest {
            true => assert_eq!(held.manifests.get("1"), Some(bytes), "a manifest goes as its bytes are"),
            false => assert_eq!(held.blobs.get(digest.as_str()), Some(bytes)),
        }
    }
}

#[test]
fn an_upload_that_breaks_goes_on_where_it_broke() {
    let (_node, server, blobs, image, pushed) = difficult(|held| held.cut = Some(3_000_000));
    arrived(&server, &blobs, &image);
    let size = blobs.0.values().map(Vec::len).max().unwrap();
    let log = server.log();
    let patches: Vec<_> = log.iter().filter_map(|line| line.strip_prefix("PATCH ")).collect();
    let [whole, rest] = patches[..] else { panic!("{log:?}") };
    assert_eq!(whole, format!("0-{}", size - 1));
    let (from, to) = rest.split_once('-').unwrap();
    assert!(from.parse::<usize>().unwrap() >= 3_000_000 && to.parse::<usize>().unwrap() == size - 1, "{log:?}");
    assert!(log.contains(&"GET".to_owned()));
    assert!(pushed.sent as usize >= size);
}

#[test]
fn an_upload_that_the_registry_forgot_begins_anew_and_one_it_takes_no_chunks_of_goes_whole() {
    let (_node, server, blobs, image, _) = difficult(|held| (held.cut, held.forgets) = (Some(3_000_000), true));
    arrived(&server, &blobs, &image);
    assert_eq!(server.log().iter().filter(|line| line.starts_with("PATCH 0-")).count(), 2);

    let (_node, server, blobs, image, _) = difficult(|held| held.no_chunks = true);
    arrived(&server, &blobs, &image);
}

#[test]
fn one_token_serves_the_whole_push_with_the_right_to_mount() {
    let (_node, server, blobs, image, _) = difficult(|held| held.token = true);
    arrived(&server, &blobs, &image);
    let scopes = server.held.lock().unwrap().scopes.clone();
    insta::assert_snapshot!(scopes.join("\n"), @"service=s&scope=repository%3Alab%2Fapp%3Apull%2Cpush&scope=repository%3Alab%2Fbase%3Apull");
    let log = server.log();
    assert!(log.iter().any(|line| line == "POST mount authorized"), "{log:?}");
    assert!(log.iter().all(|line| line.ends_with(" authorized")), "{log:?}");
}

#[test]
fn credentials_do_not_follow_an_upload_to_another_host() {
    let node = Node::plain();
    let storage = node.runtime.block_on(Difficult::start(|_| {}));
    let other = storage.host.clone();
    let (_node, server, blobs, image, _) = difficult(|held| (held.token, held.elsewhere) = (true, Some(other)));
    let taken = storage.held.lock().unwrap();
    let large = blobs.0.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    assert_eq!(taken.blobs.get(large.0.as_str()), Some(large.1));
    assert!(taken.log.iter().any(|line| line.starts_with("PATCH")), "{:?}", taken.log);
    assert!(taken.log.iter().all(|line| !line.contains("authorized")), "{:?}", taken.log);
    assert_eq!(server.held.lock().unwrap().manifests.get("1"), blobs.0.get(&image.digest));
}

#[test]
fn a_mirror_that_may_not_be_written_to_is_not_even_asked() {
    let (registry, certs) = (Registry::start(None), tempfile::tempdir().unwrap());
    let node = Node::new(RegistryConfig {
        auth_files: Vec::new(),
        certs_dir: certs.path().into(),
        ..RegistryConfig::default()
    });
    // Whoever asks it has to get a token first.
    let mirror = node.runtime.block_on(Difficult::start(|held| held.token = true));
    let dir = certs.path().join(&registry.host);
    std::fs::create_dir(&dir).unwrap();
    let hosts = format!(
        "server = 'http://{}'\n[host.'http://{}']\ncapabilities = ['pull', 'resolve']\n",
        registry.host, mirror.host
    );
    std::fs::write(dir.join("hosts.toml"), hosts).unwrap();
    let mut blobs = Blobs::default();
    let image = blobs.image("amd64", &two_layers(b"x"));
    put(&node, &blobs);
    let name = format!("{}/lab/app:1", registry.host);
    node.push(&image, &name, &options(Part::Here)).unwrap();
    assert_eq!(skopeo(&name), image.digest);
    assert!(mirror.held.lock().unwrap().scopes.is_empty());
}
