//! What is done by hand.
//!
//! What is made or taken away is a resource with source `cli`: declared (or dropped) first, then brought about by
//! the same planner and executor as everything else. What changes nothing that is wanted (a pull of what is named,
//! a stop, a tag) goes to the engine under the claim of its key, behind whoever has it; so does the one step that
//! `start`, `rm` and `rmi` ask for, because no plan would: it is not what is declared.

mod container;
mod exec;
mod exit;
mod image;
mod namespace;

use std::sync::Arc;

use crate::api::Created;
use crate::engine::ContainerKey;
use crate::error::{Class, Fault, Result};
use crate::manifest::{ImageSpec, Kind, Metadata, PullPolicy, Resource, ResourceKey, Spec};
use crate::oci::{Platform, Reference};
use crate::plan::{Action, Source, Step};
use crate::store::DeclaredRecord;

use super::Node;

/// Moves of blobs that a reader may be behind: all that a large image has to say at once.
const MOVES: usize = 2048;

impl Node {
    /// Carries out one step that a person asked for.
    pub(in crate::controller) async fn take(self: &Arc<Self>, step: Step) -> Result<()> {
        let claim = self.claim_when_free(&step.key).await;
        Arc::clone(self).carry_out(step, claim, None).await.result
    }

    fn created(&self, id: &ContainerKey) -> Result<Created> {
        let record = self.engine.memory().read().containers.get(id).cloned();
        let task = self.engine.task(id);
        let Some(record) = record else {
            // It has ended and removed itself by now.
            let departed = self.engine.departed(id, None).ok_or_else(|| self.no_container(id))?;
            let attempt = departed.exits.last().map_or(0, |exit| exit.attempt);
            return Ok(Created { uid: departed.uid, attempt, pid: None });
        };
        let state = task.or(record.last);
        Ok(Created {
            uid: record.uid,
            attempt: state.as_ref().map_or(0, |state| state.attempt),
            pid: state.and_then(|state| state.pid),
        })
    }

    pub(in crate::controller) fn no_container(&self, id: &ContainerKey) -> Fault {
        let elsewhere: Vec<String> = self
            .engine
            .memory()
            .read()
            .containers
            .keys()
            .filter(|own| own.1 == id.1)
            .map(|own| own.0.clone())
            .collect();
        let fault = Fault::new(Class::NotFound, format!("container {}/{} is not there", id.0, id.1));
        match elsewhere.first() {
            _ if self.declared(&ResourceKey::new(Kind::Container, &id.0, &id.1)).is_some() => {
                fault.help("it is declared, and not made yet: `bayplan status` says what it waits for")
            }
            Some(namespace) => fault.help(format!("namespace {namespace} has one: -n {namespace}")),
            None => fault.help(format!("bayplan -n {} get containers lists what is", id.0)),
        }
    }

    pub(in crate::controller) fn no_image(&self, namespace: &str, name: &str) -> Fault {
        let records = self.engine.memory().read();
        let nearest = records
            .references
            .keys()
            .filter(|(own, _)| own == namespace)
            .map(|(_, reference)| reference.to_string())
            .map(|reference| (strsim::jaro_winkler(&reference, name), reference))
            .filter(|(score, _)| *score > 0.85)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let fault = Fault::new(Class::NotFound, format!("image {name} is not in namespace {namespace}"));
        match nearest {
            Some((_, reference)) => fault.help(format!("did you mean {reference}?")),
            None => fault.help(format!("bayplan -n {namespace} images lists what is")),
        }
    }
}

pub(in crate::controller) fn removal(key: ResourceKey) -> Step {
    Step {
        action: Action::Remove,
        key,
        reason: "removed by hand".into(),
        changes: Vec::new(),
        needs: Vec::new(),
        target: None,
        source: None,
    }
}

pub(in crate::controller) fn by_hand(resource: Resource) -> DeclaredRecord {
    DeclaredRecord { resource, source: Source::Cli, place: None, created: jiff::Timestamp::now() }
}

pub(in crate::controller) fn image_resource(
    namespace: &str,
    reference: &Reference,
    policy: PullPolicy,
    platform: Option<Platform>,
) -> Resource {
    Resource {
        metadata: Metadata { name: reference.to_string(), namespace: namespace.to_owned(), ..Metadata::default() },
        spec: Spec::Image(ImageSpec {
            reference: Some(reference.clone()),
            pull_policy: Some(policy),
            platform,
            ..ImageSpec::default()
        }),
    }
}

/// A DNS name of at most 63 characters; dots are allowed, as in `k8s.io`.
fn is_namespace_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.split('.').all(|label| {
            label.bytes().next().is_some_and(word)
                && label.bytes().next_back().is_some_and(word)
                && label.bytes().all(|byte| word(byte) || byte == b'-')
        })
}
