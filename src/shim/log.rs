//! One attempt's log in the CRI format (`<RFC 3339> stdout|stderr F|P <bytes>`; Kubernetes' "kubelet CRI logging").
//!
//! Invariants: a line is never split across files, unless it alone is longer than a file may be; lines of a channel keep
//! their order. Writing never fails and never waits for anything but the disk ([`Rotated`]). Lines gather in a buffer of
//! the caller's, which must be brought to the file by [`CriLog::flush`] before anybody waits for anything.

use std::path::Path;

use jiff::Timestamp;

use super::rotated::Rotated;

/// Longest piece of a line on one log line; longer ones are continued by `P` tags. containerd's value.
pub const LONGEST: usize = 16 << 10;

/// Bytes before the text of each line, and where in them the tag is.
const HEAD: usize = 40;
const TAG: usize = 38;
type Head = [u8; HEAD];

/// Bytes of log lines that gather before blocks of them are written. With what was read they stay in the cache.
const GATHERED: usize = 192 << 10;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Standard output.
    Out = 0,
    /// Standard error.
    Err = 1,
}

impl Channel {
    /// What all lines of one moment begin with. A clock before the common era, which takes more digits, counts as none.
    fn head(self, now: Timestamp) -> Head {
        let name = match self {
            Channel::Out => "stdout",
            Channel::Err => "stderr",
        };
        let words = |time: Timestamp| Head::try_from(format!("{time:.9} {name} F ").as_bytes());
        words(now).or_else(|_| words(Timestamp::UNIX_EPOCH)).unwrap_or([b' '; HEAD])
    }
}

/// See the module.
pub struct CriLog {
    file: Rotated,
    /// Bytes of a line whose end has not come yet, by channel.
    held: [Vec<u8>; 2],
    /// Whether the last log line of a channel was tagged `P`.
    open_line: [bool; 2],
}

impl CriLog {
    /// Makes `<dir>/<attempt>.log` at once; logs of attempts that are too long ago go. `max_size` 0 never rotates.
    pub fn open(dir: &Path, attempt: u32, max_size: u64, max_files: u32) -> Self {
        let file = Rotated::open(dir, attempt, max_size, max_files);
        Self { file, held: [Vec::new(), Vec::new()], open_line: [false; 2] }
    }

    /// Log lines that were dropped since this was asked last.
    pub fn take_dropped(&mut self) -> u64 {
        self.file.take_dropped()
    }

    /// Takes what a channel produced, which all has one time. `text` gathers the lines, blocks of which are written.
    pub fn write(&mut self, channel: Channel, mut bytes: &[u8], now: Timestamp, text: &mut Vec<u8>) {
        let head = channel.head(now);
        text.reserve_exact((GATHERED + HEAD + LONGEST + 1).saturating_sub(text.len()));
        while !bytes.is_empty() {
            if self.held[channel as usize].is_empty() && !self.open_line.contains(&true) {
                bytes = self.whole_lines(&head, bytes, text);
            }
            bytes = self.one_line(channel, head, bytes, text);
        }
    }

    /// Brings all that was gathered to the file.
    pub fn flush(&mut self, text: &mut Vec<u8>) {
        self.file.put(text);
    }

    /// The channel has ended: a line without its newline is a line. Flushes, and tells what was dropped before.
    pub fn finish(&mut self, channel: Channel, now: Timestamp, text: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held[channel as usize]);
        if !held.is_empty() || self.open_line[channel as usize] {
            self.line(&channel.head(now), &held, &[], text);
            self.open_line[channel as usize] = false;
        }
        self.file.put_last(text);
    }

    /// The usual case, which output at full speed is: whole lines that need no room to be made. Gives what is left.
    fn whole_lines<'a>(&mut self, head: &Head, bytes: &'a [u8], text: &mut Vec<u8>) -> &'a [u8] {
        let mut room = self.file.room(text);
        let mut begin = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let line = &bytes[begin..=end];
            let length = HEAD + line.len();
            if line.len() > LONGEST + 1 || length as u64 > room {
                break;
            }
            text.extend_from_slice(head);
            text.extend_from_slice(line);
            room -= length as u64;
            begin = end + 1;
            if text.len() >= GATHERED {
                self.file.put_blocks(text);
                room = self.file.room(text);
            }
        }
        &bytes[begin..]
    }

    /// The next line, or as much of it as has come. Gives what is left.
    fn one_line<'a>(&mut self, channel: Channel, head: Head, bytes: &'a [u8], text: &mut Vec<u8>) -> &'a [u8] {
        let end = memchr::memchr(b'\n', bytes);
        let mut piece = &bytes[..end.unwrap_or(bytes.len())];
        let mut held = std::mem::take(&mut self.held[channel as usize]);
        let mut part = head;
        part[TAG] = b'P';
        while held.len() + piece.len() > LONGEST {
            let (now, later) = piece.split_at(LONGEST - held.len());
            self.line(&part, &held, now, text);
            self.open_line[channel as usize] = true;
            held.clear();
            piece = later;
        }
        let Some(end) = end else {
            held.extend_from_slice(piece);
            self.held[channel as usize] = held;
            return &[];
        };
        self.line(&head, &held, piece, text);
        self.open_line[channel as usize] = false;
        &bytes[end + 1..]
    }

    fn line(&mut self, head: &Head, held: &[u8], rest: &[u8], text: &mut Vec<u8>) {
        let length = (HEAD + held.len() + rest.len() + 1) as u64;
        if length > self.file.room(text) {
            self.file.make_room(length, self.open_line.contains(&true), text);
        }
        for part in [head, held, rest, b"\n"] {
            text.extend_from_slice(part);
        }
        if text.len() >= GATHERED {
            self.file.put_blocks(text);
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
        let mut text = Vec::new();
        log.write(channel, bytes, Timestamp::UNIX_EPOCH, &mut text);
        log.flush(&mut text);
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
    fn output_in_bursts_is_in_the_files_byte_for_byte_with_whole_lines_after_each() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = CriLog::open(dir.path(), 0, 1 << 20, 20);
        let mut text = Vec::new();
        // Lines of every length from none to beyond what one log line takes.
        let all: Vec<u8> = (0..4000usize)
            .flat_map(|n| std::iter::repeat_n(b'a' + (n % 26) as u8, n * n * n % 20_011).chain([b'\n']))
            .take(8 << 20)
            .collect();
        let names: Vec<_> = (1..20).rev().map(|n| format!("0.log.{n}")).chain(["0.log".to_owned()]).collect();
        for (at, chunk) in all.chunks(64 << 10).enumerate() {
            log.write(Channel::Out, chunk, Timestamp::UNIX_EPOCH, &mut text);
            assert!(text.capacity() < 256 << 10, "{}", text.capacity());
            if at % 16 == 15 {
                log.flush(&mut text);
                assert!(text.is_empty());
                lines(&dir.path().join("0.log"));
            }
        }
        log.finish(Channel::Out, Timestamp::UNIX_EPOCH, &mut text);
        let mut got = Vec::new();
        for name in names.iter().filter(|name| dir.path().join(name).exists()) {
            assert!(std::fs::metadata(dir.path().join(name)).unwrap().len() <= (1 << 20) + LONGEST as u64, "{name}");
            for line in lines(&dir.path().join(name)) {
                let (tag, text) = line.split_once(" stdout ").unwrap().1.split_at(2);
                got.extend_from_slice(text.as_bytes());
                got.extend((tag == "F ").then_some(b'\n'));
            }
        }
        let end = usize::from(!all.ends_with(b"\n"));
        assert!(got.len() == all.len() + end && got.starts_with(&all), "{} of {}", got.len(), all.len());
    }
}
