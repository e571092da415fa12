//! Text → a tree of nodes that know where they stand: YAML events with anchors, aliases and merge keys
//! resolved, duplicate keys found, and every size bounded before anything grows.

use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::diagnostic::Diagnostic;
use super::json;
use super::scalar::{ScalarKind, kind_of};
use super::source::{Extent, Text, number};

/// Nested deeper than this is refused.
pub const MAX_DEPTH: u32 = 64;
/// The most nodes that aliases and merge keys may add to a file.
pub const MAX_ALIASED: u64 = 100_000;
/// The most nodes that a file may hold.
pub const MAX_NODES: u64 = 500_000;

#[derive(Debug)]
pub(super) struct Node {
    pub extent: Extent,
    pub value: Value,
    /// Nodes of this subtree as written out, aliases expanded.
    size: u64,
    /// Levels of this subtree.
    height: u32,
}

#[derive(Debug)]
pub(super) enum Value {
    /// A scalar's source text (escapes resolved) and its type by the YAML 1.2 core schema.
    Scalar(String, ScalarKind),
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub extent: Extent,
    pub node: Rc<Node>,
}

impl Node {
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Scalar(_, ScalarKind::Null))
    }

    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The text of a scalar as it was written, whatever its type.
    pub fn scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text, kind) if *kind != ScalarKind::Null => Some(text),
            _ => None,
        }
    }

    /// The value of a key, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries()?.iter().find(|entry| entry.key == key).map(|entry| entry.node.as_ref())
    }
}

/// The documents of a file; findings stop no other document of it, a syntax error ends the file.
pub(super) fn documents(text: &Text, json: bool, found: &mut Vec<Diagnostic>) -> Vec<Rc<Node>> {
    let source = if json {
        match json::check(text) {
            Ok(source) => source,
            Err(finding) => {
                found.push(*finding);
                return Vec::new();
            }
        }
    } else if text.text.trim_start().starts_with(['{', '[']) {
        // JSON by another name, such as from stdin; what only resembles it is YAML's to judge.
        json::check(text).unwrap_or(std::borrow::Cow::Borrowed(&*text.text))
    } else {
        std::borrow::Cow::Borrowed(&*text.text)
    };
    let mut builder =
        Builder { text, found, anchors: HashMap::new(), stack: Vec::new(), nodes: 0, aliased: 0, root: None };
    let mut documents = Vec::new();
    let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str(&source);
    while let Some(event) = parser.next_event() {
        let step = match event {
            Ok((Event::StreamEnd, _)) => break,
            Ok((event, span)) => builder.event(event, span),
            Err(error) => Err(Box::new(syntax(text, &error))),
        };
        if let Err(fatal) = step {
            builder.found.push(*fatal);
            return documents;
        }
        if let Some(root) = builder.root.take()
            && !root.is_null()
        {
            documents.push(root);
        }
    }
    documents
}

fn start(text: &Text, span: &Span) -> Extent {
    let extent = Extent { line: number(span.start.line()), column: number(span.start.col() + 1), length: 0 };
    // What is left out at the end of a text without a last line feed stands, to the parser, on a line that is not there.
    if extent.line > text.lines() {
        let last = text.lines();
        return Extent { line: last, column: number(text.line(last).chars().count() + 1), length: 0 };
    }
    extent
}

/// A syntax error in our words. Tabs come first: the parser's own message about them varies by place.
fn syntax(text: &Text, error: &ScanError) -> Diagnostic {
    let line = number(error.marker().line()).max(1);
    for line in [line, line.saturating_sub(1), line + 1] {
        let source = text.line(line);
        let indent = source.len() - source.trim_start_matches([' ', '\t']).len();
        if let Some(tab) = source[..indent].find('\t') {
            let extent = Extent { line, column: number(tab + 1), length: number(indent - tab) };
            return text
                .finding(extent, "a tab stands in the indentation", "YAML indents with spaces only")
                .help("replace each tab by spaces");
        }
    }
    let info = error.info().trim_start_matches("while ").trim();
    let (line, column) = match text.line(line) {
        // At the end of the text: the last line that holds anything shows what is missing behind it.
        "" => match (1..line).rev().find(|line| !text.line(*line).trim().is_empty()) {
            Some(line) => (line, number(text.line(line).trim_end().chars().count() + 1)),
            None => (line, 1),
        },
        _ => (line, number(error.marker().col() + 1)),
    };
    let rest = text.line(line).chars().skip(column as usize - 1).count();
    let extent = Extent { line, column, length: if rest == 0 { 1 } else { 0 } };
    if info.contains("recursion limit") {
        return *too_deep(text, extent);
    }
    let mut finding = text.finding(extent, "the YAML is malformed", info);
    finding.length = finding.length.min(20);
    finding.help = if info.contains("escape code") {
        Some("write the character itself, or its whole escape".into())
    } else if info.contains("mapping values are not allowed") {
        Some(
            "indent a key like its neighbours, give each a line of its own, and quote a value that holds \": \"".into(),
        )
    } else if info.contains("simple key") || info.contains("expect ':'") {
        Some("a key ends with a colon and a space, and is indented like its neighbours".into())
    } else if info.contains("unknown anchor") {
        Some("an alias (*name) needs its anchor (&name) earlier in the same document".into())
    } else if ["end of stream", "eof", "unclosed", "quoted scalar", "or ']'", "or '}'"]
        .iter()
        .any(|part| info.contains(part))
    {
        Some("a bracket, brace or quote is not closed, or the file is cut off".into())
    } else if text.line(line).contains('\t') {
        Some("replace each tab by a space".into())
    } else if info.contains("<document start>") {
        Some("a line with --- stands between two documents; a .json file holds one value, such as a kind: List".into())
    } else {
        Some("write it as YAML, or quote it".into())
    };
    finding
}

fn too_deep(text: &Text, extent: Extent) -> Box<Diagnostic> {
    let message = format!("the file is nested more than {MAX_DEPTH} levels deep");
    Box::new(text.finding(extent, message, "too deep").help("no field of a manifest needs that many"))
}

struct Open {
    anchor: usize,
    extent: Extent,
    items: Items,
}

enum Items {
    List(Vec<Rc<Node>>),
    Map { entries: Vec<Entry>, index: HashMap<String, Extent>, merges: Vec<(Extent, Rc<Node>)>, key: Key },
}

/// What the next node of a map is.
enum Key {
    /// A key.
    Wanted,
    /// The value of this key.
    Read(String, Extent),
    /// What is merged in.
    Merge(Extent),
    /// The value of a key that was reported.
    Bad,
}

struct Builder<'a> {
    text: &'a Text,
    found: &'a mut Vec<Diagnostic>,
    anchors: HashMap<usize, Rc<Node>>,
    stack: Vec<Open>,
    nodes: u64,
    aliased: u64,
    root: Option<Rc<Node>>,
}

type Step = Result<(), Box<Diagnostic>>;

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Step {
        let extent = start(self.text, &span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let length = if span.start.line() != span.end.line() {
                    0
                } else if style == ScalarStyle::Plain {
                    text.chars().count().max(1)
                } else {
                    span.end.col().saturating_sub(span.start.col()).max(1)
                };
                let extent = Extent { length: number(length), ..extent };
                if style == ScalarStyle::Plain && tag.is_none() && text == "<<" && self.key_wanted() {
                    self.set_key(Key::Merge(extent));
                    return Ok(());
                }
                let kind = self.scalar_kind(&text, style, tag.as_deref(), extent);
                let value = Value::Scalar(text.into_owned(), kind);
                self.counted(extent)?;
                self.finish(anchor, Rc::new(Node { extent, value, size: 1, height: 0 }))
            }
            Event::SequenceStart(anchor, tag) => {
                self.collection_tag(tag.as_deref(), "seq", extent);
                self.open(Open { anchor, extent, items: Items::List(Vec::new()) })
            }
            Event::MappingStart(anchor, tag) => {
                self.collection_tag(tag.as_deref(), "map", extent);
                let items =
                    Items::Map { entries: Vec::new(), index: HashMap::new(), merges: Vec::new(), key: Key::Wanted };
                self.open(Open { anchor, extent, items })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(id) => self.alias(id, extent),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn scalar_kind(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, extent: Extent) -> ScalarKind {
        let plain = if style == ScalarStyle::Plain { kind_of(text) } else { ScalarKind::Text };
        let Some(tag) = tag else { return plain };
        let suffix = if tag.is_yaml_core_schema() { tag.suffix.as_str() } else { "" };
        let wanted = match suffix {
            "str" => return ScalarKind::Text,
            "int" => ScalarKind::Int,
            "float" if kind_of(text) == ScalarKind::Int => return ScalarKind::Float,
            "float" => ScalarKind::Float,
            "bool" => ScalarKind::Bool,
            "null" => ScalarKind::Null,
            // `! text` is YAML's way to say that it is a string.
            _ if tag.handle.is_empty() && tag.suffix == "!" => return ScalarKind::Text,
            _ => {
                self.tag_finding(tag, extent);
                return ScalarKind::Text;
            }
        };
        if kind_of(text) != wanted {
            self.tag_finding(tag, extent);
        }
        wanted
    }

    fn collection_tag(&mut self, tag: Option<&Tag>, own: &str, extent: Extent) {
        if let Some(tag) = tag
            && !(tag.is_yaml_core_schema() && tag.suffix == own)
        {
            self.tag_finding(tag, extent);
        }
    }

    fn tag_finding(&mut self, tag: &Tag, extent: Extent) {
        let name = if tag.is_yaml_core_schema() { format!("!!{}", tag.suffix) } else { tag.to_string() };
        let finding = self
            .text
            .finding(extent, format!("the YAML tag {name} does not fit here"), "tagged value")
            .help("manifests need no YAML tags: leave it out");
        self.found.push(finding);
    }

    fn counted(&mut self, extent: Extent) -> Step {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = format!("the file holds more than {MAX_NODES} values");
            return Err(Box::new(self.text.finding(extent, message, "the limit is reached here").help("split it")));
        }
        Ok(())
    }

    fn open(&mut self, open: Open) -> Step {
        self.counted(open.extent)?;
        if self.stack.len() >= MAX_DEPTH as usize {
            return Err(too_deep(self.text, open.extent));
        }
        self.stack.push(open);
        Ok(())
    }

    fn key_wanted(&self) -> bool {
        matches!(self.stack.last(), Some(Open { items: Items::Map { key: Key::Wanted, .. }, .. }))
    }

    fn set_key(&mut self, new: Key) {
        if let Some(Open { items: Items::Map { key, .. }, .. }) = self.stack.last_mut() {
            *key = new;
        }
    }

    fn close(&mut self) -> Step {
        let Some(open) = self.stack.pop() else { return Ok(()) };
        let value = match open.items {
            Items::List(items) => Value::List(items),
            Items::Map { entries, index, merges, .. } => Value::Map(self.merge(entries, index, merges)?),
        };
        let children = || -> Box<dyn Iterator<Item = &Rc<Node>> + '_> {
            match &value {
                Value::Scalar(..) => Box::new(std::iter::empty()),
                Value::List(items) => Box::new(items.iter()),
                Value::Map(entries) => Box::new(entries.iter().map(|entry| &entry.node)),
            }
        };
        let size = children().fold(1_u64, |sum, node| sum.saturating_add(node.size));
        let height = children().map(|node| node.height + 1).max().unwrap_or(1);
        self.finish(open.anchor, Rc::new(Node { extent: open.extent, size, height, value }))
    }

    /// Merge keys as YAML 1.1 defines them: own keys win, then the earlier of several sources.
    fn merge(
        &mut self,
        mut entries: Vec<Entry>,
        mut index: HashMap<String, Extent>,
        merges: Vec<(Extent, Rc<Node>)>,
    ) -> Result<Vec<Entry>, Box<Diagnostic>> {
        for (extent, node) in merges {
            let sources: Vec<Rc<Node>> = match &node.value {
                Value::List(items) => items.clone(),
                _ => vec![node.clone()],
            };
            for source in sources {
                let Value::Map(from) = &source.value else {
                    let finding = self
                        .text
                        .finding(extent, "a merge key (<<) takes a map or a list of maps", "merges something else")
                        .help("write <<: *name, where &name stands at a map");
                    self.found.push(finding);
                    break;
                };
                for entry in from {
                    if let std::collections::hash_map::Entry::Vacant(vacant) = index.entry(entry.key.clone()) {
                        vacant.insert(entry.extent);
                        self.expanded(entry.node.size, extent)?;
                        entries.push(entry.clone());
                    }
                }
            }
        }
        Ok(entries)
    }

    fn expanded(&mut self, nodes: u64, extent: Extent) -> Step {
        self.aliased = self.aliased.saturating_add(nodes);
        if self.aliased > MAX_ALIASED {
            let message = format!("aliases grow this file by more than {MAX_ALIASED} values");
            return Err(Box::new(
                self.text.finding(extent, message, "expanding this one passes the limit").help("write less by alias"),
            ));
        }
        Ok(())
    }

    fn alias(&mut self, id: usize, extent: Extent) -> Step {
        let Some(node) = self.anchors.get(&id).cloned() else {
            let finding = if self.stack.iter().any(|open| open.anchor == id) {
                let help = "write out what it is to repeat";
                self.text.finding(extent, "an alias stands inside its own anchor", "refers to itself").help(help)
            } else {
                let help = "anchors end with their document: repeat &name in this one";
                self.text
                    .finding(extent, "an alias refers to an anchor of another document", "not in this one")
                    .help(help)
            };
            return Err(Box::new(finding));
        };
        self.expanded(node.size, extent)?;
        if self.stack.len() + node.height as usize > MAX_DEPTH as usize {
            return Err(too_deep(self.text, extent));
        }
        self.finish(0, node)
    }

    /// A node is complete: it becomes a key, a value, an item or the document.
    fn finish(&mut self, anchor: usize, node: Rc<Node>) -> Step {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        let (entries, index, merges, key) = match &mut open.items {
            Items::List(items) => {
                items.push(node);
                return Ok(());
            }
            Items::Map { entries, index, merges, key } => (entries, index, merges, key),
        };
        match std::mem::replace(key, Key::Wanted) {
            Key::Read(key, extent) => entries.push(Entry { key, extent, node }),
            Key::Merge(extent) => merges.push((extent, node)),
            Key::Bad => {}
            Key::Wanted => {
                *key = match &node.value {
                    Value::Scalar(text, kind) if *kind != ScalarKind::Null => match index.get(text) {
                        Some(first) => {
                            let other = self.text.place(*first);
                            let label = format!("the first one is at {other}");
                            let mut finding =
                                self.text.finding(node.extent, format!("key {text:?} stands twice in one map"), label);
                            finding.help = Some("keep one of them".into());
                            finding.other = Some(other);
                            self.found.push(finding);
                            Key::Bad
                        }
                        None => {
                            index.insert(text.clone(), node.extent);
                            Key::Read(text.clone(), node.extent)
                        }
                    },
                    _ => {
                        let finding = self.text.finding(node.extent, "a key must be a word", "not a plain key");
                        let finding = finding.help("quote it if it is meant as text, such as \"null\"");
                        self.found.push(finding);
                        Key::Bad
                    }
                };
            }
        }
        Ok(())
    }
}
