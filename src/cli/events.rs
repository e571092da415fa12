//! `bayplan events`.

use futures_util::StreamExt as _;

use super::args::Output;
use super::context::Context;
use super::{names, render};
use crate::api::{EventFilter, EventRecord, Service as _};
use crate::error::Result;

/// What happened, oldest first
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this resource
    #[arg(value_name = "KIND/NAME")]
    pub object: Option<String>,
    /// Go on with what happens
    #[arg(short, long)]
    pub watch: bool,
    /// Only the last N of those kept
    #[arg(long, value_name = "N")]
    pub tail: Option<u64>,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let (kind, name) = match &args.object {
        Some(word) => names::object_or_fault(word).map(|(kind, name)| (Some(kind), Some(name)))?,
        None => (None, None),
    };
    let node = context.node().await?;
    let filter = EventFilter { namespace: context.global.scope(), kind, name, follow: args.watch, tail: args.tail };
    let mut events = node.events(filter).await?;
    let mut kept: Vec<EventRecord> = Vec::new();
    while let Some(event) = events.next().await {
        let event = event?;
        if !args.watch {
            kept.push(event);
            continue;
        }
        match context.output() {
            Output::Json => context.ui.bytes(render::json::line(&event)?.as_bytes()),
            Output::Yaml => {
                context.ui.line("---");
                context.ui.bytes(render::yaml::document(&event)?.as_bytes());
            }
            Output::Name => context.ui.line(format!("{}/{}", event.key.kind, event.key.name)),
            Output::Table | Output::Wide => {
                let line = render::events::line(&event, context.global.all_namespaces, context.ui.colour_out);
                context.ui.line(line);
            }
        }
        context.ui.flush();
        if context.ui.is_closed() {
            return Ok(0);
        }
    }
    if !args.watch {
        show(&kept, context)?;
    }
    Ok(0)
}

fn show(events: &[EventRecord], context: &mut Context) -> Result<()> {
    let list = render::json::Listing::of(events);
    let text = match context.output() {
        Output::Json => render::json::pretty(&list)?,
        Output::Yaml => render::yaml::document(&list)?,
        Output::Name => events.iter().map(|event| format!("{}/{}\n", event.key.kind, event.key.name)).collect(),
        Output::Table | Output::Wide if events.is_empty() => {
            context.ui.note(match context.global.scope() {
                Some(namespace) => format!("no events in namespace {namespace}"),
                None => "no events".to_owned(),
            });
            return Ok(());
        }
        Output::Table | Output::Wide => render::events::table(events, context.global.all_namespaces, context.now, ""),
    };
    context.ui.bytes(text.as_bytes());
    Ok(())
}
