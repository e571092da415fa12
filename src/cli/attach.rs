//! `bayplan attach`, `bayplan task attach`, and `start -a`.

use super::context::Context;
use super::foreground::{self, Begin, KeysFlag, Session};
use super::names;
use crate::api::{AttachRequest, Item};
use crate::error::{Class, Fault, Result};
use crate::manifest::Kind;

/// Come to the terminal or the output of a running container
///
/// What it writes from now on is shown here too; its log, and whoever else is attached, has it as well. At a terminal keys go to
/// it; the keys that leave let it go on. Ends with the exit status of its process.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Look only: pass no input on
    #[arg(long)]
    no_stdin: bool,
    #[command(flatten)]
    keys: KeysFlag,
    /// Container
    #[arg(value_name = "ID")]
    name: String,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let name = names::plain(&args.name).to_owned();
    let item = match container(&name, context).await {
        Ok(item) => item,
        Err(fault) => return foreground::refuse(&fault, context),
    };
    let request = AttachRequest { namespace: context.namespace(), name, ..AttachRequest::default() };
    let session = Session {
        begin: Begin::Attach(request),
        remove: false,
        output: true,
        input: !args.no_stdin,
        terminal: has_terminal(&item),
        keys: args.keys.detach_keys,
        timeout: None,
        pid_file: None,
    };
    foreground::run(session, context).await
}

/// The container of that name.
pub(super) async fn container(name: &str, context: &mut Context) -> Result<Item> {
    let node = context.node().await?;
    let key = names::key(Kind::Container, &context.namespace(), name);
    names::find(&node, &key).await
}

/// Whether its process has a terminal.
pub(super) fn has_terminal(item: &Item) -> bool {
    item.spec.get("tty").and_then(serde_json::Value::as_bool).unwrap_or(false)
}

/// Exactly one name, as a session has.
pub(super) fn only(mut names: Vec<String>) -> Result<String> {
    match (names.pop(), names.is_empty()) {
        (Some(name), true) => Ok(names::plain(&name).to_owned()),
        _ => {
            Err(Fault::new(Class::Usage, "only one container can be in the foreground")
                .help("name one, or leave -a out"))
        }
    }
}
