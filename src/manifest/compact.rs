//! `BayPlan`: whole namespaces in one manifest, desugared to the single kinds. Nothing behind this
//! module knows of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::Located;
use super::container::CONTAINER;
use super::model::{ContainerSpec, ImageSpec, Kind, Metadata, NamespaceSpec, Spec, TagSpec};
use super::names::as_label;
use super::reader::{Fields, Object, Reader};
use super::resource::METADATA;
use super::source::Extent;
use super::tree::{Entry, Node, Value};
use crate::oci::Reference;

pub(super) const PLAN: Fields = Fields { what: "a BayPlan's spec", known: &["namespaces"], later: &[], hints: &[] };
pub(super) const BLOCK: Fields = Fields {
    what: "a namespace of a BayPlan",
    known: &["labels", "images", "tags", "containers"],
    later: &["pods", "volumes", "networks", "secrets", "configs", "schedules"],
    hints: &[],
};

/// `BayPlan`: whole namespaces in one manifest.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)] // Only its schema is used; reading is done on the tree, for the places.
pub(super) struct BayPlanSpec {
    /// What each namespace holds, by the namespace's name.
    pub namespaces: BTreeMap<String, NamespaceBlock>,
}

/// What one namespace holds.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)]
pub(super) struct NamespaceBlock {
    /// Labels of the namespace; with them stands a `Namespace` resource.
    #[schemars(default)]
    pub labels: BTreeMap<String, String>,
    /// Images kept present: references, or an image's spec.
    #[schemars(default)]
    pub images: Vec<ImageEntry>,
    /// Tags: new reference to existing reference.
    #[schemars(default)]
    pub tags: BTreeMap<String, Reference>,
    /// Containers by name: a container's spec, and beside it its `labels` and `annotations`.
    #[schemars(default)]
    pub containers: BTreeMap<String, ContainerBlock>,
}

/// A reference, or an image's spec.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code)]
pub(super) enum ImageEntry {
    /// A full reference.
    Reference(Reference),
    /// As in an `Image`.
    Spec(ImageSpec),
}

/// A container's spec with its labels and annotations.
#[derive(JsonSchema)]
#[schemars(extend("additionalProperties" = false))]
#[allow(dead_code)]
pub(super) struct ContainerBlock {
    /// Labels of the container.
    #[schemars(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the container.
    #[schemars(default)]
    pub annotations: BTreeMap<String, String>,
    /// Its spec.
    #[schemars(flatten)]
    pub spec: ContainerSpec,
}

/// A `BayPlan` document → its resources. Its own labels and annotations go to each of them.
pub(super) fn read(reader: &mut Reader<'_>, o: &Object<'_>, out: &mut Vec<Located>) {
    reader.subject = "bayplan".into();
    let mut common = Metadata::default();
    if let Some((n, p)) = o.get("metadata")
        && let Some(m) = reader.object(n, &p, &METADATA)
    {
        if let Some((n, p)) = m.get("name")
            && let Some(name) = reader.string(n, &p)
        {
            reader.subject = format!("bayplan {name}");
            reader.label_name(&name, n.extent);
        }
        if let Some((n, p)) = m.get("namespace") {
            let help = Some("its namespaces are the keys of spec.namespaces".to_owned());
            reader.report(n.extent, format!("{p}: a BayPlan stands in no namespace"), "leave it out", help);
        }
        reader.labels_and_annotations(&m, &mut common);
    }
    let help = "a BayPlan holds spec: {namespaces: {NAME: {images, tags, containers}}}";
    let Some((n, p)) = reader.need(o, "spec", help) else { return };
    let Some(spec) = reader.object(n, &p, &PLAN) else { return };
    let Some((n, p)) = reader.need(&spec, "namespaces", help) else { return };
    for entry in reader.map(n, &p).unwrap_or_default() {
        if reader.namespace_name(&entry.key, entry.extent) && !entry.node.is_null() {
            namespace(reader, entry, &common, out);
        }
    }
}

fn namespace(reader: &mut Reader<'_>, entry: &Entry, common: &Metadata, out: &mut Vec<Located>) {
    let name = &entry.key;
    let subject = format!("namespace {name}");
    reader.subject.clone_from(&subject);
    reader.fields = BTreeMap::new();
    let Some(block) = reader.object(&entry.node, "", &BLOCK) else { return };
    let within = |labels: BTreeMap<String, String>, annotations: BTreeMap<String, String>| {
        let mut metadata = Metadata { namespace: name.clone(), ..common.clone() };
        metadata.labels.extend(labels);
        metadata.annotations.extend(annotations);
        metadata
    };
    let begin = |reader: &mut Reader<'_>, extent: Extent| {
        reader.fields = BTreeMap::new();
        reader.mark("metadata.name", extent);
    };
    if let Some((n, _)) = block.get("labels") {
        begin(reader, entry.extent);
        let labels = reader.texts(n, "metadata.labels", true);
        let metadata = Metadata { name: name.clone(), namespace: String::new(), ..within(labels, BTreeMap::new()) };
        reader.keep(metadata, Spec::Namespace(NamespaceSpec {}), entry.extent, out);
    }
    if let Some((n, p)) = block.get("images") {
        let help = "write a list of references";
        for (item, path) in reader.list(n, &p, Some(help)).unwrap_or_default() {
            begin(reader, item.extent);
            if let Some((own, spec)) = image(reader, item, &path) {
                let mut metadata = within(BTreeMap::new(), BTreeMap::new());
                metadata.name = own;
                reader.keep(metadata, Spec::Image(spec), item.extent, out);
            }
        }
    }
    if let Some((n, p)) = block.get("tags") {
        for tag in reader.map(n, &p).unwrap_or_default() {
            begin(reader, tag.extent);
            reader.mark("spec.reference", tag.extent);
            let reference = reader
                .reference_text(&tag.key, tag.extent, "tags")
                .filter(|reference| reader.tag_name(reference, tag.extent, "tags"));
            reader.subject = format!("tag {name}/{}", tag.key);
            let source = reader.reference(&tag.node, "spec.source");
            reader.subject.clone_from(&subject);
            if let (Some(reference), Some(source)) = (reference, source) {
                let mut metadata = within(BTreeMap::new(), BTreeMap::new());
                metadata.name = reference.to_string();
                reader.keep(metadata, Spec::Tag(TagSpec { reference, source }), tag.extent, out);
            }
        }
    }
    if let Some((n, p)) = block.get("containers") {
        for container in reader.map(n, &p).unwrap_or_default() {
            begin(reader, container.extent);
            let named = reader.label_name(&container.key, container.extent);
            reader.subject = format!("{} {name}/{}", Kind::Container, container.key);
            let (labels, annotations, spec) = container_block(reader, container);
            reader.subject.clone_from(&subject);
            if let (true, Some(spec)) = (named, spec) {
                let mut metadata = within(labels, annotations);
                metadata.name.clone_from(&container.key);
                reader.keep(metadata, Spec::Container(Box::new(spec)), container.extent, out);
            }
        }
    }
}

/// An entry of `images`, with the name of the resource.
fn image(reader: &mut Reader<'_>, item: &Node, path: &str) -> Option<(String, ImageSpec)> {
    if !matches!(item.value, Value::Map(_)) {
        let reference = reader.reference(item, path)?;
        reader.mark("spec.reference", item.extent);
        return Some((reference.to_string(), ImageSpec { reference: Some(reference), ..ImageSpec::default() }));
    }
    let entry = format!("{} {path}", reader.subject);
    let subject = std::mem::replace(&mut reader.subject, entry);
    let spec = reader.image_spec(item, "spec");
    reader.subject = subject;
    let spec = spec?;
    let name = match (&spec.reference, &spec.archive) {
        (Some(reference), _) => reference.to_string(),
        // An archive without a reference is called after its file.
        (None, Some(archive)) => {
            let file = archive.rsplit('/').next().unwrap_or(archive);
            let stem = file.split('.').find(|part| !part.is_empty()).unwrap_or(file);
            let Some(name) = as_label(stem) else {
                let message = format!("{path}: no name can be made of the archive's name");
                reader.report(item.extent, message, "needs a reference", Some("add reference: HOST/PATH:TAG".into()));
                return None;
            };
            name
        }
        (None, None) => return None,
    };
    Some((name, spec))
}

type Texts = BTreeMap<String, String>;

fn container_block(reader: &mut Reader<'_>, entry: &Entry) -> (Texts, Texts, Option<ContainerSpec>) {
    // In the compact form these two stand beside the spec's fields: there is no metadata to hold them.
    let texts = |reader: &mut Reader<'_>, field: &str| match entry.node.get(field) {
        Some(node) if !node.is_null() => reader.texts(node, &format!("metadata.{field}"), field == "labels"),
        _ => BTreeMap::new(),
    };
    let labels = texts(reader, "labels");
    let annotations = texts(reader, "annotations");
    let known: &'static [&'static str] = block_fields();
    let fields = Fields { known, hints: CONTAINER.hints, later: CONTAINER.later, what: CONTAINER.what };
    (labels, annotations, reader.container(&entry.node, "spec", &fields))
}

fn block_fields() -> &'static [&'static str] {
    static FIELDS: std::sync::OnceLock<Vec<&'static str>> = std::sync::OnceLock::new();
    FIELDS.get_or_init(|| CONTAINER.known.iter().copied().chain(["labels", "annotations"]).collect())
}
