//! `bayplan doctor`.

use std::path::{Path, PathBuf};

use super::context::Context;
use super::render::table::Table;
use super::{args::Output, render};
use crate::api::Version;
use crate::config::Config;
use crate::error::Result;

/// Look for what would keep containers from running
#[derive(Debug, clap::Args)]
pub struct Args {}

/// One thing looked at.
#[derive(Debug, serde::Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Failed,
}

/// Runs it.
pub async fn run(_: Args, context: &mut Context) -> Result<u8> {
    let config = context.config()?.clone();
    let mut checks = checks(&config);
    checks.push(match context.find_daemon() {
        Ok(true) => check("daemon", Verdict::Ok, format!("answers at {}", config.address().display())),
        Ok(false) => check("daemon", Verdict::Warning, "none runs: nothing is watched; `bayplan daemon` starts it"),
        Err(fault) => check("daemon", Verdict::Failed, fault.message),
    });
    let text = match context.output() {
        Output::Json => render::json::pretty(&checks)?,
        Output::Yaml => render::yaml::document(&checks)?,
        _ => {
            let mut table = Table::new(["CHECK", "VERDICT", "FOUND"]);
            for check in &checks {
                let verdict = format!("{:?}", check.verdict).to_lowercase();
                table.row([check.name.to_owned(), verdict, check.found.clone()]);
            }
            table.render("")
        }
    };
    context.ui.bytes(text.as_bytes());
    Ok(u8::from(checks.iter().any(|check| check.verdict == Verdict::Failed)))
}

fn check(name: &'static str, verdict: Verdict, found: impl Into<String>) -> Check {
    Check { name, verdict, found: found.into() }
}

fn checks(config: &Config) -> Vec<Check> {
    vec![
        root(),
        runtime(config),
        shim(config),
        overlay(),
        cgroups(),
        limits(),
        directory("root", &config.root),
        directory("state", &config.state),
        manifests(&config.manifests),
    ]
}

fn root() -> Check {
    if rustix::process::geteuid().is_root() {
        check("user", Verdict::Ok, "root")
    } else {
        check("user", Verdict::Failed, "not root: containers need root; try again with sudo")
    }
}

fn runtime(config: &Config) -> Check {
    match Version::here(Some(config)).runtime {
        Some(line) => check("runtime", Verdict::Ok, line),
        None => check("runtime", Verdict::Failed, "runc is not installed; install the package runc"),
    }
}

fn shim(config: &Config) -> Check {
    let path = config.shim_path();
    if path.is_file() {
        check("shim", Verdict::Ok, path.display().to_string())
    } else {
        check("shim", Verdict::Failed, format!("{} is missing; install it beside bayplan", path.display()))
    }
}

fn overlay() -> Check {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.split_whitespace().any(|word| word == "overlay") {
        check("overlayfs", Verdict::Ok, "the kernel has it")
    } else {
        check("overlayfs", Verdict::Failed, "the kernel does not have it loaded; try modprobe overlay")
    }
}

fn cgroups() -> Check {
    let unified = |path: &str| Path::new(path).join("cgroup.controllers").exists();
    if unified("/sys/fs/cgroup") {
        check("cgroups", Verdict::Ok, "v2")
    } else if unified("/sys/fs/cgroup/unified") {
        check("cgroups", Verdict::Ok, "hybrid: limits use v1")
    } else if Path::new("/sys/fs/cgroup/memory").is_dir() {
        check("cgroups", Verdict::Ok, "v1")
    } else {
        check("cgroups", Verdict::Failed, "none is mounted at /sys/fs/cgroup")
    }
}

/// Without this capability `setrlimit` upwards is refused to the runtime (capabilities(7)).
fn limits() -> Check {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    if mask & (1 << CAP_SYS_RESOURCE) != 0 {
        check("rlimits", Verdict::Ok, "may be raised")
    } else {
        check("rlimits", Verdict::Warning, "no CAP_SYS_RESOURCE: rlimits are best effort")
    }
}

/// The directory, or the nearest one that exists, takes files and has room.
fn directory(name: &'static str, path: &Path) -> Check {
    let existing: PathBuf = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).into();
    if rustix::fs::access(&existing, rustix::fs::Access::WRITE_OK).is_err() {
        return check(name, Verdict::Failed, format!("{} cannot be written", existing.display()));
    }
    match rustix::fs::statvfs(&existing) {
        Ok(stat) => {
            let free = stat.f_bavail * stat.f_frsize;
            let verdict = if free < 256 << 20 { Verdict::Warning } else { Verdict::Ok };
            check(name, verdict, format!("{}, {} free", path.display(), render::size(free)))
        }
        Err(error) => check(name, Verdict::Failed, format!("{}: {error}", path.display())),
    }
}

fn manifests(path: &Path) -> Check {
    match std::fs::read_dir(path) {
        Ok(_) => check("manifests", Verdict::Ok, path.display().to_string()),
        Err(error) => check("manifests", Verdict::Warning, format!("{}: {error}", path.display())),
    }
}
