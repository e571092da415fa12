//! Output at full speed, and a disk that takes none.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::bundle::{Bundle, until};

/// Writes numbered lines of a thousand bytes, a mebibyte at a time and a hundred of them a second, for SECONDS; then how
/// long it was held up at most, in milliseconds, and how many lines it wrote.
const WRITER: &str = r#"
use Time::HiRes qw(time sleep);
my ($seconds, $line, $worst, $x) = ($ARGV[0], 0, 0, "x" x 989);
my $begun = time;
while ((my $now = time) < $begun + $seconds) {
    my $block = "";
    for (1..1000) { $block .= sprintf("%010d%s\n", ++$line, $x) }
    my $before = time;
    for (my $done = 0; $done < length $block; ) { $done += syswrite(STDOUT, $block, length($block) - $done, $done) }
    my $took = time - $before;
    $worst = $took if $took > $worst;
    my $ahead = $begun + $line / 100_000 - time;
    sleep($ahead) if $ahead > 0;
}
printf STDERR "%d %d\n", $worst * 1000, $line;
"#;

#[test]
fn a_writer_of_a_hundred_megabytes_a_second_is_never_held_up_and_loses_nothing() {
    let seconds = std::env::var("BAYPLAN_LOG_SECONDS").unwrap_or_else(|_| "3".to_owned());
    let bundle = Bundle::with_args(&["/usr/bin/perl", "-e", WRITER, &seconds]);
    bundle.edit(|spec| {
        for dir in ["/usr", "/lib", "/lib64"].into_iter().filter(|dir| Path::new(dir).exists()) {
            let mount = json!({"destination": dir, "type": "bind", "source": dir, "options": ["rbind", "ro"]});
            spec["mounts"].as_array_mut().unwrap().push(mount);
        }
    });
    let (size, files) = (16 << 20, 4);
    bundle.supervise(|s| {
        s.log_max_size = size;
        s.log_max_files = files;
    });
    let mut client = bundle.shim();
    client.socket.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    client.create(&bundle.request()).unwrap();
    client.start(&bundle.id).unwrap();
    let ended = std::thread::spawn({
        let id = bundle.id.clone();
        move || client.wait(&id).unwrap().exit_status
    });
    let log = bundle.dir.path().join("log");
    let mut most = 0;
    while !ended.is_finished() {
        let entries = fs::read_dir(&log).into_iter().flatten().flatten();
        most = most.max(entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum::<u64>());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(ended.join().unwrap(), 0);
    assert!(most <= size * u64::from(files), "{most} bytes of logs at a time");
    let names = (1..files).rev().map(|n| format!("0.log.{n}")).chain(["0.log".to_owned()]);
    let mut expected = None;
    let mut told = None;
    let mut kept = 0;
    for name in names {
        assert!(fs::metadata(log.join(&name)).unwrap().len() <= size, "{name}");
        for line in bundle.log(&name).lines() {
            let text = line.splitn(4, ' ').nth(3).unwrap();
            if line.contains(" stderr F ") {
                told = Some(text.to_owned());
                continue;
            }
            assert!(line.contains(" stdout F ") && text.len() == 999, "a split line in {name}: {line}");
            let number: u64 = text[..10].parse().unwrap();
            assert_eq!(number, expected.unwrap_or(number), "a line is lost in {name}");
            expected = Some(number + 1);
            kept += 1;
        }
    }
    let told = told.unwrap();
    let (worst, lines) = told.split_once(' ').unwrap();
    let lines: u64 = lines.parse().unwrap();
    assert_eq!(expected, Some(lines + 1), "the last line is there");
    assert!(kept > 45_000, "{kept}");
    assert!(worst.parse::<u64>().unwrap() < 1000, "held up for {worst} ms");
    assert_eq!(bundle.state().unwrap().dropped_lines, 0);
    println!("{lines} lines of 1,000 bytes in {seconds} s, held up for {worst} ms at most");
}

#[test]
fn a_full_disk_drops_lines_that_are_counted_in_the_log_and_told_in_the_state() {
    let bundle = Bundle::new("seq 1 20000; while ! [ -e /tmp/go ]; do sleep 0.02; done; echo after");
    let log = bundle.dir.path().join("log");
    fs::create_dir(&log).unwrap();
    let mount = |options: &str| {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(&log).status().unwrap();
        assert!(status.success());
    };
    mount("size=256k");
    let mut client = bundle.run();
    let seen = client.watch_until(|state| state.dropped_lines > 0);
    let first = seen.last().unwrap();
    assert!(first.pid.is_some() && first.exit.is_none(), "it is told while the container runs: {first:?}");
    mount("remount,size=10m");
    fs::write(bundle.dir.path().join("image/tmp/go"), "").unwrap();
    client.wait(&bundle.id).unwrap();
    let lines = bundle.lines("0.log");
    let dropped = bundle.state().unwrap().dropped_lines;
    let marker = format!("bayplan: {dropped} log lines (");
    let markers: Vec<&String> = lines.iter().filter(|line| line.starts_with("bayplan: ")).collect();
    assert!(markers.len() == 1 && markers[0].starts_with(&marker), "{markers:?}, {dropped}");
    assert!(markers[0].contains("No space left on device"), "{markers:?}");
    assert_eq!(lines.len() as u64 + dropped, 20_002);
    assert_eq!(lines.last().unwrap(), "after");
    client.delete(&bundle.id).unwrap();
    client.shutdown();
    until("the shim has gone", || bundle.shim_pid().is_none());
    assert!(Command::new("umount").arg(&log).status().unwrap().success());
}
