//! The manifest directory at the edge: reads it, has it judged, stores what was good, shows what is wanted.

use std::collections::BTreeSet;
use std::path::Path;

use crate::api::SourceStatus;
use crate::engine::Engine;
use crate::error::{Class, Fault, Result};
use crate::manifest::{Diagnostic, Located, ParseOptions, Place, ResourceKey, SourceFile};
use crate::oci::Reference;
use crate::plan::{Declared, Source};
use crate::store::ManifestFile;

use super::Node;
use super::directory::{DirectorySource, LastGood, Memory, Outcome, Parser, Persist};
use super::node::DirectoryView;
use super::scan::{Scan, Scanner};

/// Where the source's memory is in the database.
const MEMORY: &str = "directory";

/// The directory source with its edges.
pub struct LocalDirectory {
    source: DirectorySource,
    scanner: Scanner,
    read: Option<jiff::Timestamp>,
    /// What the database could not take when it was due; nothing of it is in force.
    unstored: Persist,
}

impl LocalDirectory {
    /// As it was stored; nothing is read yet.
    pub fn restore(engine: &Engine) -> Result<Self> {
        let corrupt = |error: serde_json::Error| {
            Fault::new(Class::Bug, format!("what is stored of the manifest directory cannot be read: {error}"))
        };
        let mut rows = Vec::new();
        for file in engine.store().manifest_files()? {
            rows.push(serde_json::from_slice::<LastGood>(&file.content).map_err(corrupt)?);
        }
        let memory = match engine.store().value(MEMORY)? {
            Some(text) => serde_json::from_str(&text).map_err(corrupt)?,
            None => Memory::default(),
        };
        Ok(Self {
            source: DirectorySource::restore(rows, memory),
            scanner: Scanner::new(&engine.config().manifests),
            read: None,
            unstored: Persist::default(),
        })
    }

    /// What it wants now.
    pub fn view(&self) -> DirectoryView {
        DirectoryView {
            version: 0,
            declared: self.source.desired().clone(),
            status: SourceStatus {
                name: "dir".into(),
                path: Some(self.scanner.root().to_owned()),
                files: self.source.len() as u64,
                resources: self.source.desired().len() as u64,
                held: self.source.held().map(|held| held.to_string()),
                problems: self.source.problems().into_iter().map(|problem| self.placed(problem)).collect(),
                read: self.read,
            },
        }
    }

    /// Reads the directory once and shows what it wants; `store`: for good.
    pub async fn look(&mut self, node: &Node, store: bool) -> Result<()> {
        let scan = self.scanner.scan(&BTreeSet::new());
        self.take(node, &scan, true, store)
    }

    /// Takes a snapshot of the tree. What it changes is stored before it is shown.
    pub fn take(&mut self, node: &Node, scan: &Scan, quiet: bool, store: bool) -> Result<()> {
        self.read = Some(jiff::Timestamp::now());
        let parser = NodeParser { node };
        let outcome = self.source.update(scan, quiet, &parser);
        self.settle(node, outcome, store)
    }

    /// Releases a removal that is held.
    pub fn confirm_removal(&mut self, node: &Node) -> Result<()> {
        let outcome = self.source.confirm_removal(&NodeParser { node });
        self.settle(node, outcome, true)
    }

    fn settle(&mut self, node: &Node, outcome: Outcome, store: bool) -> Result<()> {
        for diagnostic in outcome.reports.into_iter().map(|report| self.placed(report)) {
            tracing::warn!(place = %diagnostic.place, "{}", diagnostic.message);
            if store {
                let message = format!("{}: {}", diagnostic.place, diagnostic.message);
                node.engine.event(&directory_key(), crate::store::EventType::Warning, "BadManifest", message);
            }
        }
        for file in &outcome.mended {
            if store {
                let message = format!("{file} is good again");
                node.engine.event(&directory_key(), crate::store::EventType::Normal, "Mended", message);
            }
        }
        if let Some(held) = &outcome.held
            && store
        {
            node.engine.event(&directory_key(), crate::store::EventType::Warning, "RemovalHeld", held.to_string());
        }
        if store {
            self.unstored.and_then(outcome.persist);
        }
        self.bring_into_force(node)
    }

    /// What is about the directory as a whole has the directory as its place.
    fn placed(&self, mut diagnostic: Diagnostic) -> Diagnostic {
        if diagnostic.place.file.is_empty() {
            diagnostic.place.file = self.scanner.root().display().to_string();
        }
        diagnostic
    }

    /// Whether something waits to be stored.
    pub fn is_behind(&self) -> bool {
        !self.unstored.is_empty()
    }

    /// Stores what is not stored yet, and shows what is wanted. As long as the database takes nothing (the disk is
    /// full), what was in force stays so, `status` says why, and the caller tries again.
    pub fn bring_into_force(&mut self, node: &Node) -> Result<()> {
        if let Err(fault) = keep(node, &self.unstored) {
            let message = format!("changed manifests are not in force, they cannot be stored: {}", fault.message);
            node.complain(Diagnostic {
                message,
                place: Place { file: self.scanner.root().display().to_string(), line: 0, column: 0 },
                source_line: String::new(),
                length: 0,
                label: String::new(),
                help: fault.help.clone(),
                other: None,
            });
            return Err(fault);
        }
        self.unstored = Persist::default();
        node.show(self.view());
        Ok(())
    }
}

/// What events about the directory itself are told of.
fn directory_key() -> ResourceKey {
    ResourceKey::new(crate::manifest::Kind::Namespace, "manifests", "manifests")
}

fn keep(node: &Node, persist: &Persist) -> Result<()> {
    if persist.is_empty() {
        return Ok(());
    }
    let encode = |error: serde_json::Error| Fault::new(Class::Bug, format!("a manifest cannot be stored: {error}"));
    let store = node.engine.store();
    let mut rows = Vec::with_capacity(persist.save.len());
    for row in &persist.save {
        let content = serde_json::to_vec(row).map_err(encode)?;
        rows.push(ManifestFile { path: row.file.clone(), hash: row.hash.to_string(), content });
    }
    let memory = persist.memory.as_ref().map(serde_json::to_string).transpose().map_err(encode)?;
    store.keep_manifest_files(&rows, &persist.delete, memory.as_deref().map(|text| (MEMORY, text)))?;
    Ok(())
}

/// The real parser, which also knows what is on the node.
struct NodeParser<'n> {
    node: &'n Node,
}

impl Parser for NodeParser<'_> {
    fn parse(&self, file: &str, path: &Path, text: &[u8]) -> std::result::Result<Vec<Declared>, Vec<Diagnostic>> {
        let source = SourceFile { name: file.to_owned(), path: Some(path.to_owned()), text: text.to_vec() };
        let parsed = crate::manifest::parse(std::slice::from_ref(&source), &ParseOptions::default());
        if parsed.diagnostics.is_empty() {
            Ok(parsed.resources.into_iter().map(|located| declared(located, file)).collect())
        } else {
            Err(parsed.diagnostics)
        }
    }

    fn check(&self, set: &[&Declared]) -> Vec<(ResourceKey, Diagnostic)> {
        // Only findings about tags can come: each key is there once.
        let located: Vec<Located> = set
            .iter()
            .map(|declared| Located {
                resource: declared.resource.clone(),
                place: declared.place.clone().unwrap_or_default(),
                fields: declared.fields.clone(),
                text: "".into(),
            })
            .collect();
        let by_place: std::collections::HashMap<&Place, ResourceKey> = located
            .iter()
            .flat_map(|one| {
                std::iter::once(&one.place).chain(one.fields.values()).map(move |place| (place, one.resource.key()))
            })
            .collect();
        let known = |namespace: &str, reference: &Reference| {
            let records = self.node.engine.memory().read();
            records.references.contains_key(&(namespace.to_owned(), reference.clone()))
        };
        crate::manifest::check_set(&located, &known)
            .into_iter()
            .filter_map(|diagnostic| Some((by_place.get(&diagnostic.place)?.clone(), diagnostic)))
            .collect()
    }
}

fn declared(located: Located, file: &str) -> Declared {
    Declared {
        resource: located.resource,
        source: Source::Directory(file.to_owned()),
        place: Some(located.place),
        fields: located.fields,
    }
}
