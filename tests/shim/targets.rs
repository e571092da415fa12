//! Where a host may have output sent beside the log, and that none of it can stop a container for good.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::bundle::{Bundle, until};
use crate::client::Client;
use crate::output::{fifo, reader};

/// An executable script beside the bundle.
fn logger(bundle: &Bundle, script: &str) -> PathBuf {
    let path = bundle.dir.path().join("logger");
    fs::write(&path, format!("#!/bin/sh\ncd {}\n{script}\n", bundle.dir.path().display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Creates the task with its output sent to `stdout`.
fn create(
    bundle: &Bundle,
    stdout: &str,
) -> (Client, Result<u32, (containerd_shim_protos::ttrpc::proto::Code, String)>) {
    let mut client = bundle.shim();
    let mut request = bundle.request();
    request.stdout = stdout.to_owned();
    let created = client.create(&request);
    (client, created)
}

fn read(bundle: &Bundle, name: &str) -> String {
    fs::read_to_string(bundle.dir.path().join(name)).unwrap_or_default()
}

#[test]
fn a_file_gets_both_streams_as_they_were_written_and_its_directories_are_made() {
    let bundle = Bundle::new("printf 'a\\nb'; printf c >&2");
    let path = bundle.dir.path().join("deep/er/raw file");
    for time in 1..=2 {
        let (mut client, created) = create(&bundle, &format!("file://{}", path.display()).replace(' ', "%20"));
        created.unwrap();
        client.start(&bundle.id).unwrap();
        client.wait(&bundle.id).unwrap();
        client.delete(&bundle.id).unwrap();
        client.shutdown();
        until("the shim has gone", || bundle.shim_pid().is_none());
        let mut text: Vec<char> = fs::read_to_string(&path).unwrap().chars().collect();
        text.sort_unstable();
        assert_eq!(
            text.iter().collect::<String>(),
            format!("{}{}{}{}", "\n".repeat(time), "a".repeat(time), "b".repeat(time), "c".repeat(time))
        );
    }
}

#[test]
fn a_logger_is_started_as_containerd_starts_it_waited_for_and_ended() {
    let bundle = Bundle::new("echo out; echo err >&2; seq 1 100000");
    let script = "echo \"$CONTAINER_ID $CONTAINER_NAMESPACE $*\" > called
        while ! [ -e go ]; do sleep 0.01; done
        exec 5>&-
        cat <&4 > err & cat <&3 > out; wait; echo over >> called";
    let path = logger(&bundle, script);
    let (mut client, created) = create(&bundle, &format!("binary://{}?--tag=a%20b&-v", path.display()));
    created.unwrap();
    client.send(crate::client::TASK, "Start", {
        use containerd_shim_protos::protobuf::Message;
        let request = containerd_shim_protos::api::StartRequest { id: bundle.id.clone(), ..Default::default() };
        request.write_to_bytes().unwrap()
    });
    until("the logger runs", || !read(&bundle, "called").is_empty());
    assert!(Client::connect(&bundle.path).state(&bundle.id).unwrap().status.value() == 1, "it waits for its logger");
    fs::write(bundle.dir.path().join("go"), "").unwrap();
    client.receive().unwrap();
    client.wait(&bundle.id).unwrap();
    client.delete(&bundle.id).unwrap();
    assert_eq!(read(&bundle, "called"), format!("{} test --tag a b -v\nover\n", bundle.id));
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(read(&bundle, "err"), "err\n");
    assert!(read(&bundle, "out") == format!("out\n{expected}"));
    assert_eq!(bundle.lines("0.log").len(), 100_002);
    bundle.assert_nothing_is_left();
}

#[test]
fn a_logger_that_is_not_there_or_ends_or_does_not_end_is_an_error_and_nothing_else() {
    let bundle = Bundle::new("sleep 1000");
    let (mut client, created) = create(&bundle, "binary:///nonesuch");
    assert!(created.unwrap_err().1.contains("/nonesuch"));
    client.shutdown();
    let path = logger(&bundle, "exit 1");
    until("the shim has gone", || bundle.shim_pid().is_none());
    let (mut client, created) = create(&bundle, &format!("binary://{}", path.display()));
    created.unwrap();
    let (_, message) = client.start(&bundle.id).unwrap_err();
    assert!(message.contains("ended before it was ready"), "{message}");
    until("it was not started", || client.state(&bundle.id).unwrap().status.value() == 3);
    client.delete(&bundle.id).unwrap();
    bundle.assert_nothing_is_left();

    let bundle = Bundle::new("true");
    let path = logger(&bundle, "echo $$ > pid; exec 5>&-; while :; do sleep 0.1; done");
    let (mut client, created) = create(&bundle, &format!("binary://{}", path.display()));
    created.unwrap();
    client.start(&bundle.id).unwrap();
    client.wait(&bundle.id).unwrap();
    let began = Instant::now();
    client.delete(&bundle.id).unwrap();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let pid = read(&bundle, "pid");
    assert!(!Command::new("kill").args(["-0", pid.trim()]).output().unwrap().status.success());
}

#[test]
fn a_reader_that_takes_nothing_is_waited_for_only_so_long_and_told() {
    let bundle = Bundle::new("seq 1 300000");
    bundle.supervise(|s| s.reader_patience_ms = Some(300));
    let path = fifo(&bundle, "out");
    let mut reader = reader(&path);
    let (mut client, created) = create(&bundle, &path);
    created.unwrap();
    client.start(&bundle.id).unwrap();
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 0);
    assert_eq!(bundle.lines("0.log").len(), 300_000);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let expected: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    let (seen, told) = text.split_once("\r\nbayplan: ").unwrap();
    let missed: usize = told.split(' ').next().unwrap().parse().unwrap();
    assert!(expected.starts_with(seen) && seen.len() + missed == expected.len());
}

#[test]
fn a_logger_that_does_not_read_stops_nobody_for_good() {
    let bundle = Bundle::new("seq 1 300000");
    bundle.supervise(|s| s.reader_patience_ms = Some(300));
    let path = logger(&bundle, "exec 5>&-; while :; do sleep 0.1; done");
    let (mut client, created) = create(&bundle, &format!("binary://{}", path.display()));
    created.unwrap();
    client.start(&bundle.id).unwrap();
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 0);
    assert_eq!(bundle.lines("0.log").len(), 300_000);
}
