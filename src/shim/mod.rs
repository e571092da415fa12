//! The shim: one small process per container that owns its stdio, log, exits and restarts.
//!
//! Invariant: every exit is durable before it is announced; the container never blocks because nobody
//! reads; a daemon that dies is not noticed. Synchronous and single-threaded: one `epoll` loop, no tokio.
//! Depends on protocol types only.
//!
//! In: containerd's bootstrap (`args`, `bootstrap`, `boot`, `cleanup`) and Task API over ttrpc (`wire`, `conn`, `server`, `api`). Out:
//! executions of the runtime (`runc`, `job`, `start`), log files (`log`, `rotated`), state files (`record`), events to another host (`events`). A
//! task is in `task` (requests), `lifecycle` (what moves its first process on) and `beside` (what is added to it: `exec`, `freeze`);
//! what its restart policy says is `restart`, which is pure.

mod api;
mod args;
mod beside;
mod binary;
mod boot;
mod bootstrap;
mod cgroup;
mod cleanup;
mod conn;
mod console;
mod events;
mod exec;
mod freeze;
mod input;
mod job;
mod lifecycle;
mod log;
mod logger;
mod mounts;
mod note;
mod oom;
mod options;
mod outlet;
mod poll;
pub mod protocol;
pub mod record;
mod reply;
pub mod restart;
mod rotated;
mod runc;
mod said;
mod server;
mod sink;
mod spawn;
mod start;
mod stats;
mod stdio;
mod task;
mod wire;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use args::Action;

/// The whole program. The working directory is the bundle, as containerd has it, or `-bundle` names it.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bayplan-shim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(logger) = logger::parse(&arguments) {
        return Ok(logger::run(&logger?)?);
    }
    let args = args::parse(arguments)?;
    if args.action == Action::Version {
        println!("bayplan-shim {}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    if args.action == Action::Info {
        std::io::stdout().write_all(&bootstrap::info()?)?;
        return Ok(());
    }
    if let Some(bundle) = &args.bundle {
        std::env::set_current_dir(bundle).map_err(boot::on(bundle.display()))?;
    }
    let bundle: PathBuf = std::env::current_dir().map_err(boot::on("the bundle"))?;
    note::catch_panics();
    match args.action {
        Action::Start => boot::start(&args, &bundle)?,
        _ => std::io::stdout().write_all(&cleanup::delete(&args, &bundle)?)?,
    }
    Ok(())
}
