//! `bayplan image import`: archives of images, and root file systems.

use std::path::Path;

use super::context::Context;
use super::{flags, load};
use crate::api::{RootfsRequest, Service as _};
use crate::error::{Class, Fault, Result};

/// Import images from an archive, or make an image of a root file system
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub load: load::Args,
    /// FILE is the tar file of a root file system, and becomes the one layer of an image of this name
    #[arg(value_name = "NAME", requires = "rootfs")]
    pub name: Option<String>,
    /// Make an image of a root file system
    #[arg(long, requires = "name", conflicts_with_all = ["base_name", "digests", "all_platforms", "input"])]
    pub rootfs: bool,
    /// With --rootfs: CMD, as words or as a JSON array
    #[arg(long, value_name = "WORDS", requires = "rootfs")]
    pub cmd: Option<String>,
    /// With --rootfs: ENTRYPOINT, as words or as a JSON array
    #[arg(long, value_name = "WORDS", requires = "rootfs")]
    pub entrypoint: Option<String>,
    /// With --rootfs: a variable of the environment
    #[arg(short, long, value_name = "KEY=VALUE", requires = "rootfs")]
    pub env: Vec<String>,
    /// With --rootfs: the working directory
    #[arg(short, long, value_name = "DIR", requires = "rootfs")]
    pub workdir: Option<String>,
    /// With --rootfs: uid[:gid], or names
    #[arg(short, long, value_name = "USER[:GROUP]", requires = "rootfs")]
    pub user: Option<String>,
    /// With --rootfs: a label
    #[arg(short, long, value_name = "KEY=VALUE", requires = "rootfs")]
    pub label: Vec<String>,
    /// With --rootfs: the signal that a stop sends first
    #[arg(long, value_name = "SIGNAL", requires = "rootfs")]
    pub stop_signal: Option<String>,
    /// With --rootfs: a port that it listens on
    #[arg(long, value_name = "PORT[/tcp|udp|sctp]", requires = "rootfs")]
    pub expose: Vec<String>,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let Some(name) = args.name.filter(|_| args.rootfs) else { return load::run(args.load, context).await };
    let reference = flags::reference(&name)?;
    if reference.digest().is_some() {
        return Err(Fault::new(Class::Usage, format!("{name} has a digest; the image's own comes of its content")));
    }
    for pair in &args.env {
        flags::pair(pair, "environment variable")?;
    }
    let request = RootfsRequest {
        namespace: context.namespace(),
        reference,
        platform: args.load.platform,
        entrypoint: args.entrypoint.as_deref().map(|text| words("--entrypoint", text)).transpose()?,
        cmd: args.cmd.as_deref().map(|text| words("--cmd", text)).transpose()?,
        env: args.env,
        workdir: args.workdir.map(|dir| absolute(&dir)).transpose()?,
        user: args.user,
        labels: args.label.iter().map(|text| flags::pair(text, "label")).collect::<Result<_>>()?,
        stop_signal: args.stop_signal,
        expose: args.expose.iter().map(|text| port(text)).collect::<Result<_>>()?,
    };
    let archive = load::open(&args.load.file)?;
    let node = context.node().await?;
    let events = node.import_rootfs(request, archive).await?;
    load::follow(events, &load::called(&args.load.file), args.load.progress, args.load.quiet, context).await
}

/// A JSON array of words, or words with blanks between them. No shell reads them.
fn words(flag: &str, text: &str) -> Result<Vec<String>> {
    let help = format!(r#"write {flag} '["sh", "-c", "…"]'"#);
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).map_err(|error| {
            Fault::new(Class::Usage, format!("{flag} {text}: it is no JSON array of words: {error}")).help(help)
        });
    }
    if text.contains(['"', '\'', '\\', '$', '`', ';', '|', '&', '<', '>']) {
        return Err(
            Fault::new(Class::Usage, format!("{flag} {text}: no shell reads it, so quotes are words")).help(help)
        );
    }
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

fn absolute(dir: &str) -> Result<String> {
    if Path::new(dir).is_absolute() {
        return Ok(dir.to_owned());
    }
    Err(Fault::new(Class::Usage, format!("--workdir {dir} is not absolute")).help(format!("write /{dir}")))
}

/// `80` means `80/tcp`.
fn port(text: &str) -> Result<String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let right = number.parse::<u16>().is_ok_and(|n| n > 0) && matches!(protocol, "tcp" | "udp" | "sctp");
    if right {
        return Ok(format!("{number}/{protocol}"));
    }
    Err(Fault::new(Class::Usage, format!("--expose {text} is no port")).help("write 80, or 53/udp"))
}
