//! One attempt's log file in the CRI format (`<RFC 3339> stdout|stderr F|P <bytes>`; Kubernetes' "kubelet CRI
//! logging"), with rotation by size.
//!
//! Invariants: the file holds whole lines only, also after a full disk; what was dropped is counted in the file as
//! soon as it can be; a line is never split across files, unless it alone is longer than a file may be. Writing
//! never fails and never waits for anything but the disk.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::note::note;

/// Longest piece of a line on one log line; longer ones are continued by `P` tags. containerd's value.
pub const LONGEST: usize = 16 << 10;

/// Attempts whose logs are kept, the current one included: a container that crashes for ever fills no disk.
const KEPT_ATTEMPTS: u32 = 5;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Standard output.
    Out = 0,
    /// Standard error.
    Err = 1,
}

impl Channel {
    fn name(self) -> &'static str {
        match self {
            Channel::Out => "stdout",
            Channel::Err => "stderr",
        }
    }
}

/// See the module.
pub struct CriLog {
    path: PathBuf,
    max_size: u64,
    max_files: u32,
    file: Option<File>,
    size: u64,
    /// Bytes of a line whose end has not come yet, by channel.
    held: [Vec<u8>; 2],
    /// Whether the last log line of a channel was tagged `P`.
    open_line: [bool; 2],
    lines: u64,
    dropped_lines: u64,
    dropped_bytes: u64,
    dropped_why: String,
    /// Of the dropped lines, those that nobody was told of by [`CriLog::take_dropped`].
    untold: u64,
}

impl CriLog {
    /// Makes `<dir>/<attempt>.log` at once, 0640, and the directory if need be; logs of attempts that are too long ago
    /// go. `max_size` 0 never rotates.
    pub fn open(dir: &Path, attempt: u32, max_size: u64, max_files: u32) -> Self {
        let mut log = Self {
            path: dir.join(format!("{attempt}.log")),
            max_size: if max_size == 0 { u64::MAX } else { max_size },
            max_files: max_files.max(1),
            file: None,
            size: 0,
            held: [Vec::new(), Vec::new()],
            open_line: [false; 2],
            lines: 0,
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
            options.append(true).create(true).mode(0o640).custom_flags(nix::libc::O_NOFOLLOW);
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
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Log lines that were dropped since this was asked last.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.untold)
    }

    /// Writes what a channel produced, which all has one time. `text` is working space, left empty.
    pub fn write(&mut self, channel: Channel, mut bytes: &[u8], now: Timestamp, text: &mut Vec<u8>) {
        let full = format!("{now:.9} {} F ", channel.name());
        if self.held[channel as usize].is_empty() && !self.open_line.contains(&true) {
            bytes = self.whole_lines(&full, bytes, text);
        }
        while !bytes.is_empty() {
            let end = memchr::memchr(b'\n', bytes);
            let mut piece = &bytes[..end.unwrap_or(bytes.len())];
            let mut held = std::mem::take(&mut self.held[channel as usize]);
            while held.len() + piece.len() > LONGEST {
                let (now, later) = piece.split_at(LONGEST - held.len());
                self.line(&full.replace(" F ", " P "), &held, now, text);
                self.open_line[channel as usize] = true;
                held.clear();
                piece = later;
            }
            match end {
                Some(end) => {
                    self.line(&full, &held, piece, text);
                    self.open_line[channel as usize] = false;
                    bytes = &bytes[end + 1..];
                }
                None => {
                    held.extend_from_slice(piece);
                    self.held[channel as usize] = held;
                    bytes = &[];
                }
            }
        }
        self.flush(text);
    }

    /// The channel has ended: a line without its newline is a line.
    pub fn finish(&mut self, channel: Channel, now: Timestamp, text: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held[channel as usize]);
        let marker = self.dropped_lines > 0;
        if !held.is_empty() || self.open_line[channel as usize] {
            let full = format!("{now:.9} {} F ", channel.name());
            self.line(&full, &held, &[], text);
            self.open_line[channel as usize] = false;
        }
        self.flush_with(marker, text);
    }

    /// The usual case, which output at full speed is: whole lines that need no room to be made. Gives what is left.
    fn whole_lines<'a>(&mut self, head: &str, bytes: &'a [u8], text: &mut Vec<u8>) -> &'a [u8] {
        let mut begin = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let piece = &bytes[begin..end];
            let length = head.len() + piece.len() + 1;
            if piece.len() > LONGEST || self.size + (text.len() + length) as u64 > self.max_size {
                break;
            }
            text.reserve(length);
            text.extend_from_slice(head.as_bytes());
            text.extend_from_slice(piece);
            text.push(b'\n');
            self.lines += 1;
            begin = end + 1;
        }
        &bytes[begin..]
    }

    fn line(&mut self, head: &str, held: &[u8], rest: &[u8], text: &mut Vec<u8>) {
        let length = (head.len() + held.len() + rest.len() + 1) as u64;
        let before = self.size + text.len() as u64;
        // An unfinished line keeps its file, up to twice the size: a line that never ends must not fill the disk.
        let unfinished = self.open_line.contains(&true) && before < self.max_size.saturating_mul(2);
        if before > 0 && before + length > self.max_size && !unfinished {
            self.flush(text);
            self.rotate();
        }
        for part in [head.as_bytes(), held, rest, b"\n"] {
            text.extend_from_slice(part);
        }
        self.lines += 1;
    }

    /// Brings `text`, whole lines, to the file, all or nothing.
    fn flush(&mut self, text: &mut Vec<u8>) {
        self.flush_with(false, text);
    }

    /// `marker`: what was dropped before is told also with nothing behind it.
    fn flush_with(&mut self, marker: bool, text: &mut Vec<u8>) {
        let (lines, bytes) = (std::mem::take(&mut self.lines), text.len() as u64);
        if text.is_empty() && !marker {
            return;
        }
        if self.dropped_lines > 0 {
            let marker = format!(
                "{:.9} stderr F bayplan: {} log lines ({} bytes) were dropped here: {}\n",
                Timestamp::now(),
                self.dropped_lines,
                self.dropped_bytes,
                self.dropped_why
            );
            text.splice(..0, marker.into_bytes());
        }
        match self.put(text) {
            Ok(()) => {
                self.size += text.len() as u64;
                self.dropped_lines = 0;
                self.dropped_bytes = 0;
            }
            Err(error) => {
                if self.dropped_lines == 0 {
                    note(format_args!("log {}: {error}; output is dropped", self.path.display()));
                }
                self.dropped_lines += lines;
                self.untold += lines;
                self.dropped_bytes += bytes;
                self.dropped_why = error.to_string();
            }
        }
        text.clear();
    }

    fn put(&mut self, text: &[u8]) -> std::io::Result<()> {
        if self.file.is_none() {
            self.reopen()?;
        }
        let size = self.size;
        let Some(file) = &mut self.file else { return Ok(()) };
        // A short write leaves half a line; take it back.
        file.write_all(text).inspect_err(|_| drop(file.set_len(size)))
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
            Ok(()) => {
                self.file = None;
                self.size = 0;
            }
            // Somebody took the file away, or the directory cannot be changed: a new one, or on with this one.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.file = None,
            Err(error) => {
                note(format_args!("log {}: cannot be rotated: {error}", self.path.display()));
                self.max_size = u64::MAX;
            }
        }
        if self.file.is_none() {
            self.size = 0;
            // If it cannot be opened now, the next flush tries again and counts what it drops.
            let _ = self.reopen();
        }
    }
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

    fn lines(path: &Path) -> Vec<String> {
        let text = std::fs::read(path).unwrap();
        assert!(text.is_empty() || text.ends_with(b"\n"), "{} ends in half a line", path.display());
        String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
    }

    fn write(log: &mut CriLog, channel: Channel, bytes: &[u8]) {
        log.write(channel, bytes, Timestamp::UNIX_EPOCH, &mut Vec::new());
    }

    #[test]
    fn lines_carry_time_stream_and_tag() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = CriLog::open(&dir.path().join("a/b"), 3, 0, 1);
        let path = dir.path().join("a/b/3.log");
        assert_eq!(lines(&path), Vec::<String>::new(), "the file is there before any output");
        write(&mut log, Channel::Out, b"one\ntw");
        write(&mut log, Channel::Err, b"\n");
        write(&mut log, Channel::Out, b"o\nthr");
        log.finish(Channel::Out, Timestamp::UNIX_EPOCH, &mut Vec::new());
        let time = "1970-01-01T00:00:00.000000000Z";
        let expected =
            ["stdout F one", "stderr F ", "stdout F two", "stdout F thr"].map(|line| format!("{time} {line}"));
        assert_eq!(lines(&path), expected);
    }

    #[test]
    fn long_lines_are_continued_by_partial_tags_of_sixteen_kibibytes() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = CriLog::open(dir.path(), 0, 0, 1);
        let long = vec![b'x'; 2 * LONGEST + 5];
        for chunk in long.chunks(1000) {
            write(&mut log, Channel::Out, chunk);
        }
        write(&mut log, Channel::Out, b"\n");
        write(&mut log, Channel::Out, &[&long[..LONGEST], b"\n"].concat());
        let got: Vec<(String, usize)> = lines(&dir.path().join("0.log"))
            .iter()
            .map(|line| {
                let (head, text) = line.rsplit_once(' ').unwrap();
                (head.rsplit_once(' ').unwrap().1.to_owned(), text.len())
            })
            .collect();
        let expected = [("P", LONGEST), ("P", LONGEST), ("F", 5), ("F", LONGEST)];
        assert_eq!(got, expected.map(|(tag, length)| (tag.to_owned(), length)));
    }

    #[test]
    fn rotation_keeps_order_count_and_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = CriLog::open(dir.path(), 0, 1000, 3);
        let all: String = (0..100).map(|n| format!("line {n}\n")).collect();
        for chunk in all.as_bytes().chunks(7) {
            write(&mut log, Channel::Out, chunk);
        }
        assert!(!dir.path().join("0.log.3").exists());
        let mut seen = Vec::new();
        for name in ["0.log.2", "0.log.1", "0.log"] {
            let path = dir.path().join(name);
            assert!(std::fs::metadata(&path).unwrap().len() <= 1000, "{name}");
            seen.extend(lines(&path).iter().map(|line| line.split_once(" F line ").unwrap().1.parse::<u32>().unwrap()));
        }
        assert_eq!(*seen.last().unwrap(), 99);
        assert!(seen.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seen:?}");
    }

    #[test]
    fn attempts_of_long_ago_are_pruned_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["1.log", "1.log.2", "9.log", "10.log.1", "10.log", "x.log", "1.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        CriLog::open(dir.path(), 14, 0, 1);
        let mut left: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["1.txt", "10.log", "10.log.1", "14.log", "x.log"]);
    }

    #[test]
    fn a_line_that_never_ends_is_bounded_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = CriLog::open(dir.path(), 0, 100_000, 2);
        for _ in 0..200 {
            write(&mut log, Channel::Out, &[b'x'; 10_000]);
        }
        for name in ["0.log", "0.log.1"] {
            assert!(std::fs::metadata(dir.path().join(name)).unwrap().len() < 220_000, "{name}");
        }
    }

    #[test]
    fn what_a_full_disk_drops_is_counted_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = CriLog::open(dir.path(), 0, 0, 1);
        write(&mut log, Channel::Out, b"before\n");
        log.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        write(&mut log, Channel::Out, b"lost\nlost too\n");
        log.file = None;
        write(&mut log, Channel::Out, b"after\n");
        let got = lines(&dir.path().join("0.log"));
        assert!(got[1].contains("stderr F bayplan: 2 log lines (") && got[1].contains("No space left"), "{got:?}");
        assert!(got[0].ends_with(" before") && got[2].ends_with(" after") && got.len() == 3, "{got:?}");
    }
}
