//! `delete`: what a dead shim left behind is ended and removed. Every step may have been done already.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp as ProtoTime;
use containerd_shim_protos::protobuf::{Message, MessageField};
use jiff::Timestamp;
use rustix::process::{Pid, PidfdFlags, Signal, getpgid, kill_process_group, pidfd_open, pidfd_send_signal};

use super::args::Args;
use super::boot::{self, BootError, on};
use super::bootstrap::Bootstrap;
use super::cgroup::Cgroup;
use super::protocol::{Exit, TaskPhase};
use super::runc::{EXECUTION, LOG, Runtime};
use super::{mounts, options, record};

/// A shim that was just told to end may still be at it.
const SHIM_PATIENCE: Duration = Duration::from_secs(2);
/// How long killed processes are waited for.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// The same where a living shim waits, which has nothing else to do just then.
const WIPE_PATIENCE: Duration = Duration::from_millis(500);

/// Cleans up, and gives what containerd reads from standard output.
pub fn delete(args: &Args, bundle: &Path) -> Result<Vec<u8>, BootError> {
    let _lock = boot::lock(bundle, SHIM_PATIENCE)?;
    let runtime = match record::supervision(bundle) {
        Ok(Some(supervision)) => {
            Runtime::new(supervision.runtime, supervision.runtime_root, supervision.systemd_cgroup)
        }
        _ => record::load_runtime(bundle)
            .unwrap_or_else(|| Runtime::new("runc".into(), Path::new(options::ROOT).join(&args.namespace), false)),
    };
    end_executions(bundle);
    let state_dir = runtime.state_dir(&args.id);
    let groups = groups(bundle, &state_dir);
    kill(&groups, KILL_PATIENCE);
    if state_dir.exists() {
        // Everything in it has ended, so the gentle way does, and it does not poll; a half-made state needs the other.
        for force in [&[][..], &["--force"][..]] {
            let mut command = Command::new(&runtime.binary);
            command.arg("--root").arg(&runtime.root).arg("delete").args(force).arg(&args.id);
            let done = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
            if done.is_ok_and(|status| status.success()) {
                break;
            }
        }
        if state_dir.exists() {
            std::fs::remove_dir_all(&state_dir).map_err(on(state_dir.display()))?;
        }
    }
    for group in &groups {
        // Gone already, or still holds something that is not ours to end.
        Cgroup::remove(group);
    }
    let rootfs = bundle.join("rootfs");
    if !mounts::unmount_all(&rootfs) {
        return Err(on(rootfs.display())(std::io::Error::other("it cannot be unmounted")));
    }
    let exit = settle(bundle);
    boot::unlisten(args, bundle, &Bootstrap::socket_dir());
    let at = exit.1.at;
    let time = ProtoTime { seconds: at.as_second(), nanos: at.subsec_nanosecond(), ..Default::default() };
    let response = DeleteResponse {
        pid: exit.0,
        exit_status: exit.1.code,
        exited_at: MessageField::some(time),
        ..Default::default()
    };
    response.write_to_bytes().map_err(|error| on("the answer")(std::io::Error::other(error)))
}

/// Removes what `runc` keeps of a container whose processes have all ended: its control groups and its state
/// directory, which is all that `runc delete` does for a container without hooks (libcontainer's `destroy`),
/// without the 13 ms of executing it. False where it is left to the runtime: another one than runc, systemd's
/// scopes, hooks, or a group that is not empty.
pub fn forget(runtime: &Runtime, id: &str, bundle: &Path) -> bool {
    if runtime.systemd || runtime.binary.file_name().is_none_or(|name| name != "runc") || has_hooks(bundle) {
        return false;
    }
    let state_dir = runtime.state_dir(id);
    if !state_dir.join("state.json").exists() {
        return false;
    }
    let groups = groups(bundle, &state_dir);
    if groups.is_empty() {
        return false;
    }
    for group in &groups {
        Cgroup::remove(group);
        if group.exists() {
            return false;
        }
    }
    std::fs::remove_dir_all(&state_dir).is_ok()
}

/// Whether the spec names hooks, or cannot be read.
fn has_hooks(bundle: &Path) -> bool {
    let spec = std::fs::read(bundle.join("config.json")).ok();
    let spec: Option<serde_json::Value> = spec.and_then(|text| serde_json::from_slice(&text).ok());
    spec.is_none_or(|spec| spec.get("hooks").is_some_and(|hooks| !hooks.is_null()))
}

/// Ends executions of the runtime that the dead shim had begun: one that went on would make anew what is removed here.
/// They are known by the log file in their arguments, which only this bundle's have.
fn end_executions(bundle: &Path) {
    let until = Instant::now() + KILL_PATIENCE;
    let (log, others) = (bundle.join(LOG), bundle.join(EXECUTION));
    let marked = |pid: &Pid| {
        let arguments = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        let ours = |argument: &[u8]| {
            argument == log.as_os_str().as_bytes() || argument.starts_with(others.as_os_str().as_bytes())
        };
        arguments.split(|byte| *byte == 0).any(ours)
    };
    // Held before it is looked at, so that it is still the one that was looked at when it is signalled.
    let held = |pid: Pid| {
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        marked(&pid).then_some((pid, fd))
    };
    let mut left: Vec<(Pid, OwnedFd)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .filter(marked)
        .filter_map(held)
        .collect();
    while !left.is_empty() && Instant::now() < until {
        for (pid, fd) in &left {
            // The shim made it the leader of a group; what it started is in there.
            if getpgid(Some(*pid)) == Ok(*pid) {
                let _ = kill_process_group(*pid, Signal::KILL);
            }
            let _ = pidfd_send_signal(fd, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(1));
        left.retain(|(pid, _)| marked(pid));
    }
}

/// What a runtime that was ended in the middle has left, without asking it again: processes, control groups, its
/// state. What does not end by SIGKILL at once is left to whoever cleans up after the shim.
pub fn wipe(runtime: &Runtime, id: &str, bundle: &Path) {
    let state_dir = runtime.state_dir(id);
    let groups = groups(bundle, &state_dir);
    kill(&groups, WIPE_PATIENCE);
    groups.iter().for_each(|group| Cgroup::remove(group));
    let _ = std::fs::remove_dir_all(&state_dir);
}

/// Ends what is in the groups and waits until they are empty.
fn kill(groups: &[PathBuf], patience: Duration) {
    let until = Instant::now() + patience;
    loop {
        let left: usize = groups.iter().map(|dir| Cgroup::at(dir.clone()).kill()).sum();
        if left == 0 || Instant::now() >= until {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The directories of the container's control groups: from the runtime's state, else from the spec.
fn groups(bundle: &Path, state_dir: &Path) -> Vec<PathBuf> {
    let json = |path: PathBuf| -> Option<serde_json::Value> { serde_json::from_slice(&std::fs::read(path).ok()?).ok() };
    let mut found: Vec<PathBuf> = Vec::new();
    if let Some(state) = json(state_dir.join("state.json"))
        && let Some(paths) = state.get("cgroup_paths").and_then(serde_json::Value::as_object)
    {
        found.extend(paths.values().filter_map(|path| path.as_str()).map(PathBuf::from));
    }
    if found.is_empty()
        && let Some(spec) = json(bundle.join("config.json"))
        && let Some(path) = spec.pointer("/linux/cgroupsPath").and_then(serde_json::Value::as_str)
    {
        found = Cgroup::directories(path);
    }
    // Never a group above containers, whatever a file says.
    found.retain(|dir| {
        dir.starts_with("/sys/fs/cgroup")
            && dir.components().count() > 5
            && !dir.components().any(|part| part.as_os_str() == "..")
    });
    found
}

/// Closes the record: what ran when its shim died has ended.
fn settle(bundle: &Path) -> (u32, Exit) {
    let killed = Exit { code: 137, signal: Some(9), oom_killed: false, at: Timestamp::now() };
    let Some(mut state) = record::load(bundle) else { return (0, killed) };
    let pid = state.pid.take().unwrap_or(0);
    let lived = matches!(state.phase, TaskPhase::Created | TaskPhase::Running);
    if !lived {
        return (pid, state.exit.unwrap_or(killed));
    }
    state.seq += 1;
    state.phase = if state.stop_requested { TaskPhase::Stopped } else { TaskPhase::Exited };
    state.ended(killed.clone());
    state.next_start = None;
    state.reason = Some("its shim died, and its processes were ended".to_owned());
    // The answer counts; the record is for people.
    let _ = record::save(bundle, &state, true);
    (pid, killed)
}
