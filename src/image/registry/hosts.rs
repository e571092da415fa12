//! containerd's `hosts.toml`, from text to values. Pure: no file is opened here.
//!
//! The format is that of containerd's docs/hosts.md: keys at the top are about the upstream (`server`), each
//! `[host."URL"]` is a mirror, asked in the order of the file before the upstream. What containerd does not
//! know is an error here, with its place: a misspelt `ca` would otherwise be a registry nobody can trust.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What is wrong with a file, beginning with `file:line:column`.
pub type HostsError = String;

/// A parsed `hosts.toml`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostsFile {
    /// Asked first, in this order.
    pub mirrors: Vec<HostSettings>,
    /// Asked last; without a URL it is the host that the reference names.
    pub upstream: HostSettings,
}

/// One host and how to speak to it.
#[derive(Clone, Default, PartialEq)]
pub struct HostSettings {
    /// Root of the API, `/v2` included; none for the host that a reference names.
    pub url: Option<Url>,
    /// What it may be asked for.
    pub capabilities: Capabilities,
    /// Files of PEM certificates to trust beside the system's.
    pub ca: Vec<PathBuf>,
    /// Certificates to show, each with its key's file unless that is in the same one.
    pub client: Vec<(PathBuf, Option<PathBuf>)>,
    /// Trust whatever certificate it shows.
    pub skip_verify: bool,
    /// Sent with each request to this host and no other.
    pub headers: HeaderMap,
    /// Until the connection is made.
    pub dial_timeout: Option<Duration>,
}

impl fmt::Debug for HostSettings {
    /// Without the headers' values, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers.keys().map(HeaderName::as_str).collect();
        f.debug_struct("HostSettings")
            .field("url", &self.url.as_ref().map(Url::as_str))
            .field("capabilities", &self.capabilities)
            .field("ca", &self.ca)
            .field("client", &self.client)
            .field("skip_verify", &self.skip_verify)
            .field("headers", &headers)
            .field("dial_timeout", &self.dial_timeout)
            .finish()
    }
}

/// What a host may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Manifests by digest, and blobs.
    pub pull: bool,
    /// What a tag points at.
    pub resolve: bool,
    /// Writing.
    pub push: bool,
}

impl Default for Capabilities {
    /// All of them, as where none is named.
    fn default() -> Self {
        Self { pull: true, resolve: true, push: true }
    }
}

const TOP: [&str; 2] = ["server", "host"];
const KEYS: [&str; 7] = ["capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout"];

/// Parses the text of `file`, whose directory is where relative paths begin.
pub fn parse(file: &Path, text: &str) -> Result<HostsFile, HostsError> {
    let reader = Reader { file, text };
    let table = DeTable::parse(text)
        .map_err(|e| reader.at(e.span().unwrap_or(0..0), e.message().trim_end().replace('\n', ", ")))?;
    let table = table.get_ref();
    reader.known(table, |key| TOP.contains(&key) || KEYS.contains(&key))?;
    let mut upstream = reader.settings(table)?;
    if let Some(value) = table.get("server") {
        let text = reader.text(value)?;
        if !text.is_empty() {
            upstream.url = Some(reader.url(text, value.span(), reader.flag(table, "override_path")?)?);
        }
    }
    let mut mirrors = Vec::new();
    if let Some(hosts) = table.get("host") {
        for (name, value) in in_order(reader.table(hosts)?) {
            let settings = reader.table(value)?;
            reader.known(settings, |key| KEYS.contains(&key))?;
            let url = reader.url(name.get_ref(), name.span(), reader.flag(settings, "override_path")?)?;
            mirrors.push(HostSettings { url: Some(url), ..reader.settings(settings)? });
        }
    }
    Ok(HostsFile { mirrors, upstream })
}

type Key<'a> = Spanned<toml::de::DeString<'a>>;
type Value<'a> = Spanned<DeValue<'a>>;

/// A table's entries as they stand in the file; the map itself is sorted by name.
fn in_order<'t, 'a>(table: &'t DeTable<'a>) -> Vec<(&'t Key<'a>, &'t Value<'a>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

struct Reader<'r> {
    file: &'r Path,
    text: &'r str,
}

impl Reader<'_> {
    fn at(&self, span: Range<usize>, message: impl fmt::Display) -> HostsError {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
        format!("{}:{line}:{column}: {message}", self.file.display())
    }

    fn known(&self, table: &DeTable<'_>, known: impl Fn(&str) -> bool) -> Result<(), HostsError> {
        let Some((key, _)) = in_order(table).into_iter().find(|(key, _)| !known(key.get_ref())) else {
            return Ok(());
        };
        let name: &str = key.get_ref();
        let closest = TOP.iter().chain(&KEYS).filter(|k| known(k)).min_by_key(|k| strsim::damerau_levenshtein(name, k));
        let help = match closest {
            Some(near) if strsim::damerau_levenshtein(name, near) <= 1 + near.len() / 4 => {
                format!("did you mean {near}?")
            }
            _ => format!("known are {}", KEYS.join(", ")),
        };
        Err(self.at(key.span(), format!("unknown key {name}; {help}")))
    }

    fn table<'t, 'a>(&self, value: &'t Value<'a>) -> Result<&'t DeTable<'a>, HostsError> {
        match value.get_ref() {
            DeValue::Table(table) => Ok(table),
            _ => Err(self.at(value.span(), "a table is expected")),
        }
    }

    fn text<'t>(&self, value: &'t Value<'_>) -> Result<&'t str, HostsError> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text),
            _ => Err(self.at(value.span(), "a string is expected")),
        }
    }

    fn flag(&self, table: &DeTable<'_>, key: &str) -> Result<bool, HostsError> {
        match table.get(key).map(|value| (value.get_ref(), value.span())) {
            None => Ok(false),
            Some((DeValue::Boolean(flag), _)) => Ok(*flag),
            Some((_, span)) => Err(self.at(span, format!("{key} is true or false"))),
        }
    }

    /// A string, or several.
    fn texts<'t>(&self, value: &'t Value<'_>) -> Result<Vec<&'t str>, HostsError> {
        match value.get_ref() {
            DeValue::Array(values) => values.iter().map(|value| self.text(value)).collect(),
            _ => Ok(vec![self.text(value)?]),
        }
    }

    fn path(&self, text: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("/")).join(text)
    }

    fn url(&self, text: &str, span: Range<usize>, override_path: bool) -> Result<Url, HostsError> {
        let refuse = |why: &str| self.at(span.clone(), format!("{text:?} is not a registry's URL: {why}"));
        let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let mut url = Url::parse(&full).map_err(|e| refuse(&e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refuse("it is neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(self.at(span, "credentials do not belong into a URL; log in, or write them to auth.json"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("it has a query or a fragment"));
        }
        let path = url.path().trim_end_matches('/').to_owned();
        let path = if override_path || path.ends_with("/v2") { path } else { format!("{path}/v2") };
        url.set_path(&path);
        Ok(url)
    }

    fn settings(&self, table: &DeTable<'_>) -> Result<HostSettings, HostsError> {
        let mut settings = HostSettings { skip_verify: self.flag(table, "skip_verify")?, ..HostSettings::default() };
        if let Some(value) = table.get("capabilities") {
            let named = self.texts(value)?;
            if let Some(other) = named.iter().find(|name| !["pull", "resolve", "push"].contains(name)) {
                let message = format!("unknown capability {other:?}; there are pull, resolve and push");
                return Err(self.at(value.span(), message));
            }
            let has = |name| named.is_empty() || named.contains(&name);
            settings.capabilities = Capabilities { pull: has("pull"), resolve: has("resolve"), push: has("push") };
        }
        if let Some(value) = table.get("ca") {
            settings.ca = self.texts(value)?.into_iter().map(|text| self.path(text)).collect();
        }
        if let Some(value) = table.get("client") {
            settings.client = self.client(value)?;
        }
        if let Some(value) = table.get("header") {
            for (name, value) in in_order(self.table(value)?) {
                let parsed: HeaderName =
                    name.get_ref().parse().map_err(|_| self.at(name.span(), "this is no header's name"))?;
                for text in self.texts(value)? {
                    let mut header = HeaderValue::from_str(text)
                        .map_err(|_| self.at(value.span(), format!("header {parsed} holds what no header can")))?;
                    header.set_sensitive(true);
                    settings.headers.append(parsed.clone(), header);
                }
            }
        }
        if let Some(value) = table.get("dial_timeout") {
            let span = duration(self.text(value)?).filter(|d| !d.is_zero());
            let span = span.ok_or_else(|| self.at(value.span(), "dial_timeout is a duration such as \"10s\""))?;
            settings.dial_timeout = Some(span);
        }
        Ok(settings)
    }

    /// `"both.pem"`, `["a.pem", "b.pem"]`, or `[["cert.pem", "key.pem"], …]`.
    fn client(&self, value: &Value<'_>) -> Result<Vec<(PathBuf, Option<PathBuf>)>, HostsError> {
        let DeValue::Array(entries) = value.get_ref() else {
            return Ok(vec![(self.path(self.text(value)?), None)]);
        };
        let pair = |entry: &Value<'_>| match entry.get_ref() {
            DeValue::Array(pair) if pair.len() == 2 => {
                let key = self.text(&pair[1])?;
                Ok((self.path(self.text(&pair[0])?), (!key.is_empty()).then(|| self.path(key))))
            }
            DeValue::Array(_) => Err(self.at(entry.span(), "a pair is [\"certificate\", \"key\"]")),
            _ => Ok((self.path(self.text(entry)?), None)),
        };
        entries.iter().map(pair).collect()
    }
}

/// Go's durations: `10s`, `1m30s`, `1.5s`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |n| digits + n);
        let number: f64 = rest[..digits].parse().ok()?;
        seconds += number
            * match &rest[digits..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<HostsFile, HostsError> {
        parse(Path::new("/c/r.local/hosts.toml"), text)
    }

    fn urls(file: &HostsFile) -> Vec<&str> {
        file.mirrors.iter().filter_map(|m| m.url.as_ref()).map(Url::as_str).collect()
    }

    #[test]
    fn the_order_of_mirrors_is_that_of_the_file() {
        let file = read(
            r#"
            server = "https://registry-1.docker.io"
            [host."https://z.local"]
              capabilities = ["pull", "resolve"]
            [host."a.local:5000/proxy"]
            [host."http://m.local/v2/"]
            [host."https://o.local/own/root"]
              override_path = true
            "#,
        )
        .unwrap();
        let expected =
            ["https://z.local/v2", "https://a.local:5000/proxy/v2", "http://m.local/v2", "https://o.local/own/root"];
        assert_eq!(urls(&file), expected);
        assert_eq!(file.mirrors[0].capabilities, Capabilities { pull: true, resolve: true, push: false });
        assert_eq!(file.mirrors[1].capabilities, Capabilities::default());
        assert_eq!(file.upstream.url.unwrap().as_str(), "https://registry-1.docker.io/v2");
    }

    #[test]
    fn every_key_has_each_of_its_forms() {
        let file = read(
            r#"
            ca = "ca.pem"
            client = "both.pem"
            skip_verify = true
            dial_timeout = "1m1.5s"
            [header]
              x-one = "1"
              x-two = ["a", "b"]
            [host."https://a"]
              ca = ["/abs/a.pem", "b.pem"]
              client = [["c.pem", "k.pem"], ["both.pem", ""], "third.pem"]
            "#,
        )
        .unwrap();
        let up = &file.upstream;
        assert_eq!((up.ca.clone(), up.skip_verify), (vec!["/c/r.local/ca.pem".into()], true));
        assert_eq!(up.client, [("/c/r.local/both.pem".into(), None)]);
        assert_eq!(up.dial_timeout, Some(Duration::from_millis(61_500)));
        assert_eq!(up.headers.get_all("x-two").iter().count(), 2);
        assert!(!format!("{file:?}").contains("\"1\""), "a header's value is shown: {file:?}");
        let mirror = &file.mirrors[0];
        assert_eq!(mirror.ca, [PathBuf::from("/abs/a.pem"), "/c/r.local/b.pem".into()]);
        let own = |name: &str| PathBuf::from(format!("/c/r.local/{name}"));
        let pairs = [(own("c.pem"), Some(own("k.pem"))), (own("both.pem"), None), (own("third.pem"), None)];
        assert_eq!(mirror.client, pairs);
        assert_eq!(read("").unwrap(), HostsFile::default());
    }

    #[test]
    fn mistakes_have_a_place() {
        let errors: Vec<String> = [
            "capabilties = []",
            "[host.\"https://a\"]\n  server = \"x\"",
            "[host.\"https://a\"]\n  skip_verify = 1",
            "capabilities = [\"pul\"]",
            "server = \"https://u:secret@a\"",
            "server = \"ftp://a\"",
            "dial_timeout = \"10\"",
            "client = [[\"a\"]]",
            "[host",
        ]
        .iter()
        .map(|text| read(text).unwrap_err())
        .collect();
        insta::assert_snapshot!(errors.join("\n"));
    }

    proptest::proptest! {
        /// Whatever the file holds, there is an answer: a value, or an error that begins with its name.
        #[test]
        fn no_text_is_too_strange(
            key in "[a-z_]{1,12}|capabilities|ca|client|header|dial_timeout|server|host",
            value in "\"\\PC{0,12}\"|\\[(\"[^\"\\\\]{0,6}\",? ?){0,3}\\]|[0-9a-zµ.\\[\\]{}= -]{0,12}",
            rest in "\\PC{0,30}",
        ) {
            for text in [format!("{key} = {value}"), format!("[host.\"{rest}\"]\n{key} = {value}\n"), rest] {
                if let Err(error) = read(&text) {
                    proptest::prop_assert!(error.starts_with("/c/r.local/hosts.toml:"), "{}", error);
                }
            }
        }

        #[test]
        fn a_duration_is_read_or_refused(text in "[0-9.]{0,6}(h|m|s|ms|us|µs|ns|x)?\\PC{0,4}") {
            let _ = duration(&text);
        }
    }
}
