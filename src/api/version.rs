//! What this build is, and what it stands on.

use std::path::Path;
use std::process::Command;

use super::Version;
use crate::config::Config;
use crate::manifest::API_VERSION;
use crate::oci::Platform;

impl Version {
    /// Of this binary, the runtime it would use (asked by executing it) and the running kernel.
    pub fn here(config: Option<&Config>) -> Self {
        let path = config.and_then(|config| config.runtime(None)).unwrap_or(Path::new("runc"));
        let output = Command::new(path).arg("--version").output().ok().filter(|output| output.status.success());
        let runtime =
            output.and_then(|output| Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned()));
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: option_env!("BAYPLAN_COMMIT").unwrap_or_default().into(),
            api_version: API_VERSION.into(),
            platform: Platform::host().to_string(),
            runtime_path: runtime.as_ref().map(|_| path.to_owned()),
            runtime,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        }
    }
}
