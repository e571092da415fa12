//! `bayplan describe`.

use futures_util::TryStreamExt as _;

use super::args::Output;
use super::context::Context;
use super::{names, render};
use crate::api::{Client, EventFilter, EventRecord, Item, ItemMetadata, ProcessInfo, Service as _, Status, TopRequest};
use crate::error::{Class, Fault, Result};
use crate::manifest::Kind;

/// How many events are shown.
const EVENTS: u64 = 10;

/// Show everything about one resource: what is wanted, what is, why, and what happened last
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND NAME, or KIND/NAME
    #[arg(value_name = "KIND NAME|KIND/NAME", required = true, num_args = 1..)]
    pub object: Vec<String>,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let objects = objects(&args.object)?;
    let node = context.node().await?;
    for (index, (kind, name)) in objects.iter().enumerate() {
        let item = names::find(&node, &names::key(*kind, &context.namespace(), name)).await?;
        let text = match context.output() {
            Output::Json => render::json::pretty(&item)?,
            Output::Yaml => render::yaml::document(&item)?,
            Output::Name => format!("{}/{}\n", item.kind, item.metadata.name),
            Output::Table | Output::Wide => {
                let filter = EventFilter {
                    namespace: Some(item.metadata.namespace.clone()),
                    kind: Some(*kind),
                    name: Some(item.metadata.name.clone()),
                    follow: false,
                    tail: Some(EVENTS),
                };
                let events: Vec<EventRecord> = node.events(filter).await?.try_collect().await?;
                let execs = execs(&node, &item).await;
                render::describe::item(&item, &execs, &events, context.now)?
            }
        };
        if index > 0 && matches!(context.output(), Output::Table | Output::Wide) {
            context.ui.line("");
        }
        context.ui.bytes(text.as_bytes());
    }
    Ok(0)
}

/// The further processes of a container that runs. Another answer than the list is none: what else is known is shown.
async fn execs(node: &Client, item: &Item) -> Vec<ProcessInfo> {
    let ItemMetadata { namespace, name, .. } = &item.metadata;
    if !matches!(&item.status, Status::Container(status) if status.pid.is_some()) {
        return Vec::new();
    }
    let mut processes =
        node.top(TopRequest { namespace: namespace.clone(), name: name.clone() }).await.unwrap_or_default();
    processes.retain(|process| process.exec_id.is_some());
    processes
}

fn objects(words: &[String]) -> Result<Vec<(Kind, String)>> {
    match words {
        [kind, names @ ..] if names::object(kind).is_none() && !names.is_empty() => {
            let kind = names::kind(kind)?;
            Ok(names.iter().map(|name| (kind, name.clone())).collect())
        }
        [only] if names::kind_word(only).is_some() => {
            Err(Fault::new(Class::Usage, format!("which {only}?")).help(format!("name one: {only}/NAME")))
        }
        words => words.iter().map(|word| names::object_or_fault(word)).collect(),
    }
}
