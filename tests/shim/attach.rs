//! Clients that come and go while a process runs.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

use bayplan::shim::protocol::AttachRequest;
use containerd_shim_protos::ttrpc::proto::Code;

use crate::bundle::{Bundle, until};
use crate::client::Client;
use crate::output::{fifo, reader};

/// One who is attached.
struct Attached {
    input: Option<File>,
    output: File,
}

impl Attached {
    fn new(client: &mut Client, bundle: &Bundle, name: &str, writes: bool) -> Self {
        let stdout = fifo(bundle, &format!("{name}-out"));
        let output = reader(&stdout);
        let stdin = if writes { fifo(bundle, &format!("{name}-in")) } else { String::new() };
        let request = AttachRequest { stdin: stdin.clone(), stdout, ..Default::default() };
        let answer = client.attach(&request).unwrap();
        assert!(answer.stdin && !answer.terminal);
        Self { input: writes.then(|| OpenOptions::new().write(true).open(stdin).unwrap()), output }
    }

    fn says(&mut self, text: &str) {
        self.input.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn expect(&mut self, text: &str) {
        let mut got = vec![0; text.len()];
        self.output.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8_lossy(&got), text);
    }

    fn expect_end(&mut self) {
        assert_eq!(self.output.read(&mut [0]).unwrap(), 0);
    }
}

/// A container whose input is open though nobody is there.
fn open_for_input(script: &str) -> (Bundle, Client) {
    let bundle = Bundle::new(script);
    bundle.supervise(|s| s.stdin = true);
    let client = bundle.run();
    (bundle, client)
}

#[test]
fn several_clients_see_what_comes_any_may_write_and_one_that_goes_harms_nobody() {
    let (bundle, mut client) = open_for_input("while read line; do echo \"got $line\"; done; echo over; exit 3");
    let mut one = Attached::new(&mut client, &bundle, "one", true);
    let mut two = Attached::new(&mut client, &bundle, "two", false);
    one.says("a\n");
    one.expect("got a\n");
    two.expect("got a\n");
    drop(one);
    let mut three = Attached::new(&mut client, &bundle, "three", true);
    three.says("b\n");
    two.expect("got b\n");
    three.expect("got b\n");
    client.close_stdin(&bundle.id);
    // The end comes after the last who may write.
    three.says("c\n");
    two.expect("got c\n");
    three.expect("got c\n");
    three.input = None;
    for client in [&mut two, &mut three] {
        client.expect("over\n");
        client.expect_end();
    }
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 3);
    assert_eq!(bundle.lines("0.log"), ["got a", "got b", "got c", "over"]);
}

#[test]
fn a_client_that_stops_reading_stops_nobody_and_is_told_what_it_missed() {
    let (bundle, mut client) = open_for_input("read line; seq 1 400000; echo done >&2");
    let mut idle = Attached::new(&mut client, &bundle, "idle", true);
    let mut eager = Attached::new(&mut client, &bundle, "eager", false);
    let counted = std::thread::spawn(move || {
        let mut all = String::new();
        eager.output.read_to_string(&mut all).unwrap();
        all
    });
    idle.says("go\n");
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 0);
    let expected: String = (1..=400_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(bundle.lines("0.log").len(), 400_001);
    let eager = counted.join().unwrap();
    assert!(eager == expected || eager.contains("bayplan: "), "{} bytes", eager.len());
    let mut text = String::new();
    idle.output.read_to_string(&mut text).unwrap();
    let (seen, told) = text.split_once("\r\nbayplan: ").unwrap();
    let missed: usize = told.split(' ').next().unwrap().parse().unwrap();
    assert!(expected.starts_with(seen) && seen.len() + missed == expected.len(), "{} and {told}", seen.len());
    assert!(told.ends_with("bytes of output are missing here: nobody read them in time\r\n"), "{told}");
}

#[test]
fn clients_stay_attached_across_restarts() {
    let (bundle, mut client) = open_for_input("read line; echo \"$line\"; exit 1");
    bundle.supervise(|s| {
        s.stdin = true;
        s.restart.policy = bayplan::shim::protocol::Policy::Always;
    });
    client.call(bayplan::shim::protocol::SERVICE, bayplan::shim::protocol::RELOAD, b"{}".to_vec()).unwrap();
    let mut one = Attached::new(&mut client, &bundle, "one", true);
    for attempt in 0..3 {
        one.says(&format!("{attempt}\n"));
        one.expect(&format!("{attempt}\n"));
        client.watch_until(|state| state.attempt == attempt + 1 && state.pid.is_some());
    }
    client.stop(9, 0).unwrap();
    one.expect_end();
}

#[test]
fn who_cannot_be_attached_is_told_why() {
    let (bundle, mut client) = open_for_input("read line");
    let stdout = fifo(&bundle, "unread");
    let request = AttachRequest { stdout: stdout.clone(), ..Default::default() };
    let (code, message) = client.attach(&request).unwrap_err();
    assert_eq!(code, Code::FAILED_PRECONDITION);
    assert!(message.contains(&stdout) && message.contains("nobody has it open for reading"), "{message}");
    let (code, _) = client.attach(&AttachRequest { exec_id: "x".into(), ..Default::default() }).unwrap_err();
    assert_eq!(code, Code::NOT_FOUND);
    client.close_stdin(&bundle.id);
    client.wait(&bundle.id).unwrap();
    until("it is seen to have ended", || bundle.state().unwrap().pid.is_none());
    let (code, message) = client.attach(&AttachRequest::default()).unwrap_err();
    assert_eq!(code, Code::FAILED_PRECONDITION);
    assert!(message.contains("cannot be attached to"), "{message}");
}
