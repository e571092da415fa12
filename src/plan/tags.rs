//! Tags follow their sources: through other tags, then images, then what else the node has.

use std::collections::HashMap;

use super::diff;
use super::order::Draft;
use super::references::{Content, Lack, References, View, key, metadata_changes};
use super::wants::{Name, Want};
use super::{Action, Declared, Problem, ReferenceRole, Severity, Source, Step, Target};
use crate::manifest::{Kind, TagSpec};

/// Plans every tag, sources before what follows them.
pub(super) fn plan<'a>(references: &mut References<'a>, draft: &mut Draft) {
    for (name, ..) in references.tags() {
        // A loop and not a recursion: a chain may be as long as somebody writes it.
        let mut chain: Vec<Link<'a>> = Vec::new();
        let mut places: HashMap<Name<'a>, usize> = HashMap::new();
        let mut next = name;
        while references.view(next).is_none() {
            let Some(Want::Tag { declared, spec }) = references.want(next) else { break };
            if let Some(start) = places.get(&next) {
                cyclic(&chain.split_off(*start), references, draft);
                break;
            }
            places.insert(next, chain.len());
            chain.push(Link { name: next, declared, spec });
            next = (next.0, &spec.source);
        }
        for link in chain.iter().rev() {
            let view = follow(link, references, draft);
            references.set_view(link.name, view);
        }
    }
}

/// A tag on the way to its source.
struct Link<'a> {
    name: Name<'a>,
    declared: &'a Declared,
    spec: &'a TagSpec,
}

/// Tags that point at each other stay as they are.
fn cyclic<'a>(cycle: &[Link<'a>], references: &mut References<'a>, draft: &mut Draft) {
    let mut around: Vec<String> = cycle.iter().map(|link| link.name.1.to_string()).collect();
    if let Some(link) = cycle.first() {
        around.push(link.name.1.to_string());
    }
    // Long cycles are told by their beginning.
    if around.len() > 6 {
        around.truncate(5);
        around.push("…".into());
    }
    for link in cycle {
        let key = link.declared.resource.key();
        draft.problems.push(Problem {
            message: format!("{key}: tags point at each other: {}", around.join(" → ")),
            key,
            place: link.declared.place_of("spec.source"),
            help: Some("point one of them at an image".into()),
            severity: Severity::Error,
        });
        let view = as_it_is(link.name, references);
        references.set_view(link.name, view);
    }
}

/// The view of a reference that stays as it is.
fn as_it_is<'a>(name: Name<'a>, references: &References<'a>) -> View<'a> {
    match references.seen(name) {
        Some(seen) if seen.complete => View { content: Content::Known(&seen.digest), step: None },
        _ => View { content: Content::Missing(Lack::Broken), step: None },
    }
}

/// Plans one tag whose source has been looked at.
fn follow<'a>(link: &Link<'a>, references: &mut References<'a>, draft: &mut Draft) -> View<'a> {
    let Link { name, declared, spec } = *link;
    let source_name = (name.0, &spec.source);
    let source = references.view(source_name).unwrap_or_else(|| as_it_is(source_name, references));
    let seen = references.seen(name);

    let (content, mut causes) = match (source.content, seen) {
        (Content::Missing(_), _) => {
            let here = as_it_is(name, references);
            sourceless(link, here.content, references, draft);
            if let Content::Missing(_) = here.content {
                return here;
            }
            (here.content, Vec::new())
        }
        (content, None) => (content, vec![diff::NOT_ON_NODE.to_owned()]),
        (Content::Pending, Some(_)) => (Content::Pending, vec![format!("its source {} is pulled", spec.source)]),
        (Content::Known(digest), Some(seen)) if *digest != seen.digest => {
            (source.content, vec![format!("moved: {} → {}", diff::short(&seen.digest), diff::short(digest))])
        }
        (content, Some(_)) => (content, Vec::new()),
    };
    let digest = match content {
        Content::Known(digest) => Some(digest),
        _ => None,
    };
    let mut changes = Vec::new();
    if let Some(seen) = seen {
        let want = Want::Tag { declared, spec };
        let resource = Some(&declared.resource);
        let (said, metadata) = metadata_changes(seen, &ReferenceRole::Tag, resource, &declared.source, &want);
        causes.extend(said);
        changes = metadata;
        if let Some(digest) = digest.filter(|digest| **digest != seen.digest) {
            changes.insert(0, diff::digest("digest", &seen.digest, digest));
        }
    }
    if causes.is_empty() {
        // Whoever needs this content needs what brings it to the source.
        return View { content, step: source.step };
    }
    let step = Step {
        action: if seen.is_some() { Action::Update } else { Action::Create },
        key: key(Kind::Tag, name),
        reason: diff::reason(causes),
        changes,
        needs: Vec::new(),
        target: Some(Target::Tag {
            reference: spec.reference.clone(),
            source: spec.source.clone(),
            digest: digest.cloned(),
            resource: declared.resource.clone(),
        }),
        source: Some(declared.source.clone()),
    };
    let id = draft.add(step, source.step.into_iter().collect());
    references.released(source_name, id);
    View { content, step: Some(id) }
}

/// Reports a tag whose source has nothing. A tag that is on the node stays, and made by hand it is as it
/// should be: a second name outlives the first.
fn sourceless<'a>(link: &Link<'a>, here: Content<'a>, references: &mut References<'a>, draft: &mut Draft) {
    let Link { name, declared, spec } = *link;
    let severity = match here {
        Content::Missing(_) => Severity::Error,
        _ if declared.source == Source::Cli => return,
        _ => Severity::Warning,
    };
    let key = declared.resource.key();
    let source = (name.0, &spec.source);
    let known = references.want(source).is_some() || references.seen(source).is_some();
    draft.problems.push(Problem {
        message: match known {
            true => format!("{key}: its source {} has no image", spec.source),
            false => format!("{key}: its source {} is not in namespace {}", spec.source, name.0),
        },
        key,
        place: declared.place_of("spec.source"),
        help: match severity {
            Severity::Warning => Some("the tag stays as it is".into()),
            Severity::Error if known => None,
            Severity::Error => references
                .suggest(source, Some(&spec.reference))
                .or_else(|| Some(format!("declare an Image with reference {}", spec.source))),
        },
        severity,
    });
}
