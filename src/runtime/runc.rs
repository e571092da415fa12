//! `runc` called by the engine itself: in-place updates of limits. All else of it is the shim's.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::RuntimeError;

/// An update writes a few cgroup files.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(15);

/// Changes the limits of a container that exists (see [`super::spec::resources`]).
/// `root` is runc's `--root` and `id` the container's id in it.
pub async fn update_resources(
    runc: &Path,
    root: &Path,
    id: &str,
    resources: &LinuxResources,
    systemd_cgroup: bool,
) -> Result<(), RuntimeError> {
    let json = serde_json::to_vec(resources)
        .map_err(|source| RuntimeError::Json { what: format!("limits of {id}"), source })?;
    let mut command = Command::new(runc);
    command.arg("--root").arg(root);
    if systemd_cgroup {
        command.arg("--systemd-cgroup");
    }
    command.args(["update", "--resources", "-", id]).env_remove("NOTIFY_SOCKET");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let run = async {
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A runc that ends without reading says why on its standard error.
            let _ = stdin.write_all(&json).await;
        }
        child.wait_with_output().await
    };
    let output = timeout(UPDATE_TIMEOUT, run)
        .await
        .map_err(|_| RuntimeError::TimedOut { object: id.to_owned(), what: "runc update", after: UPDATE_TIMEOUT })?
        .map_err(|error| RuntimeError::io("running", runc, error))?;
    if output.status.success() {
        return Ok(());
    }
    let message = message_of(&output.stderr).unwrap_or_else(|| output.status.to_string());
    Err(RuntimeError::Runc { command: "update", object: id.to_owned(), message })
}

/// The last thing said on a standard error: of `runc`'s log format only the message, shortened.
pub(super) fn message_of(stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    let message = match line.split_once("msg=\"") {
        Some((_, quoted)) => quoted.strip_suffix('"').unwrap_or(quoted).replace("\\\"", "\""),
        None => line.to_owned(),
    };
    Some(message.chars().take(1000).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_failed_runc_is_what_it_logged_last() {
        for (stderr, expected) in [
            ("", None),
            ("plain\n\n", Some("plain")),
            (
                "time=\"2026-01-01T00:00:00Z\" level=warning msg=\"first\"\n\
                 time=\"2026-01-01T00:00:00Z\" level=error msg=\"container \\\"x\\\" does not exist\"\n",
                Some("container \"x\" does not exist"),
            ),
        ] {
            assert_eq!(message_of(stderr.as_bytes()).as_deref(), expected);
        }
    }

    #[tokio::test]
    async fn an_update_of_no_container_says_so() {
        let Ok(runc) = crate::runtime::host::find_runc(None) else { return };
        let root = tempfile::tempdir().unwrap();
        let error = update_resources(&runc, root.path(), "ghost", &LinuxResources::default(), false).await.unwrap_err();
        assert_eq!(error.to_string(), "runc update of ghost: container does not exist");
    }
}
