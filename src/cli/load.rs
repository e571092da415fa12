//! `bayplan load`, `bayplan image import`.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::args::Output;
use super::context::Context;
use super::render;
use crate::api::{Archive, LoadRequest, LoadedImage, Service as _, Stream, channel};
use crate::error::{Class, Fault, Result};
use crate::oci::Platform;

/// Import images from an archive: OCI or Docker, plain, gzip or zstd
#[derive(Debug, clap::Args)]
#[group(id = "load")]
pub struct Args {
    /// The archive, or - for standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub file: PathBuf,
    /// The archive, as Docker's load takes it
    #[arg(short, long, value_name = "FILE", conflicts_with = "file")]
    pub input: Option<PathBuf>,
    /// Repository for images that the archive does not name, or names by a bare tag
    #[arg(long, value_name = "NAME")]
    pub base_name: Option<String>,
    /// Also give each image its digest as a name
    #[arg(long)]
    pub digests: bool,
    /// The platform that must be there and is unpacked [default: the node's, where it is there]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,
    /// Refuse an archive that lacks images which an index in it names
    #[arg(long)]
    pub all_platforms: bool,
    /// Print digests only
    #[arg(short, long)]
    pub quiet: bool,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let archive = open(args.input.as_deref().unwrap_or(&args.file))?;
    let node = context.node().await?;
    let request = LoadRequest {
        namespace: context.namespace(),
        base_name: args.base_name,
        platform: args.platform,
        all_platforms: args.all_platforms,
        digests: args.digests,
    };
    let images = node.load(request, archive).await?;
    show(&images, args.quiet, context)?;
    Ok(0)
}

/// What was imported.
pub(super) fn show(images: &[LoadedImage], quiet: bool, context: &mut Context) -> Result<()> {
    if matches!(context.output(), Output::Json | Output::Yaml) {
        let text = match context.output() {
            Output::Json => render::json::pretty(&images)?,
            _ => render::yaml::document(&images)?,
        };
        context.ui.bytes(text.as_bytes());
        return Ok(());
    }
    for image in images {
        match (&image.reference, quiet) {
            (Some(reference), false) if context.output() == Output::Name => {
                context.ui.line(format!("image/{reference}"));
            }
            (Some(reference), false) => context.ui.line(format!("{reference}  {}", image.digest)),
            _ => context.ui.line(&image.digest),
        }
    }
    Ok(())
}

/// A file by its path, which the node reads itself; standard input (and pipes) as bytes.
pub(super) fn open(path: &Path) -> Result<Archive> {
    let unreadable = |error: &std::io::Error| {
        let class = if error.kind() == std::io::ErrorKind::NotFound { Class::NotFound } else { Class::Invalid };
        Fault::new(class, format!("archive {} cannot be read: {error}", path.display()))
    };
    if path.as_os_str() == "-" {
        if std::io::stdin().is_terminal() {
            return Err(Fault::new(Class::Usage, "there is no archive on a terminal")
                .help("name a file, or pipe one in: bayplan load < image.tar"));
        }
        return Ok(Archive::Bytes(stream(std::io::stdin())));
    }
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(&error))?;
    if !metadata.is_file() {
        return Ok(Archive::Bytes(stream(std::fs::File::open(path).map_err(|error| unreadable(&error))?)));
    }
    std::path::absolute(path).map(Archive::Path).map_err(|error| unreadable(&error))
}

/// Reads on a thread of its own: standard input cannot be waited for otherwise.
fn stream(mut from: impl std::io::Read + Send + 'static) -> Stream<Bytes> {
    let (sender, stream) = channel::<Bytes>(4);
    std::thread::spawn(move || {
        loop {
            let mut chunk = Vec::with_capacity(256 << 10);
            let read = (&mut from).take(256 << 10).read_to_end(&mut chunk);
            let part = match read {
                Ok(0) => return,
                Ok(_) => Ok(chunk.into()),
                Err(error) => Err(Fault::new(Class::No, format!("the archive cannot be read to its end: {error}"))),
            };
            let last = part.is_err();
            if sender.blocking_send(part).is_err() || last {
                return;
            }
        }
    });
    stream
}
