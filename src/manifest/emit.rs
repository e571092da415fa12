//! A resource as a manifest again, in kubectl's order of keys.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;
use serde_yaml::Value as Yaml;

use super::model::{API_VERSION, Metadata, Resource, Spec};
use super::scalar::{ScalarKind, kind_of};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'r> {
    api_version: &'static str,
    kind: &'static str,
    metadata: &'r Metadata,
    spec: AnySpec<'r>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum AnySpec<'r> {
    Namespace(&'r super::model::NamespaceSpec),
    Registry(&'r super::registry::RegistrySpec),
    Image(&'r super::model::ImageSpec),
    Tag(&'r super::model::TagSpec),
    Container(&'r super::model::ContainerSpec),
}

fn parts(resource: &Resource) -> Envelope<'_> {
    let (kind, spec) = match &resource.spec {
        Spec::Namespace(spec) => ("Namespace", AnySpec::Namespace(spec)),
        Spec::Registry(spec) => ("Registry", AnySpec::Registry(spec)),
        Spec::Image(spec) => ("Image", AnySpec::Image(spec)),
        Spec::Tag(spec) => ("Tag", AnySpec::Tag(spec)),
        Spec::Container(spec) => ("Container", AnySpec::Container(spec)),
    };
    Envelope { api_version: API_VERSION, kind, metadata: &resource.metadata, spec }
}

/// The resource as a JSON manifest: apiVersion, kind, metadata, spec.
pub fn envelope(resource: &Resource) -> Value {
    // Maps with text keys and plain values: there is nothing that JSON could refuse.
    serde_json::to_value(parts(resource)).unwrap_or_default()
}

/// The resource as a YAML manifest, ended by a line feed. It parses back equal.
pub fn to_yaml(resource: &Resource) -> String {
    // Only the order of keys is wanted of this value; see `node` for why it is not printed by its crate.
    let value = serde_yaml::to_value(parts(resource)).unwrap_or_default();
    let mut out = String::new();
    node(&mut out, &value, 0, true);
    out
}

/// Prints a value in block style. Printed here and not by libyaml's emitter, which takes U+2028 and U+0085
/// for line breaks, as YAML 1.1 did, and so loses them.
fn node(out: &mut String, value: &Yaml, indent: usize, line_begins: bool) {
    match value {
        Yaml::Mapping(map) if map.is_empty() => out.push_str("{}\n"),
        Yaml::Sequence(list) if list.is_empty() => out.push_str("[]\n"),
        Yaml::Mapping(map) => {
            for (i, (key, value)) in map.iter().enumerate() {
                if i > 0 || !line_begins {
                    out.extend(std::iter::repeat_n(' ', indent));
                }
                match key {
                    Yaml::String(key) => out.push_str(&scalar(key)),
                    other => plain(out, other),
                }
                out.push(':');
                match value {
                    Yaml::Mapping(inner) if !inner.is_empty() => {
                        out.push('\n');
                        node(out, value, indent + 2, false);
                    }
                    Yaml::Sequence(inner) if !inner.is_empty() => {
                        out.push('\n');
                        node(out, value, indent, false);
                    }
                    _ => {
                        out.push(' ');
                        node(out, value, indent + 2, true);
                    }
                }
            }
        }
        Yaml::Sequence(list) => {
            for item in list {
                out.extend(std::iter::repeat_n(' ', indent));
                out.push_str("- ");
                node(out, item, indent + 2, true);
            }
        }
        Yaml::String(text) => match block(text) {
            Some(style) => {
                out.push_str(style);
                out.push('\n');
                for line in text.lines() {
                    if !line.is_empty() {
                        out.extend(std::iter::repeat_n(' ', indent));
                        out.push_str(line);
                    }
                    out.push('\n');
                }
            }
            None => {
                out.push_str(&scalar(text));
                out.push('\n');
            }
        },
        other => {
            plain(out, other);
            out.push('\n');
        }
    }
}

fn plain(out: &mut String, value: &Yaml) {
    match value {
        Yaml::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Yaml::Number(number) => out.push_str(&number.to_string()),
        _ => out.push_str("null"),
    }
}

/// The header of a literal block, for text of several lines that it can hold as it is.
fn block(text: &str) -> Option<&'static str> {
    let ends = text.len() - text.trim_end_matches('\n').len();
    let clean = |c: char| c == '\n' || (!c.is_control() && !is_special(c));
    let fits = text.trim_end_matches('\n').contains('\n')
        && ends <= 1
        && !text.starts_with([' ', '\n'])
        && text.chars().all(clean)
        && text.lines().all(|line| !line.ends_with(' '));
    fits.then_some(if ends == 1 { "|" } else { "|-" })
}

/// Characters that are invisible, or that some reader takes for a line break or a mark.
fn is_special(c: char) -> bool {
    matches!(c, '\u{85}' | '\u{a0}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// A text on one line, quoted unless every reader, YAML 1.1 ones too, takes it for text without.
fn scalar(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/' | '.' | '-' | ':' | '@' | '+' | ' ' | '=');
    let first = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/');
    // Dates and times of day, which YAML 1.1 types.
    let number_like =
        |c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | ':' | '+' | 'e' | 'E' | '_' | ' ' | 'T' | 'Z');
    let word = matches!(
        text.to_ascii_lowercase().as_str(),
        "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null"
    );
    let numeric = text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(number_like);
    let bare = text.starts_with(first)
        && text.chars().all(safe)
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !(word || numeric || text.starts_with("0x"))
        && kind_of(text) == ScalarKind::Text;
    if bare {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() || is_special(c) => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
