//! What is wrong with a manifest, and where. Rendered as `docs/MANIFESTS.md` shows.

use std::fmt;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use unicode_width::UnicodeWidthChar as _;

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
    /// The source line itself (bounded to 200 characters), for the caret line. Empty when unknown. Of a
    /// longer line this is the part that begins at [`window_start`] of the column.
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

/// The most characters of a source line that are kept and shown.
pub const LINE_WINDOW: usize = 200;
/// A tab is shown as so many spaces.
const TAB: usize = 4;

/// How many characters of a line are left out before its shown part, for a finding at `column` (from 1).
pub fn window_start(column: u32) -> usize {
    let before = (column as usize).saturating_sub(1);
    if before > 140 { before - 60 } else { 0 }
}

/// The part of a source line that a finding at `column` keeps.
pub fn window(line: &str, column: u32) -> String {
    line.chars().skip(window_start(column)).take(LINE_WINDOW).collect()
}

/// One shown character: never a control character, a tab as spaces. Returns its columns.
fn put(out: &mut String, c: char) -> usize {
    match c {
        '\t' => {
            out.push_str("    ");
            TAB
        }
        c => match c.width().filter(|_| !turns_text(c)) {
            Some(width) => {
                out.push(c);
                width
            }
            None => {
                out.push('\u{fffd}');
                1
            }
        },
    }
}

/// Marks that change the direction of the text around them: what stands there would not be what is seen.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text from elsewhere as one line: control characters, line breaks among them, and what turns the direction of text become
/// visible escapes, so that no manifest, image or process can write escapes to the terminal.
pub(crate) fn prose(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || turns_text(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

impl Diagnostic {
    /// A finding about a whole file, or one whose source line is not known.
    pub fn at(place: Place, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            place,
            source_line: String::new(),
            length: 0,
            label: String::new(),
            help: None,
            other: None,
        }
    }

    /// The same, with the next step.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// As text for people, several lines, each ended by a line feed:
    ///
    /// ```text
    /// error: WHAT
    ///   --> FILE:LINE:COLUMN
    ///    |
    /// 14 |    the source line
    ///    |        ^^^^^^ why
    ///   help: what to do next
    /// ```
    ///
    /// Without a known line, the gutter is left out. `colour` adds ANSI escapes.
    pub fn render(&self, colour: bool) -> String {
        let (red, blue, bold, cyan, off) = if colour {
            ("\x1b[1;31m", "\x1b[1;34m", "\x1b[1m", "\x1b[1;36m", "\x1b[0m")
        } else {
            ("", "", "", "", "")
        };
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{red}error{off}{bold}: {}{off}", prose(&self.message));
        let _ = writeln!(out, "  {blue}-->{off} {}", prose(&self.place.to_string()));
        if self.place.line > 0 && !self.source_line.is_empty() {
            self.render_line(&mut out, (red, blue, off));
        } else if !self.label.is_empty() {
            let _ = writeln!(out, "  {}", prose(&self.label));
        }
        if let Some(other) = &self.other {
            let place = other.to_string();
            if !self.label.contains(&place) && !self.message.contains(&place) {
                let _ = writeln!(out, "  {cyan}also{off}: {}", prose(&place));
            }
        }
        if let Some(help) = &self.help {
            let _ = writeln!(out, "  {cyan}help{off}: {}", prose(help));
        }
        out
    }

    fn render_line(&self, out: &mut String, (red, blue, off): (&str, &str, &str)) {
        let number = self.place.line.to_string();
        let gutter = " ".repeat(number.len());
        let start = window_start(self.place.column);
        let first = (self.place.column as usize).saturating_sub(1).saturating_sub(start);
        let last = first + (self.length as usize).max(1);
        let (mut shown, mut before, mut under) = (String::new(), 0, 0);
        if start > 0 {
            shown.push('…');
            before = 1;
        }
        for (i, c) in self.source_line.chars().take(LINE_WINDOW).enumerate() {
            let width = put(&mut shown, c);
            if i < first {
                before += width;
            } else if i < last {
                under += width;
            }
        }
        if self.source_line.chars().count() >= LINE_WINDOW {
            shown.push('…');
        }
        let carets = "^".repeat(under.max(1));
        let _ = writeln!(out, "{gutter} {blue}|{off}");
        let _ = writeln!(out, "{blue}{number} |{off} {}", shown.trim_end());
        let label = prose(&self.label);
        let under = format!("{red}{carets} {label}");
        let _ = writeln!(out, "{gutter} {blue}|{off} {}{}{off}", " ".repeat(before), under.trim_end());
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(line: &str, column: u32, length: u32) -> Diagnostic {
        Diagnostic {
            message: "image registry.local/web:stable is not in namespace shop".into(),
            place: Place { file: "manifests/shop.yaml".into(), line: 14, column },
            source_line: window(line, column),
            length,
            label: "not declared, and the registry answers 404".into(),
            help: Some("did you mean registry.local/web:stable?".into()),
            other: None,
        }
    }

    #[test]
    fn a_finding_looks_as_the_manual_says() {
        let text = finding("          image: registry.local/web:stabel", 18, 25).render(false);
        assert_eq!(
            text,
            "\
error: image registry.local/web:stable is not in namespace shop
  --> manifests/shop.yaml:14:18
   |
14 |           image: registry.local/web:stabel
   |                  ^^^^^^^^^^^^^^^^^^^^^^^^^ not declared, and the registry answers 404
  help: did you mean registry.local/web:stable?
"
        );
    }

    #[test]
    fn tabs_and_wide_characters_keep_the_carets_beneath_their_text() {
        let text = finding("\tname: 船 bad", 10, 3).render(false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[3], "14 |     name: 船 bad");
        assert_eq!(lines[4], "   |              ^^^ not declared, and the registry answers 404");
    }

    #[test]
    fn nothing_shown_turns_the_direction_of_text_or_steers_the_terminal() {
        let hostile = "a\u{202e}b\u{2066}c\u{9b}31m\u{1b}[2J: d";
        let mut finding = finding(hostile, 1, 3);
        finding.message = hostile.into();
        let text = finding.render(false);
        assert!(!text.contains(|c: char| turns_text(c) || (c.is_control() && c != '\n')), "{text:?}");
        assert!(text.starts_with("error: a\\u{202e}b"), "{text}");
    }

    #[test]
    fn a_long_line_is_cut_on_both_sides() {
        let line = format!("{}bad{}", "x".repeat(5000), "y".repeat(5000));
        let text = finding(&line, 5001, 3).render(false);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|l| l.chars().count() < 260), "{text}");
        let caret = lines[4].chars().position(|c| c == '^').unwrap();
        assert_eq!(lines[3].chars().skip(caret).take(3).collect::<String>(), "bad");
    }

    #[test]
    fn a_finding_about_a_file_has_no_gutter() {
        let place = Place { file: "a.yaml".into(), line: 0, column: 0 };
        let text = Diagnostic::at(place, "a.yaml is larger than 4 MiB").help("split it").render(false);
        assert_eq!(text, "error: a.yaml is larger than 4 MiB\n  --> a.yaml\n  help: split it\n");
    }

    #[test]
    fn colour_changes_nothing_but_escapes() {
        let finding = finding("a: b", 4, 1);
        let plain = regex_free_strip(&finding.render(true));
        assert_eq!(plain, finding.render(false));
    }

    fn regex_free_strip(text: &str) -> String {
        let mut out = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if c == '\x1b' {
                for c in chars.by_ref() {
                    if c == 'm' {
                        break;
                    }
                }
            } else {
                out.push(c);
            }
        }
        out
    }
}
