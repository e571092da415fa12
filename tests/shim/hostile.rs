//! Clients and containers that do not behave.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

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
