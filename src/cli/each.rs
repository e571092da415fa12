//! One operation on several objects: each is tried, each that worked is named, the first failure decides.

use super::context::Context;
use crate::api::Client;
use crate::error::Result;

/// Runs `operation` on each name. What it returns beside success is a note for the person.
pub(super) async fn object(
    names: Vec<String>,
    context: &mut Context,
    operation: impl AsyncFn(&str) -> Result<Option<String>>,
) -> Result<u8> {
    let mut status = 0;
    for name in names {
        let name = super::names::plain(&name);
        match operation(name).await {
            Ok(note) => {
                context.ui.line(name);
                context.ui.flush();
                if let Some(note) = note {
                    context.ui.note(note);
                }
            }
            Err(fault) => {
                context.ui.fault(&fault);
                if status == 0 {
                    status = fault.class.exit_status();
                }
            }
        }
    }
    Ok(status)
}

/// What `rm` and `rmi` take.
#[derive(Debug, clap::Args)]
pub(super) struct Removal {
    /// What to remove
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Also what is in use or declared; a container that runs is killed first, an image's containers run on
    #[arg(short, long)]
    force: bool,
}

impl Removal {
    /// Removes each. `remove` gives a note for the person.
    pub(super) async fn run(
        self,
        context: &mut Context,
        remove: impl AsyncFn(&Client, &str, &str, bool) -> Result<Option<String>>,
    ) -> Result<u8> {
        let (node, namespace) = (context.node().await?, context.namespace());
        object(self.names, context, async |name| remove(&node, &namespace, name, self.force).await).await
    }
}

/// What is said of something that a source still declares.
pub(super) fn comes_back(what: &str, declared_by: Option<String>) -> Option<String> {
    declared_by.map(|source| format!("{source} declares {what}: it comes back"))
}
