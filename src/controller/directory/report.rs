//! What the directory source tells people.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{DirectorySource, Presence};
use crate::controller::scan::{RootState, Scan};
use crate::manifest::{Diagnostic, Place, ResourceKey};
use crate::plan::Declared;

/// Why a removal is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeldReason {
    /// All of two or more files vanished within one debounce window.
    AllVanished,
    /// The directory is another one than before (replaced, mounted over, unmounted) and lacks them.
    DirectoryReplaced,
    /// The directory does not exist or cannot be read.
    DirectoryGone,
}

/// A removal that waits for `bayplan sync --confirm-removal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The files, relative to the directory, sorted.
    pub files: Vec<String>,
    /// Why.
    pub reason: HeldReason,
}

/// One line for `status`: why, and which files.
impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.files.len();
        let shown = self.files.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        let more = if count > 3 { format!(" and {} more", count - 3) } else { String::new() };
        let files = if count == 1 { "1 file".to_owned() } else { format!("{count} files") };
        match self.reason {
            HeldReason::AllVanished => write!(f, "held: {files} vanished at once")?,
            HeldReason::DirectoryReplaced => {
                write!(f, "held: the manifest directory was replaced by one without {files}")?
            }
            HeldReason::DirectoryGone => write!(f, "held: the manifest directory is gone with {files}")?,
        }
        let them = if count == 1 { "it" } else { "them" };
        write!(f, ": {shown}{more}; bayplan sync --confirm-removal releases {them}")
    }
}

impl DirectorySource {
    /// What is wrong now, sorted by place: files, parts of the tree, resources declared twice.
    pub fn problems(&self) -> Vec<Diagnostic> {
        let files = self.files.values().flat_map(|state| &state.problems);
        let mut all: Vec<Diagnostic> = files.chain(self.tree.values()).chain(self.refused.values()).cloned().collect();
        all.sort_by(|a, b| a.place.cmp(&b.place));
        all
    }

    /// Keys whose newest declarations are refused, and why; a previous version may be in force.
    pub fn refused(&self) -> &BTreeMap<ResourceKey, Diagnostic> {
        &self.refused
    }

    /// The removal that is held, if one is.
    pub fn held(&self) -> Option<Held> {
        let reason = self.held?;
        let held = self.files.iter().filter(|(_, state)| state.presence == Presence::Held);
        Some(Held { files: held.map(|(name, _)| name.clone()).collect(), reason })
    }
}

/// A finding about a whole file.
pub(super) fn file(name: &str, why: &str) -> Diagnostic {
    finding(format!("{name} {why}"), name, "its last good resources stay, if it had any")
}

/// A file of no bytes where resources were: a full disk leaves such files, and editors that truncate first.
pub(super) fn emptied(name: &str) -> Diagnostic {
    let help = "its last good resources stay; to remove them, remove the file or write a comment into it";
    finding(format!("{name} is empty"), name, help)
}

/// Findings about the tree and its parts, by the directory they are about.
pub(super) fn tree(scan: &Scan) -> BTreeMap<String, Diagnostic> {
    let held = "nothing in it counts as removed until it can be read";
    let mut findings = BTreeMap::new();
    let whole = match &scan.root {
        RootState::Present(_) => None,
        RootState::Missing => Some("the manifest directory does not exist".to_owned()),
        RootState::Unreadable(why) => Some(format!("the manifest directory cannot be read: {why}")),
    };
    if let Some(message) = whole {
        findings.insert(String::new(), finding(message, "", held));
    }
    for blind in &scan.blind {
        let name = if blind.dir.is_empty() { "the manifest directory" } else { blind.dir.as_str() };
        findings.insert(blind.dir.clone(), finding(format!("{name} {}", blind.reason), &blind.dir, held));
    }
    findings
}

/// A resource that is declared twice.
pub(super) fn twice(key: &ResourceKey, first: &Declared, second: &Declared) -> Diagnostic {
    let place = |declared: &Declared| declared.place.clone().unwrap_or_default();
    let other = place(first);
    Diagnostic {
        message: format!("{key} is declared twice"),
        label: format!("also declared at {other}"),
        help: Some("neither new version is taken; remove one of the two".into()),
        other: Some(other),
        place: place(second),
        source_line: String::new(),
        length: 0,
    }
}

fn finding(message: String, file: &str, help: &str) -> Diagnostic {
    Diagnostic {
        message,
        place: Place { file: file.to_owned(), line: 0, column: 0 },
        source_line: String::new(),
        length: 0,
        label: String::new(),
        help: Some(help.to_owned()),
        other: None,
    }
}
