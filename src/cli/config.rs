//! `bayplan config …`.

use super::args::Output;
use super::context::Context;
use super::{node, render};
use crate::config::Config;
use crate::error::Result;

/// The configuration: its defaults, what is in force, whether it is valid
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print a commented file with every default
    Default,
    /// Print what is in force: file, drop-ins and flags
    Show,
    /// Check file and drop-ins
    Check,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    match args.verb {
        Verb::Default => context.ui.bytes(Config::default_text().as_bytes()),
        Verb::Show => {
            let config = node::configuration(&context.global)?;
            let text = match context.output() {
                Output::Json => render::json::pretty(&config)?,
                Output::Yaml => render::yaml::document(&config)?,
                _ => config.to_toml(),
            };
            context.ui.bytes(text.as_bytes());
        }
        Verb::Check => {
            node::configuration(&context.global)?;
            context.ui.line("the configuration is valid");
        }
    }
    Ok(0)
}
