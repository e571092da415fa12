//! `bayplan content …`: blobs, for people who look inside.

use std::ffi::OsString;

use futures_util::StreamExt as _;

use super::args::Output;
use super::context::Context;
use super::render;
use super::render::json::Listing;
use super::render::table::Table;
use super::{each, later, pull};
use crate::api::{BlobRequest, RemoveBlobRequest, Service as _};
use crate::error::Result;

/// Blobs of the content store, an OCI image layout that skopeo and umoci read
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List blobs, with who needs them
    #[command(visible_alias = "list")]
    Ls {
        /// Print digests only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Write a blob to standard output
    ///
    /// As it is: a layer is a packed tar file, a manifest JSON. Exits 1 when its bytes are not what its digest says.
    Get {
        /// Its digest, or seven digits of it and more
        #[arg(value_name = "DIGEST")]
        digest: String,
    },
    /// Remove blobs
    ///
    /// Refuses one that an image or a container needs, unless forced. What nothing needs is collected by itself.
    #[command(visible_aliases = ["remove", "delete", "del"])]
    Rm {
        /// Digests, or seven digits of each and more
        #[arg(value_name = "DIGEST", required = true)]
        digests: Vec<String>,
        /// Also what images and containers need; they are not whole then
        #[arg(short, long)]
        force: bool,
    },
    /// Fetch the blobs of images without unpacking them
    ///
    /// Names them, too: `pull` and `run` unpack what is here. Of several each is tried; the first failure decides the
    /// exit status.
    Fetch(pull::Args),
    #[command(external_subcommand)]
    Unknown(Vec<OsString>),
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    match args.verb {
        Verb::Ls { quiet } => list(quiet, context).await,
        Verb::Get { digest } => get(digest, context).await,
        Verb::Rm { digests, force } => remove(digests, force, context).await,
        Verb::Unknown(words) => later::run("content", &words),
        Verb::Fetch(args) => pull::fetch(args, context).await,
    }
}

async fn list(quiet: bool, context: &mut Context) -> Result<u8> {
    let blobs = context.node().await?.blobs().await?;
    let text = match context.output() {
        _ if quiet => blobs.iter().map(|blob| format!("{}\n", blob.digest)).collect(),
        Output::Json => render::json::pretty(&Listing::of(&blobs))?,
        Output::Yaml => render::yaml::document(&Listing::of(&blobs))?,
        Output::Name => blobs.iter().map(|blob| format!("blob/{}\n", blob.digest)).collect(),
        output => {
            let mut table = Table::new(["DIGEST", "SIZE", "TOUCHED", "USED BY"]);
            for blob in &blobs {
                let touched = blob.touched.map_or_else(String::new, |at| render::time::age(context.now, at));
                let digest = if output == Output::Wide { blob.digest.as_str() } else { blob.digest.short() };
                table.row([digest.to_owned(), render::size(blob.size), touched, blob.used_by.join(",")]);
            }
            table.render("")
        }
    };
    context.ui.bytes(text.as_bytes());
    Ok(0)
}

async fn get(digest: String, context: &mut Context) -> Result<u8> {
    let mut parts = context.node().await?.read_blob(BlobRequest { digest: bare(digest) }).await?;
    while let Some(part) = parts.next().await {
        context.ui.bytes(&part?);
        if context.ui.is_closed() {
            break;
        }
    }
    Ok(0)
}

async fn remove(digests: Vec<String>, force: bool, context: &mut Context) -> Result<u8> {
    let node = context.node().await?;
    let remove = async |digest: &str| {
        let removed = node.remove_blob(RemoveBlobRequest { digest: digest.to_owned(), force }).await?;
        let needed = removed.needed_by.join(", ");
        Ok((!needed.is_empty()).then(|| format!("not whole without it: {needed}")))
    };
    each::object(digests.into_iter().map(bare).collect(), context, remove).await
}

/// Without the `blob/` that `-o name` writes before it.
fn bare(digest: String) -> String {
    digest.strip_prefix("blob/").map(str::to_owned).unwrap_or(digest)
}
