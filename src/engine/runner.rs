//! What runs a container, and where: the runtime or shim that its `runtime` names, runc's root, the cgroup.

use std::path::{Path, PathBuf};

use crate::error::{Class, Fault, Result};
use crate::manifest::{ContainerSpec, ResourceKey};
use crate::runtime::{CgroupDriver, CgroupPath, RuncOptions};

use super::Engine;
use super::container::in_container;
/// What runs a container.
pub(super) enum Runner {
    /// An OCI runtime, which our own shim executes.
    Own(PathBuf),
    /// Another runtime's shim.
    Foreign(PathBuf),
}

impl Engine {
    /// What runs the container must be there before anything of it is made, and before what it replaces goes.
    pub(super) fn check_runtime(&self, spec: &ContainerSpec, key: &ResourceKey) -> Result<()> {
        let runner = self.runner(spec).map_err(|fault| in_container(key, fault))?;
        if let (Runner::Foreign(_), true) = (runner, spec.stdin) {
            let runtime = spec.runtime.as_deref().unwrap_or_default();
            let message =
                format!("the shim of {runtime} connects streams only at the start: it cannot keep stdin open");
            let fault = Fault::new(Class::Refused, message).help("leave `stdin` out, or `runtime`");
            return Err(in_container(key, fault));
        }
        crate::runtime::check_own_shim(&self.config().shim_path())
            .map_err(|error| in_container(key, Fault::from(error)))
    }

    pub(super) fn runner(&self, spec: &ContainerSpec) -> Result<Runner> {
        let name = spec.runtime.as_deref();
        let config = self.config();
        if let Some(path) = config.runtime(name.filter(|_| !crate::runtime::is_own(name))) {
            return crate::runtime::host::find_runc(Some(path)).map(Runner::Own).map_err(Fault::from);
        }
        let name = name.unwrap_or("runc");
        if !name.contains(['.', '/']) {
            return Err(Fault::new(Class::Invalid, format!("runtime {name} is not configured"))
                .help(format!("add [runtimes.{name}] with its path to the configuration")));
        }
        crate::runtime::shim_binary_for(Some(name), &self.config().shim_path())
            .map(Runner::Foreign)
            .map_err(Fault::from)
    }

    /// What containerd's shim for runc (`containerd-shim-runc-v2`) is told; others have options of their own.
    pub(super) fn runc_options(&self, shim: &Path) -> Result<Option<RuncOptions>> {
        let name = shim.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.starts_with("containerd-shim-runc-") {
            return Ok(None);
        }
        let binary = crate::runtime::host::find_runc(self.config().runtime(None)).map_err(Fault::from)?;
        // The shim adds the namespace.
        let root = self.config().state.join("runtime");
        Ok(Some(RuncOptions { binary, root, systemd_cgroup: self.uses_systemd_cgroups() }))
    }

    /// runc's `--root`: ids are unique within a namespace only.
    pub(super) fn runtime_root(&self, namespace: &str) -> PathBuf {
        self.config().state.join("runtime").join(namespace)
    }

    pub(super) fn cgroup_driver(&self) -> CgroupDriver {
        match self.config().cgroup.driver {
            crate::config::CgroupDriver::Auto => CgroupDriver::auto(&self.host),
            crate::config::CgroupDriver::Cgroupfs => CgroupDriver::Cgroupfs,
            crate::config::CgroupDriver::Systemd => CgroupDriver::Systemd,
        }
    }

    /// Whether systemd makes the cgroups.
    pub fn uses_systemd_cgroups(&self) -> bool {
        self.cgroup_driver() == CgroupDriver::Systemd
    }

    pub(super) fn cgroup_path(&self, namespace: &str, name: &str) -> Result<CgroupPath> {
        CgroupPath::new(&self.config().cgroup_parent(), namespace, name).map_err(Fault::from)
    }
}
