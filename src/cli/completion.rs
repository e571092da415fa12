//! `bayplan completion`.

use clap_complete::Shell;

use super::context::Context;
use crate::error::Result;

/// Print the completion script of a shell: source <(bayplan completion bash)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    pub shell: Shell,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "bayplan", &mut script);
    context.ui.bytes(&script);
    Ok(0)
}
