//! `bayplan save`, `bayplan image export`.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::context::Context;
use super::{push, render};
use crate::api::{ArchiveFormat, ArchivePacking, SaveRequest, Service as _};
use crate::error::{Class, Fault, Result};
use crate::oci::Reference;

/// Save images into an archive that docker, podman, skopeo, ctr and bayplan read
///
/// Digests stay what they are, and the same images give the same bytes. Without FILE, or with -, the archive goes
/// to standard output.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// FILE IMAGE…, or IMAGE… for standard output, as with - for FILE
    #[arg(value_name = "FILE|IMAGE", required = true)]
    pub words: Vec<String>,
    #[command(flatten)]
    pub part: push::Part,
    /// oci: an OCI layout with Docker's manifest.json beside it; docker: as docker save was, layers unpacked
    #[arg(long, value_name = "FORMAT", default_value = "oci")]
    pub format: Format,
    /// What packs the archive [default: gzip for .gz and .tgz, zstd for .zst and .tzst, else nothing]
    #[arg(long, value_name = "PACKING")]
    pub compress: Option<Compress>,
}

/// Kinds of archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// An OCI layout, with what Docker needs beside it.
    Oci,
    /// A Docker archive.
    Docker,
}

/// What packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Compress {
    /// Nothing.
    None,
    /// Gzip.
    Gzip,
    /// Zstd.
    Zstd,
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let (file, names) = words(args.words)?;
    if file.is_none() && io::stdout().is_terminal() {
        return Err(Fault::new(Class::Usage, "an archive is nothing for a terminal")
            .help("name a file: bayplan save image.tar IMAGE, or pipe it on"));
    }
    let request = SaveRequest {
        namespace: context.namespace(),
        names,
        part: args.part.wanted(),
        format: match args.format {
            Format::Oci => ArchiveFormat::Oci,
            Format::Docker => ArchiveFormat::Docker,
        },
        packing: match args.compress {
            Some(Compress::None) => ArchivePacking::Plain,
            Some(Compress::Gzip) => ArchivePacking::Gzip,
            Some(Compress::Zstd) => ArchivePacking::Zstd,
            None => file.as_deref().map(by_extension).unwrap_or_default(),
        },
    };
    let node = context.node().await?;
    let mut parts = node.save(request).await?;
    let Some(path) = file else {
        while let Some(part) = parts.next().await {
            context.ui.bytes(&part?);
            if context.ui.is_closed() {
                // A full disk behind a redirection says so itself.
                context.ui.finish()?;
                return Err(Fault::new(Class::No, "the archive is cut short: its reader went away"));
            }
        }
        return Ok(0);
    };
    let failed = |error: io::Error| Fault::new(Class::Runtime, format!("archive {}: {error}", path.display()));
    let mut target = Target::open(&path).map_err(failed)?;
    let mut size = 0;
    while let Some(part) = parts.next().await {
        let part = part?;
        target.file.write_all(&part).map_err(failed)?;
        size += part.len() as u64;
    }
    target.finish(&path).map_err(failed)?;
    context.ui.line(format!("{}  {}", path.display(), render::size(size)));
    Ok(0)
}

/// The file, if there is one, and the images. The first of several words is an image itself where it is one in
/// full and does not end as an archive does.
fn words(mut words: Vec<String>) -> Result<(Option<PathBuf>, Vec<String>)> {
    let archive = |word: &str| {
        [".tar", ".gz", ".tgz", ".zst", ".tzst"].iter().any(|end| word.ends_with(end)) || word.starts_with(['/', '.'])
    };
    let file = match words.first() {
        Some(first) if first == "-" => words.remove(0),
        Some(first) if words.len() > 1 && (archive(first) || first.parse::<Reference>().is_err()) => words.remove(0),
        Some(only) if words.len() == 1 && archive(only) => {
            return Err(Fault::new(Class::Usage, format!("no image is named to be saved into {only}"))
                .help(format!("bayplan save {only} IMAGE…")));
        }
        _ => "-".to_owned(),
    };
    if words.is_empty() {
        return Err(Fault::new(Class::Usage, "no image is named").help("bayplan save FILE IMAGE…"));
    }
    Ok(((file != "-").then(|| PathBuf::from(file)), words))
}

fn by_extension(path: &Path) -> ArchivePacking {
    match path.extension().and_then(|end| end.to_str()) {
        Some("gz" | "tgz") => ArchivePacking::Gzip,
        Some("zst" | "tzst") => ArchivePacking::Zstd,
        _ => ArchivePacking::Plain,
    }
}

/// A file that has its name only once it is whole. What a killed command leaves has no name, where the file
/// system can have it so.
struct Target {
    file: File,
    /// Its name until the end; none for one without, or that is no regular file.
    temporary: Option<PathBuf>,
    named: Named,
}

#[derive(PartialEq, Eq)]
enum Named {
    AtTheEnd,
    Temporarily,
    Already,
}

impl Target {
    fn open(path: &Path) -> io::Result<Self> {
        // A device or a pipe is written to, never replaced.
        if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
            let file = File::options().write(true).open(path)?;
            return Ok(Self { file, temporary: None, named: Named::Already });
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mode = Mode::from_raw_mode(0o644);
        if let Ok(file) = rustix::fs::open(directory, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode) {
            return Ok(Self { file: file.into(), temporary: None, named: Named::AtTheEnd });
        }
        let temporary = beside(path);
        let file = File::options().write(true).create_new(true).open(&temporary)?;
        Ok(Self { file, temporary: Some(temporary), named: Named::Temporarily })
    }

    fn finish(mut self, path: &Path) -> io::Result<()> {
        if self.named == Named::Already {
            return self.file.flush();
        }
        self.file.sync_all()?;
        if self.named == Named::AtTheEnd {
            use std::os::fd::AsRawFd as _;
            let temporary = beside(path);
            let own = format!("/proc/self/fd/{}", self.file.as_fd().as_raw_fd());
            rustix::fs::linkat(CWD, own, CWD, &temporary, AtFlags::SYMLINK_FOLLOW)?;
            self.temporary = Some(temporary);
        }
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, path)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// A name in the same directory, for the moment before the rename.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_is_a_file_unless_it_is_an_image() {
        let cut = |line: &str| {
            let (file, names) = words(line.split(' ').map(str::to_owned).collect()).unwrap();
            (file.map(|f| f.display().to_string()), names.join(" "))
        };
        for (line, file, names) in [
            ("a.tar r.local/x:1", Some("a.tar"), "r.local/x:1"),
            ("out r.local/x:1 r.local/y:1", Some("out"), "r.local/x:1 r.local/y:1"),
            ("d.io/x.tar.zst r.local/x:1", Some("d.io/x.tar.zst"), "r.local/x:1"),
            ("/tmp/r.local/x r.local/x:1", Some("/tmp/r.local/x"), "r.local/x:1"),
            ("- r.local/x:1", None, "r.local/x:1"),
            ("r.local/x:1", None, "r.local/x:1"),
            ("r.local/x:1 r.local/y:1", None, "r.local/x:1 r.local/y:1"),
        ] {
            assert_eq!(cut(line), (file.map(str::to_owned), names.to_owned()), "{line}");
        }
        assert!(words(vec!["a.tar".into()]).is_err() && words(vec!["-".into()]).is_err());
    }
}
