//! `bayplan rmi`, `bayplan image rm`.

use super::context::Context;
use super::each::{self, Removal};
use crate::api::{RemoveImageRequest, Service as _};
use crate::error::Result;

/// Remove images and tags
///
/// By reference, or by digest, which takes every name of it and with more than one must be forced. Refuses one
/// that a container uses, unless forced. What a source declares comes back; the command says so.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    removal: Removal,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let remove = async |node: &crate::api::Client, namespace: &str, name: &str, force| {
        let name = name.strip_prefix("image/").or_else(|| name.strip_prefix("tag/")).unwrap_or(name).to_owned();
        let request = RemoveImageRequest { namespace: namespace.to_owned(), name: name.clone(), force };
        let removed = node.remove_image(request).await?;
        let names: Vec<&str> = std::iter::once(&removed.reference)
            .chain(&removed.also)
            .map(String::as_str)
            .filter(|gone| *gone != name)
            .collect();
        let gone = (!names.is_empty())
            .then(|| format!("its name{} {}", if names.len() > 1 { "s were" } else { " was" }, names.join(", ")));
        let users = (removed.declared_by.is_none() && !removed.used_by.is_empty()).then(|| {
            let (plural, verb) = if removed.used_by.len() > 1 { ("s", "use") } else { ("", "uses") };
            let users = removed.used_by.join(", ");
            format!("container{plural} {users} {verb} {}: it comes back", removed.reference)
        });
        let notes = [gone, users, each::comes_back(&removed.reference, removed.declared_by)];
        let notes: Vec<String> = notes.into_iter().flatten().collect();
        Ok((!notes.is_empty()).then(|| notes.join("\n")))
    };
    args.removal.run(context, remove).await
}
