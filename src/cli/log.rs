//! The log on standard error: always the daemon's, of another verb when `--log-level` asks for it.

use std::io::IsTerminal as _;

use crate::config::{Log, LogFormat, LogLevel};

/// From here on what is traced is written to standard error; systemd adds the time itself.
pub(super) fn to_stderr(log: &Log) {
    let level = match log.level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(colour);
    // Only a second subscriber fails, and there is none before this.
    let _ = match (log.format, std::env::var_os("JOURNAL_STREAM")) {
        (LogFormat::Json, _) => lines.json().try_init(),
        (LogFormat::Text, Some(_)) => lines.without_time().with_target(false).try_init(),
        (LogFormat::Text, None) => lines.with_target(false).try_init(),
    };
}
