//! Steps, as `diff` plans them and as `apply`, `delete` and `sync` report them: one line each, the same line.

use futures_util::StreamExt as _;

use super::{Paint, diagnostic, json, prose, time};
use crate::api::{ApplyEvent, Stream};
use crate::cli::args::Output;
use crate::cli::context::Context;
use crate::error::{Class, Fault, Result};
use crate::manifest::ResourceKey;
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
pub(in crate::cli) async fn report(mut events: Stream<ApplyEvent>, context: &mut Context) -> Result<u8> {
    let mut status = None;
    let mut under_way = UnderWay::default();
    while let Some(event) = events.next().await {
        under_way.clear(context);
        let event = event?;
        under_way.note(&event);
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
            Output::Table | Output::Wide => {
                lines(&event, context);
                under_way.draw(context);
            }
        }
    }
    under_way.clear(context);
    status.ok_or_else(|| Fault::new(Class::Runtime, "the node ended its report early").help("see `bayplan status`"))
}

/// What is under way, as a line on a terminal that is wiped before anything else is written.
#[derive(Default)]
struct UnderWay {
    steps: Vec<ResourceKey>,
    shown: bool,
}

impl UnderWay {
    fn note(&mut self, event: &ApplyEvent) {
        match event {
            ApplyEvent::Started { step } => self.steps.push(step.key.clone()),
            ApplyEvent::Done { step, .. } | ApplyEvent::Failed { step, .. } => {
                self.steps.retain(|key| *key != step.key)
            }
            _ => {}
        }
    }

    /// The first two, and how many more.
    fn line(&self) -> String {
        let shown: Vec<String> = self.steps.iter().take(2).map(|key| prose(&key.to_string())).collect();
        match self.steps.len() {
            0..=2 => format!("… {}", shown.join(", ")),
            count => format!("… {} and {} more", shown.join(", "), count - 2),
        }
    }

    fn draw(&mut self, context: &mut Context) {
        if context.ui.draws && !self.steps.is_empty() {
            context.ui.message(&self.line());
            self.shown = true;
        }
    }

    fn clear(&mut self, context: &mut Context) {
        if std::mem::take(&mut self.shown) {
            context.ui.message("\r\x1b[K");
        }
    }
}

fn lines(event: &ApplyEvent, context: &mut Context) {
    let colour = context.ui.colour_out;
    match event {
        ApplyEvent::Started { .. } => {}
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
        ApplyEvent::Started { .. } | ApplyEvent::Summary { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Kind;

    #[test]
    fn what_is_under_way_is_what_began_and_has_not_ended() {
        let step = |name: &str| Step {
            action: Action::Create,
            key: ResourceKey::new(Kind::Container, "shop", name),
            reason: "not on the node".into(),
            changes: Vec::new(),
            needs: Vec::new(),
            target: None,
            source: None,
        };
        let mut under_way = UnderWay::default();
        for name in ["a", "b", "c", "d"] {
            under_way.note(&ApplyEvent::Started { step: step(name) });
        }
        assert_eq!(under_way.line(), "… container shop/a, container shop/b and 2 more");
        under_way.note(&ApplyEvent::Done { step: step("a"), millis: 1 });
        under_way.note(&ApplyEvent::Failed { step: step("c"), fault: Fault::new(Class::No, "no"), millis: 1 });
        assert_eq!(under_way.line(), "… container shop/b, container shop/d");
    }
}
