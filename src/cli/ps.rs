//! `bayplan ps`.

use super::args::Output;
use super::context::Context;
use super::render::listing::{self, Style};
use crate::api::{Phase, Query, Service as _};
use crate::error::Result;
use crate::manifest::Kind;

/// List tasks: the containers whose processes live
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also those that do not run
    #[arg(long)]
    pub all: bool,
    /// Names only
    #[arg(short, long)]
    pub quiet: bool,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let node = context.node().await?;
    let query = Query { kinds: vec![Kind::Container], namespace: context.global.scope(), name: None };
    let mut items = node.list(query).await?;
    let lives = |phase| matches!(phase, Phase::Running | Phase::Paused | Phase::BackOff);
    items.retain(|item| args.all || item.container().is_some_and(|status| lives(status.phase)));
    let all_namespaces = context.global.all_namespaces;
    let text = match context.output() {
        _ if args.quiet => items.iter().map(|item| format!("{}\n", item.metadata.name)).collect(),
        Output::Table if items.is_empty() => {
            context.ui.note(match context.global.scope() {
                Some(namespace) => format!("no tasks in namespace {namespace}"),
                None => "no tasks".to_owned(),
            });
            return Ok(0);
        }
        Output::Table => listing::tasks(&items, all_namespaces, context.now),
        output => listing::items(items, Style { output, all_namespaces, single: false, now: context.now })?,
    };
    context.ui.bytes(text.as_bytes());
    Ok(0)
}
