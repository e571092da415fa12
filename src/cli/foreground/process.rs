//! What a session is held with: the task of a container, or a further process of it. How it begins, and what can be
//! asked of it meanwhile.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};

use crate::api::{
    AttachRequest, Client, CloseInputRequest, CreateRequest, Ended, ExecRequest, KillRequest, ResizeRequest,
    Service as _, StartRequest, Stdio, StopRequest, TerminalSize, WaitExecRequest, WaitExitRequest,
};
use crate::cli::progress::{self, Progress};
use crate::cli::ui::Ui;
use crate::error::{Class, Result};

/// What ends a further process that does not end by itself.
pub(super) const SIGKILL: i32 = 9;

/// How a session begins.
pub(in crate::cli) enum Begin {
    /// With a new container.
    Create(Box<CreateRequest>, progress::Flag),
    /// With the task of one that is there.
    Start(StartRequest),
    /// With a further process.
    Exec(Box<ExecRequest>),
    /// With a task that runs already.
    Attach(AttachRequest),
}

/// See the module.
#[derive(Clone)]
pub(super) struct Process {
    node: Arc<Client>,
    pub(super) namespace: String,
    pub(super) name: String,
    what: What,
    /// On the node.
    pub(super) pid: Option<u32>,
    /// It was there before, and goes on when the session ends.
    pub(super) is_guest: bool,
}

#[derive(Clone)]
enum What {
    Task { uid: String, attempt: u32 },
    Exec { exec_id: String },
}

impl Begin {
    /// Asks for it; `stdio` are the session's FIFOs.
    pub(super) async fn begin(self, node: &Arc<Client>, stdio: Stdio, ui: &mut Ui) -> Result<Process> {
        let (namespace, name) = match &self {
            Begin::Create(request, _) => (request.namespace.clone(), request.id.clone()),
            Begin::Start(request) => (request.namespace.clone(), request.name.clone()),
            Begin::Exec(request) => (request.namespace.clone(), request.name.clone()),
            Begin::Attach(request) => (request.namespace.clone(), request.name.clone()),
        };
        let is_guest = matches!(self, Begin::Attach(_));
        let (what, pid) = match self {
            Begin::Create(mut request, flag) => {
                request.stdio = Some(stdio);
                let created = Progress::create(flag, node, *request, ui).await?;
                (What::Task { uid: created.uid, attempt: created.attempt }, created.pid)
            }
            Begin::Start(mut request) => {
                request.stdio = Some(stdio);
                let created = node.start(request).await?;
                (What::Task { uid: created.uid, attempt: created.attempt }, created.pid)
            }
            Begin::Exec(mut request) => {
                request.stdio = Some(stdio);
                // Known before it is asked for: so it is found again when the daemon goes in the middle.
                request.exec_id.get_or_insert_with(|| uuid::Uuid::new_v4().simple().to_string()[..12].to_owned());
                let executed = node.exec(*request).await?;
                for warning in &executed.warnings {
                    ui.note(format!("warning: {warning}"));
                }
                (What::Exec { exec_id: executed.exec_id }, Some(executed.pid))
            }
            Begin::Attach(mut request) => {
                request.stdio = stdio;
                let attached = node.attach(request).await?;
                (What::Task { uid: attached.uid, attempt: attached.attempt }, attached.pid)
            }
        };
        Ok(Process { node: Arc::clone(node), namespace, name, what, pid, is_guest })
    }
}

impl Process {
    fn exec_id(&self) -> Option<String> {
        match &self.what {
            What::Task { .. } => None,
            What::Exec { exec_id } => Some(exec_id.clone()),
        }
    }

    /// Whether it is one of several in its container.
    pub(super) fn is_exec(&self) -> bool {
        matches!(self.what, What::Exec { .. })
    }

    /// Its end, through every end of a daemon meanwhile. `removed`: wait also until its container is gone, if that
    /// removes itself.
    pub(super) fn exit(&self, removed: bool) -> BoxFuture<'static, Result<Ended>> {
        let Self { node, namespace, name, .. } = self.clone();
        match self.what.clone() {
            What::Task { uid, attempt } => async move {
                let request = WaitExitRequest { namespace, name, uid: Some(uid), attempt: Some(attempt), removed };
                node.wait_exit(request).await
            }
            .boxed(),
            What::Exec { exec_id } => async move {
                let ended = node.wait_exec(WaitExecRequest { namespace, name, exec_id }).await?;
                Ok(Ended { exit: ended.exit, removed: true })
            }
            .boxed(),
        }
    }

    /// Sends a signal; `all`: to every process of the container, or to the process group of a further process. One that has
    /// ended needs none: its exit is on its way.
    pub(super) fn kill(&self, signal: i32, all: bool) -> BoxFuture<'static, Result<()>> {
        let Self { node, namespace, name, .. } = self.clone();
        let request = KillRequest { namespace, name, signal, all, exec_id: self.exec_id() };
        async move {
            let sent = node.kill(request.clone()).await;
            if sent.is_err() && came_back(&node).await {
                drop(node.kill(request).await);
            }
            Ok(())
        }
        .boxed()
    }

    /// Tells the process what size its terminal has now.
    pub(super) fn resize(&self, size: TerminalSize) -> BoxFuture<'static, Result<()>> {
        let Self { node, namespace, name, .. } = self.clone();
        let exec_id = self.exec_id();
        async move {
            if let Err(fault) = node.resize(ResizeRequest { namespace, name, exec_id, size }).await {
                tracing::debug!(%fault, "the new size was not told");
            }
            Ok(())
        }
        .boxed()
    }

    /// Says that no more input comes, where the shim does not see it.
    pub(super) fn close_input(&self) -> BoxFuture<'static, Result<()>> {
        let Self { node, namespace, name, .. } = self.clone();
        let exec_id = self.exec_id();
        async move {
            drop(node.close_input(CloseInputRequest { namespace, name, exec_id }).await);
            Ok(())
        }
        .boxed()
    }

    /// Ends it, whatever it says.
    pub(super) fn end(&self, grace: Duration) -> BoxFuture<'static, Result<()>> {
        if self.is_exec() {
            return self.kill(SIGKILL, true);
        }
        let Self { node, namespace, name, .. } = self.clone();
        let request = StopRequest { namespace, name, grace_ms: u64::try_from(grace.as_millis()).ok() };
        async move {
            match node.stop(request).await {
                // It was gone before.
                Err(fault) if fault.class == Class::NotFound => Ok(()),
                other => other,
            }
        }
        .boxed()
    }
}

/// Waits a moment for a daemon that has gone; whether one answers then.
async fn came_back(node: &Client) -> bool {
    let mut lost = node.lost();
    if !*lost.borrow() {
        return false;
    }
    let back = tokio::time::timeout(Duration::from_secs(10), lost.wait_for(|lost| !lost)).await;
    back.is_ok_and(|back| back.is_ok())
}
