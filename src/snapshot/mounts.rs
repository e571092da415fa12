//! Writable layers and the mounts that make a root of them.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::chain::chain_ids;
use super::error::SnapshotError;
use super::{Snapshots, beneath};
use crate::image::Image;

/// A mount, as containerd's API has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootMount {
    /// File system type, `overlay`.
    pub kind: String,
    /// What is mounted, `overlay`.
    pub source: String,
    /// Options; paths in them are absolute.
    pub options: Vec<String>,
}

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Whether overlayfs has the option `volatile`.
static VOLATILE: LazyLock<bool> = LazyLock::new(|| {
    let release = rustix::system::uname();
    let mut numbers = release.release().to_str().unwrap_or_default().split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|digits| digits.parse::<u32>().ok()).unwrap_or(0);
    (number(), number()) >= (5, 10)
});

/// A key as a file name: `/` and what would not come back from a listing unchanged are written as `%XX`.
fn encode(key: &str) -> Result<String, SnapshotError> {
    let mut name = String::with_capacity(key.len() + 4);
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            b'.' if !name.is_empty() => name.push('.'),
            other => name.push_str(&format!("%{other:02X}")),
        }
    }
    let why = match name.len() {
        0 => "it is empty",
        256.. => "it is too long for a directory's name",
        _ => return Ok(name),
    };
    Err(SnapshotError::Key { key: key.to_owned(), why: why.to_owned() })
}

fn decode(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    loop {
        rest = match rest {
            [] => return String::from_utf8(bytes).ok(),
            [b'%', code @ ..] if code.len() >= 2 => {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&code[..2]).ok()?, 16).ok()?);
                &code[2..]
            }
            [byte, rest @ ..] => {
                bytes.push(*byte);
                rest
            }
        };
    }
}

impl Snapshots {
    /// The directories of the image's layers, uppermost first, as overlayfs takes them; one empty directory
    /// for an image without layers.
    pub fn lower_dirs(&self, image: &Image) -> Result<Vec<PathBuf>, SnapshotError> {
        let store = &self.inner.store;
        let mut lower = Vec::with_capacity(image.layers.len());
        for chain in chain_ids(&image.layers).into_iter().rev() {
            let Some(path) = store.find(&chain) else {
                return Err(SnapshotError::NotUnpacked { image: image.target.digest.clone(), chain });
            };
            lower.push(path);
        }
        if lower.is_empty() {
            lower.push(store.path("empty"));
        }
        Ok(lower)
    }

    /// The mounts of a root for the image with the writable layer `key`, which is made at the first call
    /// and is the same at every later one.
    pub fn prepare(&self, key: &str, image: &Image) -> Result<Vec<RootMount>, SnapshotError> {
        let lower = self.lower_dirs(image)?;
        let directory = self.inner.store.path("w").join(encode(key)?);
        if !directory.join("upper").is_dir() {
            self.make_writable(&directory, lower.first().map(PathBuf::as_path))?;
        }
        let mut lowerdir = String::from("lowerdir=");
        for (at, path) in lower.iter().enumerate() {
            if at > 0 {
                lowerdir.push(':');
            }
            lowerdir.push_str(&path.to_string_lossy());
        }
        let option = |name: &str, dir: &str| format!("{name}={}", directory.join(dir).display());
        let options = vec![lowerdir, option("upperdir", "upper"), option("workdir", "work")];
        Ok(vec![RootMount { kind: "overlay".into(), source: "overlay".into(), options }])
    }

    /// Has the mounts of a writable layer that is thrown away at its first unmount skip every sync, where the
    /// kernel can (5.10). It must not be mounted.
    pub fn make_volatile(&self, key: &str, mounts: &mut [RootMount]) -> Result<(), SnapshotError> {
        if !*VOLATILE {
            return Ok(());
        }
        // The kernel's mark of an earlier such mount, which refuses a second one.
        let mark = self.inner.store.path("w").join(encode(key)?).join("work/incompat");
        match fs::remove_dir_all(&mark) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(SnapshotError::at("remove", &mark)(e)),
            _ => {}
        }
        mounts.iter_mut().for_each(|mount| mount.options.push("volatile".to_owned()));
        Ok(())
    }

    /// Made aside and renamed: a writable layer is there with its root's owner and mode, or not at all.
    fn make_writable(&self, directory: &Path, top: Option<&Path>) -> Result<(), SnapshotError> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let aside = self.inner.store.path("w").join(format!(".new-{}-{serial}", std::process::id()));
        let failed = SnapshotError::at("make", directory);
        let make = || -> io::Result<()> {
            let mut builder = fs::DirBuilder::new();
            builder.mode(0o700).create(&aside)?;
            builder.create(aside.join("work"))?;
            let upper = aside.join("upper");
            builder.create(&upper)?;
            // Overlayfs shows the upper directory's own description as that of the root.
            let (mode, owner) = match top.map(fs::metadata).transpose()? {
                Some(top) => (top.mode() & 0o7777, (top.uid(), top.gid())),
                None => (0o755, (0, 0)),
            };
            chown(&upper, Some(owner.0), Some(owner.1))?;
            fs::set_permissions(&upper, fs::Permissions::from_mode(mode))?;
            match fs::rename(&aside, directory) {
                // Another call made it meanwhile: as good as ours.
                Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
                    fs::remove_dir_all(&aside)
                }
                other => other,
            }
        };
        make().map_err(|error| {
            let _ = fs::remove_dir_all(&aside);
            failed(error)
        })
    }

    /// Removes a writable layer with all that was written into it; one that is not there is no error. It
    /// must not be mounted.
    pub fn remove(&self, key: &str) -> Result<(), SnapshotError> {
        let name = encode(key)?;
        let from = self.inner.store.path("w").join(&name);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let aside = format!(".rm-{}-{serial}", std::process::id());
        // Gone at once for everybody; an interruption leaves what a sweep knows.
        match fs::rename(&from, self.inner.store.path("w").join(&aside)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(SnapshotError::at("remove", &from))?,
        }
        self.inner.store.remove_tree("w", aside.as_bytes())
    }

    /// Where a writable layer is, or would be.
    pub(super) fn writable(&self, key: &str) -> Result<PathBuf, SnapshotError> {
        Ok(self.inner.store.path("w").join(encode(key)?))
    }

    /// The keys of all writable layers, sorted.
    pub fn keys(&self) -> Result<Vec<String>, SnapshotError> {
        let path = self.inner.store.path("w");
        let entries = fs::read_dir(&path).map_err(SnapshotError::at("list", &path))?;
        let names = entries.filter_map(Result::ok).filter_map(|e| e.file_name().into_string().ok());
        let mut keys: Vec<_> = names.filter(|n| !n.starts_with('.')).filter_map(|n| decode(&n)).collect();
        keys.sort();
        Ok(keys)
    }

    /// The bytes of a file of the image, such as `etc/passwd`, as a container that has written nothing would
    /// see it; `None` when there is none. `max` bounds it in bytes, and what is longer is cut.
    pub fn read(&self, image: &Image, path: &str, max: u64) -> Result<Option<Vec<u8>>, SnapshotError> {
        use std::io::Read;
        let (parent, name) = beneath::split(path.trim_start_matches('/').as_bytes());
        for layer in self.lower_dirs(image)? {
            let failed = |e: rustix::io::Errno| SnapshotError::at("read", &layer.join(path.trim_start_matches('/')))(e);
            let root = fs::File::open(&layer).map_err(SnapshotError::at("open", &layer))?;
            let directory = match beneath::open(&root, parent, beneath::DIRECTORY) {
                Ok(directory) => directory,
                Err(rustix::io::Errno::NOENT) => continue,
                // A whiteout, or something else that hides what lies below.
                Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => return Ok(None),
                Err(other) => return Err(failed(other)),
            };
            let whole = if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() };
            // O_NONBLOCK: a FIFO or device in the place of the file is not waited for.
            match beneath::open(&root, &whole, OFlags::RDONLY | OFlags::NONBLOCK) {
                Ok(fd) => {
                    let file = fs::File::from(fd);
                    if !file.metadata().is_ok_and(|m| m.is_file()) {
                        return Ok(None);
                    }
                    let mut bytes = Vec::new();
                    file.take(max).read_to_end(&mut bytes).map_err(SnapshotError::at("read", &layer))?;
                    return Ok(Some(bytes));
                }
                Err(rustix::io::Errno::NOENT) if super::xattr::is_opaque(&directory) => return Ok(None),
                Err(rustix::io::Errno::NOENT) => {}
                // Opening a whiteout (character device 0/0) says ENXIO.
                Err(rustix::io::Errno::NXIO | rustix::io::Errno::NODEV | rustix::io::Errno::LOOP) => return Ok(None),
                Err(other) => return Err(failed(other)),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_from_their_names() {
        for key in ["shop/4f0a-1", "k8s.io/x", ".hidden", "..", "a%2Fb", "é/ü"] {
            let name = encode(key).unwrap();
            assert!(!name.contains('/') && !name.starts_with('.'), "{name}");
            assert_eq!(decode(&name).as_deref(), Some(key));
        }
        assert!(encode("").is_err());
        assert!(encode(&"x".repeat(300)).is_err());
    }
}
