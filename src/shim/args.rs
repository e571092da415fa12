//! The command line that containerd fixes for shims v2 ("Runtime v2", section Commands): Go's single-dash flags, then
//! an action.

use std::path::PathBuf;

/// What a shim is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Leave a serving shim behind and print its address.
    Start,
    /// Clean up after a dead shim and print a `DeleteResponse`.
    Delete,
    /// Print the version.
    Version,
    /// Print a `RuntimeInfo`.
    Info,
}

/// The parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// What to do.
    pub action: Action,
    /// Namespace of the container.
    pub namespace: String,
    /// The container's name.
    pub id: String,
    /// The bundle; `None` is the working directory.
    pub bundle: Option<PathBuf>,
    /// Where the host takes events.
    pub address: String,
    /// The host's own program, which takes events.
    pub publish_binary: String,
    /// Write down more.
    pub debug: bool,
}

/// Why a command line was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArgsError {
    /// A flag that is not known.
    #[error("flag -{0} is not known; use -namespace, -id, -address, -publish-binary, -bundle, -debug or -v")]
    Flag(String),
    /// A flag without its value.
    #[error("flag -{0} wants a value")]
    Value(String),
    /// No action, or none that is known.
    #[error("action {0:?} is not known; use start or delete")]
    Action(String),
    /// No usable id.
    #[error("id {0:?} is refused: 1 to 255 letters, digits and _ + - . are allowed, and no dash or dot in front")]
    Id(String),
}

/// Whether a runtime and a path can carry this id.
pub fn valid_id(id: &str) -> bool {
    (1..=255).contains(&id.len())
        && !id.starts_with(['-', '.'])
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte))
}

/// Parses what follows the program's name.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Args, ArgsError> {
    let mut parsed = Args {
        action: Action::Version,
        namespace: String::new(),
        id: String::new(),
        bundle: None,
        address: String::new(),
        publish_binary: String::new(),
        debug: false,
    };
    let mut action = None;
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let Some(flag) = argument.strip_prefix('-') else {
            action = Some(argument);
            continue;
        };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        let (name, mut inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let mut value = || inline.take().or_else(|| arguments.next()).ok_or_else(|| ArgsError::Value(name.to_owned()));
        match name {
            "namespace" => parsed.namespace = value()?,
            "id" => parsed.id = value()?,
            "bundle" => parsed.bundle = Some(PathBuf::from(value()?)).filter(|path| !path.as_os_str().is_empty()),
            "address" => parsed.address = value()?,
            "publish-binary" => parsed.publish_binary = value()?,
            "socket" | "debug-socket" => drop(value()?),
            "debug" => parsed.debug = true,
            "v" | "version" => return Ok(parsed),
            "info" => return Ok(Args { action: Action::Info, ..parsed }),
            _ => return Err(ArgsError::Flag(name.to_owned())),
        }
    }
    parsed.action = match action.as_deref() {
        Some("start") => Action::Start,
        Some("delete") => Action::Delete,
        other => return Err(ArgsError::Action(other.unwrap_or_default().to_owned())),
    };
    if valid_id(&parsed.id) { Ok(parsed) } else { Err(ArgsError::Id(parsed.id)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<Args, ArgsError> {
        parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn containerds_spelling_is_understood() {
        let args =
            line("-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id x1 -debug start");
        let expected = Args {
            action: Action::Start,
            namespace: "k8s.io".into(),
            id: "x1".into(),
            bundle: None,
            address: "/run/c.sock".into(),
            publish_binary: "/usr/bin/containerd".into(),
            debug: true,
        };
        assert_eq!(args, Ok(expected));
        let args = line("--namespace=a -id=b -bundle /run/b delete").unwrap();
        assert_eq!((args.action, args.bundle), (Action::Delete, Some("/run/b".into())));
        assert_eq!(line("-v").unwrap().action, Action::Version);
        assert_eq!(line("-info").unwrap().action, Action::Info);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(line("-id x restart"), Err(ArgsError::Action("restart".into())));
        assert_eq!(line("-colour red -id x start"), Err(ArgsError::Flag("colour".into())));
        assert_eq!(line("start -id"), Err(ArgsError::Value("id".into())));
        for id in ["../x", "a/b", "", "-x", ".x", "a b", &"x".repeat(300)] {
            assert!(!valid_id(id), "{id:?}");
        }
        assert!(valid_id("a.b_c-d+1"));
    }
}
