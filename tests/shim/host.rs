//! The shim under another host than our own engine: bootstrap, groups, events, options.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use containerd_shim_protos::api::{Empty, PauseRequest, ResumeRequest, Status};
use containerd_shim_protos::events::task::{TaskCreate, TaskExit, TaskOOM};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim::oci::Options;
use containerd_shim_protos::ttrpc::proto::{Code, Request};
use serde_json::json;

use crate::bundle::{Bundle, alive, kill9, patience, shim, until};
use crate::client::{Client, Exec};

/// A bundle as containerd makes it, whose runtime keeps its state in the bundle's temporary directory.
fn foreign(script: &str) -> Bundle {
    let bundle = Bundle::new(script);
    fs::remove_file(bundle.path.join("bayplan.json")).unwrap();
    bundle
}

fn options(bundle: &Bundle) -> Any {
    let root = bundle.dir.path().join("runc-root").display().to_string();
    let value = Options { root, ..Default::default() }.write_to_bytes().unwrap();
    Any { type_url: "containerd.runc.v1.Options".into(), value, ..Default::default() }
}

fn create(client: &mut Client, bundle: &Bundle) -> u32 {
    let mut request = bundle.request();
    request.options = Some(options(bundle)).into();
    client.create(&request).unwrap()
}

/// Starts with more in the environment and on standard input; what was printed.
fn start(bundle: &Bundle, address: &Path, env: &[(&str, &str)], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(shim())
        .args(["-namespace", "test", "-id", &bundle.id, "-address", address.to_str().unwrap(), "start"])
        .envs(env.iter().copied())
        .current_dir(&bundle.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

fn dial(address: &str) -> Client {
    let socket = UnixStream::connect(address.strip_prefix("unix://").unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30) * patience())).unwrap();
    Client { socket, stream: 1 }
}

/// Takes events as containerd does, and answers each.
fn listen(path: &Path) -> Receiver<Envelope> {
    let listener = UnixListener::bind(path).unwrap();
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            loop {
                let mut header = [0; 10];
                if socket.read_exact(&mut header).is_err() {
                    break;
                }
                let mut body = vec![0; u32::from_be_bytes(header[..4].try_into().unwrap()) as usize];
                socket.read_exact(&mut body).unwrap();
                let request = Request::parse_from_bytes(&body).unwrap();
                assert_eq!(
                    (request.service.as_str(), request.method.as_str()),
                    ("containerd.services.events.ttrpc.v1.Events", "Forward")
                );
                let forward = ForwardRequest::parse_from_bytes(&request.payload).unwrap();
                if send.send(forward.envelope.unwrap()).is_err() {
                    return;
                }
                let answer = [&[0, 0, 0, 0][..], &header[4..8], &[2, 0]].concat();
                socket.write_all(&answer).unwrap();
            }
        }
    });
    receive
}

fn next(events: &Receiver<Envelope>) -> Envelope {
    events.recv_timeout(Duration::from_secs(10) * patience()).unwrap()
}

#[test]
fn a_host_is_told_all_that_happens_in_order() {
    let bundle = foreign("sleep 1000");
    let address = bundle.dir.path().join("c.sock");
    let events = listen(&bundle.dir.path().join("c.sock.ttrpc"));
    let told = String::from_utf8(start(&bundle, &address, &[], b"")).unwrap();
    let mut client = dial(&told);
    let pid = create(&mut client, &bundle);
    client.start(&bundle.id).unwrap();
    client.exec(&Exec::new(&bundle.id, "x", &["sh", "-c", "exit 4"])).unwrap();
    client.exec_start(&bundle.id, "x").unwrap();
    client.exec_wait(&bundle.id, "x").unwrap();
    client.exec_delete(&bundle.id, "x").unwrap();
    client.task::<Empty>("Pause", &PauseRequest { id: bundle.id.clone(), ..Default::default() }).unwrap();
    client.task::<Empty>("Resume", &ResumeRequest { id: bundle.id.clone(), ..Default::default() }).unwrap();
    client.kill(&bundle.id, 9, false).unwrap();
    client.wait(&bundle.id).unwrap();
    client.delete(&bundle.id).unwrap();
    // It tells the rest before it goes.
    client.shutdown();
    let seen: Vec<Envelope> = (0..9).map(|_| next(&events)).collect();
    let topics: Vec<&str> = seen.iter().map(|event| event.topic.as_str()).collect();
    let expected = ["create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "exit", "delete"];
    assert_eq!(topics, expected.map(|name| format!("/tasks/{name}")));
    assert!(seen.iter().all(|event| event.namespace == "test" && event.timestamp.is_some()));
    let event = |at: usize| seen[at].event.as_ref().unwrap();
    let urls = [0, 4].map(|at| event(at).type_url.as_str());
    assert_eq!(urls, ["containerd.events.TaskCreate", "containerd.events.TaskExit"]);
    let created = TaskCreate::parse_from_bytes(&event(0).value).unwrap();
    assert_eq!((created.container_id.as_str(), created.pid, created.rootfs.len()), (bundle.id.as_str(), pid, 1));
    let exits = [4, 7].map(|at| TaskExit::parse_from_bytes(&event(at).value).unwrap());
    assert_eq!(exits.each_ref().map(|exit| exit.id.as_str()), ["x", &bundle.id]);
    assert_eq!(exits.each_ref().map(|exit| exit.exit_status), [4, 137]);
    until("the shim goes", || bundle.shim_pid().is_none());
    bundle.assert_nothing_is_left();
}

#[test]
fn a_host_that_was_away_hears_what_it_missed() {
    let bundle = foreign("sleep 1000");
    let (address, socket) = (bundle.dir.path().join("c.sock"), bundle.dir.path().join("c.sock.ttrpc"));
    let told = start(&bundle, &address, &[("TTRPC_ADDRESS", socket.to_str().unwrap())], b"");
    let mut client = dial(&String::from_utf8(told).unwrap());
    create(&mut client, &bundle);
    client.start(&bundle.id).unwrap();
    // Nobody is there yet, and nobody waits for that.
    client.kill(&bundle.id, 9, false).unwrap();
    client.wait(&bundle.id).unwrap();
    let events = listen(&socket);
    let topics: Vec<String> = (0..3).map(|_| next(&events).topic).collect();
    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit"]);
}

#[test]
fn without_a_ttrpc_address_the_hosts_program_is_told() {
    let bundle = foreign("true");
    let (program, log) = (bundle.dir.path().join("publish"), bundle.dir.path().join("published"));
    fs::write(&program, format!("#!/bin/sh\necho \"$* $(wc -c)\" >> {}\n", log.display())).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let started = Command::new(shim())
        .args(["-namespace", "test", "-id", &bundle.id, "-address", "/nonexistent/c.sock", "-publish-binary"])
        .arg(&program)
        .arg("start")
        .current_dir(&bundle.path)
        .output()
        .unwrap();
    let mut client = dial(&String::from_utf8(started.stdout).unwrap());
    create(&mut client, &bundle);
    client.start(&bundle.id).unwrap();
    client.wait(&bundle.id).unwrap();
    let lines = || fs::read_to_string(&log).unwrap_or_default();
    until("three events", || lines().lines().count() == 3);
    let exit = lines().lines().last().unwrap().to_owned();
    let expected = "--address /nonexistent/c.sock publish --topic /tasks/exit --namespace test ";
    let size = exit.strip_prefix(expected).unwrap_or_else(|| panic!("{exit}"));
    assert!(size.trim().parse::<u32>().unwrap() > 30, "{exit}");
}

#[test]
fn a_kill_at_the_memory_limit_is_told_while_the_container_runs() {
    let bundle = foreign("dd if=/dev/zero of=/dev/null bs=64M count=1; sleep 1000");
    bundle.edit(|spec| spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20}));
    let events = listen(&bundle.dir.path().join("c.sock.ttrpc"));
    let told = start(&bundle, &bundle.dir.path().join("c.sock"), &[], b"");
    let mut client = dial(&String::from_utf8(told).unwrap());
    create(&mut client, &bundle);
    client.start(&bundle.id).unwrap();
    let seen: Vec<Envelope> = (0..3).map(|_| next(&events)).collect();
    assert_eq!(seen[2].topic, "/tasks/oom");
    let oom = TaskOOM::parse_from_bytes(&seen[2].event.value).unwrap();
    assert_eq!(oom.container_id, bundle.id);
    assert_eq!(client.state(&bundle.id).unwrap().status.unwrap(), Status::RUNNING);
    assert_eq!(bundle.state().unwrap().oom_kills, 1);
}

#[test]
fn the_containers_of_a_pod_share_one_shim_which_ends_with_the_last() {
    let (first, second) = (foreign("sleep 1000"), foreign("exit 6"));
    for bundle in [&first, &second] {
        bundle.edit(|spec| spec["annotations"] = json!({"io.kubernetes.cri.sandbox-id": first.id}));
    }
    let sockets = first.dir.path().join("sockets");
    let env = [("MAX_SHIM_VERSION", "2"), ("SHIM_SOCKET_DIR", sockets.to_str().unwrap())];
    let printed: Vec<serde_json::Value> = [&first, &second]
        .map(|bundle| start(bundle, Path::new("/nonexistent/c.sock"), &env, b""))
        .iter()
        .map(|text| serde_json::from_slice(text).unwrap())
        .collect();
    assert_eq!(printed[0], printed[1]);
    assert_eq!((&printed[0]["version"], &printed[0]["protocol"]), (&json!(2), &json!("ttrpc")));
    let address = printed[0]["address"].as_str().unwrap();
    assert!(second.shim_pid().is_none(), "it has no shim of its own");
    let mut client = dial(address);
    create(&mut client, &first);
    client.start(&first.id).unwrap();
    create(&mut client, &second);
    client.start(&second.id).unwrap();
    assert_eq!(client.wait(&second.id).unwrap().exit_status, 6);
    // What is wrong with one is not the other's.
    assert_eq!(client.exec(&Exec::new(&second.id, "x", &["true"])).unwrap_err().0, Code::FAILED_PRECONDITION);
    client.delete(&second.id).unwrap();
    second.assert_nothing_is_left();
    client.shutdown();
    assert_eq!(client.state(&first.id).unwrap().status.unwrap(), Status::RUNNING);
    // A delete by the host of one that is gone does not take the way to the shim away.
    assert!(second.bootstrap("delete").status.success());
    dial(address).state(&first.id).unwrap();
    client.kill(&first.id, 9, true).unwrap();
    client.wait(&first.id).unwrap();
    client.delete(&first.id).unwrap();
    client.shutdown();
    until("the shim goes", || first.shim_pid().is_none());
    assert!(fs::symlink_metadata(address.strip_prefix("unix://").unwrap()).is_err(), "and its link with it");
}

#[test]
fn after_a_dead_shim_each_container_of_its_pod_is_cleaned_up() {
    let (first, second) = (foreign("sleep 1000"), foreign("sleep 1000"));
    let group = json!({"io.containerd.runc.v2.group": format!("pod-{}", first.id)});
    for bundle in [&first, &second] {
        bundle.edit(|spec| spec["annotations"] = group.clone());
    }
    let sockets = first.dir.path().join("sockets");
    let env = [("SHIM_SOCKET_DIR", sockets.to_str().unwrap())];
    let told = [&first, &second].map(|bundle| start(bundle, Path::new("/c.sock"), &env, b""));
    let mut client = dial(&String::from_utf8(told[0].clone()).unwrap());
    let pids = [&first, &second].map(|bundle| {
        let pid = create(&mut client, bundle);
        client.start(&bundle.id).unwrap();
        pid
    });
    kill9(first.shim_pid().unwrap());
    until("the shim is dead", || first.shim_pid().is_none());
    for (bundle, pid) in [&first, &second].into_iter().zip(pids) {
        let output = bundle.bootstrap("delete");
        assert!(output.status.success(), "{output:?}");
        let response = containerd_shim_protos::api::DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!((response.exit_status, response.pid), (137, pid));
        assert!(!alive(pid));
        bundle.assert_nothing_is_left();
        assert!(!bundle.dir.path().join("runc-root/test").join(&bundle.id).exists());
    }
}

#[test]
fn runtime_options_reach_the_runtime() {
    let bundle = foreign("true");
    let (runtime, log) = (bundle.dir.path().join("my-runtime"), bundle.dir.path().join("arguments"));
    let fds = "exec 9>&1; stat -L -c %u:%g /proc/self/fd/9";
    let script = format!("#!/bin/sh\necho \"$*\" >> {0}; {fds} >> {0}\nexec runc \"$@\"\n", log.display());
    fs::write(&runtime, script).unwrap();
    fs::set_permissions(&runtime, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let told = start(&bundle, Path::new("/c.sock"), &[], b"");
    let mut client = dial(&String::from_utf8(told).unwrap());
    let mut request = bundle.request();
    request.stdout = format!("file://{}", bundle.dir.path().join("out").display());
    let options = Options {
        binary_name: runtime.display().to_string(),
        root: bundle.dir.path().join("root").display().to_string(),
        no_new_keyring: true,
        io_uid: 1000,
        io_gid: 1001,
        ..Default::default()
    };
    let value = options.write_to_bytes().unwrap();
    request.options = Some(Any { type_url: "containerd.runc.v1.Options".into(), value, ..Default::default() }).into();
    client.create(&request).unwrap();
    client.start(&bundle.id).unwrap();
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 0);
    let said = fs::read_to_string(&log).unwrap();
    let root = bundle.dir.path().join("root/test").display().to_string();
    assert!(said.contains(&format!("--root {root} ")) && said.contains("--no-new-keyring"), "{said}");
    assert!(said.contains("1000:1001") && !said.contains("--no-pivot"), "{said}");
    client.delete(&bundle.id).unwrap();
}

#[test]
fn the_shim_tells_what_it_is() {
    let output = Command::new(shim()).arg("-info").stdin(Stdio::null()).output().unwrap();
    let info = containerd_shim_protos::types::introspection::RuntimeInfo::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!(
        (info.name.as_str(), info.version.version.as_str()),
        ("io.containerd.bayplan.v1", env!("CARGO_PKG_VERSION"))
    );
}
