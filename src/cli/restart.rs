//! `bayplan restart`.

use super::context::Context;
use super::{each, stop};
use crate::api::{Service as _, StopRequest};
use crate::error::Result;

/// Stop containers and start them again
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    stop: stop::Args,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let (node, namespace) = (context.node().await?, context.namespace());
    each::object(args.stop.names, context, async |name| {
        let request = StopRequest { namespace: namespace.clone(), name: name.to_owned(), grace_ms: args.stop.timeout };
        node.restart(request).await.map(|_| None)
    })
    .await
}
