//! Items in every output format.

use jiff::Timestamp;
use serde_json::Value;

use super::table::{NONE, Table};
use super::{json, size, time, yaml};
use crate::api::{Item, List, Phase, Status};
use crate::cli::args::Output;
use crate::error::Result;
use crate::manifest::Kind;
use crate::oci::Digest;

/// How a listing is shown.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Style {
    /// The format.
    pub output: Output,
    /// A column for the namespace.
    pub all_namespaces: bool,
    /// Exactly one object was asked for by name: JSON and YAML show it alone, as kubectl does.
    pub single: bool,
    /// For ages.
    pub now: Timestamp,
}

/// Items of any kinds; tables come one a kind.
pub(in crate::cli) fn items(items: Vec<Item>, style: Style) -> Result<String> {
    match style.output {
        Output::Json | Output::Yaml => {
            if let (true, [item]) = (style.single, items.as_slice()) {
                return if style.output == Output::Json { json::pretty(item) } else { yaml::document(item) };
            }
            let list = List::of(items);
            if style.output == Output::Json { json::pretty(&list) } else { yaml::document(&list) }
        }
        Output::Name => Ok(items.iter().map(|item| format!("{}/{}\n", item.kind, item.metadata.name)).collect()),
        Output::Table | Output::Wide => {
            let kinds: Vec<Kind> =
                Kind::ALL.into_iter().filter(|kind| items.iter().any(|item| item.kind == *kind)).collect();
            let prefixed = kinds.len() > 1;
            let tables = kinds.iter().map(|kind| table(&items, *kind, prefixed, style));
            Ok(tables.collect::<Vec<_>>().join("\n"))
        }
    }
}

fn table(items: &[Item], kind: Kind, prefixed: bool, style: Style) -> String {
    let wide = style.output == Output::Wide;
    let namespaced = style.all_namespaces && !kind.is_node_wide();
    let (narrow, more): (&[&str], &[&str]) = match kind {
        Kind::Namespace => (&["NAME", "CONTAINERS", "IMAGES", "TAGS", "AGE"], &["SOURCE"]),
        Kind::Registry => (&["NAME", "MIRRORS", "TLS", "AGE"], &["SERVER", "SOURCE"]),
        Kind::Image => (&["NAME", "DIGEST", "SIZE", "PLATFORMS", "AGE"], &["UNPACKED", "USED BY", "SOURCE"]),
        Kind::Tag => (&["NAME", "TARGET", "DIGEST", "AGE"], &["USED BY", "SOURCE"]),
        Kind::Container => (
            &["NAME", "PHASE", "READY", "RESTARTS", "AGE", "IMAGE"],
            &["PID", "ATTEMPT", "EXIT", "ADDRESS", "DIGEST", "SOURCE"],
        ),
    };
    let headers = namespaced.then_some("NAMESPACE").into_iter().chain(narrow.iter().copied());
    let mut table = Table::new(headers.chain(more.iter().copied().filter(|_| wide)));
    for item in items.iter().filter(|item| item.kind == kind) {
        let mut cells = Vec::with_capacity(14);
        if namespaced {
            cells.push(item.metadata.namespace.clone());
        }
        cells.push(if prefixed { format!("{kind}/{}", item.metadata.name) } else { item.metadata.name.clone() });
        let (narrow, more) = columns(item, style.now);
        cells.extend(narrow);
        if wide {
            cells.extend(more);
            cells.push(item.metadata.source.to_string());
        }
        table.row(cells);
    }
    table.render("")
}

/// The cells behind the name: those always shown, those of `wide` but the source.
fn columns(item: &Item, now: Timestamp) -> (Vec<String>, Vec<String>) {
    let age = time::age(now, item.metadata.created);
    match &item.status {
        Status::Namespace(status) => {
            (vec![status.containers.to_string(), status.images.to_string(), status.tags.to_string(), age], vec![])
        }
        Status::Registry(_) => {
            (vec![mirrors(&item.spec), tls(&item.spec).to_owned(), age], vec![text(&item.spec, "server")])
        }
        Status::Image(status) => (
            vec![
                digest(status.digest.as_ref()),
                match status.progress {
                    Some(portion) => format!("{}% of {}", portion.percent(), size(portion.total)),
                    None => status.size.map_or_else(String::new, size),
                },
                platforms(&status.platforms),
                age,
            ],
            vec![yes(status.unpacked), status.used_by.join(",")],
        ),
        Status::Tag(status) => {
            (vec![text(&item.spec, "source"), digest(status.digest.as_ref()), age], vec![status.used_by.join(",")])
        }
        Status::Container(status) => (
            vec![
                match status.progress.filter(|_| status.phase == Phase::Pulling) {
                    Some(portion) => format!("{} {}%", status.phase, portion.percent()),
                    None => status.phase.to_string(),
                },
                yes(status.ready),
                status.restarts.to_string(),
                age,
                text(&item.spec, "image"),
            ],
            vec![
                shown(status.pid),
                status.attempt.to_string(),
                shown(status.exit_code),
                shown(status.address.as_ref()),
                digest(status.image_digest.as_ref()),
            ],
        ),
    }
}

/// `images`: every reference in one table, tags among them.
pub(in crate::cli) fn references(items: &[Item], all_namespaces: bool, wide: bool, now: Timestamp) -> String {
    let headers = ["REFERENCE", "DIGEST", "PLATFORMS", "SIZE", "UNPACKED", "USED BY"].into_iter();
    let headers = headers.chain(["AGE", "SOURCE"].into_iter().filter(|_| wide));
    let mut table = Table::new(all_namespaces.then_some("NAMESPACE").into_iter().chain(headers));
    for item in items {
        let (found, bytes, on, unpacked, measured, users) = match &item.status {
            Status::Image(s) => (&s.digest, s.size, &s.platforms, s.unpacked, s.unpacked_size, &s.used_by),
            Status::Tag(s) => (&s.digest, s.size, &s.platforms, s.unpacked, s.unpacked_size, &s.used_by),
            _ => continue,
        };
        let unpacked = match (unpacked, measured) {
            (false, _) => "no".to_owned(),
            (true, Some(bytes)) if wide => size(bytes),
            (true, _) => "yes".to_owned(),
        };
        let mut row = vec![
            item.metadata.name.clone(),
            digest(found.as_ref()),
            platforms(on),
            bytes.map_or_else(String::new, size),
            unpacked,
            users.join(","),
        ];
        if wide {
            row.extend([time::age(now, item.metadata.created), item.metadata.source.to_string()]);
        }
        table.row(all_namespaces.then(|| item.metadata.namespace.clone()).into_iter().chain(row));
    }
    table.render("")
}

/// `ps`: tasks, not containers.
pub(in crate::cli) fn tasks(items: &[Item], all_namespaces: bool, now: Timestamp) -> String {
    let headers = ["NAME", "PID", "PHASE", "EXIT", "ATTEMPT", "UP", "IMAGE"];
    let mut table = Table::new(all_namespaces.then_some("NAMESPACE").into_iter().chain(headers));
    for item in items {
        let Some(status) = item.container() else { continue };
        let up = status.pid.and(status.started).map_or_else(String::new, |started| time::age(now, started));
        let namespace = all_namespaces.then(|| item.metadata.namespace.clone());
        table.row(namespace.into_iter().chain([
            item.metadata.name.clone(),
            shown(status.pid),
            status.phase.to_string(),
            shown(status.exit_code),
            status.attempt.to_string(),
            up,
            text(&item.spec, "image"),
        ]));
    }
    table.render("")
}

/// The first twelve digits, as people compare them.
pub(in crate::cli) fn digest(digest: Option<&Digest>) -> String {
    digest.map_or_else(|| NONE.to_owned(), |digest| digest.short().to_owned())
}

fn platforms(platforms: &[crate::oci::Platform]) -> String {
    platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn text(spec: &Value, field: &str) -> String {
    spec.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The mirrors' URLs, in their order.
fn mirrors(spec: &Value) -> String {
    let mirrors = spec.get("mirrors").and_then(Value::as_array).into_iter().flatten();
    mirrors.map(|mirror| text(mirror, "url")).collect::<Vec<_>>().join(",")
}

/// How far the host itself is trusted.
fn tls(spec: &Value) -> &'static str {
    let is = |field: &str| spec.get(field).and_then(Value::as_bool).unwrap_or_default();
    match (is("plainHTTP"), is("skipVerify")) {
        (true, _) => "none",
        (false, true) => "unverified",
        (false, false) => "verified",
    }
}

fn shown<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

fn yes(value: bool) -> String {
    if value { "true" } else { "false" }.to_owned()
}
