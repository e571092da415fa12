//! Client certificates. Several may be named for a host: the host says which authorities it trusts, and is shown
//! the first that one of them signed, as Go does it and so containerd.
//!
//! Invariant: what a key's file holds is in no error and no log.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

/// The certificates of one host with their keys, in the order they were named.
pub struct Identities(Vec<Arc<CertifiedKey>>);

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({})", self.0.len())
    }
}

impl Identities {
    /// Nothing to show.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Of pairs of files; without the second, the first holds the key, too. Errors name the files.
    pub fn of(
        pairs: &[(PathBuf, Option<PathBuf>)],
        read: impl Fn(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Self, String> {
        let provider = provider();
        let one = |(certificate, key): &(PathBuf, Option<PathBuf>)| {
            let chain = read(certificate)?;
            let secret = key.as_deref().map(&read).transpose()?;
            let secret = secret.as_deref().unwrap_or(&chain);
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
            let parsed = chain.ok().filter(|chain| !chain.is_empty()).and_then(|chain| {
                let key = PrivateKeyDer::from_pem_slice(secret).ok()?;
                CertifiedKey::from_der(chain, key, &provider).ok()
            });
            // An error of the parsers may quote the file, which holds a key.
            parsed.map(Arc::new).ok_or_else(|| match key {
                Some(key) => {
                    format!("{} and {} are not a PEM certificate and its key", certificate.display(), key.display())
                }
                None => format!("{} does not hold both a PEM certificate and its key", certificate.display()),
            })
        };
        pairs.iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// TLS that shows them: to whoever `roots` and the system's authorities vouch for, or to anybody.
    pub fn config(
        self: &Arc<Self>,
        roots: &[CertificateDer<'static>],
        skip_verify: bool,
    ) -> Result<ClientConfig, rustls::Error> {
        let provider = provider();
        let verifier: Arc<dyn ServerCertVerifier> = match skip_verify {
            true => Arc::new(Anybody(Arc::clone(&provider))),
            false => Arc::new(rustls_platform_verifier::Verifier::new_with_extra_roots(
                roots.iter().cloned(),
                Arc::clone(&provider),
            )?),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::<Self>::clone(self));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesClientCert for Identities {
    fn resolve(&self, trusted: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let able = || self.0.iter().filter(|own| own.key.choose_scheme(schemes).is_some());
        let signed = |own: &CertifiedKey| own.cert.iter().filter_map(|der| issuer(der)).any(|by| trusted.contains(&by));
        // Hints may be left out or wrong; a host that wants none of ours says so by itself.
        able().find(|own| signed(own)).or_else(|| able().next()).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.is_empty()
    }
}

/// What was installed for the process, which is ring by then.
fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()))
}

/// Takes any certificate: what `skip_verify` asks for.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The issuer of a certificate as it stands in it (RFC 5280, 4.1): version, serial number, signature, issuer.
fn issuer(certificate: &[u8]) -> Option<&[u8]> {
    let mut rest = content(content(certificate)?)?;
    // The version is tagged, and may be left out.
    if rest.first() == Some(&0xa0) {
        rest = &rest[element(rest)?.1..];
    }
    for _ in ["serial number", "signature"] {
        rest = &rest[element(rest)?.1..];
    }
    Some(&rest[..element(rest)?.1])
}

fn content(der: &[u8]) -> Option<&[u8]> {
    let (from, to) = element(der)?;
    der.get(from..to)
}

/// Where the content of the first element of DER begins and ends.
fn element(der: &[u8]) -> Option<(usize, usize)> {
    let (from, length) = match usize::from(*der.get(1)?) {
        short @ 0..=0x7f => (2, short),
        long @ 0x81..=0x84 => {
            let from = long - 0x80 + 2;
            (from, der.get(2..from)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
        }
        _ => return None,
    };
    let to = from.checked_add(length)?;
    (to <= der.len()).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// A certificate comes from a file of the node's owner and may be anything.
        #[test]
        fn no_certificate_is_too_strange(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40)) {
            let _ = issuer(&bytes);
        }
    }
}
