//! `-f PATH…`: files, directories and standard input → resources, or every finding at once.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::context::Context;
use crate::api::{Client, Query, Service as _};
use crate::error::{Class, Fault, Result};
use crate::manifest::{Kind, Located, MAX_FILE, ParseOptions, SourceFile, check_set, parse};
use crate::plan::{Declared, Source};

/// Directories are read this deep, as the controller reads its own.
const MAX_DEPTH: usize = 16;

/// What `-f` named.
pub(super) struct Manifests {
    /// Every resource, in the order written.
    pub(super) resources: Vec<Located>,
    /// How many files were read.
    pub(super) files: usize,
}

/// Reads and checks. `None`: something was wrong, and each finding has been shown.
///
/// `node` is asked which references exist already, so that a tag may point at those.
pub(super) async fn read(paths: &[PathBuf], node: Option<&Client>, context: &mut Context) -> Result<Option<Manifests>> {
    let files = files(paths)?;
    let parsed = parse(&files, &ParseOptions { default_namespace: context.namespace() });
    let mut diagnostics = parsed.diagnostics;
    if diagnostics.is_empty() {
        let tags = parsed.resources.iter().any(|located| located.resource.kind() == Kind::Tag);
        let known = match node {
            Some(node) if tags => {
                let query = Query { kinds: vec![Kind::Image, Kind::Tag], ..Query::default() };
                let names = node.list(query).await?.into_iter();
                names.map(|item| (item.metadata.namespace, item.metadata.name)).collect()
            }
            _ => std::collections::BTreeSet::new(),
        };
        diagnostics = check_set(&parsed.resources, &|namespace, reference| {
            known.contains(&(namespace.to_owned(), reference.to_string()))
        });
    }
    if diagnostics.is_empty() {
        return Ok(Some(Manifests { resources: parsed.resources, files: files.len() }));
    }
    for (index, diagnostic) in diagnostics.iter().enumerate() {
        let gap = if index > 0 { "\n" } else { "" };
        let text = format!("{gap}{}", diagnostic.render(context.ui.colour_err));
        context.ui.message(&text);
    }
    Ok(None)
}

/// The resources as a set declares them.
pub(super) fn declare(resources: Vec<Located>, set: &str) -> Vec<Declared> {
    let declare = |located: Located| Declared {
        resource: located.resource,
        source: Source::Apply(set.to_owned()),
        place: Some(located.place),
        fields: located.fields,
    };
    resources.into_iter().map(declare).collect()
}

/// Every file that the paths name, in their order; each directory's sorted.
fn files(paths: &[PathBuf]) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let text = bounded(io::stdin().lock()).map_err(|error| unreadable(Path::new("standard input"), &error))?;
            let directory = std::env::current_dir().unwrap_or_default();
            files.push(SourceFile { name: "<stdin>".into(), path: Some(directory.join("stdin.yaml")), text });
            continue;
        }
        let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        if metadata.is_dir() {
            let before = files.len();
            walk(path, 0, &mut files)?;
            if files.len() == before {
                return Err(Fault::new(Class::NotFound, format!("{} holds no manifest", path.display()))
                    .help("manifests are files named *.yaml, *.yml or *.json"));
            }
        } else {
            // A pipe (`-f <(…)`) is read as well; only a directory's own are skipped.
            files.push(file(path)?);
        }
    }
    Ok(files)
}

/// As the controller reads a directory: sorted, recursive, only manifests, droppings of editors left out.
fn walk(directory: &Path, depth: usize, files: &mut Vec<SourceFile>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Fault::new(Class::Invalid, format!("{} lies too deep", directory.display()))
            .help(format!("directories are read {MAX_DEPTH} levels deep")));
    }
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(|error| unreadable(directory, &error))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !is_dropping(name)) else { continue };
        let path = entry.path();
        // Through links; a dangling one is nobody's manifest.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            if !entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                walk(&path, depth + 1, files)?;
            }
        } else if metadata.is_file() && is_manifest(name) {
            files.push(file(&path)?);
        }
    }
    Ok(())
}

fn is_dropping(name: &str) -> bool {
    name.starts_with(['.', '#'])
        || name.ends_with('~')
        || [".swp", ".swx", ".bak", ".orig", ".tmp"].iter().any(|end| name.ends_with(end))
}

fn is_manifest(name: &str) -> bool {
    [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end))
}

fn file(path: &Path) -> Result<SourceFile> {
    let text = File::open(path).and_then(bounded).map_err(|error| unreadable(path, &error))?;
    Ok(SourceFile { name: path.display().to_string(), path: Some(path.to_owned()), text })
}

/// One byte more than a manifest may have: the parser says that it is too large.
fn bounded(from: impl io::Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    from.take(MAX_FILE as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    let class = if error.kind() == io::ErrorKind::NotFound { Class::NotFound } else { Class::Invalid };
    Fault::new(class, format!("{} cannot be read: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_read_as_the_controller_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir(root.join("sub")).unwrap();
        for name in ["b.yaml", "a.yml", "sub/c.json", ".hidden.yaml", "d.yaml~", "e.yaml.swp", "#f.yaml", "notes.txt"] {
            fs::write(root.join(name), "").unwrap();
        }
        std::os::unix::fs::symlink("nowhere", root.join("dangling.yaml")).unwrap();
        let names: Vec<String> = files(&[root.to_owned()])
            .unwrap()
            .iter()
            .map(|file| Path::new(&file.name).strip_prefix(root).unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["a.yml", "b.yaml", "sub/c.json"]);
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        assert_eq!(files(&["/nonexistent/x.yaml".into()]).err().unwrap().class, Class::NotFound);
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(files(&[empty.path().to_owned()]).err().unwrap().class, Class::NotFound);
    }
}
