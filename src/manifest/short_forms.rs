//! JSON Schemas of fields that people may write in a shorter form than the model keeps.

use schemars::{Schema, SchemaGenerator, json_schema};

use super::model::Mount;
use super::registry::{Mirror, PullSecret};

/// A map, or Kubernetes' list of `{name, value}`.
pub(super) fn env(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "title": "map of text, or list of {name, value}",
        "anyOf": [
            {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
            {"type": "array", "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "value": {"type": ["string", "number", "boolean", "null"]}
                },
                "required": ["name"],
                "additionalProperties": false
            }}
        ]
    })
}

/// Mounts, each `SOURCE:TARGET[:OPTIONS]` or a map.
pub(super) fn mounts(generator: &mut SchemaGenerator) -> Schema {
    let long = generator.subschema_for::<Mount>();
    json_schema!({
        "title": "list of SOURCE:TARGET[:OPTIONS] or map",
        "type": ["array", "null"],
        "items": {"anyOf": [{"type": "string", "pattern": "^[./][^:]*:/[^:]*(:[^:]*)?$"}, long]}
    })
}

/// Mirrors, each a URL or a map.
pub(super) fn mirrors(generator: &mut SchemaGenerator) -> Schema {
    let long = generator.subschema_for::<Mirror>();
    json_schema!({
        "title": "list of URL or map",
        "type": ["array", "null"],
        "items": {"anyOf": [{"type": "string", "pattern": "^https?://"}, long]}
    })
}

/// Pull secrets, each a name or `{name: …}`.
pub(super) fn pull_secrets(generator: &mut SchemaGenerator) -> Schema {
    let long = generator.subschema_for::<PullSecret>();
    json_schema!({
        "title": "list of text or {name}",
        "type": ["array", "null"],
        "items": {"anyOf": [{"type": "string"}, long]}
    })
}

/// A text, or a list of them.
pub(super) fn texts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "title": "text or list of text",
        "anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": {"type": "string"}}]
    })
}

/// A name, or the number that it stands for.
pub(super) fn text_or_number(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"title": "text", "type": ["string", "integer", "null"]})
}

/// A number, or `unlimited`.
pub(super) fn rlimit(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"anyOf": [
        {"type": "integer", "minimum": -1},
        {"enum": ["unlimited", "infinity"]}
    ]})
}
