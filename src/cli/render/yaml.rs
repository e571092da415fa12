//! YAML.

use serde::Serialize;

use crate::error::{Class, Fault, Result};

/// One document, with a final line feed.
pub(in crate::cli) fn document(value: &impl Serialize) -> Result<String> {
    serde_yaml::to_string(value).map_err(|error| Fault::new(Class::Bug, error.to_string()))
}
