//! A blocking ttrpc client, one request at a time.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use bayplan::shim::protocol::{self, AttachRequest, AttachResponse, StopRequest, TaskState, WatchRequest};
use containerd_shim_protos::api::{
    CloseIORequest, CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest,
    KillRequest, StartRequest, StartResponse, StateRequest, StateResponse, WaitRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::ttrpc::proto::{Code, Request, Response};

pub const TASK: &str = "containerd.task.v2.Task";

/// A connection to a shim.
pub struct Client {
    pub socket: UnixStream,
    pub stream: u32,
}

/// A process to add.
pub struct Exec {
    pub id: String,
    pub name: String,
    pub spec: serde_json::Value,
    pub terminal: bool,
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
}

impl Exec {
    pub fn new(id: &str, name: &str, args: &[&str]) -> Self {
        let spec = serde_json::json!({"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
        let none = String::new;
        let (id, name) = (id.to_owned(), name.to_owned());
        Self { id, name, spec, terminal: false, stdin: none(), stdout: none(), stderr: none() }
    }
}

/// What the shim refuses with.
pub type Refused = (Code, String);

impl Client {
    pub fn connect(bundle: &Path) -> Self {
        // By way of its descriptor: a bundle's path may be longer than a socket's.
        let dir = std::fs::File::open(bundle).unwrap();
        let path = format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), protocol::SOCKET_FILE);
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30) * crate::bundle::patience())).unwrap();
        Self { socket, stream: 1 }
    }

    pub fn send(&mut self, service: &str, method: &str, payload: Vec<u8>) {
        let mut request = Request::new();
        request.service = service.to_owned();
        request.method = method.to_owned();
        request.payload = payload;
        let body = request.write_to_bytes().unwrap();
        let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(&self.stream.to_be_bytes());
        frame.extend_from_slice(&[1, 0]);
        frame.extend_from_slice(&body);
        self.stream += 2;
        self.socket.write_all(&frame).unwrap();
    }

    pub fn receive(&mut self) -> Result<Vec<u8>, Refused> {
        let mut header = [0; 10];
        self.socket.read_exact(&mut header).unwrap();
        let mut body = vec![0; u32::from_be_bytes(header[..4].try_into().unwrap()) as usize];
        self.socket.read_exact(&mut body).unwrap();
        let response = Response::parse_from_bytes(&body).unwrap();
        match response.status().code() {
            Code::OK => Ok(response.payload),
            code => Err((code, response.status().message.clone())),
        }
    }

    pub fn call(&mut self, service: &str, method: &str, payload: Vec<u8>) -> Result<Vec<u8>, Refused> {
        self.send(service, method, payload);
        self.receive()
    }

    pub fn task<A: Message>(&mut self, method: &str, request: &impl Message) -> Result<A, Refused> {
        let payload = self.call(TASK, method, request.write_to_bytes().unwrap())?;
        Ok(A::parse_from_bytes(&payload).unwrap())
    }

    pub fn create(&mut self, request: &CreateTaskRequest) -> Result<u32, Refused> {
        self.task::<CreateTaskResponse>("Create", request).map(|response| response.pid)
    }

    pub fn start(&mut self, id: &str) -> Result<(), Refused> {
        self.task::<containerd_shim_protos::api::StartResponse>(
            "Start",
            &StartRequest { id: id.into(), ..Default::default() },
        )
        .map(drop)
    }

    pub fn state(&mut self, id: &str) -> Result<StateResponse, Refused> {
        self.task("State", &StateRequest { id: id.into(), ..Default::default() })
    }

    pub fn wait(&mut self, id: &str) -> Result<WaitResponse, Refused> {
        self.task("Wait", &WaitRequest { id: id.into(), ..Default::default() })
    }

    pub fn kill(&mut self, id: &str, signal: u32, all: bool) -> Result<(), Refused> {
        let request = KillRequest { id: id.into(), signal, all, ..Default::default() };
        self.call(TASK, "Kill", request.write_to_bytes().unwrap()).map(drop)
    }

    pub fn delete(&mut self, id: &str) -> Result<DeleteResponse, Refused> {
        self.task("Delete", &DeleteRequest { id: id.into(), ..Default::default() })
    }

    pub fn exec(&mut self, exec: &Exec) -> Result<(), Refused> {
        let spec = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: serde_json::to_vec(&exec.spec).unwrap(),
            ..Default::default()
        };
        let request = ExecProcessRequest {
            id: exec.id.clone(),
            exec_id: exec.name.clone(),
            terminal: exec.terminal,
            stdin: exec.stdin.clone(),
            stdout: exec.stdout.clone(),
            stderr: exec.stderr.clone(),
            spec: Some(spec).into(),
            ..Default::default()
        };
        self.task::<Empty>("Exec", &request).map(drop)
    }

    pub fn send_exec_start(&mut self, id: &str, exec_id: &str) {
        let request = StartRequest { id: id.into(), exec_id: exec_id.into(), ..Default::default() };
        self.send(TASK, "Start", request.write_to_bytes().unwrap());
    }

    pub fn exec_start(&mut self, id: &str, exec_id: &str) -> Result<u32, Refused> {
        self.send_exec_start(id, exec_id);
        Ok(StartResponse::parse_from_bytes(&self.receive()?).unwrap().pid)
    }

    pub fn exec_state(&mut self, id: &str, exec_id: &str) -> Result<StateResponse, Refused> {
        self.task("State", &StateRequest { id: id.into(), exec_id: exec_id.into(), ..Default::default() })
    }

    pub fn send_exec_wait(&mut self, id: &str, exec_id: &str) {
        let request = WaitRequest { id: id.into(), exec_id: exec_id.into(), ..Default::default() };
        self.send(TASK, "Wait", request.write_to_bytes().unwrap());
    }

    pub fn exec_wait(&mut self, id: &str, exec_id: &str) -> Result<WaitResponse, Refused> {
        self.send_exec_wait(id, exec_id);
        Ok(WaitResponse::parse_from_bytes(&self.receive()?).unwrap())
    }

    pub fn exec_kill(&mut self, id: &str, exec_id: &str, signal: u32) -> Result<(), Refused> {
        let request = KillRequest { id: id.into(), exec_id: exec_id.into(), signal, ..Default::default() };
        self.task::<Empty>("Kill", &request).map(drop)
    }

    pub fn exec_delete(&mut self, id: &str, exec_id: &str) -> Result<DeleteResponse, Refused> {
        self.task("Delete", &DeleteRequest { id: id.into(), exec_id: exec_id.into(), ..Default::default() })
    }

    pub fn exec_close_stdin(&mut self, id: &str, exec_id: &str) -> Result<(), Refused> {
        let request = CloseIORequest { id: id.into(), exec_id: exec_id.into(), stdin: true, ..Default::default() };
        self.task::<Empty>("CloseIO", &request).map(drop)
    }

    pub fn shutdown(&mut self) {
        self.call(TASK, "Shutdown", Vec::new()).unwrap();
    }

    pub fn watch(&mut self, since: u64) -> Result<TaskState, Refused> {
        let payload = serde_json::to_vec(&WatchRequest { since }).unwrap();
        let answer = self.call(protocol::SERVICE, protocol::WATCH, payload)?;
        Ok(serde_json::from_slice(&answer).unwrap())
    }

    pub fn attach(&mut self, request: &AttachRequest) -> Result<AttachResponse, Refused> {
        let answer = self.call(protocol::SERVICE, protocol::ATTACH, serde_json::to_vec(request).unwrap())?;
        Ok(serde_json::from_slice(&answer).unwrap())
    }

    /// `CloseIO` of standard input.
    pub fn close_stdin(&mut self, id: &str) {
        let request = CloseIORequest { id: id.into(), stdin: true, ..Default::default() };
        self.call(TASK, "CloseIO", request.write_to_bytes().unwrap()).unwrap();
    }

    pub fn stop(&mut self, signal: i32, grace_ms: u64) -> Result<TaskState, Refused> {
        let payload = serde_json::to_vec(&StopRequest { signal, grace_ms }).unwrap();
        let answer = self.call(protocol::SERVICE, protocol::STOP, payload)?;
        Ok(serde_json::from_slice(&answer).unwrap())
    }

    /// Watches until a state is as wanted; all that was seen on the way.
    pub fn watch_until(&mut self, mut wanted: impl FnMut(&TaskState) -> bool) -> Vec<TaskState> {
        let mut seen = vec![self.watch(0).unwrap()];
        loop {
            let last = seen.last().unwrap();
            if wanted(last) {
                return seen;
            }
            let next = self.watch(last.seq).unwrap();
            assert!(next.seq > last.seq);
            seen.push(next);
        }
    }
}
