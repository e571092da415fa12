//! `bayplan image prune`.

use std::io::BufRead as _;

use super::args::Output;
use super::context::Context;
use super::render::table::Table;
use super::{names, render};
use crate::api::{PruneReport, PruneRequest, Service as _};
use crate::error::{Class, Fault, Result};
use crate::oci::Digest;

/// Take away what no reference and no container needs
///
/// Blobs and snapshots without a name; with --all also names made by hand that no container uses, in this
/// namespace or with -A in all. What is used or declared stays, and so does what is being pulled.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also images pulled, loaded or tagged by hand that no container uses
    #[arg(long, conflicts_with = "dangling")]
    pub all: bool,
    /// Only what has no name (the default)
    #[arg(long)]
    pub dangling: bool,
    /// Only what was last used longer ago than this: 90m, 12h, 168h
    #[arg(long, value_name = "DURATION", value_parser = names::duration)]
    pub older_than: Option<u64>,
    /// Show what would go
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let asks = !args.dry_run && !args.yes;
    if asks && !(context.ui.draws && std::io::IsTerminal::is_terminal(&std::io::stdin())) {
        return Err(Fault::new(Class::Usage, "without a terminal nobody can be asked whether to remove")
            .help("give --yes, or look first with --dry-run"));
    }
    let node = context.node().await?;
    let request = PruneRequest {
        namespace: context.global.scope(),
        all: args.all,
        older_than_ms: args.older_than,
        dry_run: true,
    };
    if asks {
        let planned = node.prune_images(request.clone()).await?;
        if is_empty(&planned) {
            context.ui.note("nothing to remove");
            return Ok(0);
        }
        context.ui.message(&table(&planned, context));
        context.ui.message(&format!("Remove these, {} in all? [y/N] ", render::size(planned.bytes())));
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        if read.is_err() || !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Err(Fault::new(Class::No, "nothing was removed"));
        }
    }
    let report = node.prune_images(PruneRequest { dry_run: args.dry_run, ..request }).await?;
    for kept in &report.kept {
        context.ui.note(kept);
    }
    match context.output() {
        Output::Json => context.ui.bytes(render::json::pretty(&report)?.as_bytes()),
        Output::Yaml => context.ui.bytes(render::yaml::document(&report)?.as_bytes()),
        Output::Name => {
            for one in &report.references {
                context.ui.line(format!("image/{}", one.reference));
            }
        }
        Output::Table | Output::Wide if is_empty(&report) => context.ui.note("nothing to remove"),
        Output::Table | Output::Wide => {
            let text = table(&report, context);
            context.ui.bytes(text.as_bytes());
            let verb = if args.dry_run { "would be freed" } else { "freed" };
            context.ui.line(format!(
                "{} {verb}: {} references, {} blobs, {} snapshots",
                render::size(report.bytes()),
                report.references.len(),
                report.blobs.len(),
                report.snapshots.len()
            ));
        }
    }
    Ok(0)
}

fn is_empty(report: &PruneReport) -> bool {
    report.references.is_empty() && report.blobs.is_empty() && report.snapshots.is_empty()
}

fn table(report: &PruneReport, context: &Context) -> String {
    let mut table = Table::new(["KIND", "NAME", "SIZE", "LAST USED"]);
    for one in &report.references {
        let name = format!("{}/{}", one.namespace, one.reference);
        let used = format!("{} ago", render::time::age(context.now, one.last_used));
        // Its bytes are those of the blobs below; what others share stays.
        table.row(["image".into(), name, render::size(one.size), used]);
    }
    let short = |digest: &Digest| digest.short().to_owned();
    for (kind, all) in [("blob", &report.blobs), ("snapshot", &report.snapshots)] {
        for one in all {
            table.row([kind.into(), short(&one.digest), render::size(one.size), "-".into()]);
        }
    }
    table.render("")
}
