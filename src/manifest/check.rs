//! What no single resource shows: duplicates, tags of nothing, cycles of tags. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Located;
use super::diagnostic::Diagnostic;
use super::model::{Kind, ResourceKey, Spec, TagSpec};
use super::names::nearest;
use crate::oci::Reference;

/// Findings about resources that are valid each by itself. `known` says which references a namespace of
/// the node has, whoever made them; a tag may point at those too.
pub fn check_set(resources: &[Located], known: &dyn Fn(&str, &Reference) -> bool) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    duplicates(resources, &mut found);
    tags(resources, known, &mut found);
    found
}

fn duplicates(resources: &[Located], found: &mut Vec<Diagnostic>) {
    let mut first: BTreeMap<ResourceKey, &Located> = BTreeMap::new();
    for located in resources {
        let key = located.resource.key();
        // An image and a tag share the names of their namespace.
        let other_kind = match key.kind {
            Kind::Image => Some(Kind::Tag),
            Kind::Tag => Some(Kind::Image),
            _ => None,
        };
        let twin = other_kind.and_then(|kind| first.get(&ResourceKey { kind, ..key.clone() }));
        let (message, other) = match (first.get(&key), twin) {
            (Some(other), _) => (format!("{key} is declared twice"), *other),
            (None, Some(other)) => (
                format!("reference {} is declared as an image and as a tag in namespace {}", key.name, key.namespace),
                *other,
            ),
            (None, None) => {
                first.insert(key, located);
                continue;
            }
        };
        let mut finding = located.finding("metadata.name", message, format!("also declared at {}", other.place));
        finding.help = Some("keep one of them; until then neither is taken".into());
        finding.other = Some(other.place.clone());
        found.push(finding);
    }
}

#[derive(Default)]
struct Declared<'r> {
    references: BTreeSet<&'r Reference>,
    tags: BTreeMap<&'r Reference, (&'r TagSpec, &'r Located)>,
    /// An archive whose content only the node knows.
    opaque: bool,
}

fn tags(resources: &[Located], known: &dyn Fn(&str, &Reference) -> bool, found: &mut Vec<Diagnostic>) {
    let mut namespaces: BTreeMap<&str, Declared<'_>> = BTreeMap::new();
    for located in resources {
        let declared = namespaces.entry(&located.resource.metadata.namespace).or_default();
        match &located.resource.spec {
            Spec::Namespace(_) | Spec::Registry(_) => {}
            Spec::Image(image) => match &image.reference {
                Some(reference) => {
                    declared.references.insert(reference);
                }
                None => declared.opaque = true,
            },
            Spec::Tag(tag) => {
                declared.references.insert(&tag.reference);
                declared.tags.entry(&tag.reference).or_insert((tag, located));
            }
            Spec::Container(container) => {
                declared.references.insert(&container.image);
            }
        }
    }
    for (namespace, declared) in &namespaces {
        for (tag, located) in declared.tags.values() {
            if declared.opaque || declared.references.contains(&tag.source) || known(namespace, &tag.source) {
                continue;
            }
            let message = format!("{} points at {}, which nothing declares", located.resource.key(), tag.source);
            let label = format!("not in namespace {namespace}");
            let mut finding = located.finding("spec.source", message, label);
            let source = tag.source.to_string();
            // Looking for near names is quadratic: the first findings have to do.
            let others = || declared.references.iter().filter(|r| ***r != tag.reference).map(ToString::to_string);
            let names: Vec<String> = if found.len() < 50 { others().collect() } else { Vec::new() };
            finding.help = Some(match nearest(&source, names.iter().map(String::as_str)) {
                Some(near) => format!("did you mean {near}? Else declare an Image {source}"),
                None => format!("declare an Image {source} in namespace {namespace}"),
            });
            found.push(finding);
        }
        cycles(declared, found);
    }
}

fn cycles(declared: &Declared<'_>, found: &mut Vec<Diagnostic>) {
    let mut done: BTreeSet<&Reference> = BTreeSet::new();
    for start in declared.tags.keys() {
        let mut chain: Vec<&Reference> = Vec::new();
        let mut position: BTreeMap<&Reference, usize> = BTreeMap::new();
        let mut at = *start;
        while let Some((tag, located)) = declared.tags.get(at) {
            if let Some(begin) = position.get(at) {
                let mut shown: Vec<String> = chain[*begin..].iter().map(ToString::to_string).collect();
                shown.push(at.to_string());
                let count = shown.len();
                if count > 12 {
                    shown.splice(6..count - 5, ["…".to_owned()]);
                }
                let message = format!("{} is part of a cycle of tags", located.resource.key());
                let mut finding = located.finding("spec.source", message, shown.join(" → "));
                finding.help = Some("let one of them point at an image".into());
                let (_, other) = declared.tags[&tag.source];
                finding.other = (other.place != located.place).then(|| other.place.clone());
                found.push(finding);
                break;
            }
            if !done.insert(at) {
                break;
            }
            position.insert(at, chain.len());
            chain.push(at);
            at = &tag.source;
        }
    }
}
