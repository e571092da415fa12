//! YAML and JSON text → typed, defaulted, validated resources, each with its place in the source.
//!
//! Invariant: what leaves here is valid on its own; every finding names file, line and column. No I/O;
//! depends on nothing but [`crate::oci`].
//!
//! Bytes become text with numbered lines (`source`), then a tree of nodes with their extents (`tree`), and the
//! `reader` takes typed values off it: `resource` the envelope and small kinds, `container`,
//! `mounts`, `limits` and `security` a container's spec, `compact` the `BayPlan`. `check` judges them together. `emit`
//! prints one again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

mod check;
mod compact;
mod container;
pub mod diagnostic;
mod emit;
mod explain;
mod json;
mod limits;
pub mod model;
mod mounts;
mod names;
mod quantity;
mod reader;
mod registry;
mod resource;
mod scalar;
mod schema;
mod security;
mod short_forms;
mod source;
mod tree;

pub use check::check_set;
pub use diagnostic::{Diagnostic, Place};
pub use emit::{envelope, to_yaml};
pub use explain::{explain, field_tables};
pub use limits::log_driver;
pub use model::*;
pub use registry::{Capability, ClientCertificate, DEFAULT_HOST, Mirror, PullSecret, RegistryAuth, RegistrySpec};
pub use schema::{Unknown, schema, schema_files};
pub use source::{MAX_FILE, SourceFile};

/// How manifests are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseOptions {
    /// The namespace of a resource that names none.
    pub default_namespace: String,
}

impl Default for ParseOptions {
    fn default() -> Self {
        Self { default_namespace: "default".into() }
    }
}

/// A resource and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// The resource.
    pub resource: Resource,
    /// Where its name stands, or where it begins.
    pub place: Place,
    /// Places of its fields by path: `metadata.name`, `spec.image`, `spec.env.TZ`, `spec.mounts[0].source`.
    pub fields: BTreeMap<String, Place>,
    /// The text of its file, for showing the line of a later finding.
    pub text: Arc<str>,
}

impl Located {
    /// A finding about a field of this resource (`spec.image`), or about the resource when that field was
    /// not written.
    pub fn finding(&self, field: &str, message: impl Into<String>, label: impl Into<String>) -> Diagnostic {
        let place = self.fields.get(field).unwrap_or(&self.place).clone();
        source::finding_at(&self.text, place, message.into(), label.into())
    }
}

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOutcome {
    /// The file's shown name.
    pub name: String,
    /// Its part of [`Parsed::resources`]; empty when it has findings.
    pub resources: Range<usize>,
    /// Its part of [`Parsed::diagnostics`].
    pub diagnostics: Range<usize>,
}

impl FileOutcome {
    /// Whether the file was read without a finding.
    pub fn is_valid(&self) -> bool {
        self.diagnostics.is_empty()
    }
}

/// What files hold. A file with a finding contributes no resource.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parsed {
    /// The resources of the valid files, in the order written.
    pub resources: Vec<Located>,
    /// Everything that is wrong, file by file, in the order of lines.
    pub diagnostics: Vec<Diagnostic>,
    /// What became of each file, in the order given.
    pub per_file: Vec<FileOutcome>,
}

/// Reads manifest files. Never fails as a whole: what is wrong with a file is in the diagnostics. Sets of
/// resources are judged by [`check_set`].
pub fn parse(files: &[SourceFile], options: &ParseOptions) -> Parsed {
    let mut parsed = Parsed::default();
    for file in files {
        let (resources, mut findings) = parse_file(file, options);
        findings.sort_by_key(|finding| match finding.place.line {
            0 => (u32::MAX, 0),
            line => (line, finding.place.column),
        });
        let (first, found) = (parsed.resources.len(), parsed.diagnostics.len());
        if findings.is_empty() {
            parsed.resources.extend(resources);
        }
        parsed.diagnostics.extend(findings);
        parsed.per_file.push(FileOutcome {
            name: file.name.clone(),
            resources: first..parsed.resources.len(),
            diagnostics: found..parsed.diagnostics.len(),
        });
    }
    parsed
}

fn parse_file(file: &SourceFile, options: &ParseOptions) -> (Vec<Located>, Vec<Diagnostic>) {
    let text = match source::Text::decode(file) {
        Ok(text) => text,
        Err(finding) => return (Vec::new(), vec![*finding]),
    };
    let json = file.path.as_ref().and_then(|path| path.extension()).is_some_and(|e| e.eq_ignore_ascii_case("json"))
        || file.name.ends_with(".json");
    let mut reader = reader::Reader::new(&text, file.path.as_deref(), &options.default_namespace);
    let mut findings = Vec::new();
    let documents = tree::documents(&text, json, &mut findings);
    findings.truncate(50);
    let resources = resource::read(&mut reader, &documents);
    findings.extend(reader.finish());
    (resources, findings)
}

/// The kind that a word of the command line means: singular, plural, short form, any case.
pub fn kind_from_word(word: &str) -> Option<Kind> {
    match word.to_ascii_lowercase().as_str() {
        "namespace" | "namespaces" | "ns" => Some(Kind::Namespace),
        "registry" | "registries" => Some(Kind::Registry),
        "image" | "images" | "i" => Some(Kind::Image),
        "tag" | "tags" => Some(Kind::Tag),
        "container" | "containers" | "c" => Some(Kind::Container),
        _ => None,
    }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
