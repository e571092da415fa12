//! The command line: one file a verb, rendering apart, no engine logic.
//!
//! Invariant: every verb speaks to a node through [`crate::api::Client`] and nothing else, and its exit
//! status is the class of its fault. Arguments flow in; data flows out on one stream, messages on the
//! other. Depends on [`crate::api`], and on [`crate::manifest`] and [`crate::config`] to read files.

mod apply;
mod args;
mod attach;
mod check;
mod completion;
mod config;
mod container;
mod content;
mod context;
mod cp;
mod create;
mod daemon;
mod delete;
mod describe;
mod diff;
mod doctor;
mod each;
mod events;
mod exec;
mod explain;
mod flags;
mod foreground;
mod get;
mod image;
mod image_mount;
mod image_tree;
mod images;
mod import;
mod info;
mod inspect;
mod kill;
mod label;
mod later;
mod load;
mod log;
mod login;
mod logout;
mod logs;
mod manifests;
mod names;
mod namespace;
mod node;
mod password;
mod pause;
mod progress;
mod prune;
mod ps;
mod pull;
mod push;
mod render;
mod restart;
mod rm;
mod rmi;
mod run;
mod save;
mod schema;
mod snapshot;
mod start;
mod stats;
mod status;
mod stop;
mod sync;
mod tag;
mod task;
#[cfg(test)]
mod tests;
mod top;
mod ui;
mod validate;
mod version;
mod wait;

use std::ffi::OsString;
use std::process::ExitCode;

use args::{Cli, Command};
use context::Context;
use ui::Ui;

use crate::error::{Class, Fault, Result};

/// The `bayplan` binary: parses, runs, and ends with the exit status.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_bug));
    let outcome = std::panic::catch_unwind(|| process(std::env::args_os()));
    ExitCode::from(outcome.unwrap_or(Class::Bug.exit_status()))
}

/// The whole command tree, for completion and manual pages.
pub fn command() -> clap::Command {
    Cli::tree()
}

/// Says that it is our fault, and where; the panic's own words are what a report needs.
fn report_bug(panic: &std::panic::PanicHookInfo<'_>) {
    use std::io::Write as _;
    foreground::restore_terminal();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let words = panic.payload_as_str().unwrap_or("no message");
    let text = format!(
        "bug: {words}\n  --> {place}\n  help: this is a bug of bayplan; please report it with the output of `bayplan version -o json`\n"
    );
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn process(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::of(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are asked for; everything else is wrong usage.
            let _ = error.print();
            return u8::from(error.use_stderr()) * Class::Usage.exit_status();
        }
    };
    let Ok(ui) = Ui::of_process() else { return Class::Runtime.exit_status() };
    let mut context = Context::new(cli.global, ui);
    let in_foreground = is_foreground(&cli.command);
    let status = start(cli.command, &mut context).unwrap_or_else(|fault| {
        context.ui.flush();
        context.ui.fault(&fault);
        match fault.class {
            // The statuses of faults are the process' own there; wrong usage runs nothing.
            class if in_foreground && class != Class::Usage => foreground::FAILED,
            class => class.exit_status(),
        }
    });
    match context.ui.finish() {
        Ok(()) => status,
        Err(fault) => {
            context.ui.fault(&fault);
            fault.class.exit_status()
        }
    }
}

/// Whether the exit status is that of a process in a container.
fn is_foreground(command: &Command) -> bool {
    match command {
        Command::Run(args) => !args.detach,
        Command::Exec(args) => !args.detach,
        Command::Start(args) => args.attach || args.interactive,
        Command::Attach(_) => true,
        Command::Task(args) => args.is_foreground(),
        _ => false,
    }
}

/// Runs the verb on a runtime that fits: one thread to speak with a daemon, several to be the node.
fn start(command: Command, context: &mut Context) -> Result<u8> {
    if context.global.log_level.is_some() && !matches!(command, Command::Daemon(_)) {
        drop(log::to_stderr(&context.config()?.log));
    }
    let several = match &command {
        Command::Daemon(_) => true,
        command if needs_node(command) => !context.find_daemon()?,
        _ => false,
    };
    if matches!(command, Command::Daemon(_)) {
        crate::heap::share_pools();
    }
    let mut builder = if several {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Fault::new(Class::Runtime, format!("threads cannot be started: {error}")))?;
    let outcome = runtime.block_on(dispatch(command, context));
    // What a node in this process still does goes on in its shims, or is taken up again by the next start. It
    // is let go of here, so that its database is closed in order.
    context.forget_node();
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    outcome
}

fn needs_node(command: &Command) -> bool {
    !matches!(
        command,
        Command::Daemon(_)
            | Command::Validate(_)
            | Command::Schema(_)
            | Command::Explain(_)
            | Command::Config(_)
            | Command::Version(_)
            | Command::Doctor(_)
            | Command::Completion(_)
            | Command::Login(_)
            | Command::Logout(_)
            | Command::Unknown(_)
    )
}

/// Runs a verb. Its value is the exit status where no fault decides it.
async fn dispatch(command: Command, context: &mut Context) -> Result<u8> {
    match command {
        Command::Daemon(args) => daemon::run(args, context).await,
        Command::Apply(args) => apply::run(args, context).await,
        Command::Diff(args) => diff::run(args, context).await,
        Command::Delete(args) => delete::run(args, context).await,
        Command::Validate(args) => validate::run(args, context).await,
        Command::Schema(args) => schema::run(args, context).await,
        Command::Explain(args) => explain::run(args, context).await,
        Command::Get(args) => get::run(args, context).await,
        Command::Describe(args) => describe::run(args, context).await,
        Command::Status(args) => status::run(args, context).await,
        Command::Wait(args) => wait::run(args, context).await,
        Command::Events(args) => events::run(args, context).await,
        Command::Sync(args) => sync::run(args, context).await,
        Command::Run(args) => run::run(args, context).await,
        Command::Create(args) => create::run(args, context).await,
        Command::Start(args) => start::run(args, context).await,
        Command::Stop(args) => stop::run(args, context).await,
        Command::Restart(args) => restart::run(args, context).await,
        Command::Kill(args) => kill::run(args, context).await,
        Command::Exec(args) => exec::run(*args, context).await,
        Command::Attach(args) => attach::run(args, context).await,
        Command::Pause(args) => pause::run(args, context).await,
        Command::Unpause(args) => pause::unpause(args, context).await,
        Command::Rm(args) => rm::run(args, context).await,
        Command::Ps(args) => ps::run(args, context).await,
        Command::Cp(args) => cp::run(args, context).await,
        Command::Top(args) => top::run(args, context).await,
        Command::Stats(args) => stats::run(args, context).await,
        Command::Logs(args) => logs::run(args, context).await,
        Command::Inspect(args) => inspect::run(args, context).await,
        Command::Pull(args) => pull::run(args, context).await,
        Command::Push(args) => push::run(args, context).await,
        Command::Tag(args) => tag::run(args, context).await,
        Command::Rmi(args) => rmi::run(args, context).await,
        Command::Load(args) => load::run(args, context).await,
        Command::Save(args) => save::run(args, context).await,
        Command::Login(args) => login::run(args, context).await,
        Command::Logout(args) => logout::run(args, context).await,
        Command::Image(args) => image::run(args, context).await,
        Command::Container(args) => container::run(args, context).await,
        Command::Task(args) => task::run(args, context).await,
        Command::Namespace(args) => namespace::run(args, context).await,
        Command::Snapshot(args) => snapshot::run(args, context).await,
        Command::Content(args) => content::run(args, context).await,
        Command::Config(args) => config::run(args, context).await,
        Command::Version(args) => version::run(args, context).await,
        Command::Info(args) => info::run(args, context).await,
        Command::Doctor(args) => doctor::run(args, context).await,
        Command::Completion(args) => completion::run(args, context).await,
        Command::Unknown(words) => later::run("", &words),
    }
}
