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

/// A container's manifest with these lines in its spec.
fn container(lines: &str) -> String {
    let mut text =
        "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {name: web, namespace: shop}\nspec:\n".to_owned();
    text.push_str("  image: docker.io/library/busybox:1.36\n");
    for line in lines.lines() {
        text.push_str("  ");
        text.push_str(line);
        text.push('\n');
    }
    text
}

fn spec(lines: &str) -> ContainerSpec {
    good(&container(lines))[0].resource.container().unwrap().clone()
}

/// Messages, labels and help of what is wrong with a container's spec.
fn wrong(lines: &str) -> String {
    let parsed = read(&container(lines));
    assert!(!parsed.diagnostics.is_empty(), "{lines} should be wrong");
    assert!(parsed.resources.is_empty());
    let line = |d: &Diagnostic| {
        assert!(d.place.line > 0, "{d}");
        let message = d.message.strip_prefix("container shop/web: ").unwrap_or(&d.message);
        format!("{}:{} {message} | {} | {}", d.place.line, d.place.column, d.label, d.help.as_deref().unwrap_or("-"))
    };
    parsed.diagnostics.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_field_table_is_its_types_schema() {
    let all = schema(None).unwrap();
    let tables = container::TABLES.iter().copied().chain([
        ("Mount", &mounts::MOUNT),
        ("ImageSpec", &resource::IMAGE),
        ("TagSpec", &resource::TAG),
        ("NamespaceSpec", &resource::NAMESPACE),
        ("Metadata", &resource::METADATA),
        ("BayPlanSpec", &compact::PLAN),
        ("NamespaceBlock", &compact::BLOCK),
    ]);
    for (name, fields) in tables {
        let properties = all["$defs"][name]["properties"].as_object();
        let mut typed: Vec<&str> = properties.map(|p| p.keys().map(String::as_str).collect()).unwrap_or_default();
        let mut read = fields.known.to_vec();
        typed.sort_unstable();
        read.sort_unstable();
        assert_eq!(typed, read, "{name}");
        assert!(fields.later.iter().all(|field| !read.contains(field)), "{name}");
    }
}

#[test]
fn defaults_in_the_schema_are_those_in_force() {
    let all = schema(None).unwrap();
    let bare = spec("");
    let mut checked = 0;
    for (definition, prefix) in
        [("ContainerSpec", ""), ("SecurityContext", "securityContext"), ("Backoff", "backoff"), ("Logs", "logs")]
    {
        for (field, schema) in all["$defs"][definition]["properties"].as_object().unwrap() {
            if let Some(default) = schema.get("default") {
                let line = match prefix {
                    "" => format!("{field}: {default}"),
                    prefix => format!("{prefix}: {{{field}: {default}}}"),
                };
                assert_eq!(spec(&line), bare, "{line}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 9, "{checked}");
}
