//! `bayplan namespace …`: ctr's names for what is done to namespaces.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::context::Context;
use super::{each, flags, get, label, later};
use crate::api::{NamespaceRequest, Service as _};
use crate::error::Result;
use crate::manifest::Kind;

/// Namespaces: list, make, label, remove
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List namespaces
    #[command(visible_alias = "list")]
    Ls {
        /// Names only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Make a namespace
    #[command(visible_alias = "c")]
    Create {
        /// Its name
        name: String,
        /// Labels
        #[arg(value_name = "KEY=VALUE")]
        labels: Vec<String>,
    },
    /// Remove namespaces; refuses while anything is left inside
    #[command(visible_aliases = ["remove", "delete", "del"])]
    Rm {
        /// Namespaces
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    Label(label::Args),
    #[command(external_subcommand)]
    Unknown(Vec<OsString>),
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    match args.verb {
        Verb::Ls { quiet } => get::names_or_table(Kind::Namespace, quiet, context).await,
        Verb::Create { name, labels } => {
            let labels = labels.iter().map(|text| flags::pair(text, "label")).collect::<Result<BTreeMap<_, _>>>()?;
            let item = context.node().await?.create_namespace(NamespaceRequest { name, labels }).await?;
            context.ui.line(item.metadata.name);
            Ok(0)
        }
        Verb::Rm { names } => {
            let node = context.node().await?;
            each::object(names, context, async |name| {
                let request = NamespaceRequest { name: name.to_owned(), labels: BTreeMap::new() };
                node.remove_namespace(request).await.map(|()| None)
            })
            .await
        }
        Verb::Unknown(words) => later::run("namespace", &words),
        Verb::Label(args) => label::run(args, Kind::Namespace, context).await,
    }
}
