//! Images that move by hand.

use super::*;
use crate::error::{Class, Fault};

const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[test]
fn push_says_what_became_of_each_blob() {
    let bench = Bench::shop();
    let ran = bench.run("-n shop push -k --plain-http registry.local/web:1");
    insta::assert_snapshot!(ran.all(), @r"
    --- out
    registry.local/web:1  sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  12 MB, 6 MB sent
    --- err
    registry.local/web:1: bbbbbbbbbbbb 6 MB sent
    registry.local/web:1: cccccccccccc was there
    registry.local/web:1: dddddddddddd mounted from lab/base
    index ffffffffffff has more images than are here: one of them was pushed, by itself
    === exit 0
    ");
    assert_eq!(bench.run("push -q --all-platforms a.local/x:1 b.local/x:1").all(), format!("--- out\n{A}\n=== exit 0"));
    assert_eq!(bench.run("image push --platform linux/arm64 -o name a.local/x:1").out, "image/a.local/x:1\n");
    let json = bench.run("push -o json --progress json --platform linux/arm64 a.local/x:1");
    let data: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&data["event"], &data["digest"], &data["sent"]), (&"pushed".into(), &A.into(), &6_000_000.into()));
    let moves: Vec<serde_json::Value> = json.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let states: Vec<_> = moves.iter().map(|one| one["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["waiting", "sending", "sent", "existed", "mounted"]);
    assert_eq!((&moves[4]["reference"], &moves[4]["from"]), (&"a.local/x:1".into(), &"lab/base".into()));
    insta::assert_snapshot!(bench.calls().join("\n"), @r#"
    push shop/registry.local/web:1 None Here
    push default/a.local/x:1 Some(b.local/x:1) All
    push default/a.local/x:1 None Platform(Platform { os: "linux", architecture: "arm64", variant: None })
    push default/a.local/x:1 None Platform(Platform { os: "linux", architecture: "arm64", variant: None })
    "#);
    assert_eq!(bench.run("push a.local/x:1 short").status, 2);
    assert_eq!(bench.run("push --all-platforms --platform linux/arm64 a.local/x:1").status, 2);
}

#[test]
fn save_writes_a_file_whole_or_not_at_all() {
    let bench = Bench::shop();
    let file = bench.directory.path().join("web.tar.zst");
    insta::assert_snapshot!(bench.run(&format!("save {} -n shop registry.local/web:1", file.display())).all(), @r"
    --- out
    DIR/web.tar.zst  10 B
    === exit 0
    ");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "an archive");
    for line in [
        "save F.tgz a.local/x:1",
        "image export F.tar a.local/x:1 a.local/y:1 --platform linux/arm64",
        "save --format docker --compress zstd F.tar a.local/x:1",
    ] {
        assert_eq!(bench.run(&line.replace('F', &file.display().to_string())).status, 0, "{line}");
    }
    insta::assert_snapshot!(bench.calls().join("\n"), @r#"
    save shop registry.local/web:1 Here Oci Zstd
    save default a.local/x:1 Here Oci Gzip
    save default a.local/x:1 a.local/y:1 Platform(Platform { os: "linux", architecture: "arm64", variant: None }) Oci Plain
    save default a.local/x:1 Here Docker Zstd
    "#);
    // A fault in the middle leaves what was there, and nothing beside it.
    bench.node.state().save_fault = Some(Fault::new(Class::Registry, "blob b is corrupt").help("check it"));
    let before = std::fs::read_dir(bench.directory.path()).unwrap().count();
    insta::assert_snapshot!(bench.run(&format!("save {} a.local/x:1", file.display())).all(), @r"
    --- err
    error: blob b is corrupt
      help: check it
    === exit 6
    ");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "an archive");
    assert_eq!(std::fs::read_dir(bench.directory.path()).unwrap().count(), before);
    assert_eq!(bench.run("save /nonexistent/x.tar a.local/x:1").status, 7);
    // A device is written to, not replaced.
    assert_eq!(bench.run("save /dev/null a.local/x:1").status, 0);
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
    insta::assert_snapshot!(bench.run("save x.tar").all(), @r"
    --- err
    error: no image is named to be saved into x.tar
      help: bayplan save x.tar IMAGE…
    === exit 2
    ");
}

#[test]
fn a_root_file_system_is_imported_with_its_configuration() {
    let bench = Bench::shop();
    let file = bench.file("root.tar", "…");
    let words =
        ["image", "import", "--rootfs", "--cmd", r#"["sh","-c","echo $HOME"]"#, "--entrypoint", "/sbin/init --now"]
            .into_iter()
            .chain([
                "--env",
                "A=b",
                "--workdir",
                "/srv",
                "--user",
                "1:2",
                "--label",
                "k=v",
                "--platform",
                "linux/arm64",
            ])
            .chain(["--stop-signal", "SIGINT", "--expose", "80", "--expose", "53/udp"])
            .chain([file.to_str().unwrap(), "a.local/root:1"])
            .map(str::to_owned)
            .collect::<Vec<_>>();
    assert_eq!(bench.run_words(&words).all(), format!("--- out\na.local/root:1  {A}\n=== exit 0"));
    let place = bench.directory.path().display().to_string();
    insta::assert_snapshot!(bench.calls().join("\n").replace(&place, "DIR"), @r#"import DIR/root.tar {"namespace":"default","reference":"a.local/root:1","platform":"linux/arm64","entrypoint":["/sbin/init","--now"],"cmd":["sh","-c","echo $HOME"],"env":["A=b"],"workdir":"/srv","user":"1:2","labels":{"k":"v"},"stopSignal":"SIGINT","expose":["80/tcp","53/udp"]}"#);
    let mut told = String::new();
    for slip in [
        "--workdir srv FILE a.local/r:1",
        "--expose http FILE a.local/r:1",
        "--env B FILE a.local/r:1",
        "--cmd [sh FILE a.local/r:1",
        "--cmd echo;ls FILE a.local/r:1",
        "FILE root:1",
    ] {
        let line = format!("image import --rootfs {}", slip.replace("FILE", &file.display().to_string()));
        told += &format!("{}\n", bench.run(&line).all());
    }
    insta::assert_snapshot!(told);
    for usage in [
        "image import --rootfs F",
        "image import --cmd x F",
        "image import F a.local/r:1",
        "image import --rootfs --digests F a.local/r:1",
    ] {
        assert_eq!(bench.run(&usage.replace('F', &file.display().to_string())).status, 2, "{usage}");
    }
    assert_eq!(bench.calls().len(), 1);
}

#[test]
fn what_dockers_and_ctrs_fingers_know_works() {
    let bench = Bench::shop();
    let file = bench.directory.path().join("web");
    for line in ["save -o F a.local/x:1", "image save a.local/x:1 --output F", "i export -o F a.local/x:1"] {
        let ran = bench.run(&line.replace('F', &file.display().to_string()));
        assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{line}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "an archive");
    // A format stays one.
    assert_eq!(bench.run(&format!("save -o json {} a.local/x:1", file.display())).status, 0);
    let archive = bench.file("image.tar", "…");
    for line in ["image import F", "load -i F", "image load F"] {
        assert_eq!(bench.run(&line.replace('F', &archive.display().to_string())).status, 0, "{line}");
    }
    insta::assert_snapshot!(bench.run(&format!("load {}", bench.directory.path().display())).all(), @r"
    --- err
    error: archive DIR is a directory
      help: an OCI layout comes as a stream: tar -C DIR -cf - . | bayplan load
    === exit 3
    ");
}
