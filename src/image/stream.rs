//! One blob's bytes from a response into its file: the network on one side, a thread that hashes and
//! writes on the other, a bounded channel between them.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::descriptor::Descriptor;
use super::error::{ImageError, RegistryFailure};
use super::fetch::Flow;
use super::ingest::Ingest;
use super::registry::{Body, Session};

/// Chunks between the network and the writer of one blob. With hyper's buffers that is some 2 MB at most.
const CHANNEL: usize = 8;

/// Why one stream ended early.
pub(super) enum Broke {
    /// The registry or the way to it.
    Registry(RegistryFailure),
    /// The writer ended; it knows why.
    Writer,
    /// Nothing to try again.
    Fatal(ImageError),
}

/// Sends what is missing of the blob to the writer; `sent` counts bytes from the blob's first on.
pub(super) async fn stream(
    session: &Session,
    descriptor: &Descriptor,
    sent: &mut u64,
    chunks: &mpsc::Sender<Bytes>,
    report: &mut Throttle<'_>,
) -> Result<(), Broke> {
    let (mut body, start): (Body, u64) = session.blob(&descriptor.digest, *sent).await.map_err(Broke::Registry)?;
    if let Some(actual) = body.content_length().map(|length| start.saturating_add(length))
        && actual != descriptor.size
    {
        let (what, expected) = (format!("blob {}", descriptor.digest), descriptor.size);
        return Err(Broke::Fatal(ImageError::Size { what, expected, actual }));
    }
    let mut position = start;
    loop {
        let chunk = body.chunk().await.map_err(Broke::Registry)?;
        let Some(mut chunk) = chunk else {
            return match position {
                end if end == descriptor.size => Ok(()),
                _ => Err(Broke::Registry(RegistryFailure::Broken(format!(
                    "the blob ended after {position} of {} bytes",
                    descriptor.size
                )))),
            };
        };
        position += chunk.len() as u64;
        if position > descriptor.size {
            let (what, expected) = (format!("blob {}", descriptor.digest), descriptor.size);
            return Err(Broke::Fatal(ImageError::Size { what, expected, actual: position }));
        }
        // A registry without ranges begins at 0 again: what is here is passed over.
        let fresh = position.saturating_sub(*sent).min(chunk.len() as u64);
        if fresh == 0 {
            continue;
        }
        let _ = chunk.split_to(chunk.len() - fresh as usize);
        *sent += fresh;
        if chunks.send(chunk).await.is_err() {
            return Err(Broke::Writer);
        }
        report.at(*sent);
    }
}

/// Writes and hashes on a thread of its own, and commits when the channel closes with all bytes there.
pub(super) fn write_behind(
    mut ingest: Ingest,
    descriptor: Descriptor,
    flow: Arc<watch::Sender<Flow>>,
) -> (mpsc::Sender<Bytes>, JoinHandle<Result<(), ImageError>>) {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(CHANNEL);
    let task = tokio::task::spawn_blocking(move || {
        let mut batch = Vec::with_capacity(CHANNEL);
        while receiver.blocking_recv_many(&mut batch, CHANNEL) > 0 {
            for chunk in batch.drain(..) {
                ingest.write(&chunk)?;
            }
            let done = ingest.written();
            flow.send_modify(|f| f.done = done);
        }
        if ingest.written() < descriptor.size {
            // Given up by the other side, which tells why; what is here can be taken up again.
            return Ok(());
        }
        ingest.commit_soon(Some((&descriptor.digest, descriptor.size))).map(|_| ())
    });
    (sender, task)
}

/// Tells progress ten times a second at most.
pub(super) struct Throttle<'a> {
    progress: &'a (dyn Fn(u64) + Send + Sync),
    last: Option<Instant>,
}

impl<'a> Throttle<'a> {
    pub(super) fn new(progress: &'a (dyn Fn(u64) + Send + Sync)) -> Self {
        Self { progress, last: None }
    }

    /// So many bytes are here.
    pub(super) fn at(&mut self, done: u64) {
        let now = Instant::now();
        if self.last.is_none_or(|last| now.duration_since(last).as_millis() >= 100) {
            self.last = Some(now);
            (self.progress)(done);
        }
    }

    /// The same, told whatever was told before.
    pub(super) fn now(&mut self, done: u64) {
        (self.progress)(done);
    }
}
