//! What a process sees inside: the same image and flags by containerd's `ctr run` (runc) and by `bayplan run`, held against
//! each other row by row as the kernel shows them. Differences are listed here, each with its reason; any other fails.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::containerd::Containerd;
use crate::image::Image;
use crate::node::{TestNode, pid};

type Rows = BTreeMap<String, String>;

/// Flags that both know.
struct Case {
    name: &'static str,
    flags: &'static [&'static str],
    /// What is different with these flags alone.
    differences: &'static [Difference],
}

/// Rows that begin with this differ, why, and how: ctr's value and ours.
type Difference = (&'static str, &'static str, fn(&str, &str) -> bool);

/// What a side has that does not have the row.
const NONE: &str = "–";

const CASES: &[Case] = &[
    Case { name: "default", flags: &[], differences: &[] },
    Case { name: "net-host", flags: &["--net-host"], differences: &[] },
    Case { name: "read-only", flags: &["--read-only"], differences: &[] },
    Case { name: "cap-add", flags: &["--cap-add", "CAP_SYS_ADMIN"], differences: &[] },
    Case { name: "cap-drop", flags: &["--cap-drop", "CAP_CHOWN"], differences: &[] },
    Case { name: "env and cwd", flags: &["--env", "COLOUR=red", "--cwd", "/tmp"], differences: &[] },
    Case { name: "mount", flags: &["--mount", "type=bind,src=/usr,dst=/host,options=rbind:ro"], differences: &[] },
];

const LIMITED: &[Case] = &[
    Case {
        name: "privileged",
        flags: &["--privileged"],
        differences: &[(
            "status NoNewPrivs",
            "Kubernetes' and Docker's privileged lets setuid programs work; ctr's flag does not touch it",
            |theirs, ours| (theirs, ours) == ("1", "0"),
        )],
    },
    Case {
        name: "memory-limit",
        flags: &["--memory-limit", "67108864"],
        differences: &[
            (
                "limit memory.memsw",
                "a memory limit leaves no swap, as in Kubernetes; ctr's leaves all of it",
                |_, ours| ours == "67108864",
            ),
            ("limit memory.swap", "the same on cgroup v2", |_, ours| ours == "0"),
        ],
    },
];

/// What is different always.
const DIFFERENCES: &[Difference] = &[
    (
        "cgroup ",
        "bayplan's containers stand beneath its own parent, by which it finds what is its own",
        |theirs, ours| theirs.rsplit('/').next() == ours.rsplit('/').next(),
    ),
    ("hostname", "the container's name, as in Docker and Kubernetes; ctr leaves the node's", |_, ours| {
        ours.starts_with('c')
    }),
    (
        "env HOSTNAME",
        "said to the process, too, as in Docker and Kubernetes; ctr's says the node's with --net-host",
        |_, ours| ours.starts_with('c'),
    ),
    ("mount /etc/host", "a container has its own name, and that name has an address", |theirs, _| theirs == NONE),
    (
        "mount /etc/resolv.conf",
        "names are resolved as on the node; ctr leaves the image's file, which is mostly none",
        |theirs, _| theirs == NONE,
    ),
    ("mount /run ", "ctr hides the image's /run beneath a tmpfs; Docker, podman and Kubernetes do not", |_, ours| {
        ours == NONE
    }),
    (
        "mount /sys/fs/cgroup",
        "its own cgroup, read-only, as in Docker and Kubernetes: runtimes of languages read their limits there",
        |theirs, _| theirs == NONE,
    ),
    ("oom_score_adj", "0; ctr's containers inherit containerd's idea of its shims", |_, ours| ours == "0"),
    ("rlimit Max open files", "the node's own, as in Kubernetes; ctr's default spec has 1024", |theirs, _| {
        theirs == "1024 1024"
    }),
    ("limit devices", "not the node's own console (5:1), as in runc's and podman's defaults", |theirs, ours| {
        theirs.replace("c 5:1 rwm, ", "") == ours
    }),
];

#[test]
fn what_a_process_sees_inside_is_what_ctr_gives_it() {
    let user = Case { name: "user", flags: &[], differences: &[] };
    held_against_each_other(CASES.iter().chain([&user]));
}

/// The ones in which cgroups differ between v1 and v2.
#[test]
fn limits_and_privileges_are_what_ctr_gives() {
    held_against_each_other(LIMITED.iter());
}

fn held_against_each_other<'a>(cases: impl Iterator<Item = &'a Case>) {
    let image = |user: Option<&str>| {
        let image = Image::busybox();
        user.map_or(image.clone(), |user| image.user(user))
    };
    let node = TestNode::new();
    let containerd = Containerd::start();
    for (reference, user) in [("registry.local/box:1", None), ("registry.local/app:1", Some("app"))] {
        containerd.import(&image(user), reference);
        let archive = node.dir().join("box.tar");
        image(user).oci_archive(&archive, Some(reference));
        node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    }
    let mut failures = Vec::new();
    for (number, case) in cases.enumerate() {
        let reference = if case.name == "user" { "registry.local/app:1" } else { "registry.local/box:1" };
        let id = format!("c{number}");
        let words = [&["run", "-d"], case.flags, &[reference, &id, "sleep", "100000"]].concat();
        containerd.run(&words).ok();
        node.bayplan(&words).ok();
        let theirs = rows(containerd.until(&id, "RUNNING"));
        let ours = rows(pid(&node.phase("default", &id, "Running")));
        failures.extend(compare(case, &theirs, &ours));
        containerd.ctr(&["task", "kill", "-s", "9", &id]);
        containerd.until(&id, "STOPPED");
        containerd.run(&["task", "rm", &id]);
        node.bayplan(&["rm", "-f", &id]).ok();
    }
    node.close();
    assert!(failures.is_empty(), "different without a reason:\n{}", failures.join("\n"));
}

/// Prints the table, and gives the rows that differ though nobody said so.
fn compare(case: &Case, theirs: &Rows, ours: &Rows) -> Vec<String> {
    let mut failures = Vec::new();
    println!("\n## {} ({})", case.name, case.flags.join(" "));
    let keys: std::collections::BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    for key in keys {
        let value = |rows: &Rows| rows.get(key).cloned().unwrap_or_else(|| NONE.to_owned());
        let (theirs, ours) = (value(theirs), value(ours));
        if theirs == ours {
            println!("| {key} | {theirs} | equal |");
            continue;
        }
        let mut listed = DIFFERENCES.iter().chain(case.differences);
        let reason = listed.find(|(prefix, _, how)| format!("{key} ").starts_with(prefix) && how(&theirs, &ours));
        println!("| {key} | ctr: {theirs} | bayplan: {ours} | {} |", reason.map_or("DIFFERENT", |(_, why, _)| why));
        if reason.is_none() {
            failures.push(format!("{}: {key}\n  ctr:     {theirs}\n  bayplan: {ours}", case.name));
        }
    }
    failures
}

/// All that the kernel shows of a process.
fn rows(pid: u32) -> Rows {
    let mut rows = Rows::new();
    let proc = Path::new("/proc").join(pid.to_string());
    let read = |name: &str| String::from_utf8_lossy(&fs::read(proc.join(name)).unwrap_or_default()).into_owned();
    for entry in fs::read_dir(proc.join("ns")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let shared =
            fs::read_link(entry.path()).unwrap() == fs::read_link(Path::new("/proc/self/ns").join(&name)).unwrap();
        rows.insert(format!("namespace {name}"), if shared { "the node's" } else { "its own" }.to_owned());
    }
    for (target, mount) in read("mountinfo").lines().filter_map(mount) {
        // Several at one place, one on top of the other, are one row.
        let all = rows.entry(format!("mount {target}")).or_default();
        *all = format!("{all}[{mount}]");
    }
    for line in read("status").lines() {
        let (key, value) = line.split_once(':').unwrap();
        let wanted =
            ["Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp"].contains(&key) || key.starts_with("Cap");
        if wanted {
            rows.insert(format!("status {key}"), value.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    for line in read("limits").lines().skip(1) {
        let (name, values) = line.split_at(26);
        let values: Vec<&str> = values.split_whitespace().take(2).collect();
        rows.insert(format!("rlimit {}", name.trim()), values.join(" "));
    }
    rows.insert("oom_score_adj".into(), read("oom_score_adj").trim().to_owned());
    for entry in read("environ").split('\0').filter(|entry| !entry.is_empty()) {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        rows.insert(format!("env {name}"), value.to_owned());
    }
    rows.insert("arguments".into(), read("cmdline").replace('\0', " "));
    rows.insert("cwd".into(), fs::read_link(proc.join("cwd")).unwrap().display().to_string());
    let hostname = Command::new("nsenter").args(["-t", &pid.to_string(), "-u", "hostname"]).output().unwrap();
    rows.insert("hostname".into(), String::from_utf8_lossy(&hostname.stdout).trim().to_owned());
    for entry in fs::read_dir(proc.join("root/dev")).unwrap().flatten() {
        let meta = fs::symlink_metadata(entry.path()).unwrap();
        let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        let link = fs::read_link(entry.path()).map(|to| format!(" → {}", to.display())).unwrap_or_default();
        let text = format!("{:o} {major}:{minor} {}:{}{link}", meta.mode(), meta.uid(), meta.gid());
        rows.insert(format!("device {}", entry.file_name().display()), text);
    }
    for line in read("cgroup").lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controller, path) = (parts.next().unwrap(), parts.next().unwrap());
        rows.insert(format!("cgroup {controller}"), path.to_owned());
        let name = controller.trim_start_matches("name=");
        let mounts = [format!("/sys/fs/cgroup/{name}"), "/sys/fs/cgroup".to_owned()];
        for file in LIMITS {
            let read = |mount: &String| fs::read_to_string(format!("{mount}{path}/{file}")).ok();
            if let Some(text) = mounts.iter().find_map(read) {
                rows.insert(format!("limit {file}"), text.lines().collect::<Vec<_>>().join(", "));
            }
        }
    }
    rows
}

/// Of the cgroup, v1 and v2.
const LIMITS: &[&str] = &[
    "devices.list",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.max",
    "memory.swap.max",
    "pids.max",
    "cpu.shares",
    "cpu.cfs_quota_us",
    "cpu.max",
    "cpu.weight",
    "cpuset.cpus",
];

/// Where, and what: type, options of the mount and of the file system, propagation, the part of it that is seen.
fn mount(line: &str) -> Option<(String, String)> {
    let (front, back) = line.split_once(" - ")?;
    let front: Vec<&str> = front.split(' ').collect();
    let back: Vec<&str> = back.split(' ').collect();
    let (root, target, options) = (front.get(3)?, front.get(4)?, front.get(5)?);
    let kind = back.first()?;
    // The layers of a root have their own paths on each side.
    let of_system = if *kind == "overlay" { back.get(2)?.split(',').next()? } else { back.get(2)? };
    let shared: Vec<&str> = front.iter().skip(6).map(|tag| tag.split(':').next().unwrap_or(tag)).collect();
    let part = if *root == "/" || *kind == "cgroup" { String::new() } else { format!(" part {root}") };
    Some(((*target).to_owned(), format!("{kind} {options} / {of_system} {}{part}", shared.join(" ")).trim().to_owned()))
}
