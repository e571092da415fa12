//! Both ways to a node answer alike, and nothing is lost on either.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio_util::sync::CancellationToken;

use super::fake::{self, Fake};
use super::*;
use crate::error::{Class, Fault};
use crate::manifest::{Kind, ResourceKey};

/// A daemon with this node, and its client.
struct Daemon {
    client: Client,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
    directory: tempfile::TempDir,
}

impl Daemon {
    fn start(node: Arc<dyn Service>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&directory.path().join("b.sock")).unwrap();
        let stop = CancellationToken::new();
        let address = listener.address().to_owned();
        let serving = tokio::spawn(serve(listener, node, stop.clone()));
        let client = Client::connect(&address).unwrap().unwrap();
        Self { client, stop, serving, directory }
    }

    async fn end(self) {
        self.stop.cancel();
        self.serving.await.unwrap().unwrap();
        assert_eq!(std::fs::read_dir(self.directory.path()).unwrap().count(), 0, "the socket is gone");
    }
}

fn shop() -> Arc<Fake> {
    Fake::with(|node| {
        node.items = vec![
            fake::namespace("shop"),
            fake::image("shop", "registry.local/web:1"),
            fake::tag("shop", "registry.local/web:stable", "registry.local/web:1"),
            fake::container("shop", "web"),
        ];
        let line = |stream, text: &[u8], partial| LogLine { time: fake::now(), stream, text: text.into(), partial };
        node.logs = vec![
            line(LogStream::Stdout, b"hello", false),
            line(LogStream::Stderr, &[0xff, 0x00, b'\n'], true),
            line(LogStream::Stdout, "{\"error\": …".as_bytes(), false),
        ];
    })
}

#[tokio::test]
async fn the_socket_and_the_process_answer_alike() {
    let node = shop();
    let daemon = Daemon::start(node.clone());
    let local = Client::in_process(node.clone());
    assert!(daemon.client.is_remote() && !local.is_remote());
    for client in [&daemon.client, &local] {
        assert_eq!(client.list(Query::default()).await.unwrap(), node.state().items);
        assert_eq!(client.info().await.unwrap(), node.info().await.unwrap());
        let request = LogRequest { namespace: "shop".into(), name: "web".into(), ..LogRequest::default() };
        let lines: Vec<LogLine> = client.logs(request).await.unwrap().try_collect().await.unwrap();
        assert_eq!(lines, node.state().logs);
        let fault = client.inspect(ResourceKey::new(Kind::Container, "shop", "nil")).await.unwrap_err();
        assert_eq!(fault, Fault::new(Class::NotFound, "container shop/nil is not found"));
        client
            .wait(WaitRequest {
                key: ResourceKey::new(Kind::Container, "shop", "web"),
                condition: WaitFor::Running,
                timeout_ms: None,
            })
            .await
            .unwrap();
    }
    daemon.end().await;
}

#[tokio::test]
async fn an_archive_travels_by_path_or_by_its_bytes() {
    let node = shop();
    let daemon = Daemon::start(node.clone());
    let request = LoadRequest { namespace: "shop".into(), ..LoadRequest::default() };
    let odd = "/tmp/a b&c=%ü.tar";
    drop(daemon.client.load(request.clone(), Archive::Path(odd.into())).await.unwrap());
    let chunk = bytes::Bytes::from(vec![7; 100_000]);
    let archive = Archive::Bytes(stream::repeat(Ok(chunk)).take(700).boxed());
    let events: Vec<_> = daemon.client.load(request, archive).await.unwrap().map(Result::unwrap).collect().await;
    let Some(LoadEvent::Loaded { images }) = events.last() else { panic!("{events:?}") };
    assert_eq!((events.len(), &images[0].digest), (6, &fake::digest('a')));
    assert_eq!(node.state().calls, [format!("load {odd} into shop"), "load 70000000 bytes into shop".into()]);
    daemon.end().await;
}

#[tokio::test]
async fn a_stream_that_the_end_of_the_daemon_cuts_says_so() {
    let node = shop();
    node.state().events = vec![EventRecord {
        time: fake::now(),
        key: ResourceKey::new(Kind::Container, "shop", "web"),
        kind: EventKind::Normal,
        reason: "Started".into(),
        message: "attempt 1".into(),
        count: 1,
    }];
    let daemon = Daemon::start(node);
    let mut events = daemon.client.events(EventFilter { follow: true, ..EventFilter::default() }).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().reason, "Started");
    let stop = daemon.stop.clone();
    stop.cancel();
    let fault = events.next().await.unwrap().unwrap_err();
    assert_eq!((fault.class, fault.message.as_str()), (Class::No, "the daemon is ending"));
    assert!(events.next().await.is_none());
    daemon.end().await;
}

#[tokio::test]
async fn nobody_at_the_socket_is_no_fault() {
    let directory = tempfile::tempdir().unwrap();
    assert!(Client::connect(&directory.path().join("b.sock")).unwrap().is_none());
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("b.sock")).unwrap());
    assert!(Client::connect(&directory.path().join("b.sock")).unwrap().is_none());
}

#[test]
fn types_survive_json() {
    fn trip<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
        assert_eq!(&serde_json::from_str::<T>(&serde_json::to_string(value).unwrap()).unwrap(), value);
    }
    let node = shop();
    trip(&List::of(node.state().items.clone()));
    for line in &node.state().logs {
        trip(line);
    }
    trip(&StatusReport {
        phases: [(Phase::Running, 3), (Phase::BackOff, 1)].into(),
        not_converged: vec![NotConverged {
            key: ResourceKey::new(Kind::Container, "shop", "web"),
            since: fake::now(),
            reason: "BackOff".into(),
            message: "exited with 1".into(),
            next_try: Some(fake::now()),
        }],
        ..StatusReport::default()
    });
    trip(&PullEvent::Blob {
        digest: fake::digest('b'),
        state: BlobState::Downloading,
        done: 1,
        total: 2,
        fetched: true,
    });
    trip(&ApplyEvent::Summary { changed: 1, unchanged: 2, failed: 3 });
}

#[tokio::test]
async fn a_fault_in_the_middle_of_an_archive_arrives_behind_it() {
    let node = shop();
    let daemon = Daemon::start(node.clone());
    let local = Client::in_process(node.clone());
    for client in [&daemon.client, &local] {
        let fault = Fault::new(Class::Runtime, "blob x is corrupt: \u{fc}").help("check it");
        for broke in [None, Some(fault)] {
            node.state().save_fault = broke.clone();
            let mut parts: Vec<_> = client.save(SaveRequest::default()).await.unwrap().collect().await;
            let last = broke.is_some().then(|| parts.pop().unwrap().unwrap_err());
            assert_eq!(last, broke);
            let bytes: Vec<u8> = parts.into_iter().flat_map(|part| part.unwrap().to_vec()).collect();
            assert_eq!(bytes, b"an archive");
        }
    }
    daemon.end().await;
}

#[test]
fn an_item_has_the_shape_that_scripts_read() {
    let item = serde_json::to_value(fake::container("shop", "web")).unwrap();
    assert_eq!(item["apiVersion"], "bayplan.dev/v1");
    assert_eq!(item["kind"], "Container");
    assert_eq!(item["metadata"]["source"], "dir:shop.yaml");
    assert_eq!(item["status"]["phase"], "Running");
    assert_eq!(item["status"]["shimPid"], 4700);
    assert!(item["status"].as_object().unwrap().contains_key("exitCode"), "what is not known is null, not absent");
    assert_eq!(item["status"]["conditions"][0]["type"], "Converged");
}
