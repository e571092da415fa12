//! `bayplan get`.

use super::args::Output;
use super::context::Context;
use super::names;
use super::render::listing::{self, Style};
use crate::api::{Item, Query, Service as _};
use crate::error::{Class, Fault, Result};
use crate::manifest::Kind;

/// List resources: their state beside what is wanted
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND…, KIND NAME…, or KIND/NAME…; kinds: containers (c), images (i), tags (t), namespaces (ns), registries, all
    #[arg(value_name = "KIND[/NAME]", required = true)]
    pub selectors: Vec<String>,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let selectors = selectors(&args.selectors)?;
    let node = context.node().await?;
    let mut items: Vec<Item> = Vec::new();
    let mut status = 0;
    for selector in &selectors {
        let namespace = scope(&selector.kinds, context);
        let query = Query { kinds: selector.kinds.clone(), namespace, name: selector.name.clone() };
        let found = node.list(query).await?;
        if let (true, Some(name), [kind]) = (found.is_empty(), &selector.name, selector.kinds.as_slice()) {
            let fault = names::not_found(&node, &names::key(*kind, context.global.namespace(), name)).await;
            context.ui.fault(&fault);
            status = fault.class.exit_status();
        }
        for item in found {
            if !items.iter().any(|known| known.key() == item.key()) {
                items.push(item);
            }
        }
    }
    let single = matches!(selectors.as_slice(), [Selector { name: Some(_), .. }]) && !context.global.all_namespaces;
    if items.is_empty() && status == 0 && !matches!(context.output(), Output::Json | Output::Yaml) {
        context.ui.note(nothing(&selectors, context.global.scope().as_deref()));
    } else if !(items.is_empty() && status != 0) {
        let style =
            Style { output: context.output(), all_namespaces: context.global.all_namespaces, single, now: context.now };
        let text = listing::items(items, style)?;
        context.ui.bytes(text.as_bytes());
    }
    Ok(status)
}

/// Where to look: namespaces lie in none.
fn scope(kinds: &[Kind], context: &Context) -> Option<String> {
    if kinds == [Kind::Namespace] { None } else { context.global.scope() }
}

/// `ls` of the long groups: a listing of one kind, or its names alone.
pub(super) async fn names_or_table(kind: Kind, quiet: bool, context: &mut Context) -> Result<u8> {
    if !quiet {
        return run(Args { selectors: vec![kind.word().to_owned()] }, context).await;
    }
    let query = Query { kinds: vec![kind], namespace: scope(&[kind], context), name: None };
    for item in context.node().await?.list(query).await? {
        context.ui.line(item.metadata.name);
    }
    Ok(0)
}

/// What one word or pair of words selects.
#[derive(Debug, PartialEq)]
struct Selector {
    kinds: Vec<Kind>,
    name: Option<String>,
}

/// `KIND…`, `KIND,KIND`, `KIND NAME…`, `KIND/NAME…`, `all`.
fn selectors(words: &[String]) -> Result<Vec<Selector>> {
    let mut selectors: Vec<Selector> = Vec::new();
    let mut named: Option<Kind> = None;
    for (index, word) in words.iter().enumerate() {
        if let Some((kind, name)) = names::object(word) {
            selectors.push(Selector { kinds: vec![kind], name: Some(name.to_owned()) });
            continue;
        }
        if word == "all" {
            selectors.push(Selector { kinds: Kind::ALL.to_vec(), name: None });
            continue;
        }
        let kinds: Option<Vec<Kind>> = word.split(',').map(names::kind_word).collect();
        match (kinds, named) {
            (Some(kinds), _) => {
                named = match kinds.as_slice() {
                    [kind] => Some(*kind),
                    _ => None,
                };
                selectors.push(Selector { kinds, name: None });
            }
            // `containers web`: the word names one of the kind before it.
            (None, Some(kind)) if index > 0 => {
                if selectors.last().is_some_and(|last| last.name.is_none() && last.kinds == [kind]) {
                    selectors.pop();
                }
                selectors.push(Selector { kinds: vec![kind], name: Some(word.clone()) });
            }
            (None, _) => {
                for part in word.split(',') {
                    names::kind(part.split('/').next().unwrap_or(part))?;
                }
                return Err(Fault::new(Class::Usage, format!("{word:?} is not KIND or KIND/NAME")));
            }
        }
    }
    Ok(selectors)
}

/// `no containers in namespace default`.
fn nothing(selectors: &[Selector], namespace: Option<&str>) -> String {
    let mut kinds: Vec<String> = Vec::new();
    for kind in selectors.iter().flat_map(|selector| &selector.kinds) {
        let word = kind.plural().to_owned();
        if !kinds.contains(&word) {
            kinds.push(word);
        }
    }
    let what = if kinds.len() == Kind::ALL.len() { "resources".to_owned() } else { kinds.join(" or ") };
    match namespace {
        Some(namespace) if !["namespaces", "registries"].contains(&what.as_str()) => {
            format!("no {what} in namespace {namespace}")
        }
        _ => format!("no {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(words: &[&str]) -> Vec<(Vec<Kind>, Option<String>)> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        selectors(&words).unwrap().into_iter().map(|selector| (selector.kinds, selector.name)).collect()
    }

    #[test]
    fn every_way_to_name_things() {
        let (c, i) = (Kind::Container, Kind::Image);
        assert_eq!(select(&["c"]), [(vec![c], None)]);
        assert_eq!(select(&["c", "images"]), [(vec![c], None), (vec![i], None)]);
        assert_eq!(select(&["c,i"]), [(vec![c, i], None)]);
        assert_eq!(select(&["c", "web", "db"]), [(vec![c], Some("web".into())), (vec![c], Some("db".into()))]);
        assert_eq!(select(&["image/docker.io/library/nginx:1"]), [(vec![i], Some("docker.io/library/nginx:1".into()))]);
        assert_eq!(select(&["i", "docker.io/a/b:1"]), [(vec![i], Some("docker.io/a/b:1".into()))]);
    }

    #[test]
    fn an_unknown_kind_is_wrong_usage() {
        let fault = selectors(&["contaners/web".into()]).unwrap_err();
        assert_eq!((fault.class, fault.help.unwrap().as_str()), (Class::Usage, "did you mean containers?"));
    }
}
