//! `bayplan apply`.

use std::path::PathBuf;

use super::context::Context;
use super::{manifests, names, progress, render};
use crate::api::{ApplyRequest, DEFAULT_SET, Service as _};
use crate::error::{Class, Result};

/// Declare resources and bring them about
///
/// Prints each step as it is done, and how many were changed, unchanged and failed. What a directory or another set
/// declares is refused. Exit status 1 if a step failed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File, directory, or - for standard input
    #[arg(short, long, required = true, value_name = "PATH", num_args = 1..)]
    pub filename: Vec<PathBuf>,
    /// Remove what this set declared before and no longer does
    #[arg(long, requires = "set")]
    pub prune: bool,
    /// Declare under this name
    #[arg(long, value_name = "NAME")]
    pub set: Option<String>,
    /// Print the steps and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Go on until every container applied runs
    #[arg(long)]
    pub wait: bool,
    /// Give up after this long
    #[arg(long, value_name = "DURATION", value_parser = names::duration, default_value_if("wait", "true", "60s"))]
    pub timeout: Option<u64>,
    #[command(flatten)]
    pub progress: progress::Flag,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let node = context.node().await?;
    let Some(read) = manifests::read(&args.filename, Some(&node), context).await? else {
        return Ok(Class::Invalid.exit_status());
    };
    let request = ApplyRequest {
        declared: manifests::declare(read.resources, args.set.as_deref().unwrap_or(DEFAULT_SET)),
        set: args.set,
        prune: args.prune,
        dry_run: args.dry_run,
        wait: args.wait,
        timeout_ms: args.timeout,
    };
    let events = node.apply(request).await?;
    render::steps::report(events, args.progress, context).await
}
