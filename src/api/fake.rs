//! A node in memory: the double behind the tests of API and command line.
//!
//! It keeps what it is given and answers from it; every call that would change a node is noted in `calls`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{self, StreamExt as _};
use serde_json::json;

use super::*;
use crate::error::{Class, Fault, Result};
use crate::manifest::{Kind, ResourceKey};
use crate::oci::{Digest, Platform};
use crate::plan::{Plan, Source};
use crate::shim::protocol::Exit;

/// See the module.
#[derive(Default)]
pub(crate) struct Fake {
    state: Mutex<State>,
    killed: tokio::sync::Notify,
}

/// What the node has, and what it is going to answer.
#[derive(Default)]
pub(crate) struct State {
    pub items: Vec<Item>,
    pub plan: Plan,
    /// Steps (by key) that fail, and why.
    pub failing: BTreeMap<ResourceKey, Fault>,
    pub status: StatusReport,
    pub events: Vec<EventRecord>,
    pub logs: Vec<LogLine>,
    /// What a run writes to its two streams, and how it exits.
    pub output: (String, String),
    pub exit_code: u32,
    /// What tasks use, and the processes in them.
    pub stats: Vec<TaskStats>,
    pub processes: Vec<ProcessInfo>,
    /// What is copied out, and what was copied in last.
    pub tar: Vec<u8>,
    /// `wait_exit` sends this process this signal, and answers once it was passed on.
    pub raises: Option<i32>,
    /// What is told of blobs by pulls, steps and whoever asks.
    pub transfers: Vec<Transfer>,
    /// The next `create` fails with it.
    pub create_fault: Option<Fault>,
    /// The next `save` ends with it, in the middle.
    pub save_fault: Option<Fault>,
    /// What pruning and checking answer.
    pub pruned: PruneReport,
    pub checked: CheckReport,
    pub tree: TreeReport,
    pub mounts: Vec<MountedImage>,
    pub snapshots: Vec<SnapshotInfo>,
    pub blobs: Vec<BlobInfo>,
    /// Calls that would change a node, in order.
    pub calls: Vec<String>,
}

/// 2026-11-23 12:00 UTC: the tests' "now".
pub(crate) fn now() -> jiff::Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

/// So many seconds before [`now`].
pub(crate) fn ago(seconds: i64) -> jiff::Timestamp {
    now() - jiff::SignedDuration::from_secs(seconds)
}

/// A digest of this letter repeated.
pub(crate) fn digest(letter: char) -> Digest {
    format!("sha256:{}", letter.to_string().repeat(64)).parse().unwrap()
}

fn metadata(namespace: &str, name: &str, source: Source) -> ItemMetadata {
    ItemMetadata {
        namespace: namespace.into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        revision: 1,
        source,
        created: ago(312),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
    }
}

/// A running container, declared by the file `shop.yaml`.
pub(crate) fn container(namespace: &str, name: &str) -> Item {
    let mut status = ContainerStatus::new(Phase::Running);
    status.ready = true;
    status.pid = Some(4711);
    status.shim_pid = Some(4700);
    status.attempt = 1;
    status.started = Some(ago(300));
    status.image_digest = Some(digest('a'));
    status.log_path = Some(format!("/var/log/bayplan/{namespace}/{name}/1.log"));
    status.conditions = vec![Condition {
        kind: "Converged".into(),
        status: ConditionStatus::True,
        reason: "AsDeclared".into(),
        message: "the node is as declared".into(),
        since: ago(300),
    }];
    Item::new(
        metadata(namespace, name, Source::Directory("shop.yaml".into())),
        json!({"image": "registry.local/web:stable", "env": {"TZ": "UTC"}}),
        Status::Container(Box::new(status)),
    )
}

/// An image of 12 MB for this machine.
pub(crate) fn image(namespace: &str, reference: &str) -> Item {
    let status = ImageStatus {
        digest: Some(digest('a')),
        size: Some(12_345_678),
        platforms: vec![Platform { os: "linux".into(), architecture: "amd64".into(), variant: None }],
        unpacked: true,
        unpacked_size: Some(31_000_000),
        progress: None,
        used_by: vec!["web".into()],
        conditions: Vec::new(),
    };
    Item::new(metadata(namespace, reference, Source::Cli), json!({"reference": reference}), Status::Image(status))
}

/// A tag.
pub(crate) fn tag(namespace: &str, reference: &str, source: &str) -> Item {
    let status = TagStatus { digest: Some(digest('a')), size: Some(12_345_678), ..TagStatus::default() };
    let spec = json!({"reference": reference, "source": source});
    Item::new(metadata(namespace, reference, Source::Apply("default".into())), spec, Status::Tag(status))
}

/// A namespace with two containers.
pub(crate) fn namespace(name: &str) -> Item {
    let status = NamespaceStatus { containers: 2, images: 1, tags: 1, conditions: Vec::new() };
    Item::new(metadata(name, name, Source::Cli), json!({}), Status::Namespace(status))
}

impl Fake {
    /// A node with this state.
    pub(crate) fn with(change: impl FnOnce(&mut State)) -> Arc<Self> {
        let fake = Self::default();
        change(&mut fake.state());
        Arc::new(fake)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn note(&self, call: impl Into<String>) {
        self.state().calls.push(call.into());
    }

    fn find(&self, kind: Kind, namespace: &str, name: &str) -> Result<Item> {
        let state = self.state();
        let found = state.items.iter().find(|item| item.key() == ResourceKey::new(kind, namespace, name));
        found.cloned().ok_or_else(|| Fault::new(Class::NotFound, format!("{kind} {namespace}/{name} is not found")))
    }

    fn steps(&self, dry_run: bool, unchanged: u64) -> Stream<ApplyEvent> {
        let state = self.state();
        let mut events = Vec::new();
        let (mut changed, mut failed) = (0, 0);
        for step in state.plan.steps.clone() {
            if dry_run {
                changed += 1;
                events.push(Ok(ApplyEvent::Planned { step }));
                continue;
            }
            events.push(Ok(ApplyEvent::Started { step: step.clone() }));
            let transfers = state.transfers.iter().filter(|transfer| transfer.key == step.key).cloned();
            events.extend(transfers.map(|transfer| Ok(ApplyEvent::Progress { transfer })));
            events.push(Ok(match state.failing.get(&step.key) {
                Some(fault) => {
                    failed += 1;
                    ApplyEvent::Failed { step, fault: fault.clone(), millis: 40 }
                }
                None => {
                    changed += 1;
                    ApplyEvent::Done { step, millis: 120 }
                }
            }));
        }
        for problem in state.plan.problems.clone() {
            failed += 1;
            events.push(Ok(ApplyEvent::Problem { problem }));
        }
        events.push(Ok(ApplyEvent::Summary { changed, unchanged, failed }));
        stream::iter(events).boxed()
    }
}

fn ready<'a, T: Send + 'a>(result: Result<T>) -> BoxFuture<'a, Result<T>> {
    std::future::ready(result).boxed()
}

impl Service for Fake {
    fn apply(&self, request: ApplyRequest) -> BoxFuture<'_, Result<Stream<ApplyEvent>>> {
        let names: Vec<String> = request.declared.iter().map(|d| d.resource.key().to_string()).collect();
        self.note(format!("apply {} set={:?} prune={}", names.join(", "), request.set, request.prune));
        let changed = self.state().plan.steps.len();
        let unchanged = request.declared.len().saturating_sub(changed) as u64;
        ready(Ok(self.steps(request.dry_run, unchanged)))
    }

    fn diff(&self, _: DiffRequest) -> BoxFuture<'_, Result<Plan>> {
        ready(Ok(self.state().plan.clone()))
    }

    fn delete(&self, request: DeleteRequest) -> BoxFuture<'_, Result<Stream<ApplyEvent>>> {
        for key in &request.keys {
            self.note(format!("delete {key}"));
        }
        ready(Ok(self.steps(request.dry_run, 0)))
    }

    fn list(&self, query: Query) -> BoxFuture<'_, Result<Vec<Item>>> {
        let state = self.state();
        let wanted = |item: &&Item| {
            (query.kinds.is_empty() || query.kinds.contains(&item.kind))
                && query
                    .namespace
                    .as_ref()
                    .is_none_or(|n| item.kind == Kind::Namespace || *n == item.metadata.namespace)
                && query.name.as_ref().is_none_or(|n| *n == item.metadata.name)
        };
        ready(Ok(state.items.iter().filter(wanted).cloned().collect()))
    }

    fn status(&self) -> BoxFuture<'_, Result<StatusReport>> {
        ready(Ok(self.state().status.clone()))
    }

    fn wait(&self, request: WaitRequest) -> BoxFuture<'_, Result<()>> {
        let there = self.find(request.key.kind, &request.key.namespace, &request.key.name).is_ok();
        let met = there == (request.condition != WaitFor::Deleted);
        ready(if met {
            Ok(())
        } else {
            Err(Fault::new(Class::No, format!("{} is not {} after 60s", request.key, request.condition)))
        })
    }

    fn events(&self, filter: EventFilter) -> BoxFuture<'_, Result<Stream<EventRecord>>> {
        let wanted = |event: &EventRecord| {
            filter.namespace.as_ref().is_none_or(|n| *n == event.key.namespace)
                && filter.kind.is_none_or(|kind| kind == event.key.kind)
                && filter.name.as_ref().is_none_or(|name| *name == event.key.name)
        };
        let events: Vec<_> = self.state().events.iter().filter(|e| wanted(e)).cloned().map(Ok).collect();
        let kept = stream::iter(events);
        ready(Ok(if filter.follow { kept.chain(stream::pending()).boxed() } else { kept.boxed() }))
    }

    fn logs(&self, request: LogRequest) -> BoxFuture<'_, Result<Stream<LogLine>>> {
        ready(self.find(Kind::Container, &request.namespace, &request.name).map(|_| {
            let lines = self.state().logs.clone();
            let skip = request.tail.map_or(0, |tail| lines.len().saturating_sub(usize::try_from(tail).unwrap()));
            stream::iter(lines.into_iter().skip(skip).map(Ok)).boxed()
        }))
    }

    fn sync(&self, request: SyncRequest) -> BoxFuture<'_, Result<Stream<ApplyEvent>>> {
        self.note(format!("sync {:?} confirm={}", request.source, request.confirm_removal));
        ready(Ok(self.steps(false, 0)))
    }

    fn progress(&self, _: ProgressRequest) -> BoxFuture<'_, Result<Stream<Transfer>>> {
        let transfers = self.state().transfers.clone();
        ready(Ok(stream::iter(transfers.into_iter().map(Ok)).boxed()))
    }

    fn pull(&self, request: PullRequest) -> BoxFuture<'_, Result<Stream<PullEvent>>> {
        self.note(format!("pull {}/{}", request.namespace, request.reference));
        let pulled =
            PullEvent::Pulled { reference: request.reference, digest: digest('a'), size: 12_345_678, unchanged: false };
        let blobs = self.state().transfers.clone().into_iter().map(|transfer| {
            let Transfer { digest, state, done, total, fetched, .. } = transfer;
            PullEvent::Blob { digest, state, done, total, fetched }
        });
        let resolved = PullEvent::Resolved { digest: digest('a') };
        let events: Vec<_> = std::iter::once(resolved).chain(blobs).chain([pulled]).map(Ok).collect();
        ready(Ok(stream::iter(events).boxed()))
    }

    fn tag(&self, request: TagRequest) -> BoxFuture<'_, Result<Item>> {
        self.note(format!("tag {} {} force={}", request.source, request.target, request.force));
        ready(Ok(tag(&request.namespace, &request.target.to_string(), &request.source.to_string())))
    }

    fn remove_image(&self, request: RemoveImageRequest) -> BoxFuture<'_, Result<RemovedImage>> {
        ready(self.find(Kind::Image, &request.namespace, &request.name).and_then(|item| {
            let Status::Image(status) = &item.status else { unreachable!() };
            if !request.force && !status.used_by.is_empty() {
                let message = format!("image {} is used by container {}", item.metadata.name, status.used_by[0]);
                return Err(Fault::new(Class::Refused, message).help("remove the container first, or give --force"));
            }
            self.note(format!("rmi {} force={}", item.metadata.name, request.force));
            let declared_by = Some("dir:shop.yaml".to_owned()).filter(|_| request.force);
            Ok(RemovedImage { reference: item.metadata.name, freed: 12_345_678, declared_by, also: Vec::new() })
        }))
    }

    fn load(&self, request: LoadRequest, archive: Archive) -> BoxFuture<'_, Result<Stream<LoadEvent>>> {
        async move {
            let from = match archive {
                Archive::Path(path) => path.display().to_string(),
                Archive::Bytes(mut bytes) => {
                    let mut length = 0;
                    while let Some(chunk) = bytes.next().await {
                        length += chunk?.len();
                    }
                    format!("{length} bytes")
                }
            };
            self.note(format!("load {} into {}", from, request.namespace));
            let blob = |letter, state, done| {
                let blob = digest(letter);
                let name = Some(format!("blobs/sha256/{}", blob.hex()));
                LoadEvent::Blob(LoadedBlob { name, digest: Some(blob), state, done, total: 6_000_000 })
            };
            let images = vec![LoadedImage { reference: "registry.local/web:1".parse().ok(), digest: digest('a') }];
            let events = [
                LoadEvent::Archive { done: 6_000_000, total: Some(12_000_000) },
                blob('b', LoadState::Reading, 3_000_000),
                blob('b', LoadState::Read, 6_000_000),
                blob('c', LoadState::Existed, 6_000_000),
                blob('b', LoadState::Unpacking, 6_000_000),
                LoadEvent::Loaded { images },
            ];
            Ok(stream::iter(events.map(Ok)).boxed())
        }
        .boxed()
    }

    fn push(&self, request: PushRequest) -> BoxFuture<'_, Result<Stream<PushEvent>>> {
        self.note(format!("push {}/{} {:?} {:?}", request.namespace, request.source, request.target, request.part));
        let blob = |letter, state, done, from: Option<&str>| {
            Ok(PushEvent::Blob(PushedBlob {
                digest: digest(letter),
                state,
                done,
                total: 6_000_000,
                from: from.map(Into::into),
            }))
        };
        let reference = request.target.unwrap_or_else(|| request.source.parse().unwrap());
        let pushed = PushEvent::Pushed {
            reference,
            digest: digest('a'),
            size: 12_000_000,
            sent: 6_000_000,
            unchanged: false,
            part_of: (request.part != ImagePart::All).then(|| digest('f')),
        };
        let events = [
            blob('b', SendState::Waiting, 0, None),
            blob('b', SendState::Sending, 3_000_000, None),
            blob('b', SendState::Sent, 6_000_000, None),
            blob('c', SendState::Existed, 6_000_000, None),
            blob('d', SendState::Mounted, 6_000_000, Some("lab/base")),
            Ok(pushed),
        ];
        ready(Ok(stream::iter(events).boxed()))
    }

    fn save(&self, request: SaveRequest) -> BoxFuture<'_, Result<Stream<bytes::Bytes>>> {
        let SaveRequest { namespace, names, part, format, packing } = request;
        self.note(format!("save {namespace} {} {part:?} {format:?} {packing:?}", names.join(" ")));
        let cut = self.state().save_fault.take().map(Err);
        let parts = ["an ", "archive"].map(|text| Ok(bytes::Bytes::from(text)));
        ready(Ok(stream::iter(parts.into_iter().chain(cut)).boxed()))
    }

    fn import_rootfs(&self, request: RootfsRequest, archive: Archive) -> BoxFuture<'_, Result<Stream<LoadEvent>>> {
        async move {
            let Archive::Path(path) = archive else { return Err(Fault::new(Class::Bug, "a path was expected")) };
            self.note(format!("import {} {}", path.display(), serde_json::to_string(&request).unwrap()));
            let images = vec![LoadedImage { reference: Some(request.reference), digest: digest('a') }];
            Ok(stream::iter([Ok(LoadEvent::Loaded { images })]).boxed())
        }
        .boxed()
    }

    fn create(&self, request: CreateRequest) -> BoxFuture<'_, Result<Stream<CreateEvent>>> {
        self.note(format!(
            "create {}/{} {} start={}",
            request.namespace,
            request.id,
            serde_json::to_string(&request.spec).unwrap(),
            request.start
        ));
        let (fault, output) = {
            let mut state = self.state();
            (state.create_fault.take(), state.output.clone())
        };
        if let Some(fault) = fault {
            return ready(Err(fault));
        }
        if let Some(stdio) = request.stdio {
            for (path, text) in [(stdio.stdout, output.0), (stdio.stderr, output.1)] {
                if let Some(path) = path {
                    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
                }
            }
        }
        let (attempt, pid) = if request.start { (1, Some(4711)) } else { (0, None) };
        let created = CreateEvent::Created(Created { uid: "uid".into(), attempt, pid });
        let transfers = self.state().transfers.clone();
        let moves = transfers.into_iter().map(|transfer| CreateEvent::Progress { transfer });
        let events: Vec<_> = moves.chain([created]).map(Ok).collect();
        ready(Ok(stream::iter(events).boxed()))
    }

    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<Created>> {
        self.note(format!("start {}/{}", request.namespace, request.name));
        ready(self.find(Kind::Container, &request.namespace, &request.name).map(|item| Created {
            uid: item.metadata.uid,
            attempt: 2,
            pid: Some(4712),
        }))
    }

    fn stop(&self, request: StopRequest) -> BoxFuture<'_, Result<()>> {
        self.note(format!("stop {}/{} grace={:?}", request.namespace, request.name, request.grace_ms));
        ready(self.find(Kind::Container, &request.namespace, &request.name).map(drop))
    }

    fn restart(&self, request: StopRequest) -> BoxFuture<'_, Result<Created>> {
        self.note(format!("restart {}/{}", request.namespace, request.name));
        ready(Ok(Created { uid: "uid".into(), attempt: 2, pid: Some(4712) }))
    }

    fn kill(&self, request: KillRequest) -> BoxFuture<'_, Result<()>> {
        self.note(format!("kill {}/{} signal={} all={}", request.namespace, request.name, request.signal, request.all));
        self.killed.notify_one();
        ready(self.find(Kind::Container, &request.namespace, &request.name).map(drop))
    }

    fn remove_container(&self, request: RemoveContainerRequest) -> BoxFuture<'_, Result<RemovedContainer>> {
        self.note(format!("rm {}/{} force={}", request.namespace, request.name, request.force));
        let declared_by = Some("dir:shop.yaml".to_owned()).filter(|_| request.force);
        ready(self.find(Kind::Container, &request.namespace, &request.name).map(|_| RemovedContainer { declared_by }))
    }

    fn wait_exit(&self, _: WaitExitRequest) -> BoxFuture<'_, Result<Ended>> {
        async {
            let (code, raises) = {
                let state = self.state();
                (state.exit_code, state.raises)
            };
            if let Some(number) = raises {
                nix::sys::signal::raise(nix::sys::signal::Signal::try_from(number).unwrap()).unwrap();
                self.killed.notified().await;
                let exit = Exit { code: 128 + number.unsigned_abs(), signal: raises, oom_killed: false, at: now() };
                return Ok(Ended { exit, removed: false });
            }
            Ok(Ended { exit: Exit { code, signal: None, oom_killed: false, at: now() }, removed: false })
        }
        .boxed()
    }

    fn copy_from(&self, request: CopyFromRequest) -> BoxFuture<'_, Result<Stream<bytes::Bytes>>> {
        self.note(format!("copy from {}/{} {}", request.namespace, request.name, request.path));
        let tar = self.state().tar.clone();
        ready(Ok(stream::iter([Ok(tar.into())]).boxed()))
    }

    fn copy_into(&self, request: CopyIntoRequest, archive: Archive) -> BoxFuture<'_, Result<Stream<Copied>>> {
        async move {
            let mut tar = Vec::new();
            if let Archive::Bytes(mut bytes) = archive {
                while let Some(chunk) = bytes.next().await {
                    tar.extend_from_slice(&chunk?);
                }
            }
            let CopyIntoRequest { namespace, name, path, extract, owners } = request;
            self.note(format!("copy into {namespace}/{name} {path} extract={extract} owners={owners}"));
            self.state().tar = tar;
            Ok(stream::iter([Ok(Copied { entries: 1, bytes: 5, skipped: 0 })]).boxed())
        }
        .boxed()
    }

    fn stats(&self, request: StatsRequest) -> BoxFuture<'_, Result<Vec<TaskStats>>> {
        let mut stats = self.state().stats.clone();
        stats.retain(|one| request.names.is_empty() || request.names.contains(&one.name));
        // Each call is a second later, and half a second of processors.
        for one in &mut self.state().stats {
            one.time += jiff::SignedDuration::from_secs(1);
            one.cpu += 500_000_000;
        }
        ready(Ok(stats))
    }

    fn top(&self, request: TopRequest) -> BoxFuture<'_, Result<Vec<ProcessInfo>>> {
        ready(self.find(Kind::Container, &request.namespace, &request.name).map(|_| self.state().processes.clone()))
    }

    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<Executed>> {
        let mut shown = request.clone();
        let stdio = shown.stdio.take().unwrap_or_default();
        self.note(format!("exec {} terminal={}", serde_json::to_string(&shown).unwrap(), stdio.terminal));
        let (fault, output) = {
            let mut state = self.state();
            (state.create_fault.take(), state.output.clone())
        };
        if let Some(fault) = fault {
            return ready(Err(fault));
        }
        for (path, text) in [(stdio.stdout, output.0), (stdio.stderr, output.1)] {
            if let Some(path) = path {
                std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
            }
        }
        let exec_id = request.exec_id.unwrap_or_else(|| "made-up".into());
        ready(Ok(Executed { exec_id, pid: 4713, warnings: Vec::new() }))
    }

    fn wait_exec(&self, request: WaitExecRequest) -> BoxFuture<'_, Result<ExecEnded>> {
        self.note(format!("wait exec {}", request.exec_id));
        let code = self.state().exit_code;
        ready(Ok(ExecEnded { exit: Exit { code, signal: None, oom_killed: false, at: now() } }))
    }

    fn resize(&self, request: ResizeRequest) -> BoxFuture<'_, Result<()>> {
        self.note(format!("resize {}/{} {:?}", request.namespace, request.name, request.size));
        ready(Ok(()))
    }

    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Attached>> {
        self.note(format!("attach {}/{}", request.namespace, request.name));
        let output = self.state().output.clone();
        for (path, text) in [(request.stdio.stdout, output.0), (request.stdio.stderr, output.1)] {
            if let Some(path) = path {
                std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
            }
        }
        ready(self.find(Kind::Container, &request.namespace, &request.name).map(|item| Attached {
            uid: item.metadata.uid,
            attempt: 1,
            pid: Some(4711),
            terminal: false,
            stdin: false,
        }))
    }

    fn close_input(&self, _: CloseInputRequest) -> BoxFuture<'_, Result<()>> {
        ready(Ok(()))
    }

    fn pause(&self, request: TaskRequest) -> BoxFuture<'_, Result<()>> {
        self.note(format!("pause {}/{}", request.namespace, request.name));
        ready(self.find(Kind::Container, &request.namespace, &request.name).map(drop))
    }

    fn resume(&self, request: TaskRequest) -> BoxFuture<'_, Result<()>> {
        self.note(format!("resume {}/{}", request.namespace, request.name));
        ready(self.find(Kind::Container, &request.namespace, &request.name).map(drop))
    }

    fn inspect(&self, key: ResourceKey) -> BoxFuture<'_, Result<Inspection>> {
        ready(self.find(key.kind, &key.namespace, &key.name).map(|item| Inspection {
            item,
            record: json!({"spec": {}}),
            runtime_spec: json!({"ociVersion": "1.0.2"}),
            config: serde_json::Value::Null,
            image: None,
        }))
    }

    fn create_namespace(&self, request: NamespaceRequest) -> BoxFuture<'_, Result<Item>> {
        self.note(format!("create namespace {}", request.name));
        ready(Ok(namespace(&request.name)))
    }

    fn remove_namespace(&self, request: NamespaceRequest) -> BoxFuture<'_, Result<()>> {
        self.note(format!("remove namespace {}", request.name));
        ready(self.find(Kind::Namespace, &request.name, &request.name).map(drop))
    }

    fn label(&self, request: LabelRequest) -> BoxFuture<'_, Result<Item>> {
        self.note(format!("label {} {:?}", request.key, request.labels));
        ready(self.find(request.key.kind, &request.key.namespace, &request.key.name))
    }

    fn prune_images(&self, request: PruneRequest) -> BoxFuture<'_, Result<PruneReport>> {
        self.note(format!(
            "prune {:?} all={} older={:?} dry={}",
            request.namespace, request.all, request.older_than_ms, request.dry_run
        ));
        ready(Ok(self.state().pruned.clone()))
    }

    fn check_images(&self, request: CheckRequest) -> BoxFuture<'_, Result<CheckReport>> {
        self.note(format!("check {} {:?} repair={}", request.namespace, request.names, request.repair));
        ready(Ok(self.state().checked.clone()))
    }

    fn image_tree(&self, _: Query) -> BoxFuture<'_, Result<TreeReport>> {
        ready(Ok(self.state().tree.clone()))
    }

    fn mount_image(&self, request: MountRequest) -> BoxFuture<'_, Result<MountedImage>> {
        self.note(format!("mount {}/{} at {}", request.namespace, request.name, request.target.display()));
        ready(Ok(MountedImage {
            target: request.target,
            name: request.name,
            digest: digest('a'),
            platform: "linux/amd64".parse().unwrap(),
            writable: request.writable,
        }))
    }

    fn unmount_image(&self, request: UnmountRequest) -> BoxFuture<'_, Result<MountedImage>> {
        self.note(format!("unmount {}", request.target.display()));
        let found = self.state().mounts.iter().find(|mount| mount.target == request.target).cloned();
        ready(found.ok_or_else(|| Fault::new(Class::NotFound, "no image is mounted there")))
    }

    fn mounted_images(&self) -> BoxFuture<'_, Result<Vec<MountedImage>>> {
        ready(Ok(self.state().mounts.clone()))
    }

    fn snapshots(&self) -> BoxFuture<'_, Result<Vec<SnapshotInfo>>> {
        ready(Ok(self.state().snapshots.clone()))
    }

    fn blobs(&self) -> BoxFuture<'_, Result<Vec<BlobInfo>>> {
        ready(Ok(self.state().blobs.clone()))
    }

    fn read_blob(&self, request: BlobRequest) -> BoxFuture<'_, Result<Stream<bytes::Bytes>>> {
        self.note(format!("read blob {}", request.digest));
        let parts = ["a ", "blob"].map(|text| Ok(bytes::Bytes::from(text)));
        ready(Ok(stream::iter(parts).boxed()))
    }

    fn remove_blob(&self, request: RemoveBlobRequest) -> BoxFuture<'_, Result<RemovedBlob>> {
        self.note(format!("remove blob {} force={}", request.digest, request.force));
        let needed_by = if request.force { vec!["shop/registry.local/web:1".to_owned()] } else { Vec::new() };
        ready(Ok(RemovedBlob { digest: digest('b'), size: 1_000, needed_by }))
    }

    fn info(&self) -> BoxFuture<'_, Result<Info>> {
        ready(Ok(Info {
            daemon: true,
            pid: 99,
            root: "/var/lib/bayplan".into(),
            state: "/run/bayplan".into(),
            manifests: "/etc/bayplan/manifests".into(),
            address: "/run/bayplan/bayplan.sock".into(),
            cgroup_version: "v2".into(),
            cgroup_driver: "systemd".into(),
            cgroup_parent: "/bayplan".into(),
            containers: 3,
            running: 2,
            images: 1,
            namespaces: 2,
            warnings: vec!["limits are best effort: no CAP_SYS_RESOURCE".into()],
        }))
    }

    fn version(&self) -> BoxFuture<'_, Result<Version>> {
        ready(Ok(Version {
            version: "0.1.0".into(),
            commit: String::new(),
            api_version: crate::manifest::API_VERSION.into(),
            platform: "linux/amd64".into(),
            runtime: Some("runc version 1.1.5".into()),
            runtime_path: Some("/usr/bin/runc".into()),
            kernel: "6.1.0".into(),
        }))
    }
}
