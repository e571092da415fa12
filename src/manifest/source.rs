//! A manifest file's bytes as text with numbered lines, refused early when it cannot be a manifest.

use std::path::PathBuf;
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Place, window};

/// The most bytes one manifest file may hold.
pub const MAX_FILE: usize = 4 * 1024 * 1024;

/// One file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The name shown in messages.
    pub name: String,
    /// Where it is, absolute or relative to the working directory. Relative archive and bind paths are
    /// taken from its directory. `None`: there is no such directory and relative paths are refused. For
    /// stdin give the working directory joined with any file name.
    pub path: Option<PathBuf>,
    /// Its bytes.
    pub text: Vec<u8>,
}

/// Where a node stands: line and column from 1, and how many characters of that line; a `length` of 0
/// means to the end of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Extent {
    pub line: u32,
    pub column: u32,
    pub length: u32,
}

/// The text of a file, and where its lines begin.
pub(super) struct Text {
    pub name: String,
    pub text: Arc<str>,
    starts: Vec<usize>,
}

impl Text {
    /// Decodes a file; the error is about size, encoding or binary content.
    pub fn decode(file: &SourceFile) -> Result<Self, Box<Diagnostic>> {
        let whole = || Place { file: file.name.clone(), line: 0, column: 0 };
        if file.text.len() > MAX_FILE {
            let message =
                format!("{} holds {} bytes; a manifest may hold 4 MiB ({MAX_FILE})", file.name, file.text.len());
            let help = "split it into several files; data does not belong into manifests";
            return Err(Box::new(Diagnostic::at(whole(), message).help(help)));
        }
        // Their byte order marks.
        if matches!(*file.text, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) {
            let message = format!("{} is UTF-16 or UTF-32", file.name);
            let help = "save it as UTF-8, such as: iconv -f UTF-16 -t UTF-8";
            return Err(Box::new(Diagnostic::at(Place { line: 1, column: 1, ..whole() }, message).help(help)));
        }
        let bytes = file.text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&file.text);
        let skipped = file.text.len() - bytes.len();
        // Where decoding stops, and what stands there.
        let (good, bad) = match std::str::from_utf8(bytes) {
            Ok(text) => (text, None),
            Err(error) => {
                let good = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or("");
                (good, Some(format!("byte 0x{:02x} is not UTF-8", bytes[error.valid_up_to()])))
            }
        };
        // What C0 holds beyond white space is in no text file; a JSON string may hold the rest of them raw.
        let control = |c: char| c < ' ' && !matches!(c, '\t' | '\n' | '\r');
        let control = good.char_indices().find(|(_, c)| control(*c));
        let stop = match (control, bad) {
            (Some((at, c)), _) => Some((at, format!("control character U+{:04X} stands here", u32::from(c)))),
            (None, Some(why)) => Some((good.len(), why)),
            (None, None) => None,
        };
        let text = Self::of(&file.name, good);
        let Some((at, why)) = stop else { return Ok(text) };
        let line = text.starts.partition_point(|start| *start <= at);
        let column = good[text.starts[line - 1]..at].chars().count() + 1;
        let mut finding = text.finding(
            Extent { line: number(line), column: number(column), length: 1 },
            format!("{} is not text: {why} (byte offset {})", file.name, at + skipped),
            "not part of a manifest",
        );
        finding.help = Some("manifests are UTF-8 text, YAML or JSON".into());
        Err(Box::new(finding))
    }

    fn of(name: &str, text: &str) -> Self {
        let mut starts = vec![0];
        let bytes = text.as_bytes();
        for (i, byte) in bytes.iter().enumerate() {
            if *byte == b'\n' || (*byte == b'\r' && bytes.get(i + 1) != Some(&b'\n')) {
                starts.push(i + 1);
            }
        }
        Self { name: name.to_owned(), text: Arc::from(text), starts }
    }

    /// How many lines there are, the empty one behind the last break included.
    pub fn lines(&self) -> u32 {
        number(self.starts.len())
    }

    /// Line `line`, from 1, without its break.
    pub fn line(&self, line: u32) -> &str {
        let index = (line as usize).saturating_sub(1);
        let Some(start) = self.starts.get(index) else { return "" };
        let end = self.starts.get(index + 1).copied().unwrap_or(self.text.len());
        self.text[*start..end].trim_end_matches(['\n', '\r'])
    }

    pub fn place(&self, extent: Extent) -> Place {
        Place { file: self.name.clone(), line: extent.line, column: extent.column }
    }

    pub fn finding(&self, extent: Extent, message: impl Into<String>, label: impl Into<String>) -> Diagnostic {
        let line = self.line(extent.line);
        let before = (extent.column as usize).saturating_sub(1);
        let length = match extent.length {
            0 => number(line.trim_end().chars().skip(before).count().max(1)),
            length => length,
        };
        Diagnostic {
            message: message.into(),
            place: self.place(extent),
            source_line: window(line, extent.column),
            length,
            label: label.into(),
            help: None,
            other: None,
        }
    }
}

/// A line or column number; files are bounded far below the limit.
pub(super) fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// A finding at a place of this text when only the place was kept: the word that begins there is underlined.
pub(super) fn finding_at(text: &str, place: Place, message: String, label: String) -> Diagnostic {
    let line = match place.line {
        0 => "",
        line => text.split('\n').nth(line as usize - 1).unwrap_or("").trim_end_matches('\r'),
    };
    let rest = line.chars().skip((place.column as usize).saturating_sub(1));
    let length = match rest.clone().next() {
        Some(quote @ ('"' | '\'')) => rest.skip(1).take_while(|c| *c != quote).count() + 2,
        _ => rest.take_while(|c| !c.is_whitespace() && !matches!(c, ',' | '}' | ']')).count(),
    };
    let source_line = window(line, place.column);
    // A key keeps its colon out of the underline.
    let end = (place.column as usize).saturating_sub(1) + length;
    let colon = length > 1 && line.chars().nth(end - 1) == Some(':');
    Diagnostic {
        message,
        place,
        source_line,
        length: number(length.max(1)) - u32::from(colon),
        label,
        help: None,
        other: None,
    }
}
