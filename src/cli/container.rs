//! `bayplan container …`: ctr's names for what is done to containers.

use std::ffi::OsString;

use super::context::Context;
use super::{create, get, inspect, label, later, rm};
use crate::error::Result;
use crate::manifest::Kind;

/// Containers: make, list, look at, label, remove
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Create(Box<create::Args>),
    /// List containers
    #[command(visible_alias = "list")]
    Ls {
        /// Names only
        #[arg(short, long)]
        quiet: bool,
    },
    #[command(visible_alias = "inspect")]
    Info(inspect::Args),
    #[command(visible_aliases = ["remove", "delete", "del"])]
    Rm(rm::Args),
    Label(label::Args),
    #[command(external_subcommand)]
    Unknown(Vec<OsString>),
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    match args.verb {
        Verb::Create(args) => create::run(*args, context).await,
        Verb::Ls { quiet } => get::names_or_table(Kind::Container, quiet, context).await,
        Verb::Info(args) => inspect::show(&args.names, &[Kind::Container], context).await,
        Verb::Rm(args) => rm::run(args, context).await,
        Verb::Unknown(words) => later::run("container", &words),
        Verb::Label(args) => label::run(args, Kind::Container, context).await,
    }
}
