//! `bayplan task …`: ctr's names for what is done to tasks.

use std::ffi::OsString;

use super::context::Context;
use super::{attach, each, exec, kill, later, names, pause, ps, start, stats, top};
use crate::api::{Phase, Service as _, StopRequest};
use crate::error::{Class, Fault, Result};
use crate::manifest::Kind;

/// Tasks, the live processes of containers: start, list, signal, end
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Start the task of a container; without -d its output is shown until it ends
    Start(start::Task),
    Exec(Box<exec::Args>),
    Attach(attach::Args),
    Pause(pause::Args),
    #[command(visible_alias = "unpause")]
    Resume(pause::Unpause),
    #[command(visible_alias = "list")]
    Ls(ps::Args),
    /// The processes of a task
    Ps(top::Args),
    #[command(visible_alias = "metric")]
    Metrics(stats::MetricsArgs),
    Kill(kill::Args),
    /// End tasks; their containers stay
    #[command(visible_aliases = ["remove", "delete", "del"])]
    Rm {
        /// Containers
        #[arg(value_name = "ID", required = true)]
        names: Vec<String>,
        /// Also one that runs
        #[arg(short, long)]
        force: bool,
    },
    #[command(external_subcommand)]
    Unknown(Vec<OsString>),
}

impl Args {
    /// Whether its exit status is the task's.
    pub(super) fn is_foreground(&self) -> bool {
        match &self.verb {
            Verb::Start(args) => !args.detach,
            Verb::Exec(args) => !args.detach,
            Verb::Attach(_) => true,
            _ => false,
        }
    }
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    match args.verb {
        Verb::Start(args) => start::task(args, context).await,
        Verb::Exec(args) => exec::run(*args, context).await,
        Verb::Attach(args) => attach::run(args, context).await,
        Verb::Pause(args) => pause::run(args, context).await,
        Verb::Resume(args) => pause::unpause(args, context).await,
        Verb::Ls(args) => ps::run(args, context).await,
        Verb::Ps(args) => top::run(args, context).await,
        Verb::Metrics(args) => stats::metrics(args, context).await,
        Verb::Kill(args) => kill::run(args, context).await,
        Verb::Unknown(words) => later::run("task", &words),
        Verb::Rm { names, force } => remove(names, force, context).await,
    }
}

async fn remove(names: Vec<String>, force: bool, context: &mut Context) -> Result<u8> {
    let (node, namespace) = (context.node().await?, context.namespace());
    each::object(names, context, async |name| {
        let key = names::key(Kind::Container, &namespace, name);
        let item = names::find(&node, &key).await?;
        let phase = item.container().map(|status| status.phase);
        match phase {
            Some(Phase::Running | Phase::Paused | Phase::BackOff) if !force => {
                Err(Fault::new(Class::Refused, format!("the task of {key} runs")).help("stop it first, or give -f"))
            }
            Some(Phase::Running | Phase::Paused | Phase::BackOff) => {
                let request = StopRequest { namespace: namespace.clone(), name: name.to_owned(), grace_ms: Some(0) };
                node.stop(request).await.map(|()| None)
            }
            _ => Ok(None),
        }
    })
    .await
}
