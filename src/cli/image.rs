//! `bayplan image …`: ctr's names for what is done to images.

use std::ffi::OsString;

use super::context::Context;
use super::{check, image_mount, image_tree, images, import, inspect, label, later, prune, pull, push, rmi, save, tag};
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
    Push(push::Args),
    Tag(tag::Args),
    #[command(visible_aliases = ["remove", "delete", "del"])]
    Rm(rmi::Args),
    #[command(visible_alias = "load")]
    Import(Box<import::Args>),
    #[command(visible_alias = "save")]
    Export(save::Args),
    Inspect(inspect::Args),
    Prune(prune::Args),
    Check(check::Args),
    Tree(image_tree::Args),
    Mount(image_mount::Args),
    #[command(visible_alias = "umount")]
    Unmount(image_mount::UnmountArgs),
    Label(label::Args),
    /// What other engines have here: [`super::args::rewrite`] puts it before such a word.
    #[command(name = later::INSTEAD_OF, hide = true)]
    Instead {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    if args.verb.is_some()
        && let Some(word) = args.list.names.first()
    {
        return later::run("image", &[word.into()]);
    }
    match args.verb {
        None => images::run_or_slip(args.list, context).await,
        Some(Verb::Ls(args)) => images::run(args, context).await,
        Some(Verb::Pull(args)) => pull::run(args, context).await,
        Some(Verb::Tag(args)) => tag::run(args, context).await,
        Some(Verb::Rm(args)) => rmi::run(args, context).await,
        Some(Verb::Push(args)) => push::run(args, context).await,
        Some(Verb::Import(args)) => import::run(*args, context).await,
        Some(Verb::Export(args)) => save::run(args, context).await,
        Some(Verb::Label(args)) => label::run(args, Kind::Image, context).await,
        Some(Verb::Instead { words }) => later::run("image", &words),
        Some(Verb::Prune(args)) => prune::run(args, context).await,
        Some(Verb::Check(args)) => check::run(args, context).await,
        Some(Verb::Tree(args)) => image_tree::run(args, context).await,
        Some(Verb::Mount(args)) => image_mount::run(args, context).await,
        Some(Verb::Unmount(args)) => image_mount::unmount(args, context).await,
        Some(Verb::Inspect(args)) => inspect::show(&args.names, &[Kind::Image, Kind::Tag], context).await,
    }
}
