//! `bayplan version`.

use super::args::Output;
use super::context::Context;
use super::render;
use crate::api::{Service as _, Version};
use crate::error::Result;

/// The build, the runtime and the kernel; also the daemon's, if one answers
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
pub async fn run(_: Args, context: &mut Context) -> Result<u8> {
    let client = Version::here(context.config().ok());
    let daemon = match context.find_daemon() {
        Ok(true) => context.node().await?.version().await.ok(),
        _ => None,
    };
    let both = serde_json::json!({"client": client, "daemon": daemon});
    let text = match context.output() {
        Output::Json => render::json::pretty(&both)?,
        Output::Yaml => render::yaml::document(&both)?,
        Output::Name => format!("{}\n", client.version),
        Output::Table | Output::Wide => screen(&client, daemon.as_ref()),
    };
    context.ui.bytes(text.as_bytes());
    Ok(0)
}

fn screen(client: &Version, daemon: Option<&Version>) -> String {
    let build = |version: &Version| {
        let commit = if version.commit.is_empty() { String::new() } else { format!(" ({})", version.commit) };
        format!("{}{commit}", version.version)
    };
    let daemon = daemon.map_or_else(|| "none answers".to_owned(), build);
    let runtime = client.runtime.as_deref().unwrap_or("runc is not installed");
    format!(
        "bayplan:   {}\ndaemon:    {daemon}\nAPI:       {}\nplatform:  {}\nruntime:   {runtime}\nkernel:    {}\n",
        build(client),
        client.api_version,
        client.platform,
        client.kernel
    )
}
