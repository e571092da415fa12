//! `bayplan logout`.

use std::path::PathBuf;

use super::context::Context;
use super::{login, node};
use crate::error::{Class, Fault, Result};
use crate::image::registry::credentials;

/// Forget credentials for a registry
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The registry, as it was logged in at
    #[arg(value_name = "HOST", required_unless_present = "all", conflicts_with = "all")]
    pub host: Option<String>,
    /// All registries of the file
    #[arg(long)]
    pub all: bool,
    /// The file they are kept in
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let path = login::file(args.authfile, context.config()?)?;
    let config = node::registries(context.config()?);
    let Some(host) = args.host else {
        let count = credentials::forget_all(&path).await.map_err(login::unwritable)?;
        context.ui.line(format!("{}: emptied, it had {count}", path.display()));
        return Ok(0);
    };
    let host = login::host(&host)?;
    let had = credentials::forget(&path, &host).await.map_err(login::unwritable)?;
    let others = credentials::others(&config.auth_files, &path, &host);
    if !had {
        let fault = Fault::new(Class::NotFound, format!("{} has no credentials for {host}", path.display()));
        return Err(match others.first() {
            Some(other) => fault.help(format!("{} has; name it with --authfile", other.display())),
            None => fault,
        });
    }
    context.ui.line(format!("{host}: credentials removed from {}", path.display()));
    for other in others {
        context.ui.note(format!("note: {} has credentials for {host}, too", other.display()));
    }
    Ok(0)
}
