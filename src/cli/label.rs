//! `bayplan container label`, `bayplan namespace label`.

use std::collections::BTreeMap;

use super::context::Context;
use super::names;
use crate::api::{LabelRequest, Service as _};
use crate::error::{Class, Fault, Result};
use crate::manifest::Kind;

/// Set and take labels
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which
    #[arg(value_name = "NAME")]
    pub name: String,
    /// KEY=VALUE sets, KEY- takes
    #[arg(value_name = "KEY=VALUE|KEY-", required = true)]
    pub labels: Vec<String>,
}

/// Runs it.
pub async fn run(args: Args, kind: Kind, context: &mut Context) -> Result<u8> {
    let mut labels = BTreeMap::new();
    for text in &args.labels {
        match (text.split_once('='), text.strip_suffix('-')) {
            // ctr takes a label with an empty value.
            (Some((key, value)), _) if !key.is_empty() => {
                labels.insert(key.to_owned(), Some(value.to_owned()).filter(|value| !value.is_empty()));
            }
            (None, Some(key)) if !key.is_empty() => {
                labels.insert(key.to_owned(), None);
            }
            _ => return Err(Fault::new(Class::Usage, format!("{text:?} is neither KEY=VALUE nor KEY-"))),
        }
    }
    let key = names::key(kind, &context.namespace(), &args.name);
    let item = context.node().await?.label(LabelRequest { key, labels }).await?;
    context.ui.line(item.metadata.name);
    Ok(0)
}
