//! What a field means, from the same schemas that check it: for `bayplan explain`, and for the field
//! tables of `docs/MANIFESTS.md`.

use std::fmt::Write as _;

use serde_json::Value;

use super::names::nearest;
use super::schema::{KINDS, Unknown, manifest_kind, schema};

/// One field, its references followed.
struct Field {
    name: String,
    kind: String,
    default: Option<String>,
    required: bool,
    meaning: String,
    /// The words it may be, each with its meaning.
    words: Vec<(String, String)>,
    /// The schema whose properties are its fields.
    inner: Option<Value>,
}

fn resolve<'s>(root: &'s Value, mut schema: &'s Value) -> &'s Value {
    // Definitions refer to each other a few levels deep, never in a circle.
    for _ in 0..16 {
        let Some(name) = schema["$ref"].as_str().and_then(|r| r.strip_prefix("#/$defs/")) else { break };
        schema = &root["$defs"][name];
    }
    schema
}

fn text(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().split('\n').collect::<Vec<_>>().join(" ")
}

/// The alternatives of a schema that are not null.
fn alternatives(schema: &Value) -> Vec<&Value> {
    let list = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array());
    list.map(|list| list.iter().filter(|s| s["type"] != "null").collect()).unwrap_or_default()
}

fn words(root: &Value, schema: &Value) -> Vec<(String, String)> {
    let schema = resolve(root, schema);
    if let Some(list) = schema["enum"].as_array() {
        return list.iter().filter_map(|v| Some((v.as_str()?.to_owned(), String::new()))).collect();
    }
    if let Some(word) = schema["const"].as_str() {
        return vec![(word.to_owned(), text(schema))];
    }
    let inner: Vec<Vec<(String, String)>> = alternatives(schema).into_iter().map(|s| words(root, s)).collect();
    if inner.iter().any(Vec::is_empty) { Vec::new() } else { inner.into_iter().flatten().collect() }
}

/// The type in words.
fn type_of(root: &Value, schema: &Value) -> String {
    let name = schema["$ref"].as_str().and_then(|r| r.strip_prefix("#/$defs/"));
    if let Some(name @ ("Quantity" | "Duration" | "Reference" | "Platform")) = name {
        return name.to_lowercase();
    }
    let schema = resolve(root, schema);
    // Short forms are titled: their alternatives spelled out would say less.
    if let Some(title) = schema["title"].as_str() {
        return title.to_owned();
    }
    let words = words(root, schema);
    if !words.is_empty() {
        return words.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>().join(" | ");
    }
    let alternatives = alternatives(schema);
    if !alternatives.is_empty() {
        let mut types: Vec<String> = alternatives.into_iter().map(|s| type_of(root, s)).collect();
        types.dedup();
        return types.join(" or ");
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(list) => list.iter().filter_map(Value::as_str).filter(|t| *t != "null").collect(),
        _ => Vec::new(),
    };
    let words = types.into_iter().map(|t| match t {
        "array" => format!("list of {}", type_of(root, &schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("map of text to {}", type_of(root, &schema["additionalProperties"]))
        }
        "object" => "map".to_owned(),
        "string" => "text".into(),
        "integer" => "whole number".into(),
        "boolean" => "true | false".into(),
        other => other.into(),
    });
    let words: Vec<String> = words.collect();
    if words.is_empty() { "any".into() } else { words.join(" or ") }
}

/// The map that a field's own fields stand in: itself, an alternative, a list's item, a map's value.
fn inner(root: &Value, schema: &Value) -> Option<Value> {
    let schema = resolve(root, schema);
    if schema["properties"].as_object().is_some_and(|p| !p.is_empty()) {
        return Some(schema.clone());
    }
    alternatives(schema)
        .into_iter()
        .chain([&schema["items"], &schema["additionalProperties"]])
        .filter(|s| s.is_object())
        .find_map(|s| inner(root, s))
}

fn field(root: &Value, parent: &Value, name: &str, schema: &Value) -> Field {
    let whole = resolve(root, schema);
    let own = text(schema);
    let required = parent["required"].as_array().is_some_and(|r| r.iter().any(|v| v == name));
    let default = match schema.get("default") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(list)) if list.is_empty() => None,
        Some(Value::Object(map)) if map.is_empty() => None,
        Some(other) => Some(other.to_string()),
    };
    Field {
        name: name.to_owned(),
        kind: type_of(root, schema),
        default,
        required,
        meaning: if own.is_empty() { text(whole) } else { own },
        words: words(root, schema),
        inner: inner(root, schema),
    }
}

fn fields(root: &Value, schema: &Value) -> Vec<Field> {
    let properties = schema["properties"].as_object();
    let mut fields: Vec<Field> = properties
        .map(|p| p.iter().map(|(name, inner)| field(root, schema, name, inner)).collect())
        .unwrap_or_default();
    fields.retain(|field| field.meaning != "What listings print; not read.");
    fields
}

/// Explains a kind or one of its fields: `container`, `container.restart`, `c.spec.mounts.source`. The
/// kind may be written in any of its spellings, `spec` may be left out, indexes (`mounts[0]`) are ignored.
pub fn explain(path: &str) -> Result<String, Unknown> {
    let mut parts = path.trim().trim_end_matches('.').split('.').map(|part| part.split('[').next().unwrap_or(part));
    let kind = manifest_kind(parts.next().unwrap_or_default())?;
    let mut parts: Vec<&str> = parts.collect();
    if parts.len() > 1 && parts[0] == "spec" {
        parts.remove(0);
    }
    let root = schema(Some(kind))?;
    let mut walked = kind.to_lowercase();
    let mut at = root.clone();
    let mut found: Option<Field> = None;
    for (depth, part) in parts.into_iter().enumerate() {
        let mut candidates = fields(&root, &at);
        if depth == 0 && !candidates.iter().any(|f| f.name == part) {
            let spec = field(&root, &root, "spec", &root["properties"]["spec"]);
            if let Some(inner) = spec.inner {
                candidates = fields(&root, &inner);
            }
        }
        let names: Vec<String> = candidates.iter().map(|f| f.name.clone()).collect();
        let Some(next) = candidates.into_iter().find(|f| f.name.eq_ignore_ascii_case(part)) else {
            // The keys of a map are the writer's own.
            if let Some(field) = &found
                && field.kind.starts_with("map of text")
                && depth > 0
            {
                let _ = write!(walked, ".{part}");
                continue;
            }
            let help = match nearest(part, names.iter().map(String::as_str)) {
                Some(near) => format!("did you mean {walked}.{near}?"),
                None if names.is_empty() => format!("{walked} has no fields"),
                None => format!("its fields are {}", names.join(", ")),
            };
            return Err(Unknown { word: part.to_owned(), what: format!("a field of {walked}"), help });
        };
        let _ = write!(walked, ".{}", next.name);
        at = next.inner.clone().unwrap_or_default();
        found = Some(next);
    }
    Ok(render(kind, &walked, found, &root))
}

fn render(kind: &str, path: &str, found: Option<Field>, root: &Value) -> String {
    let mut out = String::new();
    let (meaning, inner) = match found {
        None => {
            let _ = writeln!(out, "KIND:     {kind}\nVERSION:  {}", super::API_VERSION);
            // A kind's fields are those of its spec; the envelope is the same everywhere.
            (text(root), inner(root, &root["properties"]["spec"]))
        }
        Some(field) => {
            let _ = writeln!(out, "FIELD:    {path}\nTYPE:     {}", field.kind);
            if field.required {
                let _ = writeln!(out, "REQUIRED: yes");
            }
            if let Some(default) = &field.default {
                let _ = writeln!(out, "DEFAULT:  {default}");
            }
            let mut meaning = field.meaning;
            for (word, what) in field.words.iter().filter(|(_, what)| !what.is_empty()) {
                let _ = write!(meaning, "\n  {word}: {what}");
            }
            (meaning, field.inner)
        }
    };
    let _ = writeln!(out, "\n{meaning}");
    let fields = inner.map(|inner| fields(root, &inner)).unwrap_or_default();
    if !fields.is_empty() {
        let _ = writeln!(out, "\nFIELDS:");
        let width = fields.iter().map(|f| f.name.len()).max().unwrap_or(0);
        for field in fields {
            let required = if field.required { " (required)" } else { "" };
            let default = field.default.map(|d| format!(" [{d}]")).unwrap_or_default();
            let _ = writeln!(out, "  {:width$}  {}{required}{default}", field.name, field.kind);
            let _ = writeln!(out, "  {:width$}    {}", "", field.meaning);
        }
    }
    out
}

/// The field tables of every kind in Markdown, for `docs/MANIFESTS.md`.
pub fn field_tables() -> String {
    let mut out = String::new();
    for kind in KINDS {
        let Ok(root) = schema(Some(kind)) else { continue };
        let _ = writeln!(out, "### {kind}\n\n{}\n", text(&root));
        let spec = inner(&root, &root["properties"]["spec"]);
        let rows = spec.map(|spec| rows(&root, &spec, "", kind == "BayPlan")).unwrap_or_default();
        if rows.is_empty() {
            let _ = writeln!(out, "Its `spec` has no fields in this version.\n");
            continue;
        }
        let _ = writeln!(out, "| field of `spec` | type | default | meaning |\n| --- | --- | --- | --- |");
        let _ = writeln!(out, "{rows}");
    }
    out
}

/// Rows of a table, those of inner maps beneath theirs. A `BayPlan` stops where the single kinds begin.
fn rows(root: &Value, schema: &Value, prefix: &str, plan: bool) -> String {
    let mut out = String::new();
    for field in fields(root, schema) {
        let path = format!("{prefix}{}", field.name);
        let escape = |text: &str| text.replace('|', "\\|");
        let required = if field.required { " (required)" } else { "" };
        let default = field.default.as_deref().map(|d| format!("`{}`", escape(d))).unwrap_or_default();
        let mut meaning = escape(&field.meaning);
        for (word, what) in field.words.iter().filter(|(_, what)| !what.is_empty()) {
            let _ = write!(meaning, " `{word}`: {}", escape(what));
        }
        let _ = writeln!(out, "| `{path}`{required} | {} | {default} | {meaning} |", escape(&field.kind));
        if plan && field.name != "namespaces" {
            continue;
        }
        if let Some(inner) = &field.inner {
            let step = match field.kind.as_str() {
                kind if kind.starts_with("map of text") => ".NAME.",
                kind if kind.contains("list of") => "[].",
                _ => ".",
            };
            // `{name, value}` of an env list is said in its meaning.
            if field.name != "env" {
                out.push_str(&rows(root, inner, &format!("{path}{step}"), plan));
            }
        }
    }
    out
}
