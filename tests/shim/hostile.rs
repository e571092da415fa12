//! Clients and containers that do not behave.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bayplan::shim::protocol::{Policy, Restart, TaskPhase};
use containerd_shim_protos::ttrpc::proto::Code;

use crate::bundle::{Bundle, until};

#[test]
fn silent_and_half_said_clients_harm_nobody() {
    let bundle = Bundle::new("sleep 1000");
    let mut client = bundle.run();
    let mut crowd: Vec<UnixStream> = Vec::new();
    for number in 0..300 {
        let mut socket = UnixStream::connect(bundle.path.join("shim.sock")).unwrap();
        if number % 2 == 0 {
            let _ = socket.write_all(&[0, 0, 1]);
        }
        crowd.push(socket);
        // Whoever says something from time to time is not who has to go.
        if number % 20 == 0 {
            client.state(&bundle.id).unwrap();
        }
    }
    let began = Instant::now();
    client.state(&bundle.id).unwrap();
    assert!(began.elapsed() < Duration::from_secs(1));
    let shim = bundle.shim_pid().unwrap();
    let descriptors = || std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    assert!(descriptors() < 90, "{}", descriptors());
    drop(crowd);
    until("their descriptors are given back", || descriptors() < 20);
}

#[test]
fn a_frame_past_four_mebibytes_is_refused_and_the_connection_goes_on() {
    let bundle = Bundle::new("sleep 1000");
    let mut client = bundle.run();
    let body = 64u32 << 20;
    let mut header = body.to_be_bytes().to_vec();
    header.extend_from_slice(&[0, 0, 0, 99, 1, 0]);
    client.socket.write_all(&header).unwrap();
    let chunk = vec![0u8; 1 << 20];
    for _ in 0..64 {
        client.socket.write_all(&chunk).unwrap();
    }
    let (code, message) = client.receive().unwrap_err();
    assert_eq!(code, Code::RESOURCE_EXHAUSTED);
    assert!(message.contains("67108864"), "{message}");
    client.state(&bundle.id).unwrap();
}

#[test]
fn rubbish_is_answered_or_cut_off_and_others_are_served() {
    let bundle = Bundle::new("sleep 1000");
    let mut client = bundle.run();
    let mut socket = UnixStream::connect(bundle.path.join("shim.sock")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.write_all(b"\0\0\0\x04\0\0\0\x07\x01\0\xff\xff\xff\xff").unwrap();
    let mut header = [0; 10];
    socket.read_exact(&mut header).unwrap();
    assert_eq!(header[7], 7);
    for (id, bundle_path) in [("../x", "/tmp"), (&"x".repeat(300), "/tmp"), ("x", "relative")] {
        let mut request = bundle.request();
        request.id = id.to_owned();
        request.bundle = bundle_path.to_owned();
        assert_eq!(client.create(&request).unwrap_err().0, Code::INVALID_ARGUMENT, "{id} in {bundle_path}");
    }
    client.state(&bundle.id).unwrap();
}

#[test]
fn a_supervision_file_of_another_version_is_refused() {
    let bundle = Bundle::new("true");
    bundle.supervise(|s| s.version = 2);
    let (code, message) = bundle.shim().create(&bundle.request()).unwrap_err();
    assert_eq!(code, Code::INVALID_ARGUMENT);
    assert!(message.contains("version 2") && message.contains("bayplan.json"), "{message}");
}

#[test]
fn thousands_of_orphans_are_reaped_and_the_exit_is_right() {
    let bundle = Bundle::new("i=0; while [ $i -lt 500 ]; do (true &) ; i=$((i+1)); done; exit 6");
    bundle.edit(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    });
    let mut client = bundle.run();
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 6);
    let shim = bundle.shim_pid().unwrap();
    until("no zombie is left", || {
        std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap().trim().is_empty()
    });
}

fn fake_runtime(bundle: &Bundle, script: &str) {
    let path = bundle.dir.path().join("fake-runtime");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bundle.supervise(|s| {
        s.runtime = path;
        s.runtime_timeout_ms = Some(200);
    });
}

#[test]
fn a_runtime_that_hangs_is_ended_with_what_it_started() {
    let bundle = Bundle::new("true");
    let pid_file = bundle.dir.path().join("hanging");
    fake_runtime(&bundle, &format!("sleep 1000 & echo $! > {}; wait", pid_file.display()));
    let mut client = bundle.shim();
    let began = Instant::now();
    let (code, message) = client.create(&bundle.request()).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(code == Code::INTERNAL && message.contains("took longer than 200ms"), "{message}");
    let hanging: u32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
    until("what the runtime started has ended", || !crate::bundle::alive(hanging));
    bundle.assert_nothing_is_left();
    // And the shim is as good as before.
    bundle.supervise(|_| {});
    client.create(&bundle.request()).unwrap();
    client.start(&bundle.id).unwrap();
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 0);
}

/// A runtime whose `create` hangs: at once, or after runc has made the container.
fn hanging_runtime(bundle: &Bundle, makes_it: bool) -> impl Fn() -> Option<u32> + use<> {
    let pid_file = bundle.dir.path().join("hanging");
    let make = if makes_it { "runc \"$@\" 2>/dev/null" } else { ":" };
    let (file, hang) = (pid_file.display(), "sleep 1000 &");
    // What is asked of it after the creation hangs too, and worse: the shim has to do without it.
    fake_runtime(bundle, &format!("case \"$*\" in *\" create \"*) {make};; esac; {hang} echo $! > {file}; wait"));
    bundle.supervise(|s| s.runtime = bundle.dir.path().join("fake-runtime"));
    move || std::fs::read_to_string(&pid_file).unwrap_or_default().trim().parse::<u32>().ok()
}

#[test]
fn a_hanging_creation_does_not_hold_up_a_stop_a_delete_or_a_kill() {
    for (end, makes_it) in [("stop", false), ("stop", true), ("delete", false), ("delete", true), ("kill", true)] {
        let bundle = Bundle::new("sleep 1000");
        let hanging = hanging_runtime(&bundle, makes_it);
        let mut creator = bundle.shim();
        let request = containerd_shim_protos::protobuf::Message::write_to_bytes(&bundle.request()).unwrap();
        creator.send(crate::client::TASK, "Create", request);
        until("the runtime hangs", || hanging().is_some());
        let first = hanging().unwrap();
        let began = Instant::now();
        let mut client = crate::client::Client::connect(&bundle.path);
        match end {
            "stop" => drop(client.stop(15, 60_000).unwrap()),
            "delete" => drop(client.delete(&bundle.id).unwrap()),
            _ => client.kill(&bundle.id, 9, false).unwrap(),
        }
        let (code, message) = creator.receive().unwrap_err();
        // Half a second for the creation; where runc has made something, five more for its `delete`.
        assert!(began.elapsed() < Duration::from_secs(8), "{end}: {:?}", began.elapsed());
        assert!(code == Code::INTERNAL && message.contains("the end of the container was asked for"), "{message}");
        assert!(!crate::bundle::alive(first), "{end}: what the runtime started lives");
        bundle.assert_nothing_is_left();
        creator.shutdown();
        until("the shim ends", || bundle.shim_pid().is_none());
    }
}

#[test]
fn a_restart_whose_creation_hangs_is_stopped_at_once() {
    let bundle = Bundle::new("exit 1");
    // It must have runc's name to be used for the first attempt without a `start`.
    let path = bundle.dir.path().join("bin/runc");
    std::fs::create_dir(bundle.dir.path().join("bin")).unwrap();
    let hang = bundle.dir.path().join("hang");
    std::fs::write(
        &path,
        format!(
            "#!/bin/sh\ntest -e {0} && {{ echo > {0}; sleep 1000; }}\nexec /usr/sbin/runc \"$@\"\n",
            hang.display()
        ),
    )
    .unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let restart = Restart { policy: Policy::Always, limit: None, initial_ms: 500, max_ms: 500 };
    bundle.supervise(|s| (s.runtime, s.restart) = (path, restart));
    let mut client = bundle.run();
    std::fs::write(&hang, "").unwrap();
    until("the restart hangs", || std::fs::read(&hang).unwrap() == b"\n");
    let began = Instant::now();
    let state = client.stop(15, 60_000).unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(state.phase, TaskPhase::Stopped);
    client.delete(&bundle.id).unwrap();
    bundle.assert_nothing_is_left();
}

#[test]
fn what_a_broken_runtime_says_on_standard_error_is_told_and_kept_short() {
    let bundle = Bundle::new("true");
    // More than a pipe holds, on both streams, before the reason.
    let noise = "head -c 300000 /dev/zero | tr '\\0' n";
    fake_runtime(&bundle, &format!("{noise}; {noise} >&2; (echo; echo 'libx.so.1: no such file') >&2; exit 127"));
    bundle.supervise(|s| s.runtime = bundle.dir.path().join("fake-runtime"));
    let (code, message) = bundle.shim().create(&bundle.request()).unwrap_err();
    assert_eq!(code, Code::INTERNAL);
    assert!(message.contains("exited with status 127 and said: n"), "{message}");
    assert!(message.ends_with("n; libx.so.1: no such file"), "{message}");
    assert!(message.len() < 5000, "{}", message.len());
    // So it is for the executions that are not the container's own.
    let bundle = Bundle::new("true");
    fake_runtime(&bundle, "case \"$*\" in *\" start \"*) echo 'cannot start' >&2; exit 1;; esac; exec runc \"$@\"");
    bundle.supervise(|s| s.runtime = bundle.dir.path().join("fake-runtime"));
    let mut client = bundle.shim();
    client.create(&bundle.request()).unwrap();
    let (_, message) = client.start(&bundle.id).unwrap_err();
    assert!(message.ends_with("exited with status 1 and said: cannot start"), "{message}");
}

#[test]
fn a_runtime_that_says_rubbish_or_nothing_is_an_error_with_its_words() {
    for (script, expected) in [
        ("exit 0", "named no process"),
        ("exit 3", "status 3"),
        ("kill -9 $$", "signal 9"),
        ("while [ \"$1\" != --log ]; do shift; done; printf 'what\\033\\n\\377\\377?\\n' > \"$2\"; exit 1", "?"),
    ] {
        let bundle = Bundle::new("true");
        fake_runtime(&bundle, script);
        let (code, message) = bundle.shim().create(&bundle.request()).unwrap_err();
        assert!(code == Code::INTERNAL && message.contains(expected), "{script}: {message}");
        assert!(!bundle.is_mounted());
    }
}

#[test]
fn an_execution_that_a_dead_shim_had_begun_does_not_outlive_the_clean_up() {
    let bundle = Bundle::new("true");
    let pid_file = bundle.dir.path().join("hanging");
    fake_runtime(&bundle, &format!("sleep 1000 & echo $! > {}; wait", pid_file.display()));
    bundle.supervise(|s| s.runtime = bundle.dir.path().join("fake-runtime"));
    let mut client = bundle.shim();
    let request = containerd_shim_protos::protobuf::Message::write_to_bytes(&bundle.request()).unwrap();
    client.send(crate::client::TASK, "Create", request);
    let hanging = || std::fs::read_to_string(&pid_file).unwrap_or_default().trim().parse::<u32>().ok();
    until("the runtime hangs", || hanging().is_some());
    crate::bundle::kill9(bundle.shim_pid().unwrap());
    assert!(crate::bundle::alive(hanging().unwrap()));
    assert!(bundle.bootstrap("delete").status.success());
    assert!(!crate::bundle::alive(hanging().unwrap()));
    bundle.assert_nothing_is_left();
}
