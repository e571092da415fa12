//! `bayplan schema`.

use super::args::Output;
use super::context::Context;
use super::{node, render};
use crate::error::Result;

/// Print the JSON Schema of manifests, or of one kind
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kind
    #[arg(value_name = "KIND")]
    pub kind: Option<String>,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let schema = node::schema(args.kind.as_deref())?;
    let text = match context.output() {
        Output::Yaml => render::yaml::document(&schema)?,
        _ => render::json::pretty(&schema)?,
    };
    context.ui.bytes(text.as_bytes());
    Ok(0)
}
