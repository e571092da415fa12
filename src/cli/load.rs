//! `bayplan load`, `bayplan image import`.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::args::Output;
use super::context::Context;
use super::progress::{self, Moved, Progress, Stage, Way};
use super::render;
use crate::api::{Archive, LoadEvent, LoadRequest, LoadState, LoadedBlob, LoadedImage, Service as _, Stream, channel};
use crate::error::{Class, Fault, Result};
use crate::oci::{Digest, Platform};

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
    #[command(flatten)]
    pub progress: progress::Flag,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let file = args.input.as_deref().unwrap_or(&args.file);
    let (archive, name) = (open(file)?, called(file));
    let node = context.node().await?;
    let request = LoadRequest {
        namespace: context.namespace(),
        base_name: args.base_name,
        platform: args.platform,
        all_platforms: args.all_platforms,
        digests: args.digests,
    };
    let events = node.load(request, archive).await?;
    follow(events, &name, args.progress, args.quiet, context).await
}

/// Shows how far an import is, and then what came of it.
pub(super) async fn follow(
    mut events: Stream<LoadEvent>,
    archive: &str,
    flag: progress::Flag,
    quiet: bool,
    context: &mut Context,
) -> Result<u8> {
    let mut progress = Progress::new(flag, quiet, &context.ui);
    let mut labels = Labels::default();
    loop {
        match progress.next(&mut events, &mut context.ui).await.transpose()? {
            Some(event @ LoadEvent::Archive { done, total }) => {
                progress.whole(archive, done, total.unwrap_or(0), &event, &mut context.ui);
            }
            Some(LoadEvent::Blob(blob)) => {
                let moved = labels.moved(archive, &blob);
                progress.hear(&moved, &LoadEvent::Blob(blob), &mut context.ui);
            }
            Some(LoadEvent::Loaded { images }) => {
                show(&images, quiet, context)?;
                return Ok(0);
            }
            None => {
                let message = format!("the node ended its report on archive {archive} early");
                return Err(Fault::new(Class::Runtime, message));
            }
        }
    }
}

/// What files of an archive are shown as: their digest's first digits, as soon as these are known by their name or
/// content. One that has a label keeps it.
#[derive(Default)]
struct Labels {
    by_digest: HashMap<Digest, (String, Way)>,
}

impl Labels {
    fn moved(&mut self, archive: &str, blob: &LoadedBlob) -> Moved {
        let known = blob.digest.as_ref().and_then(|digest| self.by_digest.get(digest)).cloned();
        let way = match (blob.state, &known) {
            (LoadState::Existed, _) => Way::Spared("was here".into()),
            (LoadState::Unpacking, Some((_, way))) => way.clone(),
            (LoadState::Unpacking, None) => Way::Spared("was here".into()),
            _ => Way::Moved(""),
        };
        let part = match (&known, &blob.name, &blob.digest) {
            (Some((label, _)), ..) => label.clone(),
            (None, Some(name), _) => label(name),
            (None, None, Some(digest)) => digest.short().to_owned(),
            (None, None, None) => String::new(),
        };
        if let Some(digest) = &blob.digest {
            self.by_digest.insert(digest.clone(), (part.clone(), way.clone()));
        }
        let stage = match blob.state {
            LoadState::Reading => Stage::Moving,
            LoadState::Read | LoadState::Existed => Stage::There(way),
            LoadState::Unpacking => Stage::Unpacking(way),
        };
        Moved { of: archive.to_owned(), part, stage, done: blob.done, total: blob.total }
    }
}

/// `blobs/sha256/4f0a…`, `4f0a…/layer.tar` and `4f0a….tar` → 12 digits; anything else as it is.
fn label(name: &str) -> String {
    let is_hex = |part: &&str| part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    match name.split(['/', '.', ':']).find(is_hex) {
        Some(hex) => hex[..12].to_owned(),
        None => name.to_owned(),
    }
}

/// What was imported.
fn show(images: &[LoadedImage], quiet: bool, context: &mut Context) -> Result<()> {
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

/// What an archive is called where it is shown.
pub(super) fn called(path: &Path) -> String {
    match path.file_name() {
        Some(name) if path.as_os_str() != "-" => name.to_string_lossy().into_owned(),
        _ => "standard input".to_owned(),
    }
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
    if metadata.is_dir() {
        let shown = path.display();
        return Err(Fault::new(Class::Invalid, format!("archive {shown} is a directory"))
            .help(format!("an OCI layout comes as a stream: tar -C {shown} -cf - . | bayplan load")));
    }
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
