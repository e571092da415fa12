//! `bayplan wait`.

use super::context::Context;
use super::names;
use crate::api::{Service as _, WaitFor, WaitRequest};
use crate::error::Result;

/// Wait until a resource is as asked; exit status 1 if it is not in time
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND/NAME…
    #[arg(value_name = "KIND/NAME", required = true)]
    pub objects: Vec<String>,
    /// What for
    #[arg(long = "for", value_name = "CONDITION", value_parser = condition, default_value = "ready")]
    pub condition: WaitFor,
    /// Give up after this long
    #[arg(long, value_name = "DURATION", value_parser = names::duration, default_value = "60s")]
    pub timeout: u64,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let objects: Vec<_> = args.objects.iter().map(|word| names::object_or_fault(word)).collect::<Result<_>>()?;
    let node = context.node().await?;
    let began = std::time::Instant::now();
    for (kind, name) in objects {
        let key = names::key(kind, &context.namespace(), &name);
        let spent = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let timeout_ms = Some(args.timeout.saturating_sub(spent));
        node.wait(WaitRequest { key, condition: args.condition, timeout_ms }).await?;
        context.ui.line(format!("{kind}/{name} is {}", args.condition));
        context.ui.flush();
    }
    Ok(0)
}

/// Our words, and kubectl's (`condition=Ready`, `delete`).
fn condition(text: &str) -> std::result::Result<WaitFor, String> {
    let word = text.strip_prefix("condition=").unwrap_or(text).to_ascii_lowercase();
    match word.as_str() {
        "running" => Ok(WaitFor::Running),
        "ready" => Ok(WaitFor::Ready),
        "exited" => Ok(WaitFor::Exited),
        "deleted" | "delete" => Ok(WaitFor::Deleted),
        _ => Err("it is one of running, ready, exited, deleted".into()),
    }
}
