//! What is wrong with a manifest, and where. Rendered as `docs/MANIFESTS.md` shows.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place in a manifest file. Lines and columns count from 1; columns count characters.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The file as the user named it, or relative to the manifest directory; `<stdin>` for `-`.
    pub file: String,
    /// Line, from 1; 0 when only the file is known.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 { f.write_str(&self.file) } else { write!(f, "{}:{}:{}", self.file, self.line, self.column) }
    }
}

/// One finding: what, where, the source line, why, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// What is wrong, naming the object or field.
    pub message: String,
    /// Where.
    pub place: Place,
    /// The source line itself (bounded to 200 characters), for the caret line. Empty when unknown.
    pub source_line: String,
    /// Characters underlined from the column.
    pub length: u32,
    /// Beside the carets: why.
    pub label: String,
    /// What to do next.
    pub help: Option<String>,
    /// A second place it is about (the other declaration of a duplicate).
    pub other: Option<Place>,
}
