//! The log on standard error: always the daemon's, of another verb when `--log-level` asks for it.

use std::io::IsTerminal as _;

use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{fmt, reload};

use crate::config::{Log, LogFormat, LogLevel};
use crate::controller::SetLogLevel;

/// From here on what is traced is written to standard error; systemd adds the time itself. What is returned sets
/// another level.
pub(super) fn to_stderr(log: &Log) -> SetLogLevel {
    let (level, handle) = reload::Layer::new(filter(log.level));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(colour);
    let lines = match (log.format, std::env::var_os("JOURNAL_STREAM")) {
        (LogFormat::Json, _) => lines.json().boxed(),
        (LogFormat::Text, Some(_)) => lines.without_time().with_target(false).boxed(),
        (LogFormat::Text, None) => lines.with_target(false).boxed(),
    };
    // Only a second subscriber fails, and there is none before this.
    let _ = tracing_subscriber::registry().with(level).with(lines).try_init();
    Box::new(move |level| {
        // It fails only when the subscriber is gone, which nothing takes away.
        let _ = handle.reload(filter(level));
    })
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
