//! `bayplan daemon`.

use super::context::Context;
use super::{log, node};
use crate::error::Result;

/// The controller: watch the manifest directory, keep the node as declared, serve the API
///
/// Containers live on when it ends; its next start takes them up again.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
pub async fn run(_: Args, context: &mut Context) -> Result<u8> {
    let config = context.config()?.clone();
    let set_log_level = log::to_stderr(&config.log);
    node::daemon(config, &context.global, set_log_level).await?;
    Ok(0)
}
