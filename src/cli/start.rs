//! `bayplan start`.

use super::context::Context;
use super::each;
use crate::api::{Service as _, StartRequest};
use crate::error::Result;

/// Start containers that do not run
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Containers
    #[arg(value_name = "ID", required = true)]
    pub names: Vec<String>,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let (node, namespace) = (context.node().await?, context.namespace());
    each::object(args.names, context, async |name| {
        let request = StartRequest { namespace: namespace.clone(), name: name.to_owned(), stdio: None };
        node.start(request).await.map(|_| None)
    })
    .await
}
