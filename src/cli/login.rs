//! `bayplan login`.

use std::path::PathBuf;

use super::context::Context;
use super::{node, password};
use crate::config::Config;
use crate::error::{Class, Fault, Result};
use crate::image::PullOptions;
use crate::image::registry::Registries;
use crate::image::registry::credentials::{self, Stored};
use crate::image::registry::login::{Verdict, verify};

/// Keep credentials for a registry
///
/// They are shown to the registry first and stored only if it takes them: in --authfile, else the first of
/// [registry] auth_files, else $REGISTRY_AUTH_FILE, else /etc/bayplan/auth.json. Pulls use them at once.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The registry, as references name it: registry.local:5000
    #[arg(value_name = "HOST")]
    pub host: String,
    /// User, and the password if others may see it in the list of processes; asked for on a terminal
    #[arg(short, long, value_name = "USER[:PASSWORD]")]
    pub user: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
    /// Another file to keep them in
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Do not check TLS certificates
    #[arg(short = 'k', long)]
    pub skip_verify: bool,
    /// Plain HTTP
    #[arg(long)]
    pub plain_http: bool,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let host = host(&args.host)?;
    // As pull and push take it.
    let (user, given) = match args.user.as_deref().map(|text| text.split_once(':').ok_or(text)) {
        Some(Ok((user, password))) => (Some(user.to_owned()), Some(password.to_owned())),
        Some(Err(user)) => (Some(user.to_owned()), None),
        None => (None, None),
    };
    if given.is_some() && args.password_stdin {
        return Err(Fault::new(Class::Usage, "the password is given twice: by -u and on standard input"));
    }
    if given.is_none() && !args.password_stdin && !password::can_ask() {
        return Err(Fault::new(Class::Usage, "there is no terminal to ask for a password on")
            .help(format!("echo \"$PASSWORD\" | bayplan login -u USER --password-stdin {host}")));
    }
    let user = match user {
        Some(user) => user,
        None if args.password_stdin => {
            return Err(Fault::new(Class::Usage, "--password-stdin needs a user").help("add -u USER"));
        }
        None => password::ask(&mut context.ui, &format!("User at {host}: "), true)?,
    };
    if user.is_empty() || user.contains(':') {
        return Err(Fault::new(Class::Usage, format!("{user:?} is not a user: it is empty or holds a colon"))
            .help("give the password on standard input with --password-stdin"));
    }
    let secret = match given {
        Some(password) => password,
        None if args.password_stdin => password::of_input(&user)?,
        None => password::ask(&mut context.ui, &format!("Password of {user} at {host}: "), false)?,
    };
    let path = file(args.authfile, context.config()?)?;
    let config = node::registries(context.config()?);
    let options = PullOptions {
        plain_http: args.plain_http,
        skip_verify: args.skip_verify,
        credentials: Some((user.clone(), secret.clone())),
        ..PullOptions::default()
    };
    let verdict = verify(&Registries::new(config.clone()), &host, &options).await?;
    let stored = credentials::store(&path, &host, &user, &secret).await.map_err(unwritable)?;
    let place = match stored {
        Stored::File => path.display().to_string(),
        Stored::Helper(name) => format!("docker-credential-{name}, as {} says", path.display()),
    };
    context.ui.line(format!("{host}: logged in as {user}, kept in {place}"));
    if verdict == Verdict::Open {
        context.ui.note(format!("note: {host} asks nobody for credentials; these were not tried"));
    }
    if !config.auth_files.contains(&path) {
        context.ui.note(format!("note: pulls do not search {}; see [registry] auth_files", path.display()));
    } else if let Some(before) = credentials::searched_before(&config.auth_files, &path, &host).first() {
        context.ui.note(format!("note: {} has credentials for {host}, too, and is searched first", before.display()));
    }
    Ok(0)
}

/// A host as references name it; a scheme and slashes around it are taken off, as docker does.
pub(super) fn host(text: &str) -> Result<String> {
    let bare = text.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    // The grammar of references decides what a host is.
    match format!("{bare}/x").parse::<crate::oci::Reference>() {
        Ok(reference) if reference.host() == bare => Ok(bare.to_owned()),
        _ => Err(Fault::new(Class::Usage, format!("{text:?} is not a registry host"))
            .help("write it as references do, without a path: registry.local:5000")),
    }
}

/// The file that is written.
pub(super) fn file(given: Option<PathBuf>, config: &Config) -> Result<PathBuf> {
    let from_environment = || std::env::var_os("REGISTRY_AUTH_FILE").filter(|v| !v.is_empty()).map(PathBuf::from);
    let path = given
        .or_else(|| config.registry.auth_files.first().cloned())
        .or_else(from_environment)
        .unwrap_or_else(|| credentials::DEFAULT_FILE.into());
    std::path::absolute(&path).map_err(|error| Fault::new(Class::Usage, format!("{}: {error}", path.display())))
}

/// A file that cannot be changed.
pub(super) fn unwritable(why: String) -> Fault {
    Fault::new(Class::Runtime, why).help("give a file that you may write with --authfile")
}
