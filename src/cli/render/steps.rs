//! Steps, as `diff` plans them and as `apply`, `delete` and `sync` report them: one line each, the same line.

use super::{Paint, diagnostic, json, prose, time};
use crate::api::{ApplyEvent, Stream};
use crate::cli::args::Output;
use crate::cli::context::Context;
use crate::cli::progress;
use crate::error::{Class, Fault, Result};
use crate::plan::{Action, Step};

/// `+ container shop/web: not on the node`.
pub(in crate::cli) fn line(step: &Step, colour: bool) -> String {
    let paint = Paint(colour);
    let mark = step.action.mark();
    let mark = match step.action {
        Action::Create | Action::Start => paint.green(mark),
        Action::Update | Action::Replace => paint.yellow(mark),
        Action::Remove => paint.red(mark),
    };
    format!("{mark} {}: {}", prose(&step.key.to_string()), paint.faint(&prose(&step.reason)))
}

/// Prints what happens, as it happens; the exit status is 1 if a step failed.
pub(in crate::cli) async fn report(
    mut events: Stream<ApplyEvent>,
    flag: progress::Flag,
    context: &mut Context,
) -> Result<u8> {
    let mut status = None;
    let mut progress = progress::Progress::new(flag, false, &context.ui);
    while let Some(event) = progress.next(&mut events, &mut context.ui).await {
        let event = event?;
        match &event {
            ApplyEvent::Progress { transfer } => {
                progress.transferred(transfer, &mut context.ui);
                continue;
            }
            ApplyEvent::Done { step, .. } | ApplyEvent::Failed { step, .. } => {
                progress.ended(&step.key.name, &mut context.ui);
            }
            _ => {}
        }
        if let ApplyEvent::Summary { failed, .. } = &event {
            status = Some(u8::from(*failed > 0));
        }
        match context.output() {
            Output::Json => context.ui.bytes(json::line(&event)?.as_bytes()),
            Output::Yaml => {
                context.ui.line("---");
                context.ui.bytes(super::yaml::document(&event)?.as_bytes());
            }
            Output::Name => name(&event, context),
            Output::Table | Output::Wide => lines(&event, context),
        }
    }
    status.ok_or_else(|| Fault::new(Class::Runtime, "the node ended its report early").help("see `bayplan status`"))
}

fn lines(event: &ApplyEvent, context: &mut Context) {
    let colour = context.ui.colour_out;
    match event {
        ApplyEvent::Started { .. } | ApplyEvent::Progress { .. } => {}
        ApplyEvent::Planned { step } => context.ui.line(line(step, colour)),
        ApplyEvent::Done { step, millis } => {
            context.ui.line(format!("{}  ({})", line(step, colour), time::took(*millis)));
        }
        ApplyEvent::Failed { step, fault, millis } => {
            let failed = Paint(colour).red("failed");
            context.ui.line(format!("{}  {failed} ({})", line(step, colour), time::took(*millis)));
            context.ui.fault(fault);
        }
        ApplyEvent::Problem { problem: found } => context.ui.problem(found),
        ApplyEvent::Note { message } => context.ui.note(prose(message)),
        ApplyEvent::Summary { changed, unchanged, failed } => {
            context.ui.line(format!("{changed} changed, {unchanged} unchanged, {failed} failed"));
        }
    }
    context.ui.flush();
}

/// `-o name`: what was done, one `kind/name` a line.
fn name(event: &ApplyEvent, context: &mut Context) {
    match event {
        ApplyEvent::Planned { step } | ApplyEvent::Done { step, .. } => {
            context.ui.line(format!("{}/{}", step.key.kind, step.key.name));
        }
        ApplyEvent::Failed { fault, .. } => context.ui.fault(fault),
        ApplyEvent::Problem { problem: found } => context.ui.problem(found),
        ApplyEvent::Note { message } => {
            let text = diagnostic::warning(message, context.ui.colour_err);
            context.ui.message(&text);
        }
        ApplyEvent::Started { .. } | ApplyEvent::Progress { .. } | ApplyEvent::Summary { .. } => {}
    }
}
