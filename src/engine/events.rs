//! What happened: kept in the database, bounded, and handed to whoever follows.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::broadcast;

use crate::manifest::ResourceKey;
use crate::store::{EventRecord, EventType, Store};

/// The event log. What it is told is written by a thread of its own, so that no start waits for the disk on
/// account of its story; all of it is on the disk when the log is dropped.
pub struct EventLog {
    last: Mutex<Tail>,
    followers: broadcast::Sender<EventRecord>,
    writer: Option<mpsc::Sender<Order>>,
    thread: Option<std::thread::JoinHandle<()>>,
    keep: Arc<AtomicU32>,
}

/// What the writing thread is asked for.
enum Order {
    Keep(EventRecord),
    /// Answers when everything before it is on the disk.
    Flush(mpsc::Sender<()>),
}

struct Tail {
    next: i64,
    // The newest event, to count an equal one instead of repeating it.
    newest: Option<EventRecord>,
}

impl EventLog {
    /// Goes on behind what the database holds; keeps at most `keep` events.
    pub fn open(store: &Arc<Store>, keep: u32) -> Result<Self, crate::store::StoreError> {
        let newest = store.events()?.pop();
        let next = newest.as_ref().map_or(1, |event| event.id + 1);
        let (writer, orders) = mpsc::channel();
        let store = Arc::clone(store);
        let keep = Arc::new(AtomicU32::new(keep));
        let bound = Arc::clone(&keep);
        let thread = std::thread::Builder::new()
            .name("events".into())
            .spawn(move || write(&store, &orders, &bound))
            .inspect_err(|error| tracing::error!(%error, "events are not kept: their thread cannot be started"))
            .ok();
        Ok(Self {
            last: Mutex::new(Tail { next, newest }),
            followers: broadcast::channel(256).0,
            writer: Some(writer),
            thread,
            keep,
        })
    }

    /// Keeps at most so many from the next event on.
    pub fn keep(&self, keep: u32) {
        self.keep.store(keep, Ordering::Relaxed);
    }

    /// Returns when every event recorded so far can be read from the database. Blocking, briefly.
    pub fn flush(&self) {
        let (done, written) = mpsc::channel();
        if self.writer.as_ref().is_some_and(|writer| writer.send(Order::Flush(done)).is_ok()) {
            let _ = written.recv_timeout(std::time::Duration::from_secs(5));
        }
    }

    /// Those from now on.
    pub fn follow(&self) -> broadcast::Receiver<EventRecord> {
        self.followers.subscribe()
    }

    /// Records one. An event that cannot be written is only logged: it must not stop what it tells of.
    pub fn record(&self, key: &ResourceKey, kind: EventType, reason: &str, message: String) {
        match kind {
            EventType::Normal => tracing::info!(%key, reason, "{message}"),
            EventType::Warning => tracing::warn!(%key, reason, "{message}"),
        }
        let now = jiff::Timestamp::now();
        let event = {
            let mut tail = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let event = match &tail.newest {
                Some(last) if last.key == *key && last.reason == reason && last.message == message => {
                    EventRecord { time: now, count: last.count.saturating_add(1), ..last.clone() }
                }
                _ => {
                    let id = tail.next;
                    tail.next += 1;
                    EventRecord {
                        id,
                        time: now,
                        first: now,
                        key: key.clone(),
                        kind,
                        reason: reason.to_owned(),
                        message,
                        count: 1,
                    }
                }
            };
            tail.newest = Some(event.clone());
            event
        };
        if let Some(writer) = &self.writer {
            let _ = writer.send(Order::Keep(event.clone()));
        }
        let _ = self.followers.send(event);
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        self.writer = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Events that wait for a disk that takes them; more are forgotten, the oldest first.
const UNKEPT: usize = 1024;

fn write(store: &Store, orders: &mpsc::Receiver<Order>, keep: &AtomicU32) {
    let mut events = Vec::new();
    while let Ok(first) = orders.recv() {
        let mut waiting = Vec::new();
        // Whatever has come in meanwhile goes into the same transaction.
        for order in std::iter::once(first).chain(orders.try_iter().take(255)) {
            match order {
                Order::Keep(event) => events.push(event),
                Order::Flush(done) => waiting.push(done),
            }
        }
        match store.append_events(&events, keep.load(Ordering::Relaxed)) {
            Ok(()) => events.clear(),
            Err(error) => {
                tracing::error!(%error, "events could not be kept; they are with the next ones");
                events.drain(..events.len().saturating_sub(UNKEPT));
            }
        }
        for done in waiting {
            let _ = done.send(());
        }
    }
}
