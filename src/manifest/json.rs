//! JSON manifests: checked as strict JSON, so that its errors speak of JSON, and then read as the YAML
//! that JSON is.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::diagnostic::Diagnostic;
use super::source::{Extent, Text, number};

/// The text as YAML reads it. Where JSON and YAML differ, it is rewritten: tabs between values, surrogate
/// pairs, which YAML does not join, and byte order marks in strings.
pub(super) fn check(text: &Text) -> Result<Cow<'_, str>, Box<Diagnostic>> {
    for value in serde_json::Deserializer::from_str(&text.text).into_iter::<IgnoredAny>() {
        if let Err(error) = value {
            let column = column_of(text, error.line(), error.column());
            let info = error.to_string();
            let why = info.split(" at line ").next().unwrap_or(&info).to_owned();
            let extent = Extent { line: number(error.line().max(1)), column, length: 1 };
            let why = if after_comma(text, extent) { "trailing comma".to_owned() } else { why };
            let mut finding = text.finding(extent, "the JSON is malformed", why);
            finding.help =
                Some("a .json file is strict JSON: no comments, no trailing commas; name it .yaml for more".into());
            return Err(Box::new(finding));
        }
    }
    let source = &*text.text;
    if !source.contains(['\t', '\u{feff}']) && !source.contains("\\u") {
        return Ok(Cow::Borrowed(source));
    }
    // A JSON string cannot hold a raw tab, so every one of them stands between values.
    Ok(Cow::Owned(join_surrogates(&source.replace('\t', " ").replace('\u{feff}', "\\uFEFF"))))
}

/// Whether a closing bracket stands there, and a comma before it.
fn after_comma(text: &Text, extent: Extent) -> bool {
    let line = text.line(extent.line);
    let mut rest = line.chars().skip(extent.column as usize - 1);
    if !matches!(rest.next(), Some('}' | ']')) {
        return false;
    }
    let before: String = line.chars().take(extent.column as usize - 1).collect();
    let above = (1..extent.line).rev().map(|line| text.line(line).trim_end()).find(|line| !line.is_empty());
    let last = if before.trim_end().is_empty() { above } else { Some(before.trim_end()) };
    last.is_some_and(|last| last.ends_with(','))
}

/// serde_json counts bytes; people count characters.
fn column_of(text: &Text, line: usize, bytes: usize) -> u32 {
    let source = text.line(number(line));
    let end = source.char_indices().map(|(i, _)| i).find(|i| *i + 1 >= bytes).unwrap_or(source.len());
    number(source[..end].chars().count() + 1)
}

/// `\ud83d\ude00` → `\U0001F600`.
fn join_surrogates(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = &rest[at..];
        let unit = |at: usize| {
            let digits = escape.get(at..at + 6)?.strip_prefix("\\u")?;
            u16::from_str_radix(digits, 16).ok()
        };
        let pair = unit(0).zip(unit(6)).and_then(|(high, low)| char::decode_utf16([high, low]).next()?.ok());
        let taken = match pair {
            Some(c) if u32::from(c) > 0xffff => {
                out.push_str(&format!("\\U{:08X}", u32::from(c)));
                12
            }
            _ => {
                let taken = escape.chars().take(2).map(char::len_utf8).sum();
                out.push_str(&escape[..taken]);
                taken
            }
        };
        rest = &escape[taken..];
    }
    out.push_str(rest);
    out
}
