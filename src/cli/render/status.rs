//! The status screen.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::table::Table;
use super::{Paint, diagnostic, prose, steps, time};
use crate::api::{SourceStatus, StatusReport};

/// One screen: the verdict first, then who declares, what runs, what does not, what is about to be done.
pub(in crate::cli) fn screen(report: &StatusReport, now: Timestamp, colour: bool) -> String {
    let paint = Paint(colour);
    let mut text = String::new();
    let verdict = if report.converged { paint.green("converged") } else { paint.red("not converged") };
    let daemon = if report.daemon { "" } else { "; no daemon runs, so nothing is watched" };
    let _ = writeln!(text, "The node is {verdict}{daemon}");

    heading(&mut text, paint, "SOURCES");
    let mut table = Table::default();
    for source in &report.sources {
        table.row(source_row(source, now));
    }
    text.push_str(&table.render("  "));
    for source in &report.sources {
        if let Some(held) = &source.held {
            let _ = writeln!(text, "  {}: {}", paint.yellow(&prose(&source.name)), prose(held));
        }
        for problem in &source.problems {
            for line in problem.render(colour).lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
    }

    heading(&mut text, paint, "CONTAINERS");
    let phases: Vec<String> = report.phases.iter().map(|(phase, count)| format!("{count} {phase}")).collect();
    let _ = writeln!(text, "  {}", if phases.is_empty() { "none".to_owned() } else { phases.join(", ") });

    if !report.not_converged.is_empty() {
        heading(&mut text, paint, "NOT CONVERGED");
        for item in &report.not_converged {
            let again = match item.next_try {
                Some(at) if at > now => format!(", tried again in {}", time::age(at, now)),
                Some(_) => ", tried again now".to_owned(),
                None => String::new(),
            };
            let since = time::age(now, item.since);
            let reason = paint.yellow(&prose(&item.reason));
            let _ = writeln!(text, "  {}  {reason} for {since}{again}", prose(&item.key.to_string()));
            let _ = writeln!(text, "    {}", prose(&item.message));
        }
    }
    if !report.problems.is_empty() {
        heading(&mut text, paint, "PROBLEMS");
        for problem in &report.problems {
            for line in diagnostic::problem(problem, colour).lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
    }
    if !report.pending.is_empty() {
        heading(&mut text, paint, "PENDING STEPS");
        for step in &report.pending {
            let _ = writeln!(text, "  {}", steps::line(step, colour));
        }
    }
    if !report.notes.is_empty() {
        heading(&mut text, paint, "NOTES");
        for note in &report.notes {
            let _ = writeln!(text, "  {}", prose(note));
        }
    }
    if !report.warnings.is_empty() {
        heading(&mut text, paint, "WARNINGS");
        for warning in &report.warnings {
            let _ = writeln!(text, "  {}", prose(warning));
        }
    }
    text
}

fn heading(text: &mut String, paint: Paint, title: &str) {
    let _ = writeln!(text, "\n{}", paint.bold(title));
}

fn source_row(source: &SourceStatus, now: Timestamp) -> Vec<String> {
    let name = match &source.path {
        Some(path) => format!("{} {}", source.name, path.display()),
        None => source.name.clone(),
    };
    let count = |count: u64, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let mut facts = Vec::new();
    if source.path.is_some() {
        facts.push(count(source.files, "file"));
    }
    facts.push(count(source.resources, "resource"));
    if !source.problems.is_empty() {
        facts.push(count(source.problems.len() as u64, "problem"));
    }
    if let Some(read) = source.read {
        facts.push(format!("read {} ago", time::age(now, read)));
    }
    vec![name, facts.join(", ")]
}
