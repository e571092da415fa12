use std::path::Path;

use super::*;
use crate::error::{Class, Fault};

fn invalid(text: &str) -> Fault {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    let mut fault = Config::load(Some(&file), &Overrides::default()).expect_err(text);
    assert_eq!(fault.class, Class::Invalid);
    fault.place = fault.place.map(|place| place.rsplit('/').next().unwrap().to_owned());
    fault
}

#[test]
fn the_default_text_is_the_defaults_and_names_every_key() {
    let config = Config::parse(Path::new("default"), Config::default_text()).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.check(), []);

    // Uncommented, the derived keys are known too, and then no key is missing.
    let text = Config::default_text();
    let derived = ["address = ", "log_dir = ", "parent = ", "path = \"/usr"];
    let full: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if derived.iter().any(|key| rest.starts_with(key)) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let full = Config::parse(Path::new("full"), &full).unwrap();
    let shown = full.to_toml();
    for line in shown.lines().filter(|line| line.contains(" = ")) {
        let key = line.split(" = ").next().unwrap();
        assert!(text.contains(&format!("{key} = ")), "{key} is not in the default text");
    }
    assert_eq!(Config::parse(Path::new("shown"), &shown).unwrap(), full);
}

#[test]
fn errors_say_where_and_what_was_meant() {
    let fault = invalid("version = 1\nmanifest = \"/m\"\n");
    assert_eq!(fault.message, "unknown key manifest");
    assert_eq!(fault.place.as_deref(), Some("config.toml:2:1"));
    assert_eq!(fault.help.as_deref(), Some("did you mean manifests?"));

    let fault = invalid("[controller]\n  debonce = \"5ms\"\n");
    assert_eq!(
        (fault.place.as_deref(), fault.help.as_deref()),
        (Some("config.toml:2:3"), Some("did you mean debounce?"))
    );

    let fault = invalid("[controller]\ndebounce = \"5 parsecs\"\n");
    assert_eq!(fault.place.as_deref(), Some("config.toml:2:12"));
    assert!(fault.message.contains("is not a duration"), "{fault}");

    let fault = invalid("[log]\nlevel = \"loud\"\n");
    assert_eq!(fault.place.as_deref(), Some("config.toml:2:9"));
    assert!(fault.message.contains("`warn`"), "{fault}");

    let fault = invalid("root = \"/r\nstate = 1");
    assert_eq!(fault.place.as_deref(), Some("config.toml:1:11"));
    assert!(!fault.message.contains('\n'), "{fault}");

    let fault = invalid("version = 2\n[future]\nthing = 1\n");
    assert_eq!(fault.message, "version 2 of the configuration is not known");
    assert_eq!(fault.place.as_deref(), Some("config.toml:1:11"));
}

#[test]
fn values_out_of_range_are_refused_at_their_place() {
    for (text, place) in [
        ("[controller]\npoll = \"1ms\"", "config.toml:2:8"),
        ("[controller]\nbackoff_initial = \"9m\"", "config.toml:2:19"),
        ("[shim]\noom_score_adj = -2000", "config.toml:2:17"),
        ("root = \"/etc/bayplan/manifests/root\"", "config.toml:1:8"),
        ("[cgroup]\nparent = \"/a/../..\"", "config.toml:2:10"),
        ("[registry]\nplain_http = [\"http://x\"]", "config.toml:2:14"),
        ("[runtimes.crun]\npath = \"bin/crun\"", "config.toml:2:8"),
    ] {
        let fault = invalid(text);
        assert_eq!(fault.place.as_deref(), Some(place), "{text}: {fault}");
        assert!(fault.help.is_some(), "{text}");
    }
    let long = format!("address = \"/{}\"", "a".repeat(107));
    assert!(invalid(&long).message.contains("64 bytes"));
}

#[test]
fn drop_ins_merge_in_order_and_flags_win() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let conf_d = dir.path().join("conf.d");
    std::fs::create_dir(&conf_d).unwrap();
    std::fs::write(&file, "root = \"/r\"\n[controller]\npulls = 1\ndebounce = \"20ms\"\n").unwrap();
    std::fs::write(conf_d.join("20-b.toml"), "[controller]\npulls = 2\n[runtimes.crun]\npath = \"crun\"\n").unwrap();
    std::fs::write(conf_d.join("10-a.toml"), "state = \"/s\"\n[controller]\npulls = 9\n").unwrap();
    std::fs::write(conf_d.join("note.txt"), "not read").unwrap();
    std::fs::write(conf_d.join(".hidden.toml"), "nor this").unwrap();

    let flags = Overrides { root: Some("relative".into()), ..Overrides::default() };
    let config = Config::load(Some(&file), &flags).unwrap();
    assert_eq!(config.controller.pulls, 2);
    assert_eq!(config.controller.debounce, Span::from_millis(20));
    assert_eq!(config.root, std::env::current_dir().unwrap().join("relative"));
    assert_eq!(config.address(), Path::new("/s/bayplan.sock"));
    assert_eq!(config.runtime(None), Some(Path::new("runc")));
    assert_eq!(config.runtime(Some("crun")), Some(Path::new("crun")));
    assert_eq!(config.runtime(Some("youki")), None);

    std::fs::write(conf_d.join("30-c.toml"), "[controler]\n").unwrap();
    let fault = Config::load(Some(&file), &flags).unwrap_err();
    assert!(fault.place.unwrap().ends_with("conf.d/30-c.toml:1:2"));
    assert_eq!(fault.help.as_deref(), Some("did you mean controller?"));
}

#[test]
fn the_address_follows_the_state_given_by_flag() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, "address = \"/first/instance.sock\"\n").unwrap();
    let flags = Overrides { state: Some("/second".into()), ..Overrides::default() };
    assert_eq!(Config::load(Some(&file), &flags).unwrap().address(), Path::new("/second/bayplan.sock"));
}

#[test]
fn a_file_that_was_named_must_exist() {
    let fault = Config::load(Some(Path::new("/nonexistent/config.toml")), &Overrides::default()).unwrap_err();
    assert_eq!(fault.class, Class::Invalid);
    assert!(fault.message.contains("/nonexistent/config.toml"), "{fault}");
}

#[test]
fn instances_with_other_roots_meet_nowhere() {
    let default = Config::default();
    assert_eq!(default.log_dir(), Path::new("/var/log/bayplan"));
    assert_eq!(default.cgroup_parent(), "/bayplan");
    assert_eq!(default.address(), Path::new("/run/bayplan/bayplan.sock"));

    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("real");
    let mut other = Config { root: root.clone(), ..Config::default() };
    let before = other.cgroup_parent();
    assert!(before.starts_with("/bayplan-") && before.len() == "/bayplan-".len() + 8, "{before}");
    assert_eq!(other.log_dir(), root.join("log"));

    // The same root by another name, and before and after it exists, has the same cgroups.
    std::fs::create_dir(&root).unwrap();
    assert_eq!(other.cgroup_parent(), before);
    std::os::unix::fs::symlink(&root, dir.path().join("link")).unwrap();
    other.root = dir.path().join("link");
    assert_eq!(other.cgroup_parent(), before);
}

#[test]
fn a_reload_tells_what_needs_a_restart() {
    let old = Config::default();
    let mut new = old.clone();
    assert!(old.changes(&new).is_empty());
    new.controller.pulls = 7;
    new.log.level = LogLevel::Debug;
    new.runtimes.insert("crun".into(), Runtime { path: "crun".into() });
    new.cgroup.driver = CgroupDriver::Systemd;
    new.state = "/elsewhere".into();
    let changes = old.changes(&new);
    assert_eq!(changes.live, ["controller.pulls", "log.level", "runtimes.crun.path"]);
    assert_eq!(changes.restart, ["address", "cgroup.driver", "state"]);

    let running = old.with_live(&new);
    assert_eq!(running.state, old.state);
    assert_eq!(running.controller.pulls, 7);
    assert_eq!(running.changes(&new).live, [] as [String; 0]);
}
