//! Texts that people and registries write: references, hosts.toml, auth.json, manifests.

use std::collections::BTreeSet;
use std::path::Path;

use bayplan::image::document::{self, Document, MAX_LAYERS};
use bayplan::image::registry::credentials::AuthFile;
use bayplan::image::{Descriptor, registry::hosts};
use bayplan::oci::{Reference, ReferenceError};
use serde_json::json;

use super::Target;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn nothing(_: &mut [u8]) {}

fn owned(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// Names of images: what is printed is read back as the same, and nothing of a name leads anywhere.
pub const REFERENCE: Target = Target {
    name: "reference",
    seeds: || {
        let pinned = format!("[::1]:5000/app@{DIGEST}");
        owned(&["docker.io/library/nginx:1.27", "localhost:5000/a/b__c-d.e", "nginx", "team/app:1", &pinned])
    },
    words: &[
        ":",
        "@",
        "/",
        "..",
        "//",
        "sha256:",
        DIGEST,
        "docker.io/",
        "localhost",
        "[::1]",
        ":65536",
        "__",
        "-",
        "é",
        "\0",
        "%2e",
    ],
    longest: 2 << 10,
    mend: nothing,
    make: || Box::new(reference),
};

fn reference(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let docker = Reference::parse_docker(&text);
    match text.parse::<Reference>() {
        Ok(reference) => {
            let printed = reference.to_string();
            assert_eq!(printed.parse::<Reference>().as_ref(), Ok(&reference));
            let pinned = reference.with_digest(DIGEST.parse().unwrap());
            assert_eq!(pinned.to_string().parse(), Ok(pinned));
            assert_eq!(docker.as_ref(), Ok(&reference));
            assert!(
                reference.path().split('/').all(|part| !part.is_empty() && part != "." && part != ".."),
                "{printed}"
            );
            assert!(!reference.manifest_name().contains('/') && !reference.host().contains('/'), "{printed}");
            format!("Ok {} {}", reference.tag().is_some(), reference.digest().is_some())
        }
        Err(error) => {
            if let Ok(full) = docker {
                assert_eq!(full.to_string().parse::<Reference>(), Ok(full));
            }
            match &error {
                ReferenceError::Short { .. } => "short".into(),
                ReferenceError::Form { why, .. } => told(why),
                _ => "digest".into(),
            }
        }
    }
}

/// What is said of an input is one line of bounded length.
fn told(error: impl ToString) -> String {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
    text
}

/// Mirrors: a URL is a registry's, an error has its place in the file.
pub const HOSTS: Target = Target {
    name: "hosts",
    seeds: || {
        owned(&[
            "server = \"https://registry.local\"\n\n[host.\"http://mirror.local:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = \"ca.pem\"\n  \
             client = [[\"cert.pem\", \"key.pem\"]]\n  skip_verify = true\n  dial_timeout = \"1m30.5s\"\n  override_path = true\n\
             [host.\"http://mirror.local:5000\".header]\n  x-custom = [\"a\", \"b\"]\n",
            "capabilities = [\"push\"]\nca = [\"a.pem\", \"b.pem\"]\nclient = \"both.pem\"\n",
        ])
    },
    words: &[
        "server",
        "host",
        "[host.\"",
        "\"]",
        "capabilities",
        "ca",
        "client",
        "skip_verify",
        "header",
        "override_path",
        "dial_timeout",
        "=",
        "\"",
        "[[",
        "]]",
        "{",
        "}",
        "true",
        "\"https://u:p@h/?q#f\"",
        "1e400h",
        "99999999999999999999s",
        "\"\"\"",
        "\r\n",
        "é",
        "//[::1]/v2",
        "[a.b]",
    ],
    longest: 16 << 10,
    mend: nothing,
    make: || Box::new(mirrors),
};

fn mirrors(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let file = Path::new("/c/r.local/hosts.toml");
    let parsed = hosts::parse(file, &text);
    assert_eq!(parsed, hosts::parse(file, &text));
    match parsed {
        Ok(hosts) => {
            for settings in hosts.mirrors.iter().chain([&hosts.upstream]) {
                let Some(url) = &settings.url else { continue };
                assert!(matches!(url.scheme(), "http" | "https") && url.username().is_empty(), "{url}");
                assert!(url.password().is_none() && url.query().is_none() && url.fragment().is_none(), "{url}");
            }
            assert!(hosts.mirrors.iter().all(|mirror| mirror.url.is_some()));
            format!("Ok {}", hosts.mirrors.len())
        }
        Err(error) => {
            let place = error.strip_prefix("/c/r.local/hosts.toml:").unwrap_or_else(|| panic!("no place: {error}"));
            let line: usize = place.split(':').next().unwrap().parse().unwrap();
            assert!((1..=text.matches('\n').count() + 1).contains(&line), "{error}");
            let text = place.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':');
            // Of these the name is theirs.
            ["unknown key", "header"].into_iter().find(|own| text.trim().starts_with(own)).unwrap_or(text).to_owned()
        }
    }
}

/// In plain and as `user:` with it by base 64: what no error quotes.
const SECRETS: [&str; 2] = ["hunter2hunter2", "dXNlcjpodW50ZXIyaHVudGVyMg"];

/// Credentials: an error says where, and never what stands there.
pub const AUTH: Target = Target {
    name: "auth",
    seeds: || {
        owned(&[
            r#"{"auths": {"r.local:5000": {"auth": "dXNlcjpodW50ZXIyaHVudGVyMg=="}, "https://index.docker.io/v1/": {"username": "user", "password": "hunter2hunter2"}},
                "credHelpers": {"gcr.local": "gcr"}, "credsStore": "pass"}"#,
            r#"{"auths": {"r.local/team": {"identitytoken": "hunter2hunter2"}, "r.local": {"registrytoken": "hunter2hunter2"}}}"#,
        ])
    },
    words: &[
        "auths",
        "auth",
        "username",
        "password",
        "identitytoken",
        "credHelpers",
        "credsStore",
        "{",
        "}",
        "[",
        "null",
        "\"",
        ":",
        ",",
        "https://",
        "\\u0000",
        "\\ud800",
        "1e999",
        SECRETS[0],
        SECRETS[1],
        "====",
    ],
    longest: 16 << 10,
    mend: nothing,
    make: || Box::new(credentials),
};

fn credentials(input: &[u8]) -> String {
    let discreet = |error: &str| assert!(SECRETS.iter().all(|secret| !error.contains(secret)), "{error}");
    match AuthFile::parse(input) {
        Ok(file) => {
            let mut outcomes =
                BTreeSet::from([format!("Ok {} {}", file.helpers().count() > 0, file.store().is_some())]);
            for key in file.entries().chain(["r.local", "docker.io", ""]) {
                match file.entry(key) {
                    Ok(Some(found)) => {
                        discreet(&format!("{found:?}"));
                        outcomes.insert("found".to_owned());
                    }
                    Ok(None) => {}
                    Err(error) => {
                        discreet(&error);
                        outcomes.insert(error);
                    }
                }
                let _ = file.helper(key);
            }
            outcomes.into_iter().collect::<Vec<_>>().join(" / ")
        }
        Err(error) => {
            discreet(&error);
            told(error)
        }
    }
}

/// Documents of images: what is taken is one thing, within its bounds, and its descriptors are written as they are read.
pub const MANIFEST: Target = Target {
    name: "manifest",
    seeds: || {
        let descriptor = |media_type: &str| json!({"mediaType": media_type, "digest": DIGEST, "size": 1234});
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip")]});
        let mut child = descriptor("application/vnd.oci.image.manifest.v1+json");
        child["platform"] = json!({"os": "linux", "architecture": "arm", "variant": "v7"});
        child["annotations"] =
            json!({"vnd.docker.reference.type": "attestation-manifest", "io.containerd.image.name": "a.local/b:1"});
        let index = json!({"schemaVersion": 2, "manifests": [child]});
        let config = json!({"architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z",
            "config": {"Env": ["A=b"], "Cmd": ["x"], "Volumes": {"/d": {}}, "ExposedPorts": null},
            "rootfs": {"type": "layers", "diff_ids": [DIGEST]}, "history": [{"created_by": "x", "empty_layer": true}]});
        let old = json!({"schemaVersion": 1, "fsLayers": [{"blobSum": DIGEST}]});
        [manifest, index, config, old].iter().map(|document| document.to_string().into_bytes()).collect()
    },
    words: &[
        "schemaVersion",
        "mediaType",
        "artifactType",
        "manifests",
        "layers",
        "config",
        "fsLayers",
        "digest",
        "size",
        "platform",
        "annotations",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "diff_ids",
        "unknown",
        "sha512:",
        DIGEST,
        "-1",
        "18446744073709551616",
        "1e308",
        "null",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "\\u0000",
        ",",
    ],
    longest: 64 << 10,
    mend: nothing,
    make: || Box::new(manifest),
};

fn same(descriptor: &Descriptor) {
    let written = serde_json::to_vec(descriptor).unwrap();
    assert_eq!(&serde_json::from_slice::<Descriptor>(&written).unwrap(), descriptor);
}

fn manifest(input: &[u8]) -> String {
    let layer = Descriptor { media_type: String::new(), digest: DIGEST.parse().unwrap(), size: 1 };
    let config = match document::parse_config("x", input, vec![layer]) {
        Ok((_, platform, layers)) => {
            assert_eq!(layers.len(), 1);
            // Its text is what users write for --platform.
            let _ = platform.to_string().parse::<bayplan::oci::Platform>();
            "configuration".to_owned()
        }
        Err(error) => error.to_string(),
    };
    let outcome = match document::parse("x", input) {
        Ok(Document::Index(children)) => {
            children.iter().for_each(|child| same(&child.descriptor));
            format!("index {}", children.iter().any(|child| child.attached))
        }
        Ok(Document::Manifest { config, layers }) => {
            assert!(layers.len() <= MAX_LAYERS);
            layers.iter().chain([&config]).for_each(same);
            // What is kept of it is what it consists of.
            let kept = document::blobs("x", input).unwrap();
            assert_eq!(kept, std::iter::once(config).chain(layers).collect::<Vec<_>>());
            "manifest".to_owned()
        }
        Err(error) => error.to_string(),
    };
    // What follows these words is theirs.
    let words = |text: &str| text.split(' ').take(6).collect::<Vec<_>>().join(" ");
    format!("{} / {}", words(&outcome), words(&config))
}
