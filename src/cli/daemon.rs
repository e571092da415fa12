//! `bayplan daemon`.

use std::io::IsTerminal as _;

use super::context::Context;
use super::node;
use crate::config::{Config, LogFormat, LogLevel};
use crate::error::Result;

/// The controller: watch the manifest directory, keep the node as declared, serve the API
///
/// Containers live on when it ends; its next start takes them up again.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
pub async fn run(_: Args, context: &mut Context) -> Result<u8> {
    let config = context.config()?.clone();
    log_to_stderr(&config);
    node::daemon(config, &context.global).await?;
    Ok(0)
}

/// What the daemon says, on its standard error; systemd adds the time itself.
fn log_to_stderr(config: &Config) {
    let level = match config.log.level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(colour);
    // Only a second subscriber fails, and there is none before this.
    let _ = match (config.log.format, std::env::var_os("JOURNAL_STREAM")) {
        (LogFormat::Json, _) => lines.json().try_init(),
        (LogFormat::Text, Some(_)) => lines.without_time().with_target(false).try_init(),
        (LogFormat::Text, None) => lines.with_target(false).try_init(),
    };
}
