//! `bayplan content …`: blobs, for people who look inside.

use super::args::Output;
use super::context::Context;
use super::render;
use super::render::table::Table;
use crate::api::Service as _;
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
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let Verb::Ls { quiet } = args.verb;
    let blobs = context.node().await?.blobs().await?;
    let text = match context.output() {
        _ if quiet => blobs.iter().map(|blob| format!("{}\n", blob.digest)).collect(),
        Output::Json => render::json::pretty(&blobs)?,
        Output::Yaml => render::yaml::document(&blobs)?,
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
