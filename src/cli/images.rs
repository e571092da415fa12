//! `bayplan images`, `bayplan image ls`: every reference that the namespace has.

use super::args::Output;
use super::context::Context;
use super::render::listing::{self, Style};
use crate::api::{Query, Service as _, Status};
use crate::error::Result;
use crate::manifest::Kind;

/// List images and tags
#[derive(Debug, Default, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Print digests only
    #[arg(short, long)]
    pub quiet: bool,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let node = context.node().await?;
    let query = Query { kinds: vec![Kind::Image, Kind::Tag], namespace: context.global.scope(), name: None };
    if !args.quiet && matches!(context.output(), Output::Wide | Output::Json | Output::Yaml) {
        // Layers that were not measured yet are measured, once.
        node.snapshots().await?;
    }
    let items = node.list(query).await?;
    if args.quiet {
        for item in &items {
            let digest = match &item.status {
                Status::Image(status) => status.digest.as_ref(),
                Status::Tag(status) => status.digest.as_ref(),
                _ => None,
            };
            if let Some(digest) = digest {
                context.ui.line(digest);
            }
        }
        return Ok(0);
    }
    if items.is_empty() && matches!(context.output(), Output::Table | Output::Wide | Output::Name) {
        context.ui.note(match context.global.scope() {
            Some(namespace) => format!("no images in namespace {namespace}"),
            None => "no images".to_owned(),
        });
        return Ok(0);
    }
    let all_namespaces = context.global.all_namespaces;
    let text = match context.output() {
        Output::Table => listing::references(&items, all_namespaces, false, context.now),
        Output::Wide => listing::references(&items, all_namespaces, true, context.now),
        output => listing::items(items, Style { output, all_namespaces, single: false, now: context.now })?,
    };
    context.ui.bytes(text.as_bytes());
    Ok(0)
}
