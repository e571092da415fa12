//! `bayplan logs`.

use futures_util::{FutureExt as _, StreamExt as _};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::args::Output;
use super::context::Context;
use super::{names, render};
use crate::api::{LogLine, LogRequest, LogStream, Service as _};
use crate::error::{Class, Fault, Result};

/// What a container wrote: its output to standard output, its errors to standard error
///
/// Of the current attempt, or of the last one if it does not run. With -f it goes on, also when the container is
/// restarted by its policy, and ends when it has ended for good or is removed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The container
    #[arg(value_name = "ID")]
    pub name: String,
    /// Go on with what it writes
    #[arg(short, long, conflicts_with = "previous")]
    pub follow: bool,
    /// Only the last N lines, or all
    #[arg(long, value_name = "N", value_parser = tail, allow_hyphen_values = true)]
    pub tail: Option<Tail>,
    /// Only from this time on (2026-01-31T12:00:00Z), or since this long ago (90s, 5m, 2h)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only up to this time, as with --since
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Of the attempt before the current one
    #[arg(short, long)]
    pub previous: bool,
    /// The time in front of each line
    #[arg(short, long)]
    pub timestamps: bool,
}

/// How many lines; `None` is all.
type Tail = Option<u64>;

fn tail(text: &str) -> std::result::Result<Tail, String> {
    match text {
        "all" | "-1" => Ok(None),
        text => text.parse().map(Some).map_err(|_| "it is a number of lines, or all".into()),
    }
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let moment = |text: &Option<String>| text.as_deref().map(|text| moment(text, context.now)).transpose();
    let (since, until) = (moment(&args.since)?, moment(&args.until)?);
    let name = args.name.strip_prefix("container/").unwrap_or(&args.name).to_owned();
    let node = context.node().await?;
    let request = LogRequest {
        namespace: context.namespace(),
        name,
        follow: args.follow,
        tail: args.tail.flatten(),
        since,
        until,
        previous: args.previous,
    };
    let mut lines = node.logs(request).await?;
    let mut open = Open::default();
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
            let text = open.text(&line, args.timestamps);
            match line.stream {
                LogStream::Stdout => context.ui.bytes(&text),
                LogStream::Stderr => context.ui.errors(&text),
            }
        }
        if context.ui.is_closed() {
            break;
        }
    }
    Ok(0)
}

/// Which stream is in the middle of a line: a long one comes in parts, each stream's on its own.
#[derive(Default)]
struct Open([bool; 2]);

impl Open {
    /// What is written for a line. A time only where one begins.
    fn text(&mut self, line: &LogLine, timestamps: bool) -> Vec<u8> {
        let open = &mut self.0[usize::from(line.stream == LogStream::Stderr)];
        let mut text = Vec::with_capacity(line.text.len() + 40);
        if timestamps && !*open {
            text.extend_from_slice(format!("{:.9} ", line.time).as_bytes());
        }
        text.extend_from_slice(&line.text);
        if !line.partial {
            text.push(b'\n');
        }
        *open = line.partial;
        text
    }
}

/// An instant, a day, a local time, seconds since 1970, or a duration before now.
fn moment(text: &str, now: Timestamp) -> Result<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if text.contains('-')
        && let Ok(local) = text.parse::<DateTime>()
        && let Ok(time) = TimeZone::system().to_timestamp(local)
    {
        return Ok(time);
    }
    // Docker's seconds since 1970; so long ago nothing ran.
    if let Some(time) = text.parse().ok().filter(|seconds| *seconds > 1_000_000_000)
        && let Ok(time) = Timestamp::from_second(time)
    {
        return Ok(time);
    }
    let millis = names::duration(text).map_err(|_| {
        Fault::new(Class::Usage, format!("{text:?} is not a time"))
            .help("write a duration such as 5m, or an instant such as 2026-01-31T12:00:00Z")
    })?;
    let ago = SignedDuration::from_millis(i64::try_from(millis).unwrap_or(i64::MAX));
    Ok(now.checked_sub(ago).unwrap_or(Timestamp::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_instants_days_seconds_or_durations() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let seconds = |text: &str| now.duration_since(moment(text, now).unwrap()).as_secs();
        assert_eq!((seconds("90"), seconds("5m"), seconds("2026-11-23T11:59:59+00:00")), (90, 300, 1));
        assert_eq!(seconds(&(now.as_second() - 7).to_string()), 7);
        assert!((0..48 * 3600).contains(&seconds("2026-11-23")));
        assert_eq!(moment("yesterday", now).unwrap_err().class, Class::Usage);
    }

    #[test]
    fn each_stream_has_its_own_long_lines() {
        let line =
            |stream, text: &str, partial| LogLine { time: Timestamp::UNIX_EPOCH, stream, text: text.into(), partial };
        let mut open = Open::default();
        let mut text = |line| String::from_utf8(open.text(&line, true)).unwrap();
        let time = "1970-01-01T00:00:00.000000000Z ";
        assert_eq!(text(line(LogStream::Stdout, "a", true)), format!("{time}a"));
        assert_eq!(text(line(LogStream::Stderr, "e", false)), format!("{time}e\n"));
        assert_eq!(text(line(LogStream::Stdout, "b", false)), "b\n");
    }
}
