//! What each reference of each namespace shall point at, and the steps that make it so.
//!
//! At most one thing is wanted of a reference: an `Image`, a `Tag`, or that it be there because a
//! container names it. Everything later (tags, containers, removals) asks here what a reference points
//! at once the plan is done: its [`View`].

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::diff;
use super::order::{Draft, StepId};
use super::registries::Registries;
use super::wants::{self, Name, Want, Wants};
use super::{
    Action, Change, Declared, Desired, Observed, ObservedReference, Problem, ReferenceRole, Severity, Source, Step,
    Target, tags,
};
use crate::manifest::{Kind, PullPolicy, Resource, ResourceKey, Spec, TagSpec};
use crate::oci::{Digest, Reference};

/// What a reference points at once the plan is done.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    /// The content.
    pub content: Content<'a>,
    /// The step that brings that content.
    pub step: Option<StepId>,
}

/// The content behind a reference.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    /// This digest.
    Known(&'a Digest),
    /// Whatever a step of this plan finds.
    Pending,
    /// Nothing, for this reason.
    Missing(Lack),
}

/// Why a reference has no content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// Not on the node, and policy `Never`.
    Never,
    /// On the node with parts missing, and policy `Never`.
    Incomplete,
    /// Declared, but its declaration has a problem of its own.
    Broken,
}

/// The references of the node, planned.
pub(super) struct References<'a> {
    observed: &'a Observed,
    wants: BTreeMap<Name<'a>, Want<'a>>,
    seen: HashMap<Name<'a>, &'a ObservedReference>,
    views: HashMap<Name<'a>, View<'a>>,
    /// Steps that must be done before a reference that nothing wants goes.
    released_by: HashMap<Name<'a>, Vec<StepId>>,
    /// References that must not go, because what uses them cannot be replaced now.
    held: HashSet<Name<'a>>,
    /// What a wrong reference may have meant: all that is declared or on the node.
    known: Vec<Name<'a>>,
    suggestions_left: u32,
}

impl<'a> References<'a> {
    /// Plans every reference that is wanted. Removals come last, by [`References::remove_unwanted`].
    pub fn plan(desired: &'a Desired, observed: &'a Observed, registries: &Registries<'a>, draft: &mut Draft) -> Self {
        let Wants { by_name, seen, problems, .. } = wants::collect(desired, observed);
        draft.problems.extend(problems);
        let declared = by_name.iter().filter(|(_, want)| !matches!(want, Want::Implied { .. }));
        let mut references = Self {
            observed,
            known: declared.map(|(name, _)| *name).chain(seen.keys().copied()).collect(),
            wants: BTreeMap::new(),
            seen,
            views: HashMap::new(),
            released_by: HashMap::new(),
            held: HashSet::new(),
            // Each costs a look at every reference.
            suggestions_left: 32,
        };
        let used = used(desired);
        for (name, want) in &by_name {
            if let Some(view) = references.plan_one(*name, want, used.contains(name), registries, draft) {
                references.views.insert(*name, view);
            }
        }
        references.wants = by_name;
        tags::plan(&mut references, draft);
        references
    }

    /// What a reference that is wanted points at in the end.
    pub fn view(&self, name: Name<'a>) -> Option<View<'a>> {
        self.views.get(&name).copied()
    }

    /// Sets it.
    pub fn set_view(&mut self, name: Name<'a>, view: View<'a>) {
        self.views.insert(name, view);
    }

    /// What is wanted of a reference.
    pub fn want(&self, name: Name<'a>) -> Option<&Want<'a>> {
        self.wants.get(&name)
    }

    /// Every `Tag`, in order.
    pub fn tags(&self) -> Vec<(Name<'a>, &'a Declared, &'a TagSpec)> {
        let tag = |(name, want): (&Name<'a>, &Want<'a>)| match want {
            Want::Tag { declared, spec } => Some((*name, *declared, *spec)),
            _ => None,
        };
        self.wants.iter().filter_map(tag).collect()
    }

    /// What the node has.
    pub fn seen(&self, name: Name<'a>) -> Option<&'a ObservedReference> {
        self.seen.get(&name).copied()
    }

    /// A step stops using a reference, which then may go, or uses it for the last time.
    pub fn released(&mut self, name: Name<'a>, by: StepId) {
        if !self.wants.contains_key(&name) {
            self.released_by.entry(name).or_default().push(by);
        }
    }

    /// What uses this reference cannot be replaced now, so the reference stays.
    pub fn hold(&mut self, name: Name<'a>) {
        self.held.insert(name);
    }

    /// Takes away what nobody wants any more.
    pub fn remove_unwanted(&mut self, draft: &mut Draft) {
        for ((namespace, reference), seen) in &self.observed.references {
            let name = (namespace.as_str(), reference);
            let by_hand = seen.role == ReferenceRole::Implied && seen.source == Source::Cli;
            if by_hand || self.wants.contains_key(&name) || self.held.contains(&name) {
                continue;
            }
            let (kind, reason) = match seen.role {
                ReferenceRole::Image => (Kind::Image, diff::NO_LONGER_DECLARED),
                ReferenceRole::Tag => (Kind::Tag, diff::NO_LONGER_DECLARED),
                ReferenceRole::Implied => (Kind::Image, "no container uses it"),
            };
            let needs = self.released_by.remove(&name).unwrap_or_default();
            draft.add(Step::removal(key(kind, name), reason), needs);
        }
    }

    /// The reference of the namespace that was most likely meant, as help.
    pub fn suggest(&mut self, (namespace, reference): Name<'a>, except: Option<&Reference>) -> Option<String> {
        self.suggestions_left = self.suggestions_left.checked_sub(1)?;
        let given = reference.to_string();
        // Names are short and alike: a few letters may differ, more in a long one.
        let allowed = (1 + (given.len() - reference.host().len()) / 8).min(3);
        let others = self.known.iter().filter(|(ns, other)| *ns == namespace && *other != reference);
        let close = others
            .filter(|(_, other)| Some(*other) != except)
            .map(|(_, other)| (strsim::damerau_levenshtein(&given, &other.to_string()), *other))
            .filter(|(distance, _)| *distance <= allowed);
        let best = close.min();
        best.map(|(_, other)| format!("did you mean {other}?"))
    }

    /// Plans one reference that is not a tag.
    fn plan_one(
        &mut self,
        name: Name<'a>,
        want: &Want<'a>,
        is_used: bool,
        registries: &Registries<'a>,
        draft: &mut Draft,
    ) -> Option<View<'a>> {
        let seen = self.seen(name);
        let before = registries.before(name.1.host());
        match want {
            Want::Tag { .. } => None,
            Want::Keep { .. } => Some(match seen {
                Some(seen) if seen.complete => View { content: Content::Known(&seen.digest), step: None },
                _ => View { content: Content::Missing(Lack::Broken), step: None },
            }),
            Want::Pull { declared, policy } => {
                let fetch = match (self.fetch(name, *policy, seen), seen) {
                    // What may be collected and is not used was collected: that is no damage.
                    (Fetch::Get { reason, .. }, Some(seen))
                        if reason == INCOMPLETE && !seen.kept && !is_kept(declared) && !is_used =>
                    {
                        return Some(self.settle(name, want, Fetch::Nothing, None, draft))
                            .map(|view| View { content: Content::Known(&seen.digest), ..view });
                    }
                    (fetch, _) => fetch,
                };
                self.warn_about_registry(name, *policy, seen, want, draft);
                if let Fetch::Lack(lack) = fetch {
                    draft.problems.push(never(name, declared, lack));
                }
                Some(self.settle(name, want, fetch, before, draft))
            }
            Want::Implied { policy, .. } => {
                let fetch = self.fetch(name, *policy, seen);
                self.warn_about_registry(name, *policy, seen, want, draft);
                Some(self.settle(name, want, fetch, before, draft))
            }
            Want::Import { digest, .. } => {
                let fetch = match seen {
                    None => Fetch::get(Some(digest), Action::Create, diff::NOT_ON_NODE),
                    Some(seen) if seen.digest != **digest => Fetch::moved(&seen.digest, digest),
                    Some(seen) if !seen.complete => Fetch::get(Some(digest), Action::Create, INCOMPLETE),
                    Some(_) => Fetch::Nothing,
                };
                Some(self.settle(name, want, fetch, before, draft))
            }
        }
    }

    /// Whether a registry must be asked for content, by pull policy.
    fn fetch(&self, name: Name<'a>, policy: PullPolicy, seen: Option<&'a ObservedReference>) -> Fetch<'a> {
        let pinned = name.1.digest();
        let answer = || self.observed.remote.get(name.1).and_then(|answer| answer.as_ref().ok());
        match (seen, policy) {
            (None, PullPolicy::Never) => Fetch::Lack(Lack::Never),
            (None, _) => Fetch::get(pinned.or_else(answer), Action::Create, diff::NOT_ON_NODE),
            (Some(seen), PullPolicy::Never) if !seen.complete => Fetch::Lack(Lack::Incomplete),
            (Some(seen), PullPolicy::Always) if pinned.is_none() => match answer() {
                Some(digest) if *digest != seen.digest => Fetch::moved(&seen.digest, digest),
                _ => Fetch::repair(seen),
            },
            (Some(seen), _) => Fetch::repair(seen),
        }
    }

    /// A registry that does not answer stops nothing that is here; it is told.
    fn warn_about_registry(
        &mut self,
        name: Name<'a>,
        policy: PullPolicy,
        seen: Option<&ObservedReference>,
        want: &Want<'a>,
        draft: &mut Draft,
    ) {
        let asked = match seen {
            Some(_) => policy == PullPolicy::Always,
            None => policy != PullPolicy::Never,
        };
        let (true, None, Some(Err(error))) = (asked, name.1.digest(), self.observed.remote.get(name.1)) else { return };
        let help = match seen {
            Some(_) => Some("the image on the node is used until the registry answers".to_owned()),
            None => self.suggest(name, None),
        };
        let (field, declared) = match want {
            Want::Implied { users, .. } => ("spec.image", users.first().copied()),
            _ => ("spec.reference", want.declared()),
        };
        draft.problems.push(Problem {
            key: key(Kind::Image, name),
            message: match seen {
                Some(_) => format!("image {} could not be looked up again: {error}", name.1),
                None => format!("image {} is not in namespace {}, and its registry says: {error}", name.1, name.0),
            },
            place: declared.and_then(|declared| declared.place_of(field)),
            help,
            severity: Severity::Warning,
        });
    }

    /// The step that fetches or changes in place, and the view behind it.
    /// A pull waits for the step `before` it that says how its registry is reached.
    fn settle(
        &mut self,
        name: Name<'a>,
        want: &Want<'a>,
        fetch: Fetch<'a>,
        before: Option<StepId>,
        draft: &mut Draft,
    ) -> View<'a> {
        let (action, digest, mut causes) = match fetch {
            Fetch::Lack(lack) => return View { content: Content::Missing(lack), step: None },
            Fetch::Nothing => (Action::Update, self.seen(name).map(|seen| &seen.digest), Vec::new()),
            Fetch::Get { action, digest, reason } => (action, digest, vec![reason.into_owned()]),
        };
        let (role, resource, source) = match want {
            Want::Pull { declared, .. } => (ReferenceRole::Image, Some(&declared.resource), &declared.source),
            Want::Import { declared, resource, .. } => {
                (ReferenceRole::Image, Some(resource.as_deref().unwrap_or(&declared.resource)), &declared.source)
            }
            Want::Implied { users, .. } => (ReferenceRole::Implied, None, implied_source(users, self.seen(name))),
            Want::Tag { .. } | Want::Keep { .. } => {
                return View { content: Content::Missing(Lack::Broken), step: None };
            }
        };
        let mut changes = Vec::new();
        if let Some(seen) = self.seen(name) {
            let (said, metadata) = metadata_changes(seen, &role, resource, source, want);
            causes.extend(said);
            changes = metadata;
            if let Some(digest) = digest.filter(|digest| **digest != seen.digest) {
                changes.insert(0, diff::digest("digest", &seen.digest, digest));
            }
        }
        let content = digest.map_or(Content::Pending, Content::Known);
        if causes.is_empty() {
            return View { content, step: None };
        }
        let reference = name.1.clone();
        let target = match want {
            Want::Import { declared, archive, digest, resource } => Target::Import {
                reference,
                archive: (*archive).to_owned(),
                digest: (*digest).clone(),
                resource: resource.as_deref().unwrap_or(&declared.resource).clone(),
            },
            _ => Target::Pull { reference, digest: digest.cloned(), resource: resource.cloned() },
        };
        let step = Step {
            action,
            key: key(Kind::Image, name),
            reason: diff::reason(causes),
            changes,
            needs: Vec::new(),
            target: Some(target),
            source: Some(source.clone()),
        };
        let is_pull = matches!(step.target, Some(Target::Pull { .. }));
        let needs = before.into_iter().filter(|_| is_pull).collect();
        View { content, step: Some(draft.add(step, needs)) }
    }
}

/// References that a container or a tag builds upon.
fn used(desired: &Desired) -> HashSet<Name<'_>> {
    let mut used = HashSet::new();
    for declared in desired.resources.values() {
        let reference = match &declared.resource.spec {
            Spec::Container(spec) => &spec.image,
            Spec::Tag(spec) => &spec.source,
            _ => continue,
        };
        used.insert((declared.resource.metadata.namespace.as_str(), reference));
    }
    used
}

/// Whether an `Image` is spared by garbage collection.
fn is_kept(declared: &Declared) -> bool {
    !matches!(&declared.resource.spec, Spec::Image(spec) if !spec.is_kept())
}

/// Why something on the node is fetched again.
const INCOMPLETE: &str = "incomplete on the node";

/// Whether content must be fetched.
enum Fetch<'a> {
    Nothing,
    Get { digest: Option<&'a Digest>, action: Action, reason: Cow<'static, str> },
    Lack(Lack),
}

impl<'a> Fetch<'a> {
    fn get(digest: Option<&'a Digest>, action: Action, reason: &'static str) -> Self {
        Fetch::Get { digest, action, reason: reason.into() }
    }

    fn moved(from: &Digest, to: &'a Digest) -> Self {
        let reason = format!("{} → {}", diff::short(from), diff::short(to)).into();
        Fetch::Get { digest: Some(to), action: Action::Update, reason }
    }

    /// The same content again, where parts of it are missing: a repair does not move a reference.
    fn repair(seen: &'a ObservedReference) -> Self {
        if seen.complete { Fetch::Nothing } else { Fetch::get(Some(&seen.digest), Action::Create, INCOMPLETE) }
    }
}

/// Of an implied reference's source only this matters: once a container made by hand uses it, it is the
/// hand's and stays when its containers are gone, as a pull by hand does.
fn implied_source<'a>(users: &[&'a Declared], seen: Option<&ObservedReference>) -> &'a Source {
    let kept = seen.is_some_and(|seen| seen.role == ReferenceRole::Implied && seen.source == Source::Cli);
    let by_hand = kept || users.iter().any(|user| user.source == Source::Cli);
    users.first().filter(|_| !by_hand).map_or(&Source::Cli, |user| &user.source)
}

/// What differs beside the content: role, who declares it, labels. First what is said, then the fields.
pub(super) fn metadata_changes(
    seen: &ObservedReference,
    role: &ReferenceRole,
    resource: Option<&Resource>,
    source: &Source,
    want: &Want<'_>,
) -> (Vec<String>, Vec<Change>) {
    let mut changes = Vec::new();
    let mut said = Vec::new();
    if seen.role != *role {
        let word = |role: &ReferenceRole| Some(format!("{role:?}"));
        changes.push(Change { field: "role".into(), from: word(&seen.role), to: word(role) });
        said.push(match want {
            Want::Implied { users, .. } => match users.first() {
                Some(user) => format!("no longer declared, but {} uses it", user.resource.key()),
                None => diff::NO_LONGER_DECLARED.into(),
            },
            _ => format!("now declared by {source}"),
        });
    }
    if resource.is_none() && *source == Source::Cli {
        let from = changes.len();
        diff::source(&seen.source, source, &mut changes);
        said.extend(changes[from..].iter().map(|_| "used by hand".to_owned()));
    }
    // A tag and what a container implies are kept by being used.
    let kept = match resource.map(|resource| &resource.spec) {
        Some(Spec::Image(spec)) => spec.is_kept(),
        _ => true,
    };
    if seen.kept != kept {
        let change = Change { field: "keep".into(), from: Some(seen.kept.to_string()), to: Some(kept.to_string()) };
        said.push(diff::say(&change));
        changes.push(change);
    }
    if let Some(resource) = resource {
        let from = changes.len();
        diff::source(&seen.source, source, &mut changes);
        diff::map("labels", &seen.labels, &resource.metadata.labels, &mut changes);
        diff::map("annotations", &seen.annotations, &resource.metadata.annotations, &mut changes);
        // Where the role changed, its sentence names the source already.
        let told = |change: &&Change| said.is_empty() || change.field != diff::SOURCE;
        let more: Vec<String> = changes[from..].iter().filter(told).map(diff::say).collect();
        said.extend(more);
    }
    (said, changes)
}

/// The key of a reference's step.
pub(super) fn key(kind: Kind, (namespace, reference): Name<'_>) -> ResourceKey {
    ResourceKey::new(kind, namespace, reference.to_string())
}

/// An `Image` that must not be pulled and cannot be had otherwise.
fn never((namespace, reference): Name<'_>, declared: &Declared, lack: Lack) -> Problem {
    let how = if lack == Lack::Incomplete { "is incomplete" } else { "is not" };
    Problem {
        key: declared.resource.key(),
        message: format!("image {reference} {how} in namespace {namespace}, and its pull policy is Never"),
        place: declared.place_of("spec.reference"),
        help: Some("load it, or set pullPolicy: IfNotPresent".into()),
        severity: Severity::Error,
    }
}
