//! `bayplan explain`.

use super::context::Context;
use super::node;
use crate::error::Result;

/// Explain a field: its type, default and meaning
#[derive(Debug, clap::Args)]
pub struct Args {
    /// container, container.resources.limits, …
    #[arg(value_name = "KIND[.FIELD…]")]
    pub path: String,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let text = node::explain(&args.path)?;
    context.ui.bytes(text.as_bytes());
    if !text.ends_with('\n') {
        context.ui.line("");
    }
    Ok(0)
}
