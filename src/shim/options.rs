//! containerd's options of a runc (`containerd.runc.v1.Options`), for hosts other than our own engine, which says the
//! same in `bayplan.json`.

use std::path::PathBuf;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::Options;

use super::runc::Runtime;

/// Where containerd's own shim has the runtimes' state.
pub const ROOT: &str = "/run/containerd/runc";

/// Takes the options out of what carries them; those of other kinds are none of ours.
pub fn read(any: Option<&Any>) -> Result<Options, String> {
    match any.filter(|any| any.type_url.ends_with("containerd.runc.v1.Options")) {
        Some(any) => Options::parse_from_bytes(&any.value).map_err(|error| format!("runtime options: {error}")),
        None => Ok(Options::default()),
    }
}

/// The runtime that they stand for.
pub fn runtime(options: &Options, namespace: &str) -> Runtime {
    let or = |text: &str, default: &str| PathBuf::from(if text.is_empty() { default } else { text });
    Runtime {
        binary: or(&options.binary_name, "runc"),
        root: or(&options.root, ROOT).join(namespace),
        systemd: options.systemd_cgroup,
        no_pivot: options.no_pivot_root,
        no_new_keyring: options.no_new_keyring,
        io_owner: (options.io_uid, options.io_gid),
    }
}
