//! A task with a terminal: the shim has its other side.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

use bayplan::shim::protocol::{Policy, Restart};
use containerd_shim_protos::api::ResizePtyRequest;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::proto::Code;
use serde_json::json;

use crate::bundle::{Bundle, until};
use crate::client::{Client, TASK};
use crate::output::{fifo, reader};

/// A container that runs `script` at a terminal.
fn at_a_terminal(dir: &str, script: &str) -> Bundle {
    let bundle = Bundle::beneath(dir, &["sh", "-c", script]);
    bundle.edit(|spec| spec["process"]["terminal"] = json!(true));
    bundle
}

/// Starts it with FIFOs for both directions.
struct Session {
    client: Client,
    input: File,
    output: File,
}

impl Session {
    fn begin(bundle: &Bundle, size: Option<(u32, u32)>) -> Self {
        let (stdin, stdout) = (fifo(bundle, "in"), fifo(bundle, "out"));
        let output = reader(&stdout);
        let mut client = bundle.shim();
        let mut request = bundle.request();
        request.terminal = true;
        request.stdin = stdin.clone();
        request.stdout = stdout;
        client.create(&request).unwrap();
        if let Some(size) = size {
            resize(&mut client, bundle, size).unwrap();
        }
        let input = OpenOptions::new().write(true).open(stdin).unwrap();
        client.start(&bundle.id).unwrap();
        Self { client, input, output }
    }

    fn type_in(&mut self, text: &str) {
        self.input.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until `text` has come.
    fn expect(&mut self, text: &str) {
        let mut seen = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&seen).contains(text) {
            let seen_so_far = String::from_utf8_lossy(&seen).into_owned();
            assert_eq!(self.output.read(&mut byte).unwrap(), 1, "{text:?} did not come, but {seen_so_far:?}");
            seen.push(byte[0]);
        }
    }
}

fn resize(client: &mut Client, bundle: &Bundle, (width, height): (u32, u32)) -> Result<(), (Code, String)> {
    let request = ResizePtyRequest { id: bundle.id.clone(), width, height, ..Default::default() };
    client.call(TASK, "ResizePty", request.write_to_bytes().unwrap()).map(drop)
}

#[test]
fn a_terminal_carries_size_input_output_and_status_and_leaves_nothing() {
    // Longer than any socket's path.
    let dir = "d".repeat(200);
    let script = "busybox stty size; read line; echo \"got $line\"; busybox stty size; test -t 2 && exit 7";
    let bundle = at_a_terminal(&dir, script);
    let mut session = Session::begin(&bundle, Some((120, 40)));
    session.expect("40 120\r\n");
    resize(&mut session.client, &bundle, (80, 24)).unwrap();
    session.type_in("hello\n");
    session.expect("hello\r\ngot hello\r\n24 80\r\n");
    assert_eq!(session.client.wait(&bundle.id).unwrap().exit_status, 7);
    assert!(session.client.state(&bundle.id).unwrap().terminal);
    assert_eq!(session.output.read(&mut [0]).unwrap(), 0, "the terminal's end is the reader's");
    assert_eq!(bundle.lines("0.log"), ["40 120", "hello", "got hello", "24 80"]);
    assert!(bundle.log("0.log").lines().all(|line| line.contains(" stdout F ")));
    let sockets = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("console");
    assert!(!std::fs::read_dir(&bundle.path).unwrap().any(|entry| sockets(&entry.unwrap().file_name())));
    session.client.delete(&bundle.id).unwrap();
    bundle.assert_nothing_is_left();
}

#[test]
fn control_c_interrupts_and_the_last_output_is_there() {
    let bundle = at_a_terminal("b", "trap 'seq 1 20000; exit 9' INT; echo ready; while :; do sleep 0.05; done");
    let mut session = Session::begin(&bundle, None);
    session.expect("ready\r\n");
    session.type_in("\x03");
    let mut all = String::new();
    session.output.read_to_string(&mut all).unwrap();
    assert_eq!(session.client.wait(&bundle.id).unwrap().exit_status, 9);
    assert!(all.ends_with("19999\r\n20000\r\n"), "{} bytes", all.len());
    assert_eq!(bundle.lines("0.log").last().unwrap(), "20000");
    assert_eq!(bundle.lines("0.log").len(), 20_001);
}

#[test]
fn a_writer_that_goes_leaves_the_terminal_and_the_end_of_input_hangs_it_up() {
    let bundle = at_a_terminal("b", "trap 'exit 5' HUP; echo ready; while :; do sleep 0.05; done");
    let mut session = Session::begin(&bundle, None);
    session.expect("ready\r\n");
    session.input = File::open("/dev/null").unwrap();
    until("input is closed and the terminal is not", || bundle.state().unwrap().pid.is_some());
    resize(&mut session.client, &bundle, (99, 33)).unwrap();
    session.client.close_stdin(&bundle.id);
    assert_eq!(session.client.wait(&bundle.id).unwrap().exit_status, 5);
}

#[test]
fn each_attempt_has_a_terminal_of_its_own_of_the_last_size() {
    let bundle = at_a_terminal("b", "read line; echo \"$line\"; busybox stty size; exit 1");
    bundle.supervise(|s| {
        s.restart = Restart { policy: Policy::OnFailure, limit: Some(2), initial_ms: 1, max_ms: 10 };
    });
    let mut session = Session::begin(&bundle, Some((101, 51)));
    for attempt in 0..3 {
        session.client.watch_until(|state| state.attempt == attempt && state.pid.is_some());
        session.type_in(&format!("line {attempt}\n"));
        session.expect(&format!("\r\nline {attempt}\r\n51 101\r\n"));
    }
    assert_eq!(session.client.wait(&bundle.id).unwrap().exit_status, 1);
}

#[test]
fn a_runtime_that_fails_with_a_terminal_says_why_and_a_task_without_has_none_to_resize() {
    let bundle = at_a_terminal("b", "");
    bundle.edit(|spec| spec["process"]["args"] = json!(["nonesuch"]));
    let mut client = bundle.shim();
    let mut request = bundle.request();
    request.terminal = true;
    let (_, message) = client.create(&request).unwrap_err();
    assert!(message.contains("nonesuch"), "{message}");
    bundle.assert_nothing_is_left();

    let bundle = Bundle::new("sleep 1000");
    let mut client = bundle.run();
    let (code, message) = resize(&mut client, &bundle, (1, 1)).unwrap_err();
    assert_eq!(code, Code::FAILED_PRECONDITION);
    assert!(message.contains("has no terminal"), "{message}");
}
