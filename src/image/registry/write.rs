//! The write side of the distribution protocol, request by request.
//!
//! Everything goes through the one authenticated path of [`Session`]; what is added here is bodies that
//! can be sent again, the addresses at which uploads go on, and their token scopes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use super::authorize::Ask;
use super::session::Session;
use super::transport::shown_host;
use super::upload::Told;
use super::{Timeouts, transport};
use crate::image::descriptor::{ACCEPT_MANIFESTS, Descriptor};
use crate::image::error::RegistryFailure;
use crate::oci::Digest;

/// Bytes read from the disk at once.
const PIECE: u64 = 256 << 10;
/// A registry may check or move a whole blob before it answers the end of an upload: so many times the
/// usual deadline.
const FINISHING: u32 = 10;

/// What a request that writes has beside its method and path.
#[derive(Clone)]
pub struct Write {
    /// Where it goes instead of a path beneath the repository.
    pub(super) location: Option<Url>,
    content_type: Option<String>,
    /// First byte and last, inclusive.
    range: Option<(u64, u64)>,
    body: Body,
    /// Its answer may take long.
    finishing: bool,
    changes: bool,
}

/// What is sent. The same bytes each time it is asked for: authentication may need a second try.
#[derive(Clone)]
pub(super) enum Body {
    Empty,
    Bytes(Bytes),
    Part(Part),
}

/// A part of a file, and who hears how much of the file is on its way.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) file: Arc<File>,
    pub(super) from: u64,
    pub(super) length: u64,
    pub(super) told: Told,
    /// Bytes handed to the connection, for the watch over a connection that stands still.
    moved: Arc<AtomicU64>,
}

impl Part {
    pub(super) fn new(file: Arc<File>, from: u64, length: u64, told: Told) -> Self {
        Self { file, from, length, told, moved: Arc::default() }
    }

    fn stream(&self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let part = self.clone();
        stream::unfold(0, move |done| {
            let part = part.clone();
            async move {
                let length = PIECE.min(part.length - done);
                if length == 0 {
                    return None;
                }
                let (file, at) = (Arc::clone(&part.file), part.from + done);
                let read = tokio::task::spawn_blocking(move || {
                    let mut bytes = vec![0; length as usize];
                    file.read_exact_at(&mut bytes, at).map(|()| Bytes::from(bytes))
                });
                let read = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
                part.moved.fetch_add(length, Ordering::Relaxed);
                (part.told)(at + length);
                Some((read, done + length))
            }
        })
    }
}

impl Write {
    /// A request without a body.
    fn empty(location: Option<&Url>) -> Self {
        Self {
            location: location.cloned(),
            content_type: None,
            range: None,
            body: Body::Empty,
            finishing: false,
            changes: true,
        }
    }

    /// A request that changes nothing.
    fn question(location: Option<&Url>) -> Self {
        Self { changes: false, ..Self::empty(location) }
    }

    /// Whether it is more than a question.
    pub(super) fn changes(&self) -> bool {
        self.changes
    }

    /// Sends it with its body. As long as bytes move it may take as long as it takes.
    pub(super) async fn execute(
        &self,
        mut request: RequestBuilder,
        timeouts: Timeouts,
    ) -> Result<Response, RegistryFailure> {
        if let Some(media_type) = &self.content_type {
            request = request.header(CONTENT_TYPE, media_type);
        }
        if let Some((first, last)) = self.range {
            // distribution-spec "Pushing a blob in chunks": without the unit that RFC 9110 has.
            request = request.header(CONTENT_RANGE, format!("{first}-{last}"));
        }
        let moved = match &self.body {
            Body::Empty if self.changes => {
                request = request.header(CONTENT_LENGTH, 0);
                None
            }
            Body::Empty => None,
            Body::Bytes(bytes) => {
                request = request.body(bytes.clone());
                None
            }
            Body::Part(part) => {
                // Said beforehand, the length makes it no chunked transfer, which some storages refuse.
                request = request.header(CONTENT_LENGTH, part.length).body(reqwest::Body::wrap_stream(part.stream()));
                Some(Arc::clone(&part.moved))
            }
        };
        let mut answer = std::pin::pin!(request.send());
        let (mut seen, mut still) = (0, 0);
        loop {
            if let Ok(answered) = tokio::time::timeout(timeouts.headers, &mut answer).await {
                return answered.map_err(|error| transport::classify(&error));
            }
            let now = moved.as_ref().map_or(0, |moved| moved.load(Ordering::Relaxed));
            still = if now > seen { 0 } else { still + 1 };
            seen = now;
            if still >= if self.finishing { FINISHING } else { 1 } {
                return Err(RegistryFailure::Stalled(timeouts.headers * still));
            }
        }
    }
}

/// How an upload began.
pub(super) enum Begun {
    /// The registry took the blob from another repository: there is nothing to send.
    Mounted,
    /// Bytes are awaited.
    Upload(Upload),
}

/// An upload under way.
pub(super) struct Upload {
    /// Where it goes on; each answer may name another place.
    location: Url,
    /// Bytes that the registry has.
    pub(super) at: u64,
    /// The least that a chunk may hold, but for the last.
    pub(super) least: u64,
}

impl Session {
    /// The same conversation with the right to write, and to mount from these repositories.
    pub fn writing(&self, mount_from: &[String]) -> Self {
        let own = format!("repository:{}:pull,push", self.reference().path());
        let others = mount_from.iter().map(|repository| format!("repository:{repository}:pull"));
        self.with_scopes(std::iter::once(own).chain(others).collect())
    }

    /// The one way to the host that is written to, questions about what it has included.
    async fn write(&self, method: Method, path: &str, write: Write) -> Result<Response, RegistryFailure> {
        let mut ask = Ask::new(method, path);
        if ask.method == Method::HEAD && path.starts_with("manifests/") {
            ask.headers.insert(ACCEPT, HeaderValue::from_static(ACCEPT_MANIFESTS));
        }
        ask.write = Some(write);
        self.send_for_push(&ask).await
    }

    /// What a name points at there, if it does.
    pub async fn tagged(&self, name: &str) -> Result<Option<Digest>, RegistryFailure> {
        let path = format!("manifests/{name}");
        let mut tries = self.tries();
        loop {
            match self.write(Method::HEAD, &path, Write::question(None)).await {
                Ok(response) => {
                    return Ok(header(&response, "docker-content-digest").and_then(|digest| digest.parse().ok()));
                }
                Err(RegistryFailure::NotFound(_)) => return Ok(None),
                Err(why) => tries.pause(why).await?,
            }
        }
    }

    /// Whether the repository has the blob.
    pub(super) async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, RegistryFailure> {
        let path = format!("blobs/{}", descriptor.digest);
        match self.write(Method::HEAD, &path, Write::question(None)).await {
            Ok(response) => Ok(header(&response, CONTENT_LENGTH.as_str())
                .and_then(|length| length.parse().ok())
                .is_none_or(|length: u64| length == descriptor.size)),
            Err(RegistryFailure::NotFound(_)) => Ok(false),
            Err(why) => Err(why),
        }
    }

    /// Begins an upload, or takes the blob over from another repository.
    pub(super) async fn begin(&self, mount: Option<(&Digest, &str)>) -> Result<Begun, RegistryFailure> {
        let path = match mount {
            Some((digest, from)) => format!("blobs/uploads/?mount={digest}&from={from}"),
            None => "blobs/uploads/".to_owned(),
        };
        let response = self.write(Method::POST, &path, Write::empty(None)).await?;
        if mount.is_some() && response.status() == StatusCode::CREATED {
            return Ok(Begun::Mounted);
        }
        let least = header(&response, "oci-chunk-min-length").and_then(|least| least.parse().ok()).unwrap_or(0);
        Ok(Begun::Upload(Upload { location: next(&response)?, at: 0, least }))
    }

    /// Sends the next bytes of an upload.
    pub(super) async fn chunk(&self, upload: &mut Upload, part: Part) -> Result<(), RegistryFailure> {
        let end = upload.at + part.length;
        let range = Some((upload.at, end - 1));
        let location = upload.location.clone();
        let write = Write {
            content_type: Some("application/octet-stream".into()),
            range,
            body: Body::Part(part),
            ..Write::empty(Some(&location))
        };
        let response = self.write(Method::PATCH, "", write).await?;
        let held = held(&response).unwrap_or(end);
        if held <= upload.at || held > end {
            return Err(RegistryFailure::Protocol(format!("it took a chunk up to byte {end} and says it has {held}")));
        }
        (upload.location, upload.at) = (next(&response)?, held);
        Ok(())
    }

    /// Asks how far an upload is.
    pub(super) async fn position(&self, upload: &mut Upload) -> Result<(), RegistryFailure> {
        let location = upload.location.clone();
        let response = self.write(Method::GET, "", Write::question(Some(&location))).await?;
        upload.at = held(&response).unwrap_or(0);
        // Some do not repeat it here.
        if response.headers().contains_key(LOCATION) {
            upload.location = next(&response)?;
        }
        Ok(())
    }

    /// Ends an upload by its digest, with the bytes that are left.
    pub(super) async fn finish(&self, upload: &Upload, digest: &Digest, rest: Body) -> Result<(), RegistryFailure> {
        let mut location = upload.location.clone();
        location.query_pairs_mut().append_pair("digest", digest.as_str());
        let content_type = (!matches!(rest, Body::Empty)).then(|| "application/octet-stream".to_owned());
        let write = Write { content_type, body: rest, finishing: true, ..Write::empty(Some(&location)) };
        let response = self.write(Method::PUT, "", write).await?;
        same_digest(&response, digest)
    }

    /// Gives an upload up. Best effort: registries forget them by themselves after a while.
    pub(super) async fn give_up(&self, upload: &Upload) {
        let write = Write::empty(Some(&upload.location));
        let gone = self.write(Method::DELETE, "", write);
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), gone).await;
    }

    /// Stores a manifest or index, byte by byte as it is, under a tag or its digest.
    pub async fn put_manifest(&self, name: &str, descriptor: &Descriptor, bytes: Bytes) -> Result<(), RegistryFailure> {
        let path = format!("manifests/{name}");
        let write = Write {
            content_type: Some(descriptor.media_type.clone()),
            body: Body::Bytes(bytes),
            finishing: true,
            ..Write::empty(None)
        };
        let mut tries = self.tries();
        loop {
            match self.write(Method::PUT, &path, write.clone()).await {
                Ok(response) => return same_digest(&response, &descriptor.digest),
                Err(why) => tries.pause(why).await?,
            }
        }
    }
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

/// Bytes that the registry says it has, by `Range: 0-LAST`.
fn held(response: &Response) -> Option<u64> {
    let range = header(response, RANGE.as_str())?;
    let last: u64 = range.trim_start_matches("bytes=").split_once('-')?.1.trim().parse().ok()?;
    // No byte and one byte look the same; taken for none, the byte is sent again.
    Some(if last == 0 { 0 } else { last + 1 })
}

fn same_digest(response: &Response, digest: &Digest) -> Result<(), RegistryFailure> {
    match header(response, "docker-content-digest") {
        Some(other) if other != digest.as_str() => {
            Err(RegistryFailure::Protocol(format!("it stored {digest} as {other}")))
        }
        _ => Ok(()),
    }
}

/// Where an upload goes on: relative or absolute, here or elsewhere.
fn next(response: &Response) -> Result<Url, RegistryFailure> {
    let here = response.url();
    let location = header(response, LOCATION.as_str())
        .ok_or_else(|| RegistryFailure::Protocol("it does not say where an upload goes on".into()))?;
    let mut next = here
        .join(location)
        .map_err(|_| RegistryFailure::Protocol("an upload goes on at something that is no URL".into()))?;
    match (here.scheme(), next.scheme()) {
        ("https", "http") if here.host() == next.host() && (next.port().is_none() || next.port() == here.port()) => {
            // A registry behind a proxy that ends TLS does not know of it.
            let port = here.port();
            let _ = next.set_scheme("https");
            let _ = next.set_port(port);
        }
        ("https", "http") => {
            let host = shown_host(&next);
            return Err(RegistryFailure::Redirect(format!("an upload from TLS to plain HTTP at {host}")));
        }
        (_, "http" | "https") => {}
        (_, other) => return Err(RegistryFailure::Redirect(format!("an upload to a {other} URL"))),
    }
    Ok(next)
}
