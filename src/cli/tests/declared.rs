//! What is declared: apply, diff, delete, validate, get, describe, status, wait, events, logs, sync.

use super::*;
use crate::api::{EventKind, EventRecord, LogLine, LogStream, NotConverged, Phase, SourceStatus, StatusReport};
use crate::error::{Class, Fault};
use crate::manifest::{Diagnostic, Kind, Place, ResourceKey};
use crate::plan::{Action, Change, Problem, Severity, Step};

const MANIFEST: &str = "apiVersion: bayplan.dev/v1
kind: Container
metadata: {name: web, namespace: shop}
spec: {image: registry.local/web:stable}
";

fn key(name: &str) -> ResourceKey {
    ResourceKey::new(Kind::Container, "shop", name)
}

fn step(action: Action, name: &str, reason: &str) -> Step {
    Step { action, key: key(name), reason: reason.into(), changes: vec![], needs: vec![], target: None, source: None }
}

/// A node on which one container is new, one changed and one fails to go.
fn busy() -> Bench {
    Bench::new(|node| {
        let mut replace = step(Action::Replace, "web", "env.TZ \"UTC\" → \"CET\"");
        let change = |field: &str, from: Option<&str>, to: Option<&str>| Change {
            field: field.into(),
            from: from.map(Into::into),
            to: to.map(Into::into),
        };
        replace.changes = vec![
            change("env.TZ", Some("UTC"), Some("CET")),
            change("env.A", None, Some("b")),
            change("user", Some("1"), None),
        ];
        node.plan.steps = vec![
            step(Action::Remove, "old", "no longer declared"),
            step(Action::Create, "new", "not on the node"),
            replace,
        ];
        let fault = Fault::new(Class::Runtime, "container shop/old: its process does not end").help("see its log");
        node.failing.insert(key("old"), fault);
    })
}

#[test]
fn apply_prints_each_step_and_the_sum() {
    let bench = busy();
    let file = bench.file("one.yaml", MANIFEST);
    insta::assert_snapshot!(bench.run(&format!("apply -f {}", file.display())).all(), @r#"
    --- out
    - container shop/old: no longer declared  failed (0.04s)
    + container shop/new: not on the node  (0.12s)
    -/+ container shop/web: env.TZ "UTC" → "CET"  (0.12s)
    2 changed, 0 unchanged, 1 failed
    --- err
    error: container shop/old: its process does not end
      help: see its log
    === exit 1
    "#);
    assert_eq!(bench.calls(), ["apply container shop/web set=None prune=false"]);
}

#[test]
fn diff_prints_the_steps_of_apply_in_its_order() {
    let bench = busy();
    let file = bench.file("one.yaml", MANIFEST);
    let diff = bench.run(&format!("diff -f {}", file.display()));
    insta::assert_snapshot!(diff.all(), @r#"
    --- out
    - container shop/old: no longer declared
    + container shop/new: not on the node
    -/+ container shop/web: env.TZ "UTC" → "CET"
          env.TZ: UTC → CET
          env.A: + b
          user: - 1
    === exit 1
    "#);
    let planned: Vec<&str> = diff.out.lines().filter(|line| !line.starts_with(' ')).collect();
    let dry_run = bench.run(&format!("apply --dry-run -f {}", file.display()));
    assert_eq!(dry_run.out.lines().take(3).collect::<Vec<_>>(), planned);
    let applied = bench.run(&format!("apply -f {}", file.display()));
    for (applied, planned) in applied.out.lines().zip(planned) {
        assert!(applied.starts_with(planned), "{applied} | {planned}");
    }
}

#[test]
fn diff_of_a_converged_node_is_0_and_says_so() {
    insta::assert_snapshot!(Bench::shop().run("diff").all(), @r"
    --- err
    no differences
    === exit 0
    ");
}

#[test]
fn what_cannot_be_planned_is_shown_with_its_place() {
    let bench = Bench::new(|node| {
        node.plan.problems = vec![Problem {
            key: key("web"),
            message: "image registry.local/web:stable is not in namespace shop".into(),
            place: Some(Place { file: "shop.yaml".into(), line: 14, column: 18 }),
            help: Some("declare an Image".into()),
            severity: Severity::Error,
        }];
    });
    insta::assert_snapshot!(bench.run("diff").all(), @r"
    --- err
    error: container shop/web: image registry.local/web:stable is not in namespace shop
      --> shop.yaml:14:18
      help: declare an Image
    === exit 1
    ");
}

#[test]
fn a_warning_is_no_difference() {
    let bench = Bench::new(|node| {
        node.plan.problems = vec![Problem {
            key: key("web"),
            message: "registry.local does not answer; the image on the node is used".into(),
            place: None,
            help: None,
            severity: Severity::Warning,
        }];
    });
    insta::assert_snapshot!(bench.run("diff").all(), @r"
    --- err
    warning: container shop/web: registry.local does not answer; the image on the node is used
    no differences
    === exit 0
    ");
}

#[test]
fn an_invalid_manifest_is_3_and_shows_the_line() {
    let bench = Bench::shop();
    let file = bench.file("bad.yaml", &MANIFEST.replace("image:", "imagee:"));
    insta::assert_snapshot!(bench.run(&format!("validate -f {}", file.display())).all(), @r"
    --- err
    error: container shop/web: unknown field spec.imagee
      --> DIR/bad.yaml:4:8
      |
    4 | spec: {imagee: registry.local/web:stable}
      |        ^^^^^^ not a field of a container's spec
      help: did you mean image?

    error: container shop/web: spec.image is required
      --> DIR/bad.yaml:4:8
      |
    4 | spec: {imagee: registry.local/web:stable}
      |        ^^^^^^ image is missing in this map
      help: name the image with its host, such as docker.io/library/busybox:1.36
    === exit 3
    ");
    assert_eq!(bench.run(&format!("apply -f {}", file.display())).status, 3);
    assert!(bench.calls().is_empty());
}

#[test]
fn validate_counts() {
    let bench = Bench::shop();
    let first = bench.file("a.yaml", MANIFEST);
    bench.file("b.yaml", &format!("{}---\n{}", MANIFEST.replace("web,", "a,"), MANIFEST.replace("web,", "b,")));
    let directory = bench.directory.path().display().to_string();
    assert_eq!(bench.run(&format!("validate -f {directory}")).out, "3 resources in 2 files are valid\n");
    assert_eq!(bench.run(&format!("validate -f {}", first.display())).out, "1 resource in 1 file is valid\n");
    assert_eq!(bench.run("validate -f /nonexistent.yaml").status, 4);
}

#[test]
fn apply_declares_into_the_namespace_of_the_flag() {
    let bench = Bench::shop();
    let file = bench.file("one.yaml", &MANIFEST.replace(", namespace: shop", ""));
    bench.run(&format!("apply -n lab --set s --prune -f {}", file.display()));
    assert_eq!(bench.calls(), ["apply container lab/web set=Some(\"s\") prune=true"]);
    assert_eq!(bench.run(&format!("apply --prune -f {}", file.display())).status, 2, "prune needs a set");
}

#[test]
fn delete_takes_manifests_and_names() {
    let bench = Bench::shop();
    let file = bench.file("one.yaml", MANIFEST);
    bench.run(&format!("delete -f {}", file.display()));
    bench.run("delete container web db -n shop");
    bench.run("delete image/docker.io/a/b:1 ns/lab");
    assert_eq!(
        bench.calls(),
        [
            "delete container shop/web",
            "delete container shop/web",
            "delete container shop/db",
            "delete image default/docker.io/a/b:1",
            "delete namespace lab",
        ]
    );
    assert_eq!(bench.run("delete container").status, 2);
    assert_eq!(bench.run("delete").status, 2);
}

#[test]
fn get_lists_in_columns() {
    let bench = Bench::shop();
    insta::assert_snapshot!(bench.run("get containers -n shop").all(), @r"
    --- out
    NAME       PHASE     READY   RESTARTS   AGE     IMAGE
    crashing   BackOff   false   7          5m12s   registry.local/web:stable
    web        Running   true    0          5m12s   registry.local/web:stable
    === exit 0
    ");
    insta::assert_snapshot!(bench.run("get c -A -o wide").all(), @r"
    --- out
    NAMESPACE   NAME       PHASE     READY   RESTARTS   AGE     IMAGE                       PID      ATTEMPT   EXIT     ADDRESS   DIGEST         SOURCE
    shop        crashing   BackOff   false   7          5m12s   registry.local/web:stable   <none>   1         1        <none>    aaaaaaaaaaaa   dir:shop.yaml
    shop        web        Running   true    0          5m12s   registry.local/web:stable   4711     1         <none>   <none>    aaaaaaaaaaaa   dir:shop.yaml
    === exit 0
    ");
    insta::assert_snapshot!(bench.run("get all -n shop").all(), @r"
    --- out
    NAME             CONTAINERS   IMAGES   TAGS   AGE
    namespace/shop   2            1        1      5m12s

    NAME                         DIGEST         SIZE      PLATFORMS     AGE
    image/registry.local/web:1   aaaaaaaaaaaa   12.3 MB   linux/amd64   5m12s

    NAME                            TARGET                 DIGEST         AGE
    tag/registry.local/web:stable   registry.local/web:1   aaaaaaaaaaaa   5m12s

    NAME                 PHASE     READY   RESTARTS   AGE     IMAGE
    container/crashing   BackOff   false   7          5m12s   registry.local/web:stable
    container/web        Running   true    0          5m12s   registry.local/web:stable
    === exit 0
    ");
}

#[test]
fn get_of_nothing_says_so_and_is_0() {
    let bench = Bench::shop();
    insta::assert_snapshot!(bench.run("get containers").all(), @r"
    --- err
    no containers in namespace default
    === exit 0
    ");
    insta::assert_snapshot!(bench.run("get containers -o json").all(), @r#"
    --- out
    {
      "apiVersion": "bayplan.dev/v1",
      "kind": "List",
      "items": []
    }
    === exit 0
    "#);
}

#[test]
fn get_of_a_name_that_is_not_there_is_4_and_suggests() {
    let bench = Bench::shop();
    insta::assert_snapshot!(bench.run("get container/wbe -n shop").all(), @r"
    --- err
    error: container shop/wbe is not found
      help: did you mean web?
    === exit 4
    ");
    insta::assert_snapshot!(bench.run("get container/web").all(), @r"
    --- err
    error: container default/web is not found
      help: namespace shop has one: add -n shop
    === exit 4
    ");
    assert_eq!(bench.run("get contaners").status, 2);
}

#[test]
fn get_json_and_yaml_are_stable() {
    let bench = Bench::shop();
    let list: serde_json::Value = serde_json::from_str(&bench.run("get c -A -o json").out).unwrap();
    assert_eq!((&list["apiVersion"], &list["kind"]), (&"bayplan.dev/v1".into(), &"List".into()));
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    insta::assert_snapshot!(bench.run("get container/web -n shop -o yaml").all(), @r"
    --- out
    apiVersion: bayplan.dev/v1
    kind: Container
    metadata:
      namespace: shop
      name: web
      uid: uid-web
      revision: 1
      source: dir:shop.yaml
      created: 2026-11-23T11:54:48Z
      labels: {}
      annotations: {}
    spec:
      env:
        TZ: UTC
      image: registry.local/web:stable
    status:
      phase: Running
      ready: true
      pid: 4711
      shimPid: 4700
      exitCode: null
      signal: null
      oomKilled: false
      restarts: 0
      attempt: 1
      started: 2026-11-23T11:55:00Z
      finished: null
      nextStart: null
      imageDigest: sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
      address: null
      logPath: /var/log/bayplan/shop/web/1.log
      conditions:
      - type: Converged
        status: 'True'
        reason: AsDeclared
        message: the node is as declared
        since: 2026-11-23T11:55:00Z
    === exit 0
    ");
}

#[test]
fn describe_shows_everything_in_sections() {
    let bench = Bench::shop();
    bench.node.state().events = events();
    insta::assert_snapshot!(bench.run("describe container web -n shop").all(), @r"
    --- out
    Name:         web
    Namespace:    shop
    Kind:         Container
    UID:          uid-web
    Source:       dir:shop.yaml
    Revision:     1
    Created:      2026-11-23T11:54:48Z (5m12s ago)
    Labels:       <none>
    Annotations:  <none>
    Spec:
      env:
        TZ: UTC
      image: registry.local/web:stable
    Status:
      Phase:         Running
      Ready:         true
      PID:           4711
      Shim PID:      4700
      Attempt:       1
      Restarts:      0
      Started:       2026-11-23T11:55:00Z (5m ago)
      Finished:      <none>
      Last exit:     <none>
      Image digest:  sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
      Address:       <none>
      Log:           /var/log/bayplan/shop/web/1.log
    Conditions:
      TYPE        STATUS   REASON       AGE   MESSAGE
      Converged   True     AsDeclared   5m    the node is as declared
    Events:
      LAST SEEN   TYPE     REASON    OBJECT          MESSAGE
      5m          Normal   Started   container/web   attempt 1, pid 4711
    === exit 0
    ");
    assert_eq!(bench.run("describe container").status, 2);
    assert_eq!(bench.run("describe container/nil -n shop").status, 4);
}

fn events() -> Vec<EventRecord> {
    let event = |name: &str, seconds, kind, reason: &str, message: &str, count| EventRecord {
        time: fake::ago(seconds),
        key: key(name),
        kind,
        reason: reason.into(),
        message: message.into(),
        count,
    };
    vec![
        event("web", 300, EventKind::Normal, "Started", "attempt 1, pid 4711", 1),
        event("crashing", 12, EventKind::Warning, "BackOff", "exited with 1", 7),
    ]
}

#[test]
fn events_in_columns_and_as_they_come() {
    let bench = Bench::shop();
    bench.node.state().events = events();
    insta::assert_snapshot!(bench.run("events -n shop").all(), @r"
    --- out
    LAST SEEN   TYPE      REASON    OBJECT               MESSAGE
    5m          Normal    Started   container/web        attempt 1, pid 4711
    12s         Warning   BackOff   container/crashing   exited with 1 (×7)
    === exit 0
    ");
    insta::assert_snapshot!(bench.run("events container/crashing -A").all(), @r"
    --- out
    NAMESPACE   LAST SEEN   TYPE      REASON    OBJECT               MESSAGE
    shop        12s         Warning   BackOff   container/crashing   exited with 1 (×7)
    === exit 0
    ");
    insta::assert_snapshot!(bench.run("events").all(), @r"
    --- err
    no events in namespace default
    === exit 0
    ");
    let list: serde_json::Value = serde_json::from_str(&bench.run("events -A -o json").out).unwrap();
    assert_eq!(list["items"][1]["type"], "Warning");
}

#[test]
fn logs_are_the_bytes_that_were_written() {
    let bench = Bench::shop();
    let line = |stream, text: &str, partial| LogLine { time: fake::now(), stream, text: text.into(), partial };
    bench.node.state().logs = vec![
        line(LogStream::Stdout, "one ", true),
        line(LogStream::Stdout, "line", false),
        line(LogStream::Stderr, "\u{1b}[31mred", false),
    ];
    let both = |line: &str| {
        let ran = bench.run(line);
        (ran.out, ran.err)
    };
    assert_eq!(both("logs web -n shop"), ("one line\n".into(), "\u{1b}[31mred\n".into()));
    assert_eq!(both("logs --tail 1 web -n shop"), (String::new(), "\u{1b}[31mred\n".into()));
    let time = "2026-11-23T12:00:00.000000000Z ";
    assert_eq!(both("logs -t web -n shop"), (format!("{time}one line\n"), format!("{time}\u{1b}[31mred\n")));
    assert_eq!(bench.run("logs --tail all container/web -n shop").status, 0);
    assert_eq!(bench.run("logs nil").status, 4);
    assert_eq!(bench.run("logs web -n shop --since yesterday").status, 2);
}

#[test]
fn status_fits_a_screen_and_is_1_when_not_converged() {
    let bench = Bench::new(|node| {
        node.status = StatusReport {
            daemon: true,
            sources: vec![
                SourceStatus {
                    name: "dir".into(),
                    path: Some("/etc/bayplan/manifests".into()),
                    files: 3,
                    resources: 12,
                    held: Some(
                        "held: 2 files vanished at once: a.yaml, b.yaml; bayplan sync --confirm-removal releases them"
                            .into(),
                    ),
                    problems: vec![Diagnostic::at(
                        Place { file: "bad.yaml".into(), line: 0, column: 0 },
                        "bad.yaml is not UTF-8",
                    )],
                    read: Some(fake::ago(5)),
                },
                SourceStatus {
                    name: "apply:default".into(),
                    path: None,
                    files: 0,
                    resources: 1,
                    held: None,
                    problems: vec![],
                    read: None,
                },
            ],
            phases: [(Phase::Running, 3), (Phase::BackOff, 1)].into(),
            not_converged: vec![NotConverged {
                key: key("crashing"),
                since: fake::ago(312),
                reason: "BackOff".into(),
                message: "exited with 1, seven times".into(),
                next_try: Some(fake::ago(-3)),
            }],
            pending: vec![step(Action::Create, "new", "not on the node")],
            warnings: vec!["rlimits are best effort: no CAP_SYS_RESOURCE".into()],
            ..StatusReport::default()
        };
    });
    insta::assert_snapshot!(bench.run("status").all(), @r"
    --- out
    The node is not converged

    SOURCES
      dir /etc/bayplan/manifests   3 files, 12 resources, 1 problem, read 5s ago
      apply:default                1 resource
      dir: held: 2 files vanished at once: a.yaml, b.yaml; bayplan sync --confirm-removal releases them
      error: bad.yaml is not UTF-8
        --> bad.yaml

    CONTAINERS
      3 Running, 1 BackOff

    NOT CONVERGED
      container shop/crashing  BackOff for 5m12s, tried again in 3s
        exited with 1, seven times

    PENDING STEPS
      + container shop/new: not on the node

    WARNINGS
      rlimits are best effort: no CAP_SYS_RESOURCE
    === exit 1
    ");
    bench.node.state().status = StatusReport { converged: true, ..StatusReport::default() };
    insta::assert_snapshot!(bench.run("status").all(), @r"
    --- out
    The node is converged; no daemon runs, so nothing is watched

    SOURCES

    CONTAINERS
      none
    === exit 0
    ");
}

#[test]
fn wait_answers_and_a_time_out_is_1() {
    let bench = Bench::shop();
    insta::assert_snapshot!(bench.run("wait container/web -n shop --for running").all(), @r"
    --- out
    container/web is running
    === exit 0
    ");
    insta::assert_snapshot!(bench.run("wait container/web -n shop --for=delete --timeout 1s").all(), @r"
    --- err
    error: container shop/web is not deleted after 60s
    === exit 1
    ");
    assert_eq!(bench.run("wait container/web --for happy").status, 2);
}

#[test]
fn sync_reports_like_apply() {
    let bench = busy();
    insta::assert_snapshot!(bench.run("sync --confirm-removal dir").all(), @r#"
    --- out
    - container shop/old: no longer declared  failed (0.04s)
    + container shop/new: not on the node  (0.12s)
    -/+ container shop/web: env.TZ "UTC" → "CET"  (0.12s)
    2 changed, 0 unchanged, 1 failed
    --- err
    error: container shop/old: its process does not end
      help: see its log
    === exit 1
    "#);
    assert_eq!(bench.calls(), ["sync Some(\"dir\") confirm=true"]);
}

#[test]
fn apply_as_json_is_one_event_a_line() {
    let bench = busy();
    let file = bench.file("one.yaml", MANIFEST);
    let ran = bench.run(&format!("apply -o json -f {}", file.display()));
    let events: Vec<crate::api::ApplyEvent> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((ran.status, events.len()), (1, 7));
}
