//! A private authority, made by openssl, and the certificates it signs.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The authority; its files end with it.
pub struct Authority(tempfile::TempDir);

impl Authority {
    pub fn new() -> Self {
        Self::named("private authority")
    }

    pub fn named(name: &str) -> Self {
        let authority = Self(tempfile::tempdir().unwrap());
        let subject = format!("/CN={name}");
        authority.openssl(&["req", "-x509", "-subj", &subject, "-days", "2", "-out", "ca.pem"], "ca");
        authority
    }

    /// Its own certificate.
    pub fn ca(&self) -> PathBuf {
        self.0.path().join("ca.pem")
    }

    /// A certificate and its key: for `subjectAltName` if there is one, else for a client.
    pub fn sign(&self, name: &str, alternatives: Option<&str>) -> (PathBuf, PathBuf) {
        let (request, certificate) = (format!("{name}.csr"), format!("{name}.pem"));
        self.openssl(&["req", "-new", "-subj", &format!("/CN={name}"), "-out", &request], name);
        let extensions = match alternatives {
            Some(names) => format!("subjectAltName={names}\nextendedKeyUsage=serverAuth\n"),
            None => "extendedKeyUsage=clientAuth\n".into(),
        };
        std::fs::write(self.0.path().join("ext"), format!("basicConstraints=CA:FALSE\n{extensions}")).unwrap();
        let sign = ["x509", "-req", "-in", &request, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
        run(self.0.path(), &[&sign[..], &["-days", "2", "-extfile", "ext", "-out", &certificate]].concat());
        (self.0.path().join(certificate), self.0.path().join(format!("{name}.key")))
    }

    /// `tls: {…}` for docker-registry.
    pub fn docker_registry(&self, names: &str, asks_clients: bool) -> String {
        let (certificate, key) = self.sign("server", Some(names));
        let clients = if asks_clients { format!(", clientcas: [{}]", self.ca().display()) } else { String::new() };
        format!(", tls: {{certificate: {}, key: {}{clients}}}", certificate.display(), key.display())
    }

    /// openssl with a new key of its own for `name`.
    fn openssl(&self, arguments: &[&str], name: &str) {
        let key = format!("{name}.key");
        let new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", &key];
        run(self.0.path(), &[arguments, &new[..]].concat());
    }
}

fn run(dir: &Path, arguments: &[&str]) {
    let out = Command::new("openssl").current_dir(dir).args(arguments).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
