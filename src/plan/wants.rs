//! What is wanted of each reference: at most one thing of each.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

use super::{Declared, Desired, Observed, ObservedReference, Problem, Severity, Source, archives, registries};
use crate::manifest::{ImageSpec, PullPolicy, Resource, Spec, TagSpec, pull_policy_or_default};
use crate::oci::{Digest, Reference};

/// A reference in its namespace.
pub(super) type Name<'a> = (&'a str, &'a Reference);

/// What is wanted of a reference.
pub(super) enum Want<'a> {
    /// An `Image` from its registry.
    Pull { declared: &'a Declared, policy: PullPolicy },
    /// An `Image` from an archive; `resource` is the one for this reference where that is not the declared one.
    Import { declared: &'a Declared, resource: Option<Box<Resource>>, archive: &'a str, digest: &'a Digest },
    /// A `Tag`.
    Tag { declared: &'a Declared, spec: &'a TagSpec },
    /// That it be there, because these containers (at least one) name it.
    Implied { users: Vec<&'a Declared>, policy: PullPolicy },
    /// What it wants cannot be said (and was reported): it stays as it is.
    Keep { declared: &'a Declared },
}

impl<'a> Want<'a> {
    /// Who wants it.
    pub(super) fn declared(&self) -> Option<&'a Declared> {
        match self {
            Want::Pull { declared, .. }
            | Want::Import { declared, .. }
            | Want::Tag { declared, .. }
            | Want::Keep { declared } => Some(declared),
            Want::Implied { users, .. } => users.first().copied(),
        }
    }
}

/// All wants, while they are collected.
pub(super) struct Wants<'a> {
    /// By namespace and reference.
    pub by_name: BTreeMap<Name<'a>, Want<'a>>,
    /// The references that the node has.
    pub seen: HashMap<Name<'a>, &'a ObservedReference>,
    /// Wanted by nobody else, to be kept as they are: what an archive gave that cannot be read now.
    pub protected: Vec<(Name<'a>, &'a Declared)>,
    /// What was found wrong.
    pub problems: Vec<Problem>,
}

impl<'a> Wants<'a> {
    /// Wants this of a reference. Two declarations that want different things of one reference are both
    /// left undone, and named.
    pub fn claim(&mut self, name: Name<'a>, want: Want<'a>) {
        let mut entry = match self.by_name.entry(name) {
            Entry::Vacant(entry) => {
                entry.insert(want);
                return;
            }
            Entry::Occupied(entry) => entry,
        };
        if let (Want::Import { digest: one, .. }, Want::Import { digest: other, .. }) = (entry.get(), &want)
            && one == other
        {
            return;
        }
        let (Some(first), Some(second)) = (entry.get().declared(), want.declared()) else { return };
        entry.insert(Want::Keep { declared: first });
        let (first_key, key) = (first.resource.key(), second.resource.key());
        let by_hand = [first, second].into_iter().any(|declared| declared.source == Source::Cli);
        self.problems.push(Problem {
            message: format!(
                "{key} ({}) and {first_key} ({}) both give the reference {}",
                origin(second),
                origin(first),
                name.1
            ),
            key,
            place: second.place_of("spec.reference").or_else(|| first.place_of("spec.reference")),
            help: Some(match by_hand {
                true => format!(
                    "what was made by hand goes with `bayplan -n {} rmi {}`; until then the reference stays as it is",
                    name.0, name.1
                ),
                false => "take one of them away; until then the reference stays as it is".into(),
            }),
            severity: Severity::Error,
        });
    }
}

/// Collects what is wanted of every reference. A declaration decides alone; only what none declares goes by
/// its containers and their pull policies.
pub(super) fn collect<'a>(desired: &'a Desired, observed: &'a Observed) -> Wants<'a> {
    let seen = observed.references.iter().map(|((namespace, reference), seen)| ((&**namespace, reference), seen));
    let mut wants =
        Wants { by_name: BTreeMap::new(), seen: seen.collect(), protected: Vec::new(), problems: Vec::new() };
    for (key, declared) in &desired.resources {
        let namespace = declared.resource.metadata.namespace.as_str();
        match &declared.resource.spec {
            Spec::Image(spec) if spec.archive.is_none() && unknown_secret(spec, observed).is_some() => {
                if let (Some((index, name)), Some(reference)) = (unknown_secret(spec, observed), &spec.reference) {
                    let field = format!("spec.pullSecrets[{index}]");
                    wants.problems.push(registries::unknown_secret(declared, name, &field, observed));
                    wants.claim((namespace, reference), Want::Keep { declared });
                }
            }
            Spec::Image(spec) => match (&spec.archive, &spec.reference) {
                (Some(path), _) => archives::want(declared, spec, path, observed, &mut wants),
                (None, Some(reference)) => {
                    let policy = pull_policy_or_default(spec.pull_policy, reference);
                    wants.claim((namespace, reference), Want::Pull { declared, policy });
                }
                (None, None) => wants.problems.push(Problem {
                    key: key.clone(),
                    message: format!("{key} names neither a reference nor an archive"),
                    place: declared.place_of("spec"),
                    help: Some("set spec.reference or spec.archive".into()),
                    severity: Severity::Error,
                }),
            },
            Spec::Tag(spec) => {
                if spec.reference.digest().is_some() {
                    wants.problems.push(Problem {
                        key: key.clone(),
                        message: format!("{key}: a new name cannot hold a digest"),
                        place: declared.place_of("spec.reference"),
                        help: Some("leave out @ and what follows; a tag has the digest of its source".into()),
                        severity: Severity::Error,
                    });
                    wants.claim((namespace, &spec.reference), Want::Keep { declared });
                } else {
                    wants.claim((namespace, &spec.reference), Want::Tag { declared, spec });
                }
            }
            Spec::Namespace(_) | Spec::Registry(_) | Spec::Container(_) => {}
        }
    }
    for (name, declared) in std::mem::take(&mut wants.protected) {
        wants.by_name.entry(name).or_insert(Want::Keep { declared });
    }
    for declared in desired.resources.values() {
        let Some(spec) = declared.resource.container() else { continue };
        match wants.by_name.entry((&declared.resource.metadata.namespace, &spec.image)) {
            Entry::Vacant(entry) => {
                entry.insert(Want::Implied { users: vec![declared], policy: spec.pull_policy() });
            }
            Entry::Occupied(mut entry) => {
                if let Want::Implied { users, policy } = entry.get_mut() {
                    users.push(declared);
                    *policy = keener(*policy, spec.pull_policy());
                }
            }
        }
    }
    wants
}

/// Who declared it, and where.
fn origin(declared: &Declared) -> String {
    match (&declared.source, &declared.place) {
        (Source::Cli, _) => "made by hand".to_owned(),
        (source, None) => source.to_string(),
        (Source::Apply(set), Some(place)) => format!("apply:{set}, {place}"),
        (Source::Directory(_), Some(place)) => place.to_string(),
    }
}

/// The first pull secret of an image that the configuration does not know.
fn unknown_secret<'a>(spec: &'a ImageSpec, observed: &Observed) -> Option<(usize, &'a str)> {
    let names = spec.pull_secrets.iter().map(|secret| secret.name.as_str()).enumerate();
    names.into_iter().find(|(_, name)| !observed.pull_secrets.contains(*name))
}

/// Of two containers' policies the one that asks the registry more often.
fn keener(one: PullPolicy, other: PullPolicy) -> PullPolicy {
    match (one, other) {
        (PullPolicy::Always, _) | (_, PullPolicy::Always) => PullPolicy::Always,
        (PullPolicy::IfNotPresent, _) | (_, PullPolicy::IfNotPresent) => PullPolicy::IfNotPresent,
        (PullPolicy::Never, PullPolicy::Never) => PullPolicy::Never,
    }
}
