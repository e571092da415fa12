//! `bayplan delete`.

use std::path::PathBuf;

use super::context::Context;
use super::{manifests, names, progress, render};
use crate::api::{DeleteRequest, Service as _};
use crate::error::{Class, Fault, Result};
use crate::manifest::ResourceKey;

/// Remove what was applied
///
/// What a directory still declares is refused, and the file is named. Prints each step as it is done.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The resources of these manifests: file, directory, or - for standard input
    #[arg(short, long, value_name = "PATH", num_args = 1.., conflicts_with = "objects")]
    pub filename: Vec<PathBuf>,
    /// KIND NAME…, or KIND/NAME…
    #[arg(value_name = "KIND NAME|KIND/NAME", required_unless_present = "filename")]
    pub objects: Vec<String>,
    /// What is not there is no error
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Print the steps and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let keys = if args.filename.is_empty() {
        keys(&args.objects, &context.namespace())?
    } else {
        let node = context.node().await?;
        let Some(read) = manifests::read(&args.filename, Some(&node), context).await? else {
            return Ok(Class::Invalid.exit_status());
        };
        read.resources.iter().map(|located| located.resource.key()).collect()
    };
    let node = context.node().await?;
    let request = DeleteRequest { keys, ignore_missing: args.ignore_not_found, dry_run: args.dry_run };
    let events = node.delete(request).await?;
    render::steps::report(events, progress::Flag::default(), context).await
}

/// `KIND NAME…` or `KIND/NAME…`.
fn keys(objects: &[String], namespace: &str) -> Result<Vec<ResourceKey>> {
    let kind = objects.first().and_then(|word| names::kind_word(word));
    if let Some(kind) = kind {
        let names = &objects[1..];
        if names.is_empty() {
            return Err(Fault::new(Class::Usage, format!("which {kind}?")).help(format!("name one: {kind}/NAME")));
        }
        return Ok(names.iter().map(|name| names::key(kind, namespace, name)).collect());
    }
    let key = |word: &String| names::object_or_fault(word).map(|(kind, name)| names::key(kind, namespace, &name));
    objects.iter().map(key).collect()
}
