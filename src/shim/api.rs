//! containerd's Task API: which request is whose, and what it needs. What it means is with the task.

use containerd_shim_protos::api::{
    CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, DeleteRequest, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StateRequest,
    StatsRequest, UpdateTaskRequest, WaitRequest,
};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::proto::Code;

use super::reply::encode;
use super::server::{Context, ReplyTo};
use super::task::Task;
use super::wire::Refusal;

/// Takes a request of the service `Task`, of the second generation or the third: they differ in their names only. It is
/// answered through `cx`, at once or later.
pub fn call(
    tasks: &mut Vec<Task>,
    namespace: &str,
    method: &str,
    payload: &[u8],
    reply: ReplyTo,
    cx: &mut Context,
) -> Result<(), Refusal> {
    match method {
        "Create" => {
            let request: CreateTaskRequest = parse(payload)?;
            if tasks.iter().any(|task| task.id == request.id) {
                return Err(Refusal::new(Code::ALREADY_EXISTS, format!("task {} already exists", request.id)));
            }
            tasks.push(Task::create(request, namespace, reply, cx)?);
        }
        "Start" => {
            let request: StartRequest = parse(payload)?;
            let task = find(tasks, &request.id)?;
            match request.exec_id.as_str() {
                "" => task.start(reply, cx)?,
                exec_id => task.start_exec(exec_id, reply, cx)?,
            }
            task.advance(cx);
        }
        "Exec" => {
            let request: ExecProcessRequest = parse(payload)?;
            find(tasks, &request.id)?.add(request, cx)?;
            cx.answer(reply, Ok(Vec::new()));
        }
        "Delete" => {
            let request: DeleteRequest = parse(payload)?;
            let task = find(tasks, &request.id)?;
            match request.exec_id.as_str() {
                "" => task.delete(reply, cx)?,
                exec_id => {
                    let (home, exec) = task.exec(exec_id)?;
                    exec.delete(home, reply, cx)?;
                }
            }
            task.advance(cx);
        }
        "Wait" => {
            let request: WaitRequest = parse(payload)?;
            let task = find(tasks, &request.id)?;
            match request.exec_id.as_str() {
                "" => task.wait(reply, cx),
                exec_id => task.exec(exec_id)?.1.wait(reply, cx),
            }
        }
        "Kill" => {
            let request: KillRequest = parse(payload)?;
            let task = find(tasks, &request.id)?;
            let answer = match request.exec_id.as_str() {
                "" => task.kill(&request, cx)?,
                exec_id => {
                    let (home, exec) = task.exec(exec_id)?;
                    exec.kill(home, &request)?
                }
            };
            cx.answer(reply, Ok(answer));
        }
        "State" => {
            let request: StateRequest = parse(payload)?;
            let task = find(tasks, &request.id)?;
            let answer = match request.exec_id.as_str() {
                "" => task.report(),
                exec_id => {
                    let paused = task.is_paused();
                    let (home, exec) = task.exec(exec_id)?;
                    exec.report(home, paused)
                }
            };
            cx.answer(reply, answer);
        }
        "Pids" => {
            let request: PidsRequest = parse(payload)?;
            let answer = find(tasks, &request.id)?.pids();
            cx.answer(reply, answer);
        }
        "Stats" => {
            let request: StatsRequest = parse(payload)?;
            let answer = find(tasks, &request.id)?.stats();
            cx.answer(reply, answer);
        }
        "Pause" => {
            let request: PauseRequest = parse(payload)?;
            find(tasks, &request.id)?.freeze(true, reply, cx)?;
        }
        "Resume" => {
            let request: ResumeRequest = parse(payload)?;
            find(tasks, &request.id)?.freeze(false, reply, cx)?;
        }
        "Update" => {
            let request: UpdateTaskRequest = parse(payload)?;
            find(tasks, &request.id)?.update(&request, reply, cx)?;
        }
        "CloseIO" => {
            let request: CloseIORequest = parse(payload)?;
            let task = find(tasks, &request.id)?;
            match request.exec_id.as_str() {
                _ if !request.stdin => {}
                "" => task.close_stdin(cx),
                exec_id => task.exec(exec_id)?.1.close_stdin(cx),
            }
            cx.answer(reply, Ok(Vec::new()));
        }
        "ResizePty" => {
            let request: ResizePtyRequest = parse(payload)?;
            let task = find(tasks, &request.id)?;
            let (width, height) = (request.width, request.height);
            let answer = match request.exec_id.as_str() {
                "" => task.resize(width, height),
                exec_id => {
                    let (home, exec) = task.exec(exec_id)?;
                    exec.resize(home, width, height)
                }
            };
            cx.answer(reply, answer);
        }
        "Connect" => {
            let request: ConnectRequest = parse(payload)?;
            let task = tasks.iter().find(|task| task.id == request.id);
            let answer = encode(&ConnectResponse {
                shim_pid: std::process::id(),
                task_pid: task.map_or(0, Task::pid),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..Default::default()
            });
            cx.answer(reply, answer);
        }
        "Shutdown" => {
            let _: ShutdownRequest = parse(payload)?;
            // As containerd's own shim does: with tasks left, the request is taken and nothing is ended.
            cx.ending = tasks.is_empty();
            cx.answer(reply, Ok(Vec::new()));
        }
        "Checkpoint" => {
            let message =
                "a checkpoint is not supported by this shim, which does without criu; stop the container instead";
            return Err(Refusal::new(Code::UNIMPLEMENTED, message));
        }
        other => {
            return Err(Refusal::new(Code::UNIMPLEMENTED, format!("method {other:?} is not known to this shim")));
        }
    }
    Ok(())
}

fn parse<M: Message>(payload: &[u8]) -> Result<M, Refusal> {
    M::parse_from_bytes(payload)
        .map_err(|error| Refusal::new(Code::INVALID_ARGUMENT, format!("{} is not readable: {error}", M::NAME)))
}

fn find<'a>(tasks: &'a mut [Task], id: &str) -> Result<&'a mut Task, Refusal> {
    let task = tasks.iter_mut().find(|task| task.id == id);
    task.ok_or_else(|| Refusal::new(Code::NOT_FOUND, format!("task {id} does not exist in this shim")))
}
