//! What a configuration of the right shape may still have wrong.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Config, VERSION};
use crate::manifest::Quantity;

/// A setting that cannot be used. `key` is dotted: `controller.debounce`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which setting.
    pub key: String,
    /// Why it cannot be used.
    pub message: String,
    /// What to write.
    pub help: String,
}

impl Config {
    /// All that is wrong with the values; empty when the configuration can be used. Reads nothing.
    pub fn check(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut refuse = |key: &str, wrong: bool, message: String, help: &str| {
            if wrong {
                findings.push(Finding { key: key.into(), message, help: help.into() });
            }
        };
        refuse(
            "version",
            self.version != VERSION,
            format!("version {} of the configuration is not known", self.version),
            "this bayplan reads version = 1",
        );
        for (key, path) in [("root", &self.root), ("state", &self.state), ("manifests", &self.manifests)] {
            refuse(key, path.as_os_str().is_empty(), format!("{key} is empty"), "give an absolute path");
            refuse(key, path.to_str().is_none(), format!("{key} is not UTF-8"), "give a path of UTF-8 characters");
        }
        refuse(
            "state",
            self.root == self.state,
            format!("state and root are both {}", self.root.display()),
            "state is lost at reboot and root is kept: give each its own directory",
        );
        for (key, inner) in [("root", &self.root), ("state", &self.state)] {
            refuse(
                key,
                !self.manifests.as_os_str().is_empty() && inner.starts_with(&self.manifests),
                format!("{key} {} is inside the manifest directory {}", inner.display(), self.manifests.display()),
                "what bayplan writes would be read back as manifests: move one of them",
            );
        }
        let address = self.address();
        refuse(
            "address",
            // A longer path is reached through its directory's descriptor; the name alone, with a process id, must fit the
            // 108 bytes of sockaddr_un, unix(7).
            address.file_name().is_some_and(|name| name.as_bytes().len() > 64),
            format!("the name of the socket {} is longer than 64 bytes", address.display()),
            "give its file a shorter name; the directory's path may be of any length",
        );
        let parent = self.cgroup.parent.as_deref().unwrap_or("/bayplan");
        refuse(
            "cgroup.parent",
            parent == "/"
                || parent.split('/').any(|part| part == "..")
                || !(parent.starts_with('/') || parent.ends_with(".slice")),
            format!("cgroup.parent {parent:?} is not a path below the cgroup root, nor a slice"),
            "write it as /bayplan, or as bayplan.slice for systemd",
        );
        for (name, runtime) in &self.runtimes {
            refuse(
                &format!("runtimes.{name}.path"),
                runtime.path.as_os_str().is_empty()
                    || (runtime.path.components().count() > 1 && !runtime.path.is_absolute()),
                format!("the runtime {name} has the path {:?}, neither absolute nor a plain name", runtime.path),
                "give an absolute path, or a name to look up in PATH",
            );
        }
        for host in &self.registry.plain_http {
            refuse(
                "registry.plain_http",
                host.is_empty() || host.contains('/') || host.contains(char::is_whitespace),
                format!("{host:?} is not a registry host"),
                "write host or host:port, without a scheme or path",
            );
        }
        refuse(
            "registry.certs_dir",
            self.registry.certs_dir.as_os_str().is_empty(),
            "registry.certs_dir is empty".into(),
            "give an absolute path; the directory may be missing",
        );
        let controller = &self.controller;
        refuse(
            "registry.max_concurrent_downloads",
            !(1..=64).contains(&self.registry.max_concurrent_downloads),
            format!("{} concurrent downloads are out of range", self.registry.max_concurrent_downloads),
            "give 1 to 64",
        );
        refuse(
            "registry.max_concurrent_downloads_per_host",
            !(1..=64).contains(&self.registry.max_concurrent_downloads_per_host),
            format!("{} concurrent downloads are out of range", self.registry.max_concurrent_downloads_per_host),
            "give 1 to 64",
        );
        refuse(
            "layers.max_size",
            self.layers.max_size < Quantity::mebibytes(1),
            format!("layers of {} bytes hold no image", self.layers.max_size),
            "give a size such as 64Gi",
        );
        refuse(
            "controller.debounce",
            controller.debounce.duration().as_millis() > 10_000,
            format!("a debounce of {} is longer than 10s", controller.debounce),
            "the default is 50ms",
        );
        refuse(
            "controller.poll",
            controller.poll.duration().as_millis() < 100,
            format!("a poll every {} is more often than every 100ms", controller.poll),
            "the default is 10s",
        );
        refuse(
            "controller.workers",
            controller.workers > 1024,
            format!("{} workers are more than 1024", controller.workers),
            "0 chooses by the number of processors",
        );
        refuse(
            "controller.pulls",
            !(1..=64).contains(&controller.pulls),
            format!("{} pulls side by side are out of range", controller.pulls),
            "give 1 to 64",
        );
        refuse(
            "controller.backoff_initial",
            controller.backoff_initial.duration().is_zero() || controller.backoff_initial > controller.backoff_max,
            format!("a back-off from {} to {} does not grow", controller.backoff_initial, controller.backoff_max),
            "backoff_initial must be above zero and no longer than backoff_max",
        );
        refuse(
            "gc.high_watermark",
            self.gc.high_watermark > 100,
            format!("a high_watermark of {} is no percentage", self.gc.high_watermark),
            "give 1 to 100, or 0 to leave unused images alone however full the disk is",
        );
        refuse(
            "gc.low_watermark",
            self.gc.high_watermark > 0 && self.gc.low_watermark > self.gc.high_watermark,
            format!(
                "a low_watermark of {} is above the high_watermark of {}",
                self.gc.low_watermark, self.gc.high_watermark
            ),
            "collecting begins at the high one and ends below the low one",
        );
        refuse(
            "events.keep",
            !(1..=1_000_000).contains(&self.events.keep),
            format!("{} events kept is out of range", self.events.keep),
            "give 1 to 1000000",
        );
        refuse(
            "shim.oom_score_adj",
            !(-1000..=1000).contains(&self.shim.oom_score_adj),
            format!("an oom_score_adj of {} is out of range", self.shim.oom_score_adj),
            "give -1000 (never killed) to 1000 (killed first), proc(5)",
        );
        findings
    }

    /// Makes every path absolute against the working directory, without resolving links.
    pub(super) fn make_absolute(&mut self) {
        let absolute = |path: &mut std::path::PathBuf| {
            if let Ok(full) = std::path::absolute(Path::new(path)) {
                *path = full;
            }
        };
        [&mut self.root, &mut self.state, &mut self.manifests].into_iter().for_each(absolute);
        [&mut self.address, &mut self.log_dir, &mut self.shim.path].into_iter().flatten().for_each(absolute);
        self.registry.auth_files.iter_mut().for_each(absolute);
        self.registry.pull_secrets.values_mut().for_each(absolute);
        absolute(&mut self.registry.certs_dir);
    }
}
