//! Where output goes, and that nobody waits for a reader that is not there.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::bundle::{Bundle, until};

const NONBLOCK: i32 = 0o4000;

pub fn fifo(bundle: &Bundle, name: &str) -> String {
    let path = bundle.dir.path().join(name).display().to_string();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// Opened without waiting for a writer, as a host does before it asks for the task.
pub fn reader(path: &str) -> File {
    let file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path).unwrap();
    rustix::io::ioctl_fionbio(&file, false).unwrap();
    file
}

#[test]
fn the_log_has_both_streams_in_the_cri_format() {
    let bundle = Bundle::new("echo out; echo err >&2; printf unfinished");
    bundle.run().wait(&bundle.id).unwrap();
    let log = bundle.log("0.log");
    let mut found: Vec<Vec<&str>> = log.lines().map(|line| line.splitn(4, ' ').collect()).collect();
    for line in &found {
        let time: jiff::Timestamp = line[0].parse().unwrap();
        assert!(line[0].len() == 30 && line[0].ends_with('Z'), "{log}");
        assert!(jiff::Timestamp::now().duration_since(time).as_secs().abs() < 60);
    }
    found.sort_by_key(|line| line[3]);
    let rest: Vec<&[&str]> = found.iter().map(|line| &line[1..]).collect();
    assert_eq!(rest, [["stderr", "F", "err"], ["stdout", "F", "out"], ["stdout", "F", "unfinished"]]);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(bundle.dir.path().join("log/0.log")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn a_fast_writer_is_rotated_without_a_lost_or_split_line() {
    let bundle = Bundle::new("seq 1 200000");
    bundle.supervise(|s| {
        s.log_max_size = 1 << 20;
        s.log_max_files = 100;
    });
    bundle.run().wait(&bundle.id).unwrap();
    let mut names: Vec<u32> = (1..100).filter(|n| bundle.dir.path().join(format!("log/0.log.{n}")).exists()).collect();
    assert!(names.len() > 3, "{names:?}");
    names.reverse();
    let mut all = Vec::new();
    for name in names.iter().map(|n| format!("0.log.{n}")).chain(["0.log".to_owned()]) {
        assert!(bundle.log(&name).len() <= 1 << 20);
        all.extend(bundle.lines(&name));
    }
    assert!(
        all.iter().map(String::as_str).eq((1..=200_000)
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str))
    );
}

#[test]
fn a_host_that_reads_slowly_gets_every_byte() {
    let bundle = Bundle::new("seq 1 300000");
    bundle.supervise(|s| s.log_dir = None);
    let path = fifo(&bundle, "out");
    let mut reader = reader(&path);
    let mut client = bundle.shim();
    let mut request = bundle.request();
    request.stdout = path;
    client.create(&request).unwrap();
    client.start(&bundle.id).unwrap();
    // Nothing is read until the container is known to wait.
    std::thread::sleep(Duration::from_millis(100));
    assert!(bundle.state().unwrap().exit.is_none(), "it wrote more than a pipe holds and did not wait");
    let mut all = String::new();
    reader.read_to_string(&mut all).unwrap();
    let expected: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    assert!(all == expected, "{} bytes of {}", all.len(), expected.len());
    client.wait(&bundle.id).unwrap();
}

#[test]
fn a_host_that_stops_reading_stops_nobody_and_may_come_back() {
    let bundle = Bundle::new("seq 1 100000; echo done >&2; sleep 0.5; echo more; sleep 1000");
    let path = fifo(&bundle, "out");
    let first = reader(&path);
    let mut client = bundle.shim();
    let mut request = bundle.request();
    request.stdout = path.clone();
    client.create(&request).unwrap();
    client.start(&bundle.id).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    drop(first);
    until("it goes on without a reader", || bundle.log("0.log").contains("stderr F done"));
    let mut again = reader(&path);
    // Until a writer is there, a read finds the end.
    let mut text = [0; 5];
    until("the next output finds the new reader", || again.read(&mut text).unwrap() == 5);
    assert_eq!(&text, b"more\n");
    assert_eq!(bundle.lines("0.log").len(), 100_002);
}

#[test]
fn standard_input_arrives_and_ends() {
    let bundle = Bundle::new("cat; echo end");
    let path = fifo(&bundle, "in");
    let mut client = bundle.shim();
    let mut request = bundle.request();
    request.stdin = path.clone();
    client.create(&request).unwrap();
    client.start(&bundle.id).unwrap();
    let text: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    drop(writer);
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 0);
    let lines = bundle.lines("0.log");
    assert_eq!(lines.len(), 20_001);
    assert_eq!((lines[19_999].as_str(), lines[20_000].as_str()), ("line 19999", "end"));
}

#[test]
fn no_log_and_no_reader_cost_nothing_and_block_nobody() {
    let bundle = Bundle::new("seq 1 100000");
    bundle.supervise(|s| s.log_dir = None);
    let began = Instant::now();
    bundle.run().wait(&bundle.id).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(!bundle.dir.path().join("log").exists());
}
