//! Restarts, stops, and what is on the disk when.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bayplan::shim::protocol::{Policy, Restart, TaskPhase};

use crate::bundle::{Bundle, alive, kill9, patience, shim, status, until};
use crate::client::Client;

#[test]
fn a_killed_process_is_back_within_its_back_off_and_a_tenth_of_a_second() {
    let bundle = Bundle::new("echo up; sleep 1000");
    bundle.supervise(|s| {
        s.restart = Restart { policy: Policy::Always, limit: None, initial_ms: 10, max_ms: 1000 };
        s.first_attempt = 4;
        s.restarts = 2;
    });
    let mut client = bundle.run();
    let mut best = Duration::MAX;
    for round in 1..=3u32 {
        let before = client.watch_until(|state| state.phase == TaskPhase::Running).pop().unwrap();
        let pid = before.pid.unwrap();
        let began = Instant::now();
        kill9(pid.cast_signed());
        let seen = client.watch_until(|state| state.phase == TaskPhase::Running && state.pid != Some(pid));
        let backoff = Duration::from_millis(10 << (round - 1));
        best = best.min(began.elapsed().saturating_sub(backoff));
        let after = seen.last().unwrap();
        assert_eq!((after.attempt, after.restarts), (4 + round, 2 + round));
        assert_eq!(after.exit.as_ref().unwrap().code, 137);
        until("each attempt has its log", || bundle.lines(&format!("{}.log", 4 + round)) == ["up"]);
    }
    eprintln!("killed to running again, without the back-off: {best:?}");
    assert!(best < Duration::from_millis(100), "{best:?}");
    assert_eq!(bundle.state().unwrap().restarts, 5);
}

#[test]
fn failures_are_restarted_up_to_the_limit_and_the_writable_layer_stays() {
    let bundle = Bundle::new("echo x >> /tmp/runs; exit 3");
    bundle.supervise(|s| s.restart = Restart { policy: Policy::OnFailure, limit: Some(2), initial_ms: 1, max_ms: 5 });
    let mut client = bundle.run();
    // Wait answers for the last exit, not for one that a restart follows.
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 3);
    let state = bundle.state().unwrap();
    assert_eq!((state.phase, state.restarts, state.attempt), (TaskPhase::Exited, 2, 2));
    assert!(state.reason.unwrap().contains("limit"));
    assert_eq!(std::fs::read_to_string(bundle.dir.path().join("image/tmp/runs")).unwrap(), "x\nx\nx\n");
    client.delete(&bundle.id).unwrap();
    bundle.assert_nothing_is_left();
}

#[test]
fn a_runtime_that_fails_at_a_restart_is_tried_again() {
    let bundle = Bundle::new("exit 1");
    bundle.supervise(|s| s.restart = Restart { policy: Policy::Always, limit: None, initial_ms: 20, max_ms: 20 });
    let good = std::fs::read(bundle.path.join("config.json")).unwrap();
    let mut client = bundle.run();
    std::fs::write(bundle.path.join("config.json"), "{}").unwrap();
    let failed = client.watch_until(|state| state.phase == TaskPhase::Failed).pop().unwrap();
    assert!(failed.reason.is_some() && failed.next_start.is_some(), "{failed:?}");
    std::fs::write(bundle.path.join("config.json"), good).unwrap();
    client.watch_until(|state| state.phase == TaskPhase::Running);
}

#[test]
fn the_exit_is_on_the_disk_before_anybody_is_told() {
    let bundle = Bundle::new("exit 9");
    let mut client = bundle.run();
    let mut watcher = Client::connect(&bundle.path);
    let told = watcher.watch_until(|state| state.exit.is_some()).pop().unwrap();
    let recorded = bundle.state().unwrap();
    assert!(recorded.seq >= told.seq && recorded.exit == told.exit, "{recorded:?}");
    client.wait(&bundle.id).unwrap();
}

#[test]
fn stop_asks_first_and_ends_by_force_after_the_grace() {
    let bundle = Bundle::new("trap 'exit 0' TERM; echo ready; while :; do sleep 0.02; done");
    bundle.supervise(|s| s.restart.policy = Policy::Always);
    let mut client = bundle.run();
    until("the trap is set", || bundle.lines("0.log") == ["ready"]);
    let state = client.stop(15, 10_000).unwrap();
    assert_eq!((state.phase, state.exit.unwrap().code, state.stop_requested), (TaskPhase::Stopped, 0, true));

    let bundle = Bundle::new("trap '' TERM; echo ready; while :; do sleep 0.02; done");
    bundle.supervise(|s| s.restart.policy = Policy::Always);
    let mut client = bundle.run();
    until("the trap is set", || bundle.lines("0.log") == ["ready"]);
    let began = Instant::now();
    // The request is on the disk while the process still lives.
    let path = bundle.path.clone();
    let asker = std::thread::spawn(move || Client::connect(&path).stop(15, 300).unwrap());
    let asked = client.watch_until(|state| state.stop_requested).pop().unwrap();
    assert!(asked.phase == TaskPhase::Running && bundle.state().unwrap().stop_requested);
    let state = asker.join().unwrap();
    assert_eq!((state.phase, state.exit.unwrap().code), (TaskPhase::Stopped, 137));
    assert!((300..2000 * u128::from(patience())).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(state.restarts, 0);
    // Stopped already: at once, and delete has nothing left to do.
    client.stop(15, 10_000).unwrap();
    client.delete(&bundle.id).unwrap();
    bundle.assert_nothing_is_left();
}

#[test]
fn stop_cancels_a_restart_that_is_waited_for() {
    let bundle = Bundle::new("exit 1");
    bundle
        .supervise(|s| s.restart = Restart { policy: Policy::Always, limit: None, initial_ms: 60_000, max_ms: 60_000 });
    let mut client = bundle.run();
    let state = client.watch_until(|state| state.phase == TaskPhase::BackOff).pop().unwrap();
    assert!(state.next_start.is_some());
    let state = client.stop(15, 10_000).unwrap();
    assert_eq!((state.phase, state.next_start), (TaskPhase::Stopped, None));
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 1);
}

#[test]
fn a_changed_policy_is_told_by_reload() {
    let bundle = Bundle::new("sleep 1000");
    let mut client = bundle.run();
    bundle.supervise(|s| s.restart.policy = Policy::Always);
    client.call("bayplan.shim.v1.Supervisor", "Reload", b"{}".to_vec()).unwrap();
    let pid = bundle.state().unwrap().pid.unwrap();
    kill9(pid.cast_signed());
    client.watch_until(|state| state.restarts == 1 && state.phase == TaskPhase::Running);
}

#[test]
fn a_policy_that_changes_while_a_restart_is_waited_for_takes_it_back() {
    let bundle = Bundle::new("exit 1");
    let restart = Restart { policy: Policy::Always, limit: None, initial_ms: 60_000, max_ms: 60_000 };
    bundle.supervise(|s| s.restart = restart.clone());
    let mut client = bundle.run();
    client.watch_until(|state| state.phase == TaskPhase::BackOff);
    // One that wants it still does.
    bundle.supervise(|s| s.restart = Restart { policy: Policy::OnFailure, ..restart.clone() });
    client.call("bayplan.shim.v1.Supervisor", "Reload", b"{}".to_vec()).unwrap();
    assert_eq!(bundle.state().unwrap().phase, TaskPhase::BackOff);
    bundle.supervise(|s| s.restart = Restart { policy: Policy::Never, ..restart });
    client.call("bayplan.shim.v1.Supervisor", "Reload", b"{}".to_vec()).unwrap();
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 1);
    let state = bundle.state().unwrap();
    assert_eq!((state.phase, state.next_start, state.restarts), (TaskPhase::Exited, None, 0));
}

#[test]
fn a_kill_for_want_of_memory_is_known_as_one() {
    let bundle = Bundle::with_args(&["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]);
    bundle.edit(|spec| spec["linux"]["resources"]["memory"] = serde_json::json!({"limit": 16 << 20}));
    let mut client = bundle.run();
    client.wait(&bundle.id).unwrap();
    let state = bundle.state().unwrap();
    assert!(state.exit.as_ref().unwrap().oom_killed, "{state:?}");
    assert!(state.reason.unwrap().contains("memory"));
}

#[test]
fn the_daemons_end_is_not_noticed() {
    let bundle = Bundle::new("sleep 1000");
    let client = bundle.run();
    let before = bundle.state().unwrap();
    drop(client);
    let mut client = Client::connect(&bundle.path);
    let after = client.watch(0).unwrap();
    assert_eq!(after, before);
    assert!(alive(after.pid.unwrap()));
}

#[test]
fn three_hundred_crashes_cost_no_descriptor_no_log_and_no_count() {
    const RESTARTS: u32 = 300;
    let bundle = Bundle::new("echo attempt; exit 3");
    bundle.supervise(|s| {
        s.restart = Restart { policy: Policy::OnFailure, limit: Some(RESTARTS), initial_ms: 1, max_ms: 1 };
        s.first_attempt = 1;
    });
    let mut client = bundle.run();
    client.watch_until(|state| state.restarts >= 20);
    let shim = bundle.shim_pid().unwrap();
    let descriptors = || std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    let memory = || status(shim, "VmRSS").trim_end_matches(" kB").parse::<u64>().unwrap();
    // In the middle of an attempt there are pipes and a log: the most that is seen counts.
    let most = |client: &mut Client, until: u32| {
        let mut most = 0;
        client.watch_until(|state| {
            most = most.max(descriptors());
            state.restarts >= until
        });
        most
    };
    let early = most(&mut client, 40);
    let before = memory();
    let late = most(&mut client, 280);
    assert_eq!(client.wait(&bundle.id).unwrap().exit_status, 3);
    assert!(late <= early + 2, "descriptors: {early} in the first attempts, {late} in the last");
    assert!(memory() <= before + 256, "from {before} to {} kB", memory());
    let state = bundle.state().unwrap();
    assert_eq!((state.phase, state.restarts, state.attempt), (TaskPhase::Exited, RESTARTS, RESTARTS + 1));
    let mut logs: Vec<u32> = std::fs::read_dir(bundle.dir.path().join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().trim_end_matches(".log").parse().unwrap())
        .collect();
    logs.sort_unstable();
    assert_eq!(logs, [297, 298, 299, 300, 301], "the newest attempts' logs");
    assert_eq!(bundle.lines("301.log"), ["attempt"]);
    client.delete(&bundle.id).unwrap();
    bundle.assert_nothing_is_left();
}

#[test]
fn when_the_machine_goes_down_a_container_ends_by_its_own_signal_and_the_shim_after_it() {
    let bundle = Bundle::new("trap 'echo heard > /tmp/heard; exit 0' USR1; echo up; while :; do sleep 0.02; done");
    bundle.supervise(|s| {
        s.restart = Restart { policy: Policy::Always, limit: None, initial_ms: 1, max_ms: 1 };
        s.stop_signal = Some(10);
        s.grace_ms = Some(30_000);
    });
    // An init of its own, that ends as systemd does: SIGTERM to all, and then it waits.
    let machine = format!(
        "cd {} && {} -namespace test -id {} start && read line && kill -TERM -1; \
         while kill -0 -1; do sleep 0.05; done 2>/dev/null",
        bundle.path.display(),
        shim().display(),
        bundle.id
    );
    let mut machine = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &machine])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the shim listens", || UnixStream::connect(bundle.path.join("shim.sock")).is_ok());
    let mut client = Client::connect(&bundle.path);
    client.create(&bundle.request()).unwrap();
    client.start(&bundle.id).unwrap();
    until("it has set its trap", || bundle.lines("0.log") == ["up"]);
    machine.stdin.take().unwrap().write_all(b"\n").unwrap();
    until("nothing lives", || machine.try_wait().unwrap().is_some());
    assert!(bundle.dir.path().join("image/tmp/heard").exists(), "it hears the signal that it asked for");
    let state = bundle.state().unwrap();
    assert_eq!(
        (state.phase, state.exit.unwrap().code, state.attempt),
        (TaskPhase::Exited, 0, 0),
        "and is not restarted"
    );
    assert!(!state.stop_requested, "nobody asked for its end: the next boot starts it again");
    bundle.assert_nothing_is_left();
}
