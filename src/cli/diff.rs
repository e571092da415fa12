//! `bayplan diff`.

use std::path::PathBuf;

use super::args::Output;
use super::context::Context;
use super::{manifests, render};
use crate::api::{DEFAULT_SET, DiffRequest, Service as _};
use crate::error::{Class, Result};

/// Show the steps that apply would take, with their reasons and the fields that differ
///
/// Without -f: what the controller would do now, drift included. Changes nothing. Exit status 1 if there is a step.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File, directory, or - for standard input
    #[arg(short, long, value_name = "PATH", num_args = 1..)]
    pub filename: Vec<PathBuf>,
    /// As with apply
    #[arg(long, requires_all = ["set", "filename"])]
    pub prune: bool,
    /// The set that apply would be given
    #[arg(long, value_name = "NAME", requires = "filename")]
    pub set: Option<String>,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let node = context.node().await?;
    let declared = if args.filename.is_empty() {
        None
    } else {
        let Some(read) = manifests::read(&args.filename, Some(&node), context).await? else {
            return Ok(Class::Invalid.exit_status());
        };
        Some(manifests::declare(read.resources, args.set.as_deref().unwrap_or(DEFAULT_SET)))
    };
    let plan = node.diff(DiffRequest { declared, set: args.set, prune: args.prune }).await?;
    let text = match context.output() {
        Output::Json => render::json::pretty(&plan)?,
        Output::Yaml => render::yaml::document(&plan)?,
        Output::Name => plan.steps.iter().map(|step| format!("{}/{}\n", step.key.kind, step.key.name)).collect(),
        Output::Table | Output::Wide => render::diff::plan(&plan, context.ui.colour_out),
    };
    context.ui.bytes(text.as_bytes());
    context.ui.flush();
    for problem in &plan.problems {
        context.ui.problem(problem);
    }
    if plan.is_converged() {
        context.ui.note("no differences");
    }
    Ok(u8::from(!plan.is_converged()))
}
