//! Blobs from registries into the store: each once, however many pulls want it.
//!
//! The first pull that wants a blob leads its flight, the others watch it. A flight's bytes go to a file
//! that grows; [`Fetcher::follow`] reads along, so that a layer can be unpacked while it comes. When a leader
//! goes away or fails by its own credentials, one of those who waited leads the next flight.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use super::descriptor::Descriptor;
use super::error::ImageError;
use super::follow::Growing;
use super::ingest::Ingest;
use super::registry::Session;
use super::store::ContentStore;
use super::stream::{Broke, Throttle, stream, write_behind};
use crate::oci::Digest;

/// How often a blob that another process fetches is looked at: nothing tells of it.
const LOOK: Duration = Duration::from_millis(50);
/// Progress that makes a broken stream worth taking up again without counting the try, in bytes.
const WORTHWHILE: u64 = 1 << 20;

/// Where a flight is.
#[derive(Debug, Clone, Default)]
pub(super) struct Flow {
    /// Bytes in the file.
    pub(super) done: u64,
    /// How it ended.
    pub(super) end: Option<Result<(), ImageError>>,
}

#[derive(Clone)]
pub(super) struct Flight {
    pub(super) flow: watch::Receiver<Flow>,
    /// The growing file. It stays readable after it was renamed, and after it was removed.
    pub(super) file: Arc<File>,
    /// Where the flight is carried on; readers wait for it from threads of their own.
    pub(super) runtime: tokio::runtime::Handle,
}

/// Fetches blobs.
pub struct Fetcher {
    store: ContentStore,
    /// Streams of all hosts together, so that many registries at once cost no more than this.
    streams: Mutex<Arc<Semaphore>>,
    /// Streams of one host: one that stalls holds up no other.
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
    per_host: AtomicUsize,
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
    /// At most `limit` streams at once, and `per_host` from one host.
    pub fn new(store: ContentStore, limit: usize, per_host: usize) -> Self {
        Self {
            store,
            streams: Mutex::new(Arc::new(Semaphore::new(limit.max(1)))),
            hosts: Mutex::default(),
            per_host: AtomicUsize::new(per_host.max(1)),
            flights: Mutex::default(),
            landed: watch::channel(0).0,
        }
    }

    /// As many streams at once from now on; those under way count as before and end by themselves.
    pub fn set_concurrency(&self, limit: usize, per_host: usize) {
        *self.streams.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Semaphore::new(limit.max(1)));
        self.per_host.store(per_host.max(1), Ordering::Relaxed);
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).clear();
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
            if self.store.size(&descriptor.digest) == Some(descriptor.size) && self.store.touch(&descriptor.digest) {
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
        let mut permits = None;
        let mut resumed = true;
        loop {
            let Some(mut ingest) = self.take_up(session, descriptor).await? else {
                // Another process brought it.
                self.store.touch(&descriptor.digest);
                return Ok(());
            };
            if permits.is_none() {
                permits = Some(self.permits(session.reference().host()).await?);
            }
            let mut start = ingest.written();
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

    /// A free stream of the host.
    async fn permits(&self, host: &str) -> Result<[OwnedSemaphorePermit; 2], ImageError> {
        let own = {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            // Ours in the map is the one count that is not a user.
            hosts.retain(|_, streams| Arc::strong_count(streams) > 1);
            let fresh = || Arc::new(Semaphore::new(self.per_host.load(Ordering::Relaxed)));
            Arc::clone(hosts.entry(host.to_owned()).or_insert_with(fresh))
        };
        let closed = |_| ImageError::io("wait for a free stream", io::ErrorKind::BrokenPipe.into());
        // The host's first: who waits for a slow host holds nothing that others want.
        let own = own.acquire_owned().await.map_err(closed)?;
        let all = Arc::clone(&self.streams.lock().unwrap_or_else(PoisonError::into_inner));
        let all = all.acquire_owned().await.map_err(closed)?;
        Ok([own, all])
    }

    /// The blob's file with what is there of it; `None` when another process has brought the blob meanwhile.
    /// While another process writes it, that one is waited for as long as it makes progress.
    async fn take_up(&self, session: &Session, descriptor: &Descriptor) -> Result<Option<Ingest>, ImageError> {
        let digest = &descriptor.digest;
        let mut grown = (None, Instant::now());
        loop {
            let (store, own) = (self.store.clone(), digest.clone());
            // Taking up hashes what is there: work for a thread that may block.
            let ingest = spawn(move || store.resume(&own)).await?;
            // Looked at with the lock: another process may have finished since the last look.
            if self.store.size(digest) == Some(descriptor.size) {
                return Ok(None);
            }
            if ingest.is_some() {
                return Ok(ingest);
            }
            let size = self.store.coming(digest);
            if size != grown.0 {
                grown = (size, Instant::now());
            } else if grown.1.elapsed() > session.timeouts().stall * 2 {
                // Stopped, or it waits for something else: whoever is last wins, with the same bytes.
                let store = self.store.clone();
                return spawn(move || store.ingest()).await.map(Some);
            }
            tokio::time::sleep(LOOK).await;
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
        // Where it begins: who shows a speed counts from there.
        report.now(sent);
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
    pub(super) fn follow(&self, digest: &Digest) -> Option<Growing> {
        let flight = self.table().get(digest).cloned()??;
        let failed = matches!(flight.flow.borrow().end, Some(Err(_)));
        (!failed).then(|| Growing::new(flight))
    }

    /// Changes whenever a flight begins or ends.
    pub(super) fn landed(&self) -> watch::Receiver<u64> {
        self.landed.subscribe()
    }
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
