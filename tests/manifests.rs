//! What people can rely on about manifests: the examples are valid, the schemas and the field reference
//! are those of the types, what is printed parses back equal, and no input breaks the parser.

// clippy allows these in #[test] functions only; helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use bayplan::manifest::{
    self, Backoff, Capability, ClientCertificate, ContainerSpec, ImageSpec, Kind, Logs, Metadata, Mirror, Mount,
    MountKind, NamespaceSpec, ParseOptions, Parsed, PullPolicy, PullSecret, Quantity, RegistryAuth, RegistrySpec,
    Resource, RestartPolicy, Rlimit, SourceFile, Span, Spec, TagSpec, check_set, to_yaml,
};
use bayplan::oci::Reference;
use proptest::prelude::*;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn parse(name: &str, text: impl Into<Vec<u8>>) -> Parsed {
    let file = SourceFile { name: name.into(), path: Some(Path::new("/manifests").join(name)), text: text.into() };
    manifest::parse(&[file], &ParseOptions::default())
}

fn shown(parsed: &Parsed) -> String {
    parsed.diagnostics.iter().map(|finding| finding.render(false)).collect()
}

/// Compares a generated file with what is on disk; with UPDATE_SCHEMA set it writes it.
fn fresh(path: &Path, wanted: &str) {
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, wanted).unwrap();
        return;
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == wanted,
        "{} is not what the types say; run UPDATE_SCHEMA=1 cargo test --test manifests",
        path.display()
    );
}

#[test]
fn the_schemas_are_those_of_the_types() {
    let files = manifest::schema_files();
    for (name, content) in &files {
        fresh(&root().join("schema").join(name), content);
    }
    for entry in std::fs::read_dir(root().join("schema")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(files.iter().any(|(known, _)| *known == name), "schema/{name} belongs to no kind");
    }
}

#[test]
fn the_field_reference_is_that_of_the_types() {
    let path = root().join("docs/MANIFESTS.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("<!-- fields -->").unwrap();
    let (_, after) = rest.split_once("<!-- /fields -->").unwrap();
    let tables = manifest::field_tables();
    fresh(&path, &format!("{before}<!-- fields -->\n\n{}\n\n<!-- /fields -->{after}", tables.trim_end()));
}

#[test]
fn every_example_is_valid_and_together_they_use_every_field() {
    let mut seen = std::collections::BTreeSet::new();
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !matches!(path.extension().and_then(|e| e.to_str()), Some("yaml" | "json")) {
            continue;
        }
        let file = SourceFile { name: name.clone(), path: Some(path.clone()), text: std::fs::read(&path).unwrap() };
        let parsed = manifest::parse(&[file], &ParseOptions::default());
        assert!(parsed.diagnostics.is_empty(), "{}", shown(&parsed));
        assert!(!parsed.resources.is_empty(), "{name} declares nothing");
        let findings = check_set(&parsed.resources, &|_, _| false);
        assert!(findings.is_empty(), "{name}: {findings:?}");
        for located in &parsed.resources {
            seen.insert(located.resource.kind());
            for (file, definition) in [
                ("container", "ContainerSpec"),
                ("image", "ImageSpec"),
                ("registry", "RegistrySpec"),
                ("tag", "TagSpec"),
            ] {
                if name != format!("{file}.yaml") || located.resource.kind().word() != file {
                    continue;
                }
                let all = manifest::schema(Some(file)).unwrap();
                for field in all["$defs"][definition]["properties"].as_object().unwrap().keys() {
                    // An archive and what a registry needs do not go together; it has an example of its own.
                    let elsewhere = file == "image" && field == "archive";
                    let used = elsewhere || located.fields.contains_key(&format!("spec.{field}"));
                    assert!(used, "{name} lacks {field}");
                }
            }
        }
        count += 1;
    }
    assert!(seen.len() == Kind::ALL.len() && count >= 10);
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
        Just("no".into()),
        Just("null".into()),
        Just("1e3".into()),
        Just("0x1f".into())
    ]
}

/// Text as hostile to a printer as it may be; NUL and other control characters are no part of manifests.
fn text() -> impl Strategy<Value = String> {
    let tricky = [
        "",
        " ",
        "no",
        "yes",
        "on",
        "~",
        "null",
        "true",
        "1",
        "-1",
        "0x10",
        "0o7",
        "1e3",
        "1.5",
        ".inf",
        ".nan",
        "2026-01-01",
        "1:30",
        "<<",
        "=",
        "-",
        "- a",
        "? a",
        ": ",
        "a: b",
        "a #b",
        "#a",
        "*a",
        "&a",
        "!a",
        "|",
        ">",
        "%a",
        "@a",
        "`a",
        "{",
        "[",
        "'",
        "\"",
        "\\",
        "a\nb",
        "\na",
        "a\n",
        "a\n\n",
        " a\n b\n",
        "\ta",
        "a\r\nb",
        "trailing ",
        "---",
        "...",
        "\u{85}",
        "\u{2028}",
        "\u{feff}a",
        "船",
        "\u{1f6a2}",
        "a\u{301}",
        "\\u0041",
        "$(X)",
        "a,b",
        "123_456",
        "+1",
        "0777",
        "\u{a0}",
    ];
    prop_oneof![
        proptest::sample::select(tricky.to_vec()).prop_map(str::to_owned),
        "[ -~]{0,30}",
        proptest::collection::vec(any::<char>().prop_filter("no NUL", |c| *c != '\0'), 0..12)
            .prop_map(|chars| chars.into_iter().collect()),
    ]
}

fn reference() -> impl Strategy<Value = Reference> {
    "(docker\\.io|localhost:5000|\\[::1\\]:80|a\\.example)/[a-z0-9]{1,8}(/[a-z0-9]{1,5}([._-][a-z0-9]{1,4})?)?(:[A-Za-z0-9_][A-Za-z0-9._-]{0,10})?(@sha256:[0-9a-f]{64})?"
        .prop_map(|text| text.parse().unwrap())
}

fn tag_reference() -> impl Strategy<Value = Reference> {
    "a\\.example/[a-z0-9]{1,8}:[A-Za-z0-9_][A-Za-z0-9._-]{0,10}".prop_map(|text| text.parse().unwrap())
}

fn texts(
    key: &'static str,
    value: BoxedStrategy<String>,
) -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
    proptest::collection::btree_map(key, value, 0..4)
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let labels = texts(
        "([a-z]{1,5}\\.[a-z]{1,3}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,8}[A-Za-z0-9])?",
        "([A-Za-z0-9]([A-Za-z0-9_.-]{0,8}[A-Za-z0-9])?)?".boxed(),
    );
    let annotations = texts("([a-z]{1,5}\\.[a-z]{1,3}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,8}[A-Za-z0-9])?", text().boxed());
    (name(), "[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?(\\.[a-z]{1,5})?", labels, annotations)
        .prop_map(|(name, namespace, labels, annotations)| Metadata { name, namespace, labels, annotations })
}

fn quantity() -> impl Strategy<Value = Quantity> {
    prop_oneof![
        (1..i64::MAX / 2000).prop_map(|n| Quantity::from_milli(n * 1000)),
        (1i64..100_000).prop_map(Quantity::mebibytes)
    ]
}

fn limits() -> impl Strategy<Value = manifest::Limits> {
    (
        proptest::option::of(quantity()),
        proptest::option::of((1..i64::MAX).prop_map(Quantity::from_milli)),
        proptest::option::of(1..i64::MAX),
    )
        .prop_map(|(memory, cpu, pids)| manifest::Limits { memory, cpu, pids })
}

fn inner_path() -> impl Strategy<Value = String> {
    "/[A-Za-z0-9_][A-Za-z0-9_.: -]{0,10}[a-z]".prop_map(|path| path.replace("/.", "/d"))
}

fn mounts() -> impl Strategy<Value = Vec<Mount>> {
    let flag = proptest::sample::select(vec!["rbind", "noexec", "nosuid", "rslave"]).prop_map(str::to_owned);
    let bind = (inner_path(), any::<bool>(), proptest::collection::vec(flag, 0..3), any::<bool>()).prop_map(
        |(source, read_only, options, create)| Mount {
            kind: MountKind::Bind,
            source: Some(source),
            target: String::new(),
            read_only,
            options,
            create,
        },
    );
    let tmpfs = any::<bool>().prop_map(|read_only| Mount {
        kind: MountKind::Tmpfs,
        source: None,
        target: String::new(),
        read_only,
        options: vec!["size=64m".into()],
        create: false,
    });
    proptest::collection::btree_map(inner_path(), prop_oneof![bind, tmpfs], 0..4)
        .prop_map(|mounts| mounts.into_iter().map(|(target, mount)| Mount { target, ..mount }).collect())
}

fn container() -> impl Strategy<Value = ContainerSpec> {
    let policy = || {
        proptest::option::of(proptest::sample::select(vec![
            PullPolicy::Always,
            PullPolicy::IfNotPresent,
            PullPolicy::Never,
        ]))
    };
    let words = || proptest::option::of(proptest::collection::vec(text(), 1..4));
    let process = (
        reference(),
        policy(),
        words().prop_map(|w| {
            w.map(|mut w: Vec<String>| {
                w[0] = format!("x{}", w[0]);
                w
            })
        }),
        words(),
        proptest::option::of(inner_path()),
        proptest::collection::vec(("[-._a-zA-Z][-._a-zA-Z0-9]{0,8}", text()), 0..5),
        proptest::option::of(proptest::sample::select(vec!["0", "1000:1000", "nobody", "a:b"])),
        proptest::option::of(name()),
        any::<bool>(),
    );
    let around = (
        mounts(),
        any::<bool>(),
        limits(),
        proptest::sample::select(vec![RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never]),
        proptest::option::of(1..u32::MAX),
        (1u64..1_000_000, 0u64..1_000_000_000),
        proptest::option::of(proptest::sample::select(vec!["SIGTERM", "SIGRTMIN", "SIGRTMIN+3"])),
        any::<u32>(),
    );
    let security = (
        any::<bool>(),
        proptest::sample::subsequence(vec!["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "ALL"], 0..3),
        any::<bool>(),
        proptest::option::of(0..u32::MAX),
        proptest::option::of(any::<bool>()),
        proptest::option::of((any::<u64>(), any::<u64>())),
        (quantity(), 1u32..100),
    );
    (process, around, security).prop_map(|(process, around, security)| {
        let mut spec = ContainerSpec::of(process.0);
        spec.image_pull_policy = process.1;
        spec.command = process.2;
        spec.args = process.3;
        spec.working_dir = process.4;
        spec.env = process.5.into_iter().collect();
        spec.user = process.6.map(Into::into);
        spec.hostname = process.7.filter(|name| !name.is_empty());
        spec.tty = process.8;
        spec.mounts = around.0;
        spec.host_network = around.1;
        spec.resources.limits = around.2;
        spec.restart = around.3;
        spec.restart_limit = around.4;
        let (initial, more) = around.5;
        spec.backoff = Backoff { initial: Span::from_millis(initial), max: Span::from_millis(initial + more) };
        spec.stop_signal = around.6.map(Into::into);
        spec.termination_grace_period_seconds = around.7;
        spec.security_context.privileged = security.0;
        spec.security_context.capabilities.add = security.1.into_iter().map(Into::into).collect();
        spec.security_context.read_only_root_filesystem = security.2;
        spec.security_context.run_as_user = security.3;
        spec.security_context.no_new_privileges = security.4;
        spec.rlimits = security
            .5
            .map(|(a, b)| Rlimit { kind: "RLIMIT_NOFILE".into(), soft: a.min(b), hard: a.max(b) })
            .into_iter()
            .collect();
        spec.logs = Logs {
            max_size: security.6.0,
            max_files: security.6.1,
            driver: (security.6.1 % 2 == 0).then(|| "file:///var/log/x.log".to_owned()),
        };
        spec
    })
}

fn registry() -> impl Strategy<Value = RegistrySpec> {
    let host = prop_oneof![Just("_default"), Just("registry.local:5000"), Just("docker.io"), Just("[::1]:5000")];
    let auth = prop_oneof![
        Just(None),
        Just(Some(RegistryAuth::file("/a b.json"))),
        Just(Some(RegistryAuth::pull_secret("team")))
    ];
    let client = || {
        proptest::option::of(
            (inner_path(), proptest::option::of(inner_path())).prop_map(|(cert, key)| ClientCertificate { cert, key }),
        )
    };
    let capabilities =
        proptest::sample::subsequence(vec![Capability::Pull, Capability::Resolve, Capability::Push], 0..3);
    let mirror =
        (capabilities, any::<bool>(), client(), text()).prop_map(|(capabilities, flag, client, value)| Mirror {
            url: "https://mirror.local:5000/team".into(),
            capabilities,
            skip_verify: flag,
            ca: if flag { vec!["/ca.pem".into()] } else { Vec::new() },
            client,
            headers: [("X-Any".to_owned(), value.replace(char::is_control, " "))].into(),
            override_path: flag,
            dial_timeout: flag.then(|| Span::from_millis(1500)),
        });
    let mirrors = proptest::collection::vec(mirror, 0..3);
    (host, mirrors, any::<bool>(), client(), auth).prop_map(|(host, mirrors, flag, client, auth)| RegistrySpec {
        host: host.to_owned(),
        server: flag.then(|| "http://registry.local".to_owned()),
        mirrors,
        plain_http: flag,
        skip_verify: !flag,
        ca: if flag { vec!["/a.pem".into(), "/b.pem".into()] } else { Vec::new() },
        client,
        auth,
    })
}

fn resource() -> impl Strategy<Value = Resource> {
    let container = (metadata(), container())
        .prop_map(|(metadata, spec)| Resource { metadata, spec: Spec::Container(Box::new(spec)) });
    let namespace = metadata().prop_map(|metadata| Resource {
        metadata: Metadata { namespace: String::new(), ..metadata },
        spec: Spec::Namespace(NamespaceSpec {}),
    });
    let image = (metadata(), proptest::option::of(reference()), proptest::option::of(inner_path())).prop_map(
        |(metadata, reference, archive)| {
            let archive = archive.or_else(|| reference.is_none().then(|| "/a.tar".to_owned()));
            let name = reference.as_ref().map_or(metadata.name, ToString::to_string);
            let spec = ImageSpec {
                reference,
                archive,
                pull_policy: None,
                platform: "linux/arm/v7".parse().ok(),
                pull_secrets: vec![PullSecret { name: "team".into() }],
                keep: Some(false),
            };
            Resource { metadata: Metadata { name, ..metadata }, spec: Spec::Image(spec) }
        },
    );
    let tag = (metadata(), tag_reference(), reference()).prop_map(|(metadata, reference, source)| Resource {
        metadata: Metadata { name: reference.to_string(), ..metadata },
        spec: Spec::Tag(TagSpec { reference, source }),
    });
    let registry = (metadata(), registry()).prop_map(|(metadata, spec)| Resource {
        metadata: Metadata { name: spec.host.clone(), namespace: String::new(), ..metadata },
        spec: Spec::Registry(Box::new(spec)),
    });
    prop_oneof![4 => container, 1 => namespace, 1 => registry, 1 => image, 1 => tag]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_parses_back_equal(resource in resource()) {
        let yaml = to_yaml(&resource);
        let parsed = parse("a.yaml", yaml.clone());
        prop_assert!(parsed.diagnostics.is_empty(), "{}\n{}", yaml, shown(&parsed));
        prop_assert_eq!(&parsed.resources[0].resource, &resource, "{}", yaml);
        let json = manifest::envelope(&resource).to_string();
        let parsed = parse("a.json", json.clone());
        prop_assert!(parsed.diagnostics.is_empty(), "{}\n{}", json, shown(&parsed));
        prop_assert_eq!(&parsed.resources[0].resource, &resource, "{}", json);
    }

    #[test]
    fn no_bytes_break_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..200), json in any::<bool>()) {
        let parsed = parse(if json { "a.json" } else { "a.yaml" }, bytes);
        shown(&parsed);
    }

    #[test]
    fn no_yaml_like_text_breaks_the_parser(text in "([-:?,{}\\[\\]&*#!|>'\"%@` \\n\\tab<~]|<<: |\\*a|&a|- |: |\\n  ){0,60}") {
        shown(&parse("a.yaml", text));
    }

    #[test]
    fn no_mutation_of_a_manifest_breaks_the_parser(
        cuts in proptest::collection::vec((0usize..4000, 0usize..40, "[ -~\\n\\t]{0,6}"), 1..6), which in 0usize..3,
    ) {
        let example = ["container.yaml", "bayplan-compact.yaml", "multi-document.yaml"][which];
        let mut text = std::fs::read_to_string(root().join("examples").join(example)).unwrap();
        for (at, length, put) in cuts {
            let at = at % (text.len() + 1);
            let end = (at + length).min(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(end) {
                text.replace_range(at..end, &put);
            }
        }
        let parsed = parse("a.yaml", text);
        for finding in &parsed.diagnostics {
            prop_assert!(!finding.message.is_empty() && finding.render(true).lines().count() >= 2);
        }
    }
}
