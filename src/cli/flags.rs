//! The flags of `run` and `create` → a container spec.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use crate::error::{Class, Fault, Result};
use crate::manifest::{ContainerSpec, Mount, MountKind, Quantity, RestartPolicy};
use crate::oci::Reference;

/// See the module.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Environment: KEY=VALUE, or KEY to pass on this command's own
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Environment from a file of KEY=VALUE lines
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// SOURCE:TARGET[:ro], or type=bind,src=…,dst=…,options=rbind:ro, or type=tmpfs,dst=…
    #[arg(short = 'v', long, visible_alias = "volume", value_name = "MOUNT")]
    pub mount: Vec<String>,
    /// The node's network
    #[arg(long)]
    pub net_host: bool,
    /// Working directory
    #[arg(short = 'w', long, visible_alias = "workdir", value_name = "DIR")]
    pub cwd: Option<String>,
    /// uid[:gid], or names
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Host name inside
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// The root file system cannot be written
    #[arg(long)]
    pub read_only: bool,
    /// Every capability and device
    #[arg(long)]
    pub privileged: bool,
    /// A capability more
    #[arg(long, value_name = "CAP", value_delimiter = ',')]
    pub cap_add: Vec<String>,
    /// A capability less
    #[arg(long, value_name = "CAP", value_delimiter = ',')]
    pub cap_drop: Vec<String>,
    /// Memory, such as 64Mi, or bytes
    #[arg(long, visible_alias = "memory", value_name = "QUANTITY")]
    pub memory_limit: Option<Quantity>,
    /// Processors, such as 1.5 or 500m
    #[arg(long, value_name = "QUANTITY")]
    pub cpus: Option<Quantity>,
    /// Processes and threads
    #[arg(long, value_name = "N")]
    pub pids_limit: Option<i64>,
    /// A label
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// What happens after an exit: no, always, on-failure[:N]
    #[arg(long, value_name = "POLICY", value_parser = restart, default_value = "no")]
    pub restart: Option<Restart>,
    /// Where its output goes instead of its log: file:///PATH, or binary:///PROGRAM for a logger of containerd's kind
    #[arg(long, value_name = "URI")]
    pub log_uri: Option<String>,
    /// The signal that a stop sends first
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// An OCI runtime of the configuration, or another shim such as io.containerd.runc.v2
    #[arg(long, value_name = "NAME")]
    pub runtime: Option<String>,
}

/// A restart policy with its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// When.
    pub policy: RestartPolicy,
    /// At most so often in a row.
    pub limit: Option<u32>,
}

fn restart(text: &str) -> std::result::Result<Restart, String> {
    let wrong = || "it is one of no, always, on-failure, on-failure:N".to_owned();
    let (word, limit) = match text.split_once(':') {
        Some((word, limit)) => (word, Some(limit.parse::<u32>().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let policy = match word.to_ascii_lowercase().as_str() {
        "no" | "never" => RestartPolicy::Never,
        "always" | "unless-stopped" => RestartPolicy::Always,
        "on-failure" | "onfailure" => RestartPolicy::OnFailure,
        _ => return Err(wrong()),
    };
    if limit.is_some() && policy != RestartPolicy::OnFailure {
        return Err(wrong());
    }
    Ok(Restart { policy, limit })
}

/// `IMAGE ID [COMMAND…]`, parsed.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) id: String,
    pub(super) spec: ContainerSpec,
    pub(super) labels: BTreeMap<String, String>,
}

/// The whole of a command line: flags before IMAGE, then `IMAGE ID [COMMAND…]`.
pub(super) fn subject(flags: Flags, words: Vec<OsString>) -> Result<Subject> {
    let mut words = words.into_iter().map(|word| {
        word.into_string().map_err(|word| Fault::new(Class::Usage, format!("{} is not UTF-8", word.display())))
    });
    let missing =
        |what: &str| Fault::new(Class::Usage, format!("{what} is missing")).help("the order is IMAGE ID [COMMAND…]");
    let image = words.next().ok_or_else(|| missing("IMAGE"))??;
    if image.starts_with('-') {
        return Err(unknown_flag(&image));
    }
    let id = words.next().ok_or_else(|| missing("ID"))??;
    let command = words.collect::<Result<Vec<String>>>()?;
    if id.starts_with('-') {
        return Err(Fault::new(Class::Usage, format!("{id:?} is no container name"))
            .help(format!("flags stand before IMAGE: {id} {image} ID")));
    }
    let labels = flags.label.iter().map(|text| pair(text, "label")).collect::<Result<_>>()?;
    let mut spec = spec(flags, reference(&image)?)?;
    if !command.is_empty() {
        spec.command = Some(command);
    }
    Ok(Subject { id, spec, labels })
}

/// What stands where flags stand and is none of ours.
fn unknown_flag(word: &str) -> Fault {
    let flag = word.split('=').next().unwrap_or(word);
    let help = match flag {
        "--name" => "the name stands behind the image: IMAGE ID [COMMAND…]",
        "--entrypoint" => "a COMMAND behind ID replaces ENTRYPOINT and CMD",
        "-p" | "--publish" | "--expose" => {
            "ports are published by networks, which come later; with --net-host its ports are the node's"
        }
        "--cni" | "--ip" | "--dns" | "--link" => "networks come later; --net-host is the node's network",
        "--gpus" | "--device" => "devices come later; --privileged gives all of them",
        "--pid" | "--ipc" | "--uts" | "--userns" | "--with-ns" | "--uidmap" | "--gidmap" => {
            "every container has namespaces of its own; only the network can be the node's: --net-host"
        }
        "--cpu-quota" | "--cpu-period" | "--cpu-shares" => "write --cpus 1.5, or --cpus 500m",
        "-m" => "write --memory-limit 64Mi",
        "--rootfs" => "make an image of it: bayplan image import --rootfs FILE",
        "--snapshotter" | "--fifo-dir" | "--no-pivot" | "--cgroup" | "--cgroup-parent" => {
            "it is not needed: leave it out"
        }
        "--platform" => "pull it for that platform first: bayplan pull --platform P IMAGE",
        "--pull" => "bayplan pull IMAGE brings it anew",
        "--runc-binary" | "--runc-root" => "write --runtime NAME, with [runtimes.NAME] in the configuration",
        "--security-opt" | "--seccomp" | "--seccomp-profile" | "--apparmor-profile" => {
            "the default is what a manifest has; declare `securityContext` in one"
        }
        "--log-driver" => "write --log-uri file:///PATH or binary:///PATH; its log is kept without any",
        "--health-cmd" => "declare a probe in a manifest",
        "--tmpfs" => "write --mount type=tmpfs,dst=/PATH",
        "--network" | "--net" => "--net-host is the node's network; without it there is loopback only",
        _ => "bayplan run --help lists the flags; they stand before IMAGE",
    };
    Fault::new(Class::Usage, format!("there is no flag {flag}")).help(help)
}

/// A reference, or wrong usage with the full name suggested.
pub(super) fn reference(text: &str) -> Result<Reference> {
    Ok(text.parse::<Reference>()?)
}

fn spec(flags: Flags, image: Reference) -> Result<ContainerSpec> {
    let mut spec = ContainerSpec::of(image);
    spec.env = environment(&flags.env_file, &flags.env)?;
    spec.mounts = flags.mount.iter().map(|text| mount(text)).collect::<Result<_>>()?;
    spec.host_network = flags.net_host;
    spec.working_dir = flags.cwd;
    spec.user = flags.user;
    spec.hostname = flags.hostname;
    spec.tty = flags.tty;
    spec.security_context.read_only_root_filesystem = flags.read_only;
    spec.security_context.privileged = flags.privileged;
    spec.security_context.capabilities.add = flags.cap_add;
    spec.security_context.capabilities.drop = flags.cap_drop;
    if let Some(memory) = flags.memory_limit {
        // Docker's `64m` is 64 MB; in a quantity it is 64 thousandths of a byte.
        if memory.value() < 4096 {
            return Err(Fault::new(Class::Usage, format!("a memory limit of {memory} is less than one page"))
                .help("write 64Mi or 64M; a small m means thousandths"));
        }
        spec.resources.limits.memory = Some(memory);
    }
    spec.resources.limits.cpu = flags.cpus;
    spec.resources.limits.pids = flags.pids_limit;
    if let Some(restart) = flags.restart {
        spec.restart = restart.policy;
        spec.restart_limit = restart.limit;
    }
    spec.stop_signal = flags.stop_signal;
    spec.runtime = flags.runtime;
    if let Some(uri) = flags.log_uri {
        spec.logs.driver = Some(crate::manifest::log_driver(&uri).map_err(|why| {
            Fault::new(Class::Usage, format!("--log-uri {uri}: {why}"))
                .help("write file:///var/log/web.log, or binary:///usr/bin/logger?key=value")
        })?);
    }
    Ok(spec)
}

/// `KEY=VALUE`.
pub(super) fn pair(text: &str, what: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Fault::new(Class::Usage, format!("{what} {text:?} is not KEY=VALUE"))),
    }
}

/// Files first, flags over them; a key alone passes on this process' own value, if it has one.
pub(super) fn environment(files: &[PathBuf], flags: &[String]) -> Result<IndexMap<String, String>> {
    let mut env = IndexMap::new();
    let mut add = |text: &str| {
        match text.split_once('=') {
            Some(("", _)) => {
                return Err(Fault::new(Class::Usage, format!("environment variable {text:?} has no name")));
            }
            Some((key, value)) => {
                env.insert(key.to_owned(), value.to_owned());
            }
            None => {
                if let Ok(value) = std::env::var(text) {
                    env.insert(text.to_owned(), value);
                }
            }
        }
        Ok(())
    };
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|error| {
            Fault::new(Class::Usage, format!("environment file {} cannot be read: {error}", file.display()))
        })?;
        for line in text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            add(line)?;
        }
    }
    for text in flags {
        add(text)?;
    }
    Ok(env)
}

/// `SOURCE:TARGET[:OPTION,…]`, or ctr's `type=…,src=…,dst=…,options=A:B`.
fn mount(text: &str) -> Result<Mount> {
    let wrong = |why: &str| {
        Fault::new(Class::Usage, format!("mount {text:?}: {why}"))
            .help("write /host/dir:/inside[:ro], or type=bind,src=/host/dir,dst=/inside,options=rbind:ro")
    };
    let mut mount = Mount {
        kind: MountKind::Bind,
        source: None,
        target: String::new(),
        read_only: false,
        options: Vec::new(),
        create: false,
    };
    let mut options: Vec<&str> = Vec::new();
    if text.contains('=') && !text.starts_with(['/', '.']) {
        for part in text.split(',') {
            match part.split_once('=').unwrap_or((part, "")) {
                ("type", "bind") => mount.kind = MountKind::Bind,
                ("type", "tmpfs") => mount.kind = MountKind::Tmpfs,
                ("type", other) => return Err(wrong(&format!("type {other:?} is neither bind nor tmpfs"))),
                ("src" | "source", path) => mount.source = Some(path.to_owned()),
                ("dst" | "destination" | "target", path) => mount.target = path.to_owned(),
                ("options", list) => options.extend(list.split(':')),
                ("ro" | "readonly", _) => options.push("ro"),
                (other, _) => return Err(wrong(&format!("{other:?} is not known"))),
            }
        }
    } else {
        let mut parts = text.splitn(3, ':');
        mount.source = parts.next().map(str::to_owned);
        mount.target = parts.next().ok_or_else(|| wrong("the target is missing"))?.to_owned();
        options.extend(parts.next().into_iter().flat_map(|list| list.split(',')));
    }
    for option in options {
        match option {
            "ro" => mount.read_only = true,
            // What a bind mount is by itself.
            "rw" | "" => {}
            option => mount.options.push(option.to_owned()),
        }
    }
    if !mount.target.starts_with('/') {
        return Err(wrong("the target is an absolute path inside the container"));
    }
    match (mount.kind, mount.source.take()) {
        (MountKind::Tmpfs, _) => {}
        (MountKind::Bind, Some(source)) if source.starts_with(['/', '.']) => {
            let absolute = std::path::absolute(Path::new(&source)).map_err(|error| wrong(&error.to_string()))?;
            mount.source = Some(absolute.to_string_lossy().into_owned());
        }
        (MountKind::Bind, Some(source)) if !source.is_empty() => {
            return Err(wrong(&format!("{source:?} is no path: a host path begins with / or .")));
        }
        (MountKind::Bind, _) => return Err(wrong("the source is missing")),
    }
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(Into::into).collect()
    }

    #[test]
    fn ctrs_mounts_and_the_short_form_are_the_same() {
        let long = mount("type=bind,src=/srv,dst=/data,options=rbind:ro").unwrap();
        let short = mount("/srv:/data:rbind,ro").unwrap();
        assert_eq!(long, short);
        assert!(long.read_only && long.options == ["rbind"]);
        assert_eq!(mount("type=tmpfs,dst=/tmp,options=size=64m").unwrap().options, ["size=64m"]);
        for text in ["/srv", "/srv:data", "data:/x", "type=overlay,dst=/x", "type=bind,dst=/x", "src=/a,dst=/b,x=y"] {
            assert_eq!(mount(text).unwrap_err().class, Class::Usage, "{text}");
        }
    }

    #[test]
    fn a_command_replaces_entrypoint_and_cmd() {
        let subject = subject(Flags::default(), words(&["docker.io/a/b:1", "web", "ls", "-l"])).unwrap();
        assert_eq!(subject.spec.command.unwrap(), ["ls", "-l"]);
        assert_eq!(subject.spec.args, None);
    }

    #[test]
    fn slips_are_explained() {
        let fault = subject(Flags::default(), words(&["docker.io/a/b:1", "--rm", "web"])).unwrap_err();
        assert_eq!(fault.help.unwrap(), "flags stand before IMAGE: --rm docker.io/a/b:1 ID");
        let fault = subject(Flags::default(), words(&["--publish=80:80", "docker.io/a/b:1", "web"])).unwrap_err();
        assert_eq!(fault.message, "there is no flag --publish");
        let fault = subject(Flags::default(), words(&["nginx", "web"])).unwrap_err();
        assert_eq!(fault.help.unwrap(), "write docker.io/library/nginx:latest");
        let flags = Flags { memory_limit: Some("64m".parse().unwrap()), ..Flags::default() };
        let fault = subject(flags, words(&["docker.io/a/b:1", "web"])).unwrap_err();
        assert!(fault.help.unwrap().contains("64Mi"));
    }

    #[test]
    fn restart_policies_have_dockers_names_and_ours() {
        assert_eq!(restart("on-failure:3").unwrap(), Restart { policy: RestartPolicy::OnFailure, limit: Some(3) });
        assert_eq!(restart("Always").unwrap().policy, RestartPolicy::Always);
        assert!(restart("always:3").is_err() && restart("sometimes").is_err());
    }

    #[test]
    fn flags_win_over_env_files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# comment\nA=1\n\nB=two words\n").unwrap();
        let env = environment(&[file.path().to_owned()], &["A=2".into(), "BAYPLAN_NOT_SET_ANYWHERE".into()]).unwrap();
        assert_eq!(env.into_iter().collect::<Vec<_>>(), [("A".into(), "2".into()), ("B".into(), "two words".into())]);
    }
}
