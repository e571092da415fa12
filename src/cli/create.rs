//! `bayplan create`, `bayplan container create`.

use std::ffi::OsString;

use super::context::Context;
use super::flags::{self, Flags};
use super::progress::{self, Progress};
use crate::api::CreateRequest;
use crate::error::Result;

/// Make a container without starting it
#[derive(Debug, clap::Args)]
#[command(override_usage = "bayplan create [OPTIONS] IMAGE ID [COMMAND]...")]
pub struct Args {
    /// Keep its standard input open for whoever attaches
    #[arg(short, long)]
    interactive: bool,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    progress: progress::Flag,
    /// Image, name, and what replaces the image's ENTRYPOINT and CMD
    #[arg(value_names = ["IMAGE", "ID", "COMMAND"], required = true, num_args = 2.., trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let mut subject = flags::subject(args.flags, args.words)?;
    subject.spec.stdin = args.interactive;
    let node = context.node().await?;
    let request = CreateRequest {
        namespace: context.namespace(),
        id: subject.id.clone(),
        spec: subject.spec,
        labels: subject.labels,
        start: false,
        remove_after_exit: false,
        stdio: None,
    };
    Progress::create(args.progress, &node, request, &mut context.ui).await?;
    context.ui.line(subject.id);
    Ok(0)
}
