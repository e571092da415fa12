//! Which proxy a request goes through: the variables and rules of Go's `net/http`, which every other
//! container tool follows. Pure but for [`Proxies::from_environment`].

use std::net::IpAddr;

use reqwest::Url;

/// The proxies in force.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    exempt: Vec<Exempt>,
    /// A variable that cannot be used. Going past the proxy would be worse than an error.
    broken: Option<String>,
}

impl std::fmt::Debug for Proxies {
    /// Without passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxies").field("http", &self.http.is_some()).field("https", &self.https.is_some()).finish()
    }
}

/// One entry of NO_PROXY.
#[derive(Debug, Clone, PartialEq)]
enum Exempt {
    Everything,
    Network(IpAddr, u8),
    Address(IpAddr, Option<u16>),
    /// `.suffix`, and whether the name without the dot counts too.
    Name(String, bool, Option<u16>),
}

impl Proxies {
    /// From the process's environment, upper case before lower case.
    pub fn from_environment() -> Self {
        Self::from(|name| {
            [name.to_owned(), name.to_lowercase()]
                .into_iter()
                .filter_map(|name| std::env::var(name).ok())
                .find(|value| !value.is_empty())
        })
    }

    /// From variables by their upper-case names. `ALL_PROXY` stands in for either of the others.
    pub fn from(variable: impl Fn(&str) -> Option<String>) -> Self {
        let mut broken = None;
        let mut proxy = |name: &str| {
            let (name, text) = match (variable(name), variable("ALL_PROXY")) {
                (Some(text), _) => (name, text),
                (None, Some(text)) => ("ALL_PROXY", text),
                (None, None) => return None,
            };
            let full = if text.contains("://") { text } else { format!("http://{text}") };
            let url = Url::parse(&full)
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") && url.has_host());
            if url.is_none() {
                broken = Some(format!("{name} is not the URL of an http, https or socks5 proxy"));
            }
            url
        };
        let (http, https) = (proxy("HTTP_PROXY"), proxy("HTTPS_PROXY"));
        let exempt = variable("NO_PROXY").unwrap_or_default();
        Self { http, https, exempt: exempt.split(',').filter_map(exempt_of).collect(), broken }
    }

    /// The proxy for a URL; `None` to go there directly.
    pub fn for_url(&self, url: &Url) -> Option<&Url> {
        let proxy = if url.scheme() == "https" { self.https.as_ref() } else { self.http.as_ref() }?;
        let host = url.host_str()?.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        let port = url.port_or_known_default();
        let address: Option<IpAddr> = host.parse().ok();
        // Go's special case, whatever NO_PROXY says.
        if host == "localhost" || address.is_some_and(|ip| ip.is_loopback()) {
            return None;
        }
        let exempt = self.exempt.iter().any(|exempt| match exempt {
            Exempt::Everything => true,
            Exempt::Network(network, bits) => address.is_some_and(|ip| contains(*network, *bits, ip)),
            Exempt::Address(own, at) => address == Some(*own) && at.is_none_or(|at| Some(at) == port),
            Exempt::Name(suffix, bare, at) => {
                (host.ends_with(suffix.as_str()) || (*bare && host == suffix[1..]))
                    && at.is_none_or(|at| Some(at) == port)
            }
        });
        (!exempt).then_some(proxy)
    }

    /// Whether TLS is needed on the way to a proxy, even for plain HTTP through it.
    pub fn speak_tls(&self) -> bool {
        self.http.as_ref().is_some_and(|url| url.scheme() == "https")
    }

    /// Why none of this can be used.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }
}

fn exempt_of(entry: &str) -> Option<Exempt> {
    let entry = entry.trim().to_ascii_lowercase();
    if entry.is_empty() {
        return None;
    }
    if entry == "*" {
        return Some(Exempt::Everything);
    }
    if let Some((network, bits)) = entry.split_once('/')
        && let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u8>())
    {
        return Some(Exempt::Network(network, bits));
    }
    if let Ok(address) = entry.trim_matches(['[', ']']).parse() {
        return Some(Exempt::Address(address, None));
    }
    let (name, port) = match entry.rsplit_once(':').map(|(name, port)| (name, port.parse::<u16>())) {
        Some((name, Ok(port))) => (name, Some(port)),
        _ => (entry.as_str(), None),
    };
    if let Ok(address) = name.trim_matches(['[', ']']).parse() {
        return Some(Exempt::Address(address, port));
    }
    // `*.example.com` is `.example.com`: what is beneath, not the name itself.
    let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
    match name.starts_with('.') {
        true => Some(Exempt::Name(name.to_owned(), false, port)),
        false => Some(Exempt::Name(format!(".{name}"), true, port)),
    }
}

fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            u32::from(network) & mask == u32::from(address) & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            u128::from(network) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(variables: &[(&str, &str)], url: &str) -> Option<String> {
        let proxies = Proxies::from(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()));
        assert_eq!(proxies.broken(), None);
        proxies.for_url(&Url::parse(url).unwrap()).map(|u| u.to_string())
    }

    #[test]
    fn each_scheme_has_its_variable_and_all_proxy_stands_in() {
        let both = [("HTTP_PROXY", "one:3128"), ("HTTPS_PROXY", "http://two:3128"), ("ALL_PROXY", "http://three")];
        assert_eq!(through(&both, "http://r.local/v2/").as_deref(), Some("http://one:3128/"));
        assert_eq!(through(&both, "https://r.local/v2/").as_deref(), Some("http://two:3128/"));
        assert_eq!(through(&both[1..], "http://r.local/").as_deref(), Some("http://three/"));
        assert_eq!(through(&both[..1], "https://r.local/"), None);
        let broken = Proxies::from(|name| (name == "HTTPS_PROXY").then(|| "ftp://x".into()));
        assert_eq!(broken.broken(), Some("HTTPS_PROXY is not the URL of an http, https or socks5 proxy"));
    }

    #[test]
    fn no_proxy_follows_go() {
        let rows: &[(&str, &str, bool)] = &[
            ("", "r.local", true),
            ("", "localhost:5000", false),
            ("", "127.0.0.1:5000", false),
            ("", "[::1]:5000", false),
            ("*", "r.local", false),
            ("r.local", "r.local", false),
            ("r.local", "a.R.local", false),
            ("r.local", "other-r.local", true),
            (".r.local", "r.local", true),
            (".r.local", "a.r.local", false),
            ("*.r.local", "a.r.local", false),
            ("*.r.local", "r.local", true),
            ("r.local:5000", "r.local:5000", false),
            ("r.local:5000", "r.local", true),
            ("r.local:443", "r.local", false),
            ("10.0.0.0/8, x", "10.1.2.3", false),
            ("10.0.0.0/8", "11.1.2.3", true),
            ("0.0.0.0/0", "11.1.2.3", false),
            ("10.1.2.3:5000", "10.1.2.3:5000", false),
            ("10.1.2.3:5000", "10.1.2.3", true),
            ("fd00::/8", "[fd00::1]:5000", false),
            ("fd00::1", "[fd00::1]", false),
            ("local", "r.local", false),
        ];
        for (exempt, host, proxied) in rows {
            let variables = [("ALL_PROXY", "http://p"), ("NO_PROXY", exempt)];
            assert_eq!(through(&variables, &format!("https://{host}/")).is_some(), *proxied, "{exempt:?} {host}");
        }
    }
}
