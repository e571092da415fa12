//! Reading typed values off the tree. Every reader returns `None` after reporting why, so that one pass
//! finds everything that is wrong with a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, Place};
use super::names::nearest;
use super::scalar::{ScalarKind, integer};
use super::source::{Extent, Text};
use super::tree::{Entry, Node, Value};

/// The most findings reported of one file.
const MAX_FINDINGS: usize = 50;

/// The fields of one map.
pub(super) struct Fields {
    /// What the map is, for messages: `a container's spec`.
    pub what: &'static str,
    /// Fields that are read.
    pub known: &'static [&'static str],
    /// Fields that later versions read.
    pub later: &'static [&'static str],
    /// Words people write for something that is spelled otherwise here, and how.
    pub hints: &'static [(&'static str, &'static str)],
}

/// A map being read: its fields by name.
pub(super) struct Object<'t> {
    pub path: String,
    pub node: &'t Node,
    entries: &'t [Entry],
}

impl<'t> Object<'t> {
    /// A field that is there and not null, with its path.
    pub fn get(&self, field: &str) -> Option<(&'t Node, String)> {
        let entry = self.entries.iter().find(|entry| entry.key == field)?;
        (!entry.node.is_null()).then(|| (entry.node.as_ref(), join(&self.path, field)))
    }

    pub fn entry(&self, field: &str) -> Option<&'t Entry> {
        self.entries.iter().find(|entry| entry.key == field)
    }

    /// Where to point when something is missing: the first key of the map.
    pub fn head(&self) -> Extent {
        self.entries.first().map_or(self.node.extent, |entry| entry.extent)
    }
}

pub(super) fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

/// One file's reading: its findings, and the resource being read.
pub(super) struct Reader<'a> {
    pub text: &'a Text,
    /// The directory that relative paths are taken from.
    pub base: Option<PathBuf>,
    pub default_namespace: &'a str,
    pub found: Vec<Diagnostic>,
    /// The resource being read, such as `container shop/web`; opens every message.
    pub subject: String,
    /// Places of the fields of the resource being read.
    pub fields: BTreeMap<String, Place>,
    left_out: usize,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a Text, path: Option<&Path>, default_namespace: &'a str) -> Self {
        let base =
            path.and_then(|path| std::path::absolute(path).ok()).and_then(|path| Some(path.parent()?.to_owned()));
        Self {
            text,
            base,
            default_namespace,
            found: Vec::new(),
            subject: String::new(),
            fields: BTreeMap::new(),
            left_out: 0,
        }
    }

    /// The findings, the last one counting those that were left out.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        if self.left_out > 0 {
            let place = Place { file: self.text.name.clone(), line: 0, column: 0 };
            self.found
                .push(Diagnostic::at(place, format!("{} more findings in this file are not shown", self.left_out)));
        }
        self.found
    }

    /// The nearest candidate to a wrong word. Not looked for when its finding will be left out: a hostile
    /// file has a great many of them.
    pub fn near<'c>(&self, word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
        if self.found.len() >= MAX_FINDINGS { None } else { nearest(word, candidates) }
    }

    pub fn report(&mut self, extent: Extent, message: String, label: &str, help: Option<String>) {
        if self.found.len() >= MAX_FINDINGS {
            self.left_out += 1;
            return;
        }
        let message = if self.subject.is_empty() { message } else { format!("{}: {message}", self.subject) };
        let mut finding = self.text.finding(extent, message, label);
        finding.help = help;
        self.found.push(finding);
    }

    /// The same about two places.
    pub fn report_twice(&mut self, extent: Extent, first: Extent, message: String) {
        let other = self.text.place(first);
        let before = self.found.len();
        self.report(extent, message, &format!("the first one is at {other}"), Some("keep one of them".into()));
        if let Some(finding) = self.found.get_mut(before) {
            finding.other = Some(other);
        }
    }

    pub fn mark(&mut self, path: &str, extent: Extent) {
        self.fields.insert(path.to_owned(), self.text.place(extent));
    }

    pub fn wrong_type(&mut self, node: &Node, path: &str, expected: &str, help: Option<String>) {
        let stands = describe(node);
        self.report(node.extent, format!("{path} must be {expected}, not {stands}"), &stands, help);
    }

    /// A map with these fields; unknown ones are reported, and the rest is read all the same.
    pub fn object<'t>(&mut self, node: &'t Node, path: &str, fields: &Fields) -> Option<Object<'t>> {
        let entries = self.map(node, path)?;
        for entry in entries {
            let key = entry.key.as_str();
            if fields.known.contains(&key) {
                continue;
            }
            let whole = join(path, key);
            if fields.later.contains(&key) {
                let message = format!("{whole} is not supported by this version yet");
                self.report(entry.extent, message, "a field of later versions", Some("leave it out".into()));
                continue;
            }
            let hint = fields.hints.iter().find(|(word, _)| *word == key).map(|(_, hint)| (*hint).to_owned());
            let help = hint.unwrap_or_else(|| match self.near(key, fields.known.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("its fields are {}", fields.known.join(", ")),
            });
            self.report(
                entry.extent,
                format!("unknown field {whole}"),
                &format!("not a field of {}", fields.what),
                Some(help),
            );
        }
        Some(Object { path: path.to_owned(), node, entries })
    }

    /// A map with any keys.
    pub fn map<'t>(&mut self, node: &'t Node, path: &str) -> Option<&'t [Entry]> {
        if let Value::Map(entries) = &node.value {
            self.mark(path, node.extent);
            return Some(entries);
        }
        let shown = if path.is_empty() { "a manifest" } else { path };
        self.wrong_type(node, shown, "a map", None);
        None
    }

    /// A list; `help` says how to write one where people write something else.
    pub fn list<'t>(&mut self, node: &'t Node, path: &str, help: Option<&str>) -> Option<Vec<(&'t Node, String)>> {
        if let Value::List(items) = &node.value {
            self.mark(path, node.extent);
            return Some(items.iter().enumerate().map(|(i, item)| (item.as_ref(), format!("{path}[{i}]"))).collect());
        }
        self.wrong_type(node, path, "a list", help.map(Into::into));
        None
    }

    /// A field that must be there.
    pub fn need<'t>(&mut self, object: &Object<'t>, field: &str, help: &str) -> Option<(&'t Node, String)> {
        if let Some(found) = object.get(field) {
            return Some(found);
        }
        let path = join(&object.path, field);
        // A null value is pointed at; what is not there at all is missed where its map begins.
        let (extent, label) = match object.entry(field) {
            Some(entry) => (entry.extent, "has no value".to_owned()),
            None => (object.head(), format!("{field} is missing in this map")),
        };
        self.report(extent, format!("{path} is required"), &label, Some(help.to_owned()));
        None
    }

    /// Text. A number or boolean is refused: which text was meant is the writer's to say.
    pub fn string(&mut self, node: &Node, path: &str) -> Option<String> {
        match &node.value {
            Value::Scalar(text, ScalarKind::Text) => self.without_nul(node, path, text),
            Value::Scalar(text, ScalarKind::Bool | ScalarKind::Int | ScalarKind::Float) => {
                self.wrong_type(node, path, "text", Some(format!("quote it: \"{text}\"")));
                None
            }
            _ => {
                self.wrong_type(node, path, "text", None);
                None
            }
        }
    }

    /// Text, or a number or boolean taken verbatim.
    pub fn loose_string(&mut self, node: &Node, path: &str) -> Option<String> {
        match &node.value {
            Value::Scalar(_, ScalarKind::Null) => {
                self.wrong_type(node, path, "text", Some("for an empty text write \"\"".into()));
                None
            }
            Value::Scalar(text, _) => self.without_nul(node, path, text),
            _ => {
                self.wrong_type(node, path, "text", None);
                None
            }
        }
    }

    fn without_nul(&mut self, node: &Node, path: &str, text: &str) -> Option<String> {
        self.mark(path, node.extent);
        if text.contains('\0') {
            self.report(node.extent, format!("{path} holds a NUL character"), "no text in Linux may", None);
            return None;
        }
        Some(text.to_owned())
    }

    pub fn boolean(&mut self, node: &Node, path: &str) -> Option<bool> {
        match &node.value {
            Value::Scalar(text, ScalarKind::Bool) => {
                self.mark(path, node.extent);
                Some(text.eq_ignore_ascii_case("true"))
            }
            Value::Scalar(text, ScalarKind::Text) => {
                let word = text.to_ascii_lowercase();
                let help = match word.as_str() {
                    "yes" | "on" | "y" => Some("write true; in YAML 1.2 this is a word".into()),
                    "no" | "off" | "n" => Some("write false; in YAML 1.2 this is a word".into()),
                    "true" | "false" => Some("remove the quotes".into()),
                    _ => None,
                };
                self.wrong_type(node, path, "true or false", help);
                None
            }
            _ => {
                self.wrong_type(node, path, "true or false", None);
                None
            }
        }
    }

    /// A whole number within bounds.
    pub fn integer(&mut self, node: &Node, path: &str, min: i128, max: i128) -> Option<i128> {
        let Value::Scalar(text, kind) = &node.value else {
            self.wrong_type(node, path, "a whole number", None);
            return None;
        };
        if *kind != ScalarKind::Int {
            let help = (*kind == ScalarKind::Text && text.parse::<i128>().is_ok()).then(|| "remove the quotes".into());
            self.wrong_type(node, path, "a whole number", help);
            return None;
        }
        self.mark(path, node.extent);
        let digits = text.trim_start_matches(['-', '+']);
        if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
            let plain = digits.trim_start_matches('0');
            let plain = if plain.is_empty() { "0" } else { plain };
            let help = format!("write 0o{plain} for octal, or {plain}");
            self.report(node.extent, format!("{path}: {text} may be octal or decimal"), "begins with 0", Some(help));
            return None;
        }
        match integer(text) {
            Some(number) if (min..=max).contains(&number) => Some(number),
            value => {
                let why = match value {
                    Some(number) if number < min => format!("less than {min}"),
                    _ => format!("more than {max}"),
                };
                self.report(node.extent, format!("{path} is out of range: {text}"), &why, None);
                None
            }
        }
    }

    pub fn unsigned(&mut self, node: &Node, path: &str, min: u32, max: u32) -> Option<u32> {
        self.integer(node, path, i128::from(min), i128::from(max)).and_then(|number| u32::try_from(number).ok())
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, node: &Node, path: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.string(node, path)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let help = match self.near(&text, words.iter().copied()) {
            Some(near) => format!("did you mean {near}? It is one of {}", words.join(", ")),
            None => format!("it is one of {}", words.join(", ")),
        };
        self.report(node.extent, format!("{path} cannot be {text:?}"), "not one of its values", Some(help));
        None
    }

    /// Text or a number that a type of its own parses; its error is the message.
    pub fn parsed<T: std::str::FromStr<Err = String>>(&mut self, node: &Node, path: &str, what: &str) -> Option<T> {
        let text = match &node.value {
            Value::Scalar(text, ScalarKind::Text | ScalarKind::Int | ScalarKind::Float) => text,
            _ => {
                self.wrong_type(node, path, what, None);
                return None;
            }
        };
        self.mark(path, node.extent);
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let (message, help) = match error.split_once(": ") {
                    Some((message, help)) => (message.to_owned(), Some(help.to_owned())),
                    None => (error, None),
                };
                self.report(node.extent, format!("{path}: {message}"), &format!("not {what}"), help);
                None
            }
        }
    }
}

/// What stands there, in words.
pub(super) fn describe(node: &Node) -> String {
    let short = |text: &str| match text.char_indices().nth(30) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    };
    match &node.value {
        Value::Map(_) => "a map".into(),
        Value::List(_) => "a list".into(),
        Value::Scalar(_, ScalarKind::Null) => "nothing".into(),
        Value::Scalar(text, ScalarKind::Bool) => text.to_lowercase(),
        Value::Scalar(text, ScalarKind::Int | ScalarKind::Float) => format!("the number {}", short(text)),
        Value::Scalar(text, ScalarKind::Text) => format!("the text {:?}", short(text)),
    }
}
