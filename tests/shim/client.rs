//! A blocking ttrpc client, one request at a time.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use bayplan::shim::protocol::{self, StopRequest, TaskState, WatchRequest};
use containerd_shim_protos::api::{
    CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, KillRequest, StartRequest, StateRequest,
    StateResponse, WaitRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::proto::{Code, Request, Response};

pub const TASK: &str = "containerd.task.v2.Task";

/// A connection to a shim.
pub struct Client {
    pub socket: UnixStream,
    pub stream: u32,
}

/// What the shim refuses with.
pub type Refused = (Code, String);

impl Client {
    pub fn connect(bundle: &Path) -> Self {
        // By way of its descriptor: a bundle's path may be longer than a socket's.
        let dir = std::fs::File::open(bundle).unwrap();
        let path = format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), protocol::SOCKET_FILE);
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
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

    pub fn shutdown(&mut self) {
        self.call(TASK, "Shutdown", Vec::new()).unwrap();
    }

    pub fn watch(&mut self, since: u64) -> Result<TaskState, Refused> {
        let payload = serde_json::to_vec(&WatchRequest { since }).unwrap();
        let answer = self.call(protocol::SERVICE, protocol::WATCH, payload)?;
        Ok(serde_json::from_slice(&answer).unwrap())
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
