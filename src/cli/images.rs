//! `bayplan images`, `bayplan image ls`: every reference that the namespace has, or those that are named.

use super::args::Output;
use super::context::Context;
use super::later;
use super::render::listing::{self, Style};
use crate::api::{Query, Service as _, Status};
use crate::error::Result;
use crate::manifest::Kind;

/// List images and tags
///
/// NAME chooses: a whole reference, or its end from a slash on, with or without the tag; * stands for anything.
#[derive(Debug, Default, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Print digests only
    #[arg(short, long)]
    pub quiet: bool,
    /// Only these, such as nginx, library/nginx:1.27 or registry.local/*
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    list(args, false, context).await
}

/// The same where a verb may stand: a word that names nothing here may be a slip of one.
pub async fn run_or_slip(args: Args, context: &mut Context) -> Result<u8> {
    list(args, true, context).await
}

async fn list(args: Args, verbs: bool, context: &mut Context) -> Result<u8> {
    let node = context.node().await?;
    let query = Query { kinds: vec![Kind::Image, Kind::Tag], namespace: context.global.scope(), name: None };
    if !args.quiet && matches!(context.output(), Output::Wide | Output::Json | Output::Yaml) {
        // Layers that were not measured yet are measured, once.
        node.snapshots().await?;
    }
    let mut items = node.list(query).await?;
    if let Some(first) = args.names.first() {
        if verbs && (args.names.len() > 1 || later::is_slip("image", first)) && is_word(first) {
            let named = items.iter().any(|item| is_named(&item.metadata.name, first));
            if !named {
                return later::run("image", &[first.into()]);
            }
        }
        items.retain(|item| args.names.iter().any(|name| is_named(&item.metadata.name, name)));
    }
    if args.quiet {
        for item in &items {
            let digest = match &item.status {
                Status::Image(status) => status.digest.as_ref(),
                Status::Tag(status) => status.digest.as_ref(),
                _ => None,
            };
            if let Some(digest) = digest {
                context.ui.line(digest);
            }
        }
        return Ok(0);
    }
    if items.is_empty() && matches!(context.output(), Output::Table | Output::Wide | Output::Name) {
        let named = if args.names.is_empty() { String::new() } else { format!(" named {}", args.names.join(", ")) };
        context.ui.note(match context.global.scope() {
            Some(namespace) => format!("no images{named} in namespace {namespace}"),
            None => format!("no images{named}"),
        });
        return Ok(0);
    }
    let all_namespaces = context.global.all_namespaces;
    let text = match context.output() {
        Output::Table => listing::references(&items, all_namespaces, false, context.now),
        Output::Wide => listing::references(&items, all_namespaces, true, context.now),
        output => listing::items(items, Style { output, all_namespaces, single: false, now: context.now })?,
    };
    context.ui.bytes(text.as_bytes());
    Ok(0)
}

/// Whether it could be a verb.
fn is_word(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

/// Whether a reference is meant by `wanted`: all of it or its end from a slash on, with its tag or digest or without.
fn is_named(reference: &str, wanted: &str) -> bool {
    let (name, digest) = reference.split_once('@').map_or((reference, None), |(name, digest)| (name, Some(digest)));
    let repository = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    };
    let whole = digest.map(|_| reference);
    let ends = |text: &str| {
        let starts = std::iter::once(0).chain(text.match_indices('/').map(|(at, _)| at + 1));
        starts.into_iter().any(|at| like(wanted.as_bytes(), &text.as_bytes()[at..]))
    };
    [Some(repository), Some(name), whole].into_iter().flatten().any(ends)
}

/// Whether a text is like a pattern, in which `*` stands for anything. In time proportional to both lengths.
fn like(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(from) {
            Some(b'*') => {
                star = Some((from, at));
                from += 1;
            }
            Some(byte) if *byte == text[at] => (at, from) = (at + 1, from + 1),
            _ => {
                let Some((pattern_at, text_at)) = star else { return false };
                star = Some((pattern_at, text_at + 1));
                (at, from) = (text_at + 1, pattern_at + 1);
            }
        }
    }
    pattern[from..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_whole_reference_or_its_end() {
        let nginx = "docker.io/library/nginx:1.27";
        for wanted in [
            "nginx",
            "library/nginx",
            "nginx:1.27",
            nginx,
            "docker.io/library/nginx",
            "nginx:1.*",
            "*ngin*",
            "docker.io/*",
        ] {
            assert!(is_named(nginx, wanted), "{wanted}");
        }
        for wanted in ["", "ginx", "nginx:1", "library", "docker.io", "1.27", "nginx:", "docker.io/nginx"] {
            assert!(!is_named(nginx, wanted), "{wanted}");
        }
        let pinned = "127.0.0.1:5000/lab/app@sha256:0123";
        for wanted in ["app", "lab/app", "127.0.0.1:5000/lab/app", pinned, "app@sha256:01*"] {
            assert!(is_named(pinned, wanted), "{wanted}");
        }
        assert!(!is_named(pinned, "127.0.0.1"));
        assert!(like(b"*a*b", b"xaxxbab") && !like(b"*a*b", b"xaxxbac") && like(b"**", b""));
    }
}
