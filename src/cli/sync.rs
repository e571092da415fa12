//! `bayplan sync`.

use super::context::Context;
use super::{progress, render};
use crate::api::{Service as _, SyncRequest};
use crate::error::Result;

/// Reconcile now, wait, and report
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this source: dir, apply:NAME
    #[arg(value_name = "SOURCE")]
    pub source: Option<String>,
    /// Let a removal happen that was held
    #[arg(long)]
    pub confirm_removal: bool,
    #[command(flatten)]
    pub progress: progress::Flag,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let node = context.node().await?;
    let events = node.sync(SyncRequest { source: args.source, confirm_removal: args.confirm_removal }).await?;
    render::steps::report(events, args.progress, context).await
}
