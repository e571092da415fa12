//! Tasks whose shim is another runtime's: `io.containerd.runc.v2`, kata, gVisor, wasm. Such a shim speaks containerd's
//! Task API and nothing else: it restarts nothing, keeps no state and writes no log. What ours does for itself is done
//! for it here, by the daemon ([`supervise`]), and by a logger that the shim starts ([`stdio`]).
//!
//! Invariant: [`FOREIGN_FILE`] is in the bundle before the shim is started, and says how to end it; `state.json` is
//! written as our shim writes it, an exit before anybody is told. A shim serves one attempt and ends with it.
//! In: a prepared bundle. Out: [`ForeignTask`], which answers as our own shim does.

mod input;
mod stdio;
mod supervise;
mod task;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::launch::forget_address;
use super::{Launch, RootMount, RuncOptions, RuntimeError, ShimClient, Stdio, bundle, cleanup};
use crate::shim::protocol::Supervision;

pub use input::InputEnd;
pub use task::ForeignTask;

/// File in the bundle of a task whose shim is not ours: [`ForeignShim`] as JSON.
pub const FOREIGN_FILE: &str = "foreign.json";

/// How long a shim that was told to end, and one that was killed, may take.
const SHIM_PATIENCE: Duration = Duration::from_secs(2);
/// How long the process of a container that is taken away may take to end after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// A shim that is not ours, and what each attempt of its task is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForeignShim {
    /// 1.
    pub version: u32,
    /// Its binary.
    pub binary: PathBuf,
    /// The instance's API socket, from which it derives the name of its own.
    pub address: PathBuf,
    /// Our own shim's binary, which is the logger.
    pub logger: PathBuf,
    /// What it is told, if it is one that runs `runc`.
    pub runc: Option<RuncOptions>,
    /// What makes the root of the container.
    pub mounts: Vec<RootMount>,
    /// Streams that were asked for beside the log.
    pub stdio: Stdio,
    /// The directories of the container's cgroup, whether they exist or not.
    pub cgroups: Vec<PathBuf>,
    /// Restarts since the last stable run.
    pub in_a_row: u32,
}

impl ForeignShim {
    /// What was written into a bundle; `None`: its shim is ours.
    pub fn read(bundle: &Path) -> Result<Option<Self>, RuntimeError> {
        let path = bundle.join(FOREIGN_FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RuntimeError::io("reading", path, error)),
        };
        let parsed = serde_json::from_slice(&text);
        parsed.map(Some).map_err(|source| RuntimeError::Json { what: path.display().to_string(), source })
    }

    /// Writes it, by rename.
    pub fn write(&self, bundle: &Path) -> Result<(), RuntimeError> {
        let path = bundle.join(FOREIGN_FILE);
        let text = serde_json::to_vec(self)
            .map_err(|source| RuntimeError::Json { what: path.display().to_string(), source })?;
        bundle::write_file(&path, &text)
    }

    /// Starts the shim and has it make the container's process, which does not run yet.
    async fn create(
        &self,
        bundle: &Path,
        supervision: &Supervision,
        attempt: u32,
    ) -> Result<(ShimClient, u32), RuntimeError> {
        let launch = Launch {
            shim_binary: self.binary.clone(),
            bundle: bundle.to_owned(),
            address: self.address.clone(),
            foreign: true,
            debug: false,
        };
        let client = ShimClient::launch(&launch).await?;
        let stdio = stdio::of_attempt(self, supervision, attempt);
        let input = stdio.stdin.as_deref().and_then(InputEnd::watch);
        let pid = client.create_with(&self.mounts, &stdio, self.runc.as_ref()).await?;
        if let Some(input) = input {
            input.tell(client.clone(), String::new());
        }
        Ok((client, pid))
    }

    /// One attempt, from nothing to its process running: who answers for it, its shim, its process.
    async fn make(
        &self,
        bundle: &Path,
        supervision: &Supervision,
        attempt: u32,
    ) -> Result<(ShimClient, u32, u32), RuntimeError> {
        let (client, _) = self.create(bundle, supervision, attempt).await?;
        let shim_pid = client.shim_pid().await.unwrap_or_default();
        let pid = client.start().await?;
        Ok((client, shim_pid, pid))
    }

    /// How often the kernel killed in the container's cgroup for want of memory.
    fn oom_kills(&self) -> u64 {
        let count = |dir: &PathBuf| {
            let text = ["memory.events", "memory.oom_control"].iter().find_map(|file| {
                // One of them exists, in one of the hierarchies.
                std::fs::read_to_string(dir.join(file)).ok()
            })?;
            text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse::<u64>().ok()
        };
        self.cgroups.iter().filter_map(count).max().unwrap_or(0)
    }
}

/// Whether a bundle's shim is another runtime's.
pub fn is_foreign(bundle: &Path) -> bool {
    bundle.join(FOREIGN_FILE).exists()
}

/// Ends the task of a bundle at once, whoever started it and however far that came, and takes away what its shim made.
/// The bundle's files stay. Idempotent.
///
/// # Errors
/// When nothing could be found out; a shim that does not clean up is a warning, for what it leaves in our own
/// directories and cgroups is removed by whoever calls this.
pub async fn clear(bundle: &Path) -> Result<(), RuntimeError> {
    let Some(shim) = ForeignShim::read(bundle)? else { return Ok(()) };
    let mut orderly = false;
    if let Ok(client) = ShimClient::connect(bundle).await {
        let ended = async {
            client.shim_pid().await?;
            // Refused where there is no such task, or no longer.
            if client.kill(Signal::KILL.as_raw(), true).await.is_ok() {
                let _ = tokio::time::timeout(KILL_PATIENCE, client.wait()).await;
            }
            leave(&client).await
        };
        match ended.await {
            Ok(()) => orderly = true,
            Err(error) => tracing::debug!(bundle = %bundle.display(), %error, "its shim is not asked any further"),
        }
    }
    end_processes(bundle, &shim.binary, if orderly { SHIM_PATIENCE } else { Duration::ZERO }).await;
    if !orderly
        && launched(bundle)
        && let Err(error) = cleanup(&shim.binary, bundle, &shim.address).await
    {
        tracing::warn!(bundle = %bundle.display(), %error, "the shim's own clean-up; what it left is removed without it");
    }
    forget_address(bundle, &shim.address);
    Ok(())
}

/// Kills the shim of a bundle, which lives and does not answer. Whether one was there.
pub async fn kill_shim(bundle: &Path) -> bool {
    match ForeignShim::read(bundle) {
        Ok(Some(shim)) => end_processes(bundle, &shim.binary, Duration::ZERO).await,
        _ => false,
    }
}

/// After its end in order: deletes the task, and ends its shim.
async fn finish(bundle: &Path, shim: &ForeignShim, client: &ShimClient) {
    if let Err(error) = leave(client).await {
        tracing::debug!(bundle = %bundle.display(), %error, "delete");
        // Whatever it is at, the container has ended: the hard way.
        if let Err(error) = clear(bundle).await {
            tracing::warn!(bundle = %bundle.display(), %error, "what a shim left");
        }
        return;
    }
    end_processes(bundle, &shim.binary, SHIM_PATIENCE).await;
    forget_address(bundle, &shim.address);
}

/// SIGKILL to everything in a container, and none of it frozen: a frozen process does not even die.
async fn press(client: &ShimClient) -> Result<(), RuntimeError> {
    match client.kill(Signal::KILL.as_raw(), true).await {
        Err(error) if error.is_late() || error.shim_is_gone() => return Err(error),
        _ => {}
    }
    match client.resume().await {
        Err(error) if error.is_late() || error.shim_is_gone() => Err(error),
        // It was not paused.
        _ => Ok(()),
    }
}

async fn leave(client: &ShimClient) -> Result<(), RuntimeError> {
    match client.delete().await {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    client.shutdown().await
}

/// Whether a shim was started and has not been cleaned up after.
fn launched(bundle: &Path) -> bool {
    super::launch::addresses(bundle).iter().any(|file| file.exists())
}

/// Waits for the shims that work in a bundle to end, and kills what is left of them then. The kernel says when. Whether
/// there were any.
async fn end_processes(bundle: &Path, binary: &Path, patience: Duration) -> bool {
    // The kernel shows the working directory without links.
    let bundle = bundle.canonicalize().unwrap_or_else(|_| bundle.to_owned());
    let binary = binary.to_owned();
    let ending = tokio::task::spawn_blocking(move || {
        let there = processes(&bundle, &binary);
        let any = !there.is_empty();
        for (process, pid) in there {
            let ended = |within: Duration| {
                let within =
                    Timespec { tv_sec: within.as_secs().cast_signed(), tv_nsec: i64::from(within.subsec_nanos()) };
                poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&within)).is_ok_and(|ready| ready > 0)
            };
            if !ended(patience) {
                let _ = pidfd_send_signal(&process, Signal::KILL);
                if !ended(SHIM_PATIENCE) {
                    tracing::warn!(pid = pid.as_raw_nonzero().get(), "a shim does not end though it was killed");
                }
            }
        }
        any
    });
    ending.await.unwrap_or(false)
}

/// Shims of a bundle: processes that run the shim's program and work in the bundle, as containerd starts them. Pinned
/// before they are looked at, so that a number cannot become another's in between.
fn processes(bundle: &Path, binary: &Path) -> Vec<(rustix::fd::OwnedFd, Pid)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    let works_here = |pid: Pid| {
        let link = |name: &str| std::fs::read_link(format!("/proc/{}/{name}", pid.as_raw_nonzero())).ok();
        let program = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        link("cwd").is_some_and(|cwd| cwd == bundle)
            && link("exe").and_then(program).as_deref().map(|name| name.trim_end_matches(" (deleted)").to_owned())
                == program(binary.canonicalize().unwrap_or_else(|_| binary.to_owned()))
    };
    pids.filter(|pid| works_here(*pid))
        .filter_map(|pid| Some((pidfd_open(pid, PidfdFlags::empty()).ok()?, pid)))
        .filter(|(_, pid)| works_here(*pid))
        .collect()
}
