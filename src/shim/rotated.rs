//! The files of one attempt's log: whole lines, rotated by size and count.
//!
//! Invariants: after [`Rotated::put`] the file holds whole lines only, also on a full disk; what was dropped is counted
//! in the file as soon as it can be. While more is on its way, what is written ends at a block, so that the kernel keeps
//! it in few large pieces: half a line is then in the file for a moment, and its rest follows.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::note::note;

/// Attempts whose logs are kept, the current one included: a container that crashes for ever fills no disk.
const KEPT_ATTEMPTS: u32 = 5;
/// Writes of more than this end at a multiple of it in the file.
const BLOCK: u64 = 64 << 10;

/// See the module.
pub struct Rotated {
    path: PathBuf,
    max_size: u64,
    max_files: u32,
    file: Option<File>,
    size: u64,
    /// Where the last line in it ends.
    whole: u64,
    dropped_lines: u64,
    dropped_bytes: u64,
    dropped_why: String,
    /// Of the dropped lines, those that nobody was told of by [`Rotated::take_dropped`].
    untold: u64,
}

impl Rotated {
    /// Makes `<dir>/<attempt>.log` at once, 0640, and the directory if need be; logs of attempts that are too long ago
    /// go. `max_size` 0 never rotates.
    pub fn open(dir: &Path, attempt: u32, max_size: u64, max_files: u32) -> Self {
        let mut log = Self {
            path: dir.join(format!("{attempt}.log")),
            max_size: if max_size == 0 { u64::MAX } else { max_size },
            max_files: max_files.max(1),
            file: None,
            size: 0,
            whole: 0,
            dropped_lines: 0,
            dropped_bytes: 0,
            dropped_why: String::new(),
            untold: 0,
        };
        if let Err(error) = log.reopen() {
            note(format_args!("log {}: {error}; output is dropped until it can be opened", log.path.display()));
        }
        prune(dir, attempt);
        log
    }

    fn reopen(&mut self) -> std::io::Result<()> {
        let options = || {
            let mut options = OpenOptions::new();
            options.read(true).append(true).create(true).mode(0o640).custom_flags(nix::libc::O_NOFOLLOW);
            options
        };
        let file = match options().open(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let dir = self.path.parent().unwrap_or(Path::new("/"));
                DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
                options().open(&self.path)?
            }
            other => other?,
        };
        let size = file.metadata()?.len();
        self.whole = whole(&file, size)?;
        if self.whole < size {
            file.set_len(self.whole)?;
        }
        self.size = self.whole;
        self.file = Some(file);
        Ok(())
    }

    /// Log lines that were dropped since this was asked last.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.untold)
    }

    /// Bytes that the file takes behind `text`.
    pub fn room(&self, text: &[u8]) -> u64 {
        self.max_size.saturating_sub(self.size + text.len() as u64)
    }

    /// Begins a new file for a line of `length` bytes, unless this one has nothing yet. A line that is `unfinished`
    /// keeps its file, up to twice the size: one that never ends must not fill the disk.
    pub fn make_room(&mut self, length: u64, unfinished: bool, text: &mut Vec<u8>) {
        let before = self.size + text.len() as u64;
        let kept = unfinished && before < self.max_size.saturating_mul(2);
        if before > 0 && before.saturating_add(length) > self.max_size && !kept {
            self.put(text);
            self.rotate();
        }
    }

    /// Brings `text`, whole lines, to the file, all or nothing.
    pub fn put(&mut self, text: &mut Vec<u8>) {
        if !text.is_empty() {
            self.bring(text, text.len());
        }
    }

    /// The same, and what was dropped before is told also with nothing behind it.
    pub fn put_last(&mut self, text: &mut Vec<u8>) {
        if !text.is_empty() || self.dropped_lines > 0 {
            self.bring(text, text.len());
        }
    }

    /// Brings as much of `text` to the file as ends at a block; the rest must follow.
    pub fn put_blocks(&mut self, text: &mut Vec<u8>) {
        let end = (self.size + text.len() as u64) / BLOCK * BLOCK;
        if let Some(length) = end.checked_sub(self.size).filter(|length| *length > 0) {
            self.bring(text, usize::try_from(length).unwrap_or(text.len()));
        }
    }

    fn bring(&mut self, text: &mut Vec<u8>, mut length: usize) {
        if self.dropped_lines > 0 {
            let marker = format!(
                "{:.9} stderr F bayplan: {} log lines ({} bytes) were dropped here: {}\n",
                Timestamp::now(),
                self.dropped_lines,
                self.dropped_bytes,
                self.dropped_why
            );
            length += marker.len();
            text.splice(..0, marker.into_bytes());
        }
        match self.append(&text[..length]) {
            Ok(()) => {
                if let Some(end) = memchr::memrchr(b'\n', &text[..length]) {
                    self.whole = self.size + end as u64 + 1;
                }
                self.size += length as u64;
                self.dropped_lines = 0;
                self.dropped_bytes = 0;
                text.drain(..length);
            }
            Err(error) => self.drop_lines(text, &error),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.file.is_none() {
            self.reopen()?;
        }
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
    }

    /// The disk took half a line, or nothing: back to the last whole one.
    fn drop_lines(&mut self, text: &mut Vec<u8>, error: &std::io::Error) {
        let split = self.size - self.whole;
        if let Some(file) = &self.file {
            let _ = file.set_len(self.whole);
            self.size = self.whole;
        }
        // A marker that was before them is no line of the container's.
        let marker = self.dropped_lines > 0;
        let own = if marker { memchr::memchr(b'\n', text).map_or(0, |end| end + 1) } else { 0 };
        let lines = memchr::memchr_iter(b'\n', &text[own..]).count() as u64;
        if !marker {
            note(format_args!("log {}: {error}; output is dropped", self.path.display()));
        }
        self.dropped_lines += lines;
        self.untold += lines;
        self.dropped_bytes += split + (text.len() - own) as u64;
        self.dropped_why = error.to_string();
        text.clear();
    }

    /// `<attempt>.log` becomes `.1`, `.1` becomes `.2`, and what is past the count goes.
    fn rotate(&mut self) {
        let name = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        let outcome = if self.max_files == 1 {
            std::fs::remove_file(&self.path)
        } else {
            // Removed, not renamed over: that would have ext4 bring the data of the file that moves to the disk at once.
            let _ = std::fs::remove_file(name(self.max_files - 1));
            for number in (1..self.max_files - 1).rev() {
                let _ = std::fs::rename(name(number), name(number + 1));
            }
            std::fs::rename(&self.path, name(1))
        };
        match outcome {
            Ok(()) => self.file = None,
            // Somebody took the file away, or the directory cannot be changed: a new one, or on with this one.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.file = None,
            Err(error) => {
                note(format_args!("log {}: cannot be rotated: {error}", self.path.display()));
                self.max_size = u64::MAX;
            }
        }
        if self.file.is_none() {
            (self.size, self.whole) = (0, 0);
            // If it cannot be opened now, the next line tries again and counts what it drops.
            let _ = self.reopen();
        }
    }
}

/// Where the last whole line of a file ends: a shim that was killed may have left half of one.
fn whole(file: &File, size: u64) -> std::io::Result<u64> {
    let mut end = size;
    let mut piece = [0; 4096];
    while end > 0 {
        let begin = (end - 1) / 4096 * 4096;
        let piece = &mut piece[..usize::try_from(end - begin).unwrap_or(4096)];
        file.read_exact_at(piece, begin)?;
        if let Some(at) = memchr::memrchr(b'\n', piece) {
            return Ok(begin + at as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

/// Removes the logs of attempts before the last [`KEPT_ATTEMPTS`], rotated files too.
fn prune(dir: &Path, attempt: u32) {
    let Some(oldest) = (attempt + 1).checked_sub(KEPT_ATTEMPTS) else { return };
    let number = |name: &str| name.split_once(".log")?.0.parse::<u32>().ok();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_str().and_then(number).is_some_and(|number| number < oldest) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_of_long_ago_are_pruned_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["1.log", "1.log.2", "9.log", "10.log.1", "10.log", "x.log", "1.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        Rotated::open(dir.path(), 14, 0, 1);
        let mut left: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["1.txt", "10.log", "10.log.1", "14.log", "x.log"]);
    }

    #[test]
    fn what_a_full_disk_drops_is_counted_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Rotated::open(dir.path(), 0, 0, 1);
        log.put(&mut b"before\n".to_vec());
        log.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        log.put(&mut b"lost\nlost too\n".to_vec());
        // The marker does not get there either, and is no line of the container's.
        log.put(&mut b"lost as well\n".to_vec());
        assert_eq!(log.take_dropped(), 3);
        log.file = None;
        log.put_last(&mut Vec::new());
        log.put(&mut b"after\n".to_vec());
        let text = std::fs::read_to_string(dir.path().join("0.log")).unwrap();
        let got: Vec<&str> = text.lines().collect();
        assert!(
            got[1].contains("stderr F bayplan: 3 log lines (27 bytes) were dropped here: No space left"),
            "{got:?}"
        );
        assert!(got[0] == "before" && got[2] == "after" && got.len() == 3, "{got:?}");
    }

    #[test]
    fn a_line_that_a_block_has_split_is_dropped_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Rotated::open(dir.path(), 0, 0, 1);
        let line = [&[b'x'; 999][..], b"\n"].concat();
        let mut text = line.repeat(100);
        log.put_blocks(&mut text);
        let path = dir.path().join("0.log");
        assert_eq!((std::fs::metadata(&path).unwrap().len(), text.len()), (BLOCK, 100_000 - 65_536));
        // A descriptor that cannot be written to, of the same file.
        let mut denied = log.file.replace(File::open(&path).unwrap());
        log.put(&mut text);
        std::mem::swap(&mut log.file, &mut denied);
        assert_eq!((log.take_dropped(), log.size), (35, 65_000));
        log.file.as_ref().unwrap().set_len(log.size).unwrap();
        log.put(&mut b"after\n".to_vec());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().take(65).all(|line| line.len() == 999));
        let rest: Vec<&str> = text.lines().skip(65).collect();
        assert!(rest[0].contains("bayplan: 35 log lines (35000 bytes) were dropped here"), "{rest:?}");
        assert_eq!(rest[1..], ["after"]);
    }

    #[test]
    fn what_a_shim_that_was_killed_left_of_a_line_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        for (before, after) in [("", ""), ("a\n", "a\n"), ("a\nb", "a\n"), ("b", "")] {
            let long = before.replace('b', &"b".repeat(10_000)).replace('a', &"a".repeat(5000));
            std::fs::write(&path, &long).unwrap();
            Rotated::open(dir.path(), 0, 0, 1).put(&mut b"next\n".to_vec());
            let expected = after.replace('a', &"a".repeat(5000)) + "next\n";
            assert!(std::fs::read_to_string(&path).unwrap() == expected, "{before:?}");
        }
    }
}
