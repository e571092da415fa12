//! Values → text, apart from every verb, so that each thing looks the same wherever it is shown.

pub(super) mod describe;
pub(super) mod diagnostic;
pub(super) mod diff;
pub(super) mod events;
pub(super) mod json;
pub(super) mod listing;
pub(super) mod status;
pub(super) mod steps;
pub(super) mod table;
pub(super) mod time;
pub(super) mod yaml;

use serde::Serialize;

use super::args::Output;
use crate::error::Result;

/// ANSI escapes, or nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint(pub bool);

impl Paint {
    /// Text in this SGR parameter (ECMA-48 8.3.117).
    fn wrap(self, parameter: &str, text: &str) -> String {
        if self.0 && !text.is_empty() { format!("\x1b[{parameter}m{text}\x1b[0m") } else { text.to_owned() }
    }
    pub(super) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }
    pub(super) fn faint(self, text: &str) -> String {
        self.wrap("2", text)
    }
    pub(super) fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }
    pub(super) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }
    pub(super) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }
}

pub(super) use crate::manifest::diagnostic::prose;

/// What arrives over time, as data: a line of JSON, or a YAML document.
pub(super) fn event(output: Output, value: &impl Serialize) -> Result<String> {
    match output {
        Output::Yaml => Ok(format!("---\n{}", yaml::document(value)?)),
        _ => json::line(value),
    }
}

/// Bytes for people: `12.3 MB`.
pub(super) fn size(bytes: u64) -> String {
    humansize::format_size(bytes, humansize::DECIMAL.decimal_places(1))
}
