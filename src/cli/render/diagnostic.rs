//! Faults: what failed, where it was written, what to do next.

use super::{Paint, prose};
use crate::error::{Class, Fault};
use crate::plan::{Problem, Severity};

/// `error: …`, `  --> place`, `  help: …`.
pub(in crate::cli) fn fault(fault: &Fault, colour: bool) -> String {
    sections(if fault.class == Class::Bug { "bug" } else { "error" }, fault, colour)
}

/// Something wanted that cannot be planned, or should be known.
pub(in crate::cli) fn problem(problem: &Problem, colour: bool) -> String {
    let subject = problem.key.to_string();
    let message = if problem.message.contains(&subject) {
        problem.message.clone()
    } else {
        format!("{subject}: {}", problem.message)
    };
    let mut fault = Fault::new(Class::Invalid, message);
    fault.help.clone_from(&problem.help);
    fault.place = problem.place.as_ref().map(ToString::to_string);
    sections(if problem.severity == Severity::Warning { "warning" } else { "error" }, &fault, colour)
}

fn sections(word: &str, fault: &Fault, colour: bool) -> String {
    let (mark, bold, blue, cyan, off) =
        if colour { ("\x1b[1;31m", "\x1b[1m", "\x1b[1;34m", "\x1b[1;36m", "\x1b[0m") } else { ("", "", "", "", "") };
    let mark = if colour && word == "warning" { "\x1b[1;33m" } else { mark };
    // A message may itself hold lines (a runtime's own words); each stays visible and free of escapes.
    let mut lines = fault.message.trim_end().lines();
    let mut text = format!("{mark}{word}{off}{bold}: {}{off}\n", prose(lines.next().unwrap_or_default()));
    for line in lines {
        text.push_str(&format!("       {}\n", prose(line)));
    }
    if let Some(place) = &fault.place {
        text.push_str(&format!("  {blue}-->{off} {}\n", prose(place)));
    }
    if let Some(help) = &fault.help {
        text.push_str(&format!("  {cyan}help{off}: {}\n", prose(help)));
    }
    text
}

/// `warning: …`.
pub(in crate::cli) fn warning(message: &str, colour: bool) -> String {
    format!("{}: {}\n", Paint(colour).yellow("warning"), prose(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_what_where_and_what_next() {
        let shown = Fault::new(Class::Refused, "container shop/web is declared by dir:shop.yaml\nand \u{1b}runs")
            .at("shop.yaml:3:1")
            .help("remove it there");
        insta::assert_snapshot!(fault(&shown, false), @r"
        error: container shop/web is declared by dir:shop.yaml
               and \u{1b}runs
          --> shop.yaml:3:1
          help: remove it there
        ");
    }
}
