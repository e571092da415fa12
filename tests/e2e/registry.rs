//! A real registry, Debian's docker-registry, on a free loopback port.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::image::Image;
use crate::wait::eventually;

/// Runs until it is dropped.
pub struct TestRegistry {
    dir: TempDir,
    child: Child,
    port: u16,
    login: Option<(String, String)>,
}

impl TestRegistry {
    /// Anybody may read and write.
    pub fn new() -> Self {
        Self::start(None, false)
    }

    /// Basic authentication.
    pub fn with_login(user: &str, password: &str) -> Self {
        Self::start(Some((user.into(), password.into())), false)
    }

    /// The same over TLS, by a certificate that nobody trusts.
    pub fn with_tls(user: &str, password: &str) -> Self {
        Self::start(Some((user.into(), password.into())), true)
    }

    fn start(login: Option<(String, String)>, tls: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("registry-").tempdir_in("/tmp").unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let certificate = dir.path().join("certificate.pem");
        let mut secured = String::new();
        if tls {
            let output = Command::new("openssl")
                .args([
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:prime256v1",
                    "-nodes",
                    "-days",
                    "2",
                ])
                .args(["-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
                .arg(dir.path().join("key.pem"))
                .arg("-out")
                .arg(&certificate)
                .output()
                .expect("openssl");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let key = dir.path().join("key.pem");
            secured = format!(", tls: {{certificate: {}, key: {}}}", certificate.display(), key.display());
        }
        let mut config = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: '127.0.0.1:{port}'{secured}}}\n",
            dir.path().join("data").display()
        );
        if let Some((user, password)) = &login {
            let file = dir.path().join("htpasswd");
            let output = Command::new("htpasswd").args(["-Bbn", user, password]).output().expect("apache2-utils");
            fs::write(&file, output.stdout).unwrap();
            config += &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display());
        }
        fs::write(dir.path().join("config.yml"), config).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("docker-registry is installed");
        let registry = Self { dir, child, port, login };
        eventually("the registry listens", 20, || TcpStream::connect(("127.0.0.1", port)).ok());
        registry
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `127.0.0.1:PORT/NAME`.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// Pushes an image with skopeo and gives its full reference.
    pub fn push(&self, image: &Image, name: &str) -> String {
        let archive = self.dir.path().join("push.tar");
        image.oci_archive(&archive, None);
        let reference = self.reference(name);
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        if let Some((user, password)) = &self.login {
            command.args(["--dest-creds", &format!("{user}:{password}")]);
        }
        let output = command
            .arg(format!("oci-archive:{}", archive.display()))
            .arg(format!("docker://{reference}"))
            .output()
            .expect("skopeo is installed");
        assert!(output.status.success(), "skopeo: {}", String::from_utf8_lossy(&output.stderr));
        reference
    }

    /// How many successful GETs of a blob there were, by hex digest.
    pub fn fetches(&self, hex: &str) -> usize {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().filter(|line| line.contains("\"GET /v2/") && line.contains(hex) && line.contains("\" 200 ")).count()
    }

    /// How many uploads of a blob to a repository it finished, by hex digest.
    pub fn uploads(&self, repository: &str, hex: &str) -> usize {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let begin = format!("\"PUT /v2/{repository}/blobs/uploads/");
        log.lines().filter(|line| line.contains(&begin) && line.contains(hex) && line.contains("\" 201 ")).count()
    }

    /// The digest of the manifest or index that a reference names, all of whose blobs are there.
    pub fn digest(&self, reference: &str) -> String {
        let copy = self.dir.path().join("copy");
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--preserve-digests", "--src-tls-verify=false"])
            .arg(format!("docker://{reference}"))
            .arg(format!("dir:{}", copy.display()))
            .output()
            .expect("skopeo is installed");
        assert!(output.status.success(), "skopeo: {}", String::from_utf8_lossy(&output.stderr));
        let manifest = fs::read(copy.join("manifest.json")).unwrap();
        fs::remove_dir_all(copy).unwrap();
        bayplan::oci::Digest::of(&manifest).as_str().to_owned()
    }

    /// How many requests it saw.
    pub fn requests(&self) -> usize {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().filter(|line| line.contains(" /v2/") && line.contains(" HTTP/1.1\" ")).count()
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
