//! Where the streams of a foreign shim's task go: through a logger of ours, by containerd's logging URIs, which outlives
//! the daemon; or straight into the FIFOs of a command in the foreground.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::ForeignShim;
use crate::runtime::Stdio;
use crate::shim::protocol::Supervision;

/// The streams of one attempt.
pub(super) fn of_attempt(shim: &ForeignShim, supervision: &Supervision, attempt: u32) -> Stdio {
    // A command in the foreground that went away took its FIFOs along; a restart goes on without.
    let there = |path: &Option<PathBuf>| path.clone().filter(|path| is_uri(path) || path.exists());
    let asked = Stdio {
        stdin: there(&shim.stdio.stdin),
        stdout: there(&shim.stdio.stdout),
        stderr: there(&shim.stdio.stderr),
        terminal: shim.stdio.terminal,
    };
    // Shims give no standard input to a task with a logger, and a URI of the caller's own is its wish.
    let own = [&asked.stdout, &asked.stderr].into_iter().flatten().any(|path| is_uri(path));
    let Some(dir) = supervision.log_dir.as_deref().filter(|_| asked.stdin.is_none() && !own) else { return asked };
    let mut uri = b"binary://".to_vec();
    escape(&mut uri, shim.logger.as_os_str().as_bytes());
    let mut separator = b'?';
    let mut pair = |key: &str, value: &[u8]| {
        uri.push(separator);
        separator = b'&';
        uri.extend_from_slice(key.as_bytes());
        uri.push(b'=');
        escape(&mut uri, value);
    };
    pair("log", dir.as_os_str().as_bytes());
    pair("attempt", attempt.to_string().as_bytes());
    pair("size", supervision.log_max_size.to_string().as_bytes());
    pair("files", supervision.log_max_files.to_string().as_bytes());
    for (key, path) in [("out", &asked.stdout), ("err", &asked.stderr)] {
        if let Some(path) = path {
            pair(key, path.as_os_str().as_bytes());
        }
    }
    let uri = PathBuf::from(String::from_utf8_lossy(&uri).into_owned());
    Stdio { stdin: None, stderr: (!asked.terminal).then(|| uri.clone()), stdout: Some(uri), terminal: asked.terminal }
}

fn is_uri(path: &Path) -> bool {
    path.to_string_lossy().contains("://")
}

/// Percent-encodes what may not stand in a path or value of a URI (RFC 3986).
fn escape(uri: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => uri.push(*byte),
            other => uri.extend_from_slice(format!("%{other:02X}").as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::protocol::{Policy, Restart};

    fn shim(stdio: Stdio) -> ForeignShim {
        ForeignShim {
            version: 1,
            binary: "/usr/bin/containerd-shim-runc-v2".into(),
            address: "/run/bayplan/bayplan.sock".into(),
            logger: "/opt/a b/bayplan-shim".into(),
            runc: None,
            mounts: Vec::new(),
            stdio,
            cgroups: Vec::new(),
            in_a_row: 0,
        }
    }

    fn supervision() -> Supervision {
        Supervision {
            version: 1,
            runtime: "/usr/bin/containerd-shim-runc-v2".into(),
            runtime_root: "/run/bayplan/runtime/shop".into(),
            systemd_cgroup: false,
            restart: Restart { policy: Policy::Always, limit: None, initial_ms: 10, max_ms: 1000 },
            log_dir: Some("/var/log/bayplan/shop/web&co".into()),
            log_max_size: 10 << 20,
            log_max_files: 5,
            first_attempt: 1,
            restarts: 0,
            oom_score_adj: None,
            runtime_timeout_ms: None,
            stop_signal: None,
            grace_ms: None,
            stdin: false,
            reader_patience_ms: None,
        }
    }

    #[test]
    fn output_goes_through_a_logger_of_ours() {
        let got = of_attempt(&shim(Stdio::default()), &supervision(), 3);
        let uri = "binary:///opt/a%20b/bayplan-shim?log=/var/log/bayplan/shop/web%26co&attempt=3&size=10485760&files=5";
        let uri = Some(PathBuf::from(uri));
        assert_eq!(got, Stdio { stdin: None, stdout: uri.clone(), stderr: uri, terminal: false });
    }

    #[test]
    fn fifos_are_the_loggers_to_fill_unless_there_is_something_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("out");
        std::fs::write(&fifo, "").unwrap();
        let asked = Stdio { stdout: Some(fifo.clone()), ..Stdio::default() };
        let got = of_attempt(&shim(asked.clone()), &supervision(), 1);
        assert!(got.stdout.unwrap().to_string_lossy().ends_with(&format!("&out={}", fifo.display())));
        let both = Stdio { stdin: Some(fifo.clone()), ..asked };
        assert_eq!(of_attempt(&shim(both.clone()), &supervision(), 1), both);
        // The command has gone: on without it.
        std::fs::remove_file(&fifo).unwrap();
        let got = of_attempt(&shim(both), &supervision(), 2);
        assert!(got.stdin.is_none() && got.stdout.unwrap().to_string_lossy().ends_with("files=5"));
    }

    #[test]
    fn a_uri_of_the_callers_own_is_left_alone() {
        let asked = Stdio { stdout: Some("file:///x".into()), ..Stdio::default() };
        assert_eq!(of_attempt(&shim(asked.clone()), &supervision(), 1), asked);
    }
}
