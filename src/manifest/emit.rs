//! A resource as a manifest again, in kubectl's order of keys.

use serde::Serialize;
use serde_json::Value;

use super::model::{API_VERSION, Metadata, Resource, Spec};

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
    Image(&'r super::model::ImageSpec),
    Tag(&'r super::model::TagSpec),
    Container(&'r super::model::ContainerSpec),
}

fn parts(resource: &Resource) -> Envelope<'_> {
    let (kind, spec) = match &resource.spec {
        Spec::Namespace(spec) => ("Namespace", AnySpec::Namespace(spec)),
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
    serde_yaml::to_string(&parts(resource)).unwrap_or_default()
}
