//! Manifests of people: whatever stands in a file, findings are few, have their place and write nothing odd to a
//! terminal; what is taken is printed and read back as the same.

use bayplan::manifest::{self, Diagnostic, Located, ParseOptions, Parsed, SourceFile, check_set};

use super::Target;

/// YAML, and JSON where it begins with a brace.
pub const YAML: Target = Target {
    name: "yaml",
    seeds: || {
        [
            include_str!("../../examples/bayplan-compact.yaml"),
            include_str!("../../examples/container.json"),
            include_str!("../../examples/container.yaml"),
            include_str!("../../examples/image-from-archive.yaml"),
            include_str!("../../examples/image.yaml"),
            include_str!("../../examples/mounts.yaml"),
            include_str!("../../examples/multi-document.yaml"),
            include_str!("../../examples/namespace.yaml"),
            include_str!("../../examples/registry.yaml"),
            include_str!("../../examples/restart.yaml"),
            include_str!("../../examples/security.yaml"),
            include_str!("../../examples/tag.yaml"),
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    },
    words: &[
        "apiVersion: bayplan.dev/v1\n",
        "kind: ",
        "Container",
        "BayPlan",
        "Registry",
        "metadata:",
        "name: ",
        "spec: ",
        "image: ",
        "env: ",
        "  ",
        "\n",
        "\n---\n",
        "- ",
        ": ",
        "? ",
        "&a ",
        "*a",
        "<<: *a",
        "!!binary ",
        "!!str ",
        "%YAML 1.1\n",
        "|2-\n",
        ">+\n",
        "\"",
        "'",
        "{",
        "}",
        "[",
        "]",
        ",",
        "#",
        "null",
        "~",
        "0x7fffffffffffffff",
        "-0",
        "1e999",
        ".nan",
        "99999999999999999999Ti",
        "1h30m",
        "2147483648",
        "\\u0000",
        "\\U0010ffff",
        "\u{85}",
        "\u{2028}",
        "\u{202e}",
        "\u{feff}",
        "\r",
        "\t",
        "\u{1b}[31m",
    ],
    longest: 32 << 10,
    mend: |_| {},
    make: || Box::new(read),
};

fn parse(name: &str, text: &[u8]) -> Parsed {
    let file = SourceFile { name: name.into(), path: Some(format!("/manifests/{name}").into()), text: text.into() };
    manifest::parse(&[file], &ParseOptions::default())
}

fn read(input: &[u8]) -> String {
    let name = if input.starts_with(b"{") { "a.json" } else { "a.yaml" };
    let parsed = parse(name, input);
    assert!(parsed.resources.is_empty() || parsed.diagnostics.is_empty(), "resources of a file with findings");
    let lines = 1 + input.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count();
    judge(&parsed.diagnostics, name, lines);
    judge(&check_set(&parsed.resources, &|_, _| false), name, lines);
    parsed.resources.iter().for_each(same);
    match &parsed.diagnostics[..] {
        [] => {
            let kinds = parsed.resources.iter().take(4).map(|located| format!("{:?}", located.resource.kind()));
            format!("Ok {}", kinds.collect::<Vec<_>>().join(" "))
        }
        findings => {
            // Of these the name is theirs.
            let ours = |text: &str| !text.starts_with("unknown field");
            let words = |finding: &Diagnostic| match &finding.message {
                text if ours(text) => text.split(' ').take(5).collect::<Vec<_>>().join(" "),
                _ => "unknown field".to_owned(),
            };
            findings.iter().take(2).map(words).collect::<Vec<_>>().join(" / ")
        }
    }
}

fn judge(findings: &[Diagnostic], name: &str, lines: usize) {
    let mut shown = 0;
    for finding in findings {
        let (place, text) = (&finding.place, finding.render(false));
        assert!(place.file == name, "{place}: {text}");
        // Line 0 is the file as a whole.
        assert_eq!(place.line == 0, place.column == 0, "{place}: {text}");
        assert!(place.line as usize <= lines, "line {} of {lines}: {text}", place.line);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        shown += text.len();
    }
    assert!(shown < 200_000, "{shown} bytes of findings");
}

fn same(located: &Located) {
    let resource = &located.resource;
    for (name, text) in [("a.yaml", manifest::to_yaml(resource)), ("a.json", manifest::envelope(resource).to_string())]
    {
        let again = parse(name, text.as_bytes());
        assert!(again.diagnostics.is_empty(), "{text}\n{:?}", again.diagnostics);
        assert_eq!(&again.resources[0].resource, resource, "{text}");
    }
}
