//! `bayplan kill`.

use super::context::Context;
use super::{each, names};
use crate::api::{KillRequest, Service as _};
use crate::error::Result;

/// Send a signal to running containers
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Containers
    #[arg(value_name = "ID", required = true)]
    pub names: Vec<String>,
    /// The signal
    #[arg(short, long, value_parser = names::signal, default_value = "SIGTERM")]
    pub signal: i32,
    /// To every process of the container
    #[arg(long)]
    pub all: bool,
    /// To a further process of the container, by its id
    #[arg(long, value_name = "ID")]
    pub exec_id: Option<String>,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let (node, namespace) = (context.node().await?, context.namespace());
    each::object(args.names, context, async |name| {
        let request = KillRequest {
            namespace: namespace.clone(),
            name: name.to_owned(),
            signal: args.signal,
            all: args.all,
            exec_id: args.exec_id.clone(),
        };
        node.kill(request).await.map(|()| None)
    })
    .await
}
