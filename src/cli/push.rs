//! `bayplan push`, `bayplan image push`.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;

use super::context::Context;
use super::{args::Output, flags, pull, render};
use crate::api::{ImagePart, PushEvent, PushRequest, SendState, Service as _};
use crate::error::{Class, Fault, Result};
use crate::oci::{Digest, Platform};

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
    /// Do not check TLS certificates
    #[arg(short = 'k', long)]
    pub skip_verify: bool,
    /// Plain HTTP
    #[arg(long)]
    pub plain_http: bool,
    /// User and password; without a password it is asked for, or read from standard input
    #[arg(short, long, value_name = "USER[:PASSWORD]")]
    pub user: Option<String>,
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
    let credentials = args.user.as_deref().map(|user| pull::credentials(user, context)).transpose()?;
    let node = context.node().await?;
    let request = PushRequest {
        namespace: context.namespace(),
        source: args.source.strip_prefix("image/").unwrap_or(&args.source).to_owned(),
        target,
        part: args.part.wanted(),
        plain_http: args.plain_http,
        skip_verify: args.skip_verify,
        credentials,
    };
    let mut events = node.push(request).await?;
    let mut progress = Progress { draws: context.ui.draws, quiet: args.quiet, ..Progress::default() };
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(fault) => {
                progress.clear(context);
                return Err(fault);
            }
        };
        let as_data = matches!(context.output(), Output::Json | Output::Yaml) && !args.quiet;
        if as_data {
            context.ui.bytes(render::event(context.output(), &event)?.as_bytes());
        }
        match event {
            PushEvent::Blob { digest, state, done, total, from } if !as_data => {
                progress.hear(digest, Blob { state, done, total }, from.as_deref(), context);
            }
            PushEvent::Blob { .. } => {}
            PushEvent::Pushed { reference, digest, size, sent, unchanged, part_of } => {
                progress.clear(context);
                match context.output() {
                    _ if args.quiet => context.ui.line(&digest),
                    Output::Json | Output::Yaml => {}
                    Output::Name => context.ui.line(format!("image/{reference}")),
                    _ => {
                        let how = match unchanged {
                            true => "was there".to_owned(),
                            false => format!("{} sent", render::size(sent)),
                        };
                        context.ui.line(format!("{reference}  {digest}  {}, {how}", render::size(size)));
                    }
                }
                if let Some(index) = part_of.filter(|_| !args.quiet && args.part.platform.is_none()) {
                    context.ui.note(format!(
                        "index {} has more images than are here: one of them was pushed, by itself",
                        index.short()
                    ));
                }
                return Ok(0);
            }
        }
    }
    progress.clear(context);
    Err(Fault::new(Class::Runtime, format!("the node ended its report on {} early", args.source)))
}

#[derive(Clone, Copy)]
struct Blob {
    state: SendState,
    done: u64,
    total: u64,
}

/// One line on a terminal that is drawn over itself; elsewhere one line for each blob that is there.
#[derive(Default)]
struct Progress {
    blobs: BTreeMap<Digest, Blob>,
    draws: bool,
    quiet: bool,
    shown: String,
}

impl Progress {
    fn hear(&mut self, digest: Digest, blob: Blob, from: Option<&str>, context: &mut Context) {
        if self.quiet {
            return;
        }
        let ended = match (blob.state, from) {
            (SendState::Existed, _) => Some("was there".to_owned()),
            (SendState::Mounted, from) => Some(format!("mounted from {}", from.unwrap_or("elsewhere"))),
            (SendState::Sent, _) => Some("sent".to_owned()),
            _ => None,
        };
        if let (false, Some(how)) = (self.draws, ended) {
            context.ui.note(format!("{}  {}  {how}", digest.short(), render::size(blob.total)));
        }
        self.blobs.insert(digest, blob);
        if self.draws {
            let line = self.line();
            if line != self.shown {
                context.ui.message(&format!("\r\x1b[K{line}"));
                self.shown = line;
            }
        }
    }

    fn line(&self) -> String {
        let there = self.blobs.values().filter(|b| !matches!(b.state, SendState::Waiting | SendState::Sending));
        let sum = |pick: fn(&Blob) -> u64| self.blobs.values().map(pick).sum::<u64>();
        let sizes = format!("{} of {}", render::size(sum(|b| b.done)), render::size(sum(|b| b.total)));
        format!("{}/{} blobs, {sizes}", there.count(), self.blobs.len())
    }

    fn clear(&mut self, context: &mut Context) {
        if !self.shown.is_empty() {
            context.ui.message("\r\x1b[K");
            self.shown.clear();
        }
    }
}
