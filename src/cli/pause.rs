//! `bayplan pause`, `bayplan unpause`, and ctr's names for them.

use super::context::Context;
use super::each;
use crate::api::{Service as _, TaskRequest};
use crate::error::Result;

/// Freeze every process of running containers
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Containers
    #[arg(value_name = "ID", required = true)]
    names: Vec<String>,
}

/// Let frozen containers go on
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Unpause {
    /// Containers
    #[arg(value_name = "ID", required = true)]
    names: Vec<String>,
}

/// Freezes them.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let (node, namespace) = (context.node().await?, context.namespace());
    each::object(args.names, context, async |name| {
        let request = TaskRequest { namespace: namespace.clone(), name: name.to_owned() };
        node.pause(request).await.map(|()| None)
    })
    .await
}

/// Lets them go on.
pub async fn unpause(args: Unpause, context: &mut Context) -> Result<u8> {
    let (node, namespace) = (context.node().await?, context.namespace());
    each::object(args.names, context, async |name| {
        let request = TaskRequest { namespace: namespace.clone(), name: name.to_owned() };
        node.resume(request).await.map(|()| None)
    })
    .await
}
