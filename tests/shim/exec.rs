//! Processes that are added to a running container.

use std::fs;
use std::io::Read;
use std::time::Duration;

use containerd_shim_protos::api::{PidsRequest, PidsResponse, Status};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::ttrpc::proto::Code;
use serde_json::json;

use crate::bundle::{Bundle, alive, kill9, until};
use crate::client::{Client, Exec, TASK};
use crate::output::{fifo, reader};

const SLEEPER: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

#[test]
fn a_process_is_added_waited_for_and_deleted_without_a_trace() {
    let bundle = Bundle::new("sleep 1000");
    let mut client = bundle.run();
    let out = fifo(&bundle, "out");
    let mut read = reader(&out);
    let exec =
        Exec { stdout: out, ..Exec::new(&bundle.id, "first", &["sh", "-c", "echo in $PWD as $(id -u); exit 7"]) };
    client.exec(&exec).unwrap();
    assert_eq!(client.exec(&exec).unwrap_err().0, Code::ALREADY_EXISTS);
    let state = client.exec_state(&bundle.id, "first").unwrap();
    assert_eq!((state.status.unwrap(), state.pid, state.exec_id.as_str()), (Status::CREATED, 0, "first"));
    let pid = client.exec_start(&bundle.id, "first").unwrap();
    assert_ne!(pid, 0);
    assert_eq!(client.exec_wait(&bundle.id, "first").unwrap().exit_status, 7);
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "in / as 0\n");
    let state = client.exec_state(&bundle.id, "first").unwrap();
    assert_eq!((state.status.unwrap(), state.pid, state.exit_status), (Status::STOPPED, pid, 7));
    // Whoever asks later is told the same.
    assert_eq!(client.exec_wait(&bundle.id, "first").unwrap().exit_status, 7);
    let deleted = client.exec_delete(&bundle.id, "first").unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 7));
    assert_eq!(client.exec_state(&bundle.id, "first").unwrap_err().0, Code::NOT_FOUND);
    assert_eq!(execution_files(&bundle), Vec::<String>::new());
    // The container is not touched, and the name is free again.
    assert_eq!(client.state(&bundle.id).unwrap().status.unwrap(), Status::RUNNING);
    client.exec(&Exec::new(&bundle.id, "first", &["true"])).unwrap();
    client.exec_delete(&bundle.id, "first").unwrap();
}

fn execution_files(bundle: &Bundle) -> Vec<String> {
    let names = fs::read_dir(&bundle.path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("execution-")).collect()
}

#[test]
fn many_at_once_lose_no_exit_and_are_told_apart() {
    let bundle = Bundle::new("sleep 1000");
    let mut client = bundle.run();
    // So short that some have ended before the runtime that made them.
    let codes: Vec<u32> = (0..24).collect();
    for code in &codes {
        client.exec(&Exec::new(&bundle.id, &format!("e{code}"), &["sh", "-c", &format!("exit {code}")])).unwrap();
    }
    let mut waiting: Vec<Client> = codes
        .iter()
        .map(|code| {
            let mut waiter = Client::connect(&bundle.path);
            waiter.send_exec_wait(&bundle.id, &format!("e{code}"));
            waiter.send_exec_start(&bundle.id, &format!("e{code}"));
            waiter
        })
        .collect();
    for (code, waiter) in codes.iter().zip(&mut waiting) {
        // Two answers: of the start and of the exit, each once.
        let mut answers = [waiter.receive().unwrap(), waiter.receive().unwrap()];
        answers.sort_by_key(Vec::len);
        let exit = answers
            .iter()
            .filter_map(|answer| containerd_shim_protos::api::WaitResponse::parse_from_bytes(answer).ok())
            .find(|exit| exit.exited_at.is_some())
            .unwrap();
        assert_eq!(exit.exit_status, *code);
    }
    for code in &codes {
        assert_eq!(client.exec_delete(&bundle.id, &format!("e{code}")).unwrap().exit_status, *code);
    }
    let shim = bundle.shim_pid().unwrap();
    let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    assert_eq!(children.split_whitespace().count(), 1, "the container's process alone: {children}");
}

#[test]
fn signals_reach_the_process_that_is_named() {
    let bundle = Bundle::new("sleep 1000");
    let mut client = bundle.run();
    for name in ["a", "b"] {
        client.exec(&Exec::new(&bundle.id, name, &["sleep", "1000"])).unwrap();
        let (code, message) = client.exec_kill(&bundle.id, name, 15).unwrap_err();
        assert!(code == Code::FAILED_PRECONDITION && message.contains("not started"), "{message}");
        client.exec_start(&bundle.id, name).unwrap();
    }
    assert_eq!(client.exec_delete(&bundle.id, "a").unwrap_err().0, Code::FAILED_PRECONDITION);
    assert_eq!(client.exec_kill(&bundle.id, "a", 99).unwrap_err().0, Code::INVALID_ARGUMENT);
    client.exec_kill(&bundle.id, "a", 15).unwrap();
    assert_eq!(client.exec_wait(&bundle.id, "a").unwrap().exit_status, 143);
    assert_eq!(client.exec_kill(&bundle.id, "a", 9).unwrap_err().0, Code::NOT_FOUND);
    assert_eq!(client.exec_state(&bundle.id, "b").unwrap().status.unwrap(), Status::RUNNING);
    // Both are listed, under their names where they have one.
    let pids: PidsResponse = client.task("Pids", &PidsRequest { id: bundle.id.clone(), ..Default::default() }).unwrap();
    let named: Vec<String> = pids
        .processes
        .iter()
        .filter_map(|process| process.info.as_ref())
        .map(|any| (any.type_url.as_str(), ProcessDetails::parse_from_bytes(&any.value).unwrap().exec_id))
        .map(|(url, name)| format!("{url} {name}"))
        .collect();
    assert_eq!((pids.processes.len(), named), (2, vec!["containerd.runc.v1.ProcessDetails b".to_owned()]));
}

#[test]
fn what_cannot_be_executed_says_why_and_harms_nothing() {
    let bundle = Bundle::new("sleep 1000");
    let mut client = bundle.run();
    fs::write(bundle.dir.path().join("image/plain"), "no program").unwrap();
    let cases = [
        (json!(["/bin/nonesuch"]), json!({}), "/bin/nonesuch", 127),
        (json!(["nonesuch"]), json!({}), "executable file not found", 127),
        (json!(["/plain"]), json!({}), "permission denied", 126),
        (json!(["true"]), json!({"cwd": "/none"}), "chdir to cwd", 126),
        (json!(["true"]), json!({"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 1}]}), "rlimit", 126),
    ];
    for (number, (args, more, expected, status)) in cases.into_iter().enumerate() {
        let name = format!("e{number}");
        let mut exec = Exec::new(&bundle.id, &name, &[]);
        exec.spec["args"] = args;
        exec.spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        client.exec(&exec).unwrap();
        let (code, message) = client.exec_start(&bundle.id, &name).unwrap_err();
        assert!(code == Code::INTERNAL && message.contains(&name) && message.contains(expected), "{message}");
        assert_eq!(client.exec_wait(&bundle.id, &name).unwrap().exit_status, status, "{message}");
        assert_eq!(client.exec_start(&bundle.id, &name).unwrap_err().0, Code::FAILED_PRECONDITION);
        client.exec_delete(&bundle.id, &name).unwrap();
    }
    assert_eq!(execution_files(&bundle), Vec::<String>::new());
    for (name, spec) in [
        ("a/b", json!({"args": ["true"]})),
        (&"x".repeat(300), json!({"args": ["true"]})),
        ("x", json!({"args": []})),
        ("x", json!("rubbish")),
    ] {
        let exec = Exec { spec, ..Exec::new(&bundle.id, name, &[]) };
        assert_eq!(client.exec(&exec).unwrap_err().0, Code::INVALID_ARGUMENT, "{name}");
    }
    assert_eq!(client.exec_start(&bundle.id, "nobody").unwrap_err().0, Code::NOT_FOUND);
    assert_eq!(client.exec_wait("nobody", "x").unwrap_err().0, Code::NOT_FOUND);
    assert_eq!(client.state(&bundle.id).unwrap().status.unwrap(), Status::RUNNING);
}

#[test]
fn nothing_is_added_to_a_task_that_does_not_run() {
    let bundle = Bundle::new("exit 0");
    let mut client = bundle.shim();
    client.create(&bundle.request()).unwrap();
    let exec = Exec::new(&bundle.id, "x", &["true"]);
    let (code, message) = client.exec(&exec).unwrap_err();
    assert!(code == Code::FAILED_PRECONDITION && message.contains("created"), "{message}");
    client.start(&bundle.id).unwrap();
    client.wait(&bundle.id).unwrap();
    let (code, message) = client.exec(&exec).unwrap_err();
    assert!(code == Code::FAILED_PRECONDITION && message.contains("stopped"), "{message}");
}

#[test]
fn the_end_of_the_container_ends_what_was_added_and_each_exit_is_told_once() {
    let bundle = Bundle::new(SLEEPER);
    let mut client = bundle.run();
    client.exec(&Exec::new(&bundle.id, "x", &["sleep", "1000"])).unwrap();
    client.exec(&Exec::new(&bundle.id, "late", &["sleep", "1000"])).unwrap();
    let pid = client.exec_start(&bundle.id, "x").unwrap();
    let mut waiter = Client::connect(&bundle.path);
    waiter.send_exec_wait(&bundle.id, "x");
    client.kill(&bundle.id, 9, false).unwrap();
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 137);
    let exit = containerd_shim_protos::api::WaitResponse::parse_from_bytes(&waiter.receive().unwrap()).unwrap();
    assert_eq!(exit.exit_status, 137);
    assert!(!alive(pid));
    assert_eq!(client.exec_start(&bundle.id, "late").unwrap_err().0, Code::FAILED_PRECONDITION);
    // One that waits for what never began is told when the task goes.
    waiter.send_exec_wait(&bundle.id, "late");
    client.exec_delete(&bundle.id, "x").unwrap();
    client.delete(&bundle.id).unwrap();
    let exit = containerd_shim_protos::api::WaitResponse::parse_from_bytes(&waiter.receive().unwrap()).unwrap();
    assert_eq!(exit.exit_status, 255);
    bundle.assert_nothing_is_left();
    client.shutdown();
    until("the shim goes", || bundle.shim_pid().is_none());
    assert_eq!(execution_files(&bundle), Vec::<String>::new());
    assert!(!bundle.path.join("shim.log").exists(), "{:?}", fs::read_to_string(bundle.path.join("shim.log")));
}

#[test]
fn standard_input_reaches_an_added_process_and_can_be_closed() {
    let bundle = Bundle::new("sleep 1000");
    let mut client = bundle.run();
    let (input, out) = (fifo(&bundle, "in"), fifo(&bundle, "out"));
    let mut read = reader(&out);
    let mut writer = fs::OpenOptions::new().read(true).write(true).open(&input).unwrap();
    let exec = Exec { stdin: input, stdout: out, ..Exec::new(&bundle.id, "x", &["cat"]) };
    client.exec(&exec).unwrap();
    client.exec_start(&bundle.id, "x").unwrap();
    std::io::Write::write_all(&mut writer, b"hello\n").unwrap();
    let mut text = [0; 6];
    read.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello\n");
    client.exec_close_stdin(&bundle.id, "x").unwrap();
    // What a writer that is still there says after that arrives, too.
    std::io::Write::write_all(&mut writer, b"there\n").unwrap();
    drop(writer);
    read.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"there\n");
    assert_eq!(client.exec_wait(&bundle.id, "x").unwrap().exit_status, 0);
}

#[test]
fn a_restarted_container_takes_processes_again() {
    let bundle = Bundle::new("sleep 1000");
    bundle.supervise(|s| s.restart.policy = bayplan::shim::protocol::Policy::Always);
    let mut client = bundle.run();
    client.exec(&Exec::new(&bundle.id, "x", &["sleep", "1000"])).unwrap();
    client.exec_start(&bundle.id, "x").unwrap();
    kill9(bundle.state().unwrap().pid.unwrap().cast_signed());
    assert_eq!(client.exec_wait(&bundle.id, "x").unwrap().exit_status, 137);
    client.watch_until(|state| state.restarts == 1 && state.phase == bayplan::shim::protocol::TaskPhase::Running);
    client.exec(&Exec::new(&bundle.id, "y", &["true"])).unwrap();
    client.exec_start(&bundle.id, "y").unwrap();
    assert_eq!(client.exec_wait(&bundle.id, "y").unwrap().exit_status, 0);
}

#[test]
fn an_exec_that_hangs_is_ended_and_the_next_one_works() {
    let bundle = Bundle::new("sleep 1000");
    let path = bundle.dir.path().join("fake-runtime");
    let hang = bundle.dir.path().join("hang");
    let script =
        format!("case \"$*\" in *\" exec \"*) test -e {} && sleep 1000;; esac; exec runc \"$@\"", hang.display());
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bundle.supervise(|s| (s.runtime, s.runtime_timeout_ms) = (path, Some(2000)));
    let mut client = bundle.run();
    fs::write(&hang, "").unwrap();
    client.exec(&Exec::new(&bundle.id, "x", &["true"])).unwrap();
    let began = std::time::Instant::now();
    client.send_exec_start(&bundle.id, "x");
    // Nobody else waits for it.
    let mut other = Client::connect(&bundle.path);
    assert_eq!(other.exec_state(&bundle.id, "x").unwrap().status.unwrap(), Status::CREATED);
    other.state(&bundle.id).unwrap();
    assert!(began.elapsed() < Duration::from_secs(1));
    let (code, message) = client.receive().unwrap_err();
    assert!(code == Code::INTERNAL && message.contains("took longer than 2s"), "{message}");
    fs::remove_file(&hang).unwrap();
    client.exec(&Exec::new(&bundle.id, "y", &["true"])).unwrap();
    client.exec_start(&bundle.id, "y").unwrap();
    assert_eq!(client.exec_wait(&bundle.id, "y").unwrap().exit_status, 0);
}

#[test]
fn a_runtime_that_names_somebody_elses_process_harms_nobody() {
    let bundle = Bundle::new("sleep 1000");
    let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let path = bundle.dir.path().join("fake-runtime");
    let lie = format!("while [ \"$1\" != --pid-file ]; do shift; done; echo {} > \"$2\"; exit 0", stranger.id());
    fs::write(&path, format!("#!/bin/sh\ncase \"$*\" in *--pid-file*) {lie};; esac; exec runc \"$@\"\n")).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bundle.supervise(|s| s.runtime = path.clone());
    let (code, message) = bundle.shim().create(&bundle.request()).unwrap_err();
    assert!(code == Code::INTERNAL && message.contains("named no process of its own"), "{message}");
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger lives");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_checkpoint_is_refused_with_its_reason() {
    let bundle = Bundle::new("sleep 1000");
    let mut client = bundle.run();
    let (code, message) = client.call(TASK, "Checkpoint", Vec::new()).unwrap_err();
    assert!(code == Code::UNIMPLEMENTED && message.contains("criu"), "{message}");
}

#[test]
fn an_added_process_may_have_a_terminal_of_its_own() {
    let bundle = Bundle::new("sleep 1000");
    let mut client = bundle.run();
    let out = fifo(&bundle, "out");
    let mut read = reader(&out);
    let script = "test -t 0 && test -t 1 && test -t 2 && echo terminal; exit 5";
    let exec = Exec { terminal: true, stdout: out, ..Exec::new(&bundle.id, "t", &["sh", "-c", script]) };
    client.exec(&exec).unwrap();
    client.exec_start(&bundle.id, "t").unwrap();
    assert_eq!(client.exec_wait(&bundle.id, "t").unwrap().exit_status, 5);
    client.exec_delete(&bundle.id, "t").unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "terminal\r\n");
}
