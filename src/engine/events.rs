//! What happened: kept in the database, bounded, and handed to whoever follows.

use std::sync::{Mutex, PoisonError};

use tokio::sync::broadcast;

use crate::manifest::ResourceKey;
use crate::store::{EventRecord, EventType, Store};

/// The event log.
pub struct EventLog {
    keep: u32,
    last: Mutex<Tail>,
    followers: broadcast::Sender<EventRecord>,
}

struct Tail {
    next: i64,
    // The newest event, to count an equal one instead of repeating it.
    newest: Option<EventRecord>,
}

impl EventLog {
    /// Goes on behind what the database holds; keeps at most `keep` events.
    pub fn open(store: &Store, keep: u32) -> Result<Self, crate::store::StoreError> {
        let newest = store.events()?.pop();
        let next = newest.as_ref().map_or(1, |event| event.id + 1);
        Ok(Self { keep, last: Mutex::new(Tail { next, newest }), followers: broadcast::channel(256).0 })
    }

    /// Those from now on.
    pub fn follow(&self) -> broadcast::Receiver<EventRecord> {
        self.followers.subscribe()
    }

    /// Records one. An event that cannot be written is only logged: it must not stop what it tells of.
    pub fn record(&self, store: &Store, key: &ResourceKey, kind: EventType, reason: &str, message: String) {
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
        if let Err(error) = store.append_event(&event, self.keep) {
            tracing::error!(%error, "an event could not be kept");
        }
        let _ = self.followers.send(event);
    }
}
