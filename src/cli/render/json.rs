//! JSON: one value indented, or one a line where values arrive over time.

use serde::Serialize;

use crate::error::{Class, Fault, Result};

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
