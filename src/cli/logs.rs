//! `bayplan logs`.

use futures_util::{FutureExt as _, StreamExt as _};
use jiff::{SignedDuration, Timestamp};

use super::args::Output;
use super::context::Context;
use super::{names, render};
use crate::api::{LogRequest, Service as _};
use crate::error::Result;

/// What a container wrote
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The container
    #[arg(value_name = "ID")]
    pub name: String,
    /// Go on with what it writes
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines
    #[arg(long, value_name = "N")]
    pub tail: Option<u64>,
    /// Only since this time (RFC 3339), or this long ago (5m)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Of the attempt before the current one
    #[arg(short, long)]
    pub previous: bool,
    /// The time in front of each line
    #[arg(short, long)]
    pub timestamps: bool,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let since = args.since.as_deref().map(|text| since(text, context.now)).transpose()?;
    let name = args.name.strip_prefix("container/").unwrap_or(&args.name).to_owned();
    let node = context.node().await?;
    let request = LogRequest {
        namespace: context.namespace(),
        name,
        follow: args.follow,
        tail: args.tail,
        since,
        previous: args.previous,
    };
    let mut lines = node.logs(request).await?;
    // A time only where a line begins: a long line comes in parts.
    let mut begins = true;
    loop {
        // Lines that are there already are written together; before a wait they reach their reader.
        let next = match lines.next().now_or_never() {
            Some(next) => next,
            None => {
                context.ui.flush();
                lines.next().await
            }
        };
        let Some(line) = next.transpose()? else { break };
        if context.output() == Output::Json {
            context.ui.bytes(render::json::line(&line)?.as_bytes());
        } else {
            if args.timestamps && begins {
                context.ui.bytes(format!("{} ", line.time).as_bytes());
            }
            context.ui.bytes(&line.text);
            if !line.partial {
                context.ui.bytes(b"\n");
            }
            begins = !line.partial;
        }
        if context.ui.is_closed() {
            break;
        }
    }
    Ok(0)
}

fn since(text: &str, now: Timestamp) -> Result<Timestamp> {
    use crate::error::{Class, Fault};
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let millis = names::duration(text).map_err(|_| {
        Fault::new(Class::Usage, format!("{text:?} is not a time"))
            .help("write a duration such as 5m, or an instant such as 2026-01-31T12:00:00Z")
    })?;
    let ago = SignedDuration::from_millis(i64::try_from(millis).unwrap_or(i64::MAX));
    Ok(now.checked_sub(ago).unwrap_or(Timestamp::MIN))
}
