//! How people name things: kinds in every form, `KIND/NAME`, signals, durations; and what they may have meant.

use crate::api::{Client, Item, Query, Service as _};
use crate::error::{Class, Fault, Result};
use crate::manifest::{Kind, ResourceKey, Span};
use crate::oci::Reference;

/// Kinds by every word that names them.
const WORDS: [(&str, Kind); 15] = [
    ("namespace", Kind::Namespace),
    ("namespaces", Kind::Namespace),
    ("ns", Kind::Namespace),
    ("registry", Kind::Registry),
    ("registries", Kind::Registry),
    ("image", Kind::Image),
    ("images", Kind::Image),
    ("i", Kind::Image),
    ("img", Kind::Image),
    ("tag", Kind::Tag),
    ("tags", Kind::Tag),
    ("t", Kind::Tag),
    ("container", Kind::Container),
    ("containers", Kind::Container),
    ("c", Kind::Container),
];

/// The kind that a word names, singular, plural or short, in any case.
pub(super) fn kind_word(word: &str) -> Option<Kind> {
    let word = word.to_ascii_lowercase();
    WORDS.iter().find(|(name, _)| *name == word).map(|(_, kind)| *kind)
}

/// The same, or what may have been meant.
pub(super) fn kind(word: &str) -> Result<Kind> {
    kind_word(word).ok_or_else(|| {
        let fault = Fault::new(Class::Usage, format!("{word:?} is not a kind"));
        match nearest(word, WORDS.iter().map(|(name, _)| *name)) {
            Some(near) => fault.help(format!("did you mean {near}?")),
            None => fault.help("kinds are containers (c), images (i), tags (t), namespaces (ns), registries"),
        }
    })
}

/// `KIND/NAME`, if the part before the first slash is a kind. (A reference has slashes of its own.)
pub(super) fn object(word: &str) -> Option<(Kind, &str)> {
    let (kind, name) = word.split_once('/')?;
    Some((kind_word(kind)?, name)).filter(|(_, name)| !name.is_empty())
}

/// `KIND/NAME`, or a fault that shows the form.
pub(super) fn object_or_fault(word: &str) -> Result<(Kind, String)> {
    if let Some((kind, name)) = object(word) {
        return Ok((kind, name.to_owned()));
    }
    if let Some((first, rest)) = word.split_once('/')
        && !rest.is_empty()
    {
        kind(first)?;
    }
    Err(Fault::new(Class::Usage, format!("{word:?} is not KIND/NAME")).help("write it like container/web"))
}

/// A key; a namespace is its own namespace.
pub(super) fn key(kind: Kind, namespace: &str, name: &str) -> ResourceKey {
    match kind {
        Kind::Namespace => ResourceKey::new(kind, name, name),
        Kind::Registry => ResourceKey::new(kind, "", name),
        _ => ResourceKey::new(kind, namespace, name),
    }
}

/// The nearest of the candidates, if it is near enough to be a slip.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= limit && *distance < candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

/// The item of that name, or `NotFound` with what may have been meant.
pub(super) async fn find(node: &Client, key: &ResourceKey) -> Result<Item> {
    let namespace = (key.kind != Kind::Registry).then(|| key.namespace.clone());
    let query = Query { kinds: vec![key.kind], namespace, name: Some(key.name.clone()) };
    match node.list(query).await?.into_iter().next() {
        Some(item) => Ok(item),
        None => Err(not_found(node, key).await),
    }
}

/// `NotFound`, with what may have been meant.
pub(super) async fn not_found(node: &Client, key: &ResourceKey) -> Fault {
    let fault = Fault::new(Class::NotFound, format!("{key} is not found"));
    let Ok(all) = node.list(Query { kinds: vec![key.kind], ..Query::default() }).await else { return fault };
    if let Some(elsewhere) = all.iter().find(|item| item.metadata.name == key.name) {
        return fault.help(format!("namespace {0} has one: add -n {0}", elsewhere.metadata.namespace));
    }
    let here = |item: &&Item| key.kind.is_node_wide() || item.metadata.namespace == key.namespace;
    let names: Vec<&str> = all.iter().filter(here).map(|item| item.metadata.name.as_str()).collect();
    let expanded = Reference::parse_docker(&key.name).map(|reference| reference.to_string()).unwrap_or_default();
    match names.iter().find(|name| **name == expanded).copied().or_else(|| nearest(&key.name, names)) {
        Some(near) => fault.help(format!("did you mean {near}?")),
        None => fault,
    }
}

/// A signal's number, from `TERM`, `SIGTERM`, `15`.
pub(super) fn signal(text: &str) -> std::result::Result<i32, String> {
    let wrong = || format!("{text:?} is not a signal; write TERM, SIGTERM or 15");
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(wrong()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    // signal(7): real-time signals are named from either end.
    for (base, number) in [("SIGRTMIN", 34), ("SIGRTMAX", 64)] {
        if let Some(rest) = name.strip_prefix(base) {
            let offset = if rest.is_empty() { Ok(0) } else { rest.parse::<i32>() };
            let number = offset.ok().map(|offset| number + offset);
            return number.filter(|number| (34..=64).contains(number)).ok_or_else(wrong);
        }
    }
    name.parse::<nix::sys::signal::Signal>().map(|signal| signal as i32).map_err(|_| wrong())
}

/// A container's name, also written as `container/NAME`.
pub(super) fn plain(name: &str) -> &str {
    name.strip_prefix("container/").unwrap_or(name)
}

/// Milliseconds, from `90s`, `5m`, or plain seconds.
pub(super) fn duration(text: &str) -> std::result::Result<u64, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return seconds.checked_mul(1000).ok_or_else(|| format!("{text:?} is longer than a duration can be"));
    }
    let span: Span = text.parse()?;
    Ok(u64::try_from(span.duration().as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_every_form() {
        for (word, kind) in [("Container", Kind::Container), ("c", Kind::Container), ("NS", Kind::Namespace)] {
            assert_eq!(kind_word(word), Some(kind));
        }
        assert_eq!(super::kind("contianers").unwrap_err().help.unwrap(), "did you mean containers?");
    }

    #[test]
    fn a_reference_is_not_mistaken_for_a_kind() {
        assert_eq!(object("docker.io/library/nginx:1"), None);
        assert_eq!(object("image/docker.io/library/nginx:1"), Some((Kind::Image, "docker.io/library/nginx:1")));
        assert_eq!(object("container/"), None);
    }

    #[test]
    fn signals_and_durations() {
        assert_eq!((signal("term"), signal("SIGKILL"), signal("1")), (Ok(15), Ok(9), Ok(1)));
        assert!(signal("SIGFOO").is_err() && signal("0").is_err());
        assert_eq!((signal("RTMIN"), signal("SIGRTMIN+3"), signal("rtmax-2")), (Ok(34), Ok(37), Ok(62)));
        assert!(signal("RTMAX+1").is_err() && signal("SIGRTMINx").is_err());
        assert_eq!((duration("90"), duration("1.5s"), duration("2m")), (Ok(90_000), Ok(1500), Ok(120_000)));
    }
}
