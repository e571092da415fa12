//! Two containers in one shim: what is wrong with one is not the other's, whatever it is; and a shim that idles costs nothing.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use containerd_shim_protos::api::Status;
use containerd_shim_protos::ttrpc::proto::Code;
use serde_json::{Value, json};

use crate::bundle::{Bundle, alive, status, until};
use crate::client::{Client, Exec};

/// A container that writes on and on, and the shim that it shares with others.
struct Neighbour {
    bundle: Bundle,
    client: Client,
    pid: u32,
}

impl Neighbour {
    fn new() -> Self {
        let bundle = Bundle::new("while :; do echo x; sleep 0.01; done");
        let client = bundle.run();
        let pid = bundle.state().unwrap().pid.unwrap();
        Self { bundle, client, pid }
    }

    /// It runs, writes, and takes processes as before.
    fn is_well(&mut self, after: &str) {
        assert_eq!(self.client.state(&self.bundle.id).unwrap().status.unwrap(), Status::RUNNING, "{after}");
        assert!(alive(self.pid), "{after}");
        let lines = self.bundle.lines("0.log").len();
        until("it writes", || self.bundle.lines("0.log").len() > lines);
        self.client.exec(&Exec::new(&self.bundle.id, "well", &["true"])).unwrap();
        self.client.exec_start(&self.bundle.id, "well").unwrap();
        assert_eq!(self.client.exec_wait(&self.bundle.id, "well").unwrap().exit_status, 0, "{after}");
        self.client.exec_delete(&self.bundle.id, "well").unwrap();
    }
}

/// What is wrong, how it comes about, and what the message has to say.
type Case = (&'static str, fn(&mut Value), &'static str);

#[test]
fn what_cannot_be_made_is_told_clearly_and_harms_no_neighbour() {
    let mut neighbour = Neighbour::new();
    let cases: [Case; 6] = [
        ("a user that cannot be", |spec| spec["process"]["user"] = json!({"uid": u32::MAX, "gid": 0}), "user"),
        ("a directory that is a file", |spec| spec["process"]["cwd"] = json!("/bin/busybox/x"), "not a directory"),
        (
            "a limit of resources past the right to it",
            |spec| {
                spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 1u64 << 40, "hard": 1u64 << 40}])
            },
            "rlimit",
        ),
        (
            "too little memory to start with",
            |spec| spec["linux"]["resources"]["memory"] = json!({"limit": 4096}),
            "memory",
        ),
        (
            "a source that is missing",
            |spec| {
                let mount =
                    json!({"destination": "/x", "type": "bind", "source": "/nonexistent/s", "options": ["rbind"]});
                spec["mounts"].as_array_mut().unwrap().push(mount);
            },
            "/nonexistent/s",
        ),
        ("no program", |spec| spec["process"]["args"] = json!(["nonesuch"]), "executable file not found"),
    ];
    for (what, change, expected) in cases {
        let bad = Bundle::new("true");
        bad.edit(change);
        let (code, message) = neighbour.client.create(&bad.request()).expect_err(what);
        assert!(code == Code::INTERNAL && message.contains(&bad.id), "{what}: {message}");
        assert!(message.to_lowercase().contains(expected), "{what}: {message}");
        bad.assert_nothing_is_left();
        neighbour.is_well(what);
    }
}

#[test]
fn a_neighbour_whose_runtime_hangs_whose_memory_ends_or_who_floods_is_not_noticed() {
    let mut neighbour = Neighbour::new();
    // Its own runtime hangs at the creation.
    let bad = Bundle::new("true");
    let path = bad.dir.path().join("hanging-runtime");
    fs::write(&path, "#!/bin/sh\nsleep 1000\n").unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bad.supervise(|s| (s.runtime, s.runtime_timeout_ms) = (path, Some(3000)));
    let mut creator = Client::connect(&neighbour.bundle.path);
    let request = containerd_shim_protos::protobuf::Message::write_to_bytes(&bad.request()).unwrap();
    creator.send(crate::client::TASK, "Create", request);
    neighbour.is_well("a runtime hangs");
    let (_, message) = creator.receive().unwrap_err();
    assert!(message.contains("took longer"), "{message}");
    neighbour.is_well("a runtime was ended");
    // It is killed for its memory.
    let greedy = Bundle::with_args(&["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]);
    greedy.edit(|spec| spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20}));
    creator.create(&greedy.request()).unwrap();
    creator.start(&greedy.id).unwrap();
    assert_eq!(creator.wait(&greedy.id).unwrap().exit_status, 137);
    assert!(greedy.state().unwrap().exit.unwrap().oom_killed);
    neighbour.is_well("a neighbour was killed for memory");
    creator.delete(&greedy.id).unwrap();
    // It writes without an end.
    let loud = Bundle::new("yes");
    loud.supervise(|s| (s.log_max_size, s.log_max_files) = (1 << 20, 2));
    creator.create(&loud.request()).unwrap();
    creator.start(&loud.id).unwrap();
    until("it is loud", || fs::exists(loud.dir.path().join("log/0.log.1")).unwrap());
    neighbour.is_well("a neighbour is loud");
    creator.kill(&loud.id, 9, true).unwrap();
    creator.wait(&loud.id).unwrap();
    creator.delete(&loud.id).unwrap();
    neighbour.is_well("all is over");
}

#[test]
fn ten_thousand_connections_are_survived_with_all_that_is_served() {
    let mut neighbour = Neighbour::new();
    let socket = neighbour.bundle.path.join("shim.sock");
    let shim = neighbour.bundle.shim_pid().unwrap();
    let descriptors = || fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    let mut crowd: Vec<UnixStream> = Vec::new();
    for number in 0..10_000 {
        crowd.push(UnixStream::connect(&socket).unwrap());
        if crowd.len() == 500 {
            crowd.drain(..250);
        }
        if number % 500 == 0 {
            neighbour.client.state(&neighbour.bundle.id).unwrap();
            assert!(descriptors() < 100, "{}", descriptors());
        }
    }
    let began = Instant::now();
    neighbour.is_well("ten thousand connections");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(crowd);
    until("their descriptors are given back", || descriptors() < 20);
}

#[test]
fn exits_are_not_lost_among_thousands_of_orphans_a_second() {
    let bundle = Bundle::new("while :; do (true &); (true &); (true &); (true &); done");
    // Orphans of the host's process namespace come to the shim.
    bundle.edit(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    });
    let mut client = bundle.run();
    for round in 0..20 {
        let name = format!("e{round}");
        let script = format!("exit {}", round + 1);
        client.exec(&Exec::new(&bundle.id, &name, &["sh", "-c", &script])).unwrap();
        client.exec_start(&bundle.id, &name).unwrap();
        assert_eq!(client.exec_wait(&bundle.id, &name).unwrap().exit_status, round + 1);
        client.exec_delete(&bundle.id, &name).unwrap();
    }
    // What an added process leaves behind is reaped, too, and the container's own exit is right.
    client.exec(&Exec::new(&bundle.id, "d", &["sh", "-c", "setsid sleep 0.2 & exit 9"])).unwrap();
    client.exec_start(&bundle.id, "d").unwrap();
    assert_eq!(client.exec_wait(&bundle.id, "d").unwrap().exit_status, 9);
    client.kill(&bundle.id, 9, true).unwrap();
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 137);
    client.delete(&bundle.id).unwrap();
    let shim = bundle.shim_pid().unwrap();
    until("no zombie is left", || {
        fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap().trim().is_empty()
    });
    bundle.assert_nothing_is_left();
}

#[test]
fn an_idle_shim_does_not_wake_up() {
    let bundle = Bundle::new("sleep 1000");
    let mut client = bundle.run();
    client.exec(&Exec::new(&bundle.id, "x", &["true"])).unwrap();
    client.exec_start(&bundle.id, "x").unwrap();
    client.exec_wait(&bundle.id, "x").unwrap();
    let shim = bundle.shim_pid().unwrap();
    let wakes = || status(shim, "voluntary_ctxt_switches").parse::<u64>().unwrap();
    // It tidies up after a second of quiet, and then it sleeps: this long is looked.
    let mut before = wakes();
    until("it is quiet", || {
        std::thread::sleep(Duration::from_millis(1500));
        let (last, now) = (before, wakes());
        before = now;
        last == now
    });
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(wakes(), before);
}
