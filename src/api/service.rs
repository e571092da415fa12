//! What a node can be asked. Implemented by the controller; a fake stands in for it in tests.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::mpsc;

use super::types::*;
use crate::error::Result;
use crate::plan::Plan;

/// Values that arrive over time. An `Err` is the last one.
pub type Stream<T> = BoxStream<'static, Result<T>>;

/// A sender and the [`Stream`] of what it sends. The stream ends when the sender is dropped; sending
/// errs once the reader has gone, which is how long work learns that nobody listens.
pub fn channel<T: Send + 'static>(capacity: usize) -> (mpsc::Sender<Result<T>>, Stream<T>) {
    let (sender, mut receiver) = mpsc::channel(capacity);
    (sender, stream::poll_fn(move |context| receiver.poll_recv(context)).boxed())
}

/// Where `load`, `import_rootfs` and `copy_into` read an archive.
pub enum Archive {
    /// A file on the node, by absolute path.
    Path(std::path::PathBuf),
    /// Its bytes, as they come.
    Bytes(Stream<Bytes>),
}

/// A node, as the API shows it. Every call may be made at any time, from many callers at once.
///
/// Faults carry their class: `NotFound` for an object that is not there, `Refused` for what is in the
/// way, `No` for a time-out.
pub trait Service: Send + Sync + 'static {
    /// Declares resources for an `apply` set and brings them about; one event for the end of each step, in
    /// the order of the plan, and the summary last. A failed step
    /// is an event, not an `Err`. Dropping the stream does not undo or stop what was begun.
    fn apply(&self, request: ApplyRequest) -> BoxFuture<'_, Result<Stream<ApplyEvent>>>;

    /// The steps that `apply` would take; without declarations, what the controller would do now.
    fn diff(&self, request: DiffRequest) -> BoxFuture<'_, Result<Plan>>;

    /// Removes resources. Refuses, before anything is done, what a directory still declares, and names the file.
    fn delete(&self, request: DeleteRequest) -> BoxFuture<'_, Result<Stream<ApplyEvent>>>;

    /// Resources of the node, ordered by namespace, kind and name. A name that matches nothing gives an
    /// empty list.
    fn list(&self, query: Query) -> BoxFuture<'_, Result<Vec<Item>>>;

    /// One screen about the node.
    fn status(&self) -> BoxFuture<'_, Result<StatusReport>>;

    /// Returns when the condition holds; a time-out is a fault of class `No`.
    fn wait(&self, request: WaitRequest) -> BoxFuture<'_, Result<()>>;

    /// Events kept, oldest first; with `follow`, those to come as well.
    fn events(&self, filter: EventFilter) -> BoxFuture<'_, Result<Stream<EventRecord>>>;

    /// Lines of a container's log, oldest first; with `follow`, those to come as well, until it is removed
    /// or has ended for good.
    fn logs(&self, request: LogRequest) -> BoxFuture<'_, Result<Stream<LogLine>>>;

    /// Reconciles now (all sources, or one), and reports like `apply`.
    fn sync(&self, request: SyncRequest) -> BoxFuture<'_, Result<Stream<ApplyEvent>>>;

    /// Pulls an image into a namespace; its result is the last event.
    fn pull(&self, request: PullRequest) -> BoxFuture<'_, Result<Stream<PullEvent>>>;

    /// What is on its way to the node, and every move of it from now on.
    fn progress(&self, request: ProgressRequest) -> BoxFuture<'_, Result<Stream<Transfer>>>;

    /// Gives an image a further name.
    fn tag(&self, request: TagRequest) -> BoxFuture<'_, Result<Item>>;

    /// Takes a reference away; refuses one that a container uses unless forced.
    fn remove_image(&self, request: RemoveImageRequest) -> BoxFuture<'_, Result<RemovedImage>>;

    /// Imports the images of an archive into a namespace; its result is the last event. Dropping the stream gives
    /// it up.
    fn load(&self, request: LoadRequest, archive: Archive) -> BoxFuture<'_, Result<Stream<LoadEvent>>>;

    /// Pushes an image of a namespace; its result is the last event. Dropping the stream gives the push up.
    fn push(&self, request: PushRequest) -> BoxFuture<'_, Result<Stream<PushEvent>>>;

    /// Images as an archive. What it needs is looked for before the first byte.
    fn save(&self, request: SaveRequest) -> BoxFuture<'_, Result<Stream<Bytes>>>;

    /// Makes an image of the tar file of a root file system; its result is the last event. Dropping the stream gives
    /// it up.
    fn import_rootfs(&self, request: RootfsRequest, archive: Archive) -> BoxFuture<'_, Result<Stream<LoadEvent>>>;

    /// Makes a container by hand, pulling its image if need be, and starts it if asked; its result is the last
    /// event. Dropping the stream gives it up.
    fn create(&self, request: CreateRequest) -> BoxFuture<'_, Result<Stream<CreateEvent>>>;

    /// Starts the task of a container that is not running; clears "stopped by hand".
    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<Created>>;

    /// Ends the task, by its stop signal and then SIGKILL, and keeps it down. Done when it is gone.
    fn stop(&self, request: StopRequest) -> BoxFuture<'_, Result<()>>;

    /// Stops, and starts again. Done when it runs.
    fn restart(&self, request: StopRequest) -> BoxFuture<'_, Result<Created>>;

    /// Sends a signal to a running task.
    fn kill(&self, request: KillRequest) -> BoxFuture<'_, Result<()>>;

    /// Runs a further process in a running container. It lives on when nobody waits for it.
    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<Executed>>;

    /// Returns when a further process has ended, with its exit. May be asked again, also of another daemon.
    fn wait_exec(&self, request: WaitExecRequest) -> BoxFuture<'_, Result<ExecEnded>>;

    /// Changes the size of a process's terminal.
    fn resize(&self, request: ResizeRequest) -> BoxFuture<'_, Result<()>>;

    /// Connects further streams to a running task; the paths of FIFOs that the caller has open.
    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Attached>>;

    /// Says to a shim that does not see the end of a FIFO that no more input comes.
    fn close_input(&self, request: CloseInputRequest) -> BoxFuture<'_, Result<()>>;

    /// Freezes every process of a running task.
    fn pause(&self, request: TaskRequest) -> BoxFuture<'_, Result<()>>;

    /// Lets a frozen task go on.
    fn resume(&self, request: TaskRequest) -> BoxFuture<'_, Result<()>>;

    /// Takes a container away; refuses one that runs unless forced.
    fn remove_container(&self, request: RemoveContainerRequest) -> BoxFuture<'_, Result<RemovedContainer>>;

    /// Returns when that attempt (absent: the current one) has ended, with its exit. Also answers for a container that
    /// was removed by its own `rm` in the meantime.
    fn wait_exit(&self, request: WaitExitRequest) -> BoxFuture<'_, Result<Ended>>;

    /// A file or directory of a container as a tar stream; what is wrong comes behind it.
    fn copy_from(&self, request: CopyFromRequest) -> BoxFuture<'_, Result<Stream<Bytes>>>;

    /// Puts the files of a tar stream into a container; its result is the only answer. Dropping it gives the copy up
    /// where it is.
    fn copy_into(&self, request: CopyIntoRequest, archive: Archive) -> BoxFuture<'_, Result<Stream<Copied>>>;

    /// What running tasks use.
    fn stats(&self, request: StatsRequest) -> BoxFuture<'_, Result<Vec<TaskStats>>>;

    /// The processes of a running task.
    fn top(&self, request: TopRequest) -> BoxFuture<'_, Result<Vec<ProcessInfo>>>;

    /// Everything about one container or image.
    fn inspect(&self, key: crate::manifest::ResourceKey) -> BoxFuture<'_, Result<Inspection>>;

    /// Makes a namespace by hand; refuses one that exists.
    fn create_namespace(&self, request: NamespaceRequest) -> BoxFuture<'_, Result<Item>>;

    /// Takes an empty namespace away; refuses while anything is left inside.
    fn remove_namespace(&self, request: NamespaceRequest) -> BoxFuture<'_, Result<()>>;

    /// Sets and takes labels of a resource made by hand.
    fn label(&self, request: LabelRequest) -> BoxFuture<'_, Result<Item>>;

    /// Paths, drivers and counts.
    fn info(&self) -> BoxFuture<'_, Result<Info>>;

    /// Takes away, or only tells, what nothing needs; nothing that is used or declared.
    fn prune_images(&self, request: PruneRequest) -> BoxFuture<'_, Result<PruneReport>>;

    /// Examines blobs and snapshots, and repairs them if asked.
    fn check_images(&self, request: CheckRequest) -> BoxFuture<'_, Result<CheckReport>>;

    /// Which layers are whose; of one namespace, or of all.
    fn image_tree(&self, query: Query) -> BoxFuture<'_, Result<TreeReport>>;

    /// Mounts an image's files at a path.
    fn mount_image(&self, request: MountRequest) -> BoxFuture<'_, Result<MountedImage>>;

    /// Takes a mounted image down.
    fn unmount_image(&self, request: UnmountRequest) -> BoxFuture<'_, Result<MountedImage>>;

    /// Images that are mounted at paths.
    fn mounted_images(&self) -> BoxFuture<'_, Result<Vec<MountedImage>>>;

    /// Every snapshot with its size; those that were not measured before are measured now.
    fn snapshots(&self) -> BoxFuture<'_, Result<Vec<SnapshotInfo>>>;

    /// Every blob.
    fn blobs(&self) -> BoxFuture<'_, Result<Vec<BlobInfo>>>;

    /// The bytes of a blob.
    fn read_blob(&self, request: BlobRequest) -> BoxFuture<'_, Result<Stream<Bytes>>>;

    /// Takes a blob away; refuses one that an image or a container needs unless forced.
    fn remove_blob(&self, request: RemoveBlobRequest) -> BoxFuture<'_, Result<RemovedBlob>>;

    /// The build, the runtime and the kernel.
    fn version(&self) -> BoxFuture<'_, Result<Version>>;
}
