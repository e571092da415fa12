//! The whole spec, and what its parts' tests share.

use std::collections::BTreeMap;
use std::io;

use oci_spec::image::{Config, ConfigBuilder, ImageConfiguration, ImageConfigurationBuilder};
use serde_json::{Value, json};

use super::*;
use crate::runtime::host::CgroupMounts;

/// A node with everything: cgroup v2, systemd, every capability.
pub(crate) fn host() -> HostFacts {
    HostFacts {
        cgroup: CgroupMode::V2,
        cgroup_mounts: CgroupMounts { v1: vec![], v2: Some("/sys/fs/cgroup".into()) },
        controllers: ["cpu", "memory", "pids"].map(str::to_owned).into(),
        systemd: true,
        apparmor: false,
        swap_accounting: true,
        cgroup_namespaces: true,
        can_raise_rlimits: true,
        oom_score_adj: 0,
        capabilities: (1 << 41) - 1,
        kernel: "6.1.0".into(),
    }
}

/// The smallest container.
pub(crate) fn container() -> ContainerSpec {
    ContainerSpec::of("registry.local/test/busybox:1".parse().unwrap())
}

/// An image with this configuration.
pub(crate) fn image_config(config: Config) -> ImageConfiguration {
    ImageConfigurationBuilder::default().config(config).build().unwrap()
}

/// Files in memory.
pub(crate) struct Files(BTreeMap<String, String>);

impl Files {
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }
}

impl RootFiles for Files {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.get(path).map(|text| text.clone().into_bytes()))
    }
}

fn built(container: &ContainerSpec, host: &HostFacts) -> Result<Built, SpecError> {
    built_by(CgroupDriver::Cgroupfs, container, host)
}

fn built_by(cgroup_driver: CgroupDriver, container: &ContainerSpec, host: &HostFacts) -> Result<Built, SpecError> {
    let image = image_config(ConfigBuilder::default().cmd(vec!["sh".to_owned()]).build().unwrap());
    build(&SpecInput {
        name: "web",
        namespace: "shop",
        container,
        image: &image,
        files: &Files::of(&[]),
        console: None,
        netns: Some("/run/bayplan/netns/shop_web".into()),
        cgroup: &CgroupPath::new("/bayplan", "shop", "web").unwrap(),
        cgroup_driver,
        host,
        bundle: Path::new("/run/bayplan/tasks/shop/web"),
    })
}

fn json_of(container: &ContainerSpec, host: &HostFacts) -> Value {
    serde_json::to_value(built(container, host).unwrap().spec).unwrap()
}

#[test]
fn a_plain_container_is_confined() {
    let spec = json_of(&container(), &host());
    assert_eq!(spec["root"], json!({"path": "rootfs", "readonly": false}));
    assert_eq!(spec["hostname"], "web");
    assert_eq!(spec["process"]["noNewPrivileges"], true);
    assert_eq!(spec["process"]["terminal"], false);
    assert_eq!(spec["linux"]["cgroupsPath"], "/bayplan/shop/web");
    assert_eq!(spec["linux"]["maskedPaths"].as_array().unwrap().len(), MASKED.len());
    assert_eq!(spec["linux"]["readonlyPaths"].as_array().unwrap().len(), READ_ONLY.len());
    assert_eq!(spec["linux"]["resources"], json!({"devices": [{"allow": false, "access": "rwm"}]}));
    assert_eq!(spec["linux"].get("devices"), None);
    assert_eq!(spec["linux"].get("seccomp"), None);
    let network = json!({"type": "network", "path": "/run/bayplan/netns/shop_web"});
    assert!(spec["linux"]["namespaces"].as_array().unwrap().contains(&network));
    assert_eq!(spec["annotations"], json!({"dev.bayplan.namespace": "shop", "dev.bayplan.name": "web"}));
}

#[test]
fn systemd_is_told_how_a_container_ends_when_the_machine_goes_down() {
    let mut wanted = container();
    wanted.stop_signal = Some("SIGQUIT".to_owned());
    for (grace, expected) in [(7, "uint64 7000000"), (0, "uint64 1000")] {
        wanted.termination_grace_period_seconds = grace;
        let spec = built_by(CgroupDriver::Systemd, &wanted, &host()).unwrap().spec;
        let annotations = spec.annotations().clone().unwrap();
        assert_eq!(annotations["org.systemd.property.KillSignal"], "int32 3");
        assert_eq!(annotations["org.systemd.property.TimeoutStopUSec"], expected);
    }
}

#[test]
fn the_oom_score_is_never_the_shims() {
    let mut node = host();
    // own, CAP_SYS_RESOURCE -> the container's: without it a score cannot be lowered, but always raised.
    for (own, may_lower, expected) in [(0, false, 0), (-999, false, 0), (200, false, 200), (200, true, 0)] {
        node.oom_score_adj = own;
        node.can_raise_rlimits = may_lower;
        assert_eq!(json_of(&container(), &node)["process"]["oomScoreAdj"], expected);
    }
}

#[test]
fn a_privileged_container_has_the_node() {
    let mut wanted = container();
    wanted.security_context.privileged = true;
    let spec = json_of(&wanted, &host());
    assert_eq!(spec["process"]["noNewPrivileges"], false);
    assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 41);
    for list in ["maskedPaths", "readonlyPaths"] {
        assert!(spec["linux"].get(list).is_none_or(|list| list.as_array().unwrap().is_empty()));
    }
    assert_eq!(spec["linux"]["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
    assert!(spec["linux"]["devices"].as_array().unwrap().iter().any(|device| device["path"] == "/dev/null"));
    let sys = spec["mounts"].as_array().unwrap().iter().find(|mount| mount["destination"] == "/sys").unwrap();
    assert!(sys["options"].as_array().unwrap().contains(&json!("rw")));
    wanted.security_context.no_new_privileges = Some(true);
    assert_eq!(json_of(&wanted, &host())["process"]["noNewPrivileges"], true);
}

#[test]
fn namespaces_follow_the_network_and_the_cgroup_mode() {
    let types = |wanted: &ContainerSpec, mode| {
        let mut node = host();
        node.cgroup = mode;
        let spec = json_of(wanted, &node);
        let list = spec["linux"]["namespaces"].as_array().unwrap();
        list.iter().map(|namespace| namespace["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let mut wanted = container();
    assert_eq!(types(&wanted, CgroupMode::V2), "pid ipc uts mount network cgroup");
    wanted.host_network = true;
    assert_eq!(types(&wanted, CgroupMode::V2), "pid ipc uts mount cgroup");
    assert_eq!(types(&wanted, CgroupMode::Hybrid), "pid ipc uts mount");
}

#[test]
fn etc_files_are_the_bundles_or_the_nodes_and_yield_to_the_manifest() {
    let sources = |wanted: &ContainerSpec| {
        let spec = json_of(wanted, &host());
        let list = spec["mounts"].as_array().unwrap().clone();
        let etc = |mount: &&Value| mount["destination"].as_str().unwrap().starts_with("/etc/");
        list.iter().filter(etc).map(|mount| mount["source"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut wanted = container();
    let bundle = |name: &str| format!("/run/bayplan/tasks/shop/web/{name}");
    assert_eq!(sources(&wanted), [bundle("hostname"), bundle("hosts"), bundle("resolv.conf")]);
    wanted.mounts = serde_json::from_value(json!([{"type": "bind", "source": "/my", "target": "/etc/hosts"}])).unwrap();
    assert_eq!(sources(&wanted), ["/my".to_owned(), bundle("hostname"), bundle("resolv.conf")]);
    wanted.mounts.clear();
    wanted.host_network = true;
    assert!(sources(&wanted).iter().all(|source| source == &bundle("hostname") || source.starts_with('/')));
    assert!(!sources(&wanted).contains(&bundle("hosts")));
}

#[test]
fn an_error_names_the_container_and_the_next_step() {
    let mut wanted = container();
    wanted.user = Some("ghost".into());
    let fault = crate::error::Fault::from(built(&wanted, &host()).unwrap_err());
    assert_eq!(fault.message, "container shop/web: user \"ghost\" is not in the image's /etc/passwd");
    assert_eq!(fault.help.as_deref(), Some("use numeric ids, such as user: \"1000:1000\""));
}
