//! How registries are reached: in force before anything is pulled from them.

use std::collections::HashMap;

use super::diff;
use super::order::{Draft, StepId};
use super::{Action, Declared, Desired, Observed, Problem, Severity, Step, Target};
use crate::manifest::{DEFAULT_HOST, Kind, ResourceKey, Spec};

/// The steps that change how hosts are reached.
pub(super) struct Registries<'a> {
    steps: HashMap<&'a str, StepId>,
    /// Hosts with a `Registry` of their own.
    own: HashMap<&'a str, ()>,
}

impl Registries<'_> {
    /// The step that must be done before this host is asked for anything.
    pub fn before(&self, host: &str) -> Option<StepId> {
        let host = if self.own.contains_key(host) { host } else { DEFAULT_HOST };
        self.steps.get(host).copied()
    }
}

/// Plans what is declared, and the removal of what no longer is.
pub(super) fn plan<'a>(desired: &'a Desired, observed: &Observed, draft: &mut Draft) -> Registries<'a> {
    let mut registries = Registries { steps: HashMap::new(), own: HashMap::new() };
    for (key, declared) in &desired.resources {
        let Spec::Registry(spec) = &declared.resource.spec else { continue };
        registries.own.insert(&spec.host, ());
        if let Some(name) = spec.auth.as_ref().and_then(|auth| auth.pull_secret.as_ref())
            && !observed.pull_secrets.contains(name)
        {
            draft.problems.push(unknown_secret(declared, name, "spec.auth.pullSecret", observed));
            continue;
        }
        let metadata = &declared.resource.metadata;
        let (action, changes, reason) = match observed.registries.get(&spec.host) {
            None => (Action::Create, Vec::new(), diff::NOT_ON_NODE.to_owned()),
            Some(seen) => {
                let mut changes = Vec::new();
                diff::map("labels", &seen.labels, &metadata.labels, &mut changes);
                diff::map("annotations", &seen.annotations, &metadata.annotations, &mut changes);
                if seen.spec != **spec {
                    diff::values(&seen.spec, spec, &mut changes);
                }
                if changes.is_empty() {
                    continue;
                }
                let reason = diff::reason(changes.iter().map(diff::say));
                (Action::Update, changes, reason)
            }
        };
        let target = Some(Target::Registry(declared.resource.clone()));
        let source = Some(declared.source.clone());
        let step = Step { action, key: key.clone(), reason, changes, needs: Vec::new(), target, source };
        registries.steps.insert(&spec.host, draft.add(step, Vec::new()));
    }
    for host in observed.registries.keys() {
        let key = ResourceKey::new(Kind::Registry, "", host);
        if !desired.resources.contains_key(&key) {
            draft.add(Step::removal(key, diff::NO_LONGER_DECLARED), Vec::new());
        }
    }
    registries
}

/// Credentials that a resource names and the configuration does not.
pub(super) fn unknown_secret(declared: &Declared, name: &str, field: &str, observed: &Observed) -> Problem {
    let key = declared.resource.key();
    let near = observed
        .pull_secrets
        .iter()
        .map(|known| (strsim::damerau_levenshtein(known, name), known))
        .filter(|(distance, _)| *distance <= 1 + name.len() / 4)
        .min();
    Problem {
        message: format!("{key}: pull secret {name} is not in the configuration"),
        key,
        place: declared.place_of(field),
        help: Some(match near {
            Some((_, near)) => format!("did you mean {near}?"),
            None => format!("name its auth.json in config.toml, below [registry.pull_secrets]: {name} = \"FILE\""),
        }),
        severity: Severity::Error,
    }
}
