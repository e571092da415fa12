//! Namespaces made and removed by hand, and labels changed.

use std::sync::Arc;

use crate::api::{Item, LabelRequest, NamespaceRequest, Query};
use crate::controller::Node;
use crate::controller::reconcile::Scope;
use crate::engine::Freshness;
use crate::error::{Class, Fault, Result};
use crate::manifest::{Kind, Metadata, NamespaceSpec, Resource, ResourceKey, Spec};
use crate::plan::Source;

use super::{by_hand, is_namespace_name};

impl Node {
    pub(in crate::controller) async fn create_namespace(self: &Arc<Self>, request: NamespaceRequest) -> Result<Item> {
        let key = ResourceKey::new(Kind::Namespace, &request.name, &request.name);
        if !is_namespace_name(&request.name) {
            return Err(Fault::new(Class::Usage, format!("{:?} is not a namespace's name", request.name))
                .help("lower-case letters, digits, dots and dashes, at most 63"));
        }
        if !self
            .list(&Query { kinds: vec![Kind::Namespace], namespace: Some(request.name.clone()), name: None })?
            .is_empty()
        {
            return Err(Fault::new(Class::Refused, format!("namespace {} exists", request.name)));
        }
        let metadata = Metadata { name: request.name.clone(), labels: request.labels, ..Metadata::default() };
        let resource = Resource { metadata, spec: Spec::Namespace(NamespaceSpec::default()) };
        self.engine.memory().declare(self.engine.store(), vec![by_hand(resource)], &[])?;
        let counts = self.drive(&Scope::one(key), Freshness::Known, None).await?;
        if let Some(fault) = counts.first_fault {
            return Err(fault);
        }
        let listed = self.list(&Query { kinds: vec![Kind::Namespace], namespace: Some(request.name), name: None })?;
        listed.into_iter().next().ok_or_else(|| Fault::new(Class::Bug, "a namespace was made and is not listed"))
    }

    pub(in crate::controller) async fn remove_namespace(self: &Arc<Self>, request: NamespaceRequest) -> Result<()> {
        let key = ResourceKey::new(Kind::Namespace, &request.name, &request.name);
        let inside = self.list(&Query { kinds: Vec::new(), namespace: Some(request.name.clone()), name: None })?;
        let left: Vec<String> =
            inside.iter().filter(|item| !item.kind.is_node_wide()).map(|item| item.key().to_string()).collect();
        if !left.is_empty() {
            return Err(Fault::new(Class::Refused, format!("namespace {} is not empty: {}", request.name, few(&left)))
                .help("remove what is inside first"));
        }
        match self.declared(&key) {
            Some(declared) if declared.source != Source::Cli => {
                Err(Fault::new(Class::Refused, format!("{key} is declared by {}", declared.source))
                    .help("remove it there"))
            }
            None if inside.is_empty() => Err(Fault::new(Class::NotFound, format!("{key} is not there"))),
            _ => {
                self.engine.memory().declare(self.engine.store(), Vec::new(), std::slice::from_ref(&key))?;
                self.drive(&Scope::one(key), Freshness::Known, None).await.map(drop)
            }
        }
    }

    pub(in crate::controller) async fn label(self: &Arc<Self>, request: LabelRequest) -> Result<Item> {
        let key = self.resolve_handle(&request.key);
        let Some(declared) = self.declared(&key) else {
            return Err(Fault::new(Class::NotFound, format!("{key} is not there")));
        };
        if declared.source != Source::Cli {
            return Err(Fault::new(Class::Refused, format!("{key} is declared by {}", declared.source))
                .help("change its labels there"));
        }
        let mut resource = declared.resource;
        for (name, value) in request.labels {
            match value {
                Some(value) => {
                    resource.metadata.labels.insert(name, value);
                }
                None => {
                    resource.metadata.labels.remove(&name);
                }
            }
        }
        self.engine.memory().declare(self.engine.store(), vec![by_hand(resource)], &[])?;
        let counts = self.drive(&Scope::one(key.clone()), Freshness::Known, None).await?;
        if let Some(fault) = counts.first_fault {
            return Err(fault);
        }
        let listed =
            self.list(&Query { kinds: vec![key.kind], namespace: Some(key.namespace), name: Some(key.name) })?;
        listed.into_iter().next().ok_or_else(|| Fault::new(Class::Bug, "a labelled resource is not listed"))
    }
}

/// The first three, and how many more.
fn few(names: &[String]) -> String {
    match names.len() {
        0..=3 => names.join(", "),
        count => format!("{} and {} more", names[..3].join(", "), count - 3),
    }
}
