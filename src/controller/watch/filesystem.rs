//! Which file systems notify, and when mounts change.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// File systems whose content changes behind the kernel's back (`statfs(2)` magic numbers): on other
/// hosts, in a user-space server, or in a layer below.
const SILENT: [(u32, &str); 15] = [
    (0x6969, "nfs"),
    (0x517B, "smb"),
    (0xFE53_4D42, "smb2"),
    (0xFF53_4D42, "cifs"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x794C_7630, "overlay"),
    (0x5346_414F, "afs"),
    (0x00C3_6400, "ceph"),
    (0x0BD0_0BD0, "lustre"),
    (0x0116_1970, "gfs2"),
    (0x7461_636F, "ocfs2"),
    (0x786F_4256, "vboxsf"),
    (0xBACB_ACBC, "vmhgfs"),
    (0x6174_6C6B, "aufs"),
];

/// Why this directory, or something mounted in it, must be polled; `None` where the kernel notifies.
pub(super) fn needs_polling(real: &Path) -> Option<String> {
    let magic = |path: &Path| {
        let found = rustix::fs::statfs(path).ok()?.f_type;
        // Magic numbers have 32 bits; the field is wider and may be sign-extended.
        SILENT.iter().find(|(magic, _)| i64::from(*magic) == (found & 0xFFFF_FFFF)).map(|(_, name)| *name)
    };
    if let Some(name) = magic(real) {
        return Some(format!("{name} does not notify of every change"));
    }
    mounts_below(real).iter().filter_map(|line| line.split(' ').nth(2)).find_map(|point| {
        let name = magic(Path::new(point))?;
        Some(format!("{name}, mounted at {point}, does not notify of every change"))
    })
}

/// Mounts at or below a directory: `ID DEVICE POINT`, in mount order. Reads `/proc/self/mountinfo`.
pub(super) fn mounts_below(real: &Path) -> Vec<String> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let below = |line: &[u8]| {
        // proc(5): ID, parent, device, root, mount point, …; odd characters as \ooo.
        let fields: Vec<&[u8]> = line.splitn(6, |byte| *byte == b' ').collect();
        let [id, _, device, _, point, _] = fields.as_slice() else { return None };
        let point = unescape(point);
        Path::new(std::ffi::OsStr::from_bytes(&point)).starts_with(real).then(|| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            format!("{} {} {}", text(id), text(device), text(&point))
        })
    };
    text.split(|byte| *byte == b'\n').filter_map(below).collect()
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', further @ ..] if *first == b'\\' => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = further;
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

/// The mount table of our mount namespace, as something to wait for: an unmounted or mounted-over
/// directory sends no event that notify passes on.
#[derive(Debug)]
pub(super) struct Mounts {
    table: AsyncFd<File>,
    /// When a change that was seen is told.
    due: Option<Instant>,
}

/// Every container's start and end is several changes of the table, and whoever hears of one reads the whole
/// table: they are told together.
const TOGETHER: Duration = Duration::from_millis(50);

impl Mounts {
    /// `None` without `/proc`.
    #[allow(unsafe_code)] // tokio's safe constructor is deprecated.
    pub fn open() -> Option<Self> {
        let table = File::open("/proc/self/mountinfo").ok()?;
        // SAFETY: the `AsyncFd` owns the file, whose descriptor stays the same and open until it is dropped;
        // nothing takes it out.
        let registered = unsafe { AsyncFd::register_with_interest(table, Interest::PRIORITY) };
        // proc(5): a change of the table is POLLPRI.
        Some(Self { table: registered.ok()?, due: None })
    }

    /// Returns when something was mounted or unmounted, a moment later. Cancel-safe.
    pub async fn changed(&mut self) {
        let due = match self.due {
            Some(due) => due,
            None => {
                match self.table.ready(Interest::PRIORITY).await {
                    Ok(mut guard) => guard.clear_ready(),
                    Err(_) => std::future::pending().await,
                }
                *self.due.insert(Instant::now() + TOGETHER)
            }
        };
        tokio::time::sleep_until(due).await;
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape(br"/a\040b\134c\011"), b"/a b\\c\t");
        assert_eq!(unescape(br"\9\04"), br"\9\04");
    }

    #[test]
    fn mounts_are_found_below_their_directory_only() {
        assert!(mounts_below(Path::new("/proc")).iter().any(|line| line.ends_with(" /proc")));
        assert!(mounts_below(Path::new("/nonexistent")).is_empty());
    }
}
