//! `bayplan inspect`.

use super::args::Output;
use super::context::Context;
use super::{names, render};
use crate::api::{Inspection, Service as _};
use crate::error::{Class, Result};
use crate::manifest::Kind;

/// Everything about a container or image, for people who look inside: JSON by default
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A container, an image, or KIND/NAME
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    show(&args.names, &[Kind::Container, Kind::Image, Kind::Tag], context).await
}

/// Shows what has these names, trying the kinds in turn.
pub(super) async fn show(words: &[String], kinds: &[Kind], context: &mut Context) -> Result<u8> {
    let node = context.node().await?;
    let namespace = context.namespace();
    let mut found: Vec<Inspection> = Vec::new();
    for word in words {
        let (kinds, name) = match names::object(word) {
            Some((kind, name)) => (vec![kind], name),
            None => (kinds.to_vec(), word.as_str()),
        };
        let mut missing = None;
        for kind in kinds {
            let key = names::key(kind, &namespace, name);
            match node.inspect(key.clone()).await {
                Ok(inspection) => {
                    found.push(inspection);
                    missing = None;
                    break;
                }
                Err(fault) if fault.class == Class::NotFound => missing = missing.or(Some(key)),
                Err(fault) => return Err(fault),
            }
        }
        if let Some(key) = missing {
            return Err(names::not_found(&node, &key).await);
        }
    }
    let text = match (context.global.output, found.as_slice()) {
        (Some(Output::Name), found) => {
            found.iter().map(|one| format!("{}/{}\n", one.item.kind, one.item.metadata.name)).collect()
        }
        (Some(Output::Yaml), [one]) => render::yaml::document(one)?,
        (Some(Output::Yaml), found) => render::yaml::document(&found)?,
        (_, [one]) => render::json::pretty(one)?,
        (_, found) => render::json::pretty(&found)?,
    };
    context.ui.bytes(text.as_bytes());
    Ok(0)
}
