//! Credential helpers: `docker-credential-NAME get|store|erase`, as docker-credential-helpers defines them.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Credentials;

/// How long a helper may think.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of its answer that are read.
const MAX_ANSWER: u64 = 256 << 10;

/// What the helper has for a server.
pub async fn get(name: &str, server: &str) -> Result<Option<Credentials>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let Some(output) = run(name, "get", server).await? else { return Ok(None) };
    let answer: Answer = serde_json::from_slice(&output)
        .map_err(|_| format!("docker-credential-{name} answered something other than credentials"))?;
    Ok(match answer.username.as_str() {
        "<token>" => Some(Credentials::IdentityToken(answer.secret)),
        "" => None,
        _ => Some(Credentials::Password { user: answer.username, password: answer.secret }),
    })
}

/// Has the helper keep credentials.
pub async fn store(name: &str, server: &str, user: &str, password: &str) -> Result<(), String> {
    let input = serde_json::json!({"ServerURL": server, "Username": user, "Secret": password}).to_string();
    run(name, "store", &input).await.map(drop)
}

/// Has it forget them. Whether it had any.
pub async fn erase(name: &str, server: &str) -> Result<bool, String> {
    run(name, "erase", server).await.map(|done| done.is_some())
}

/// What the helper answers; `None` when it has nothing.
async fn run(name: &str, verb: &str, input: &str) -> Result<Option<Vec<u8>>, String> {
    if name.is_empty() || name.contains('/') {
        return Err(format!("{name:?} is not the name of a credential helper"));
    }
    let program = format!("docker-credential-{name}");
    let mut child = tokio::process::Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("{program}: {e}"))?;
    let talk = async {
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read its input fails by what it answers.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let mut answer = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        }
        if answer.len() as u64 == MAX_ANSWER {
            return Err(std::io::Error::other("it answers without an end"));
        }
        Ok((child.wait().await?, answer))
    };
    let (status, answer) = tokio::time::timeout(TIMEOUT, talk)
        .await
        .map_err(|_| format!("{program} did not answer within {} s", TIMEOUT.as_secs()))?
        .map_err(|e| format!("{program}: {e}"))?;
    if status.success() {
        return Ok(Some(answer));
    }
    // What fails says on its standard output why; a secret is there only when it does not.
    let said = String::from_utf8_lossy(&answer);
    if said.contains("credentials not found") {
        return Ok(None);
    }
    let said: String =
        said.trim().lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect();
    let said = if said.is_empty() { said } else { format!(": {said}") };
    Err(format!("{program} {verb} ended with {status}{said}"))
}
