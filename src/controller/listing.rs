//! Listings: one item a resource, of all that is desired or on the node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::api::*;
use crate::engine::{Busy, ContainerKey};
use crate::error::Result;
use crate::manifest::{Kind, Resource, ResourceKey, RestartPolicy, Spec};
use crate::oci::{Platform, Reference};
use crate::plan::{Declared, ReferenceRole, Source};
use crate::shim::protocol::{TaskPhase, TaskState};
use crate::store::{ContainerRecord, ReferenceRecord, RegistryRecord};

use super::Node;

impl Node {
    /// Items that a query selects, ordered by namespace, kind and name.
    pub(super) fn list(self: &Arc<Self>, query: &Query) -> Result<Vec<Item>> {
        let desired = self.desired();
        let wants = |kind: Kind| query.kinds.is_empty() || query.kinds.contains(&kind);
        // What belongs to the node is seen from every namespace.
        let inside = |namespace: &str| {
            namespace.is_empty() || query.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
        };
        let mut items: BTreeMap<ResourceKey, Item> = BTreeMap::new();
        let mut namespaces: BTreeSet<String> = BTreeSet::new();
        for key in desired.resources.keys().filter(|key| key.kind != Kind::Registry) {
            namespaces.insert(key.namespace.clone());
        }
        // What is on the node.
        let (containers, references): (Vec<ContainerRecord>, Vec<ReferenceRecord>) = {
            let records = self.engine.memory().read();
            namespaces.extend(records.namespaces.keys().cloned());
            namespaces.extend(records.containers.keys().map(|(namespace, _)| namespace.clone()));
            namespaces.extend(records.references.keys().map(|(namespace, _)| namespace.clone()));
            (
                records
                    .containers
                    .values()
                    .filter(|r| wants(Kind::Container) && inside(&r.namespace))
                    .cloned()
                    .collect(),
                records.references.values().filter(|r| inside(&r.namespace)).cloned().collect(),
            )
        };
        for record in containers {
            let key = ResourceKey::new(Kind::Container, &record.namespace, &record.name);
            items.insert(key.clone(), self.container_item(&record, desired.resources.get(&key)));
        }
        for record in references {
            let name = record.reference.to_string();
            let tag = ResourceKey::new(Kind::Tag, &record.namespace, &name);
            let kind = if desired.resources.contains_key(&tag) || record.role == ReferenceRole::Tag {
                Kind::Tag
            } else {
                Kind::Image
            };
            if wants(kind) {
                let key = ResourceKey::new(kind, &record.namespace, name);
                let item = self.reference_item(kind, &record, desired.resources.get(&key));
                items.insert(key, item);
            }
        }
        if wants(Kind::Registry) {
            let registries: Vec<RegistryRecord> = self.engine.memory().read().registries.values().cloned().collect();
            for record in registries {
                let key = ResourceKey::new(Kind::Registry, "", &record.host);
                let item = self.registry_item(&key, record, desired.resources.get(&key));
                items.insert(key, item);
            }
        }
        // What is wanted and not there yet.
        for (key, declared) in &desired.resources {
            if wants(key.kind)
                && inside(&key.namespace)
                && key.kind != Kind::Namespace
                && !items.contains_key(key)
                && let Some(item) = self.pending_item(key, declared)
            {
                items.insert(key.clone(), item);
            }
        }
        if wants(Kind::Namespace) {
            for namespace in namespaces {
                if inside(&namespace) {
                    let key = ResourceKey::new(Kind::Namespace, &namespace, &namespace);
                    let item = self.namespace_item(&namespace, desired.resources.get(&key));
                    items.insert(key, item);
                }
            }
        }
        let name = query.name.as_deref();
        let canonical = name.and_then(|name| name.parse::<Reference>().ok()).map(|reference| reference.to_string());
        Ok(items
            .into_iter()
            .filter(|(key, item)| match name {
                None => true,
                Some(name) => {
                    key.name == name
                        || canonical.as_deref() == Some(key.name.as_str())
                        || item.metadata.annotations.get(crate::manifest::HANDLE).is_some_and(|handle| handle == name)
                }
            })
            .map(|(_, item)| item)
            .collect())
    }

    /// The item of one container.
    pub(super) fn container_item(&self, record: &ContainerRecord, declared: Option<&Declared>) -> Item {
        let id: ContainerKey = (record.namespace.clone(), record.name.clone());
        let key = ResourceKey::new(Kind::Container, &record.namespace, &record.name);
        let task = self.engine.task(&id);
        let state = task.as_ref().or(record.last.as_ref());
        let failure = self.failure(&key);
        let phase = match (self.engine.busy(&key), &task) {
            (Some(Busy::Removing), _) => Phase::Removing,
            (_, Some(state)) => phase_of(state),
            (Some(_), None) => Phase::Pending,
            (None, None) if failure.is_some() => Phase::Failed,
            (None, None) if !record.started => Phase::Created,
            (None, None) => match record.last.as_ref().map(|state| state.phase) {
                Some(TaskPhase::Failed) => Phase::Failed,
                Some(TaskPhase::Exited | TaskPhase::Stopped) => Phase::Exited,
                _ if record.stopped_by_hand || is_final(record) => Phase::Exited,
                _ => Phase::Pending,
            },
        };
        let mut status = ContainerStatus::new(phase);
        status.image_digest = Some(record.image.clone());
        if let Some(state) = state {
            status.attempt = state.attempt;
            status.restarts = state.restarts;
            status.started = state.started;
            status.exit_code = state.exit.as_ref().map(|exit| exit.code);
            status.signal = state.exit.as_ref().and_then(|exit| exit.signal);
            status.oom_killed = state.exit.as_ref().is_some_and(|exit| exit.oom_killed);
            status.finished = (state.phase != TaskPhase::Running).then(|| state.exit.as_ref().map(|e| e.at)).flatten();
            status.next_start = state.next_start;
            status.log_path = match record.resource.container().and_then(|spec| spec.logs.driver.as_deref()) {
                None => Some(self.engine.log_dir(&id).join(format!("{}.log", state.attempt)).display().to_string()),
                Some(driver) => driver.strip_prefix("file://").map(str::to_owned),
            };
        }
        if let Some(task) = &task {
            status.pid = task.pid;
            status.shim_pid = Some(task.shim_pid);
            status.ready = task.phase == TaskPhase::Running && !task.paused;
        }
        // What is on its way is what it is to become.
        let wanted = declared.map_or(&record.resource, |declared| &declared.resource);
        status.progress =
            wanted.container().and_then(|spec| self.portion(&self.pulled_for(&record.namespace, &spec.image)));
        let reason = state.and_then(|state| state.reason.clone());
        status.conditions = vec![self.condition(&key, declared, record.resource.clone(), reason)];
        let why = if record.started { "stopped by hand" } else { "made and not started" };
        if let Some(reason) = record.stopped_by_hand.then(|| format!("{why}; `bayplan start` starts it")) {
            status.conditions.push(Condition {
                kind: "Stopped".into(),
                status: ConditionStatus::True,
                reason: "ByHand".into(),
                message: reason,
                since: record.last.as_ref().and_then(|s| s.exit.as_ref().map(|e| e.at)).unwrap_or(record.created),
            });
        }
        if let Some(exit) = state.and_then(|state| state.exit.as_ref()).filter(|exit| exit.oom_killed) {
            status.conditions.push(Condition {
                kind: "OOMKilled".into(),
                status: ConditionStatus::True,
                reason: "MemoryLimit".into(),
                message: "the kernel killed its last process at its memory limit; see resources.limits.memory".into(),
                since: exit.at,
            });
        }
        let metadata = ItemMetadata {
            namespace: record.namespace.clone(),
            name: record.name.clone(),
            uid: record.uid.clone(),
            revision: record.revision,
            source: declared.map_or_else(|| record.source.clone(), |declared| declared.source.clone()),
            created: record.created,
            labels: record.resource.metadata.labels.clone(),
            annotations: record.resource.metadata.annotations.clone(),
        };
        Item::new(metadata, spec_value(&record.resource), Status::Container(Box::new(status)))
    }

    fn reference_item(&self, kind: Kind, record: &ReferenceRecord, declared: Option<&Declared>) -> Item {
        let used_by = self.users_of(&record.namespace, &record.reference);
        let image = self.engine.images().load_image(&record.digest, &Platform::host()).ok();
        let image = image.or_else(|| {
            let wanted = self.wanted_platform(record);
            self.engine.images().load_image(&record.digest, &wanted).ok()
        });
        let unpacked = image.as_ref().is_some_and(|image| self.engine.snapshots().is_unpacked(image));
        let chains = image.as_ref().map(|image| crate::snapshot::chain_ids(&image.layers));
        let unpacked_size = chains.and_then(|chains| self.engine.snapshots().known_usage(&chains));
        let platforms = self.engine.images().platforms(&record.digest);
        // Of several platforms all blobs count, of one those that were counted when it was read.
        let size = match (&image, platforms.len()) {
            (Some(image), 0 | 1) => Some(image.size),
            _ => Some(self.engine.images().size_on_disk(&record.digest)),
        };
        let name = record.reference.to_string();
        let key = ResourceKey::new(kind, &record.namespace, &name);
        let resource = declared.map(|declared| declared.resource.clone());
        let spec = match &resource {
            Some(resource) => spec_value(resource),
            None => serde_json::json!({ "reference": name }),
        };
        let conditions =
            resource.map(|resource| vec![self.condition(&key, declared, resource, None)]).unwrap_or_default();
        let status = match kind {
            Kind::Tag => Status::Tag(TagStatus {
                digest: Some(record.digest.clone()),
                size,
                platforms,
                unpacked,
                unpacked_size,
                used_by,
                conditions,
            }),
            _ => Status::Image(ImageStatus {
                digest: Some(record.digest.clone()),
                size,
                platforms,
                unpacked,
                unpacked_size,
                progress: self.portion(&key),
                used_by,
                conditions,
            }),
        };
        let metadata = ItemMetadata {
            namespace: record.namespace.clone(),
            name,
            uid: record.uid.clone(),
            revision: record.revision,
            source: declared.map_or_else(|| record.source.clone(), |declared| declared.source.clone()),
            created: record.created,
            labels: record.labels.clone(),
            annotations: record.annotations.clone(),
        };
        Item::new(metadata, spec, status)
    }

    fn registry_item(&self, key: &ResourceKey, record: RegistryRecord, declared: Option<&Declared>) -> Item {
        let spec = spec_value(&record.resource);
        let conditions = vec![self.condition(key, declared, record.resource.clone(), None)];
        let metadata = ItemMetadata {
            namespace: String::new(),
            name: record.host,
            uid: record.uid,
            revision: record.revision,
            source: declared.map_or(record.source, |declared| declared.source.clone()),
            created: record.created,
            labels: record.resource.metadata.labels,
            annotations: record.resource.metadata.annotations,
        };
        Item::new(metadata, spec, Status::Registry(RegistryStatus { conditions }))
    }

    /// Something wanted of which nothing is on the node yet.
    fn pending_item(&self, key: &ResourceKey, declared: &Declared) -> Option<Item> {
        let resource = &declared.resource;
        let conditions = vec![self.condition(key, Some(declared), resource.clone(), None)];
        let status = match &resource.spec {
            Spec::Container(spec) => {
                let image = self.pulled_for(&key.namespace, &spec.image);
                let phase = match (self.engine.busy(key), self.engine.busy(&image)) {
                    (Some(Busy::Removing), _) => Phase::Removing,
                    (_, Some(Busy::Pulling)) => Phase::Pulling,
                    _ if self.portion(&image).is_some() => Phase::Pulling,
                    (None, _) if self.failure(key).is_some() => Phase::Failed,
                    _ => Phase::Pending,
                };
                let mut status = ContainerStatus::new(phase);
                status.progress = self.portion(&image);
                status.conditions = conditions;
                Status::Container(Box::new(status))
            }
            Spec::Image(spec) => {
                // An archive that names its images itself is listed by those names once it is imported.
                if spec.archive.is_some()
                    && spec.reference.is_none()
                    && self.failure(key).is_none()
                    && self.has_handle(key)
                {
                    return None;
                }
                Status::Image(ImageStatus { progress: self.portion(key), conditions, ..ImageStatus::default() })
            }
            Spec::Registry(_) => Status::Registry(RegistryStatus { conditions }),
            Spec::Tag(_) => Status::Tag(TagStatus { conditions, ..TagStatus::default() }),
            Spec::Namespace(_) => return None,
        };
        let metadata = ItemMetadata {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: String::new(),
            revision: 0,
            source: declared.source.clone(),
            created: jiff::Timestamp::now(),
            labels: resource.metadata.labels.clone(),
            annotations: resource.metadata.annotations.clone(),
        };
        Some(Item::new(metadata, spec_value(resource), status))
    }

    /// Whether a reference on the node carries this handle.
    fn has_handle(&self, key: &ResourceKey) -> bool {
        self.engine.memory().read().references.values().any(|record| {
            record.namespace == key.namespace && record.annotations.get(crate::manifest::HANDLE) == Some(&key.name)
        })
    }

    fn namespace_item(&self, namespace: &str, declared: Option<&Declared>) -> Item {
        let records = self.engine.memory().read();
        let record = records.namespaces.get(namespace);
        let within = |own: &str| own == namespace;
        let tags = records.references.values().filter(|r| within(&r.namespace) && r.role == ReferenceRole::Tag).count();
        let references = records.references.keys().filter(|(own, _)| within(own)).count();
        let status = NamespaceStatus {
            containers: records.containers.keys().filter(|(own, _)| within(own)).count() as u64,
            images: (references - tags) as u64,
            tags: tags as u64,
            conditions: Vec::new(),
        };
        let resource = declared.map(|declared| &declared.resource).or(record.map(|record| &record.resource));
        // A namespace that nobody declared is as old as the first of what stands in it.
        let contained = records.containers.values().filter(|r| within(&r.namespace)).map(|r| r.created);
        let contained =
            contained.chain(records.references.values().filter(|r| within(&r.namespace)).map(|r| r.created));
        let created = record.map(|record| record.created).or_else(|| contained.min());
        let metadata = ItemMetadata {
            namespace: namespace.to_owned(),
            name: namespace.to_owned(),
            uid: record.map(|record| record.uid.clone()).unwrap_or_default(),
            revision: record.map_or(0, |record| record.revision),
            source: declared
                .map(|declared| declared.source.clone())
                .or_else(|| record.map(|record| record.source.clone()))
                .or_else(|| records.containers.values().find(|r| within(&r.namespace)).map(|r| r.source.clone()))
                .or_else(|| records.references.values().find(|r| within(&r.namespace)).map(|r| r.source.clone()))
                .unwrap_or(Source::Cli),
            created: created.unwrap_or_else(jiff::Timestamp::now),
            labels: resource.map(|resource| resource.metadata.labels.clone()).unwrap_or_default(),
            annotations: resource.map(|resource| resource.metadata.annotations.clone()).unwrap_or_default(),
        };
        Item::new(metadata, serde_json::json!({}), Status::Namespace(status))
    }

    /// Whether a resource is as wanted, as far as it is known without planning.
    fn condition(
        &self,
        key: &ResourceKey,
        declared: Option<&Declared>,
        applied: Resource,
        reason: Option<String>,
    ) -> Condition {
        let kind = "Converged".to_owned();
        let now = jiff::Timestamp::now();
        if let Some(failure) = self.failure(key) {
            return Condition {
                kind,
                status: ConditionStatus::False,
                reason: "Failed".into(),
                message: failure.fault.message,
                since: failure.since,
            };
        }
        let (status, word, message) = match declared {
            None => (ConditionStatus::False, "NotDeclared", "no longer declared".to_owned()),
            Some(_) if self.is_claimed(key) => (ConditionStatus::False, "Working", "being brought about".to_owned()),
            Some(declared) if declared.resource != applied => {
                (ConditionStatus::False, "Changed", "its manifest changed".to_owned())
            }
            Some(_) if !self.is_on_node(key) => (ConditionStatus::False, "Pending", "not on the node yet".to_owned()),
            Some(_) => (ConditionStatus::True, "AsDeclared", reason.unwrap_or_else(|| "as declared".to_owned())),
        };
        Condition { kind, status, reason: word.into(), message, since: now }
    }

    /// Names of the containers of a namespace that run this reference.
    pub(super) fn users_of(&self, namespace: &str, reference: &Reference) -> Vec<String> {
        let records = self.engine.memory().read();
        records
            .containers
            .values()
            .filter(|r| r.namespace == namespace)
            .filter(|r| r.resource.container().is_some_and(|spec| spec.image == *reference))
            .map(|r| r.name.clone())
            .collect()
    }
}

/// Whether nothing follows its task, however that ended: a reboot leaves no word of it.
fn is_final(record: &ContainerRecord) -> bool {
    record.resource.container().is_some_and(|spec| spec.restart == RestartPolicy::Never)
}

fn phase_of(state: &TaskState) -> Phase {
    match state.phase {
        TaskPhase::Created => Phase::Created,
        TaskPhase::Running if state.paused => Phase::Paused,
        TaskPhase::Running => Phase::Running,
        TaskPhase::BackOff => Phase::BackOff,
        TaskPhase::Exited | TaskPhase::Stopped => Phase::Exited,
        TaskPhase::Failed => Phase::Failed,
    }
}

/// The spec as its manifest says it.
fn spec_value(resource: &Resource) -> serde_json::Value {
    let mut value = crate::manifest::envelope(resource);
    value.get_mut("spec").map(serde_json::Value::take).unwrap_or_default()
}
