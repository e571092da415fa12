//! `bayplan exec`, `bayplan task exec`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::context::Context;
use super::foreground::{self, Begin, KeysFlag, Session};
use super::{attach, flags, names};
use crate::api::{ExecRequest, Service as _};
use crate::error::{Class, Fault, Result};

/// Run a further process in a running container
///
/// It is as the container's own process is: environment, working directory, user, capabilities; what is asked for lies over
/// that. Without -d its output is shown, signals are passed on, and its exit status becomes this command's own; 125 when bayplan
/// failed, 126 when the command cannot be executed, 127 when the container has none of that name, 124 when its --timeout was
/// over. Flags stand before ID; what stands behind it belongs to the command.
#[derive(Debug, clap::Args)]
#[command(override_usage = "bayplan exec [OPTIONS] ID COMMAND...")]
pub struct Args {
    /// Give it a terminal, and keys; this one's, where there is one
    #[arg(short, long)]
    tty: bool,
    /// Pass standard input on
    #[arg(short, long, conflicts_with = "detach")]
    interactive: bool,
    /// Do not wait for its end
    #[arg(short, long)]
    pub detach: bool,
    /// Environment: KEY=VALUE, or KEY to pass on this command's own
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// Environment from a file of KEY=VALUE lines
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short = 'w', long, visible_alias = "workdir", value_name = "DIR")]
    cwd: Option<String>,
    /// uid[:gid], or names of the container's own
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// A supplementary group more
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    group_add: Vec<String>,
    /// Every capability
    #[arg(long)]
    privileged: bool,
    /// A capability more
    #[arg(long, value_name = "CAP", value_delimiter = ',')]
    cap_add: Vec<String>,
    /// A capability less
    #[arg(long, value_name = "CAP", value_delimiter = ',')]
    cap_drop: Vec<String>,
    /// Its id in the container, unique there [default: made up]
    #[arg(long, value_name = "ID")]
    exec_id: Option<String>,
    /// Kill it, with its process group, after this time
    #[arg(long, value_name = "DURATION", value_parser = names::duration)]
    timeout: Option<u64>,
    /// Write its process id to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    #[command(flatten)]
    keys: KeysFlag,
    /// The container, and what to run in it
    #[arg(value_names = ["ID", "COMMAND"], required = true, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let mut words = args.words.into_iter().map(|word| {
        word.into_string().map_err(|word| Fault::new(Class::Usage, format!("{} is not UTF-8", word.display())))
    });
    let name = words.next().transpose()?.unwrap_or_default();
    if name.starts_with('-') {
        let flag = name.split('=').next().unwrap_or(&name);
        return Err(Fault::new(Class::Usage, format!("there is no flag {flag}"))
            .help("bayplan exec --help lists the flags; they stand before ID"));
    }
    let command = words.collect::<Result<Vec<String>>>()?;
    if command.is_empty() {
        return Err(Fault::new(Class::Usage, "COMMAND is missing").help(format!("bayplan exec -t {name} sh")));
    }
    let request = ExecRequest {
        namespace: context.namespace(),
        name: names::plain(&name).to_owned(),
        exec_id: args.exec_id,
        command,
        env: flags::environment(&args.env_file, &args.env)?,
        cwd: args.cwd,
        user: args.user,
        groups: args.group_add,
        privileged: args.privileged,
        cap_add: args.cap_add,
        cap_drop: args.cap_drop,
        stdio: None,
        again: false,
        timeout_ms: args.timeout.filter(|_| args.detach),
    };
    if args.detach {
        return detached(request, args.tty, args.pid_file, context).await;
    }
    let session = Session {
        begin: Begin::Exec(Box::new(request)),
        remove: false,
        output: true,
        input: args.interactive || args.tty,
        terminal: args.tty,
        keys: args.keys.detach_keys,
        timeout: args.timeout.map(Duration::from_millis),
        pid_file: args.pid_file,
    };
    foreground::run(session, context).await
}

async fn detached(mut request: ExecRequest, tty: bool, pid_file: Option<PathBuf>, context: &mut Context) -> Result<u8> {
    let node = context.node().await?;
    if request.timeout_ms.is_some() && !node.is_remote() {
        // Our own shim keeps the time.
        let item = attach::container(&request.name, context).await?;
        let runtime = item.spec.get("runtime").and_then(serde_json::Value::as_str).unwrap_or("runc");
        if runtime.contains(['.', '/']) && runtime != "io.containerd.bayplan.v1" {
            let message = "with no daemon nobody is there to end a detached process of another runtime's shim";
            return Err(Fault::new(Class::Usage, message)
                .help("leave -d out, start the daemon, or use the container's own timeout(1)"));
        }
    }
    if tty {
        request.stdio = Some(crate::api::Stdio { terminal: true, ..Default::default() });
    }
    let executed = node.exec(request).await?;
    for warning in &executed.warnings {
        context.ui.note(format!("warning: {warning}"));
    }
    foreground::write_pid(pid_file.as_deref(), Some(executed.pid))?;
    context.ui.line(executed.exec_id);
    Ok(0)
}
