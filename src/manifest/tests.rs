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
    let tables: [(&str, &reader::Fields); 15] = [
        ("ContainerSpec", &container::CONTAINER),
        ("Resources", &limits::RESOURCES),
        ("Limits", &limits::LIMITS),
        ("Backoff", &container::BACKOFF),
        ("SecurityContext", &security::SECURITY),
        ("Capabilities", &security::CAPS),
        ("Rlimit", &limits::RLIMIT),
        ("Logs", &limits::LOGS),
        ("Mount", &mounts::MOUNT),
        ("ImageSpec", &resource::IMAGE),
        ("TagSpec", &resource::TAG),
        ("NamespaceSpec", &resource::NAMESPACE),
        ("Metadata", &resource::METADATA),
        ("BayPlanSpec", &compact::PLAN),
        ("NamespaceBlock", &compact::BLOCK),
    ];
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

#[test]
fn short_forms_and_spellings_become_the_one_canonical_form() {
    let spec = spec(
        "\
env: [{name: A, value: b}, {name: PORT, value: 8080}, {name: EMPTY}]
user: 1000
mounts: ['./data//x/:/data/./y/:ro,rbind', {type: bind, source: /a, target: /b, options: [ro, nosuid]}]
stopSignal: term
rlimits: [{type: nofile, soft: 10, hard: unlimited}, {type: RLIMIT_CORE, soft: 0, hard: 0}]
securityContext: {capabilities: {add: [net_admin, CAP_NET_ADMIN, all]}}
args: []
command:",
    );
    assert_eq!(spec.env.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(), ["A=b", "PORT=8080", "EMPTY="]);
    assert_eq!(spec.user.as_deref(), Some("1000"));
    let mount = &spec.mounts[0];
    assert_eq!((mount.source.as_deref(), mount.target.as_str()), (Some("/manifests/data/x"), "/data/y"));
    assert!(mount.read_only && spec.mounts[1].read_only);
    assert_eq!((mount.options.join(","), spec.mounts[1].options.join(",")), ("rbind".into(), "nosuid".into()));
    assert_eq!(spec.stop_signal.as_deref(), Some("SIGTERM"));
    assert_eq!((spec.rlimits[0].kind.as_str(), spec.rlimits[0].hard), ("RLIMIT_NOFILE", u64::MAX));
    assert_eq!(spec.security_context.capabilities.add, ["CAP_NET_ADMIN", "ALL"]);
    assert_eq!((spec.args, spec.command), (None, None));
}

#[test]
fn environment_values_are_taken_verbatim_and_no_stays_a_word() {
    let spec = spec("env: {A: 1.0, B: 0x1F, C: no, D: True, E: 010, F: '', G: 1_000, H: ~user}");
    let env: Vec<String> = spec.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(env, ["A=1.0", "B=0x1F", "C=no", "D=True", "E=010", "F=", "G=1_000", "H=~user"]);
}

#[test]
fn signals_are_found_in_every_spelling() {
    for (text, name) in [
        ("15", "SIGTERM"),
        ("sigquit", "SIGQUIT"),
        ("RTMIN", "SIGRTMIN"),
        ("SIGRTMIN+3", "SIGRTMIN+3"),
        ("37", "SIGRTMIN+3"),
        ("SIGRTMAX-1", "SIGRTMIN+29"),
        ("SIGPOLL", "SIGIO"),
    ] {
        assert_eq!(names::signal(text).as_deref(), Some(name));
    }
    for text in ["0", "32", "65", "SIGRTMIN+31", "SIGRTMAX-31", "SIGRTMIN+", "KILLALL", ""] {
        assert_eq!(names::signal(text), None, "{text}");
    }
}

#[test]
fn every_wrong_field_says_what_was_wanted() {
    insta::assert_snapshot!(
        [
            "imgae: x",
            "ports: ['80:80']",
            "restartPolicy: Always",
            "zzz: 1",
            "securityContext: {runAsUser: 0755}",
            "rlimits: [{type: foo, soft: 1, hard: 1}]",
            "tty: yes",
            "tty: 'true'",
            "tty: [true]",
            "command: sh -c x",
            "args: [1, true, a]",
            "args: [[a]]",
            "workingDir: srv",
            "workingDir: /a/../b",
            "hostname: a_b",
            "user: a b",
            "user: '1:2:3'",
            "env: {1A: b}",
            "env: {A: }",
            "env: {A: [1]}",
            "env: [A=b]",
            "env: [{name: A, value: b}, {name: A, value: c}]",
            "env: [{value: b}]",
            "env: [{name: A, valueFrom: {secretKeyRef: {name: x, key: y}}}]",
            "mounts: /a:/b",
            "mounts: ['data:/data']",
            "mounts: ['~/x:/data']",
            "mounts: [/a]",
            "mounts: ['/a:b']",
            "mounts: ['/a:/b:c:d']",
            "mounts: ['/a:/b:rro']",
            "mounts: ['/a:/b:size=1m']",
            "mounts: ['/a:/']",
            "mounts: ['/a:/x', '/b:/x/']",
            "mounts: [{type: bid, source: /a, target: /b}]",
            "mounts: [{type: volume, source: a, target: /b}]",
            "mounts: [{source: /a, target: /b}]",
            "mounts: [{type: bind, target: /b}]",
            "mounts: [{type: bind, source: /a}]",
            "mounts: [{type: bind, source: /a, target: b}]",
            "mounts: [{type: tmpfs, source: /a, target: /b}]",
            "mounts: [{type: bind, src: /a, source: /a, target: /b, readOnly: false, options: [ro]}]",
            "resources: {memory: 1Mi}",
            "resources: {limits: {memory: 64m}}",
            "resources: {limits: {memory: 64mb}}",
            "resources: {limits: {cpu: 0}}",
            "resources: {limits: {cpu: -1}}",
            "resources: {limits: {pids: 0}}",
            "resources: {limits: {pids: '5'}}",
            "resources: {limits: {memory: 1Mi}, requests: {memory: 2Mi}}",
            "restart: always",
            "restart: no",
            "restart: unless-stopped",
            "restart: sometimes",
            "restartLimit: 0",
            "restartLimit: 1.5",
            "backoff: {initial: 5}",
            "backoff: {initial: 0s}",
            "backoff: {initial: 10m}",
            "backoff: 10ms",
            "stopSignal: SIGTREM",
            "stopSignal: 99",
            "terminationGracePeriodSeconds: -1",
            "terminationGracePeriodSeconds: 99999999999",
            "securityContext: {capabilities: {add: [NET_ADMN]}}",
            "securityContext: {capabilities: {add: NET_ADMIN}}",
            "securityContext: {runAsUser: -1}",
            "securityContext: {runAsUser: root}",
            "securityContext: {allowPrivilegeEscalation: false}",
            "rlimits: [{type: nofiles, soft: 1, hard: 2}]",
            "rlimits: [{type: nofile, soft: 3, hard: 2}]",
            "rlimits: [{type: nofile, soft: 1}]",
            "rlimits: [{type: nofile, soft: 1, hard: 1}, {type: RLIMIT_NOFILE, soft: 1, hard: 1}]",
            "logs: {maxSize: 0}",
            "logs: {maxFiles: 0}",
            "runtime: a b",
            "imagePullPolicy: IfNotPresnt",
        ]
        .map(|line| format!("# {line}\n{}", wrong(line)))
        .join("\n")
    );
}

#[test]
fn wrong_references_say_why_or_give_the_full_name() {
    let images = ["nginx", "team/app:1", "a.io/X:1", "a.io/x:", "a.io/x@sha256:12", "https://a.io/x", "''", "7"];
    let text: String = images
        .iter()
        .map(|image| {
            shown(&format!(
                "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: web}}\nspec:\n  image: {image}\n"
            ))
        })
        .collect();
    insta::assert_snapshot!(text);
}

#[test]
fn wrong_envelopes_are_refused() {
    let head = "apiVersion: bayplan.dev/v1\n";
    let documents = [
        "kind: Container".to_owned(),
        format!("{head}metadata: {{name: x}}"),
        format!("{head}kind: Contaner"),
        format!("{head}kind: container\nspec: {{}}"),
        format!("{head}kind: Pod\nspec: {{}}"),
        "apiVersion: apps/v1\nkind: Deployment\nspec: {}\nfoo: 1".into(),
        "apiVersion: v1\nkind: Pod\nspec: {}".into(),
        "services: {web: {image: nginx}}".into(),
        "- a".into(),
        "apiVersion: bayplan.dev/v2\nkind: Image\nspec: {reference: a.io/x}".into(),
        format!("{head}kind: Container\nmetadata: {{name: x}}"),
        format!("{head}kind: Container\nspec: {{image: a.io/x}}"),
        format!("{head}kind: Container\nmetadata: {{nmae: x}}\nspec: {{image: a.io/x}}"),
        format!("{head}kind: Container\nmetadata: {{name: 7}}\nspec: {{image: a.io/x}}"),
        format!(
            "{head}kind: Container\nmetadata: {{name: My_Web, namespace: A..b, labels: {{'a b': x, c: 'x y'}}}}\nspec: {{image: a.io/x}}"
        ),
        format!("{head}kind: Container\nmetadata: {{name: x}}\nspec: {{command: [a]}}"),
        format!("{head}kind: Namespace\nmetadata: {{name: a, namespace: b}}\nspec: {{quota: 1}}"),
        format!("{head}kind: Image\nmetadata: {{name: x}}\nspec: {{pullPolicy: Always}}"),
        format!("{head}kind: Image\nmetadata: {{name: a.io/y:1}}\nspec: {{reference: a.io/x:1, platform: 'linux/'}}"),
        format!("{head}kind: Image\nspec: {{archive: x.tar}}"),
        format!("{head}kind: Tag\nmetadata: {{name: x}}\nspec: {{reference: a.io/x@sha256:{}}}", "0".repeat(64)),
        format!(
            "{head}kind: BayPlan\nmetadata: {{name: x, namespace: y}}\nspec: {{namespaces: {{A: {{}}, b: {{pods: {{}}, images: [nginx, {{}}], tags: {{x: y}}, containers: {{W: {{image: a.io/x, ports: []}}}}}}}}}}"
        ),
        "- a\n- b".into(),
        "just text".into(),
    ];
    insta::assert_snapshot!(documents.map(|text| format!("{text}\n{}", shown(&text))).join("\n"));
}

#[test]
fn broken_text_is_refused_with_its_place() {
    let bomb = {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..9 {
            text.push_str(&format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(", ")));
        }
        text
    };
    let cases = [
        ("tab", "a:\n\tb: c\n".to_owned()),
        ("tab after a colon", "a:\tb\n".into()),
        ("anchor of another document", "a: &x 1\n---\nb: *x\n".into()),
        ("merge of words", "a:\n  <<: [b, c]\n".into()),
        ("very deep", format!("a: {}\n", "[".repeat(1000))),
        ("tab after spaces", "a:\n  b: c\n  \tc: d\n".into()),
        ("truncated", "a: [1, 2\n".into()),
        ("truncated quote", "a: \"b\nc: d\n".into()),
        ("two values", "a: b: c\n".into()),
        ("no colon", "a: b\nc\nd: e\n".into()),
        ("bad indent", "a:\n    b: c\n  d: e\n".into()),
        ("unknown alias", "a: *b\n".into()),
        ("own alias", "a: &a [*a]\n".into()),
        ("duplicate", "a: 1\nb: 2\n\"a\": 3\n".into()),
        ("complex key", "? [a]\n: b\n".into()),
        ("key left out at the end", "? # of what".into()),
        ("merge", "<<: 3\na: b\n".into()),
        ("tagged", "a: !!binary aGk=\n".into()),
        ("bomb", bomb),
        ("deep", format!("a: {}", "[".repeat(100))),
    ];
    let mut text = String::new();
    for (name, source) in cases {
        text.push_str(&format!("# {name}\n"));
        // The envelope is missing in all of them; only the first finding matters here.
        let found = read(&source).diagnostics;
        let first =
            found.iter().find(|f| !f.message.contains("required") && !f.message.contains("unknown field")).unwrap();
        text.push_str(&first.render(false));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn binary_and_oversized_files_are_refused_with_the_offset() {
    let refuse = |text: &[u8]| {
        let parsed = parse(&[file("a.yaml", text)], &ParseOptions::default());
        assert_eq!(parsed.diagnostics.len(), 1);
        parsed.diagnostics[0].clone()
    };
    let finding = refuse(b"a: b\nc: \xff\xfe\n");
    assert_eq!((finding.place.line, finding.place.column), (2, 4));
    assert!(finding.message.contains("byte 0xff is not UTF-8 (byte offset 8)"), "{finding}");
    assert!(refuse(b"\x7fELF\x01\x00").message.contains("control character U+0001 stands here (byte offset 4)"));
    assert!(refuse(b"\xff\xfea\0:\0").help.is_some_and(|help| help.contains("UTF-8")));
    for size in [MAX_FILE + 1, 10 << 20, 11 << 20] {
        let finding = refuse(&vec![b'#'; size]);
        assert!(finding.message.contains("a manifest may hold 4 MiB") && finding.place.line == 0, "{finding}");
    }
    let mut comment = vec![b'#'; MAX_FILE - 1];
    comment.push(b'\n');
    assert!(parse(&[file("a.yaml", comment)], &ParseOptions::default()).diagnostics.is_empty());
}

#[test]
fn json_is_read_and_its_errors_speak_of_json() {
    let text = "{\n\t\"apiVersion\": \"bayplan.dev/v1\", \"kind\": \"Container\",\n\t\"metadata\": {\"name\": \"web\"},\n\t\"spec\": {\"image\": \"a.io/x:1\", \"env\": {\"A\": \"\\ud83d\\udea2\\/\\u0041\"}}\n}";
    let parsed = parse(&[file("a.json", text)], &ParseOptions::default());
    assert_eq!(parsed.diagnostics, []);
    assert_eq!(parsed.resources[0].resource.container().unwrap().env["A"], "🚢/A");
    assert_eq!(parsed.resources[0].fields["spec.image"].to_string(), "a.json:4:20");
    let unnamed = parse(&[file("stdin", text)], &ParseOptions::default());
    assert_eq!(unnamed.resources[0].resource, parsed.resources[0].resource);
    let parsed = parse(&[file("a.json", "{\n  \"船\": 1,\n}")], &ParseOptions::default());
    let finding = &parsed.diagnostics[0];
    assert_eq!((finding.message.as_str(), finding.label.as_str()), ("the JSON is malformed", "trailing comma"));
    assert_eq!(finding.place.to_string(), "a.json:3:1");
}

#[test]
fn anchors_merge_keys_lists_and_empty_documents_work() {
    let text = "\
---
# nothing
---
apiVersion: v1
kind: List
items:
- &a
  apiVersion: bayplan.dev/v1
  kind: Container
  metadata: {name: one}
  spec: &spec {image: 'a.io/x:1', env: &env {A: a, B: b}}
- <<: *a
  metadata: {name: two}
  spec:
    <<: *spec
    env:
      B: own
      <<: [{C: c, B: late}, *env]
";
    let found = good(text);
    assert_eq!(found.len(), 2);
    let env = &found[1].resource.container().unwrap().env;
    assert_eq!((env["A"].as_str(), env["B"].as_str(), env["C"].as_str()), ("a", "own", "c"));
    assert!(read("").per_file[0].is_valid() && read("# only a comment\n").diagnostics.is_empty());
}

#[test]
fn images_and_tags_are_called_after_their_references() {
    let found = good(
        "apiVersion: bayplan.dev/v1\nkind: Image\nmetadata: {name: web}\nspec: {reference: a.io/x}\n---\n\
         apiVersion: bayplan.dev/v1\nkind: Image\nmetadata: {name: a.io/x}\nspec: {reference: a.io/x}\n---\n\
         apiVersion: bayplan.dev/v1\nkind: Image\nmetadata: {name: web}\nspec: {archive: ../x.tar}\n---\n\
         apiVersion: bayplan.dev/v1\nkind: Image\nmetadata: {name: a.io/y:2}\nspec: {archive: /x.tar}\n---\n\
         apiVersion: bayplan.dev/v1\nkind: Tag\nmetadata: {name: new, namespace: k8s.io}\nspec: {reference: a.io/n, source: a.io/x}\n",
    );
    let names: Vec<String> = found.iter().map(|l| l.resource.key().to_string()).collect();
    assert_eq!(
        names,
        [
            "image default/a.io/x:latest",
            "image default/a.io/x:latest",
            "image default/web",
            "image default/a.io/y:2",
            "tag k8s.io/a.io/n:latest"
        ]
    );
    let handle = |i: usize| found[i].resource.metadata.annotations.get(HANDLE).map(String::as_str);
    assert_eq!((handle(0), handle(1), handle(2), handle(4)), (Some("web"), None, None, Some("new")));
    let Spec::Image(image) = &found[2].resource.spec else { panic!() };
    assert_eq!(image.archive.as_deref(), Some("/manifests/../x.tar"));
    let Spec::Image(image) = &found[3].resource.spec else { panic!() };
    assert_eq!(image.reference.as_ref().map(ToString::to_string).as_deref(), Some("a.io/y:2"));
}

#[test]
fn a_file_with_a_finding_contributes_nothing_and_others_go_on() {
    let bad = format!("{}---\nkind: Nope\n", container(""));
    let files = [file("bad.yaml", bad), file("good.yaml", container("tty: true"))];
    let parsed = parse(&files, &ParseOptions::default());
    assert_eq!(parsed.resources.len(), 1);
    assert_eq!(parsed.resources[0].place.to_string(), "good.yaml:3:18");
    assert_eq!(parsed.per_file.iter().map(FileOutcome::is_valid).collect::<Vec<_>>(), [false, true]);
    assert_eq!(parsed.per_file[1].resources, 0..1);
}

#[test]
fn findings_of_one_file_are_bounded() {
    let lines: String = (0..500).map(|i| format!("x{i}zz: 1\n")).collect();
    let parsed = read(&container(&lines));
    assert!(parsed.diagnostics.len() <= 51);
    assert_eq!(parsed.diagnostics.last().unwrap().message, "450 more findings in this file are not shown");
}

#[test]
fn a_set_is_judged_as_a_whole() {
    let plan = |tags: &str| {
        format!(
            "apiVersion: bayplan.dev/v1\nkind: BayPlan\nspec:\n  namespaces:\n    shop:\n      images:\n      - a.io/x:1\n      containers:\n        web: {{image: 'a.io/c:1'}}\n      tags:\n{}",
            tags.lines().map(|line| format!("        {line}\n")).collect::<String>()
        )
    };
    let text = plan(
        "a.io/ok:1: a.io/x:1\na.io/ok:2: a.io/c:1\na.io/ok:3: a.io/ok:1\na.io/bad:1: a.io/xx:1\na.io/r:1: a.io/r:2\na.io/r:2: a.io/r:3\na.io/r:3: a.io/r:1\na.io/self:1: a.io/self:1\na.io/x:1: a.io/c:1\na.io/node:1: a.io/onnode:1",
    );
    let parsed = parse(&[file("a.yaml", text), file("b.yaml", container(""))], &ParseOptions::default());
    assert_eq!(parsed.diagnostics, []);
    let found = check_set(&parsed.resources, &|namespace, reference| {
        namespace == "shop" && reference.to_string() == "a.io/onnode:1"
    });
    insta::assert_snapshot!(found.iter().map(|d| d.render(false)).collect::<String>());
}

#[test]
fn a_thousand_containers_are_read_quickly() {
    let mut text =
        "apiVersion: bayplan.dev/v1\nkind: BayPlan\nspec:\n  namespaces:\n    shop:\n      containers:\n".to_owned();
    for i in 0..1000 {
        text.push_str(&format!(
            "        web-{i}:\n          image: registry.local/web:stable\n          env: {{TZ: UTC, N: {i}}}\n          mounts: [/a:/b:ro]\n          resources: {{limits: {{memory: 128Mi, cpu: 500m}}}}\n          restart: Always\n"
        ));
    }
    let start = std::time::Instant::now();
    let parsed = read(&text);
    let took = start.elapsed();
    assert_eq!((parsed.resources.len(), parsed.diagnostics.len()), (1000, 0));
    assert!(check_set(&parsed.resources, &|_, _| false).is_empty());
    println!("{took:?}");
    // Optimised it is a tenth of this; the bound is wide because test machines are busy.
    assert!(took < std::time::Duration::from_secs(4), "{took:?}");
}

#[test]
fn explain_finds_fields_and_suggests() {
    insta::assert_snapshot!(explain("c.restart").unwrap());
    assert!(
        explain("CONTAINERS.spec.mounts[0].source")
            .unwrap()
            .starts_with("FIELD:    container.mounts.source\nTYPE:     text\n")
    );
    assert!(explain("bayplan.namespaces.shop.containers.web.image").unwrap().contains("REQUIRED: yes"));
    assert!(explain("ns").unwrap().starts_with("KIND:     Namespace"));
    let wrong = |path: &str| explain(path).unwrap_err();
    assert_eq!(wrong("container.restrat").help, "did you mean container.restart?");
    assert_eq!(wrong("contaner").help, "did you mean container?");
    assert_eq!(wrong("container.tty.x").help, "container.tty has no fields");
    assert_eq!(wrong("image.x.y").to_string(), "\"x\" is not a field of image");
}

#[test]
fn kinds_are_found_in_every_spelling() {
    for (word, kind) in [
        ("c", Kind::Container),
        ("Containers", Kind::Container),
        ("i", Kind::Image),
        ("tags", Kind::Tag),
        ("NS", Kind::Namespace),
    ] {
        assert_eq!(kind_from_word(word), Some(kind));
    }
    assert_eq!(kind_from_word("pod"), None);
}
