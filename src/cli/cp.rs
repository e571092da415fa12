//! `bayplan cp`.

use std::io::{self, BufReader, IsTerminal as _};
use std::path::Path;

use futures_util::StreamExt as _;
use rustix::fs::{CWD, Mode as Bits, OFlags};
use tokio::runtime::Handle;

use super::context::Context;
use super::load;
use crate::api::{Archive, Copied, CopyFromRequest, CopyIntoRequest, Service as _, Stream, channel};
use crate::copy::{self, Incoming, Mode, Options, Outgoing};
use crate::error::{Class, Fault, Result};

/// Copy files out of a container or into one
///
/// One of the two is NAME:PATH. A directory is copied with all that is in it; written as DIR/. it stands for what it
/// holds. What is copied into a directory that is there keeps its name, else it gets the name of DEST, whose parent must
/// be there. Links are copied as links, but SRC and DEST themselves are followed. With - for SRC, a tar stream (also
/// gzip or zstd) is unpacked into the directory DEST; with - for DEST, SRC comes as a tar stream. It works on containers
/// that run and on those that do not; PATH begins at the container's root.
#[derive(Debug, clap::Args)]
#[command(override_usage = "bayplan cp [OPTIONS] NAME:PATH PATH|-\n       bayplan cp [OPTIONS] PATH|- NAME:PATH")]
pub struct Args {
    /// What
    #[arg(value_name = "SRC")]
    pub source: String,
    /// Where to
    #[arg(value_name = "DEST")]
    pub target: String,
    /// Keep owners and set-id bits
    // Not `-a`, which is --address; rewritten where it stands behind `cp`.
    #[arg(
        long,
        help = "-a, --archive: keep owners and set-id bits; else root owns what goes in, and you what comes out"
    )]
    pub archive: bool,
    /// Follow a link that SRC is, which is done anyway
    #[arg(short = 'L', long, hide = true)]
    pub follow_link: bool,
}

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End<'a> {
    Container(&'a str, &'a str),
    Here(&'a str),
    Stream,
}

/// Docker's rule: a colon makes it a container's, unless it looks like a path.
fn end(text: &str) -> End<'_> {
    if text == "-" {
        return End::Stream;
    }
    let named = text.split_once(':').filter(|(name, _)| !name.is_empty() && !text.starts_with(['/', '.']));
    match named {
        Some((name, path)) => End::Container(name.strip_prefix("container/").unwrap_or(name), path),
        None => End::Here(text),
    }
}

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let (source, target) = (end(&args.source), end(&args.target));
    for one in [&source, &target] {
        if let End::Container(name, "") = one {
            return Err(Fault::new(Class::Usage, format!("{name}: names no path in the container"))
                .help(format!("write {name}:/ for its root")));
        }
    }
    let owners = args.archive;
    match (source, target) {
        (End::Container(name, path), target) => {
            if target == End::Stream && io::stdout().is_terminal() {
                return Err(Fault::new(Class::Usage, "an archive is nothing for a terminal")
                    .help(format!("pipe it on, or name a file: bayplan cp {name}:{path} FILE")));
            }
            let request = CopyFromRequest { namespace: context.namespace(), name: name.into(), path: path.into() };
            let node = context.node().await?;
            let bytes = node.copy_from(request).await?;
            match target {
                End::Stream => out(bytes, context).await,
                End::Here(place) => here(bytes, place.to_owned(), owners, context).await,
                End::Container(name, path) => {
                    into(name, path, Archive::Bytes(bytes), Into { extract: false, owners }, context).await
                }
            }
        }
        (End::Stream, End::Container(name, path)) => {
            let archive = load::open(Path::new("-"))?;
            into(name, path, archive, Into { extract: true, owners }, context).await
        }
        (End::Here(from), End::Container(name, path)) => {
            let bytes = packed(from)?;
            into(name, path, Archive::Bytes(bytes), Into { extract: false, owners }, context).await
        }
        _ => Err(Fault::new(Class::Usage, "neither of the two is in a container")
            .help("write one as NAME:PATH, such as web:/etc/motd")),
    }
}

struct Into {
    extract: bool,
    owners: bool,
}

/// Into a container.
async fn into(name: &str, path: &str, archive: Archive, how: Into, context: &mut Context) -> Result<u8> {
    let request = CopyIntoRequest {
        namespace: context.namespace(),
        name: name.into(),
        path: path.into(),
        extract: how.extract,
        owners: how.owners,
    };
    let node = context.node().await?;
    let mut answer = node.copy_into(request, archive).await?;
    let Some(copied) = answer.next().await.transpose()? else {
        return Err(Fault::new(Class::Runtime, format!("the node did not say what was copied into {name}")));
    };
    told(&copied, context);
    Ok(0)
}

fn told(copied: &Copied, context: &mut Context) {
    if copied.skipped > 0 {
        context.ui.note(format!("{} devices or the like were not copied", copied.skipped));
    }
}

/// As a stream.
async fn out(mut bytes: Stream<bytes::Bytes>, context: &mut Context) -> Result<u8> {
    while let Some(part) = bytes.next().await {
        context.ui.bytes(&part?);
        if context.ui.is_closed() {
            context.ui.finish()?;
            return Err(Fault::new(Class::No, "the archive is cut short: its reader went away"));
        }
    }
    Ok(0)
}

/// To a place of this machine.
async fn here(bytes: Stream<bytes::Bytes>, place: String, owners: bool, context: &mut Context) -> Result<u8> {
    let handle = Handle::current();
    let options = Options { mode: Mode::Place, owners, follow: false };
    let copying = tokio::task::spawn_blocking(move || {
        let (root, path) = (root()?, absolute(&place)?);
        let mut incoming = Incoming::new(bytes, handle, None);
        let report = copy::unpack(root, &path, BufReader::with_capacity(256 << 10, &mut incoming), options);
        // What ended the stream is what went wrong; what it looked like from here is not.
        report.map_err(|error| incoming.fault().unwrap_or_else(|| error.into_fault(None)))
    });
    let report = copying.await.map_err(|error| Fault::new(Class::Bug, format!("copying: {error}")))??;
    told(&Copied { entries: report.entries, bytes: report.bytes, skipped: report.skipped }, context);
    Ok(0)
}

/// A file or directory of this machine as a stream; what is there is looked at before the first byte.
fn packed(from: &str) -> Result<Stream<bytes::Bytes>> {
    let (root, path) = (root()?, absolute(from)?);
    rustix::fs::stat(Path::new(from)).map_err(|error| {
        let class = if error == rustix::io::Errno::NOENT { Class::NotFound } else { Class::No };
        Fault::new(class, format!("{from}: {}", io::Error::from(error)))
    })?;
    let (sender, stream) = channel(4);
    let (failed, handle) = (sender.clone(), Handle::current());
    std::thread::spawn(move || {
        let packed = copy::pack(root, &path, Outgoing::new(sender, handle.clone(), None));
        if let Err(error) = packed {
            let _ = handle.block_on(failed.send(Err(error.into_fault(None))));
        }
    });
    Ok(stream)
}

/// Everything of this machine, for paths beneath.
fn root() -> Result<std::os::fd::OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, "/", flags, Bits::empty())
        .map_err(|error| Fault::new(Class::Runtime, format!("/: {}", io::Error::from(error))))
}

/// From the root, with what its end says (`dir/`, `dir/.`) kept.
fn absolute(path: &str) -> Result<Vec<u8>> {
    if path.starts_with('/') {
        return Ok(path.as_bytes().to_vec());
    }
    let here = std::env::current_dir()
        .map_err(|error| Fault::new(Class::Runtime, format!("the current directory: {error}")))?;
    Ok([copy::bytes(&here), b"/", path.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_makes_it_a_containers_unless_it_looks_like_a_path() {
        assert_eq!(end("web:/etc"), End::Container("web", "/etc"));
        assert_eq!(end("container/web:etc/a:b"), End::Container("web", "etc/a:b"));
        for path in ["/a:b", "./a:b", "../a:b", "plain", ":x"] {
            assert_eq!(end(path), End::Here(path));
        }
        assert_eq!(end("-"), End::Stream);
    }
}
