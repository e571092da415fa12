//! Lines of a log file in the CRI format, from a descriptor: forwards in bounded pieces, and backwards to where the last
//! so many begin.
//!
//! What has no line feed yet is left for the next look: a shim on a full disk takes half a line back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use jiff::Timestamp;

use crate::api::{LogLine, LogStream};

/// Bytes that one look reads.
const PIECE: u64 = 64 << 10;
/// The longest line that is looked for; the shim writes parts of 16 KiB.
const LONGEST: u64 = 1 << 20;

/// Whole lines from `from` on, as many as one piece holds, and where the last one ends. A stretch of [`LONGEST`] bytes
/// without a line feed is no log and passed over.
pub fn read(file: &File, from: u64, limit: u64) -> io::Result<(Vec<LogLine>, u64)> {
    let mut size = PIECE;
    loop {
        let wanted = size.min(limit.saturating_sub(from));
        let bytes = bytes(file, from, wanted)?;
        let Some(end) = memchr::memrchr(b'\n', &bytes) else {
            if (bytes.len() as u64) < size {
                return Ok((Vec::new(), from));
            }
            if size >= LONGEST {
                return Ok((Vec::new(), from + size));
            }
            size *= 2;
            continue;
        };
        let lines = bytes[..end].split(|byte| *byte == b'\n').filter_map(parse).collect();
        return Ok((lines, from + end as u64 + 1));
    }
}

fn bytes(file: &File, from: u64, wanted: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(0)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], from + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Where the last `count` lines of these files begin that are not older than `since`: the place of a file among them
/// (oldest first) and an offset in it. A line that was written in parts is one.
pub fn tail(files: &[(&File, u64)], count: u64, since: Option<Timestamp>) -> (usize, u64) {
    let mut left = count;
    for (place, (file, size)) in files.iter().enumerate().rev() {
        if let Some(offset) = tail_of(file, *size, &mut left, since) {
            return (place, offset);
        }
    }
    (0, 0)
}

/// The same in one file; `None` when its first line still belongs to them.
fn tail_of(file: &File, size: u64, left: &mut u64, since: Option<Timestamp>) -> Option<u64> {
    let mut end = size;
    let mut step = PIECE;
    while end > 0 {
        let begin = end.saturating_sub(step);
        let Ok(bytes) = bytes(file, begin, end - begin) else { return None };
        // The first line of the piece began before it, unless the file does.
        let first = match (begin, memchr::memchr(b'\n', &bytes)) {
            (0, _) => 0,
            (_, Some(at)) if at + 1 < bytes.len() => at + 1,
            _ if step < LONGEST => {
                step *= 2;
                continue;
            }
            _ => return None,
        };
        let mut line_end = bytes.len();
        while line_end > first {
            let text = bytes[first..line_end].strip_suffix(b"\n").unwrap_or(&bytes[first..line_end]);
            let start = first + memchr::memrchr(b'\n', text).map_or(0, |at| at + 1);
            let line = &bytes[start..line_end];
            // What is being written has no end yet and counts for nothing.
            if line.ends_with(b"\n") {
                let counts = !is_part(line);
                let old = since.is_some_and(|since| time(line).is_some_and(|time| time < since));
                if old || (counts && *left == 0) {
                    return Some(begin + line_end as u64);
                }
                *left -= u64::from(counts);
            }
            line_end = start;
        }
        end = begin + first as u64;
        step = PIECE;
    }
    None
}

fn time(line: &[u8]) -> Option<Timestamp> {
    std::str::from_utf8(line.split(|byte| *byte == b' ').next()?).ok()?.parse().ok()
}

/// Whether the line goes on in the next one of its stream.
fn is_part(line: &[u8]) -> bool {
    line.splitn(4, |byte| *byte == b' ').nth(2).is_some_and(|tag| tag.first() == Some(&b'P'))
}

/// `2016-10-06T00:17:09.669794202Z stdout F text`, the CRI log format.
fn parse(line: &[u8]) -> Option<LogLine> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let stream = match parts.next()? {
        b"stdout" => LogStream::Stdout,
        b"stderr" => LogStream::Stderr,
        _ => return None,
    };
    let partial = parts.next()?.first() == Some(&b'P');
    Some(LogLine { time, stream, text: parts.next().unwrap_or_default().to_vec(), partial })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(text: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        file
    }

    fn line(second: usize, tag: &str, text: &str) -> String {
        format!("2016-10-06T00:{:02}:{:02}Z stdout {tag} {text}\n", second / 60, second % 60)
    }

    fn rest(files: &[File], count: u64, since: Option<&str>) -> Vec<String> {
        let sizes: Vec<(&File, u64)> = files.iter().map(|file| (file, file.metadata().unwrap().len())).collect();
        let (place, mut offset) = tail(&sizes, count, since.map(|time| time.parse().unwrap()));
        let mut texts = Vec::new();
        for (file, size) in &sizes[place..] {
            loop {
                let (lines, next) = read(file, offset, *size).unwrap();
                if next == offset {
                    break;
                }
                texts.extend(lines.into_iter().map(|line| String::from_utf8(line.text).unwrap()));
                offset = next;
            }
            offset = 0;
        }
        texts
    }

    #[test]
    fn a_line_is_read_as_the_cri_format_has_it() {
        let line = parse(b"2016-10-06T00:17:09.669794202Z stdout P one two").unwrap();
        assert_eq!((line.stream, line.partial, line.text.as_slice()), (LogStream::Stdout, true, &b"one two"[..]));
        assert!(parse(b"rubbish").is_none());
    }

    #[test]
    fn half_a_line_waits_for_its_end_and_rubbish_is_passed_over() {
        let half = file((line(1, "F", "a") + "2016-10-06T00:17:09Z stdout F ha").as_bytes());
        let (lines, next) = read(&half, 0, u64::MAX).unwrap();
        assert_eq!((lines.len(), next), (1, line(1, "F", "a").len() as u64));
        assert_eq!(read(&half, next, u64::MAX).unwrap(), (vec![], next));
        let rubbish = file(&[vec![b'x'; 3 << 20], line(1, "F", "after").into_bytes()].concat());
        assert_eq!(rest(&[rubbish], u64::MAX, None), ["after"]);
    }

    #[test]
    fn the_last_lines_are_found_over_files_and_pieces() {
        let all: Vec<String> = (0..3000).map(|n| line(n, "F", &format!("{n} {}", "x".repeat(n % 90)))).collect();
        let files = [file(all[..1200].concat().as_bytes()), file(b""), file(all[1200..].concat().as_bytes())];
        for count in [0, 1, 5, 900, 1799, 1800, 1801, 2999, 3000, 5000] {
            let got = rest(&files, count, None);
            let first = 3000 - usize::try_from(count).unwrap().min(3000);
            assert_eq!(got.len(), 3000 - first, "{count}");
            assert!(
                got.first().is_none_or(|text| text.starts_with(&format!("{first} "))),
                "{count}: {:?}",
                got.first()
            );
        }
        assert_eq!(rest(&files, u64::MAX, Some("2016-10-06T00:49:55Z")).len(), 5);
        assert_eq!(rest(&files, 2, Some("2016-10-06T00:49:55Z")).len(), 2);
    }

    #[test]
    fn a_line_in_parts_is_one() {
        let part = "y".repeat(16 << 10);
        let text = line(1, "F", "a") + &line(2, "P", &part).repeat(9) + &line(2, "F", "end") + &line(3, "F", "b");
        assert_eq!(rest(&[file(text.as_bytes())], 2, None).len(), 11);
        assert_eq!(rest(&[file(text.as_bytes())], 1, None), ["b"]);
    }
}
