//! Further processes, terminals, further streams and the freezer, by hand. None of them changes what is wanted, so
//! none takes a claim: a container that is being replaced meanwhile ends what runs in it.

use std::sync::Arc;
use std::time::Duration;

use crate::api::{
    AttachRequest, Attached, CloseInputRequest, ExecEnded, ExecRequest, Executed, ResizeRequest, TaskRequest,
    WaitExecRequest,
};
use crate::controller::Node;
use crate::engine::{ExecSpec, ExecWhose};
use crate::error::Result;

use super::container::{console, stdio};

impl Node {
    pub(in crate::controller) async fn exec_by_hand(self: &Arc<Self>, request: ExecRequest) -> Result<Executed> {
        let id = (request.namespace, request.name);
        self.known(&id)?;
        let size = console(&request.stdio);
        let stdio = stdio(request.stdio);
        let asked = ExecSpec {
            command: request.command,
            env: request.env,
            cwd: request.cwd,
            user: request.user,
            groups: request.groups,
            privileged: request.privileged,
            cap_add: request.cap_add,
            cap_drop: request.cap_drop,
            terminal: stdio.terminal,
            size,
        };
        let whose = ExecWhose {
            exec_id: request.exec_id,
            again: request.again,
            timeout: request.timeout_ms.map(Duration::from_millis),
        };
        let started = self.engine.exec(&id, whose, &asked, &stdio).await?;
        Ok(Executed { exec_id: started.exec_id, pid: started.pid, warnings: started.warnings })
    }

    pub(in crate::controller) async fn wait_exec(self: &Arc<Self>, request: WaitExecRequest) -> Result<ExecEnded> {
        let id = (request.namespace, request.name);
        let exit = self.engine.wait_exec(&id, &request.exec_id).await?;
        Ok(ExecEnded { exit })
    }

    pub(in crate::controller) async fn resize_by_hand(self: &Arc<Self>, request: ResizeRequest) -> Result<()> {
        let id = (request.namespace, request.name);
        self.engine.resize(&id, request.exec_id.as_deref(), request.size.width, request.size.height).await
    }

    pub(in crate::controller) async fn attach_by_hand(self: &Arc<Self>, request: AttachRequest) -> Result<Attached> {
        let id = (request.namespace, request.name);
        self.known(&id)?;
        let stdio = stdio(Some(request.stdio));
        let (state, found) = self.engine.attach(&id, request.exec_id.as_deref(), &stdio).await?;
        let uid = self.created(&id)?.uid;
        Ok(Attached { uid, attempt: state.attempt, pid: state.pid, terminal: found.terminal, stdin: found.stdin })
    }

    pub(in crate::controller) async fn close_input(self: &Arc<Self>, request: CloseInputRequest) -> Result<()> {
        let id = (request.namespace, request.name);
        self.engine.close_input(&id, request.exec_id.as_deref()).await
    }

    pub(in crate::controller) async fn pause_by_hand(self: &Arc<Self>, request: TaskRequest) -> Result<()> {
        let id = (request.namespace, request.name);
        self.known(&id)?;
        self.engine.pause(&id).await
    }

    pub(in crate::controller) async fn resume_by_hand(self: &Arc<Self>, request: TaskRequest) -> Result<()> {
        let id = (request.namespace, request.name);
        self.known(&id)?;
        self.engine.resume(&id).await
    }
}
