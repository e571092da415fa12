//! `bayplan pull`, `bayplan image pull`.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;

use super::context::Context;
use super::{args::Output, flags, render};
use crate::api::{BlobState, Credentials, PullEvent, PullRequest, Service as _};
use crate::error::{Class, Fault, Result};
use crate::oci::{Digest, Platform};

/// Pull images into the namespace and unpack them
#[derive(Debug, clap::Args)]
pub struct Args {
    /// References with their host: docker.io/library/nginx:1.27
    #[arg(value_name = "REFERENCE", required = true)]
    pub references: Vec<String>,
    /// Print digests only
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not check TLS certificates
    #[arg(short = 'k', long)]
    pub skip_verify: bool,
    /// Plain HTTP
    #[arg(long)]
    pub plain_http: bool,
    /// User and password; without a password it is read from standard input
    #[arg(short, long, value_name = "USER[:PASSWORD]")]
    pub user: Option<String>,
    /// Another platform than the node's: linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,
    /// The images of every platform; the node's own is unpacked
    #[arg(long, conflicts_with = "platform")]
    pub all_platforms: bool,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let references = args.references.iter().map(|text| flags::reference(text)).collect::<Result<Vec<_>>>()?;
    let credentials = args.user.as_deref().map(credentials).transpose()?;
    let node = context.node().await?;
    for reference in references {
        let request = PullRequest {
            namespace: context.namespace(),
            reference: reference.clone(),
            platform: args.platform.clone(),
            all_platforms: args.all_platforms,
            plain_http: args.plain_http,
            skip_verify: args.skip_verify,
            credentials: credentials.clone(),
        };
        let mut events = node.pull(request).await?;
        let mut progress = Progress::new(reference.to_string(), context.ui.draws && !args.quiet);
        let mut pulled = false;
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(fault) => {
                    progress.clear(context);
                    return Err(fault);
                }
            };
            if context.output() == Output::Json && !args.quiet {
                context.ui.bytes(render::json::line(&event)?.as_bytes());
            }
            match event {
                PullEvent::Resolved { .. } => progress.draw(context),
                PullEvent::Blob { digest, state, done, total } => {
                    progress.blobs.insert(digest, (state, done, total));
                    progress.draw(context);
                }
                PullEvent::Pulled { reference, digest, size, unchanged } => {
                    progress.clear(context);
                    pulled = true;
                    match context.output() {
                        _ if args.quiet => context.ui.line(digest),
                        Output::Json => {}
                        Output::Name => context.ui.line(format!("image/{reference}")),
                        _ => {
                            let already = if unchanged { ", was here" } else { "" };
                            context.ui.line(format!("{reference}  {digest}  {}{already}", render::size(size)));
                        }
                    }
                }
            }
        }
        if !pulled {
            return Err(Fault::new(Class::Runtime, format!("the node ended its report on {reference} early")));
        }
    }
    Ok(0)
}

/// `USER:PASSWORD`, or the password from standard input, where no argument list shows it.
fn credentials(text: &str) -> Result<Credentials> {
    if let Some((user, password)) = text.split_once(':') {
        return Ok(Credentials { user: user.to_owned(), password: password.to_owned() });
    }
    let mut password = String::new();
    std::io::stdin()
        .read_line(&mut password)
        .map_err(|error| Fault::new(Class::Usage, format!("the password of {text} cannot be read: {error}")))?;
    Ok(Credentials { user: text.to_owned(), password: password.trim_end_matches(['\r', '\n']).to_owned() })
}

/// One line on the terminal that is drawn over itself.
struct Progress {
    subject: String,
    blobs: BTreeMap<Digest, (BlobState, u64, u64)>,
    draws: bool,
    shown: String,
}

impl Progress {
    fn new(subject: String, draws: bool) -> Self {
        Self { subject, blobs: BTreeMap::new(), draws, shown: String::new() }
    }

    fn line(&self) -> String {
        let sum = |pick: fn(&(BlobState, u64, u64)) -> u64| self.blobs.values().map(pick).sum::<u64>();
        let here = self.blobs.values().filter(|blob| matches!(blob.0, BlobState::Done | BlobState::Unpacking)).count();
        let (done, total) = (sum(|blob| blob.1), sum(|blob| blob.2));
        let sizes = format!("{} of {}", render::size(done), render::size(total));
        format!("{}: {here}/{} blobs, {sizes}", self.subject, self.blobs.len())
    }

    fn draw(&mut self, context: &mut Context) {
        if self.draws {
            let line = self.line();
            if line != self.shown {
                context.ui.message(&format!("\r\x1b[K{line}"));
                self.shown = line;
            }
        }
    }

    fn clear(&mut self, context: &mut Context) {
        if !self.shown.is_empty() {
            context.ui.message("\r\x1b[K");
            self.shown.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_blobs_and_bytes() {
        let mut progress = Progress::new("docker.io/a/b:1".into(), true);
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64)).parse::<Digest>().unwrap();
        progress.blobs.insert(digest("a"), (BlobState::Done, 1_000_000, 1_000_000));
        progress.blobs.insert(digest("b"), (BlobState::Downloading, 500_000, 9_000_000));
        assert_eq!(progress.line(), "docker.io/a/b:1: 1/2 blobs, 1.5 MB of 10 MB");
    }
}
