//! `bayplan image tree`.

use std::fmt::Write as _;

use super::args::Output;
use super::context::Context;
use super::render;
use super::render::table::Table;
use crate::api::{Query, Service as _, TreeNode, TreeReport};
use crate::error::Result;

/// Show which layers images share, and what each has alone
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
pub async fn run(_: Args, context: &mut Context) -> Result<u8> {
    let node = context.node().await?;
    let report = node.image_tree(Query { namespace: context.global.scope(), ..Query::default() }).await?;
    let text = match context.output() {
        Output::Json => render::json::pretty(&report)?,
        Output::Yaml => render::yaml::document(&report)?,
        Output::Name => {
            report.images.iter().flat_map(|i| &i.references).map(|name| format!("image/{name}\n")).collect()
        }
        Output::Table | Output::Wide => shown(&report),
    };
    context.ui.bytes(text.as_bytes());
    Ok(0)
}

fn shown(report: &TreeReport) -> String {
    let mut text = String::new();
    for root in &report.roots {
        grow(root, 0, &mut text);
    }
    if !text.is_empty() {
        text.push('\n');
    }
    let mut table = Table::new(["IMAGE", "LAYERS", "SIZE", "SHARED", "UNIQUE"]);
    for image in &report.images {
        table.row([
            image.references.join(","),
            image.layers.to_string(),
            render::size(image.size),
            render::size(image.size - image.unique_size),
            render::size(image.unique_size),
        ]);
    }
    table.row([
        "all, each layer once".into(),
        "-".into(),
        render::size(report.size),
        render::size(report.shared_size),
        render::size(report.size - report.shared_size),
    ]);
    text.push_str(&table.render(""));
    let _ = writeln!(
        text,
        "unpacked {}, of which shared {}",
        render::size(report.unpacked_size),
        render::size(report.shared_unpacked_size)
    );
    text
}

/// Layers that follow one another without a fork stand below one another at one depth.
fn grow(node: &TreeNode, depth: usize, text: &mut String) {
    let unpacked =
        node.unpacked_size.map_or_else(|| "not unpacked".to_owned(), |size| format!("{} unpacked", render::size(size)));
    let shared = if node.images > 1 { format!(", {} images", node.images) } else { String::new() };
    let (indent, id) = ("  ".repeat(depth), node.digest.short());
    let _ = writeln!(text, "{indent}{id}  {}, {unpacked}{shared}", render::size(node.size));
    for end in &node.ends {
        let _ = writeln!(text, "{indent}  = {}", render::prose(end));
    }
    let deeper = depth + usize::from(node.children.len() > 1 || !node.ends.is_empty());
    for child in &node.children {
        grow(child, deeper, text);
    }
}
