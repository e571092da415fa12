//! What is done by hand.

use super::*;
use crate::error::{Class, Fault};

/// A signal to this process reaches every session in the foreground: they take turns.
static FOREGROUND: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn run_in_the_foreground_is_the_process() {
    let _turn = FOREGROUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let bench = Bench::new(|node| {
        node.output = ("data\n".into(), "trouble\n".into());
        node.exit_code = 42;
    });
    let ran = bench.run("run --rm docker.io/a/b:1 job sh -c true");
    assert_eq!((ran.status, ran.out.as_str(), ran.err.as_str()), (42, "data\n", "trouble\n"));
    assert_eq!(
        bench.calls(),
        [
            r#"create default/job {"image":"docker.io/a/b:1","command":["sh","-c","true"],"restart":"Never"} start=true"#,
            "rm default/job force=false",
        ]
    );
    let left = std::fs::read_dir(bench.directory.path().join("fifo")).unwrap().count();
    assert_eq!(left, 0, "no pipes are left behind");
}

#[test]
fn run_in_the_foreground_passes_signals_on() {
    let _turn = FOREGROUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (number, status) in [(2, 130), (15, 143), (1, 129), (3, 131)] {
        let bench = Bench::new(|node| node.raises = Some(number));
        assert_eq!(bench.run("run docker.io/a/b:1 job").status, status);
        assert_eq!(bench.calls()[1], format!("kill default/job signal={number} all=false"));
    }
}

#[test]
fn run_that_cannot_begin_has_the_shells_numbers() {
    let _turn = FOREGROUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (class, message, status) in [
        (Class::Runtime, "exec: \"nope\": executable file not found in $PATH", 127),
        (Class::Runtime, "exec: \"/etc\": permission denied", 126),
        (Class::Refused, "container default/job exists", 125),
    ] {
        let bench = Bench::new(|node| node.create_fault = Some(Fault::new(class, message)));
        let ran = bench.run("run docker.io/a/b:1 job nope");
        assert_eq!((ran.status, ran.out.as_str()), (status, ""), "{message}");
        assert_eq!(ran.err, format!("error: {message}\n"));
        assert_eq!(std::fs::read_dir(bench.directory.path().join("fifo")).unwrap().count(), 0);
    }
    let bench = Bench::new(|node| node.create_fault = Some(Fault::new(Class::Refused, "it exists")));
    assert_eq!(bench.run("run -d docker.io/a/b:1 job").status, 5, "detached, its class decides");
}

#[test]
fn exec_in_the_foreground_is_the_process() {
    let _turn = FOREGROUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let bench = Bench::new(|node| {
        node.output = ("data\n".into(), "trouble\n".into());
        node.exit_code = 42;
    });
    let ran = bench.run("exec --exec-id 0 -e A=1 -u app -w /srv container/web sh -c true");
    assert_eq!((ran.status, ran.out.as_str(), ran.err.as_str()), (42, "data\n", "trouble\n"));
    assert_eq!(
        bench.calls(),
        [
            r#"exec {"namespace":"default","name":"web","execId":"0","command":["sh","-c","true"],"env":{"A":"1"},"cwd":"/srv","user":"app","groups":[],"privileged":false,"capAdd":[],"capDrop":[],"stdio":null,"again":false,"timeoutMs":null} terminal=false"#,
            "wait exec 0",
        ]
    );
    assert_eq!(std::fs::read_dir(bench.directory.path().join("fifo")).unwrap().count(), 0);
}

#[test]
fn exec_that_cannot_begin_has_the_shells_numbers() {
    let _turn = FOREGROUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (class, message, status) in [
        (Class::Runtime, "container default/web: runc: exec: \"nope\": executable file not found in $PATH", 127),
        (Class::Runtime, "container default/web: runc: exec: \"/etc\": permission denied", 126),
        (Class::Refused, "container default/web has no running task", 125),
    ] {
        let bench = Bench::new(|node| node.create_fault = Some(Fault::new(class, message)));
        assert_eq!(bench.run("exec web nope").status, status, "{message}");
        let bench = Bench::new(|node| node.create_fault = Some(Fault::new(class, message)));
        assert_eq!(bench.run("exec -d web nope").status, class.exit_status(), "detached, its class decides");
    }
    let bench = Bench::new(|_| {});
    assert_eq!(bench.run("exec web").status, 2);
    assert_eq!(bench.run("exec -d -i web sh").status, 2);
    assert_eq!(bench.run("exec --detach-keys ctrl- web sh").status, 2);
}

#[test]
fn sessions_with_what_is_there() {
    let _turn = FOREGROUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let bench = Bench::shop();
    bench.node.state().output = ("seen\n".into(), String::new());
    bench.node.state().exit_code = 3;
    let ran = bench.run("-n shop attach --no-stdin web");
    assert_eq!((ran.status, ran.out.as_str()), (3, "seen\n"));
    assert_eq!(bench.run("-n shop attach ghost").status, 125);
    assert_eq!(bench.run("-n shop start -a web crashing").status, 2);
    for line in ["pause web", "unpause web", "task pause web", "task resume web"] {
        let ran = bench.run(&format!("-n shop {line}"));
        assert_eq!((ran.status, ran.out.as_str()), (0, "web\n"), "{line}: {}", ran.err);
    }
    let calls = ["attach shop/web", "pause shop/web", "resume shop/web", "pause shop/web", "resume shop/web"];
    assert_eq!(bench.calls(), calls);
}

#[test]
fn run_detached_prints_the_name_and_writes_the_pid() {
    let bench = Bench::new(|_| {});
    let pid = bench.directory.path().join("pid");
    let ran = bench.run(&format!("run -d --pid-file {} docker.io/a/b:1 web", pid.display()));
    insta::assert_snapshot!(ran.all(), @r"
    --- out
    web
    === exit 0
    ");
    assert_eq!(std::fs::read_to_string(pid).unwrap(), "4711");
}

#[test]
fn flags_behind_the_image_belong_to_the_command() {
    let bench = Bench::new(|_| {});
    bench.run("run -d --net-host --cwd /w -e A=b --user 1:2 --read-only --cap-drop ALL --memory-limit 64Mi --cpus 1.5 --restart on-failure:3 --mount type=bind,src=/s,dst=/d,options=rbind:ro docker.io/a/b:1 web ls -d --rm -n x");
    insta::assert_snapshot!(bench.calls()[0], @r#"create default/web {"image":"docker.io/a/b:1","command":["ls","-d","--rm","-n","x"],"workingDir":"/w","env":{"A":"b"},"user":"1:2","mounts":[{"type":"bind","source":"/s","target":"/d","readOnly":true,"options":["rbind"]}],"hostNetwork":true,"resources":{"limits":{"memory":"64Mi","cpu":"1500m"}},"restart":"OnFailure","restartLimit":3,"securityContext":{"capabilities":{"drop":["ALL"]},"readOnlyRootFilesystem":true}} start=true"#);
}

#[test]
fn slips_of_run_are_explained() {
    let bench = Bench::new(|_| {});
    insta::assert_snapshot!(bench.run("run nginx web").all(), @r#"
    --- err
    error: "nginx" names no registry host
      help: write docker.io/library/nginx:latest
    === exit 2
    "#);
    insta::assert_snapshot!(bench.run("run docker.io/a/b:1 --rm web").all(), @r#"
    --- err
    error: "--rm" is no container name
      help: flags stand before IMAGE: --rm docker.io/a/b:1 ID
    === exit 2
    "#);
    assert_eq!(bench.run("run docker.io/a/b:1").status, 2, "an id is needed");
    assert_eq!(bench.run("run --restart always docker.io/a/b:1 web").status, 2, "not in the foreground");
    assert!(bench.calls().is_empty());
}

#[test]
fn containers_are_made_started_stopped_and_removed() {
    let bench = Bench::shop();
    for line in [
        "create docker.io/a/b:1 new",
        "container create --label a=b docker.io/a/b:1 other",
        "start web -n shop",
        "task start -d web -n shop",
        "stop -t 5 web -n shop",
        "restart web -n shop",
        "task rm -f web -n shop",
        "rm web -n shop",
        "container label web a=b c- -n shop",
    ] {
        assert_eq!(bench.run(line).status, 0, "{line}");
    }
    insta::assert_snapshot!(bench.calls().join("\n"), @r#"
    create default/new {"image":"docker.io/a/b:1","restart":"Never"} start=false
    create default/other {"image":"docker.io/a/b:1","restart":"Never"} start=false
    start shop/web
    start shop/web
    stop shop/web grace=Some(5000)
    restart shop/web
    stop shop/web grace=Some(0)
    rm shop/web force=false
    label container shop/web {"a": Some("b"), "c": None}
    "#);
    let ran = bench.run("rm -f web nil -n shop");
    insta::assert_snapshot!(ran.all(), @r"
    --- out
    web
    --- err
    dir:shop.yaml declares container shop/web: it comes back
    error: container shop/nil is not found
    === exit 4
    ");
    assert_eq!(bench.run("task rm web -n shop").status, 5, "it runs");
}

#[test]
fn images_are_listed_pulled_tagged_loaded_and_removed() {
    let bench = Bench::shop();
    insta::assert_snapshot!(bench.run("images -n shop").all(), @r"
    --- out
    REFERENCE                   DIGEST         PLATFORMS     SIZE      UNPACKED   USED BY
    registry.local/web:1        aaaaaaaaaaaa   linux/amd64   12.3 MB   yes        web
    registry.local/web:stable   aaaaaaaaaaaa   <none>        12.3 MB   no         <none>
    === exit 0
    ");
    insta::assert_snapshot!(bench.run("pull docker.io/a/b:1").all(), @r"
    --- out
    docker.io/a/b:1  sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  12.3 MB
    === exit 0
    ");
    insta::assert_snapshot!(bench.run("image pull -q docker.io/a/b:1 docker.io/a/c:1").out, @r"
    sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    ");
    insta::assert_snapshot!(bench.run("pull nginx").all(), @r#"
    --- err
    error: "nginx" names no registry host
      help: write docker.io/library/nginx:latest
    === exit 2
    "#);
    insta::assert_snapshot!(bench.run("tag --force docker.io/a/b:1 registry.local/x:1").all(), @r"
    --- out
    registry.local/x:1
    === exit 0
    ");
    insta::assert_snapshot!(bench.run("rmi registry.local/web:1 -n shop").all(), @r"
    --- err
    error: image registry.local/web:1 is used by container web
      help: remove the container first, or give --force
    === exit 5
    ");
    insta::assert_snapshot!(bench.run("rmi -f registry.local/web:1 -n shop").all(), @r"
    --- out
    registry.local/web:1
    --- err
    dir:shop.yaml declares registry.local/web:1: it comes back
    === exit 0
    ");
    let archive = bench.file("image.tar", "…");
    insta::assert_snapshot!(bench.run(&format!("load {}", archive.display())).all(), @r"
    --- out
    registry.local/web:1  sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    --- err
    image.tar: bbbbbbbbbbbb 6 MB
    image.tar: cccccccccccc was here
    === exit 0
    ");
    insta::assert_snapshot!(bench.run(&format!("image import -o name --progress none {}", archive.display())).all(), @r"
    --- out
    image/registry.local/web:1
    === exit 0
    ");
    let json = bench.run(&format!("load -q --progress json {}", archive.display()));
    assert_eq!(json.err, "", "-q is quiet");
    let json = bench.run(&format!("load --progress json {}", archive.display()));
    let states: Vec<serde_json::Value> = json
        .err
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["state"].clone())
        .collect();
    assert_eq!(serde_json::json!(states), serde_json::json!([null, "reading", "read", "existed", "unpacking"]));
    assert_eq!(bench.run("load /nonexistent.tar").status, 4);
}

#[test]
fn ps_shows_tasks() {
    insta::assert_snapshot!(Bench::shop().run("ps -n shop").all(), @r"
    --- out
    NAME       PID      PHASE     EXIT     ATTEMPT   UP       IMAGE
    crashing   <none>   BackOff   1        1         <none>   registry.local/web:stable
    web        4711     Running   <none>   1         5m       registry.local/web:stable
    === exit 0
    ");
    insta::assert_snapshot!(Bench::shop().run("ps").all(), @r"
    --- err
    no tasks in namespace default
    === exit 0
    ");
}

#[test]
fn inspect_tries_container_then_image() {
    let bench = Bench::shop();
    let web: serde_json::Value = serde_json::from_str(&bench.run("inspect web -n shop").out).unwrap();
    assert_eq!((&web["item"]["kind"], &web["runtimeSpec"]["ociVersion"]), (&"Container".into(), &"1.0.2".into()));
    let image: serde_json::Value =
        serde_json::from_str(&bench.run("inspect registry.local/web:1 -n shop").out).unwrap();
    assert_eq!(image["item"]["kind"], "Image");
    insta::assert_snapshot!(bench.run("inspect wep -n shop").all(), @r"
    --- err
    error: container shop/wep is not found
      help: did you mean web?
    === exit 4
    ");
}

#[test]
fn namespaces_are_made_and_removed() {
    let bench = Bench::shop();
    insta::assert_snapshot!(bench.run("ns ls").all(), @r"
    --- out
    NAME   CONTAINERS   IMAGES   TAGS   AGE
    shop   2            1        1      5m12s
    === exit 0
    ");
    assert_eq!(bench.run("ns create lab a=b").out, "lab\n");
    assert_eq!(bench.run("namespace rm shop").status, 0);
    assert_eq!(bench.calls(), ["create namespace lab", "remove namespace shop"]);
}

#[test]
fn info_and_its_warnings() {
    insta::assert_snapshot!(Bench::shop().run("info").all(), @r"
    --- out
    daemon:      pid 99
    address:     /run/bayplan/bayplan.sock
    manifests:   /etc/bayplan/manifests
    root:        /var/lib/bayplan
    state:       /run/bayplan
    cgroups:     v2, driver systemd, beneath /bayplan
    containers:  3, 2 running
    images:      1
    namespaces:  2
    --- err
    warning: limits are best effort: no CAP_SYS_RESOURCE
    === exit 0
    ");
}
