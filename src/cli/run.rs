//! `bayplan run`.

use std::ffi::OsString;
use std::path::PathBuf;

use super::context::Context;
use super::flags::{self, Flags};
use super::foreground::{self, Begin, KeysFlag};
use super::progress::{self, Progress};
use crate::api::CreateRequest;
use crate::error::{Class, Fault, Result};
use crate::manifest::RestartPolicy;

/// Make a container and start it
///
/// Without -d its output is shown, signals are passed on, and its exit status becomes this command's own; 125 when bayplan
/// failed, 126 when the command cannot be executed, 127 when the image has none of that name. When nobody reads the output any
/// more (as in `bayplan run … | head`), its task is ended and the status is 141. With -t keys go to it as they are pressed, and a
/// terminal that is closed ends it. Flags stand before IMAGE; what stands behind ID belongs to the command.
#[derive(Debug, clap::Args)]
#[command(override_usage = "bayplan run [OPTIONS] IMAGE ID [COMMAND]...")]
pub struct Args {
    /// Do not wait for its end
    #[arg(short, long)]
    pub detach: bool,
    /// Remove it after its end
    #[arg(long)]
    pub rm: bool,
    /// Pass standard input on; -t means it. With -d: keep it open for whoever attaches
    #[arg(short, long, conflicts_with = "null_io")]
    pub interactive: bool,
    /// Discard its output here; its log has it
    #[arg(long)]
    pub null_io: bool,
    /// Write its process id to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    #[command(flatten)]
    keys: KeysFlag,
    #[command(flatten)]
    pub(super) flags: Flags,
    #[command(flatten)]
    pub(super) progress: progress::Flag,
    /// Image, name, and what replaces the image's ENTRYPOINT and CMD
    #[arg(value_names = ["IMAGE", "ID", "COMMAND"], required = true, num_args = 2.., trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) words: Vec<OsString>,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let mut subject = flags::subject(args.flags, args.words)?;
    subject.spec.stdin = args.interactive && args.detach;
    if !args.detach && subject.spec.restart != RestartPolicy::Never {
        return Err(Fault::new(Class::Usage, "a restart policy does not go with the foreground").help("add -d"));
    }
    if args.rm && subject.spec.restart == RestartPolicy::Always {
        return Err(Fault::new(Class::Usage, "--rm never comes to pass with --restart always"));
    }
    // What goes elsewhere is not shown here.
    let shown = !args.null_io && subject.spec.logs.driver.is_none();
    let terminal = subject.spec.tty && shown;
    let request = CreateRequest {
        namespace: context.namespace(),
        id: subject.id.clone(),
        spec: subject.spec,
        labels: subject.labels,
        start: true,
        remove_after_exit: args.rm,
        stdio: None,
    };
    if args.detach {
        let node = context.node().await?;
        let created = Progress::create(args.progress, &node, request, &mut context.ui).await?;
        foreground::write_pid(args.pid_file.as_deref(), created.pid)?;
        context.ui.line(subject.id);
        return Ok(0);
    }
    let session = foreground::Session {
        begin: Begin::Create(Box::new(request), args.progress),
        remove: args.rm,
        output: shown,
        input: args.interactive || terminal,
        terminal,
        keys: args.keys.detach_keys,
        timeout: None,
        pid_file: args.pid_file,
    };
    foreground::run(session, context).await
}
