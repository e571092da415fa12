//! The other end: a [`Service`] that asks a router, over a daemon's socket or in this process.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{self, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::listener::{connect, is_absent};
use super::server::{FAULT_TRAILER, LastLine, router};
use super::service::{Archive, Service, Stream};
use super::types::*;
use crate::error::{Class, Fault, Result};
use crate::manifest::ResourceKey;
use crate::plan::Plan;

/// What a daemon that lives answers within, when the call is no more than a look.
const SOON: Option<Duration> = Some(Duration::from_secs(30));
/// A plan may have to ask registries.
const ASKS_REGISTRIES: Option<Duration> = Some(Duration::from_secs(180));
/// Processes may be slow to freeze.
const FREEZES: Option<Duration> = Some(Duration::from_secs(60));
/// As long as the thing takes. The end of the daemon ends the wait: its socket closes.
const AS_LONG_AS_IT_TAKES: Option<Duration> = None;

/// Asks a node.
pub struct Client {
    way: Way,
    /// Whether a daemon that went away is waited for.
    lost: watch::Sender<bool>,
}

/// Why there is no answer.
enum Failure {
    /// The conversation broke: the daemon may have gone in the middle.
    Broken(Fault),
    /// It is the answer.
    Fault(Fault),
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Broken(fault) | Failure::Fault(fault) => fault,
        }
    }
}

enum Way {
    Socket {
        address: PathBuf,
        /// The connection that showed that a daemon answers; the first call uses it.
        first: Mutex<Option<std::os::unix::net::UnixStream>>,
    },
    InProcess(Router),
}

impl Client {
    /// A client of the daemon at `address`; `None` when none listens there. Needs no runtime yet.
    pub fn connect(address: &Path) -> Result<Option<Self>> {
        match connect(address) {
            Ok(stream) => Ok(Some(Self::by(Way::Socket { address: address.into(), first: Mutex::new(Some(stream)) }))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(unreachable_daemon(address, &error)),
        }
    }

    /// A client of a service in this process, through the very router that a daemon serves.
    pub fn in_process(service: Arc<dyn Service>) -> Self {
        Self::by(Way::InProcess(router(service, CancellationToken::new())))
    }

    fn by(way: Way) -> Self {
        Self { way, lost: watch::Sender::new(false) }
    }

    /// Whether a call that is asked again waits for a daemon that has gone.
    pub fn lost(&self) -> watch::Receiver<bool> {
        self.lost.subscribe()
    }

    /// Whether a daemon is at the other end.
    pub fn is_remote(&self) -> bool {
        matches!(self.way, Way::Socket { .. })
    }

    async fn exchange(&self, request: Request<Body>) -> std::result::Result<Response<Body>, Failure> {
        let (address, first) = match &self.way {
            Way::InProcess(router) => {
                return match router.clone().oneshot(request).await {
                    Ok(response) => Ok(response),
                    Err(never) => match never {},
                };
            }
            Way::Socket { address, first } => (address, first),
        };
        let waiting = first.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let stream = match waiting {
            Some(stream) => stream,
            None => connect(address).map_err(|error| Failure::Broken(unreachable_daemon(address, &error)))?,
        };
        let broken = |error: &dyn std::fmt::Display| {
            let message = format!("the daemon at {} ended the conversation: {error}", address.display());
            Failure::Broken(
                Fault::new(Class::Runtime, message)
                    .help("see whether it still runs; what it began is taken up again by its next start"),
            )
        };
        stream.set_nonblocking(true).map_err(|error| broken(&error))?;
        let stream = UnixStream::from_std(stream).map_err(|error| broken(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        Ok(response.map(Body::new))
    }

    /// One answer.
    async fn ask<A: DeserializeOwned>(&self, request: Request<Body>, within: Option<Duration>) -> Result<A> {
        let path = request.uri().path().to_owned();
        let answer = async { Ok(self.try_once(request).await?) };
        match within {
            None => answer.await,
            Some(within) => tokio::time::timeout(within, answer).await.unwrap_or_else(|_| {
                Err(Fault::new(Class::Runtime, format!("{path} was not answered within {} s", within.as_secs()))
                    .help("the daemon is busy or hangs; its log says more"))
            }),
        }
    }

    async fn try_once<A: DeserializeOwned>(&self, request: Request<Body>) -> std::result::Result<A, Failure> {
        let response = self.exchange(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| Failure::Broken(cut_short(&error)))?.to_bytes();
        if status.is_success() { read(&body) } else { Err(read_fault(&body, status)) }.map_err(Failure::Fault)
    }

    /// One answer to a question that may be asked twice: a daemon that goes away meanwhile is waited for, and its
    /// successor is asked again.
    async fn keep_asking<A: DeserializeOwned>(&self, path: &'static str, request: &impl Serialize) -> Result<A> {
        loop {
            match self.try_once(post(path, request)?).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Broken(_)) if self.is_remote() => self.daemon_is_back().await,
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// Until a daemon answers again, however long that takes. Who has better to do drops it.
    async fn daemon_is_back(&self) {
        let Way::Socket { address, .. } = &self.way else { return };
        self.lost.send_replace(true);
        let mut pause = Duration::from_millis(20);
        while connect(address).is_err() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
        self.lost.send_replace(false);
    }

    /// Bytes, and at their end a fault if there was one.
    async fn download(&self, mut request: Request<Body>) -> Result<Stream<Bytes>> {
        // RFC 9110, 10.1.4: without it no trailer comes.
        request.headers_mut().insert(header::TE, header::HeaderValue::from_static("trailers"));
        let body = self.successful(request).await?;
        Ok(stream::unfold(Some(body), |body| async move {
            let mut body = body?;
            match body.frame().await? {
                Err(error) => Some((Err(cut_short(&error)), None)),
                Ok(frame) => match frame.into_data() {
                    Ok(bytes) => Some((Ok(bytes), Some(body))),
                    Err(last) => Some((Err(trailing_fault(last.trailers_ref()?.get(FAULT_TRAILER)?)), None)),
                },
            }
        })
        .boxed())
    }

    /// The body of an answer that is no fault.
    async fn successful(&self, request: Request<Body>) -> Result<Body> {
        let response = self.exchange(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let body = response.into_body().collect().await.map_err(|error| cut_short(&error))?.to_bytes();
        Err(read_fault(&body, status))
    }

    /// Answers over time. Only the beginning is waited for.
    async fn follow<A: DeserializeOwned + Send + 'static>(&self, request: Request<Body>) -> Result<Stream<A>> {
        let body = self.successful(request).await?;
        let lines = Lines {
            body: futures_util::StreamExt::boxed(body.into_data_stream()),
            buffer: BytesMut::new(),
            searched: 0,
        };
        Ok(stream::unfold(Some(lines), |lines| async move {
            let mut lines = lines?;
            match lines.next().await {
                Ok(None) => None,
                Ok(Some(line)) => match read_line(&line) {
                    Ok(value) => Some((Ok(value), Some(lines))),
                    Err(fault) => Some((Err(fault), None)),
                },
                Err(fault) => Some((Err(fault), None)),
            }
        })
        .boxed())
    }
}

fn unreachable_daemon(address: &Path, error: &std::io::Error) -> Fault {
    let fault = Fault::new(Class::Refused, format!("the daemon at {} cannot be reached: {error}", address.display()));
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => fault.help("only root may speak to it; try again with sudo"),
        _ => fault.help("is it running? `bayplan daemon` starts it"),
    }
}

fn cut_short(error: &dyn std::fmt::Display) -> Fault {
    Fault::new(Class::Runtime, format!("the daemon's answer was cut short: {error}"))
        .help("see whether it still runs; what it began is taken up again by its next start")
}

fn read<A: DeserializeOwned>(body: &[u8]) -> Result<A> {
    serde_json::from_slice(body).map_err(|error| {
        Fault::new(Class::Runtime, format!("the daemon's answer is not understood: {error}"))
            .help("client and daemon are of different versions; restart the daemon, or compare with `bayplan version`")
    })
}

fn read_fault(body: &[u8], status: axum::http::StatusCode) -> Fault {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&body[..body.len().min(300)]).trim().to_owned();
        Fault::new(Class::Runtime, format!("the daemon answered {status}: {text}"))
    })
}

fn read_line<A: DeserializeOwned>(line: &[u8]) -> Result<A> {
    if line.starts_with(br#"{"error":"#)
        && let Ok(last) = serde_json::from_slice::<LastLine>(line)
    {
        return Err(last.error);
    }
    read(line)
}

/// Cuts a body into lines.
struct Lines {
    body: Pin<Box<dyn futures_util::Stream<Item = std::result::Result<Bytes, axum::Error>> + Send>>,
    buffer: BytesMut,
    /// Bytes of the buffer that hold no line feed.
    searched: usize,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + at).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            match self.body.next().await {
                Some(Ok(chunk)) => self.buffer.extend_from_slice(&chunk),
                Some(Err(error)) => return Err(cut_short(&error)),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(cut_short(&"it ends in the middle of a line")),
            }
        }
    }
}

fn post(path: &'static str, request: &impl Serialize) -> Result<Request<Body>> {
    let body = serde_json::to_vec(request).map_err(|error| Fault::new(Class::Bug, error.to_string()))?;
    build(Method::POST, path, Body::from(body))
}

fn build(method: Method, path: &str, body: Body) -> Result<Request<Body>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "bayplan")
        .header("content-type", "application/json")
        .body(body)
        .map_err(|error| Fault::new(Class::Bug, error.to_string()))
}

/// A query value: every byte but letters, digits and a few safe ones as `%XX` (RFC 3986, 2.1).
fn percent(text: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
            encoded.push(char::from(*byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The methods of [`Service`] that are one POST.
macro_rules! posts {
    ($($method:ident($request:ty) -> $answer:ty: $path:literal, $within:expr;)*) => {
        $(fn $method(&self, request: $request) -> BoxFuture<'_, Result<$answer>> {
            async move { self.ask(post($path, &request)?, $within).await }.boxed()
        })*
    };
}

/// The methods of [`Service`] that answer over time.
macro_rules! follows {
    ($($method:ident($request:ty) -> $answer:ty: $path:literal;)*) => {
        $(fn $method(&self, request: $request) -> BoxFuture<'_, Result<Stream<$answer>>> {
            async move { self.follow(post($path, &request)?).await }.boxed()
        })*
    };
}

/// The methods of [`Service`] that are one GET.
macro_rules! gets {
    ($($method:ident() -> $answer:ty: $path:literal;)*) => {
        $(fn $method(&self) -> BoxFuture<'_, Result<$answer>> {
            async move { self.ask(build(Method::GET, $path, Body::empty())?, SOON).await }.boxed()
        })*
    };
}

impl Service for Client {
    gets! {
        status() -> StatusReport: "/v1/status";
        info() -> Info: "/v1/info";
        version() -> Version: "/v1/version";
        mounted_images() -> Vec<MountedImage>: "/v1/mounted-images";
        blobs() -> Vec<BlobInfo>: "/v1/blobs";
    }

    posts! {
        diff(DiffRequest) -> Plan: "/v1/diff", ASKS_REGISTRIES;
        list(Query) -> Vec<Item>: "/v1/list", SOON;
        wait(WaitRequest) -> (): "/v1/wait", AS_LONG_AS_IT_TAKES;
        tag(TagRequest) -> Item: "/v1/tag", SOON;
        remove_image(RemoveImageRequest) -> RemovedImage: "/v1/remove-image", AS_LONG_AS_IT_TAKES;
        start(StartRequest) -> Created: "/v1/start", AS_LONG_AS_IT_TAKES;
        stop(StopRequest) -> (): "/v1/stop", AS_LONG_AS_IT_TAKES;
        restart(StopRequest) -> Created: "/v1/restart", AS_LONG_AS_IT_TAKES;
        kill(KillRequest) -> (): "/v1/kill", SOON;
        remove_container(RemoveContainerRequest) -> RemovedContainer: "/v1/remove-container", AS_LONG_AS_IT_TAKES;
        stats(StatsRequest) -> Vec<TaskStats>: "/v1/stats", SOON;
        top(TopRequest) -> Vec<ProcessInfo>: "/v1/top", SOON;
        resize(ResizeRequest) -> (): "/v1/resize", SOON;
        attach(AttachRequest) -> Attached: "/v1/attach", SOON;
        close_input(CloseInputRequest) -> (): "/v1/close-input", SOON;
        pause(TaskRequest) -> (): "/v1/pause", FREEZES;
        resume(TaskRequest) -> (): "/v1/resume", FREEZES;
        inspect(ResourceKey) -> Inspection: "/v1/inspect", SOON;
        create_namespace(NamespaceRequest) -> Item: "/v1/create-namespace", SOON;
        remove_namespace(NamespaceRequest) -> (): "/v1/remove-namespace", SOON;
        label(LabelRequest) -> Item: "/v1/label", SOON;
        prune_images(PruneRequest) -> PruneReport: "/v1/prune-images", AS_LONG_AS_IT_TAKES;
        check_images(CheckRequest) -> CheckReport: "/v1/check-images", AS_LONG_AS_IT_TAKES;
        image_tree(Query) -> TreeReport: "/v1/image-tree", AS_LONG_AS_IT_TAKES;
        mount_image(MountRequest) -> MountedImage: "/v1/mount-image", AS_LONG_AS_IT_TAKES;
        remove_blob(RemoveBlobRequest) -> RemovedBlob: "/v1/remove-blob", AS_LONG_AS_IT_TAKES;
        unmount_image(UnmountRequest) -> MountedImage: "/v1/unmount-image", SOON;
    }

    follows! {
        apply(ApplyRequest) -> ApplyEvent: "/v1/apply";
        delete(DeleteRequest) -> ApplyEvent: "/v1/delete";
        events(EventFilter) -> EventRecord: "/v1/events";
        logs(LogRequest) -> LogLine: "/v1/logs";
        sync(SyncRequest) -> ApplyEvent: "/v1/sync";
        create(CreateRequest) -> CreateEvent: "/v1/create";
        pull(PullRequest) -> PullEvent: "/v1/pull";
        push(PushRequest) -> PushEvent: "/v1/push";
        progress(ProgressRequest) -> Transfer: "/v1/progress";
    }

    fn wait_exit(&self, request: WaitExitRequest) -> BoxFuture<'_, Result<Ended>> {
        async move { self.keep_asking("/v1/wait-exit", &request).await }.boxed()
    }

    // A daemon that went may have started it: the next one is asked for that very process.
    fn exec(&self, mut request: ExecRequest) -> BoxFuture<'_, Result<Executed>> {
        async move {
            loop {
                match self.try_once(post("/v1/exec", &request)?).await {
                    Ok(executed) => return Ok(executed),
                    Err(Failure::Broken(_)) if self.is_remote() && request.exec_id.is_some() => {
                        self.daemon_is_back().await;
                        request.again = true;
                    }
                    Err(failure) => return Err(failure.into()),
                }
            }
        }
        .boxed()
    }

    fn wait_exec(&self, request: WaitExecRequest) -> BoxFuture<'_, Result<ExecEnded>> {
        async move { self.keep_asking("/v1/wait-exec", &request).await }.boxed()
    }

    // Snapshots that were never measured are walked, however large.
    fn snapshots(&self) -> BoxFuture<'_, Result<Vec<SnapshotInfo>>> {
        async move { self.ask(build(Method::GET, "/v1/snapshots", Body::empty())?, AS_LONG_AS_IT_TAKES).await }.boxed()
    }

    fn load(&self, request: LoadRequest, archive: Archive) -> BoxFuture<'_, Result<Stream<LoadEvent>>> {
        self.with_archive("/v1/load", request, archive).boxed()
    }

    fn import_rootfs(&self, request: RootfsRequest, archive: Archive) -> BoxFuture<'_, Result<Stream<LoadEvent>>> {
        self.with_archive("/v1/import-rootfs", request, archive).boxed()
    }

    fn copy_from(&self, request: CopyFromRequest) -> BoxFuture<'_, Result<Stream<Bytes>>> {
        async move { self.download(post("/v1/copy-from", &request)?).await }.boxed()
    }

    fn copy_into(&self, request: CopyIntoRequest, archive: Archive) -> BoxFuture<'_, Result<Stream<Copied>>> {
        self.with_archive("/v1/copy-into", request, archive).boxed()
    }

    fn save(&self, request: SaveRequest) -> BoxFuture<'_, Result<Stream<Bytes>>> {
        async move { self.download(post("/v1/save", &request)?).await }.boxed()
    }

    fn read_blob(&self, request: BlobRequest) -> BoxFuture<'_, Result<Stream<Bytes>>> {
        async move { self.download(post("/v1/read-blob", &request)?).await }.boxed()
    }
}

fn trailing_fault(value: &header::HeaderValue) -> Fault {
    let fault = BASE64_STANDARD.decode(value.as_bytes()).ok().and_then(|text| serde_json::from_slice(&text).ok());
    fault.unwrap_or_else(|| cut_short(&"for a reason that is not understood"))
}

impl Client {
    /// A call that takes an archive.
    async fn with_archive<A: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
        request: impl Serialize,
        archive: Archive,
    ) -> Result<Stream<A>> {
        let request = serde_json::to_vec(&request).map_err(|error| Fault::new(Class::Bug, error.to_string()))?;
        let mut path = format!("{path}?request={}", percent(&request));
        let body = match archive {
            Archive::Path(file) => {
                use std::os::unix::ffi::OsStrExt as _;
                path.push_str("&path=");
                path.push_str(&percent(file.as_os_str().as_bytes()));
                Body::empty()
            }
            Archive::Bytes(bytes) => Body::from_stream(bytes),
        };
        self.follow(build(Method::POST, &path, body)?).await
    }
}
