//! JSON: one value indented, or one a line where values arrive over time.

use serde::Serialize;

use crate::error::{Class, Fault, Result};
use crate::manifest::API_VERSION;

/// `{"apiVersion": …, "kind": "List", "items": […]}`, as every listing is in JSON and YAML.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cli) struct Listing<'a, T> {
    api_version: &'static str,
    kind: &'static str,
    items: &'a [T],
}

impl<'a, T> Listing<'a, T> {
    /// Of these.
    pub(in crate::cli) fn of(items: &'a [T]) -> Self {
        Self { api_version: API_VERSION, kind: "List", items }
    }
}

/// Indented, with a final line feed.
pub(in crate::cli) fn pretty(value: &impl Serialize) -> Result<String> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| Fault::new(Class::Bug, error.to_string()))?;
    text.push('\n');
    Ok(text)
}

/// On one line, with a final line feed.
pub(in crate::cli) fn line(value: &impl Serialize) -> Result<String> {
    let mut text = serde_json::to_string(value).map_err(|error| Fault::new(Class::Bug, error.to_string()))?;
    text.push('\n');
    Ok(text)
}
