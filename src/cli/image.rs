//! `bayplan image …`: ctr's names for what is done to images.

use super::context::Context;
use super::{images, inspect, load, pull, rmi, tag};
use crate::error::Result;
use crate::manifest::Kind;

/// List images and tags, or work on them
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    list: images::Args,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    #[command(visible_alias = "list")]
    Ls(images::Args),
    Pull(pull::Args),
    Tag(tag::Args),
    #[command(visible_aliases = ["remove", "delete"])]
    Rm(rmi::Args),
    #[command(visible_alias = "load")]
    Import(load::Args),
    Inspect(inspect::Args),
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    match args.verb {
        None => images::run(args.list, context).await,
        Some(Verb::Ls(args)) => images::run(args, context).await,
        Some(Verb::Pull(args)) => pull::run(args, context).await,
        Some(Verb::Tag(args)) => tag::run(args, context).await,
        Some(Verb::Rm(args)) => rmi::run(args, context).await,
        Some(Verb::Import(args)) => load::run(args, context).await,
        Some(Verb::Inspect(args)) => inspect::show(&args.names, &[Kind::Image, Kind::Tag], context).await,
    }
}
