//! `/proc/self/mountinfo`, as far as bundles and cgroups need it (proc(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::RuntimeError;

/// The table of the calling process's mount namespace.
pub(crate) const PATH: &str = "/proc/self/mountinfo";

/// One line of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The mount point, unescaped.
    pub target: PathBuf,
    /// The file system's type.
    pub kind: String,
    /// The superblock's options, such as `rw,memory`.
    pub super_options: String,
}

/// Every mount this process sees, in the order of the table (later ones lie on top).
pub(crate) fn read() -> Result<Vec<Entry>, RuntimeError> {
    let table = std::fs::read(PATH).map_err(|e| RuntimeError::io("reading", PATH, e))?;
    Ok(parse(&table))
}

/// Mount points at or below `directory`, which must be canonical; the topmost first.
pub(crate) fn below(directory: &Path) -> Result<Vec<PathBuf>, RuntimeError> {
    let mut found: Vec<PathBuf> =
        read()?.into_iter().map(|entry| entry.target).filter(|target| target.starts_with(directory)).collect();
    found.reverse();
    Ok(found)
}

pub(crate) fn parse(table: &[u8]) -> Vec<Entry> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let target = unescape(fields.nth(4)?);
    // A varying number of optional fields ends at a lone dash.
    fields.find(|field| *field == b"-")?;
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let kind = text(fields.next()?);
    let super_options = text(fields.nth(1)?);
    Some(Entry { target, kind, super_options })
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while let Some(&byte) = field.get(at) {
        let digits = (byte == b'\\')
            .then(|| field.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match digits {
            Some(value) => {
                out.push(value);
                at += 4;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_target_type_and_super_options_whatever_stands_between() {
        let table = b"31 23 0:28 / /sys/fs/cgroup/cpu\\040acct rw,relatime shared:1 master:2 - cgroup cgroup rw,cpu\n\
                      27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\nnonsense\n";
        let entries = parse(table);
        assert_eq!(entries.len(), 2);
        assert_eq!(
            entries[0],
            Entry { target: "/sys/fs/cgroup/cpu acct".into(), kind: "cgroup".into(), super_options: "rw,cpu".into() }
        );
        assert_eq!(entries[1].kind, "ext4");
    }

    #[test]
    fn the_own_table_holds_the_root() {
        assert!(read().unwrap().iter().any(|entry| entry.target == Path::new("/")));
    }
}
