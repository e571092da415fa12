//! The node as the API sees it: each call, by the part of the controller that answers it.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::api::*;
use crate::api::{Archive, Service, Stream, channel};
use crate::error::{Class, Fault, Result};
use crate::manifest::ResourceKey;
use crate::plan::Plan;

use super::Node;

/// A handle on a node that answers the API.
pub struct NodeService(pub Arc<Node>);

impl Service for NodeService {
    fn apply(&self, request: ApplyRequest) -> BoxFuture<'_, Result<Stream<ApplyEvent>>> {
        Box::pin(self.0.apply(request))
    }

    fn diff(&self, request: DiffRequest) -> BoxFuture<'_, Result<Plan>> {
        Box::pin(self.0.diff(request))
    }

    fn delete(&self, request: DeleteRequest) -> BoxFuture<'_, Result<Stream<ApplyEvent>>> {
        Box::pin(self.0.delete(request))
    }

    fn list(&self, query: Query) -> BoxFuture<'_, Result<Vec<Item>>> {
        Box::pin(async move { self.0.list(&query) })
    }

    fn status(&self) -> BoxFuture<'_, Result<StatusReport>> {
        Box::pin(self.0.status())
    }

    fn wait(&self, request: WaitRequest) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.0.wait(request))
    }

    fn events(&self, filter: EventFilter) -> BoxFuture<'_, Result<Stream<EventRecord>>> {
        Box::pin(async move { self.0.events(filter) })
    }

    fn logs(&self, request: LogRequest) -> BoxFuture<'_, Result<Stream<LogLine>>> {
        Box::pin(async move {
            let (sender, stream) = channel(256);
            let follower = super::logs::Follower::open(&self.0, request)?;
            tokio::spawn(follower.run(sender));
            Ok(stream)
        })
    }

    fn progress(&self, request: ProgressRequest) -> BoxFuture<'_, Result<Stream<Transfer>>> {
        Box::pin(async move { Ok(self.0.progress(request)) })
    }

    fn sync(&self, request: SyncRequest) -> BoxFuture<'_, Result<Stream<ApplyEvent>>> {
        Box::pin(self.0.sync(request))
    }

    fn pull(&self, request: PullRequest) -> BoxFuture<'_, Result<Stream<PullEvent>>> {
        Box::pin(async move { self.0.pull_by_hand(request) })
    }

    fn tag(&self, request: TagRequest) -> BoxFuture<'_, Result<Item>> {
        Box::pin(self.0.tag_by_hand(request))
    }

    fn remove_image(&self, request: RemoveImageRequest) -> BoxFuture<'_, Result<RemovedImage>> {
        Box::pin(self.0.remove_image_by_hand(request))
    }

    fn load(&self, request: LoadRequest, archive: Archive) -> BoxFuture<'_, Result<Stream<LoadEvent>>> {
        Box::pin(async move { self.0.load(request, archive) })
    }

    fn push(&self, request: PushRequest) -> BoxFuture<'_, Result<Stream<PushEvent>>> {
        Box::pin(async move { self.0.push_by_hand(request) })
    }

    fn save(&self, request: SaveRequest) -> BoxFuture<'_, Result<Stream<bytes::Bytes>>> {
        Box::pin(self.0.save(request))
    }

    fn import_rootfs(&self, request: RootfsRequest, archive: Archive) -> BoxFuture<'_, Result<Stream<LoadEvent>>> {
        Box::pin(async move { Ok(self.0.import_rootfs(request, archive)) })
    }

    fn create(&self, request: CreateRequest) -> BoxFuture<'_, Result<Stream<CreateEvent>>> {
        Box::pin(async move { Ok(self.0.create_by_hand(request)) })
    }

    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<Created>> {
        Box::pin(self.0.start_by_hand(request))
    }

    fn stop(&self, request: StopRequest) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.0.stop_by_hand(request))
    }

    fn restart(&self, request: StopRequest) -> BoxFuture<'_, Result<Created>> {
        Box::pin(async move {
            let start = StartRequest {
                namespace: request.namespace.clone(),
                name: request.name.clone(),
                ..StartRequest::default()
            };
            self.0.stop_by_hand(request).await?;
            self.0.start_by_hand(start).await
        })
    }

    fn kill(&self, request: KillRequest) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.0.kill_by_hand(request))
    }

    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<Executed>> {
        Box::pin(self.0.exec_by_hand(request))
    }

    fn wait_exec(&self, request: WaitExecRequest) -> BoxFuture<'_, Result<ExecEnded>> {
        Box::pin(self.0.wait_exec(request))
    }

    fn resize(&self, request: ResizeRequest) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.0.resize_by_hand(request))
    }

    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Attached>> {
        Box::pin(self.0.attach_by_hand(request))
    }

    fn close_input(&self, request: CloseInputRequest) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.0.close_input(request))
    }

    fn pause(&self, request: TaskRequest) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.0.pause_by_hand(request))
    }

    fn resume(&self, request: TaskRequest) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.0.resume_by_hand(request))
    }

    fn remove_container(&self, request: RemoveContainerRequest) -> BoxFuture<'_, Result<RemovedContainer>> {
        Box::pin(self.0.remove_by_hand(request))
    }

    fn wait_exit(&self, request: WaitExitRequest) -> BoxFuture<'_, Result<Ended>> {
        Box::pin(self.0.wait_exit(request))
    }

    fn copy_from(&self, request: CopyFromRequest) -> BoxFuture<'_, Result<Stream<bytes::Bytes>>> {
        Box::pin(self.0.copy_from(request))
    }

    fn copy_into(&self, request: CopyIntoRequest, archive: Archive) -> BoxFuture<'_, Result<Stream<Copied>>> {
        Box::pin(self.0.copy_into(request, archive))
    }

    fn stats(&self, request: StatsRequest) -> BoxFuture<'_, Result<Vec<TaskStats>>> {
        Box::pin(self.0.stats(request))
    }

    fn top(&self, request: TopRequest) -> BoxFuture<'_, Result<Vec<ProcessInfo>>> {
        Box::pin(self.0.top(request))
    }

    fn inspect(&self, key: ResourceKey) -> BoxFuture<'_, Result<Inspection>> {
        Box::pin(async move {
            let node = Arc::clone(&self.0);
            // Layers may have to be measured.
            tokio::task::spawn_blocking(move || node.inspect(&key))
                .await
                .unwrap_or_else(|error| Err(Fault::new(Class::Bug, format!("inspect: {error}"))))
        })
    }

    fn create_namespace(&self, request: NamespaceRequest) -> BoxFuture<'_, Result<Item>> {
        Box::pin(self.0.create_namespace(request))
    }

    fn remove_namespace(&self, request: NamespaceRequest) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.0.remove_namespace(request))
    }

    fn label(&self, request: LabelRequest) -> BoxFuture<'_, Result<Item>> {
        Box::pin(self.0.label(request))
    }

    fn prune_images(&self, request: PruneRequest) -> BoxFuture<'_, Result<PruneReport>> {
        Box::pin(self.0.prune_images(request))
    }

    fn check_images(&self, request: CheckRequest) -> BoxFuture<'_, Result<CheckReport>> {
        Box::pin(self.0.check_images(request))
    }

    fn image_tree(&self, query: Query) -> BoxFuture<'_, Result<TreeReport>> {
        Box::pin(self.0.image_tree(query))
    }

    fn mount_image(&self, request: MountRequest) -> BoxFuture<'_, Result<MountedImage>> {
        Box::pin(self.0.mount_image(request))
    }

    fn unmount_image(&self, request: UnmountRequest) -> BoxFuture<'_, Result<MountedImage>> {
        Box::pin(async move { self.0.unmount_image(&request) })
    }

    fn mounted_images(&self) -> BoxFuture<'_, Result<Vec<MountedImage>>> {
        Box::pin(async move { Ok(self.0.mounted_images()) })
    }

    fn snapshots(&self) -> BoxFuture<'_, Result<Vec<SnapshotInfo>>> {
        Box::pin(self.0.snapshot_infos())
    }

    fn blobs(&self) -> BoxFuture<'_, Result<Vec<BlobInfo>>> {
        Box::pin(self.0.blob_infos())
    }

    fn read_blob(&self, request: BlobRequest) -> BoxFuture<'_, Result<Stream<bytes::Bytes>>> {
        Box::pin(self.0.read_blob(request))
    }

    fn remove_blob(&self, request: RemoveBlobRequest) -> BoxFuture<'_, Result<RemovedBlob>> {
        Box::pin(self.0.remove_blob(request))
    }

    fn info(&self) -> BoxFuture<'_, Result<Info>> {
        Box::pin(async move { Ok(self.0.info()) })
    }

    fn version(&self) -> BoxFuture<'_, Result<Version>> {
        Box::pin(async move { Ok(self.0.version().await) })
    }
}
