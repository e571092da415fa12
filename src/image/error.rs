//! What can go wrong with images, each naming its object, the cause and the next step.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Class, Fault};
use crate::oci::{Digest, Platform};

/// What to do about a full disk.
pub(crate) const MAKE_ROOM: &str =
    "free space there, and try again; `bayplan image prune --all --dry-run` shows what images could give";

/// A failure of the image side. Cheap to clone: one fetch may fail for several waiting pulls.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    /// The file system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with its path.
        what: String,
        /// What the kernel said.
        source: Arc<io::Error>,
    },
    /// The disk is full.
    #[error("no space left on the file system of {}", .path.display())]
    Full {
        /// The directory that was written to.
        path: PathBuf,
    },
    /// A registry did not give what was asked for.
    #[error("image {reference}: {host} {why}{}", told(.before))]
    Registry {
        /// The reference being resolved or pulled.
        reference: String,
        /// The host that answered, or did not.
        host: String,
        /// What it did.
        why: RegistryFailure,
        /// Mirrors that were asked before it, each with what it did.
        before: Box<[String]>,
    },
    /// Blobs of an image are not in the content store.
    #[error("image {image} is not whole on this node: {} missing", .missing.join(", "))]
    NotPresent {
        /// Its reference where that is known, else its target's digest.
        image: String,
        /// Digests that are not there.
        missing: Vec<String>,
    },
    /// Bytes are not what their digest says.
    #[error("{what} is corrupt: its digest is {actual}, not {expected}")]
    Digest {
        /// Which bytes.
        what: String,
        /// The digest it was asked for by.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// More or fewer bytes than the descriptor says.
    #[error("{what} has {actual} bytes, not {expected} as its descriptor says")]
    Size {
        /// Which bytes.
        what: String,
        /// By the descriptor.
        expected: u64,
        /// That came.
        actual: u64,
    },
    /// A document is larger than is allowed for its kind.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// Which document.
        what: String,
        /// The bound in bytes.
        limit: u64,
    },
    /// A manifest, index or configuration that cannot be understood.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// Which document.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Understood, but not an image that can run here.
    #[error("{image} cannot be used: {why}")]
    Unsupported {
        /// Reference or digest.
        image: String,
        /// What it is.
        why: String,
    },
    /// None of an index's manifests fits.
    #[error("image {image} has no manifest for {wanted}; it offers {}", listed(.offered))]
    Platform {
        /// Reference or digest.
        image: String,
        /// The platform asked for.
        wanted: Platform,
        /// What the index offers.
        offered: Vec<Platform>,
    },
    /// An index says another platform of a manifest than the manifest's own configuration.
    #[error("image {image}: its index says that {manifest} is for {said}, and its configuration says {is}")]
    Mislabelled {
        /// Reference or digest of the index.
        image: String,
        /// Which manifest.
        manifest: Digest,
        /// By the index.
        said: Box<Platform>,
        /// By the configuration.
        is: Box<Platform>,
    },
    /// An index names it, and it is not here.
    #[error("image {image} is here for {}, and not for {wanted}", listed(.here))]
    Absent {
        /// Its reference.
        image: String,
        /// The platform asked for.
        wanted: Platform,
        /// Platforms whose images are whole here.
        here: Vec<Platform>,
    },
    /// Of several platforms that an index names, not all are here.
    #[error("image {image} is here for {} only, and its index names others", listed(.here))]
    Partial {
        /// Its reference.
        image: String,
        /// Platforms whose images are whole here.
        here: Vec<Platform>,
    },
    /// An archive that cannot be imported.
    #[error("archive {archive}: {why}")]
    Archive {
        /// Its path, or `standard input`.
        archive: String,
        /// What is wrong with it.
        why: String,
    },
    /// A tar file that is no root file system.
    #[error("root file system {archive}: {why}")]
    Rootfs {
        /// Its path, or `standard input`.
        archive: String,
        /// What is wrong with it.
        why: String,
    },
}

fn listed(platforms: &[Platform]) -> String {
    match platforms {
        [] => "none".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn told(before: &[String]) -> String {
    if before.is_empty() { String::new() } else { format!("; before it, mirror {}", before.join(", mirror ")) }
}

/// How a registry failed. The text follows the host's name.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryFailure {
    /// 404.
    #[error("answers 404: {0}")]
    NotFound(String),
    /// 401 or 403, with what we had to show.
    #[error("answers {status}: {message}{}", if *.anonymous { " (no credentials were sent)" } else { "" })]
    Denied {
        /// 401 or 403.
        status: u16,
        /// The registry's own words.
        message: String,
        /// Nothing was found to authenticate with.
        anonymous: bool,
    },
    /// Any other status that is not success.
    #[error("answers {status}: {message}{}", rest(.retry_after))]
    Status {
        /// The HTTP status.
        status: u16,
        /// The registry's own words.
        message: String,
        /// What Retry-After asks for.
        retry_after: Option<Duration>,
    },
    /// No connection, or one that broke.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// A connection that broke after it was made.
    #[error("broke the connection: {0}")]
    Broken(String),
    /// TLS could not be agreed on.
    #[error("cannot be trusted: {0}")]
    Tls(String),
    /// Nothing came for too long.
    #[error("sent nothing for {} s", .0.as_secs())]
    Stalled(Duration),
    /// Something came, but too little for too long.
    #[error("sent only {came} bytes in {} s", .over.as_secs())]
    Slow {
        /// Bytes.
        came: u64,
        /// In this time spent waiting.
        over: Duration,
    },
    /// Redirects that lead nowhere or are not safe to follow.
    #[error("redirects {0}")]
    Redirect(String),
    /// An answer that is not the distribution protocol.
    #[error("does not speak the registry protocol: {0}")]
    Protocol(String),
    /// The token endpoint, a credential helper or auth.json.
    #[error("could not be authenticated with: {0}")]
    Auth(String),
    /// A document larger than its kind may be, in bytes.
    #[error("sends a manifest larger than {0} bytes")]
    TooLarge(u64),
    /// A hosts.toml, a certificate or a proxy variable of this node.
    #[error("cannot be asked: {0}")]
    Config(String),
    /// One of the above at another host than the reference names, or after mirrors failed.
    #[error("{host} {why}")]
    At {
        /// The host that was asked last.
        host: String,
        /// What it did.
        why: Box<RegistryFailure>,
        /// The mirrors before it.
        before: Box<[(String, RegistryFailure)]>,
    },
}

fn rest(asked: &Option<Duration>) -> String {
    // Short ones are waited for and need no mention.
    match asked {
        Some(asked) if asked.as_secs() > 30 => format!(" (it asks to be left alone for {} s)", asked.as_secs()),
        _ => String::new(),
    }
}

impl RegistryFailure {
    /// Whether the same request may succeed a moment later, and how long it asked to be left alone.
    pub(crate) fn transient(&self) -> Option<Option<Duration>> {
        match self {
            Self::Status { status: 408 | 429 | 500..=599, retry_after, .. } => Some(*retry_after),
            Self::Broken(_) | Self::Stalled(_) | Self::Slow { .. } => Some(None),
            // Any of them may be back by then.
            Self::At { why, before, .. } => {
                why.transient().or_else(|| before.iter().find_map(|(_, failure)| failure.transient()))
            }
            _ => None,
        }
    }

    /// The same failure, of this host.
    pub(crate) fn of(self, host: String) -> Self {
        match self {
            at @ Self::At { .. } => at,
            why => Self::At { host, why: Box::new(why), before: Box::default() },
        }
    }

    /// The host it is of, where that is not the one the reference names.
    pub(crate) fn host(&self) -> Option<&str> {
        match self {
            Self::At { host, .. } => Some(host),
            _ => None,
        }
    }
}

/// The name that a reference has for its host; the host itself where there is no reference.
fn named<'a>(reference: &'a str, host: &'a str) -> &'a str {
    reference.split_once('/').map_or(host, |(named, _)| named)
}

impl ImageError {
    /// `what` names the operation and its path.
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source: Arc::new(source) }
    }

    /// For `map_err` on an operation on one path.
    pub(crate) fn at<'a>(verb: &'a str, path: &'a Path) -> impl Fn(io::Error) -> Self + 'a {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { path: path.parent().unwrap_or(path).into() }
            }
            _ => Self::io(format!("{verb} {}", path.display()), source),
        }
    }

    /// What a registry did about a reference; `host` is the one that the reference names.
    pub(crate) fn registry(reference: String, host: &str, why: RegistryFailure) -> Self {
        match why {
            RegistryFailure::At { host, why, before } => {
                let before = before.iter().map(|(host, why)| format!("{host} {why}")).collect();
                Self::Registry { reference, host, why: *why, before }
            }
            RegistryFailure::TooLarge(limit) => {
                Self::TooLarge { what: format!("image {reference}: its manifest"), limit }
            }
            why => Self::Registry { reference, host: host.to_owned(), why, before: Box::default() },
        }
    }

    /// The same failure, told about another reference that waited for the same fetch.
    pub(crate) fn for_reference(self, name: &str) -> Self {
        match self {
            Self::Registry { host, why, before, .. } => {
                Self::Registry { reference: name.to_owned(), host, why, before }
            }
            other => other,
        }
    }

    /// The same failure of an image that is known by a better name than its digest.
    pub(crate) fn named(mut self, name: &str) -> Self {
        match &mut self {
            Self::NotPresent { image, .. } | Self::Platform { image, .. } | Self::Mislabelled { image, .. }
                if image.starts_with("sha256:") =>
            {
                name.clone_into(image);
            }
            _ => {}
        }
        self
    }

    /// Whether other credentials or another host could have succeeded.
    pub(crate) fn is_registry(&self) -> bool {
        matches!(self, Self::Registry { .. })
    }

    fn class_and_help(&self) -> (Class, Option<String>) {
        match self {
            Self::Full { .. } => (Class::Runtime, Some(MAKE_ROOM.into())),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                (Class::Runtime, Some(MAKE_ROOM.into()))
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => (Class::NotFound, None),
            Self::Io { .. } => (Class::Runtime, None),
            Self::Registry { reference, host, why, .. } => match why {
                // What is said of hosts, and kept for them, goes by the name that references have for them, wherever
                // hosts.toml says they are.
                RegistryFailure::Denied { anonymous: true, .. } => {
                    let named = named(reference, host);
                    (Class::Registry, Some(format!("run bayplan login {named}, or name credentials in auth.json")))
                }
                RegistryFailure::Denied { .. } => {
                    let named = named(reference, host);
                    let help = format!(
                        "the credentials for {named} do not permit this; renew them with bayplan login {named}"
                    );
                    (Class::Registry, Some(help))
                }
                RegistryFailure::NotFound(_) => {
                    (Class::NotFound, Some(format!("check the repository and the tag of {reference}")))
                }
                RegistryFailure::Unreachable(_) => {
                    (Class::Registry, Some(format!("check that {host} is up and can be reached from this node")))
                }
                RegistryFailure::Tls(_) => (
                    Class::Registry,
                    Some(format!(
                        "name its CA in {}/hosts.toml of [registry] certs_dir, by default /etc/bayplan/certs.d (ca = \"ca.pem\"), add it to the system's, or skip the check with -k",
                        named(reference, host)
                    )),
                ),
                RegistryFailure::Status { status: 400, message, .. } if message.contains("to an HTTPS server") => {
                    (Class::Registry, Some(format!("{host} speaks TLS: leave out --plain-http")))
                }
                RegistryFailure::Config(_) => (Class::Invalid, Some("mend it; no restart is needed".into())),
                RegistryFailure::Stalled(_) | RegistryFailure::Slow { .. } => (
                    Class::Registry,
                    Some(format!("check {host} and the way to it; what has come is kept and taken up again")),
                ),
                RegistryFailure::Protocol(_) => (
                    Class::Registry,
                    Some(format!(
                        "check that {host} is a registry; for one without TLS use --plain-http or [registry] plain_http"
                    )),
                ),
                _ => (Class::Registry, None),
            },
            Self::NotPresent { .. } => (Class::NotFound, Some("pull or load it again".into())),
            Self::Digest { .. } | Self::Size { .. } => {
                (Class::Registry, Some("the source or the way to it is broken; try again, then tell its owner".into()))
            }
            Self::TooLarge { .. } | Self::Malformed { .. } => (Class::Registry, None),
            Self::Unsupported { .. } => (Class::Refused, None),
            Self::Mislabelled { .. } => (Class::Registry, Some("its owner has to make the index anew".into())),
            Self::Platform { .. } => {
                (Class::NotFound, Some("choose one of them with --platform, or another image".into()))
            }
            Self::Absent { image, wanted, .. } => (
                Class::NotFound,
                Some(format!("bring it: bayplan pull --platform {wanted} {image}; or choose one that is here")),
            ),
            Self::Partial { image, .. } => (
                Class::Refused,
                Some(format!("choose one with --platform, or bring the others: bayplan pull --all-platforms {image}")),
            ),
            Self::Archive { .. } => (
                Class::Invalid,
                Some(
                    "an OCI layout or a Docker archive is expected, plain or packed by gzip or zstd; for a root file \
                     system: bayplan image import --rootfs FILE NAME"
                        .into(),
                ),
            ),
            Self::Rootfs { .. } => (
                Class::Invalid,
                Some(
                    "a tar file of a root file system is expected, plain or packed by gzip or zstd; for an archive of \
                     images leave --rootfs out"
                        .into(),
                ),
            ),
        }
    }
}

impl From<ImageError> for Fault {
    fn from(error: ImageError) -> Fault {
        let (class, help) = error.class_and_help();
        Fault { class, message: error.to_string(), help, place: None }
    }
}
