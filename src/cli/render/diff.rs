//! A plan, for people: its steps as [`super::steps`] writes them, and the fields that differ.

use super::{Paint, prose, steps};
use crate::plan::{Change, Plan, Step};

/// The steps with their fields. Problems are shown apart: they are messages.
pub(in crate::cli) fn plan(plan: &Plan, colour: bool) -> String {
    plan.steps.iter().map(|step| format!("{}\n{}", steps::line(step, colour), changes(step, colour))).collect()
}

/// One line a field: `      env.TZ: UTC → CET`.
fn changes(step: &Step, colour: bool) -> String {
    step.changes.iter().map(|change| change_line(change, Paint(colour))).collect()
}

fn change_line(Change { field, from, to }: &Change, paint: Paint) -> String {
    let shown = match (from, to) {
        (Some(from), Some(to)) => format!("{} → {}", paint.red(&prose(from)), paint.green(&prose(to))),
        (None, Some(to)) => format!("+ {}", paint.green(&prose(to))),
        (Some(from), None) => format!("- {}", paint.red(&prose(from))),
        (None, None) => String::new(),
    };
    format!("      {}: {shown}\n", prose(field))
}
