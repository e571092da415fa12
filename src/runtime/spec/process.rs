//! What is run: arguments, environment, working directory, stop signal.

use std::str::FromStr;

use indexmap::IndexMap;
use nix::sys::signal::Signal;
use oci_spec::image::{Config, ImageConfiguration};

use super::expand::expand;
use super::{Problem, ResolvedUser};
use crate::manifest::ContainerSpec;

/// What containerd gives a process whose image names no PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `command` replaces ENTRYPOINT and drops CMD, `args` replaces CMD (Kubernetes). The manifest's own words
/// are expanded with the manifest's own variables; the image's are taken as they are.
pub(super) fn args(
    container: &ContainerSpec,
    image: Option<&Config>,
    env: &IndexMap<String, String>,
) -> Result<Vec<String>, Problem> {
    let expanded = |words: &Vec<String>| {
        words.iter().map(|word| expand(word, |name| env.get(name).map(String::as_str))).collect::<Vec<_>>()
    };
    // An empty list is as good as none, in Kubernetes and in images alike.
    let given = |words: &Option<Vec<String>>| words.as_ref().filter(|words| !words.is_empty()).map(expanded);
    let of_image = |words: Option<&Option<Vec<String>>>| words.cloned().flatten().unwrap_or_default();
    let command = given(&container.command);
    let args = given(&container.args);
    let mut words = match &command {
        Some(command) => command.clone(),
        None => of_image(image.map(Config::entrypoint)),
    };
    match (args, command) {
        (Some(args), _) => words.extend(args),
        (None, Some(_)) => {}
        (None, None) => words.extend(of_image(image.map(Config::cmd))),
    }
    match words.first() {
        None => Err(Problem::NothingToRun),
        Some(program) if program.is_empty() => Err(Problem::EmptyProgram),
        Some(_) => Ok(words),
    }
}

/// The manifest's own variables with `$(NAME)` expanded: each sees those before it.
pub(super) fn own_env(container: &ContainerSpec) -> Result<IndexMap<String, String>, Problem> {
    let mut env: IndexMap<String, String> = IndexMap::with_capacity(container.env.len());
    for (name, value) in &container.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Problem::EnvName(name.clone()));
        }
        let value = expand(value, |name| env.get(name).map(String::as_str));
        env.insert(name.clone(), value);
    }
    Ok(env)
}

/// The whole environment as `NAME=value`: the image's first, the manifest's over it in place, then what a
/// process expects and nobody set.
pub(super) fn env(
    container: &ContainerSpec,
    image: Option<&Config>,
    own: &IndexMap<String, String>,
    user: &ResolvedUser,
    hostname: &str,
) -> Vec<String> {
    let mut env: IndexMap<&str, &str> = IndexMap::new();
    let of_image = image.and_then(|image| image.env().as_deref()).unwrap_or_default();
    env.extend(of_image.iter().filter_map(|pair| pair.split_once('=')).filter(|(name, _)| !name.is_empty()));
    env.extend(own.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let mut default = |name, value| {
        env.entry(name).or_insert(value);
    };
    default("PATH", PATH);
    default("HOSTNAME", hostname);
    default("HOME", &user.home);
    if container.tty {
        default("TERM", "xterm");
    }
    env.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The manifest's, else the image's (which may be relative to `/`), else `/`.
pub(super) fn working_dir(container: &ContainerSpec, image: Option<&Config>) -> Result<String, Problem> {
    match container.working_dir.as_deref().filter(|dir| !dir.is_empty()) {
        Some(dir) if !dir.starts_with('/') => Err(Problem::WorkingDir(dir.to_owned())),
        Some(dir) => Ok(dir.to_owned()),
        None => {
            let dir = image.and_then(|image| image.working_dir().as_deref()).unwrap_or_default();
            Ok(if dir.starts_with('/') { dir.to_owned() } else { format!("/{dir}") })
        }
    }
}

/// The number of the signal that a stop sends first: the manifest's, else the image's STOPSIGNAL, else SIGTERM.
/// Names come with or without `SIG`, in any case; real-time signals as `RTMIN+3`.
pub fn stop_signal(container: &ContainerSpec, image: &ImageConfiguration) -> Result<i32, Problem> {
    let of_image = image.config().as_ref().and_then(|config| config.stop_signal().as_deref());
    match container.stop_signal.as_deref().or(of_image).map(str::trim).filter(|name| !name.is_empty()) {
        Some(name) => signal_number(name).ok_or_else(|| Problem::UnknownSignal(name.to_owned())),
        None => Ok(Signal::SIGTERM as i32),
    }
}

/// The first and last real-time signals that glibc and musl leave to programs on Linux.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// A signal's number from its name or number.
pub fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = if let Some(offset) = plain.strip_prefix("RTMIN") {
        RTMIN + if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse::<i32>().ok()? }
    } else if let Some(offset) = plain.strip_prefix("RTMAX") {
        RTMAX - if offset.is_empty() { 0 } else { offset.strip_prefix('-')?.parse::<i32>().ok()? }
    } else {
        let plain = if plain == "POLL" { "IO" } else { plain };
        return Signal::from_str(&format!("SIG{plain}")).ok().map(|signal| signal as i32);
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::spec::tests::{container, image_config};
    use oci_spec::image::ConfigBuilder;

    fn words(words: &str) -> Vec<String> {
        words.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn command_replaces_entrypoint_and_cmd_and_args_replace_cmd() {
        // entrypoint, cmd, command, args -> expected
        for (entrypoint, cmd, command, args_, expected) in [
            ("ls", "/", None, None, "ls /"),
            ("ls", "/", Some("pwd"), None, "pwd"),
            ("ls", "/", None, Some("-l /etc"), "ls -l /etc"),
            ("ls", "/", Some("cat"), Some("/etc/passwd"), "cat /etc/passwd"),
            ("", "sh -c x", None, None, "sh -c x"),
            ("", "sh", None, Some("id"), "id"),
            ("ls", "", None, None, "ls"),
            ("ls", "/", Some(""), Some(""), "ls /"),
        ] {
            let config = ConfigBuilder::default().entrypoint(words(entrypoint)).cmd(words(cmd)).build().unwrap();
            let mut spec = container();
            spec.command = command.map(words);
            spec.args = args_.map(words);
            assert_eq!(args(&spec, Some(&config), &IndexMap::new()).unwrap(), words(expected));
        }
        assert!(matches!(args(&container(), None, &IndexMap::new()), Err(Problem::NothingToRun)));
        let mut spec = container();
        spec.command = Some(vec![String::new()]);
        assert!(matches!(args(&spec, None, &IndexMap::new()), Err(Problem::EmptyProgram)));
    }

    #[test]
    fn only_the_manifests_words_are_expanded_with_the_manifests_variables() {
        let config = ConfigBuilder::default().entrypoint(words("echo $(A)")).env(words("B=image")).build().unwrap();
        let mut spec = container();
        spec.env =
            IndexMap::from([("A".into(), "1".into()), ("C".into(), "$(A)$(D)$(B)".into()), ("D".into(), "4".into())]);
        let own = own_env(&spec).unwrap();
        // Later variables and the image's are not seen, as in Kubernetes.
        assert_eq!(own["C"], "1$(D)$(B)");
        spec.args = Some(words("$(C) $(B) $$(A)"));
        assert_eq!(args(&spec, Some(&config), &own).unwrap(), words("echo $(A) 1$(D)$(B) $(B) $(A)"));
    }

    #[test]
    fn the_manifest_overrides_the_images_variables_in_place() {
        let config = ConfigBuilder::default().env(words("PATH=/bin TZ=UTC LANG=C bogus =x E=a=b")).build().unwrap();
        let mut spec = container();
        spec.env = IndexMap::from([("TZ".into(), "CET".into()), ("NEW".into(), "1".into())]);
        let user = ResolvedUser { uid: 0, gid: 0, groups: vec![0], home: "/root".into() };
        let own = own_env(&spec).unwrap();
        assert_eq!(
            env(&spec, Some(&config), &own, &user, "web"),
            words("PATH=/bin TZ=CET LANG=C E=a=b NEW=1 HOSTNAME=web HOME=/root")
        );
        spec.tty = true;
        spec.env = IndexMap::from([("HOME".into(), "/x".into()), ("HOSTNAME".into(), "mine".into())]);
        let own = own_env(&spec).unwrap();
        assert_eq!(
            env(&spec, None, &own, &user, "web"),
            words(&format!("HOME=/x HOSTNAME=mine PATH={PATH} TERM=xterm"))
        );
        for name in ["", "A=B", "A\0"] {
            spec.env = IndexMap::from([(name.into(), "1".into())]);
            assert!(matches!(own_env(&spec), Err(Problem::EnvName(_))));
        }
    }

    #[test]
    fn the_working_directory_is_the_manifests_then_the_images_then_the_root() {
        for (own, image, expected) in [
            (None, None, "/"),
            (None, Some("/etc"), "/etc"),
            (None, Some("srv/app"), "/srv/app"),
            (Some("/x"), Some("/etc"), "/x"),
            (Some(""), Some("/etc"), "/etc"),
        ] {
            let mut spec = container();
            spec.working_dir = own.map(str::to_owned);
            let config = ConfigBuilder::default().working_dir(image.unwrap_or_default()).build().unwrap();
            assert_eq!(working_dir(&spec, Some(&config)).unwrap(), expected);
        }
        let mut spec = container();
        spec.working_dir = Some("x".into());
        assert!(working_dir(&spec, None).is_err());
    }

    #[test]
    fn stop_signals_have_names_and_numbers() {
        for (own, image, expected) in [
            (None, None, 15),
            (None, Some("SIGQUIT"), 3),
            (Some("int"), Some("SIGQUIT"), 2),
            (Some("10"), None, 10),
            (Some("SIGRTMIN+3"), None, 37),
            (Some("RTMAX-1"), None, 63),
            (Some("SIGPOLL"), None, 29),
        ] {
            let mut spec = container();
            spec.stop_signal = own.map(str::to_owned);
            let config = ConfigBuilder::default().stop_signal(image.unwrap_or_default()).build().unwrap();
            assert_eq!(stop_signal(&spec, &image_config(config)).unwrap(), expected);
        }
        for name in ["SIGNOPE", "0", "65", "-9", "RTMIN+31", "RTMIN-1"] {
            assert_eq!(signal_number(name), None, "{name}");
        }
    }
}
