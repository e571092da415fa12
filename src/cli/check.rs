//! `bayplan image check`.

use super::args::Output;
use super::context::Context;
use super::render;
use super::render::table::Table;
use crate::api::{CheckReport, CheckRequest, Service as _, StoredObject};
use crate::error::Result;

/// Find missing, truncated and corrupt blobs, and unpacked layers that are half-made or not as their blobs
///
/// Reads every blob of the images named, or of the whole store, and unpacks each of their layers once more, aside, to
/// compare what it unpacked to with what is there: room for the largest layer must be free. Exits 1 when something is
/// wrong. With --repair blobs that are wrong are fetched again from the registry that the reference names, and layers
/// that are wrong are unpacked again; not beneath a container that runs or an image that is mounted.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Images; without any, everything in the store
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Fetch and unpack again what is wrong
    #[arg(long)]
    pub repair: bool,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let node = context.node().await?;
    let request = CheckRequest { namespace: context.namespace(), names: args.names, repair: args.repair };
    let report = node.check_images(request).await?;
    match context.output() {
        Output::Json => context.ui.bytes(render::json::pretty(&report)?.as_bytes()),
        Output::Yaml => context.ui.bytes(render::yaml::document(&report)?.as_bytes()),
        Output::Name => {
            for finding in &report.findings {
                context.ui.line(&finding.name);
            }
        }
        Output::Table | Output::Wide => {
            let text = table(&report, context.output() == Output::Wide);
            context.ui.bytes(text.as_bytes());
            for finding in &report.findings {
                // Which files, and not only that some are wrong: nobody should have to ask twice.
                if finding.object == StoredObject::Snapshot && context.output() == Output::Table {
                    context.ui.note(format!("{}: {}", short(&finding.name), render::prose(&finding.message)));
                }
                if let Some(failure) = &finding.failure {
                    context.ui.note(format!("{}: {}", short(&finding.name), render::prose(failure)));
                }
            }
            if !report.is_well() && !args.repair {
                context.ui.note("bayplan image check --repair fetches and unpacks again what is wrong");
            }
        }
    }
    Ok(u8::from(!report.is_well()))
}

fn short(name: &str) -> String {
    name.strip_prefix("sha256:").map_or(name, |hex| &hex[..hex.len().min(12)]).to_owned()
}

fn table(report: &CheckReport, wide: bool) -> String {
    let seen = format!(
        "{} references, {} blobs of {}, {} snapshots",
        report.references,
        report.blobs,
        render::size(report.bytes),
        report.snapshots
    );
    if report.findings.is_empty() {
        return format!("all is well: {seen}\n");
    }
    let repaired = report.findings.iter().any(|finding| finding.repaired);
    let headers = ["KIND", "NAME", "WRONG", "NEEDED BY"].into_iter();
    let mut table = Table::new(headers.chain(repaired.then_some("NOW")).chain(wide.then_some("DETAIL")));
    for finding in &report.findings {
        let kind = match finding.object {
            StoredObject::Blob => "blob",
            StoredObject::Snapshot => "snapshot",
        };
        let name = if wide { finding.name.clone() } else { short(&finding.name) };
        let mut row = vec![kind.to_owned(), name, finding.fault.to_string(), finding.images.join(",")];
        if repaired {
            row.push(if finding.repaired { "repaired" } else { "still wrong" }.to_owned());
        }
        if wide {
            row.push(finding.message.clone());
        }
        table.row(row);
    }
    let wrong = report.findings.iter().filter(|finding| !finding.repaired).count();
    let verdict = match wrong {
        0 => format!("all is well again: {seen}"),
        wrong => format!("{wrong} wrong in {seen}"),
    };
    format!("{}{verdict}\n", table.render(""))
}
