//! `bayplan push`, `bayplan image push`.

use serde::Serialize;

use super::context::Context;
use super::progress::{self, Moved, Progress, Stage, Way};
use super::{args::Output, flags, pull, render};
use crate::api::{ImagePart, PushEvent, PushRequest, PushedBlob, SendState, Service as _};
use crate::error::{Class, Fault, Result};
use crate::oci::Platform;

/// Push an image to its registry, or to another under another name
///
/// What the registry has is not sent again, and what another of its repositories has is not sent at all. Of an
/// index everything goes if everything is here, byte by byte as it is; where only some of its images are here,
/// the node's goes by itself.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An image of the namespace
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// The name to push to [default: SOURCE]
    #[arg(value_name = "TARGET")]
    pub target: Option<String>,
    /// Print the digest only
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub access: pull::Access,
    #[command(flatten)]
    pub progress: progress::Flag,
    #[command(flatten)]
    pub part: Part,
}

/// Which part of an image, for all verbs that move one.
#[derive(Debug, Clone, clap::Args)]
pub struct Part {
    /// The image of this platform alone: linux/arm64
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all_platforms")]
    pub platform: Option<Platform>,
    /// Everything that the index names; refused when not all of it is here
    #[arg(long)]
    pub all_platforms: bool,
}

impl Part {
    pub(super) fn wanted(&self) -> ImagePart {
        match &self.platform {
            Some(platform) => ImagePart::Platform(platform.clone()),
            None if self.all_platforms => ImagePart::All,
            None => ImagePart::Here,
        }
    }
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let target = args.target.as_deref().map(flags::reference).transpose()?;
    let credentials = args.access.credentials(context)?;
    let node = context.node().await?;
    let request = PushRequest {
        namespace: context.namespace(),
        source: args.source.strip_prefix("image/").unwrap_or(&args.source).to_owned(),
        target,
        part: args.part.wanted(),
        plain_http: args.access.plain_http,
        skip_verify: args.access.skip_verify,
        credentials,
    };
    let reference = request.target.clone().map_or_else(|| request.source.clone(), |target| target.to_string());
    let mut events = node.push(request).await?;
    let mut progress = Progress::new(args.progress, args.quiet, &context.ui);
    let pushed = loop {
        match progress.next(&mut events, &mut context.ui).await.transpose()? {
            Some(PushEvent::Blob(blob)) => {
                let told = Told { reference: &reference, blob: &blob };
                progress.hear(&moved(&reference, &blob), &told, &mut context.ui);
            }
            Some(event @ PushEvent::Pushed { .. }) => break event,
            None => {
                let message = format!("the node ended its report on {reference} early");
                return Err(Fault::new(Class::Runtime, message));
            }
        }
    };
    if let PushEvent::Pushed { reference, digest, size, sent, unchanged, part_of } = &pushed {
        match context.output() {
            _ if args.quiet => context.ui.line(digest),
            output @ (Output::Json | Output::Yaml) => {
                context.ui.bytes(render::event(output, &pushed)?.as_bytes());
            }
            Output::Name => context.ui.line(format!("image/{reference}")),
            Output::Table | Output::Wide => {
                let how = match unchanged {
                    true => "was there".to_owned(),
                    false => format!("{} sent", render::size(*sent)),
                };
                context.ui.line(format!("{reference}  {digest}  {}, {how}", render::size(*size)));
            }
        }
        if let Some(index) = part_of.as_ref().filter(|_| !args.quiet && args.part.platform.is_none()) {
            context.ui.note(format!(
                "index {} has more images than are here: one of them was pushed, by itself",
                index.short()
            ));
        }
    }
    Ok(0)
}

/// A blob of a push, as JSON says it.
#[derive(Serialize)]
struct Told<'a> {
    reference: &'a str,
    #[serde(flatten)]
    blob: &'a PushedBlob,
}

fn moved(reference: &str, blob: &PushedBlob) -> Moved {
    let stage = match (blob.state, &blob.from) {
        (SendState::Waiting, _) => Stage::Waiting,
        (SendState::Sending, _) => Stage::Moving,
        (SendState::Sent, _) => Stage::There(Way::Moved("sent")),
        (SendState::Existed, _) => Stage::There(Way::Spared("was there".into())),
        (SendState::Mounted, from) => {
            let from = from.as_deref().unwrap_or("another repository");
            Stage::There(Way::Spared(format!("mounted from {from}")))
        }
    };
    let (of, part) = (reference.to_owned(), blob.digest.short().to_owned());
    Moved { of, part, stage, done: blob.done, total: blob.total }
}
