//! Blobs from registries into the store: each once, however many pulls want it.
//!
//! The first pull that wants a blob leads its flight, the others watch it. A flight's bytes go to a file
//! that grows; [`Fetcher::follow`] reads along, so that a layer can be unpacked while it comes. When a leader
//! goes away or fails by its own credentials, one of those who waited leads the next flight.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use super::descriptor::Descriptor;
use super::error::{ImageError, RegistryFailure};
use super::ingest::Ingest;
use super::registry::{Body, Session};
use super::store::ContentStore;
use crate::oci::Digest;

/// Chunks between the network and the writer of one blob. With hyper's buffers that is some 2 MB at most.
const CHANNEL: usize = 8;
/// Progress that makes a broken stream worth taking up again without counting the try, in bytes.
const WORTHWHILE: u64 = 1 << 20;

/// Where a flight is.
#[derive(Debug, Clone, Default)]
struct Flow {
    /// Bytes in the file.
    done: u64,
    /// How it ended.
    end: Option<Result<(), ImageError>>,
}

#[derive(Clone)]
struct Flight {
    flow: watch::Receiver<Flow>,
    /// The growing file. It stays readable after it was renamed, and after it was removed.
    file: Arc<File>,
    /// Where the flight is carried on; readers wait for it from threads of their own.
    runtime: tokio::runtime::Handle,
}

/// Fetches blobs.
pub struct Fetcher {
    store: ContentStore,
    streams: Semaphore,
    flights: Mutex<HashMap<Digest, Option<Flight>>>,
    landed: watch::Sender<u64>,
}

/// Takes a flight out of the table, however its leader ends.
struct Lead<'a> {
    fetcher: &'a Fetcher,
    digest: &'a Digest,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.fetcher.table().remove(self.digest);
        self.fetcher.landed.send_modify(|n| *n += 1);
    }
}

impl Fetcher {
    /// At most `concurrency` streams at once.
    pub fn new(store: ContentStore, concurrency: usize) -> Self {
        Self {
            store,
            streams: Semaphore::new(concurrency.max(1)),
            flights: Mutex::default(),
            landed: watch::channel(0).0,
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Option<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a blob into the store. `progress` hears bytes so far, not more than some ten times a second.
    pub async fn fetch(
        &self,
        session: &Session,
        descriptor: &Descriptor,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), ImageError> {
        let mut follow = true;
        loop {
            // Subscribed before looking: an end in between is not missed.
            let mut landed = self.landed.subscribe();
            if self.store.size(&descriptor.digest) == Some(descriptor.size) {
                self.store.touch(&descriptor.digest);
                return Ok(());
            }
            let waiting = {
                let mut table = self.table();
                let flight = table.get(&descriptor.digest).cloned();
                if flight.is_none() {
                    table.insert(descriptor.digest.clone(), None);
                }
                flight
            };
            match waiting {
                None => {
                    let lead = Lead { fetcher: self, digest: &descriptor.digest };
                    return self.lead(&lead, session, descriptor, progress).await;
                }
                Some(None) => {
                    // Its leader waits for a free stream.
                    let _ = landed.changed().await;
                }
                Some(Some(flight)) => match watch_flight(flight, progress).await {
                    Some(Ok(())) | None => {}
                    // Another reference, another user or another host may be luckier, once.
                    Some(Err(error)) if error.is_registry() && follow => {
                        follow = false;
                        let _ = landed.changed().await;
                    }
                    Some(Err(error)) => return Err(error.for_reference(&session.reference().to_string())),
                },
            }
        }
    }

    async fn lead(
        &self,
        lead: &Lead<'_>,
        session: &Session,
        descriptor: &Descriptor,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), ImageError> {
        let Ok(_permit) = self.streams.acquire().await else {
            return Err(ImageError::io("wait for a free stream", io::ErrorKind::BrokenPipe.into()));
        };
        let mut resumed = true;
        loop {
            let store = self.store.clone();
            let digest = descriptor.digest.clone();
            // Taking up hashes what is there: work for a thread that may block.
            let ingest = spawn(move || store.resume(&digest)).await?;
            let mut start = ingest.written();
            let mut ingest = ingest;
            if start > descriptor.size || !resumed {
                ingest.restart()?;
                start = 0;
            }
            let file = Arc::new(ingest.reader()?);
            let (flow, watched) = watch::channel(Flow { done: start, end: None });
            self.table().insert(
                lead.digest.clone(),
                Some(Flight { flow: watched, file, runtime: tokio::runtime::Handle::current() }),
            );
            self.landed.send_modify(|n| *n += 1);
            let flow = Arc::new(flow);
            let result = self.transfer(session, descriptor, ingest, &flow, progress).await;
            // What an earlier, interrupted fetch left may be rubbish; from the beginning, then, once. Or a mirror
            // sent rubbish: from the beginning at another host, while there is one.
            if matches!(result, Err(ImageError::Digest { .. } | ImageError::Size { .. }))
                && ((start > 0 && resumed) || session.distrust(&descriptor.digest))
            {
                resumed = false;
                self.table().insert(lead.digest.clone(), None);
                continue;
            }
            flow.send_modify(|f| f.end = Some(result.clone()));
            return result;
        }
    }

    /// Streams into `ingest` over as many connections as it takes, and commits.
    async fn transfer(
        &self,
        session: &Session,
        descriptor: &Descriptor,
        ingest: Ingest,
        flow: &Arc<watch::Sender<Flow>>,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), ImageError> {
        let mut sent = ingest.written();
        let mut report = Throttle::new(progress);
        let (chunks, writer) = write_behind(ingest, descriptor.clone(), Arc::clone(flow));
        let mut tries = session.tries();
        while sent < descriptor.size {
            let before = sent;
            let result = stream(session, descriptor, &mut sent, &chunks, &mut report).await;
            if sent - before >= WORTHWHILE {
                tries.forgive();
            }
            let why = match result {
                Ok(()) => break,
                Err(Broke::Writer) => break,
                Err(Broke::Fatal(error)) => return Err(error),
                Err(Broke::Registry(why)) => why,
            };
            tracing::debug!(blob = %descriptor.digest, at = sent, "stream broke: {why}");
            tries.pause(why).await.map_err(|why| session.error(why))?;
        }
        drop(chunks);
        joined(writer).await?;
        report.now(descriptor.size);
        Ok(())
    }

    /// Reads along with a flight: the blob's bytes from the first on, each as soon as it is in the file.
    /// `None` when nobody fetches it now. For blocking threads; what was read is verified only once the
    /// reader has come to its end without an error.
    pub fn follow(&self, digest: &Digest) -> Option<Growing> {
        let flight = self.table().get(digest).cloned()??;
        Some(Growing { flight, at: 0 })
    }
}

/// Why one stream ended early.
enum Broke {
    /// The registry or the way to it.
    Registry(RegistryFailure),
    /// The writer ended; it knows why.
    Writer,
    /// Nothing to try again.
    Fatal(ImageError),
}

async fn stream(
    session: &Session,
    descriptor: &Descriptor,
    sent: &mut u64,
    chunks: &mpsc::Sender<Bytes>,
    report: &mut Throttle<'_>,
) -> Result<(), Broke> {
    let (mut body, start): (Body, u64) = session.blob(&descriptor.digest, *sent).await.map_err(Broke::Registry)?;
    let length = body.content_length();
    if let Some(length) = length
        && start + length != descriptor.size
    {
        let (what, expected) = (format!("blob {}", descriptor.digest), descriptor.size);
        return Err(Broke::Fatal(ImageError::Size { what, expected, actual: start + length }));
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
fn write_behind(
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
        ingest.commit(Some((&descriptor.digest, descriptor.size))).map(|_| ())
    });
    (sender, task)
}

/// Watches somebody else's flight; `None` when its leader went away without an end.
async fn watch_flight(mut flight: Flight, progress: &(dyn Fn(u64) + Send + Sync)) -> Option<Result<(), ImageError>> {
    let mut report = Throttle::new(progress);
    loop {
        {
            let flow = flight.flow.borrow_and_update();
            if let Some(end) = &flow.end {
                return Some(end.clone());
            }
            report.at(flow.done);
        }
        flight.flow.changed().await.ok()?;
    }
}

async fn spawn<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    joined(tokio::task::spawn_blocking(work)).await
}

/// A blocking task's result; a panic in it is an error here and ends nothing else.
pub(super) async fn joined<T>(task: JoinHandle<Result<T, ImageError>>) -> Result<T, ImageError> {
    task.await.unwrap_or_else(|e| Err(ImageError::io("work on a blob", io::Error::other(e))))
}

/// Tells progress ten times a second at most.
struct Throttle<'a> {
    progress: &'a (dyn Fn(u64) + Send + Sync),
    last: Option<Instant>,
}

impl<'a> Throttle<'a> {
    fn new(progress: &'a (dyn Fn(u64) + Send + Sync)) -> Self {
        Self { progress, last: None }
    }

    fn at(&mut self, done: u64) {
        let now = Instant::now();
        if self.last.is_none_or(|last| now.duration_since(last).as_millis() >= 100) {
            self.last = Some(now);
            (self.progress)(done);
        }
    }

    fn now(&mut self, done: u64) {
        (self.progress)(done);
    }
}

/// A blob that is still coming, to be read on a blocking thread.
pub struct Growing {
    flight: Flight,
    at: u64,
}

impl Read for Growing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        loop {
            let (done, end) = {
                let flow = self.flight.flow.borrow_and_update();
                (flow.done, flow.end.clone())
            };
            if self.at < done {
                let ready = usize::try_from(done - self.at).unwrap_or(usize::MAX).min(buffer.len());
                let n = self.flight.file.read_at(&mut buffer[..ready], self.at)?;
                self.at += n as u64;
                return Ok(n);
            }
            match end {
                Some(Ok(())) => return Ok(0),
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => {
                    let runtime = self.flight.runtime.clone();
                    runtime
                        .block_on(self.flight.flow.changed())
                        .map_err(|_| io::Error::new(io::ErrorKind::UnexpectedEof, "the download was given up"))?;
                }
            }
        }
    }
}
