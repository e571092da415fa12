//! `bayplan stop`.

use super::context::Context;
use super::{each, names};
use crate::api::{Service as _, StopRequest};
use crate::error::Result;

/// Stop containers and keep them down: their stop signal, then SIGKILL after the grace period
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Containers
    #[arg(value_name = "ID", required = true)]
    pub names: Vec<String>,
    /// Grace period [default: the container's own]
    #[arg(short, long, visible_alias = "time", value_name = "DURATION", value_parser = names::duration)]
    pub timeout: Option<u64>,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let (node, namespace) = (context.node().await?, context.namespace());
    each::object(args.names, context, async |name| {
        let request = StopRequest { namespace: namespace.clone(), name: name.to_owned(), grace_ms: args.timeout };
        node.stop(request).await.map(|()| None)
    })
    .await
}
