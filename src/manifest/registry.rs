//! `Registry`: how one host of images is reached, on the whole node. The same things as containerd's
//! `hosts.toml`, in one resource that is planned, compared and listed like every other.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Located;
use super::model::{HANDLE, Kind, Metadata, Span, Spec};
use super::reader::{Fields, Object, Reader};
use super::source::Extent;
use super::tree::{Node, Value};

/// The host that stands for all that have no policy of their own.
pub const DEFAULT_HOST: &str = "_default";

/// `Registry`: mirrors, TLS and credentials of one host. It goes before a `hosts.toml` of the same host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistrySpec {
    /// The host that references name, with its port if they name one: `registry.local:5000`. `_default` stands for
    /// every host that has neither a `Registry` nor a `hosts.toml` of its own.
    pub host: String,
    /// Where the host itself is reached: a URL. Default: `https://HOST`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Asked before the host itself, in this order; each a URL, or a map where it needs more than that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::short_forms::mirrors")]
    pub mirrors: Vec<Mirror>,
    /// Speak to the host without TLS. Whoever is on the way then reads credentials and images.
    #[serde(default, rename = "plainHTTP", skip_serializing_if = "is_false")]
    #[schemars(extend("default" = false))]
    pub plain_http: bool,
    /// Take whatever certificate the host shows.
    #[serde(default, skip_serializing_if = "is_false")]
    #[schemars(extend("default" = false))]
    pub skip_verify: bool,
    /// Authorities that are trusted beside the system's: a PEM file, or a list of them. Relative to the manifest when
    /// written; absolute here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::short_forms::texts")]
    pub ca: Vec<String>,
    /// The certificate that is shown to the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientCertificate>,
    /// Credentials, tried before the node's own. Default: those of the node's `auth.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<RegistryAuth>,
}

/// A host that has the same images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    /// Where it is: `https://mirror.local:5000`, or with a path before the images' own. `http://` is plain HTTP.
    pub url: String,
    /// What it is asked for. Default: `[pull, resolve]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Capability>,
    /// Take whatever certificate it shows.
    #[serde(default, skip_serializing_if = "is_false")]
    #[schemars(extend("default" = false))]
    pub skip_verify: bool,
    /// Authorities that are trusted beside the system's, as in the registry itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::short_forms::texts")]
    pub ca: Vec<String>,
    /// The certificate that is shown to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientCertificate>,
    /// Headers of every request to it. Credentials do not belong here: everybody who may list resources reads them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Its URL has the whole path: no `/v2` is put in.
    #[serde(default, skip_serializing_if = "is_false")]
    #[schemars(extend("default" = false))]
    pub override_path: bool,
    /// How long a connection to it may take to be made. Default: the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dial_timeout: Option<Span>,
}

/// What a mirror is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Content by its digest.
    Pull,
    /// The digest of a tag: whoever answers decides what a tag means.
    Resolve,
    /// Taking images.
    Push,
}

/// A client certificate and its key, as PEM files. Relative to the manifest when written; absolute here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCertificate {
    /// The certificate, and the chain behind it.
    pub cert: String,
    /// Its key. Default: it stands in the file of the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Where a registry's credentials are; one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistryAuth {
    /// A file in the `auth.json` format. Relative to the manifest when written; absolute here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// A name of `[registry.pull_secrets]` in the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_secret: Option<String>,
}

impl RegistryAuth {
    /// A file.
    pub fn file(path: impl Into<String>) -> Self {
        Self { file: Some(path.into()), pull_secret: None }
    }

    /// A file that the configuration names.
    pub fn pull_secret(name: impl Into<String>) -> Self {
        Self { file: None, pull_secret: Some(name.into()) }
    }
}

fn is_false(value: &bool) -> bool {
    !*value
}

pub(super) const REGISTRY: Fields = Fields {
    what: "a registry's spec",
    known: &["host", "server", "mirrors", "plainHTTP", "skipVerify", "ca", "client", "auth"],
    later: &[],
    hints: &[
        ("plainHttp", "write plainHTTP"),
        ("insecure", "write skipVerify for certificates that cannot be checked, plainHTTP for no TLS at all"),
        ("endpoints", "write mirrors"),
        ("username", "credentials stand in a file: auth: {file: auth.json}"),
        ("password", "credentials stand in a file: auth: {file: auth.json}"),
    ],
};
const MIRROR: Fields = Fields {
    what: "a mirror",
    known: &["url", "capabilities", "skipVerify", "ca", "client", "headers", "overridePath", "dialTimeout"],
    later: &[],
    hints: &[("host", "write url"), ("header", "write headers"), ("plainHTTP", "write http:// in its url")],
};
const CLIENT: Fields = Fields { what: "a client certificate", known: &["cert", "key"], later: &[], hints: &[] };
const AUTH: Fields = Fields {
    what: "a registry's auth",
    known: &["file", "pullSecret"],
    later: &["secret"],
    hints: &[
        ("username", "credentials stand in a file: auth: {file: auth.json}"),
        ("password", "credentials stand in a file: auth: {file: auth.json}"),
    ],
};
const CAPABILITIES: [(&str, Capability); 3] =
    [("pull", Capability::Pull), ("resolve", Capability::Resolve), ("push", Capability::Push)];

impl Reader<'_> {
    /// A `Registry`. It is called after its host; a name of its own is kept as its handle.
    pub(super) fn registry(&mut self, o: &Object<'_>, out: &mut Vec<Located>) {
        let head = self.head(o, Kind::Registry, false);
        let help = "a registry needs at least spec: {host: HOST[:PORT]}";
        let Some((n, p)) = self.need(o, "spec", help) else { return };
        let Some(r) = self.object(n, &p, &REGISTRY) else { return };
        let host = self.need(&r, "host", help).and_then(|(n, p)| {
            let host = self.string(n, &p)?;
            self.host(&host, n.extent, &p).then_some(host)
        });
        let mut spec = RegistrySpec { host: host.clone().unwrap_or_default(), ..RegistrySpec::default() };
        spec.server = r.get("server").and_then(|(n, p)| self.url(n, &p));
        if let Some((n, p)) = r.get("mirrors") {
            let help = "write a list of URLs";
            for (item, path) in self.list(n, &p, Some(help)).unwrap_or_default() {
                spec.mirrors.extend(self.mirror(item, &path));
            }
        }
        let mut flag = |field: &str| r.get(field).and_then(|(n, p)| self.boolean(n, &p)).unwrap_or_default();
        (spec.plain_http, spec.skip_verify) = (flag("plainHTTP"), flag("skipVerify"));
        spec.ca = r.get("ca").map(|(n, p)| self.files(n, &p)).unwrap_or_default();
        spec.client = r.get("client").and_then(|(n, p)| self.client(n, &p));
        spec.auth = r.get("auth").and_then(|(n, p)| self.auth(n, &p));
        if spec.plain_http
            && let (Some(server), Some((n, p))) = (&spec.server, r.get("server"))
            && server.starts_with("https:")
        {
            let help = Some("write http:// there, or leave plainHTTP out".to_owned());
            self.report(n.extent, format!("{p} is https, but plainHTTP is true"), "one or the other", help);
        }
        let Some(host) = host else { return };
        let mut metadata: Metadata = head.metadata;
        metadata.namespace = String::new();
        if let Some((name, extent)) = head.name
            && name != host
            && self.label_name(&name, extent)
        {
            metadata.annotations.insert(HANDLE.to_owned(), name);
        }
        metadata.name = host;
        self.keep(metadata, Spec::Registry(Box::new(spec)), head.extent, out);
    }

    /// A host as references name it.
    fn host(&mut self, host: &str, extent: Extent, path: &str) -> bool {
        // A reference's own grammar is the judge of what can be a host.
        let fits = host == DEFAULT_HOST
            || format!("{host}/x:1").parse::<crate::oci::Reference>().is_ok_and(|reference| reference.host() == host);
        if !fits {
            let help = Some(match host.split_once("://") {
                Some((_, rest)) => format!("write {}", rest.split('/').next().unwrap_or(rest)),
                None => "write host or host:port, as references begin with it".to_owned(),
            });
            self.report(extent, format!("{path}: {host:?} is not a registry host"), "no reference names it", help);
        }
        fits
    }

    fn mirror(&mut self, node: &Node, path: &str) -> Option<Mirror> {
        if !matches!(node.value, Value::Map(_)) {
            return Some(Mirror { url: self.url(node, path)?, ..Mirror::default() });
        }
        let o = self.object(node, path, &MIRROR)?;
        let url = self.need(&o, "url", "write url: https://HOST").and_then(|(n, p)| self.url(n, &p));
        let mut mirror = Mirror::default();
        if let Some((n, p)) = o.get("capabilities") {
            for (item, path) in self.list(n, &p, Some("write [pull, resolve]")).unwrap_or_default() {
                mirror.capabilities.extend(self.choice(item, &path, &CAPABILITIES));
            }
        }
        let mut flag = |field: &str| o.get(field).and_then(|(n, p)| self.boolean(n, &p)).unwrap_or_default();
        (mirror.skip_verify, mirror.override_path) = (flag("skipVerify"), flag("overridePath"));
        mirror.ca = o.get("ca").map(|(n, p)| self.files(n, &p)).unwrap_or_default();
        mirror.client = o.get("client").and_then(|(n, p)| self.client(n, &p));
        mirror.headers = o.get("headers").map(|(n, p)| self.headers(n, &p)).unwrap_or_default();
        mirror.dial_timeout =
            o.get("dialTimeout").and_then(|(n, p)| self.parsed::<Span>(n, &p, "a duration, such as 500ms, 10s or 1m"));
        mirror.url = url?;
        Some(mirror)
    }

    /// `http(s)://HOST[:PORT][/PATH]`, and nothing that would be lost or leak.
    fn url(&mut self, node: &Node, path: &str) -> Option<String> {
        let text = self.string(node, path)?;
        let why = match text.split_once("://") {
            None => Some(("it has no scheme", format!("write https://{text}"))),
            Some(("http" | "https", rest)) => {
                let authority = rest.split('/').next().unwrap_or_default();
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
                if authority.contains('@') {
                    Some(("it holds a user", "credentials stand in a file: auth: {file: auth.json}".to_owned()))
                } else if rest.contains(['?', '#']) {
                    Some(("it holds more than a path", "leave out ? and # and what follows".to_owned()))
                } else if authority.is_empty() || !authority.chars().all(plain) || rest.contains(char::is_whitespace) {
                    Some(("it names no host", "write https://HOST[:PORT]".to_owned()))
                } else {
                    None
                }
            }
            Some(_) => Some(("its scheme is neither http nor https", "write https://HOST[:PORT]".to_owned())),
        };
        if let Some((why, help)) = why {
            // A password that was written all the same is not printed again.
            self.report(node.extent, format!("{path} is not the URL of a registry"), why, Some(help));
            return None;
        }
        Some(text.trim_end_matches('/').to_owned())
    }

    /// One file or several, beside the manifest.
    fn files(&mut self, node: &Node, path: &str) -> Vec<String> {
        match &node.value {
            Value::List(_) => {
                let items = self.list(node, path, None).unwrap_or_default();
                items.into_iter().filter_map(|(item, path)| self.file(item, &path)).collect()
            }
            _ => self.file(node, path).into_iter().collect(),
        }
    }

    fn file(&mut self, node: &Node, path: &str) -> Option<String> {
        let text = self.string(node, path)?;
        if text.is_empty() || text.starts_with('~') {
            let why = if text.is_empty() { "it is empty" } else { "~ is not expanded" };
            let help = Some("write a path beside the manifest, or an absolute one".into());
            self.report(node.extent, format!("{path}: {text:?} is not a file's path"), why, help);
            return None;
        }
        self.beside(&text, node.extent, path)
    }

    fn client(&mut self, node: &Node, path: &str) -> Option<ClientCertificate> {
        let o = self.object(node, path, &CLIENT)?;
        let cert = self.need(&o, "cert", "write cert: FILE").and_then(|(n, p)| self.file(n, &p));
        let key = o.get("key").and_then(|(n, p)| self.file(n, &p));
        Some(ClientCertificate { cert: cert?, key })
    }

    fn headers(&mut self, node: &Node, path: &str) -> BTreeMap<String, String> {
        let mut headers = BTreeMap::new();
        for entry in self.map(node, path).unwrap_or_default() {
            let path = format!("{path}.{}", entry.key);
            // A header's name is a token, RFC 9110 section 5.6.2.
            let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
            let name = entry.key.to_ascii_lowercase();
            if entry.key.is_empty() || !entry.key.chars().all(token) {
                self.report(
                    entry.extent,
                    format!("{path}: {:?} is not a header's name", entry.key),
                    "not a name",
                    None,
                );
            } else if ["authorization", "proxy-authorization", "cookie"].contains(&name.as_str()) {
                let help = Some("credentials stand in a file: auth: {file: auth.json}".to_owned());
                self.report(
                    entry.extent,
                    format!("{path}: credentials are not written here"),
                    "anybody reads it",
                    help,
                );
            } else if let Some(value) = self.string(&entry.node, &path) {
                if value.chars().any(char::is_control) {
                    self.report(entry.node.extent, format!("{path} holds a control character"), "no header may", None);
                }
                headers.insert(entry.key.clone(), value);
            }
        }
        headers
    }

    fn auth(&mut self, node: &Node, path: &str) -> Option<RegistryAuth> {
        let o = self.object(node, path, &AUTH)?;
        match (o.get("file"), o.get("pullSecret")) {
            (Some((n, p)), None) => self.file(n, &p).map(RegistryAuth::file),
            (None, Some((n, p))) => self.string(n, &p).map(RegistryAuth::pull_secret),
            (both, _) => {
                let what = if both.is_some() { "both file and pullSecret" } else { "neither file nor pullSecret" };
                let help = Some("write auth: {file: auth.json}, or auth: {pullSecret: NAME}".to_owned());
                self.report(node.extent, format!("{path} has {what}"), "one is wanted", help);
                None
            }
        }
    }

    /// Names of pull secrets: each a text, or Kubernetes' `{name: …}`.
    pub(super) fn pull_secrets(&mut self, node: &Node, path: &str) -> Vec<PullSecret> {
        const NAMED: Fields = Fields { what: "a pull secret", known: &["name"], later: &[], hints: &[] };
        let help = "write a list of names";
        let mut secrets: Vec<PullSecret> = Vec::new();
        for (item, path) in self.list(node, path, Some(help)).unwrap_or_default() {
            let name = match &item.value {
                Value::Map(_) => {
                    let Some(o) = self.object(item, &path, &NAMED) else { continue };
                    self.need(&o, "name", "write name: NAME").and_then(|(n, p)| self.string(n, &p))
                }
                _ => self.string(item, &path),
            };
            let Some(name) = name else { continue };
            if self.label_name(&name, item.extent) {
                secrets.push(PullSecret { name });
            }
        }
        secrets
    }
}

/// Credentials by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PullSecret {
    /// A name of `[registry.pull_secrets]` in the configuration.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use crate::manifest::{HANDLE, ParseOptions, Parsed, SourceFile, Spec, parse};

    fn read(spec: &str) -> Parsed {
        let text = format!("apiVersion: bayplan.dev/v1\nkind: Registry\nmetadata: {{name: own}}\nspec: {spec}\n");
        let file = SourceFile { name: "r.yaml".into(), path: Some("/m/r.yaml".into()), text: text.into_bytes() };
        parse(&[file], &ParseOptions::default())
    }

    #[test]
    fn a_registry_is_called_after_its_host_and_its_files_lie_beside_it() {
        let parsed =
            read("{host: 'registry.local:5000', mirrors: [https://m.local/], ca: ca.pem, auth: {file: a.json}}");
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        let resource = &parsed.resources[0].resource;
        assert_eq!(resource.key().to_string(), "registry registry.local:5000");
        assert_eq!(resource.metadata.annotations[HANDLE], "own");
        let Spec::Registry(spec) = &resource.spec else { panic!("{resource:?}") };
        assert_eq!((spec.ca[0].as_str(), spec.mirrors[0].url.as_str()), ("/m/ca.pem", "https://m.local"));
        assert_eq!(spec.auth, Some(super::RegistryAuth::file("/m/a.json")));
    }

    #[test]
    fn what_is_wrong_with_a_registry_is_said_without_its_secrets() {
        let mut all = String::new();
        for spec in [
            "{mirrors: []}",
            "{host: https://registry.local/v2}",
            "{host: nginx}",
            "{host: r.local, mirrors: [m.local]}",
            "{host: r.local, mirrors: ['https://me:s3cret@m.local']}",
            "{host: r.local, mirrors: [{url: 'https://m.local?x=1', capabilities: [pul]}]}",
            "{host: r.local, server: 'https://r.local', plainHTTP: true}",
            "{host: r.local, mirrors: [{url: 'https://m.local', headers: {Authorization: s3cret}}]}",
            "{host: r.local, auth: {file: a, pullSecret: b}}",
            "{host: r.local, password: s3cret}",
        ] {
            let parsed = read(spec);
            assert!(!parsed.diagnostics.is_empty(), "{spec} is taken");
            for finding in parsed.diagnostics {
                let place = format!("{}:{}", finding.place.line, finding.place.column);
                all += &format!("{place} {}\n  help: {}\n", finding.message, finding.help.unwrap_or_default());
            }
        }
        assert!(!all.contains("s3cret"));
        insta::assert_snapshot!(all);
    }
}
