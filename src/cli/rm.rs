//! `bayplan rm`.

use super::context::Context;
use super::each;
use crate::api::{RemoveContainerRequest, Service as _};
use crate::error::Result;

/// Remove containers
///
/// Refuses one that runs, unless forced. What a source declares comes back; the command says so.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Containers
    #[arg(value_name = "ID", required = true)]
    pub names: Vec<String>,
    /// Kill first
    #[arg(short, long)]
    pub force: bool,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let (node, namespace) = (context.node().await?, context.namespace());
    each::object(args.names, context, async |name| {
        let request = RemoveContainerRequest { namespace: namespace.clone(), name: name.to_owned(), force: args.force };
        let removed = node.remove_container(request).await?;
        Ok(each::comes_back(&format!("container {namespace}/{name}"), removed.declared_by))
    })
    .await
}
