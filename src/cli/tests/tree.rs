//! The command tree itself.

use super::*;
use crate::error::Class;

#[test]
fn the_tree_is_sound() {
    super::super::command().debug_assert();
}

#[test]
fn global_flags_stand_before_and_after_the_verb() {
    let bench = Bench::shop();
    for line in
        ["-n shop -o name get c", "get c -n shop -o name", "-o name get -n shop c", "-n shop container ls -o name"]
    {
        assert_eq!(bench.run(line).out, "container/crashing\ncontainer/web\n", "{line}");
    }
}

#[test]
fn every_alias_of_the_long_groups_works() {
    let bench = Bench::shop();
    for line in ["images -q", "image -q", "i -q", "image ls -q", "images ls -q", "i list -q", "-n shop images -q"] {
        let line = format!("{line} -A");
        assert_eq!(bench.run(&line).out.lines().count(), 2, "{line}");
    }
    for line in ["container ls -q", "containers ls -q", "c ls -q"] {
        assert_eq!(bench.run(&format!("{line} -n shop")).out, "crashing\nweb\n", "{line}");
    }
    for line in ["task ls -q", "tasks ls -q", "t ls -q", "ps -q"] {
        assert_eq!(bench.run(&format!("{line} -n shop")).out, "crashing\nweb\n", "{line}");
    }
    for line in ["namespace ls -q", "ns ls -q", "namespaces ls -q"] {
        assert_eq!(bench.run(line).out, "shop\n", "{line}");
    }
}

#[test]
fn in_task_kill_a_means_all() {
    let bench = Bench::shop();
    assert_eq!(bench.run("-n shop task kill -a -s KILL web").status, 0);
    assert_eq!(bench.run("-n shop kill -s 1 web").status, 0);
    assert_eq!(bench.calls(), ["kill shop/web signal=9 all=true", "kill shop/web signal=1 all=false"]);
}

#[test]
fn wrong_usage_is_2_and_a_slip_is_named() {
    let bench = Bench::shop();
    let ran = bench.run("aply -f x");
    assert!(ran.status == Class::Usage.exit_status() && ran.err.contains("bayplan apply?"), "{}", ran.err);
    assert_eq!(bench.run("stop").status, 2);
    insta::assert_snapshot!(bench.run("build -t x .").all(), @r"
    --- err
    error: bayplan has no build
      help: build with buildah, podman or docker, then bring it here: bayplan load FILE, or bayplan pull
    === exit 2
    ");
    insta::assert_snapshot!(bench.run("image commit web x:1").all(), @r"
    --- err
    error: bayplan has no image commit
      help: write a Containerfile and build it; of a tar file an image is made by bayplan image import --rootfs
    === exit 2
    ");
}

#[test]
fn images_are_chosen_by_name_and_slips_of_verbs_are_still_slips() {
    let bench = Bench::shop();
    for (line, count) in [
        ("images web", 2),
        ("image -q web:1", 1),
        ("image ls registry.local/web:stable", 1),
        ("i web:1 web:stable", 2),
        ("images registry.local/*", 2),
        ("images nginx", 0),
        ("image ls pul", 0),
    ] {
        let ran = bench.run(&format!("{line} -n shop -o name"));
        assert_eq!((ran.status, ran.out.lines().count()), (0, count), "{line}: {}", ran.err);
    }
    insta::assert_snapshot!(bench.run("images nginx -n shop").all(), @r"
    --- err
    no images named nginx in namespace shop
    === exit 0
    ");
    for (line, help) in [
        ("image pul", "bayplan image pull?"),
        ("images rmm web:1", "bayplan image rm?"),
        ("image frobnicate web:1", "--help"),
        ("image web ls", "--help"),
        ("image build -t x .", "buildah"),
        ("images history web:1", "bayplan image inspect"),
    ] {
        let ran = bench.run(line);
        assert!(ran.status == 2 && ran.err.contains(help), "{line}: {}", ran.err);
    }
}

#[test]
fn completion_is_there_for_every_shell() {
    let bench = Bench::shop();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(bench.run(&format!("completion {shell}")).out.contains("bayplan"), "{shell}");
    }
}

#[test]
fn config_default_parses_back_to_the_defaults() {
    let out = Bench::shop().run("config default").out;
    let parsed = crate::config::Config::parse(std::path::Path::new("config.toml"), &out).unwrap();
    assert_eq!(parsed, crate::config::Config::default());
}

#[test]
fn version_json_names_build_runtime_and_kernel() {
    let ran = Bench::shop().run("version -o json");
    let version: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(version["client"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["client"]["kernel"].is_string());
    assert_eq!(version["daemon"]["runtime"], "runc version 1.1.5");
}
