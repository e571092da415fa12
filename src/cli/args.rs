//! The command tree: every verb with its flags; each verb's own file says what it does.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use super::*;
use crate::config::{LogLevel, Overrides};

/// A container engine for one Linux node, driven by a directory of manifests
#[derive(Debug, Parser)]
#[command(name = "bayplan", version, max_term_width = 110, disable_help_subcommand = false, infer_long_args = false)]
pub struct Cli {
    /// Flags that every verb takes.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Understands a command line.
    pub fn of(arguments: impl IntoIterator<Item = OsString>) -> std::result::Result<Self, clap::Error> {
        let arguments = rewrite(arguments);
        match Self::try_parse_from(&arguments) {
            Ok(cli) if !matches!(cli.command, Command::Unknown(_)) => Ok(cli),
            // Other names of verbs, help and suggestions are where their flags are.
            _ => Self::from_arg_matches(&Self::tree().try_get_matches_from(arguments)?),
        }
    }

    /// The whole of it, nothing left out.
    pub fn tree() -> clap::Command {
        let mut tree = Self::command();
        tree.build();
        tree
    }
}

/// Flags that every verb takes, before or after it.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Configuration file [default: /etc/bayplan/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Manifest directory [default: /etc/bayplan/manifests]
    #[arg(long, global = true, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// What is kept: images, snapshots, the database [default: /var/lib/bayplan]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// What is lost at reboot: sockets, bundles [default: /run/bayplan]
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The daemon's socket [default: bayplan.sock in the state directory]
    #[arg(short, long, global = true, value_name = "SOCKET")]
    pub address: Option<PathBuf>,
    /// Namespace
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, global = true)]
    pub all_namespaces: bool,
    /// How results are printed
    #[arg(short, long, global = true, value_name = "FORMAT")]
    pub output: Option<Output>,
    /// Least severe level of the log on standard error
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<Level>,
}

impl Global {
    /// The daemon's socket, where flags alone say it.
    pub fn address(&self) -> Option<PathBuf> {
        let of_state = || Some(self.state.as_ref()?.join("bayplan.sock"));
        self.address.clone().or_else(of_state)
    }

    /// The namespace asked for.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// The namespace to look into; `None` for all.
    pub fn scope(&self) -> Option<String> {
        if self.all_namespaces { None } else { Some(self.namespace().to_owned()) }
    }

    /// What the flags say about the configuration.
    pub fn overrides(&self) -> Overrides {
        Overrides {
            root: self.root.clone(),
            state: self.state.clone(),
            manifests: self.manifests.clone(),
            address: self.address.clone(),
            log_level: self.log_level.map(Level::config),
        }
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns.
    Table,
    /// More columns.
    Wide,
    /// JSON, stable.
    Json,
    /// YAML, stable.
    Yaml,
    /// One `kind/name` a line.
    Name,
}

/// Log levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// What needs a person.
    Error,
    /// What may need one.
    Warn,
    /// What was done.
    Info,
    /// Why.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    fn config(self) -> LogLevel {
        match self {
            Level::Error => LogLevel::Error,
            Level::Warn => LogLevel::Warn,
            Level::Info => LogLevel::Info,
            Level::Debug => LogLevel::Debug,
            Level::Trace => LogLevel::Trace,
        }
    }
}

/// The verbs. The flags of one are made when it is the one that was given ([`Cli::of`]): all of them are half of what a
/// short command costs.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    // Declared.
    Daemon(daemon::Args),
    Apply(apply::Args),
    Diff(diff::Args),
    Delete(delete::Args),
    Validate(validate::Args),
    Schema(schema::Args),
    Explain(explain::Args),
    Get(get::Args),
    Describe(describe::Args),
    Status(status::Args),
    Wait(wait::Args),
    #[command(alias = "event")]
    Events(events::Args),
    Sync(sync::Args),
    // By hand.
    Run(run::Args),
    Create(create::Args),
    Start(start::Args),
    Stop(stop::Args),
    Restart(restart::Args),
    Kill(kill::Args),
    Exec(Box<exec::Args>),
    Attach(attach::Args),
    Pause(pause::Args),
    Unpause(pause::Unpause),
    Rm(rm::Args),
    Ps(ps::Args),
    Top(top::Args),
    Stats(stats::Args),
    Logs(logs::Args),
    Cp(cp::Args),
    Inspect(inspect::Args),
    Pull(pull::Args),
    Push(push::Args),
    Tag(tag::Args),
    Rmi(rmi::Args),
    Load(load::Args),
    Save(save::Args),
    Login(login::Args),
    Logout(logout::Args),
    // The long groups, with ctr's names.
    #[command(visible_aliases = ["images", "i"])]
    Image(image::Args),
    #[command(visible_aliases = ["containers", "c"])]
    Container(container::Args),
    #[command(visible_aliases = ["tasks", "t"])]
    Task(task::Args),
    #[command(visible_aliases = ["namespaces", "ns"])]
    Namespace(namespace::Args),
    #[command(visible_alias = "snapshots")]
    Snapshot(snapshot::Args),
    Content(content::Args),
    // About bayplan.
    Config(config::Args),
    Version(version::Args),
    Info(info::Args),
    Doctor(doctor::Args),
    Completion(completion::Args),
    // What people try and will not find here.
    #[command(external_subcommand)]
    Unknown(Vec<OsString>),
}

/// Makes ctr's `task kill -a` and docker's `ps -a` mean `--all`, podman's `start -a` mean `--attach` and docker's `cp -a` mean
/// `--archive`: everywhere else `-a` is `--address`.
fn rewrite(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let task = |word: &OsString| ["task", "tasks", "t"].iter().any(|name| word == name);
    let Some(verb) = verb_at(&arguments) else { return arguments };
    let among = |at: usize, words: &[&str]| arguments.get(at).is_some_and(|word| words.iter().any(|name| word == name));
    let moves = verb + usize::from(among(verb, &["image", "images", "i"]));
    if among(moves, &["save", "export"]) {
        archive_file(&mut arguments, moves);
        return arguments;
    }
    if moves > verb
        && arguments.get(moves).and_then(|word| word.to_str()).is_some_and(|word| later::is_told("image", word))
    {
        arguments.insert(moves, later::INSTEAD_OF.into());
        return arguments;
    }
    let replace: &[(&str, &[&str])] = if arguments[verb] == "start" {
        &[("-a", &["--attach"]), ("-ai", &["--attach", "--interactive"]), ("-ia", &["--attach", "--interactive"])]
    } else if task(&arguments[verb]) && arguments.get(verb + 1).is_some_and(|word| word == "kill") {
        &[("-a", &["--all"])]
    } else if arguments[verb] == "cp" {
        &[("-a", &["--archive"]), ("-aL", &["--archive"]), ("-La", &["--archive"])]
    } else if arguments[verb] == "ps" && !arguments[verb..].windows(2).any(|pair| pair[0] == "-a" && is_path(&pair[1]))
    {
        &[("-a", &["--all"]), ("-aq", &["--all", "--quiet"]), ("-qa", &["--all", "--quiet"])]
    } else {
        return arguments;
    };
    let rest = arguments.split_off(verb + 1);
    for argument in rest {
        match replace.iter().find(|(short, _)| argument == *short) {
            Some((_, long)) => arguments.extend(long.iter().map(OsString::from)),
            None => arguments.push(argument),
        }
    }
    arguments
}

/// Makes Docker's `save -o FILE IMAGE…` mean `save FILE IMAGE…`: everywhere else `-o` is a format, and where it is one it
/// stays that. `verb` is where `save` or `export` stands.
fn archive_file(arguments: &mut Vec<OsString>, verb: usize) {
    let is_flag = |at: &usize| arguments[*at] == "-o" || arguments[*at] == "--output";
    let Some(flag) = (verb + 1..arguments.len()).find(is_flag) else { return };
    let Some(file) = arguments.get(flag + 1).cloned() else { return };
    if file.to_str().is_some_and(|word| Output::from_str(word, true).is_ok()) {
        return;
    }
    arguments.drain(flag..flag + 2);
    // A name as such: another word might be taken for an image.
    let named = std::path::Path::new(&file);
    let file = if named.is_absolute() || file == "-" { file } else { std::path::Path::new(".").join(named).into() };
    arguments.insert(verb + 1, file);
}

/// Whether a word can only be a socket.
fn is_path(word: &OsString) -> bool {
    word.as_encoded_bytes().starts_with(b"/") || word.as_encoded_bytes().starts_with(b".")
}

/// Where the verb stands: behind the program and the global flags with their values.
fn verb_at(arguments: &[OsString]) -> Option<usize> {
    const WITH_VALUE: [&str; 11] = [
        "--config",
        "--manifests",
        "--root",
        "--state",
        "-a",
        "--address",
        "-n",
        "--namespace",
        "-o",
        "--output",
        "--log-level",
    ];
    let mut at = 1;
    while let Some(word) = arguments.get(at) {
        if WITH_VALUE.iter().any(|flag| word == flag) {
            at += 2;
        } else if word.as_encoded_bytes().starts_with(b"-") {
            at += 1;
        } else {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    #[test]
    fn short_flags_are_what_ctr_podman_and_docker_mean_by_them() {
        for (line, expected) in [
            ("bayplan -a /x start -a -i web", "bayplan -a /x start --attach -i web"),
            ("bayplan start -ai web", "bayplan start --attach --interactive web"),
            ("bayplan -n start t kill -a -s 9 x", "bayplan -n start t kill --all -s 9 x"),
            ("bayplan ps -aq", "bayplan ps --all --quiet"),
            ("bayplan ps -a /x", "bayplan ps -a /x"),
            ("bayplan cp -a web:/etc /tmp/cp", "bayplan cp --archive web:/etc /tmp/cp"),
            ("bayplan run -a /x start kill", "bayplan run -a /x start kill"),
            ("bayplan task start -a /x web", "bayplan task start -a /x web"),
            ("bayplan save -o x.tar a.local/b:1", "bayplan save ./x.tar a.local/b:1"),
            ("bayplan -o json i export a.local/b:1 --output /x", "bayplan -o json i export /x a.local/b:1"),
            ("bayplan save -o json x.tar a.local/b:1", "bayplan save -o json x.tar a.local/b:1"),
        ] {
            let words = rewrite(line.split(' ').map(Into::into));
            assert_eq!(words, expected.split(' ').collect::<Vec<_>>());
        }
    }
}
