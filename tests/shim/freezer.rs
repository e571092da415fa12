//! Pause, limits that change, and what is used.

use std::fs;
use std::process::Command;
use std::time::Duration;

use containerd_shim_protos::api::{
    Empty, PauseRequest, ResumeRequest, StatsRequest, StatsResponse, Status, UpdateTaskRequest,
};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::ttrpc::proto::Code;

use crate::bundle::{Bundle, until};
use crate::client::{Client, Exec, Refused};

/// Writes on and on.
const TICKER: &str = "while :; do echo x; sleep 0.01; done";

fn pause(client: &mut Client, id: &str) -> Result<(), Refused> {
    client.task::<Empty>("Pause", &PauseRequest { id: id.into(), ..Default::default() }).map(drop)
}

fn resume(client: &mut Client, id: &str) -> Result<(), Refused> {
    client.task::<Empty>("Resume", &ResumeRequest { id: id.into(), ..Default::default() }).map(drop)
}

fn runc_says(bundle: &Bundle) -> String {
    let root = bundle.dir.path().join("runc");
    let output = Command::new("runc").arg("--root").arg(root).args(["state", &bundle.id]).output().unwrap();
    let state: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    state["status"].as_str().unwrap().to_owned()
}

#[test]
fn a_paused_container_stands_still_and_everybody_sees_it() {
    let bundle = Bundle::new(TICKER);
    let mut client = bundle.run();
    until("it writes", || bundle.lines("0.log").len() > 3);
    assert_eq!(resume(&mut client, &bundle.id).unwrap_err().0, Code::FAILED_PRECONDITION);
    pause(&mut client, &bundle.id).unwrap();
    assert_eq!(client.state(&bundle.id).unwrap().status.unwrap(), Status::PAUSED);
    assert!(bundle.state().unwrap().paused);
    assert_eq!(runc_says(&bundle), "paused");
    let (code, message) = pause(&mut client, &bundle.id).unwrap_err();
    assert!(code == Code::FAILED_PRECONDITION && message.contains("paused"), "{message}");
    assert_eq!(client.exec(&Exec::new(&bundle.id, "x", &["true"])).unwrap_err().0, Code::FAILED_PRECONDITION);
    let lines = bundle.lines("0.log").len();
    std::thread::sleep(Duration::from_millis(200));
    assert!(bundle.lines("0.log").len() <= lines + 1, "what was in the pipe, and no more");
    resume(&mut client, &bundle.id).unwrap();
    assert_eq!(client.state(&bundle.id).unwrap().status.unwrap(), Status::RUNNING);
    assert_eq!((bundle.state().unwrap().paused, runc_says(&bundle).as_str()), (false, "running"));
    until("it writes again", || bundle.lines("0.log").len() > lines + 3);
    // What runc paused, this shim sees and resumes.
    let root = bundle.dir.path().join("runc");
    assert!(Command::new("runc").arg("--root").arg(root).args(["pause", &bundle.id]).status().unwrap().success());
    assert_eq!(client.state(&bundle.id).unwrap().status.unwrap(), Status::PAUSED);
    resume(&mut client, &bundle.id).unwrap();
    client.kill(&bundle.id, 9, false).unwrap();
    client.wait(&bundle.id).unwrap();
    assert_eq!(pause(&mut client, &bundle.id).unwrap_err().0, Code::FAILED_PRECONDITION);
}

#[test]
fn a_paused_container_can_be_killed_and_stopped() {
    for (kill, expected) in [(true, 137), (false, 0)] {
        let bundle = Bundle::new("trap 'exit 0' TERM; echo ready; while :; do sleep 0.02; done");
        let mut client = bundle.run();
        until("the trap is set", || bundle.lines("0.log") == ["ready"]);
        pause(&mut client, &bundle.id).unwrap();
        if kill {
            client.kill(&bundle.id, 9, false).unwrap();
        } else {
            // It hears the signal, and has its grace to obey.
            client.stop(15, 10_000).unwrap();
        }
        assert_eq!(client.wait(&bundle.id).unwrap().exit_status, expected);
        assert!(!bundle.state().unwrap().paused);
        client.delete(&bundle.id).unwrap();
        bundle.assert_nothing_is_left();
    }
}

#[test]
fn a_dead_shims_paused_container_is_cleaned_up() {
    let bundle = Bundle::new("sleep 1000");
    let mut client = bundle.run();
    pause(&mut client, &bundle.id).unwrap();
    crate::bundle::kill9(bundle.shim_pid().unwrap());
    until("the shim is dead", || bundle.shim_pid().is_none());
    assert!(bundle.bootstrap("delete").status.success());
    bundle.assert_nothing_is_left();
}

fn update(client: &mut Client, id: &str, resources: &str) -> Result<(), Refused> {
    let resources = Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
        value: resources.as_bytes().to_vec(),
        ..Default::default()
    };
    let request = UpdateTaskRequest { id: id.into(), resources: Some(resources).into(), ..Default::default() };
    client.task::<Empty>("Update", &request).map(drop)
}

#[test]
fn limits_change_while_it_runs_and_what_is_used_is_told() {
    let bundle = Bundle::new("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 1000");
    let mut client = bundle.run();
    update(&mut client, &bundle.id, r#"{"memory": {"limit": 33554432}, "pids": {"limit": 77}}"#).unwrap();
    let stats = |client: &mut Client| {
        let request = StatsRequest { id: bundle.id.clone(), ..Default::default() };
        client.task::<StatsResponse>("Stats", &request).unwrap().stats.unwrap()
    };
    let seen = stats(&mut client);
    if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap() {
        assert_eq!(seen.type_url, "io.containerd.cgroups.v2.Metrics");
        let seen = containerd_shim_protos::cgroups_v2::metrics::Metrics::parse_from_bytes(&seen.value).unwrap();
        assert_eq!((seen.memory.usage_limit, seen.pids.limit), (33_554_432, 77));
        assert!(seen.memory.usage > 0 && seen.pids.current > 0 && seen.cpu.usage_usec > 0, "{seen:?}");
    } else {
        assert_eq!(seen.type_url, "io.containerd.cgroups.v1.Metrics");
        let seen = containerd_shim_protos::cgroups::metrics::Metrics::parse_from_bytes(&seen.value).unwrap();
        assert_eq!((seen.memory.usage.limit, seen.pids.limit), (33_554_432, 77));
        assert!(seen.memory.usage.usage > 0 && seen.pids.current > 0 && seen.cpu.usage.total > 0, "{seen:?}");
    }
    for (resources, expected) in
        [("rubbish", Code::INVALID_ARGUMENT), (r#"{"memory": {"limit": 4096}}"#, Code::INTERNAL)]
    {
        let (code, message) = update(&mut client, &bundle.id, resources).unwrap_err();
        assert_eq!(code, expected, "{message}");
    }
    client.kill(&bundle.id, 9, false).unwrap();
    client.wait(&bundle.id).unwrap();
    assert_eq!(update(&mut client, &bundle.id, "{}").unwrap_err().0, Code::FAILED_PRECONDITION);
    let request = StatsRequest { id: bundle.id.clone(), ..Default::default() };
    assert_eq!(client.task::<StatsResponse>("Stats", &request).unwrap_err().0, Code::FAILED_PRECONDITION);
    let left: Vec<_> = fs::read_dir(&bundle.path).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("execution-")), "{left:?}");
}
