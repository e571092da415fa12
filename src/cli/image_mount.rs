//! `bayplan image mount`, `bayplan image unmount`.

use std::path::{Path, PathBuf};

use super::args::Output;
use super::context::Context;
use super::render::json::Listing;
use super::render::table::Table;
use super::{each, render};
use crate::api::{MountRequest, MountedImage, Service as _, UnmountRequest};
use crate::error::{Class, Fault, Result};
use crate::oci::Platform;

/// Mount an image's files at a directory, read-only; without arguments, list what is mounted
///
/// It stays until `image unmount` or the next reboot, whatever becomes of the image's names.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A reference or a digest
    #[arg(value_name = "IMAGE", requires = "target")]
    pub image: Option<String>,
    /// An existing directory
    #[arg(value_name = "TARGET")]
    pub target: Option<PathBuf>,
    /// Another platform than the node's: linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,
    /// Writable; what is written goes with the mount
    #[arg(long)]
    pub rw: bool,
}

/// Take a mounted image down
#[derive(Debug, clap::Args)]
pub struct UnmountArgs {
    /// Directories
    #[arg(value_name = "TARGET", required = true)]
    pub targets: Vec<String>,
}

/// Runs `mount`.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let node = context.node().await?;
    let (Some(name), Some(target)) = (args.image, args.target) else {
        let mounted = node.mounted_images().await?;
        let text = match context.output() {
            Output::Json => render::json::pretty(&Listing::of(&mounted))?,
            Output::Yaml => render::yaml::document(&Listing::of(&mounted))?,
            Output::Name => mounted.iter().map(|mount| format!("{}\n", mount.target.display())).collect(),
            Output::Table | Output::Wide => table(&mounted),
        };
        context.ui.bytes(text.as_bytes());
        return Ok(0);
    };
    let request = MountRequest {
        namespace: context.namespace(),
        name,
        platform: args.platform,
        target: absolute(&target)?,
        writable: args.rw,
    };
    let mounted = node.mount_image(request).await?;
    match context.output() {
        Output::Json => context.ui.bytes(render::json::pretty(&mounted)?.as_bytes()),
        Output::Yaml => context.ui.bytes(render::yaml::document(&mounted)?.as_bytes()),
        _ => context.ui.line(mounted.target.display()),
    }
    Ok(0)
}

/// Runs `unmount`.
pub async fn unmount(args: UnmountArgs, context: &mut Context) -> Result<u8> {
    let node = context.node().await?;
    each::object(args.targets, context, async |target| {
        node.unmount_image(UnmountRequest { target: absolute(Path::new(target))? }).await.map(|_| None)
    })
    .await
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Fault::new(Class::Usage, format!("{}: {error}", path.display())))
}

fn table(mounted: &[MountedImage]) -> String {
    let mut table = Table::new(["TARGET", "IMAGE", "DIGEST", "PLATFORM", "MODE"]);
    for mount in mounted {
        table.row([
            mount.target.display().to_string(),
            mount.name.clone(),
            mount.digest.short().to_owned(),
            mount.platform.to_string(),
            if mount.writable { "rw" } else { "ro" }.to_owned(),
        ]);
    }
    table.render("")
}
