//! Files of an image read out of its layers, before anything is mounted.
//!
//! The layers are merged here as overlayfs merges them (whiteouts, opaque directories, directories over
//! files), one path component at a time: each is opened beneath the descriptor of the directory before it,
//! links are never followed by the kernel but resolved against the image's own root. So whatever an image
//! holds, no path leads out of its layers.

use std::io::{self, Read};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// No passwd or group file is larger than this; one that is, is refused.
const MAX_FILE: u64 = 4 << 20;
/// As many links as the kernel follows in one path.
const MAX_LINKS: u32 = 40;

/// Reads files of a container's future root.
pub trait RootFiles {
    /// The whole file at this absolute path inside, links resolved inside; `None` when there is none.
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;
}

/// The layers of an image as directories, in overlayfs' form (whiteouts are character devices 0/0, opaque
/// directories carry `trusted.overlay.opaque`).
#[derive(Debug, Clone, Default)]
pub struct LayerFiles {
    /// Their directories, the topmost first.
    pub layers: Vec<PathBuf>,
}

/// The root of a running container, as it is now. Links are resolved inside by the kernel (openat2(2)).
#[derive(Debug)]
pub struct RootFs {
    root: OwnedFd,
}

impl RootFs {
    /// Opens a root by a path on the node, such as `/proc/PID/root`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// What is at an absolute path inside; `None` where there is nothing.
    pub fn kind(&self, path: &str) -> io::Result<Option<FileType>> {
        match self.look(path) {
            Ok(found) => Ok(Some(FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn look(&self, path: &str) -> Result<OwnedFd, Errno> {
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside)
    }
}

impl RootFiles for RootFs {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let found = match self.look(path) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Looked at before it is opened: opening a device may do things.
        if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let path = format!("/proc/self/fd/{}", found.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        read_bounded(rustix::fs::open(path, flags, Mode::empty())?).map(Some)
    }
}

/// One directory of the merged tree: the directories it is made of, the topmost first.
type Merged = Vec<OwnedFd>;

/// What a name in a merged directory is.
enum Found {
    Directory(Merged),
    File(OwnedFd),
    Link(Vec<u8>),
    Nothing,
}

impl RootFiles for LayerFiles {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let mut stack = vec![self.root()?];
        // What is left of the path, the next component last.
        let mut rest = components(path.as_bytes());
        let mut links = 0;
        while let Some(name) = rest.pop() {
            match name.as_slice() {
                b".." => {
                    // `..` of the root is the root.
                    stack.truncate(stack.len().saturating_sub(1).max(1));
                    continue;
                }
                name => match stack.last().map_or(Ok(Found::Nothing), |directory| look_up(directory, name))? {
                    Found::Nothing => return Ok(None),
                    Found::Directory(merged) => stack.push(merged),
                    Found::File(file) if rest.is_empty() => return read_bounded(file).map(Some),
                    Found::File(_) => return Ok(None),
                    Found::Link(target) => {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(Errno::LOOP.into());
                        }
                        if target.first() == Some(&b'/') {
                            stack.truncate(1);
                        }
                        rest.extend(components(&target));
                    }
                },
            }
        }
        Ok(None)
    }
}

impl LayerFiles {
    fn root(&self) -> io::Result<Merged> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.layers.iter().map(|layer| Ok(rustix::fs::open(layer, flags, Mode::empty())?)).collect()
    }
}

/// Components in reverse, `.` and empty ones left out.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let mut parts: Vec<_> = parts.map(<[u8]>::to_vec).collect();
    parts.reverse();
    parts
}

fn look_up(directory: &Merged, name: &[u8]) -> io::Result<Found> {
    let mut merged = Merged::new();
    for layer in directory {
        let stat = match rustix::fs::statat(layer, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let opened = rustix::fs::openat(layer, name, flags, Mode::empty())?;
                let opaque = is_opaque(&opened);
                merged.push(opened);
                if opaque {
                    break;
                }
            }
            // A whiteout, or a directory above hides whatever is below.
            FileType::CharacterDevice if stat.st_rdev == 0 => break,
            _ if !merged.is_empty() => break,
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                return Ok(Found::File(rustix::fs::openat(layer, name, flags, Mode::empty())?));
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(layer, name, Vec::new())?;
                return Ok(Found::Link(target.into_bytes()));
            }
            _ => return Ok(Found::Nothing),
        }
    }
    Ok(if merged.is_empty() { Found::Nothing } else { Found::Directory(merged) })
}

fn is_opaque(directory: &OwnedFd) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|name| {
        let mut value = [0_u8; 1];
        matches!(rustix::fs::fgetxattr(directory, *name, &mut value), Ok(1)) && value == *b"y"
    })
}

fn read_bounded(file: OwnedFd) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::from(file).take(MAX_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE {
        return Err(Errno::FBIG.into());
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    struct Image {
        dir: tempfile::TempDir,
        files: LayerFiles,
    }

    /// An image of empty layers `0` (topmost) to `n - 1`.
    fn image(layers: usize) -> Image {
        let dir = tempfile::tempdir().unwrap();
        let layers = (0..layers).map(|n| dir.path().join(n.to_string())).collect::<Vec<_>>();
        layers.iter().for_each(|layer| fs::create_dir_all(layer.join("etc")).unwrap());
        Image { dir, files: LayerFiles { layers } }
    }

    impl Image {
        fn at(&self, path: &str) -> PathBuf {
            self.dir.path().join(path)
        }
        fn write(&self, path: &str) {
            fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
            fs::write(self.at(path), path).unwrap();
        }
        fn whiteout(&self, path: &str) {
            let device = rustix::fs::makedev(0, 0);
            rustix::fs::mknodat(rustix::fs::CWD, self.at(path), FileType::CharacterDevice, Mode::empty(), device)
                .unwrap();
        }
        fn read(&self, path: &str) -> Option<String> {
            self.files.read(path).unwrap().map(|content| String::from_utf8(content).unwrap())
        }
    }

    #[test]
    fn the_topmost_layer_wins() {
        let image = image(3);
        image.write("1/etc/passwd");
        image.write("2/etc/passwd");
        image.write("2/etc/group");
        assert_eq!(image.read("/etc/passwd").unwrap(), "1/etc/passwd");
        assert_eq!(image.read("etc/group").unwrap(), "2/etc/group");
        assert_eq!(image.read("/etc/shadow"), None);
        assert_eq!(image.read("/etc"), None);
        assert_eq!(image.read("/etc/passwd/x"), None);
    }

    #[test]
    fn whiteouts_and_opaque_directories_hide_what_is_below() {
        let image = image(2);
        image.write("1/etc/passwd");
        image.whiteout("0/etc/passwd");
        assert_eq!(image.read("/etc/passwd"), None);
        image.write("1/opt/x");
        fs::create_dir(image.at("0/opt")).unwrap();
        assert_eq!(image.read("/opt/x").unwrap(), "1/opt/x");
        let opaque = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(image.at("0/opt"), "trusted.overlay.opaque", b"y", opaque).unwrap();
        assert_eq!(image.read("/opt/x"), None);
    }

    #[test]
    fn a_file_in_the_way_hides_directories_below_and_a_directory_hides_files() {
        let image = image(2);
        image.write("1/a/x");
        image.write("0/a");
        assert_eq!(image.read("/a/x"), None);
        image.write("1/b");
        image.write("0/b/x");
        assert_eq!(image.read("/b"), None);
        assert_eq!(image.read("/b/x").unwrap(), "0/b/x");
    }

    #[test]
    fn links_are_resolved_inside_across_layers_and_never_lead_out() {
        let image = image(2);
        fs::write(image.at("outside"), "secret").unwrap();
        image.write("1/static/passwd");
        symlink("/static/passwd", image.at("0/etc/passwd")).unwrap();
        symlink("../../../../outside", image.at("0/etc/group")).unwrap();
        symlink(image.at("outside"), image.at("0/etc/absolute")).unwrap();
        symlink("/proc/self/root/etc", image.at("0/out")).unwrap();
        symlink("loop", image.at("0/etc/loop")).unwrap();
        assert_eq!(image.read("/etc/passwd").unwrap(), "1/static/passwd");
        assert_eq!(image.read("/etc/group"), None);
        assert_eq!(image.read("/etc/absolute"), None);
        assert_eq!(image.read("/out/passwd"), None);
        assert!(image.files.read("/etc/loop").is_err());
    }

    #[test]
    fn a_live_root_is_read_inside_and_nowhere_else() {
        let image = image(1);
        fs::write(image.at("outside"), "secret").unwrap();
        image.write("0/static/passwd");
        symlink("/static/passwd", image.at("0/etc/passwd")).unwrap();
        symlink("../../../../outside", image.at("0/etc/group")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, image.at("0/etc/fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let root = RootFs::open(&image.at("0")).unwrap();
        assert_eq!(root.read("/etc/passwd").unwrap().unwrap(), b"0/static/passwd");
        for path in ["/etc/group", "/etc/none", "/etc/passwd/x", "/etc/fifo", "/etc"] {
            assert_eq!(root.read(path).unwrap(), None, "{path}");
        }
        assert_eq!(root.kind("/etc").unwrap(), Some(FileType::Directory));
        assert_eq!(root.kind("/nope").unwrap(), None);
    }

    #[test]
    fn special_and_huge_files_are_not_read() {
        let image = image(1);
        rustix::fs::mknodat(rustix::fs::CWD, image.at("0/etc/passwd"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert_eq!(image.read("/etc/passwd"), None);
        fs::File::create(image.at("0/etc/group")).unwrap().set_len(MAX_FILE + 1).unwrap();
        assert!(image.files.read("/etc/group").is_err());
        assert!(Path::new(&image.at("0")).is_dir());
    }
}
