//! `login` and `logout`: the real binary against Debian's docker-registry with htpasswd.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A registry that knows one user, and a directory for everything else.
struct Place {
    registry: Child,
    host: String,
    dir: tempfile::TempDir,
}

/// What a command line did.
struct Ran {
    status: i32,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new("htpasswd").args(["-Bbn", "admin", "pass:word"]).output().expect("apache2-utils");
        std::fs::write(dir.path().join("htpasswd"), made.stdout).unwrap();
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let text = format!(
                "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {0}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n\
                 auth: {{htpasswd: {{realm: test, path: {0}/htpasswd}}}}\n",
                dir.path().display()
            );
            std::fs::write(dir.path().join("config.yml"), text).unwrap();
            let mut registry = Command::new("docker-registry")
                .arg("serve")
                .arg(dir.path().join("config.yml"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("docker-registry");
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline && registry.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    std::fs::write(dir.path().join("bayplan.toml"), "version = 1\n").unwrap();
                    return Self { registry, host: format!("127.0.0.1:{port}"), dir };
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = registry.kill();
            let _ = registry.wait();
        }
        panic!("docker-registry does not start");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a line with this on standard input. `auth.json` of the directory is what pulls search first.
    fn run(&self, line: &[&str], input: &str) -> Ran {
        let path = format!("{}:{}", self.dir.path().display(), std::env::var("PATH").unwrap());
        let mut child = Command::new(env!("CARGO_BIN_EXE_bayplan"))
            .arg("--config")
            .arg(self.path("bayplan.toml"))
            .args(line)
            .env_clear()
            .env("PATH", path)
            .env("REGISTRY_AUTH_FILE", self.path("auth.json"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).replace(&self.host, "HOST");
            text.replace(&self.dir.path().display().to_string(), "DIR")
        };
        Ran { status: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    fn login(&self, password: &str) -> Ran {
        self.run(&["login", "-u", "admin", "--password-stdin", &self.host], password)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.registry.kill();
        let _ = self.registry.wait();
    }
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn credentials_are_stored_only_after_the_registry_took_them_and_skopeo_reads_them_back() {
    let place = Place::new();
    let wrong = place.login("wrong\n");
    assert_eq!((wrong.status, place.path("auth.json").exists()), (6, false), "{}", wrong.err);
    assert!(wrong.err.contains("HOST refuses the credentials: 401") && !wrong.err.contains("wrong"), "{}", wrong.err);

    std::fs::write(place.path("auth.json"), r#"{"auths": {"x.local": {"auth": "eDp5"}}, "other": 1}"#).unwrap();
    let right = place.login("pass:word\n");
    assert_eq!((right.status, &*right.out, &*right.err), (0, "HOST: logged in as admin, kept in DIR/auth.json\n", ""));
    assert_eq!(std::fs::metadata(place.path("auth.json")).unwrap().permissions().mode() & 0o777, 0o600);
    let document = json(&place.path("auth.json"));
    assert_eq!((&document["other"], &document["auths"]["x.local"]["auth"]), (&1.into(), &"eDp5".into()));
    let skopeo = Command::new("skopeo")
        .args(["login", "--get-login", "--authfile"])
        .arg(place.path("auth.json"))
        .arg(&place.host)
        .output()
        .expect("skopeo");
    assert_eq!(String::from_utf8_lossy(&skopeo.stdout).trim(), "admin");

    let out = place.run(&["logout", &place.host], "");
    assert_eq!((out.status, &*out.out), (0, "HOST: credentials removed from DIR/auth.json\n"));
    assert!(json(&place.path("auth.json"))["auths"].get(&place.host).is_none());
    assert_eq!(place.run(&["logout", &place.host], "").status, 4);
    assert_eq!(place.run(&["logout", "--all"], "").out, "DIR/auth.json: emptied, it had 1\n");
}

#[test]
fn a_credential_helper_that_the_file_names_keeps_and_forgets_them() {
    let place = Place::new();
    let script = "#!/bin/sh\ncat > \"$0.$1\"\n";
    std::fs::write(place.path("docker-credential-test"), script).unwrap();
    std::fs::set_permissions(place.path("docker-credential-test"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = format!(r#"{{"credHelpers": {{"{}": "test"}}}}"#, place.host);
    std::fs::write(place.path("auth.json"), text).unwrap();
    let ran = place.login("pass:word");
    assert_eq!(
        ran.out, "HOST: logged in as admin, kept in docker-credential-test, as DIR/auth.json says\n",
        "{}",
        ran.err
    );
    let kept = json(&place.path("docker-credential-test.store"));
    assert_eq!((&kept["Username"], &kept["Secret"]), (&"admin".into(), &"pass:word".into()));
    assert!(!std::fs::read_to_string(place.path("auth.json")).unwrap().contains("YWRtaW46"), "it is in the file, too");
    assert_eq!(place.run(&["logout", &place.host], "").status, 0);
    assert_eq!(std::fs::read_to_string(place.path("docker-credential-test.erase")).unwrap(), place.host);
}

#[test]
fn without_a_terminal_nobody_is_asked() {
    let place = Place::new();
    let ran = place.run(&["login", &place.host], "");
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("no terminal") && ran.err.contains("--password-stdin HOST"), "{}", ran.err);
    let ran = place.run(&["login", "-u", "a", "--password-stdin", "https://host/with/path"], "x");
    assert!(ran.status == 2 && ran.err.contains("is not a registry host"), "{}", ran.err);
    let other = place.path("elsewhere.json");
    let ran = place.run(
        &["login", "-u", "admin", "--password-stdin", "--authfile", other.to_str().unwrap(), &place.host],
        "pass:word",
    );
    assert!(ran.status == 0 && ran.err.contains("pulls do not search DIR/elsewhere.json"), "{}", ran.err);
    // As pull takes it; what is given need not be asked for.
    let ran = place.run(&["login", "-u", "admin:pass:word", &place.host], "");
    assert_eq!((ran.status, &*ran.out), (0, "HOST: logged in as admin, kept in DIR/auth.json\n"), "{}", ran.err);
    assert_eq!(place.run(&["login", "-u", "admin:pass:word", "--password-stdin", &place.host], "x").status, 2);
}
