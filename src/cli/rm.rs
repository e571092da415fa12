//! `bayplan rm`.

use super::context::Context;
use super::each::{self, Removal};
use crate::api::{RemoveContainerRequest, Service as _};
use crate::error::Result;

/// Remove containers
///
/// Refuses one that runs, unless forced. What a source declares comes back; the command says so.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    removal: Removal,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let remove = async |node: &crate::api::Client, namespace: &str, name: &str, force| {
        let request = RemoveContainerRequest { namespace: namespace.to_owned(), name: name.to_owned(), force };
        let removed = node.remove_container(request).await?;
        Ok(each::comes_back(&format!("container {namespace}/{name}"), removed.declared_by))
    };
    args.removal.run(context, remove).await
}
