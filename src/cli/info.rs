//! `bayplan info`.

use super::args::Output;
use super::context::Context;
use super::render;
use crate::api::Service as _;
use crate::error::Result;

/// The node: paths, drivers, counts
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
pub async fn run(_: Args, context: &mut Context) -> Result<u8> {
    let info = context.node().await?.info().await?;
    let text = match context.output() {
        Output::Json => render::json::pretty(&info)?,
        Output::Yaml => render::yaml::document(&info)?,
        Output::Name | Output::Table | Output::Wide => {
            let daemon = if info.daemon { format!("pid {}", info.pid) } else { "none".to_owned() };
            format!(
                "daemon:      {daemon}\naddress:     {}\nmanifests:   {}\nroot:        {}\nstate:       {}\n\
                 cgroups:     {}, driver {}, beneath {}\ncontainers:  {}, {} running\nimages:      {}\nnamespaces:  {}\n",
                info.address.display(),
                info.manifests.display(),
                info.root.display(),
                info.state.display(),
                info.cgroup_version,
                info.cgroup_driver,
                info.cgroup_parent,
                info.containers,
                info.running,
                info.images,
                info.namespaces,
            )
        }
    };
    context.ui.bytes(text.as_bytes());
    for warning in &info.warnings {
        let text = render::diagnostic::warning(warning, context.ui.colour_err);
        context.ui.message(&text);
    }
    Ok(0)
}
