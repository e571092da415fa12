//! JSON Schemas of the manifests, from the model's types; `schema/` holds them as files.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::compact::BayPlanSpec;
use super::model::{API_VERSION, ContainerSpec, ImageSpec, Metadata, NamespaceSpec, TagSpec};
use super::names::nearest;

/// The kinds that a manifest may have.
pub(super) const KINDS: [&str; 6] = ["Namespace", "Registry", "Image", "Tag", "Container", "BayPlan"];

/// A word that names no kind or field, and what was perhaps meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is not {what}")]
pub struct Unknown {
    /// What was written.
    pub word: String,
    /// What it should have been: `a kind`, `a field of container.backoff`.
    pub what: String,
    /// The next step.
    pub help: String,
}

/// The manifest kind that a word means: singular, plural, short form, any case.
pub(super) fn manifest_kind(word: &str) -> Result<&'static str, Unknown> {
    let lower = word.to_ascii_lowercase();
    let kind = match lower.as_str() {
        "bayplan" | "bayplans" => Some("BayPlan"),
        other => super::kind_from_word(other)
            .and_then(|kind| KINDS.into_iter().find(|k| k.eq_ignore_ascii_case(kind.word()))),
    };
    kind.ok_or_else(|| Unknown {
        word: word.to_owned(),
        what: "a kind".into(),
        help: match nearest(word, KINDS) {
            Some(near) => format!("did you mean {}?", near.to_lowercase()),
            None => format!("the kinds are {}", KINDS.map(str::to_lowercase).join(", ")),
        },
    })
}

fn describe(kind: &str) -> &'static str {
    match kind {
        "Namespace" => "Settings of a namespace; a namespace exists as soon as something is declared in it.",
        "Registry" => {
            "How a host of images is reached, on the whole node. It goes before a hosts.toml of the same host, as a whole: the two are not merged."
        }
        "Image" => "An image kept present and protected from garbage collection.",
        "Tag" => "A new name for an image that the namespace has.",
        "Container" => "A container, and a task that is kept running.",
        _ => "Whole namespaces in one manifest.",
    }
}

/// One kind's envelope; definitions collect in the generator.
fn envelope(kind: &'static str, generator: &mut SchemaGenerator) -> Value {
    let spec = match kind {
        "Namespace" => generator.subschema_for::<NamespaceSpec>(),
        "Registry" => generator.subschema_for::<super::registry::RegistrySpec>(),
        "Image" => generator.subschema_for::<ImageSpec>(),
        "Tag" => generator.subschema_for::<TagSpec>(),
        "Container" => generator.subschema_for::<ContainerSpec>(),
        _ => generator.subschema_for::<BayPlanSpec>(),
    };
    generator.subschema_for::<Metadata>();
    // A registry is called after its host, an image and a tag after their reference; a BayPlan's own name means nothing.
    let (metadata, required) = match kind {
        "Namespace" => ("Metadata", json!(["apiVersion", "kind", "metadata"])),
        "Container" => ("Metadata", json!(["apiVersion", "kind", "metadata", "spec"])),
        _ => ("OptionalMetadata", json!(["apiVersion", "kind", "spec"])),
    };
    json!({
        "title": kind,
        "description": describe(kind),
        "type": "object",
        "properties": {
            "apiVersion": {"const": API_VERSION, "description": "The version of the envelope."},
            "kind": {"const": kind, "description": "What sort of resource."},
            "metadata": {"$ref": format!("#/$defs/{metadata}"), "description": "Name, namespace, labels, annotations."},
            "spec": merged(spec.to_value(), "description", "What is wanted."),
            "status": {"type": "object", "description": "What listings print; not read."}
        },
        "required": required,
        "additionalProperties": false
    })
}

fn merged(mut schema: Value, key: &str, value: &str) -> Value {
    if let Some(map) = schema.as_object_mut() {
        map.insert(key.into(), value.into());
    }
    schema
}

fn definitions(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let mut definitions = generator.take_definitions(true);
    if let Some(metadata) = definitions.get_mut("Metadata").and_then(Value::as_object_mut) {
        if let Some(properties) = metadata.get_mut("properties").and_then(Value::as_object_mut) {
            for field in super::resource::METADATA.known {
                let unread = || json!({"description": "What listings print; not read."});
                properties.entry((*field).to_owned()).or_insert_with(unread);
            }
        }
        let mut optional = metadata.clone();
        optional.remove("required");
        definitions.insert("OptionalMetadata".into(), Value::Object(optional));
    }
    definitions
}

/// The JSON Schema (draft 2020-12) of a kind, given in any of its spellings, or of every manifest. It
/// accepts the short forms too. What only the whole can show (a reference's grammar, duplicates) is not in it.
pub fn schema(kind: Option<&str>) -> Result<Value, Unknown> {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let dialect = "https://json-schema.org/draft/2020-12/schema";
    let Some(kind) = kind else {
        let kinds = KINDS.map(|kind| (kind, envelope(kind, &mut generator)));
        let mut definitions = definitions(&mut generator);
        let refer = |kind: &str| json!({"$ref": format!("#/$defs/{kind}")});
        let mut any: Vec<Value> = kinds.iter().map(|(kind, _)| refer(kind)).collect();
        definitions.extend(kinds.map(|(kind, schema)| (kind.to_owned(), schema)));
        let items = json!({"type": "array", "items": {"anyOf": any.clone()}});
        definitions.insert(
            "List".into(),
            json!({
                "title": "List",
                "description": "Several manifests in one, as listings print them.",
                "type": "object",
                "properties": {
                    "apiVersion": {"enum": [API_VERSION, "v1"]},
                    "kind": {"const": "List"},
                    "metadata": {"type": "object"},
                    "items": items
                },
                "required": ["kind"],
                "additionalProperties": false
            }),
        );
        any.push(refer("List"));
        return Ok(json!({
            "$schema": dialect,
            "title": "bayplan manifest",
            "description": "A manifest of bayplan, of any kind.",
            "oneOf": any,
            "$defs": definitions
        }));
    };
    let kind = manifest_kind(kind)?;
    let mut schema = envelope(kind, &mut generator);
    if let Some(map) = schema.as_object_mut() {
        map.insert("$schema".into(), dialect.into());
        let definitions = definitions(&mut generator);
        let (unused, _) = if map["properties"]["metadata"]["$ref"] == "#/$defs/Metadata" {
            ("OptionalMetadata", ())
        } else {
            ("Metadata", ())
        };
        let used = definitions.into_iter().filter(|(name, _)| name != unused).collect();
        map.insert("$defs".into(), Value::Object(used));
    }
    Ok(schema)
}

/// The files of `schema/`: name and content.
pub fn schema_files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for kind in [None].into_iter().chain(KINDS.map(Some)) {
        let name = kind.map_or_else(|| "manifest".to_owned(), str::to_lowercase);
        if let Ok(schema) = schema(kind) {
            files.push((format!("{name}.json"), format!("{schema:#}\n")));
        }
    }
    files
}
