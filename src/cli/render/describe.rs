//! One object with all that is known of it, in sections.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;

use super::table::{NONE, Table};
use super::{events, prose, size, time, yaml};
use crate::api::{Condition, ContainerStatus, EventRecord, Item, Portion, ProcessInfo, Status};
use crate::error::Result;
use crate::oci::Digest;

/// The sections of an item: what it is, what is wanted, what is, why, what happened.
pub(in crate::cli) fn item(
    item: &Item,
    execs: &[ProcessInfo],
    happened: &[EventRecord],
    now: Timestamp,
) -> Result<String> {
    let mut text = String::new();
    let metadata = &item.metadata;
    let mut fields = vec![
        ("Name", metadata.name.clone()),
        ("Namespace", metadata.namespace.clone()),
        ("Kind", format!("{:?}", item.kind)),
        ("UID", metadata.uid.clone()),
        ("Source", metadata.source.to_string()),
        ("Revision", metadata.revision.to_string()),
        ("Created", moment(metadata.created, now)),
        ("Labels", pairs(&metadata.labels)),
        ("Annotations", pairs(&metadata.annotations)),
    ];
    section(&mut text, "", &mut fields);
    text.push_str("Spec:\n");
    if item.spec.as_object().is_some_and(serde_json::Map::is_empty) {
        let _ = writeln!(text, "  {NONE}");
    } else {
        indented(&mut text, &yaml::document(&item.spec)?);
    }
    text.push_str("Status:\n");
    section(&mut text, "  ", &mut status(&item.status, now));
    further_processes(&mut text, execs);
    conditions(&mut text, item.status.conditions(), now);
    if happened.is_empty() {
        let _ = writeln!(text, "Events:  {NONE}");
    } else {
        let _ = writeln!(text, "Events:\n{}", events::table(happened, false, now, "  ").trim_end());
    }
    Ok(text)
}

fn section(text: &mut String, indent: &str, fields: &mut Vec<(&str, String)>) {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    for (name, value) in fields.drain(..) {
        let value = if value.is_empty() { NONE.to_owned() } else { prose(&value) };
        let _ = writeln!(text, "{indent}{:width$}  {value}", format!("{name}:"));
    }
}

fn indented(text: &mut String, block: &str) {
    for line in block.lines() {
        let _ = writeln!(text, "  {}", prose(line));
    }
}

fn moment(at: Timestamp, now: Timestamp) -> String {
    if at > now {
        format!("{} (in {})", time::instant(at), time::age(at, now))
    } else {
        format!("{} ({} ago)", time::instant(at), time::age(now, at))
    }
}

fn pairs(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

fn status(status: &Status, now: Timestamp) -> Vec<(&'static str, String)> {
    let digest = |digest: &Option<Digest>| digest.as_ref().map_or_else(String::new, ToString::to_string);
    match status {
        Status::Namespace(status) => vec![
            ("Containers", status.containers.to_string()),
            ("Images", status.images.to_string()),
            ("Tags", status.tags.to_string()),
        ],
        Status::Registry(_) => Vec::new(),
        Status::Image(status) => {
            let mut fields = vec![
                ("Digest", digest(&status.digest)),
                ("Size", status.size.map_or_else(String::new, size)),
                ("Platforms", status.platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
                ("Unpacked", status.unpacked.to_string()),
                ("Used by", status.used_by.join(", ")),
            ];
            fields.extend(status.progress.map(|portion| ("Pulling", pulling(portion))));
            fields
        }
        Status::Tag(status) => vec![("Digest", digest(&status.digest)), ("Used by", status.used_by.join(", "))],
        Status::Container(status) => container(status, now),
    }
}

fn container(status: &ContainerStatus, now: Timestamp) -> Vec<(&'static str, String)> {
    let number = |value: Option<u32>| value.map_or_else(String::new, |value| value.to_string());
    let at = |time: Option<Timestamp>| time.map_or_else(String::new, |time| moment(time, now));
    let mut exit = number(status.exit_code);
    if let Some(signal) = status.signal {
        let _ = write!(exit, " (signal {signal})");
    }
    if status.oom_killed {
        exit.push_str(" (out of memory)");
    }
    let mut fields = vec![
        ("Phase", status.phase.to_string()),
        ("Ready", status.ready.to_string()),
        ("PID", number(status.pid)),
        ("Shim PID", number(status.shim_pid)),
        ("Attempt", status.attempt.to_string()),
        ("Restarts", status.restarts.to_string()),
        ("Started", at(status.started)),
        ("Finished", at(status.finished)),
        ("Last exit", exit),
        ("Image digest", status.image_digest.as_ref().map_or_else(String::new, ToString::to_string)),
        ("Address", status.address.clone().unwrap_or_default()),
        ("Log", status.log_path.clone().unwrap_or_default()),
    ];
    fields.extend(status.progress.map(|portion| ("Pulling", pulling(portion))));
    if status.next_start.is_some() {
        fields.push(("Next start", at(status.next_start)));
    }
    fields
}

/// How far an image is: `42%, 66.4 MB of 158 MB`.
fn pulling(portion: Portion) -> String {
    format!("{}%, {} of {}", portion.percent(), size(portion.done), size(portion.total))
}

/// What `exec` began and has not ended; nothing where there is none.
fn further_processes(text: &mut String, execs: &[ProcessInfo]) {
    if execs.is_empty() {
        return;
    }
    let mut table = Table::new(["EXEC ID", "PID", "USER", "AGE", "COMMAND"]);
    for one in execs {
        table.row([
            one.exec_id.clone().unwrap_or_default(),
            one.pid.to_string(),
            one.user.clone().unwrap_or_else(|| one.uid.to_string()),
            time::span(i64::try_from(one.age_ms / 1000).unwrap_or(i64::MAX)),
            one.command.clone(),
        ]);
    }
    let _ = writeln!(text, "Execs:\n{}", table.render("  ").trim_end());
}

fn conditions(text: &mut String, conditions: &[Condition], now: Timestamp) {
    if conditions.is_empty() {
        let _ = writeln!(text, "Conditions:  {NONE}");
        return;
    }
    let mut table = Table::new(["TYPE", "STATUS", "REASON", "AGE", "MESSAGE"]);
    for condition in conditions {
        table.row([
            condition.kind.clone(),
            format!("{:?}", condition.status),
            condition.reason.clone(),
            time::age(now, condition.since),
            condition.message.clone(),
        ]);
    }
    let _ = writeln!(text, "Conditions:\n{}", table.render("  ").trim_end());
}
