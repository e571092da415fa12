//! `bayplan start`, `bayplan task start`.

use std::path::PathBuf;

use super::context::Context;
use super::foreground::{self, Begin, KeysFlag, Session};
use super::{attach, each};
use crate::api::{Service as _, StartRequest};
use crate::error::Result;

/// Start containers that do not run
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show its output, pass signals on, and end with its exit status; one container only
    #[arg(long, help = "-a, --attach: show its output, pass signals on, end with its exit status; one container only")]
    pub attach: bool,
    /// Pass standard input on; means --attach
    #[arg(short, long)]
    pub interactive: bool,
    #[command(flatten)]
    keys: KeysFlag,
    /// Containers
    #[arg(value_name = "ID", required = true)]
    pub names: Vec<String>,
}

/// ctr's form of it.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Task {
    /// Do not wait for its end
    #[arg(short, long)]
    pub detach: bool,
    /// Discard its output here; its log has it
    #[arg(long)]
    null_io: bool,
    /// Write its process id to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    #[command(flatten)]
    keys: KeysFlag,
    /// Container
    #[arg(value_name = "ID")]
    name: String,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    if args.attach || args.interactive {
        let name = attach::only(args.names)?;
        return in_foreground(name, args.interactive, true, None, args.keys, context).await;
    }
    let (node, namespace) = (context.node().await?, context.namespace());
    each::object(args.names, context, async |name| {
        let request = StartRequest { namespace: namespace.clone(), name: name.to_owned(), stdio: None };
        node.start(request).await.map(|_| None)
    })
    .await
}

/// Runs ctr's form.
pub async fn task(args: Task, context: &mut Context) -> Result<u8> {
    if !args.detach {
        return in_foreground(args.name, false, !args.null_io, args.pid_file, args.keys, context).await;
    }
    let node = context.node().await?;
    let request = StartRequest { namespace: context.namespace(), name: args.name.clone(), stdio: None };
    let created = node.start(request).await?;
    foreground::write_pid(args.pid_file.as_deref(), created.pid)?;
    context.ui.line(args.name);
    Ok(0)
}

/// The task of a container that is there, in the foreground. At a terminal, keys are its own.
async fn in_foreground(
    name: String,
    interactive: bool,
    output: bool,
    pid_file: Option<PathBuf>,
    keys: KeysFlag,
    context: &mut Context,
) -> Result<u8> {
    let terminal = match attach::container(&name, context).await {
        Ok(item) => attach::has_terminal(&item) && output,
        Err(fault) => return foreground::refuse(&fault, context),
    };
    let session = Session {
        begin: Begin::Start(StartRequest { namespace: context.namespace(), name, stdio: None }),
        remove: false,
        output,
        input: interactive || terminal,
        terminal,
        keys: keys.detach_keys,
        timeout: None,
        pid_file,
    };
    foreground::run(session, context).await
}
