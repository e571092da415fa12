//! The steps of registries, and the credentials that images name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Class, Fault, Result};
use crate::image::{DeclaredCapabilities, DeclaredHost, DeclaredRegistry, PullSecret};
use crate::manifest::{
    Capability, ClientCertificate, DEFAULT_HOST, ImageSpec, Mirror, RegistrySpec, Resource, ResourceKey, Spec,
};
use crate::oci::Reference;
use crate::plan::{Desired, Source};
use crate::store::{EventType, RegistryRecord};

use super::image::new_uid;
use super::{Engine, lock_of};

/// Bound of a credential file in bytes.
const MAX_SECRET: u64 = 4 << 20;

impl Engine {
    pub(super) fn set_registry(&self, key: &ResourceKey, resource: &Resource, source: Source) -> Result<()> {
        let Spec::Registry(spec) = &resource.spec else {
            return Err(Fault::new(Class::Bug, format!("{key} is no registry")));
        };
        // What it names is looked at now, so that the step fails and not some pull later.
        self.check_files(key, spec)?;
        let before = self.memory.read().registries.get(&key.name).cloned();
        let record = RegistryRecord {
            host: key.name.clone(),
            resource: resource.clone(),
            source,
            uid: before.as_ref().map_or_else(new_uid, |r| r.uid.clone()),
            revision: before.as_ref().map_or(1, |r| r.revision + 1),
            created: before.as_ref().map_or_else(jiff::Timestamp::now, |r| r.created),
        };
        self.store.put_registry(&record)?;
        self.memory.write().registries.insert(key.name.clone(), record);
        self.reach_registries_as_declared();
        self.forget_answers(&key.name);
        self.event(key, EventType::Normal, "Applied", "it is reached as declared");
        Ok(())
    }

    pub(super) fn remove_registry(&self, host: &str) -> Result<()> {
        self.store.remove_registry(host)?;
        self.memory.write().registries.remove(host);
        self.reach_registries_as_declared();
        self.forget_answers(host);
        Ok(())
    }

    /// Hands the policies of the records to whoever speaks with registries.
    pub(super) fn reach_registries_as_declared(&self) {
        let declared = self
            .memory
            .read()
            .registries
            .values()
            .filter_map(|record| match &record.resource.spec {
                Spec::Registry(spec) => Some(policy(spec, |name| self.secret_file(name))),
                _ => None,
            })
            .collect();
        self.images.set_declared_registries(declared);
    }

    /// What was answered by another road is asked again.
    fn forget_answers(&self, host: &str) {
        let is_meant = |reference: &Reference| host == DEFAULT_HOST || reference.host() == host;
        lock_of(&self.answers).retain(|reference, _| !is_meant(reference));
    }

    fn secret_file(&self, name: &str) -> Option<PathBuf> {
        self.config().registry.pull_secrets.get(name).cloned()
    }

    fn check_files(&self, key: &ResourceKey, spec: &RegistrySpec) -> Result<()> {
        let declared = policy(spec, |name| self.secret_file(name));
        let of_host = |host: &DeclaredHost| {
            let pair = host.client.iter().flat_map(|(cert, key)| std::iter::once(cert).chain(key));
            host.ca.iter().chain(pair).cloned().collect::<Vec<PathBuf>>()
        };
        let hosts = declared.mirrors.iter().chain([&declared.upstream]);
        let files: BTreeSet<PathBuf> = hosts.flat_map(of_host).chain(declared.auth_file.clone()).collect();
        for file in files {
            std::fs::File::open(&file).map_err(|error| {
                Fault::new(Class::Invalid, format!("{key}: {} cannot be read: {error}", file.display()))
                    .help("put it there, or name the right file in the manifest")
            })?;
        }
        Ok(())
    }

    /// The credentials that an `Image` names, read now: they may have been renewed.
    pub(super) fn pull_secrets(&self, resource: Option<&Resource>) -> Result<Vec<PullSecret>> {
        let Some(Spec::Image(spec)) = resource.map(|resource| &resource.spec) else { return Ok(Vec::new()) };
        self.secrets_of(spec)
    }

    fn secrets_of(&self, spec: &ImageSpec) -> Result<Vec<PullSecret>> {
        let read = |name: &str| {
            let Some(path) = self.secret_file(name) else {
                return Err(Fault::new(Class::Invalid, format!("pull secret {name} is not in the configuration"))
                    .help(format!(
                        "name its auth.json in config.toml, below [registry.pull_secrets]: {name} = \"FILE\""
                    )));
            };
            let text = read_secret(&path).map_err(|error| {
                Fault::new(Class::Invalid, format!("pull secret {name}: {} cannot be read: {error}", path.display()))
                    .help("write it with `bayplan login`, or name another file below [registry.pull_secrets]")
            })?;
            Ok(PullSecret { name: format!("pull secret {name}"), text })
        };
        spec.pull_secrets.iter().map(|secret| read(&secret.name)).collect()
    }

    /// The credentials that any `Image` of this reference names; what cannot be read is left out, for the pull says
    /// so itself.
    pub(super) fn secrets_for(&self, desired: &Desired, reference: &Reference) -> Vec<PullSecret> {
        let of = |spec: &ImageSpec| self.secrets_of(spec).unwrap_or_default();
        let images = desired.resources.values().filter_map(|declared| match &declared.resource.spec {
            Spec::Image(spec) if spec.reference.as_ref() == Some(reference) => Some(spec),
            _ => None,
        });
        let mut secrets: Vec<PullSecret> = Vec::new();
        for secret in images.flat_map(of) {
            if !secrets.contains(&secret) {
                secrets.push(secret);
            }
        }
        secrets
    }

    /// Hosts that will be reached in another way once the plan is carried out: until then nobody asks them.
    pub(super) fn unsettled_hosts(&self, desired: &Desired) -> UnsettledHosts {
        let records = self.memory.read();
        let declared = |host: &str| desired.resources.get(&ResourceKey::new(crate::manifest::Kind::Registry, "", host));
        let mut unsettled = UnsettledHosts::default();
        for (key, wanted) in &desired.resources {
            if let Spec::Registry(spec) = &wanted.resource.spec {
                unsettled.own.insert(key.name.clone());
                let applied = records.registries.get(&key.name).map(|record| &record.resource.spec);
                if applied != Some(&Spec::Registry(spec.clone())) {
                    unsettled.changing.insert(key.name.clone());
                }
            }
        }
        let leaving = records.registries.keys().filter(|host| declared(host).is_none()).cloned();
        unsettled.changing.extend(leaving);
        unsettled
    }
}

/// See [`Engine::unsettled_hosts`].
#[derive(Default)]
pub(super) struct UnsettledHosts {
    own: BTreeSet<String>,
    changing: BTreeSet<String>,
}

impl UnsettledHosts {
    pub(super) fn contains(&self, host: &str) -> bool {
        self.changing.contains(host) || (!self.own.contains(host) && self.changing.contains(DEFAULT_HOST))
    }
}

fn read_secret(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_SECRET).read_to_string(&mut text)?;
    Ok(text)
}

/// A manifest's registry as those who speak with it take it. Pure; `secret` gives the file of a pull secret.
fn policy(spec: &RegistrySpec, secret: impl Fn(&str) -> Option<PathBuf>) -> DeclaredRegistry {
    let paths = |files: &[String]| files.iter().map(PathBuf::from).collect();
    let pair = |client: &Option<ClientCertificate>| {
        client.as_ref().map(|client| (PathBuf::from(&client.cert), client.key.as_ref().map(PathBuf::from)))
    };
    let own_url = (spec.plain_http && spec.host != DEFAULT_HOST).then(|| format!("http://{}", spec.host));
    let upstream = DeclaredHost {
        url: spec.server.clone().or(own_url),
        ca: paths(&spec.ca),
        client: pair(&spec.client),
        skip_verify: spec.skip_verify,
        ..DeclaredHost::default()
    };
    let mirror = |mirror: &Mirror| {
        let may = |what: Capability| {
            mirror.capabilities.is_empty() && what != Capability::Push || mirror.capabilities.contains(&what)
        };
        DeclaredHost {
            url: Some(mirror.url.clone()),
            override_path: mirror.override_path,
            capabilities: Some(DeclaredCapabilities {
                pull: may(Capability::Pull),
                resolve: may(Capability::Resolve),
                push: may(Capability::Push),
            }),
            ca: paths(&mirror.ca),
            client: pair(&mirror.client),
            skip_verify: mirror.skip_verify,
            headers: mirror.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            dial_timeout: mirror.dial_timeout.map(|span| span.duration()).filter(|span| *span > Duration::ZERO),
        }
    };
    DeclaredRegistry {
        host: spec.host.clone(),
        mirrors: spec.mirrors.iter().map(mirror).collect(),
        upstream,
        plain_http: spec.plain_http,
        auth_file: spec.auth.as_ref().and_then(|auth| match (&auth.file, &auth.pull_secret) {
            (Some(file), _) => Some(file.into()),
            (None, Some(name)) => secret(name),
            (None, None) => None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_says_what_its_hosts_toml_would() {
        let spec = RegistrySpec {
            host: "registry.local:5000".into(),
            plain_http: true,
            mirrors: vec![
                Mirror { url: "https://a.local".into(), ..Mirror::default() },
                Mirror {
                    url: "http://b.local/v2/x".into(),
                    capabilities: vec![Capability::Push],
                    override_path: true,
                    ..Mirror::default()
                },
            ],
            client: Some(ClientCertificate { cert: "/c.pem".into(), key: None }),
            auth: Some(crate::manifest::RegistryAuth::pull_secret("team")),
            ..RegistrySpec::default()
        };
        let policy = policy(&spec, |name| Some(format!("/secrets/{name}").into()));
        assert_eq!(policy.upstream.url.as_deref(), Some("http://registry.local:5000"));
        assert_eq!(policy.upstream.client, Some(("/c.pem".into(), None)));
        assert_eq!(policy.auth_file, Some("/secrets/team".into()));
        let may = |at: usize| policy.mirrors[at].capabilities.unwrap();
        assert_eq!((may(0).pull, may(0).resolve, may(0).push), (true, true, false));
        assert_eq!((may(1).pull, may(1).resolve, may(1).push), (false, false, true));
        assert!(policy.mirrors[1].override_path);
    }

    #[test]
    fn the_default_policy_keeps_each_host_its_own_name() {
        let spec = RegistrySpec { host: "_default".into(), plain_http: true, ..RegistrySpec::default() };
        let policy = policy(&spec, |_| None);
        assert_eq!((policy.upstream.url, policy.plain_http), (None, true));
    }
}
