//! Private authorities and client certificates, by Debian's docker-registry and certificates of openssl's.

use std::path::Path;

use super::certificates::Authority;
use super::fixture::{Blobs, LayerTar};
use super::registry::{Node, Registry};
use crate::image::{Descriptor, PullOptions, RegistryConfig};

fn options() -> PullOptions {
    PullOptions { platform: "linux/amd64".parse().unwrap(), ..PullOptions::default() }
}

/// A registry over TLS that holds `lab/app:1`.
fn registry(authority: &Authority, asks_clients: bool) -> (Registry, Descriptor) {
    let registry = Registry::start_with(None, &authority.docker_registry("IP:127.0.0.1", asks_clients));
    let dir = tempfile::tempdir().unwrap();
    let mut blobs = Blobs::default();
    let image = blobs.image("amd64", &[LayerTar::new().file("a", b"1").done()]);
    blobs.layout(dir.path(), &[("x", &image)]);
    let client = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.sign("pusher", None);
    std::fs::copy(authority.ca(), client.path().join("ca.crt")).unwrap();
    std::fs::copy(certificate, client.path().join("client.cert")).unwrap();
    std::fs::copy(key, client.path().join("client.key")).unwrap();
    registry.push(dir.path(), "x", "lab/app:1", &["--dest-cert-dir", &client.path().display().to_string()]);
    (registry, image)
}

fn node(certs: &Path) -> Node {
    Node::new(RegistryConfig { certs_dir: certs.into(), ..RegistryConfig::for_tests() })
}

#[test]
fn a_private_authority_is_trusted_by_hosts_toml_or_by_dockers_files_and_without_a_restart() {
    let authority = Authority::new();
    let (registry, image) = registry(&authority, false);
    let certs = tempfile::tempdir().unwrap();
    let node = node(certs.path());
    let name = format!("{}/lab/app:1", registry.host);
    node.pull(&name, &options()).unwrap_err();

    // Docker's layout, in the folder's spelling with underscores.
    let dir = certs.path().join(registry.host.replace(':', "_") + "_");
    std::fs::create_dir(&dir).unwrap();
    std::fs::copy(authority.ca(), dir.join("any.crt")).unwrap();
    assert_eq!(node.pull(&name, &options()).unwrap().target.digest, image.digest);

    // hosts.toml takes its place; the name is relative to it.
    std::fs::write(dir.join("hosts.toml"), "ca = \"other.pem\"\n").unwrap();
    let error = node.images.clone();
    let text = node.runtime.block_on(error.resolve(&name.parse().unwrap(), &options())).unwrap_err().to_string();
    assert!(text.contains("other.pem: No such file"), "{text}");
    std::fs::copy(authority.ca(), dir.join("other.pem")).unwrap();
    node.runtime.block_on(node.images.resolve(&name.parse().unwrap(), &options())).unwrap();

    // skip_verify instead of an authority.
    std::fs::write(dir.join("hosts.toml"), "skip_verify = true\n").unwrap();
    node.runtime.block_on(node.images.resolve(&name.parse().unwrap(), &options())).unwrap();
}

#[test]
fn a_certificate_is_shown_to_a_registry_that_asks_for_one() {
    let authority = Authority::new();
    let (registry, image) = registry(&authority, true);
    let certs = tempfile::tempdir().unwrap();
    let node = node(certs.path());
    let name = format!("{}/lab/app:1", registry.host);
    let dir = certs.path().join(&registry.host);
    std::fs::create_dir(&dir).unwrap();
    let ca = format!("ca = [\"{}\"]\n", authority.ca().display());
    std::fs::write(dir.join("hosts.toml"), &ca).unwrap();
    let fault = crate::error::Fault::from(node.pull(&name, &options()).unwrap_err());
    assert!(fault.message.contains("asks for a client certificate"), "{fault:?}");

    let (certificate, key) = authority.sign("node", None);
    let pair = format!("{ca}client = [[\"{}\", \"{}\"]]\n", certificate.display(), key.display());
    std::fs::write(dir.join("hosts.toml"), &pair).unwrap();
    assert_eq!(node.pull(&name, &options()).unwrap().target.digest, image.digest);

    // Both in one file.
    let both = [std::fs::read(&certificate).unwrap(), std::fs::read(&key).unwrap()].concat();
    std::fs::write(dir.join("both.pem"), both).unwrap();
    std::fs::write(dir.join("hosts.toml"), format!("{ca}client = \"both.pem\"\n")).unwrap();
    node.runtime.block_on(node.images.resolve(&name.parse().unwrap(), &options())).unwrap();
    // A key that is none is named and not shown.
    std::fs::write(dir.join("both.pem"), "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n").unwrap();
    let resolved = node.runtime.block_on(node.images.resolve(&name.parse().unwrap(), &options()));
    let text = resolved.unwrap_err().to_string();
    assert!(text.contains("both.pem does not hold both") && !text.contains("c2VjcmV0"), "{text}");
}

/// What is shown is known by its registry: two of different authorities, and each client may have both.
#[test]
fn of_several_certificates_the_one_is_shown_whose_authority_the_registry_trusts() {
    let (here, there) = (Authority::new(), Authority::named("another authority"));
    let (registry, image) = registry(&here, true);
    let certs = tempfile::tempdir().unwrap();
    let node = node(certs.path());
    let name = format!("{}/lab/app:1", registry.host);
    let dir = certs.path().join(&registry.host);
    std::fs::create_dir(&dir).unwrap();
    let pairs = [there.sign("node", None), here.sign("node", None)];
    let client = pairs.each_ref().map(|(certificate, key)| format!("[{certificate:?}, {key:?}]")).join(", ");
    let text = |trust: &str| format!("{trust}\nclient = [{client}]\n");
    std::fs::write(dir.join("hosts.toml"), text(&format!("ca = {:?}", here.ca()))).unwrap();
    assert_eq!(node.pull(&name, &options()).unwrap().target.digest, image.digest);
    // The same where the registry itself is trusted whoever it is.
    std::fs::write(dir.join("hosts.toml"), text("skip_verify = true")).unwrap();
    node.runtime.block_on(node.images.resolve(&name.parse().unwrap(), &options())).unwrap();

    // Docker's files, of which there may be several pairs, too.
    std::fs::remove_file(dir.join("hosts.toml")).unwrap();
    std::fs::copy(here.ca(), dir.join("ca.crt")).unwrap();
    for (file, (certificate, key)) in ["a", "b"].into_iter().zip(&pairs) {
        std::fs::copy(certificate, dir.join(file).with_extension("cert")).unwrap();
        std::fs::copy(key, dir.join(file).with_extension("key")).unwrap();
    }
    node.runtime.block_on(node.images.resolve(&name.parse().unwrap(), &options())).unwrap();
}
