use super::*;

pub(super) fn file(name: &str, text: impl Into<Vec<u8>>) -> SourceFile {
    SourceFile { name: name.into(), path: Some(format!("/manifests/{name}").into()), text: text.into() }
}

pub(super) fn read(text: &str) -> Parsed {
    parse(&[file("a.yaml", text)], &ParseOptions::default())
}

/// Every finding as it is shown.
pub(super) fn shown(text: &str) -> String {
    let parsed = read(text);
    parsed.diagnostics.iter().map(|d| d.render(false)).collect()
}

/// The resources of a valid file.
pub(super) fn good(text: &str) -> Vec<Located> {
    let parsed = read(text);
    let findings: String = parsed.diagnostics.iter().map(|d| d.render(false)).collect();
    assert!(parsed.diagnostics.is_empty(), "{findings}");
    parsed.resources
}
