//! `bayplan validate`.

use std::path::PathBuf;

use super::context::Context;
use super::manifests;
use crate::error::{Class, Result};

/// Check manifests; needs neither root nor a node
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File, directory, or - for standard input
    #[arg(short, long, required = true, value_name = "PATH", num_args = 1..)]
    pub filename: Vec<PathBuf>,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let Some(read) = manifests::read(&args.filename, None, context).await? else {
        return Ok(Class::Invalid.exit_status());
    };
    let count = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let verb = if read.resources.len() == 1 { "is" } else { "are" };
    context.ui.line(format!(
        "{} in {} {verb} valid",
        count(read.resources.len(), "resource"),
        count(read.files, "file")
    ));
    Ok(0)
}
