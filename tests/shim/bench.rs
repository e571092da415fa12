//! What the shim costs, beside what `runc` alone costs in the same run. Prints; asserts only what no load explains.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::bundle::Bundle;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
#[ignore = "a measurement: cargo test --test shim -- --ignored --nocapture"]
fn start_and_memory() {
    let (mut boot, mut ours, mut floor, mut exits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..10 {
        let bundle = Bundle::new("sleep 1000");
        let began = Instant::now();
        let mut client = bundle.shim();
        boot.push(began.elapsed());
        let began = Instant::now();
        client.create(&bundle.request()).unwrap();
        client.start(&bundle.id).unwrap();
        ours.push(began.elapsed());
        let began = Instant::now();
        client.stop(9, 0).unwrap();
        exits.push(began.elapsed());
        client.delete(&bundle.id).unwrap();

        std::fs::rename(bundle.dir.path().join("image"), bundle.path.join("rootfs")).unwrap();
        let root = bundle.dir.path().join("floor");
        let runc = |args: &[&str]| {
            let mut command = Command::new("runc");
            command
                .arg("--root")
                .arg(&root)
                .args(args)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            assert!(command.status().unwrap().success());
        };
        let path = bundle.path.display().to_string();
        let began = Instant::now();
        runc(&["run", "-d", "--bundle", &path, &bundle.id]);
        floor.push(began.elapsed());
        runc(&["delete", "--force", &bundle.id]);
    }
    let bundles: Vec<Bundle> = (0..5).map(|_| Bundle::new("sleep 1000")).collect();
    for bundle in &bundles {
        drop(bundle.run());
    }
    std::thread::sleep(Duration::from_millis(2500));
    let pss = |pid: i32, field: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let pid = bundles[0].shim_pid().unwrap();
    eprintln!(
        "shim start to address {:?}; create+start {:?}; runc run -d {:?}; stop {:?}",
        median(boot),
        median(ours),
        median(floor),
        median(exits)
    );
    eprintln!(
        "idle shim, one of five: PSS {} kB, anonymous {} kB, private dirty {} kB",
        pss(pid, "Pss:"),
        pss(pid, "Pss_Anon"),
        pss(pid, "Private_Dirty")
    );
    let switches = || crate::bundle::status(pid, "voluntary_ctxt_switches");
    let before = switches();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(switches(), before, "an idle shim wakes up");
}
