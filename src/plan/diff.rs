//! What differs between two values, field by field, and how it is said to people.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::{Change, Source};
use crate::manifest::ContainerSpec;
use crate::oci::Digest;

/// Why something is made.
pub(super) const NOT_ON_NODE: &str = "not on the node";
/// Why something goes.
pub(super) const NO_LONGER_DECLARED: &str = "no longer declared";
/// The field name of a container's image content, which is no field of its spec.
pub const IMAGE_DIGEST: &str = "image digest";
/// The field name of who declares a resource.
pub(super) const SOURCE: &str = "source";

/// Changes said in one reason; the others are counted.
const SAID: usize = 3;
/// Characters of a value said in a reason; the change itself keeps all of it.
const SHOWN: usize = 60;

/// The fields of a container that change without a new process: kept by the engine, the shim
/// (supervision) or the cgroup (resources). Everything else is fixed when the process is made.
const IN_PLACE: [&str; 11] = [
    "annotations",
    "backoff",
    "imagePullPolicy",
    "labels",
    "logs",
    "resources",
    "restart",
    "restartLimit",
    SOURCE,
    "stopSignal",
    "terminationGracePeriodSeconds",
];

/// Whether the change of this field leaves a container's process alone.
pub(super) fn is_in_place(change: &Change) -> bool {
    let field = change.field.split(['.', '[']).next().unwrap_or_default();
    // What its streams are connected to is fixed with the process.
    IN_PLACE.contains(&field) && change.field != "logs.driver"
}

/// Differences of two label-like maps as `field.KEY`.
pub(super) fn map(
    field: &str,
    from: &BTreeMap<String, String>,
    to: &BTreeMap<String, String>,
    changes: &mut Vec<Change>,
) {
    if from == to {
        return;
    }
    let keys: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    for key in keys {
        let (from, to) = (from.get(key), to.get(key));
        if from != to {
            let quoted = |text: &String| Value::from(text.as_str()).to_string();
            changes.push(Change { field: format!("{field}.{key}"), from: from.map(quoted), to: to.map(quoted) });
        }
    }
}

/// Who declares it, where that changed.
pub(super) fn source(from: &Source, to: &Source, changes: &mut Vec<Change>) {
    if from != to {
        changes.push(Change { field: SOURCE.into(), from: Some(from.to_string()), to: Some(to.to_string()) });
    }
}

/// A digest that changed.
pub(super) fn digest(field: &str, from: &Digest, to: &Digest) -> Change {
    Change { field: field.into(), from: Some(from.to_string()), to: Some(to.to_string()) }
}

/// Differences of two container specs. Fields with a default say it rather than being absent.
pub(super) fn specs(from: &ContainerSpec, to: &ContainerSpec, changes: &mut Vec<Change>) {
    walk("", Some(&spelled_out(from)), Some(&spelled_out(to)), changes);
}

/// Differences of two values as their serialised forms show them.
pub(super) fn values<T: Serialize>(from: &T, to: &T, changes: &mut Vec<Change>) {
    walk("", Some(&json(from)), Some(&json(to)), changes);
}

fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// The spec with the defaults that serialising leaves out: `restart "Always" → "Never"` says more than
/// `restart unset → "Never"`.
fn spelled_out(spec: &ContainerSpec) -> Value {
    let mut value = json(spec);
    if let Value::Object(fields) = &mut value {
        fields.insert("restart".into(), json(&spec.restart));
        fields.insert("backoff".into(), json(&spec.backoff));
        fields.insert("logs".into(), json(&spec.logs));
        fields.insert("terminationGracePeriodSeconds".into(), spec.termination_grace_period_seconds.into());
    }
    value
}

/// Objects differ by field, lists of objects by element, everything else as a whole.
fn walk(path: &str, from: Option<&Value>, to: Option<&Value>, changes: &mut Vec<Change>) {
    if from == to {
        return;
    }
    let nothing = serde_json::Map::new();
    match (from, to) {
        (Some(Value::Object(from)), Some(Value::Object(to))) => fields(path, from, to, changes),
        (Some(Value::Object(from)), None) if !path.ends_with(']') => fields(path, from, &nothing, changes),
        (None, Some(Value::Object(to))) if !path.ends_with(']') => fields(path, &nothing, to, changes),
        (from, to) if is_list(from) && is_list(to) && (has_objects(from) || has_objects(to)) => {
            let (from, to) = (elements(from), elements(to));
            for index in 0..from.len().max(to.len()) {
                walk(&format!("{path}[{index}]"), from.get(index), to.get(index), changes);
            }
        }
        (from, to) => changes.push(Change {
            field: path.to_owned(),
            from: from.map(ToString::to_string),
            to: to.map(ToString::to_string),
        }),
    }
}

fn fields(
    path: &str,
    from: &serde_json::Map<String, Value>,
    to: &serde_json::Map<String, Value>,
    changes: &mut Vec<Change>,
) {
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    for name in names {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        walk(&path, from.get(name), to.get(name), changes);
    }
}

fn is_list(value: Option<&Value>) -> bool {
    matches!(value, None | Some(Value::Array(_)))
}

fn elements(value: Option<&Value>) -> &[Value] {
    match value {
        Some(Value::Array(elements)) => elements,
        _ => &[],
    }
}

fn has_objects(value: Option<&Value>) -> bool {
    elements(value).iter().any(Value::is_object)
}

/// One change in words: `env.TZ "UTC" → "CET"`, `hostname unset → "web"`, `now declared by cli`.
pub(super) fn say(change: &Change) -> String {
    if change.field == SOURCE {
        return format!("now declared by {}", change.to.as_deref().unwrap_or("nobody"));
    }
    format!("{} {} → {}", change.field, shown(change.from.as_deref()), shown(change.to.as_deref()))
}

/// A digest as people read it.
pub(super) fn short(digest: &Digest) -> String {
    format!("sha256:{}…", digest.short())
}

fn shown(value: Option<&str>) -> String {
    let Some(value) = value else { return "unset".into() };
    if let Ok(digest) = value.parse::<Digest>() {
        return short(&digest);
    }
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

/// Several causes in one line: the first few, and how many more there are.
pub(super) fn reason(causes: impl IntoIterator<Item = String>) -> String {
    let causes: Vec<String> = causes.into_iter().collect();
    let (said, rest) = causes.split_at(causes.len().min(SAID));
    let mut line = said.join(", ");
    if !rest.is_empty() {
        line.push_str(&format!(" and {} more", rest.len()));
    }
    line
}
