//! `bayplan snapshot …`: unpacked layers and writable ones, for people who look inside.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;

use super::args::Output;
use super::context::Context;
use super::render::json::Listing;
use super::render::table::Table;
use super::{later, render};
use crate::api::{Service as _, SnapshotInfo};
use crate::error::{Class, Fault, Result};

/// Unpacked layers: list, show as a tree, measure
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List snapshots: one a layer, and the writable one of each container
    #[command(visible_alias = "list")]
    Ls,
    /// Show which lies upon which
    Tree,
    /// Show what each takes on disk, the largest first
    Usage {
        /// Chain IDs, which may be cut short; without any, all
        names: Vec<String>,
    },
    #[command(external_subcommand)]
    Unknown(Vec<OsString>),
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    if let Verb::Unknown(words) = &args.verb {
        return later::run("snapshot", words);
    }
    let mut snapshots = context.node().await?.snapshots().await?;
    if let Verb::Usage { names } = &args.verb {
        snapshots.sort_by_key(|one| std::cmp::Reverse(one.size));
        for name in names {
            if !snapshots.iter().any(|one| is_named(one, name)) {
                return Err(
                    Fault::new(Class::NotFound, format!("snapshot {name} is not there")).help("bayplan snapshot ls")
                );
            }
        }
        snapshots.retain(|one| names.is_empty() || names.iter().any(|name| is_named(one, name)));
    }
    let text = match (context.output(), args.verb) {
        (Output::Json, _) => render::json::pretty(&Listing::of(&snapshots))?,
        (Output::Yaml, _) => render::yaml::document(&Listing::of(&snapshots))?,
        (Output::Name, _) => snapshots.iter().map(|one| format!("snapshot/{}\n", one.name)).collect(),
        (_, Verb::Tree) => tree(&snapshots),
        (output, Verb::Ls) => list(&snapshots, output == Output::Wide),
        (_, Verb::Usage { .. } | Verb::Unknown(_)) => usage(&snapshots),
    };
    context.ui.bytes(text.as_bytes());
    Ok(0)
}

fn is_named(one: &SnapshotInfo, name: &str) -> bool {
    let bare = |text: &str| text.strip_prefix("sha256:").unwrap_or(text).to_owned();
    !name.is_empty() && bare(&one.name).starts_with(&bare(name))
}

fn short(name: &str) -> String {
    name.strip_prefix("sha256:").map_or(name, |hex| &hex[..hex.len().min(12)]).to_owned()
}

fn list(snapshots: &[SnapshotInfo], wide: bool) -> String {
    let shown = |name: &str| if wide { name.to_owned() } else { short(name) };
    let mut table = Table::new(["NAME", "PARENT", "KIND", "SIZE", "USED BY"]);
    for one in snapshots {
        let parent = one.parent.as_ref().map_or_else(String::new, |parent| shown(parent.as_str()));
        table.row([shown(&one.name), parent, one.kind.clone(), render::size(one.size), one.used_by.join(",")]);
    }
    table.render("")
}

fn usage(snapshots: &[SnapshotInfo]) -> String {
    let mut table = Table::new(["NAME", "SIZE"]);
    for one in snapshots {
        table.row([short(&one.name), render::size(one.size)]);
    }
    table.row(["all".into(), render::size(snapshots.iter().map(|one| one.size).sum())]);
    table.render("")
}

fn tree(snapshots: &[SnapshotInfo]) -> String {
    let mut upon: BTreeMap<Option<&str>, Vec<&SnapshotInfo>> = BTreeMap::new();
    for one in snapshots {
        // One whose parent is gone stands at the root, to be seen.
        let parent = one.parent.as_ref().map(|parent| parent.as_str());
        upon.entry(parent.filter(|parent| snapshots.iter().any(|other| other.name == *parent))).or_default().push(one);
    }
    let mut text = String::new();
    let mut todo: Vec<(&SnapshotInfo, usize)> =
        upon.get(&None).into_iter().flatten().rev().map(|one| (*one, 0)).collect();
    while let Some((one, depth)) = todo.pop() {
        let users =
            if one.used_by.is_empty() { String::new() } else { format!("  {}", render::prose(&one.used_by.join(","))) };
        let _ = writeln!(text, "{}{}  {}{users}", "  ".repeat(depth), short(&one.name), render::size(one.size));
        let children = upon.get(&Some(one.name.as_str())).into_iter().flatten().rev();
        todo.extend(children.map(|child| (*child, depth + 1)));
    }
    text
}
