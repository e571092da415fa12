//! Create, start, wait, kill, delete.

use std::fs;
use std::time::{Duration, Instant};

use bayplan::shim::protocol::TaskPhase;
use containerd_shim_protos::api::{ConnectRequest, ConnectResponse, PidsRequest, PidsResponse, Status};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::proto::Code;

use crate::bundle::{Bundle, alive, kill9, patience, status, until};
use crate::client::{Client, TASK};

#[test]
fn a_container_runs_to_its_exit_status_and_leaves_nothing() {
    let bundle = Bundle::new("echo hello; exit 7");
    let mut client = bundle.shim();
    let pid = client.create(&bundle.request()).unwrap();
    assert!(bundle.is_mounted());
    let state = client.state(&bundle.id).unwrap();
    assert_eq!((state.pid, state.status.unwrap()), (pid, Status::CREATED));
    assert_eq!(bundle.state().unwrap().phase, TaskPhase::Created);
    client.start(&bundle.id).unwrap();
    let exit = client.wait(&bundle.id).unwrap();
    assert_eq!(exit.exit_status, 7);
    let recorded = bundle.state().unwrap();
    assert_eq!((recorded.phase, recorded.exit.unwrap().code, recorded.pid), (TaskPhase::Exited, 7, None));
    assert_eq!(bundle.lines("0.log"), ["hello"]);
    assert_eq!(client.state(&bundle.id).unwrap().status.unwrap(), Status::STOPPED);
    let deleted = client.delete(&bundle.id).unwrap();
    assert_eq!((deleted.exit_status, deleted.pid), (7, pid));
    bundle.assert_nothing_is_left();
    assert_eq!(client.state(&bundle.id).unwrap_err().0, Code::NOT_FOUND);
    client.shutdown();
    until("the shim goes", || bundle.shim_pid().is_none());
    assert!(!bundle.path.join("shim.sock").exists() && !bundle.path.join("shim.lock").exists());
    assert!(!bundle.path.join("shim.log").exists(), "{:?}", fs::read_to_string(bundle.path.join("shim.log")));
}

#[test]
fn the_shim_is_inits_child_and_holds_nothing_of_its_host() {
    let bundle = Bundle::with_args(&["sleep", "100"]);
    let mut client = bundle.run();
    let shim = bundle.shim_pid().unwrap();
    assert_eq!(status(shim, "PPid"), "1");
    assert_eq!(status(shim, "Threads"), "1");
    assert_eq!(fs::metadata(bundle.path.join("shim.sock")).unwrap().permissions_mode() & 0o777, 0o600);
    for fd in 0..3 {
        assert_eq!(fs::read_link(format!("/proc/{shim}/fd/{fd}")).unwrap().to_str(), Some("/dev/null"));
    }
    let answer: ConnectResponse =
        client.task("Connect", &ConnectRequest { id: bundle.id.clone(), ..Default::default() }).unwrap();
    assert_eq!(answer.shim_pid, shim.unsigned_abs());
    // The container's own parent is the shim, and it has its three streams and no other descriptor.
    let pid = answer.task_pid.cast_signed();
    assert_eq!(status(pid, "PPid"), shim.to_string());
    until("it has executed its program", || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() == 3);
    assert_eq!(status(pid, "SigBlk"), "0000000000000000");
    // Signal 32 is glibc's own; its posix_spawn leaves it so in everything that is started by it.
    assert_eq!(u64::from_str_radix(&status(pid, "SigIgn"), 16).unwrap() & !(1 << 31), 0);
    // SIGTERM is not what ends it.
    let term = std::process::Command::new("kill").arg(shim.to_string()).status().unwrap();
    assert!(term.success());
    assert_eq!(client.state(&bundle.id).unwrap().status.unwrap(), Status::RUNNING);
}

#[test]
fn kill_delivers_signals_and_delete_refuses_while_it_runs() {
    let bundle = Bundle::new("trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.05; done");
    let mut client = bundle.run();
    until("the trap is set", || bundle.lines("0.log") == ["ready"]);
    let (code, message) = client.delete(&bundle.id).unwrap_err();
    assert_eq!(code, Code::FAILED_PRECONDITION);
    assert!(message.contains("running"), "{message}");
    assert_eq!(client.kill(&bundle.id, 99, false).unwrap_err().0, Code::INVALID_ARGUMENT);
    let pids: PidsResponse = client.task("Pids", &PidsRequest { id: bundle.id.clone(), ..Default::default() }).unwrap();
    assert!(!pids.processes.is_empty());
    client.kill(&bundle.id, 10, false).unwrap();
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 3);
    assert_eq!(client.kill(&bundle.id, 9, false).unwrap_err().0, Code::NOT_FOUND);
}

#[test]
fn kill_all_reaches_every_process() {
    let bundle = Bundle::new("sleep 1000 & sleep 1000 & wait");
    let mut client = bundle.run();
    client.kill(&bundle.id, 9, true).unwrap();
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 137);
    let exit = bundle.state().unwrap().exit.unwrap();
    assert_eq!((exit.signal, exit.oom_killed), (Some(9), false));
}

#[test]
fn processes_left_in_the_hosts_pid_namespace_are_ended_with_the_container() {
    let bundle = Bundle::new("setsid sleep 1000 & echo $!");
    bundle.edit(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    });
    let mut client = bundle.run();
    let began = Instant::now();
    client.wait(&bundle.id).unwrap();
    assert!(began.elapsed() < Duration::from_secs(2) * patience(), "the exit waited for a process that held the pipe");
    let orphan: u32 = bundle.lines("0.log")[0].parse().unwrap();
    until("the orphan ends", || !alive(orphan));
    client.delete(&bundle.id).unwrap();
    bundle.assert_nothing_is_left();
}

#[test]
fn what_cannot_be_created_says_why_and_leaves_nothing() {
    let bundle = Bundle::with_args(&["/bin/nonesuch"]);
    let mut client = bundle.shim();
    let (code, message) = client.create(&bundle.request()).unwrap_err();
    assert_eq!(code, Code::INTERNAL);
    assert!(message.contains(&bundle.id) && message.contains("/bin/nonesuch"), "{message}");
    bundle.assert_nothing_is_left();
    let recorded = bundle.state().unwrap();
    assert_eq!((recorded.phase, recorded.reason), (TaskPhase::Failed, Some(message)));
    // The same shim can try again.
    bundle.edit(|spec| spec["process"]["args"] = serde_json::json!(["true"]));
    client.create(&bundle.request()).unwrap();
    assert_eq!(client.create(&bundle.request()).unwrap_err().0, Code::ALREADY_EXISTS);
    client.start(&bundle.id).unwrap();
    assert_eq!(client.start(&bundle.id).unwrap_err().0, Code::FAILED_PRECONDITION);
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 0);
}

#[test]
fn a_created_container_that_never_started_can_be_deleted() {
    let bundle = Bundle::new("sleep 1000");
    let mut client = bundle.shim();
    let pid = client.create(&bundle.request()).unwrap();
    client.delete(&bundle.id).unwrap();
    assert!(!alive(pid));
    bundle.assert_nothing_is_left();
}

#[test]
fn a_missing_runtime_is_named_with_its_package() {
    let bundle = Bundle::new("true");
    bundle.supervise(|supervision| supervision.runtime = "/nonexistent/runc".into());
    let (_, message) = bundle.shim().create(&bundle.request()).unwrap_err();
    assert!(message.contains("/nonexistent/runc") && message.contains("package runc"), "{message}");
    assert!(!bundle.is_mounted());
}

#[test]
fn a_dead_shims_container_is_cleaned_by_the_delete_bootstrap() {
    let bundle = Bundle::new("sleep 1000");
    let client = bundle.run();
    drop(client);
    let pid = bundle.state().unwrap().pid.unwrap();
    let second = bundle.bootstrap("start");
    assert!(!second.status.success() && String::from_utf8_lossy(&second.stderr).contains("alive"), "{second:?}");
    kill9(bundle.shim_pid().unwrap());
    until("the shim is dead", || bundle.shim_pid().is_none());
    assert!(alive(pid), "the container outlives its shim until somebody cleans up");
    let output = bundle.bootstrap("delete");
    assert!(output.status.success(), "{output:?}");
    let response = containerd_shim_protos::api::DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!((response.exit_status, response.pid), (137, pid));
    assert!(!alive(pid));
    bundle.assert_nothing_is_left();
    assert_eq!(bundle.state().unwrap().phase, TaskPhase::Exited);
    // Again, and then from the beginning.
    assert!(bundle.bootstrap("delete").status.success());
    bundle.edit(|spec| spec["process"]["args"] = serde_json::json!(["true"]));
    assert_eq!(bundle.run().wait(&bundle.id).unwrap().exit_status, 0);
}

#[test]
fn without_supervision_it_is_a_plain_containerd_shim() {
    let bundle = Bundle::new("exit 5");
    fs::remove_file(bundle.path.join("bayplan.json")).unwrap();
    assert!(bundle.bootstrap_for("/nonexistent/containerd.sock", "start").status.success());
    let mut client = Client::connect(&bundle.path);
    let address = fs::read_to_string(bundle.path.join("address")).unwrap();
    assert_eq!(address, format!("unix://{}", bundle.path.join("shim.sock").display()));
    let mut options = containerd_shim_protos::shim::oci::Options::new();
    options.root = bundle.dir.path().join("plain").display().to_string();
    let mut request = bundle.request();
    request.options = Some(containerd_shim_protos::protobuf::well_known_types::any::Any {
        type_url: "containerd.runc.v1.Options".into(),
        value: options.write_to_bytes().unwrap(),
        ..Default::default()
    })
    .into();
    client.create(&request).unwrap();
    assert!(bundle.dir.path().join("plain/test").join(&bundle.id).exists(), "runc's root is <root>/<namespace>");
    client.start(&bundle.id).unwrap();
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 5);
    assert!(bundle.dir.path().join("plain/test").join(&bundle.id).exists(), "it is the host that deletes");
    assert_eq!(client.delete(&bundle.id).unwrap().exit_status, 5);
    bundle.assert_nothing_is_left();
}

#[test]
fn an_image_of_more_layers_than_a_page_of_options_mounts() {
    let bundle = Bundle::new("cat /layer-0 /layer-126; echo new > /new");
    let layers = bundle.dir.path().join("a-directory-whose-name-is-rather-long/layers");
    let lower: Vec<String> = (0..127).rev().map(|n| layers.join(n.to_string()).display().to_string()).collect();
    for (number, layer) in lower.iter().rev().enumerate() {
        fs::create_dir_all(layer).unwrap();
        fs::write(format!("{layer}/layer-{number}"), format!("{number}\n")).unwrap();
    }
    let image = layers.join("base").display().to_string();
    fs::rename(bundle.dir.path().join("image"), &image).unwrap();
    let (upper, work) = (bundle.dir.path().join("upper"), bundle.dir.path().join("work"));
    for dir in [&upper, &work] {
        fs::create_dir(dir).unwrap();
    }
    let mut request = bundle.request();
    request.rootfs[0].type_ = "overlay".into();
    request.rootfs[0].source = "overlay".into();
    request.rootfs[0].options = vec![
        format!("workdir={}", work.display()),
        format!("upperdir={}", upper.display()),
        format!("lowerdir={}:{image}", lower.join(":")),
    ];
    let mut client = bundle.shim();
    client.create(&request).unwrap();
    client.start(&bundle.id).unwrap();
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 0);
    assert_eq!(bundle.lines("0.log"), ["0", "126"]);
    assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "new\n");
    client.delete(&bundle.id).unwrap();
    bundle.assert_nothing_is_left();
}

#[test]
fn both_generations_of_the_task_service_are_answered_and_what_is_missing_is_said() {
    let bundle = Bundle::new("true");
    let mut client = bundle.shim();
    for service in [TASK, "containerd.task.v3.Task"] {
        assert!(client.call(service, "Connect", Vec::new()).is_ok());
        let (code, message) = client.call(service, "Levitate", Vec::new()).unwrap_err();
        assert_eq!(code, Code::UNIMPLEMENTED);
        assert!(message.contains("Levitate"), "{message}");
    }
    assert_eq!(client.call("x.Y", "Z", Vec::new()).unwrap_err().0, Code::UNIMPLEMENTED);
    assert_eq!(client.wait("nobody").unwrap_err().0, Code::NOT_FOUND);
}

#[test]
fn a_bundle_whose_path_is_longer_than_a_socket_address_works() {
    let long = format!("{}/{}", "d".repeat(90), "e".repeat(90));
    let bundle = Bundle::beneath(&long, &["true"]);
    let output = bundle.bootstrap("start");
    assert!(output.status.success(), "{output:?}");
    let short = bundle.dir.path().join("s");
    std::os::unix::fs::symlink(&bundle.path, &short).unwrap();
    let mut client = Client::connect(&short);
    client.create(&bundle.request()).unwrap();
    client.start(&bundle.id).unwrap();
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 0);
}

#[test]
fn a_host_that_only_knows_addresses_gets_a_short_one_for_a_long_bundle() {
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
    let bundle = Bundle::beneath(&long, &["true"]);
    fs::remove_file(bundle.path.join("bayplan.json")).unwrap();
    let output = bundle.bootstrap_for("/nonexistent/containerd.sock", "start");
    let told = String::from_utf8(output.stdout).unwrap();
    let path = std::path::PathBuf::from(told.strip_prefix("unix://").unwrap());
    assert!(path.as_os_str().len() <= 107, "{told}");
    assert_eq!(fs::read_to_string(bundle.path.join("address")).unwrap(), told);
    let mut client = Client { socket: std::os::unix::net::UnixStream::connect(&path).unwrap(), stream: 1 };
    client.shutdown();
    until("the shim goes with its link", || fs::symlink_metadata(&path).is_err());
}

trait Permissions {
    fn permissions_mode(&self) -> u32;
}

impl Permissions for fs::Metadata {
    fn permissions_mode(&self) -> u32 {
        std::os::unix::fs::PermissionsExt::mode(&self.permissions())
    }
}
