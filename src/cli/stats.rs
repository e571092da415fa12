//! `bayplan stats`, `bayplan task metrics`.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use serde::Serialize;

use super::args::Output;
use super::context::Context;
use super::render::json::Listing;
use super::render::table::Table;
use super::{names, render};
use crate::api::{Client, Service as _, StatsRequest, TaskStats};
use crate::error::Result;
use crate::manifest::API_VERSION;

/// What running containers use: processors, memory, processes, devices, network
///
/// CPU % is of one processor: 200 is two of them. It goes on until it is interrupted; on a terminal the table is drawn anew,
/// else one follows the other, and with -o json each is a line.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Containers [default: all that run]
    #[arg(value_name = "ID")]
    pub names: Vec<String>,
    /// Once, over one interval
    #[arg(long)]
    pub no_stream: bool,
    /// How long a sample is
    #[arg(short, long, value_name = "DURATION", value_parser = names::duration, default_value = "1s")]
    pub interval: u64,
}

/// What a task used over an interval.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Use {
    api_version: &'static str,
    kind: &'static str,
    /// Per cent of one processor, of the time since the sample before.
    cpu_percent: f64,
    /// Per cent of its limit; absent without one.
    memory_percent: Option<f64>,
    #[serde(flatten)]
    sample: TaskStats,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let node = context.node().await?;
    let names: Vec<String> =
        args.names.iter().map(|name| name.strip_prefix("container/").unwrap_or(name).to_owned()).collect();
    let namespace = if names.is_empty() { context.global.scope() } else { Some(context.namespace()) };
    let request = StatsRequest { namespace, names, all: false };
    let interval = Duration::from_millis(args.interval.max(50));
    let live = !args.no_stream && context.ui.draws && io::stdout().is_terminal() && context.output() == Output::Table;
    let mut before = node.stats(request.clone()).await?;
    loop {
        if !before.is_empty() {
            tokio::time::sleep(interval).await;
        }
        let now = node.stats(request.clone()).await?;
        let uses = compare(&before, &now);
        if live {
            let text = table(&uses, context.global.all_namespaces);
            let (columns, rows) = context.ui.size();
            let lines: Vec<String> = text
                .lines()
                .take(rows.saturating_sub(1).max(1))
                .map(|line| line.chars().take(columns).collect())
                .collect();
            context.ui.draw(&lines);
        } else {
            show(&uses, args.no_stream, context)?;
        }
        if args.no_stream || context.ui.is_closed() {
            return Ok(0);
        }
        if now.is_empty() {
            tokio::time::sleep(interval).await;
        }
        before = now;
    }
}

fn show(uses: &[Use], once: bool, context: &mut Context) -> Result<()> {
    let text = match context.output() {
        Output::Json if once => render::json::pretty(&Listing::of(uses))?,
        Output::Json => render::json::line(&Listing::of(uses))?,
        Output::Yaml if once => render::yaml::document(&Listing::of(uses))?,
        Output::Yaml => format!("---\n{}", render::yaml::document(&Listing::of(uses))?),
        Output::Name => uses.iter().map(|one| format!("container/{}\n", one.sample.name)).collect(),
        Output::Table | Output::Wide => {
            let end = if once { "" } else { "\n" };
            table(uses, context.global.all_namespaces) + end
        }
    };
    context.ui.bytes(text.as_bytes());
    context.ui.flush();
    Ok(())
}

/// What was used between two samples. One that is new shows no use of processors yet.
fn compare(before: &[TaskStats], now: &[TaskStats]) -> Vec<Use> {
    let known: HashMap<(&str, &str, Option<u32>), &TaskStats> =
        before.iter().map(|one| ((one.namespace.as_str(), one.name.as_str(), one.pid), one)).collect();
    let percent = |part: f64| (part * 10_000.0).round() / 100.0;
    now.iter()
        .map(|one| {
            let earlier = known.get(&(one.namespace.as_str(), one.name.as_str(), one.pid));
            let share = earlier.map_or(0.0, |earlier| {
                let time = one.time.duration_since(earlier.time).as_nanos() as f64;
                if time > 0.0 { one.cpu.saturating_sub(earlier.cpu) as f64 / time } else { 0.0 }
            });
            Use {
                api_version: API_VERSION,
                kind: "ContainerStats",
                cpu_percent: percent(share),
                memory_percent: one.memory_limit.map(|limit| percent(one.memory as f64 / limit as f64)),
                sample: one.clone(),
            }
        })
        .collect()
}

fn table(uses: &[Use], all_namespaces: bool) -> String {
    let columns = ["NAME", "CPU %", "MEMORY / LIMIT", "MEM %", "PIDS", "BLOCK I/O", "NET I/O"];
    let mut table = Table::new(all_namespaces.then_some("NAMESPACE").into_iter().chain(columns));
    let none = || "-".to_owned();
    let both = |one: Option<u64>, other: Option<u64>| match (one, other) {
        (Some(one), Some(other)) => format!("{} / {}", render::size(one), render::size(other)),
        _ => none(),
    };
    for one in uses {
        let sample = &one.sample;
        let limit = sample.memory_limit.map_or_else(none, render::size);
        let cells = [
            sample.name.clone(),
            format!("{:.2}", one.cpu_percent),
            format!("{} / {limit}", render::size(sample.memory)),
            one.memory_percent.map_or_else(none, |percent| format!("{percent:.2}")),
            sample.pids.to_string(),
            both(sample.block_read, sample.block_written),
            both(sample.network_received, sample.network_sent),
        ];
        table.row(all_namespaces.then(|| sample.namespace.clone()).into_iter().chain(cells));
    }
    table.render("")
}

/// Everything that is counted of one task, at this moment
#[derive(Debug, clap::Args)]
pub struct MetricsArgs {
    /// Container
    #[arg(value_name = "ID")]
    pub name: String,
    /// As ctr has it: table or json
    #[arg(long, value_name = "FORMAT", hide = true)]
    pub format: Option<Output>,
}

/// Runs `task metrics`.
pub async fn metrics(args: MetricsArgs, context: &mut Context) -> Result<u8> {
    let node = context.node().await?;
    let name = args.name.strip_prefix("container/").unwrap_or(&args.name).to_owned();
    let one = sample(&node, context.namespace(), name).await?;
    let text = match args.format.unwrap_or(context.output()) {
        Output::Json => render::json::pretty(&one)?,
        Output::Yaml => render::yaml::document(&one)?,
        _ => {
            let mut table = Table::new(["ID", "TIMESTAMP"]);
            table.row([one.name.clone(), one.time.to_string()]);
            let mut text = table.render("") + "\n";
            let mut table = Table::new(["METRIC", "VALUE"]);
            for (name, value) in &one.all {
                table.row([name.clone(), value.to_string()]);
            }
            text.push_str(&table.render(""));
            text
        }
    };
    context.ui.bytes(text.as_bytes());
    Ok(0)
}

async fn sample(node: &Client, namespace: String, name: String) -> Result<TaskStats> {
    let request = StatsRequest { namespace: Some(namespace), names: vec![name], all: true };
    let mut stats = node.stats(request).await?;
    stats
        .pop()
        .ok_or_else(|| crate::error::Fault::new(crate::error::Class::Runtime, "the node's answer holds no sample"))
}
