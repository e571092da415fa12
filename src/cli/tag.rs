//! `bayplan tag`, `bayplan image tag`.

use super::context::Context;
use super::flags;
use crate::api::{Service as _, TagRequest};
use crate::error::Result;

/// Give an image a further name
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An existing reference
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// The new one
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// Move a target that points elsewhere
    #[arg(short, long)]
    pub force: bool,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let (source, target) = (flags::reference(&args.source)?, flags::reference(&args.target)?);
    let node = context.node().await?;
    let request = TagRequest { namespace: context.namespace(), source, target, force: args.force };
    let item = node.tag(request).await?;
    context.ui.line(item.metadata.name);
    Ok(0)
}
