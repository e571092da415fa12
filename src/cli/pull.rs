//! `bayplan pull`, `bayplan image pull`.

use super::context::Context;
use super::{args::Output, flags, password, progress, render};
use crate::api::{Client, Credentials, PullEvent, PullRequest, Service as _, Transfer};
use crate::error::{Class, Fault, Result};
use crate::manifest::{Kind, ResourceKey};
use crate::oci::Platform;

/// Pull images into the namespace and unpack them
///
/// Of several each is tried; the first failure decides the exit status.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// References with their host: docker.io/library/nginx:1.27
    #[arg(value_name = "REFERENCE", required = true)]
    pub references: Vec<String>,
    /// Print digests only
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub access: Access,
    /// Another platform than the node's: linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,
    #[command(flatten)]
    pub progress: progress::Flag,
    /// The images of every platform; of these, the node's own is the one that is unpacked
    #[arg(long, conflicts_with = "platform")]
    pub all_platforms: bool,
}

/// How a registry is spoken to, for all verbs that do.
#[derive(Debug, Clone, clap::Args)]
pub struct Access {
    /// Do not check TLS certificates
    #[arg(short = 'k', long)]
    pub skip_verify: bool,
    /// Plain HTTP
    #[arg(long)]
    pub plain_http: bool,
    /// User and password; without a password it is asked for, or read from standard input
    #[arg(short, long, value_name = "USER[:PASSWORD]")]
    pub user: Option<String>,
}

impl Access {
    /// `USER:PASSWORD`, or the password from the terminal or standard input, where no argument list shows it.
    pub(super) fn credentials(&self, context: &mut Context) -> Result<Option<Credentials>> {
        let Some(text) = &self.user else { return Ok(None) };
        if let Some((user, password)) = text.split_once(':') {
            return Ok(Some(Credentials { user: user.to_owned(), password: password.to_owned() }));
        }
        let password = match password::can_ask() {
            true => password::ask(&mut context.ui, &format!("Password of {text}: "), false)?,
            false => password::of_input(text)?,
        };
        Ok(Some(Credentials { user: text.clone(), password }))
    }
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    each(args, false, context).await
}

/// The same without unpacking.
pub(super) async fn fetch(args: Args, context: &mut Context) -> Result<u8> {
    each(args, true, context).await
}

async fn each(args: Args, blobs_only: bool, context: &mut Context) -> Result<u8> {
    let references = args.references.iter().map(|text| flags::reference(text)).collect::<Result<Vec<_>>>()?;
    let credentials = args.access.credentials(context)?;
    let node = context.node().await?;
    let mut status = 0;
    for reference in references {
        let request = PullRequest {
            namespace: context.namespace(),
            reference,
            platform: args.platform.clone(),
            all_platforms: args.all_platforms,
            blobs_only,
            plain_http: args.access.plain_http,
            skip_verify: args.access.skip_verify,
            credentials: credentials.clone(),
        };
        if let Err(fault) = pull(&args, &node, request, context).await {
            context.ui.erase();
            context.ui.fault(&fault);
            if status == 0 {
                status = fault.class.exit_status();
            }
        }
    }
    Ok(status)
}

async fn pull(args: &Args, node: &Client, request: PullRequest, context: &mut Context) -> Result<()> {
    let reference = request.reference.clone();
    let mut events = node.pull(request).await?;
    let key = ResourceKey::new(Kind::Image, context.namespace(), reference.to_string());
    let mut progress = progress::Progress::new(args.progress, args.quiet, &context.ui);
    let mut pulled = false;
    while let Some(event) = progress.next(&mut events, &mut context.ui).await {
        let event = event?;
        let is_data = !matches!(event, PullEvent::Blob { .. });
        if matches!(context.output(), Output::Json | Output::Yaml) && is_data && !args.quiet {
            context.ui.bytes(render::event(context.output(), &event)?.as_bytes());
        }
        match event {
            PullEvent::Resolved { .. } => {}
            PullEvent::Waiting { host, attempt, of, why } => {
                context.ui.note(format!("waiting for {host}, try {attempt} of {of}: it {}", render::prose(&why)));
            }
            PullEvent::Blob { digest, state, done, total, fetched } => {
                let key = key.clone();
                progress.transferred(&Transfer { key, digest, state, done, total, fetched }, &mut context.ui);
            }
            PullEvent::Pulled { reference, digest, size, unchanged } => {
                context.ui.erase();
                pulled = true;
                match context.output() {
                    _ if args.quiet => context.ui.line(digest),
                    Output::Json | Output::Yaml => {}
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
    Ok(())
}
