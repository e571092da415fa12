//! The router over a [`Service`], and the unix socket it answers on.
//!
//! `POST /v1/VERB` with a JSON body, or `GET /v1/VERB` where there is nothing to say; the answer is JSON.
//! What takes time answers with one JSON value a line (`application/x-ndjson`). A fault is
//! `{"class": …, "message": …}` with an HTTP status that fits, or the last line `{"error": …}` of a stream.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Query as UrlQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::StreamExt as _;
use hyper::body::Frame;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::listener::Listener;
use super::service::{Archive, Service, Stream};
use crate::error::{Class, Fault, Result};

/// The largest JSON body: room for a few hundred manifests of the largest size that are parsed at all.
const BODY_LIMIT: usize = 64 << 20;

/// How long answers that are under way may take once the daemon was asked to end.
const LAST_ANSWERS: Duration = Duration::from_millis(250);

/// What handlers share.
#[derive(Clone)]
struct Shared {
    service: Arc<dyn Service>,
    stop: CancellationToken,
}

/// Answers on `listener` until `stop`; then streams end with a fault, answers under way get a moment, and
/// the socket is removed. Containers do not notice.
pub async fn serve(listener: Listener, service: Arc<dyn Service>, stop: CancellationToken) -> std::io::Result<()> {
    let (socket, _remove_at_end) = listener.into_parts()?;
    let graceful = stop.clone();
    let serving = axum::serve(socket, router(service, stop.clone()))
        .with_graceful_shutdown(async move { graceful.cancelled().await })
        .into_future();
    tokio::select! {
        served = serving => served,
        () = async { stop.cancelled().await; tokio::time::sleep(LAST_ANSWERS).await } => Ok(()),
    }
}

/// Every call of [`Service`], by name.
pub fn router(service: Arc<dyn Service>, stop: CancellationToken) -> Router {
    Router::new()
        .route("/v1/apply", streaming(<dyn Service>::apply))
        .route("/v1/diff", unary(<dyn Service>::diff))
        .route("/v1/delete", streaming(<dyn Service>::delete))
        .route("/v1/list", unary(<dyn Service>::list))
        .route("/v1/status", bare(<dyn Service>::status))
        .route("/v1/wait", unary(<dyn Service>::wait))
        .route("/v1/events", streaming(<dyn Service>::events))
        .route("/v1/logs", streaming(<dyn Service>::logs))
        .route("/v1/sync", streaming(<dyn Service>::sync))
        .route("/v1/pull", streaming(<dyn Service>::pull))
        .route("/v1/progress", streaming(<dyn Service>::progress))
        .route("/v1/tag", unary(<dyn Service>::tag))
        .route("/v1/remove-image", unary(<dyn Service>::remove_image))
        .route("/v1/load", archive(<dyn Service>::load))
        .route("/v1/push", streaming(<dyn Service>::push))
        .route("/v1/save", downloading(<dyn Service>::save))
        .route("/v1/import-rootfs", archive(<dyn Service>::import_rootfs))
        .route("/v1/create", streaming(<dyn Service>::create))
        .route("/v1/start", unary(<dyn Service>::start))
        .route("/v1/stop", unary(<dyn Service>::stop))
        .route("/v1/restart", unary(<dyn Service>::restart))
        .route("/v1/kill", unary(<dyn Service>::kill))
        .route("/v1/exec", unary(<dyn Service>::exec))
        .route("/v1/wait-exec", unary(<dyn Service>::wait_exec))
        .route("/v1/resize", unary(<dyn Service>::resize))
        .route("/v1/attach", unary(<dyn Service>::attach))
        .route("/v1/close-input", unary(<dyn Service>::close_input))
        .route("/v1/pause", unary(<dyn Service>::pause))
        .route("/v1/resume", unary(<dyn Service>::resume))
        .route("/v1/remove-container", unary(<dyn Service>::remove_container))
        .route("/v1/wait-exit", unary(<dyn Service>::wait_exit))
        .route("/v1/copy-from", downloading(<dyn Service>::copy_from))
        .route("/v1/copy-into", archive(<dyn Service>::copy_into))
        .route("/v1/stats", unary(<dyn Service>::stats))
        .route("/v1/top", unary(<dyn Service>::top))
        .route("/v1/inspect", unary(<dyn Service>::inspect))
        .route("/v1/create-namespace", unary(<dyn Service>::create_namespace))
        .route("/v1/remove-namespace", unary(<dyn Service>::remove_namespace))
        .route("/v1/label", unary(<dyn Service>::label))
        .route("/v1/prune-images", unary(<dyn Service>::prune_images))
        .route("/v1/check-images", unary(<dyn Service>::check_images))
        .route("/v1/image-tree", unary(<dyn Service>::image_tree))
        .route("/v1/mount-image", unary(<dyn Service>::mount_image))
        .route("/v1/unmount-image", unary(<dyn Service>::unmount_image))
        .route("/v1/mounted-images", bare(<dyn Service>::mounted_images))
        .route("/v1/snapshots", bare(<dyn Service>::snapshots))
        .route("/v1/blobs", bare(<dyn Service>::blobs))
        .route("/v1/read-blob", downloading(<dyn Service>::read_blob))
        .route("/v1/remove-blob", unary(<dyn Service>::remove_blob))
        .route("/v1/info", bare(<dyn Service>::info))
        .route("/v1/version", bare(<dyn Service>::version))
        .fallback(|uri: axum::http::Uri| async move {
            fault_response(&Fault::new(Class::NotFound, format!("the API has no {}", uri.path())).help(
                "client and daemon are of different versions; restart the daemon, or compare with `bayplan version`",
            ))
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(Shared { service, stop })
}

/// A method of [`Service`] that takes a request.
type Method<Q, A> = for<'a> fn(&'a dyn Service, Q) -> BoxFuture<'a, Result<A>>;

/// A call with a JSON body and one answer.
fn unary<Q, A>(method: Method<Q, A>) -> MethodRouter<Shared>
where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
{
    answering(method, |answer, _| json(&answer))
}

/// A call without a body.
fn bare<A>(method: for<'a> fn(&'a dyn Service) -> BoxFuture<'a, Result<A>>) -> MethodRouter<Shared>
where
    A: Serialize + Send + 'static,
{
    get(
        move |State(shared): State<Shared>| async move { guarded(async { json(&method(&*shared.service).await?) }).await },
    )
}

/// A call with a JSON body and an answer that takes time.
fn streaming<Q, A>(method: Method<Q, Stream<A>>) -> MethodRouter<Shared>
where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
{
    answering(method, |stream, stop| Ok(lines(stream, stop)))
}

/// A call with a JSON body whose answer is bytes.
fn downloading<Q>(method: Method<Q, Stream<Bytes>>) -> MethodRouter<Shared>
where
    Q: DeserializeOwned + Send + 'static,
{
    answering(method, |stream, stop| Ok(frames(stream, stop)))
}

/// A call with a JSON body; `response` makes the answer's bytes.
fn answering<Q, A>(method: Method<Q, A>, response: fn(A, CancellationToken) -> Result<Response>) -> MethodRouter<Shared>
where
    Q: DeserializeOwned + Send + 'static,
    A: Send + 'static,
{
    post(move |State(shared): State<Shared>, body: Bytes| async move {
        guarded(async {
            let request = parse(&body)?;
            response(method(&*shared.service, request).await?, shared.stop)
        })
        .await
    })
}

/// What takes an archive: it is the body, or a path in the URL.
#[derive(Deserialize)]
struct ArchiveUrl {
    /// The request as JSON.
    request: String,
    /// Absolute path of an archive on the node.
    path: Option<std::path::PathBuf>,
}

/// A method of [`Service`] that takes a request and an archive.
type ArchiveMethod<Q, A> = for<'a> fn(&'a dyn Service, Q, Archive) -> BoxFuture<'a, Result<A>>;

/// A call with an archive and an answer that takes time.
fn archive<Q, A>(method: ArchiveMethod<Q, Stream<A>>) -> MethodRouter<Shared>
where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
{
    post(move |State(shared): State<Shared>, UrlQuery(url): UrlQuery<ArchiveUrl>, body: Body| async move {
        guarded(async {
            let request = parse(url.request.as_bytes())?;
            Ok(lines(method(&*shared.service, request, archive_of(url.path, body)).await?, shared.stop))
        })
        .await
    })
    .layer(DefaultBodyLimit::disable())
}

fn archive_of(path: Option<std::path::PathBuf>, body: Body) -> Archive {
    match path {
        Some(path) => Archive::Path(path),
        None => Archive::Bytes(
            body.into_data_stream()
                .map(|chunk| {
                    chunk.map_err(|error| Fault::new(Class::No, format!("the archive stopped arriving: {error}")))
                })
                .boxed(),
        ),
    }
}

/// Bytes as a body. A fault in their middle comes behind them, as the trailer [`FAULT_TRAILER`].
fn frames(stream: Stream<Bytes>, stop: CancellationToken) -> Response {
    let stopping = futures_util::stream::once(async move {
        stop.cancelled().await;
        Err(Fault::new(Class::No, "the daemon is ending").help("ask again once it answers"))
    });
    // Whichever comes first: the end of the bytes, or the end of the daemon.
    let ended = futures_util::stream::once(std::future::ready(None));
    let mut done = false;
    let frames = futures_util::stream::select(stream.map(Some).chain(ended), stopping.map(Some))
        .take_while(move |part| {
            let goes_on = part.is_some() && !done;
            done = matches!(part, Some(Err(_)));
            std::future::ready(goes_on)
        })
        .filter_map(|part| std::future::ready(part.map(frame)));
    let headers = [(header::CONTENT_TYPE, "application/octet-stream"), (header::TRAILER, FAULT_TRAILER)];
    (headers, Body::new(http_body_util::StreamBody::new(frames))).into_response()
}

fn frame(part: Result<Bytes>) -> std::result::Result<Frame<Bytes>, std::convert::Infallible> {
    Ok(match part {
        Ok(bytes) => Frame::data(bytes),
        Err(fault) => {
            let text = serde_json::to_vec(&fault).unwrap_or_default();
            let value = header::HeaderValue::from_str(&BASE64_STANDARD.encode(text));
            Frame::trailers(
                value.into_iter().map(|value| (header::HeaderName::from_static(FAULT_TRAILER), value)).collect(),
            )
        }
    })
}

/// The fault that ended a body of bytes, as base64 of JSON.
pub(super) const FAULT_TRAILER: &str = "bayplan-fault";

fn parse<Q: DeserializeOwned>(body: &[u8]) -> Result<Q> {
    serde_json::from_slice(body).map_err(|error| {
        Fault::new(Class::Usage, format!("the request is not what this version of the API takes: {error}"))
            .help("client and daemon may be of different versions; compare with `bayplan version`")
    })
}

fn json(value: &impl Serialize) -> Result<Response> {
    let body = serde_json::to_vec(value).map_err(|error| Fault::new(Class::Bug, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// One JSON value a line; a fault is the last line.
fn lines<A: Serialize + Send + 'static>(stream: Stream<A>, stop: CancellationToken) -> Response {
    let line = |result: Result<A>| {
        let mut bytes = match &result {
            Ok(value) => serde_json::to_vec(value),
            Err(fault) => serde_json::to_vec(&LastLine { error: fault.clone() }),
        }?;
        bytes.push(b'\n');
        Ok::<_, serde_json::Error>(Bytes::from(bytes))
    };
    // A stream that was cut short says so, else its reader would take it for complete.
    let stopping = futures_util::stream::once(async {
        Err(Fault::new(Class::No, "the daemon is ending").help("what it began is taken up again by its next start"))
    });
    let ended = CancellationToken::new();
    let whole = ended.clone();
    let body = stream
        .chain(futures_util::stream::poll_fn(move |_| {
            whole.cancel();
            std::task::Poll::Ready(None)
        }))
        .take_until(async move { stop.cancelled().await })
        .chain(stopping.filter(move |_| std::future::ready(!ended.is_cancelled())))
        .map(line);
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response()
}

/// The last line of a stream that failed.
#[derive(Serialize, Deserialize)]
pub(super) struct LastLine {
    /// Why.
    pub(super) error: Fault,
}

/// A panic in one call is that call's fault and nobody else's.
async fn guarded(call: impl Future<Output = Result<Response>>) -> Response {
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(fault)) => fault_response(&fault),
        Err(_) => fault_response(
            &Fault::new(Class::Bug, "the daemon met a bug while it answered").help("its log has the details"),
        ),
    }
}

fn fault_response(fault: &Fault) -> Response {
    let status = match fault.class {
        Class::No => StatusCode::REQUEST_TIMEOUT,
        Class::Usage => StatusCode::BAD_REQUEST,
        Class::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        Class::NotFound => StatusCode::NOT_FOUND,
        Class::Refused => StatusCode::CONFLICT,
        Class::Registry => StatusCode::BAD_GATEWAY,
        Class::Runtime | Class::Bug => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let body = serde_json::to_vec(fault).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
