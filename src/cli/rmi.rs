//! `bayplan rmi`, `bayplan image rm`.

use super::context::Context;
use super::each::Removal;
use crate::api::{RemoveImageRequest, Service as _};
use crate::error::Result;

/// Remove images and tags
///
/// Refuses one that a container uses, unless forced. What a source declares comes back; the command says so.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    removal: Removal,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let remove = async |node: &crate::api::Client, namespace: &str, name: &str, force| {
        let name = name.strip_prefix("image/").or_else(|| name.strip_prefix("tag/")).unwrap_or(name).to_owned();
        let request = RemoveImageRequest { namespace: namespace.to_owned(), name, force };
        let removed = node.remove_image(request).await?;
        Ok((removed.reference, removed.declared_by))
    };
    args.removal.run(context, remove).await
}
