//! `bayplan status`.

use super::args::Output;
use super::context::Context;
use super::render;
use crate::api::Service as _;
use crate::error::Result;

/// One screen: sources, containers by phase, what is not converged and why
///
/// Exit status 1 if the node is not converged.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
pub async fn run(_: Args, context: &mut Context) -> Result<u8> {
    let report = context.node().await?.status().await?;
    let text = match context.output() {
        Output::Json => render::json::pretty(&report)?,
        Output::Yaml => render::yaml::document(&report)?,
        Output::Name => {
            report.not_converged.iter().map(|item| format!("{}/{}\n", item.key.kind, item.key.name)).collect()
        }
        Output::Table | Output::Wide => render::status::screen(&report, context.now, context.ui.colour_out),
    };
    context.ui.bytes(text.as_bytes());
    Ok(u8::from(!report.converged))
}
