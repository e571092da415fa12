//! The envelope and the small kinds off the tree: which kind it is, whose it is, what it is called.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::container::{CONTAINER, PULL};
use super::diagnostic::Place;
use super::model::{API_VERSION, HANDLE, ImageSpec, Kind, Metadata, NamespaceSpec, Resource, Spec, TagSpec};
use super::names::{key_fault, label_fault, namespace_fault, word_fault};
use super::reader::{Fields, Object, Reader, join};
use super::source::Extent;
use super::tree::Node;
use super::{Located, compact};
use crate::oci::{Platform, Reference, ReferenceError};

/// Kinds of later versions.
pub(super) const LATER_KINDS: [&str; 7] = ["Pod", "Volume", "Network", "Secret", "ConfigMap", "GitSource", "Schedule"];
const KINDS: [&str; 6] = ["Namespace", "Registry", "Image", "Tag", "Container", "BayPlan"];

const ENVELOPE: Fields = Fields {
    what: "a manifest",
    // What `get -o yaml` prints is a manifest too; its status is not read.
    known: &["apiVersion", "kind", "metadata", "spec", "status"],
    later: &[],
    hints: &[
        ("name", "write metadata.name"),
        ("namespace", "write metadata.namespace"),
        ("labels", "write metadata.labels"),
        ("image", "write spec.image"),
        ("services", "this is a Compose file; write each service as a Container, or all of them as one BayPlan"),
    ],
};
const LIST: Fields =
    Fields { what: "a List", known: &["apiVersion", "kind", "metadata", "items"], later: &[], hints: &[] };
/// The last ones are what listings print and other tools add; they are not read.
pub(super) const METADATA: Fields = Fields {
    what: "metadata",
    known: &[
        "name",
        "namespace",
        "labels",
        "annotations",
        "uid",
        "revision",
        "source",
        "created",
        "creationTimestamp",
        "generation",
        "resourceVersion",
    ],
    later: &[],
    hints: &[],
};
pub(super) const IMAGE: Fields = Fields {
    what: "an image's spec",
    known: &["reference", "archive", "pullPolicy", "platform", "pullSecrets", "keep"],
    later: &["update"],
    hints: &[
        ("image", "write reference"),
        ("imagePullSecrets", "write pullSecrets"),
        ("imagePullPolicy", "write pullPolicy"),
        ("path", "write archive"),
    ],
};
pub(super) const TAG: Fields = Fields {
    what: "a tag's spec",
    known: &["reference", "source"],
    later: &[],
    hints: &[("target", "write reference for the new name, source for the existing one"), ("image", "write source")],
};
pub(super) const NAMESPACE: Fields = Fields {
    what: "a namespace's spec",
    known: &[],
    later: &["podSecurity", "allowedRegistries", "requireDigests", "verify", "quota", "drift", "suspend"],
    hints: &[],
};

/// Metadata with the places of its parts.
pub(super) struct Head {
    pub metadata: Metadata,
    /// The name and where it stands; `None` when it is missing or not text.
    pub name: Option<(String, Extent)>,
    /// Where the resource is pointed at.
    pub extent: Extent,
}

/// Documents → resources, in order; findings go to the reader.
pub(super) fn read(reader: &mut Reader<'_>, documents: &[Rc<Node>]) -> Vec<Located> {
    let mut out = Vec::new();
    for document in documents {
        reader.document(document, &mut out, true);
    }
    out
}

impl Reader<'_> {
    fn document(&mut self, node: &Node, out: &mut Vec<Located>, top: bool) {
        self.fields = BTreeMap::new();
        self.subject = String::new();
        if node.entries().is_none() {
            let several =
                "a manifest is a map; several stand in one file with a line --- between them, or as a kind: List";
            self.wrong_type(node, "a manifest", "a map", Some(several.into()));
            return;
        }
        let word = node.get("kind").and_then(|kind| match &kind.value {
            super::tree::Value::Scalar(text, super::scalar::ScalarKind::Text) => Some(text.as_str()),
            _ => None,
        });
        if word == Some("List") && top {
            return self.list_document(node, out);
        }
        // Fields of a kind that is not known are not judged: one finding says it all.
        let known = word.is_none_or(|word| KINDS.contains(&word));
        let Some(o) = (if known { self.object(node, "", &ENVELOPE) } else { self.envelope_only(node) }) else { return };
        let version = self.api_version(&o, word);
        let Some(kind) = self.kind(&o, version) else { return };
        if !version {
            return;
        }
        match kind {
            "BayPlan" => compact::read(self, &o, out),
            "Namespace" => self.namespace(&o, out),
            "Registry" => self.registry(&o, out),
            "Image" => self.image(&o, out),
            "Tag" => self.tag(&o, out),
            _ => self.container_resource(&o, out),
        }
    }

    fn envelope_only<'t>(&mut self, node: &'t Node) -> Option<Object<'t>> {
        const ANY: Fields = Fields { what: "a manifest", known: &[], later: &[], hints: &[] };
        let before = self.found.len();
        let object = self.object(node, "", &ANY);
        self.found.truncate(before);
        object
    }

    fn list_document(&mut self, node: &Node, out: &mut Vec<Located>) {
        let Some(o) = self.object(node, "", &LIST) else { return };
        if let Some((n, p)) = o.get("apiVersion")
            && let Some(version) = self.string(n, &p)
            && version != API_VERSION
            && version != "v1"
        {
            self.wrong_version(n, &version, None);
        }
        let Some((items, path)) = o.get("items") else { return };
        for (item, _) in self.list(items, &path, None).unwrap_or_default() {
            self.document(item, out, false);
        }
        self.subject = String::new();
    }

    fn wrong_version(&mut self, node: &Node, version: &str, kind: Option<&str>) {
        let help = match kind {
            Some(kind) if kind != "List" && self.near(kind, KINDS.into_iter().chain(LATER_KINDS)).is_none() => {
                format!("a {kind} is another program's; bayplan's kinds are {}", KINDS.join(", "))
            }
            _ => format!("write apiVersion: {API_VERSION}"),
        };
        let message = format!("apiVersion {version:?} is not known");
        self.report(node.extent, message, "not a version of bayplan's", Some(help));
    }

    fn api_version(&mut self, o: &Object<'_>, kind: Option<&str>) -> bool {
        let Some((n, p)) = self.need(o, "apiVersion", "write apiVersion: bayplan.dev/v1") else { return false };
        let Some(version) = n.scalar() else {
            self.string(n, &p);
            return false;
        };
        if version != API_VERSION {
            self.wrong_version(n, version, kind);
        }
        version == API_VERSION
    }

    fn kind(&mut self, o: &Object<'_>, version: bool) -> Option<&'static str> {
        let (n, p) =
            self.need(o, "kind", "a manifest's kind is Namespace, Registry, Image, Tag, Container or BayPlan")?;
        let word = self.string(n, &p)?;
        if let Some(kind) = KINDS.iter().find(|kind| **kind == word) {
            return Some(kind);
        }
        if LATER_KINDS.contains(&word.as_str()) {
            let help = format!("this version knows {}", KINDS.join(", "));
            self.report(
                n.extent,
                format!("kind {word} is not supported by this version yet"),
                "a kind of later versions",
                Some(help),
            );
            return None;
        }
        // A stranger's kind under a stranger's version: the version was reported.
        if !version && self.near(&word, KINDS).is_none() {
            return None;
        }
        let help = match self.near(&word, KINDS.into_iter().chain(LATER_KINDS)) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("the kinds are {}", KINDS.join(", ")),
        };
        self.report(n.extent, format!("kind {word:?} is not known"), "unknown kind", Some(help));
        None
    }

    /// Metadata; `kind` for the subject of messages, `named` when a name must stand there.
    pub(super) fn head(&mut self, o: &Object<'_>, kind: Kind, named: bool) -> Head {
        self.subject = kind.word().to_owned();
        let mut head = Head {
            metadata: Metadata { namespace: self.default_namespace.to_owned(), ..Metadata::default() },
            name: None,
            extent: o.head(),
        };
        let help = "give it a name: metadata: {name: web}";
        let Some((n, p)) = (if named { self.need(o, "metadata", help) } else { o.get("metadata") }) else {
            return head;
        };
        // The name first: it opens the messages about all that follows.
        let quick = |field: &str| match n.get(field).map(|n| &n.value) {
            Some(super::tree::Value::Scalar(text, super::scalar::ScalarKind::Text)) => Some(text.clone()),
            _ => None,
        };
        if let Some(name) = quick("name") {
            let namespace = quick("namespace").unwrap_or_else(|| self.default_namespace.to_owned());
            self.subject = match kind {
                kind if kind.is_node_wide() => format!("{kind} {name}"),
                kind => format!("{kind} {namespace}/{name}"),
            };
        }
        let Some(m) = self.object(n, &p, &METADATA) else { return head };
        let name = if named { self.need(&m, "name", help) } else { m.get("name") };
        if let Some((n, p)) = name {
            head.extent = n.extent;
            head.name = self.string(n, &p).map(|name| (name, n.extent));
        }
        if let Some((n, p)) = m.get("namespace")
            && let Some(namespace) = self.string(n, &p)
        {
            if !kind.is_node_wide() {
                self.namespace_name(&namespace, n.extent);
            } else if kind == Kind::Registry {
                self.report(n.extent, format!("{p}: a registry belongs to the node"), "leave it out", None);
            } else if head.name.as_ref().is_some_and(|(name, _)| *name != namespace) {
                self.report(n.extent, format!("{p}: a namespace stands in no other"), "leave it out", None);
            }
            head.metadata.namespace = namespace;
        }
        self.labels_and_annotations(&m, &mut head.metadata);
        head
    }

    pub(super) fn labels_and_annotations(&mut self, o: &Object<'_>, metadata: &mut Metadata) {
        metadata.labels = o.get("labels").map(|(n, p)| self.texts(n, &p, true)).unwrap_or_default();
        metadata.annotations = o.get("annotations").map(|(n, p)| self.texts(n, &p, false)).unwrap_or_default();
    }

    /// Labels or annotations.
    pub(super) fn texts(&mut self, node: &Node, path: &str, labels: bool) -> BTreeMap<String, String> {
        let mut texts = BTreeMap::new();
        for entry in self.map(node, path).unwrap_or_default() {
            if let Some(fault) = key_fault(&entry.key) {
                let help = Some("keys are [prefix/]name, such as example.com/team".into());
                self.report(entry.extent, format!("{path}: {:?} is not a key", entry.key), fault, help);
            }
            let path = join(path, &entry.key);
            let Some(value) = self.string(&entry.node, &path) else { continue };
            if labels && let Some(fault) = word_fault(&value) {
                let help = Some("what is longer or freer stands in annotations".into());
                self.report(entry.node.extent, format!("{path}: {value:?} is not a label's value"), fault, help);
            }
            texts.insert(entry.key.clone(), value);
        }
        texts
    }

    pub(super) fn namespace_name(&mut self, name: &str, extent: Extent) -> bool {
        let fault = namespace_fault(name);
        if let Some(fault) = fault {
            self.report(extent, format!("{name:?} is not a namespace's name"), fault, None);
        }
        fault.is_none()
    }

    pub(super) fn label_name(&mut self, name: &str, extent: Extent) -> bool {
        let fault = label_fault(name);
        if let Some(fault) = fault {
            let help = super::names::as_label(name).filter(|label| label != name).map(|label| format!("write {label}"));
            self.report(extent, format!("{name:?} is not a name"), fault, help);
        }
        fault.is_none()
    }

    pub(super) fn reference(&mut self, node: &Node, path: &str) -> Option<Reference> {
        let text = self.string(node, path)?;
        self.reference_text(&text, node.extent, path)
    }

    pub(super) fn reference_text(&mut self, text: &str, extent: Extent, path: &str) -> Option<Reference> {
        let (message, label, help) = match text.parse::<Reference>() {
            Ok(reference) => return Some(reference),
            Err(ReferenceError::Short { given, suggestion }) => (
                format!("{path}: {given:?} names no registry host"),
                "a short name".to_owned(),
                format!("write {suggestion}"),
            ),
            Err(ReferenceError::Empty) => {
                (format!("{path} is empty"), "an image reference is wanted".into(), "write HOST/PATH:TAG".into())
            }
            Err(ReferenceError::Form { given, why }) => (
                format!("{path}: {given:?} is not an image reference"),
                why,
                "a reference is HOST[:PORT]/PATH[:TAG][@DIGEST]".into(),
            ),
            Err(ReferenceError::Digest { given, source }) => (
                format!("{path}: {given:?} is not an image reference"),
                source.to_string(),
                "a digest is sha256: and 64 hex digits".into(),
            ),
        };
        self.report(extent, message, &label, Some(help));
        None
    }

    /// Ends a resource: it is kept with its places.
    pub(super) fn keep(&mut self, metadata: Metadata, spec: Spec, extent: Extent, out: &mut Vec<Located>) {
        let place: Place = self.text.place(extent);
        let fields = std::mem::take(&mut self.fields);
        out.push(Located { resource: Resource { metadata, spec }, place, fields, text: Arc::clone(&self.text.text) });
    }

    fn namespace(&mut self, o: &Object<'_>, out: &mut Vec<Located>) {
        let head = self.head(o, Kind::Namespace, true);
        if let Some((n, p)) = o.get("spec") {
            self.object(n, &p, &NAMESPACE);
        }
        let Some((name, extent)) = head.name else { return };
        if self.namespace_name(&name, extent) {
            let metadata = Metadata { name, namespace: String::new(), ..head.metadata };
            self.keep(metadata, Spec::Namespace(NamespaceSpec {}), head.extent, out);
        }
    }

    fn container_resource(&mut self, o: &Object<'_>, out: &mut Vec<Located>) {
        let head = self.head(o, Kind::Container, true);
        let named = head.name.as_ref().is_some_and(|(name, extent)| self.label_name(name, *extent));
        let Some((n, p)) = self.need(o, "spec", "a container needs at least spec: {image: …}") else { return };
        let spec = self.container(n, &p, &CONTAINER);
        if let (true, Some((name, _)), Some(spec)) = (named, head.name, spec) {
            let metadata = Metadata { name, ..head.metadata };
            self.keep(metadata, Spec::Container(Box::new(spec)), head.extent, out);
        }
    }

    fn image(&mut self, o: &Object<'_>, out: &mut Vec<Located>) {
        let head = self.head(o, Kind::Image, false);
        let Some((n, p)) = self.need(o, "spec", "an image needs spec: {reference: …} or spec: {archive: …}") else {
            return;
        };
        let Some(mut spec) = self.image_spec(n, &p) else { return };
        let mut metadata = head.metadata;
        if spec.reference.is_none()
            && let Some((name, _)) = &head.name
            && name.contains('/')
        {
            // An archive named by a full reference is as good as one whose reference says so.
            spec.reference = name.parse().ok();
        }
        match (&spec.reference, head.name) {
            (Some(reference), name) => {
                let reference = reference.to_string();
                self.handle(&mut metadata, &reference, name);
                metadata.name = reference;
            }
            (None, Some((name, extent))) => {
                self.label_name(&name, extent);
                metadata.name = name;
            }
            (None, None) => {
                let help = Some("give it metadata.name or spec.reference".to_owned());
                self.report(o.head(), "metadata.name is required".into(), "an archive without a name", help);
                return;
            }
        }
        self.keep(metadata, Spec::Image(spec), head.extent, out);
    }

    /// Keeps the manifest's own name where the reference takes its place.
    fn handle(&mut self, metadata: &mut Metadata, reference: &str, name: Option<(String, Extent)>) {
        let Some((name, extent)) = name else { return };
        if let Ok(named) = name.parse::<Reference>() {
            if named.to_string() != reference {
                let message = format!("metadata.name is the reference {named}, but its reference is {reference}");
                self.report(
                    extent,
                    message,
                    "two references",
                    Some("name it by a short word, or by that reference".into()),
                );
            }
        } else if self.label_name(&name, extent) {
            metadata.annotations.insert(HANDLE.to_owned(), name);
        }
    }

    /// An image's spec; `None` when neither reference nor archive is usable.
    pub(super) fn image_spec(&mut self, node: &Node, path: &str) -> Option<ImageSpec> {
        let o = self.object(node, path, &IMAGE)?;
        let reference = o.get("reference").map(|(n, p)| self.reference(n, &p));
        let archive = o.get("archive").map(|(n, p)| {
            let text = self.string(n, &p)?;
            if text.is_empty() || text.starts_with('~') {
                let why = if text.is_empty() { "it is empty" } else { "~ is not expanded" };
                let help = Some("write a path beside the manifest, or an absolute one".into());
                self.report(n.extent, format!("{p}: {text:?} is not an archive's path"), why, help);
                return None;
            }
            self.beside(&text, n.extent, &p)
        });
        if reference.is_none() && archive.is_none() {
            let help = Some("write reference: HOST/PATH:TAG, or archive: FILE".to_owned());
            self.report(o.head(), format!("{path} needs a reference or an archive"), "names no image", help);
        }
        let pull_policy = o.get("pullPolicy").and_then(|(n, p)| self.choice(n, &p, &PULL));
        let platform =
            o.get("platform").and_then(|(n, p)| self.parsed::<Platform>(n, &p, "a platform, such as linux/amd64"));
        let pull_secrets = o.get("pullSecrets").map(|(n, p)| self.pull_secrets(n, &p)).unwrap_or_default();
        let keep = o.get("keep").and_then(|(n, p)| self.boolean(n, &p));
        let usable = !matches!(reference, Some(None))
            && !matches!(archive, Some(None))
            && (reference.is_some() || archive.is_some());
        usable.then_some(ImageSpec {
            reference: reference.flatten(),
            archive: archive.flatten(),
            pull_policy,
            platform,
            pull_secrets,
            keep,
        })
    }

    fn tag(&mut self, o: &Object<'_>, out: &mut Vec<Located>) {
        let head = self.head(o, Kind::Tag, false);
        let help = "a tag needs reference (the new name) and source (the existing one)";
        let Some((n, p)) = self.need(o, "spec", help) else { return };
        let Some(t) = self.object(n, &p, &TAG) else { return };
        let reference = self.need(&t, "reference", help).and_then(|(n, p)| {
            let reference = self.reference(n, &p)?;
            self.tag_name(&reference, n.extent, &p).then_some(reference)
        });
        let source = self.need(&t, "source", help).and_then(|(n, p)| self.reference(n, &p));
        let (Some(reference), Some(source)) = (reference, source) else { return };
        let mut metadata = head.metadata;
        self.handle(&mut metadata, &reference.to_string(), head.name);
        metadata.name = reference.to_string();
        self.keep(metadata, Spec::Tag(TagSpec { reference, source }), head.extent, out);
    }

    /// A tag's new name cannot promise a digest.
    pub(super) fn tag_name(&mut self, reference: &Reference, extent: Extent, path: &str) -> bool {
        if reference.digest().is_none() {
            return true;
        }
        let help = Some("write HOST/PATH:TAG; the digest may stand in source".to_owned());
        self.report(extent, format!("{path}: a tag's name cannot hold a digest"), "pins what it only names", help);
        false
    }
}
