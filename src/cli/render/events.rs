//! Events, in columns that also line up while they arrive.

use jiff::Timestamp;

use super::table::Table;
use super::{Paint, prose, time};
use crate::api::{EventKind, EventRecord};

/// A table of those at hand.
pub(in crate::cli) fn table(events: &[EventRecord], all_namespaces: bool, now: Timestamp, indent: &str) -> String {
    let headers = ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];
    let mut table = Table::new(all_namespaces.then_some("NAMESPACE").into_iter().chain(headers));
    for event in events {
        let namespace = all_namespaces.then(|| event.key.namespace.clone());
        table.row(namespace.into_iter().chain([
            time::age(now, event.time),
            format!("{:?}", event.kind),
            event.reason.clone(),
            format!("{}/{}", event.key.kind, event.key.name),
            message(event),
        ]));
    }
    table.render(indent)
}

/// One line, with the instant instead of an age: it is read later than it is written.
pub(in crate::cli) fn line(event: &EventRecord, all_namespaces: bool, colour: bool) -> String {
    let kind = match event.kind {
        EventKind::Normal => "Normal ".to_owned(),
        EventKind::Warning => Paint(colour).yellow("Warning"),
    };
    let namespace = if all_namespaces { format!("{}   ", event.key.namespace) } else { String::new() };
    format!(
        "{}   {namespace}{kind}   {:16}   {}/{}   {}",
        time::instant(event.time),
        event.reason,
        event.key.kind,
        prose(&event.key.name),
        prose(&message(event))
    )
}

fn message(event: &EventRecord) -> String {
    if event.count > 1 { format!("{} (×{})", event.message, event.count) } else { event.message.clone() }
}
