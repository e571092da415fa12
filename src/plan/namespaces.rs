//! Settings of namespaces. A namespace without settings is nobody's resource: it exists while something
//! is in it.

use super::diff;
use super::order::Draft;
use super::{Action, Desired, Observed, Step, Target};
use crate::manifest::{Kind, ResourceKey, Spec};

/// Plans the settings that are declared, and the removal of those that no longer are.
pub(super) fn plan(desired: &Desired, observed: &Observed, draft: &mut Draft) {
    for (key, declared) in &desired.resources {
        let Spec::Namespace(spec) = &declared.resource.spec else { continue };
        let metadata = &declared.resource.metadata;
        let (action, changes, reason) = match observed.namespaces.get(&metadata.name) {
            None => (Action::Create, Vec::new(), diff::NOT_ON_NODE.to_owned()),
            Some(seen) => {
                let mut changes = Vec::new();
                diff::map("labels", &seen.labels, &metadata.labels, &mut changes);
                diff::map("annotations", &seen.annotations, &metadata.annotations, &mut changes);
                if seen.spec != *spec {
                    diff::values(&seen.spec, spec, &mut changes);
                }
                if changes.is_empty() {
                    continue;
                }
                let reason = diff::reason(changes.iter().map(diff::say));
                (Action::Update, changes, reason)
            }
        };
        let target = Some(Target::Namespace(declared.resource.clone()));
        let source = Some(declared.source.clone());
        draft.add(Step { action, key: key.clone(), reason, changes, needs: Vec::new(), target, source }, Vec::new());
    }
    for name in observed.namespaces.keys() {
        let key = ResourceKey::new(Kind::Namespace, name, name);
        if !desired.resources.contains_key(&key) {
            draft.add(Step::removal(key, diff::NO_LONGER_DECLARED), Vec::new());
        }
    }
}
