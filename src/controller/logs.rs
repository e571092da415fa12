//! Reads a container's log files: CRI lines, over rotation and restarts, following without polling where
//! the kernel can tell.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::api::{LogLine, LogRequest, LogStream};
use crate::engine::ContainerKey;
use crate::error::{Class, Fault, Result};
use crate::shim::protocol::TaskPhase;

use super::Node;

/// The longest line of a log file that is read whole; the shim writes parts of 16 KiB.
const LONGEST: u64 = 1 << 20;

/// One reading of a log.
pub(super) struct Follower {
    node: Arc<Node>,
    id: ContainerKey,
    directory: PathBuf,
    request: LogRequest,
    attempt: u32,
}

impl Follower {
    /// Finds the container and its attempt.
    pub fn open(node: &Arc<Node>, request: LogRequest) -> Result<Self> {
        let id = (request.namespace.clone(), request.name.clone());
        let record = node.engine.memory().read().containers.get(&id).cloned();
        let Some(record) = record else { return Err(node.no_container(&id)) };
        let directory = node.engine.log_dir(&id);
        let attempt = node.engine.task(&id).or(record.last).map_or(0, |state| state.attempt);
        let attempt = match (request.previous, attempt) {
            (false, attempt) => attempt,
            (true, 0 | 1) => {
                return Err(Fault::new(Class::NotFound, format!("container {}/{} had no attempt before", id.0, id.1)));
            }
            (true, attempt) => attempt - 1,
        };
        Ok(Self { node: Arc::clone(node), id, directory, request, attempt })
    }

    /// Sends every line, and with `follow` those to come.
    pub async fn run(self, sender: mpsc::Sender<Result<LogLine>>) {
        let files = rotated(&self.directory, self.attempt);
        let (since, tail) = (self.request.since, self.request.tail);
        let read = tokio::task::spawn_blocking(move || read_all(&files, since, tail)).await;
        let Ok((lines, mut position)) = read else { return };
        for line in lines {
            if sender.send(Ok(line)).await.is_err() {
                return;
            }
        }
        if !self.request.follow || self.request.previous {
            return;
        }
        let mut attempt = self.attempt;
        let mut changes = self.node.engine.changes();
        loop {
            let path = self.directory.join(format!("{attempt}.log"));
            let seen = self.node.engine.task(&self.id);
            let (lines, next) = match tokio::task::spawn_blocking(move || read_from(&path, position)).await {
                Ok(read) => read,
                Err(_) => return,
            };
            position = next;
            let found = !lines.is_empty();
            for line in lines {
                if sender.send(Ok(line)).await.is_err() {
                    return;
                }
            }
            if found {
                continue;
            }
            match seen {
                Some(state) if state.attempt > attempt => {
                    attempt += 1;
                    position = Position::default();
                    continue;
                }
                Some(state) if matches!(state.phase, TaskPhase::Exited | TaskPhase::Stopped | TaskPhase::Failed) => {
                    return;
                }
                None if !self.node.engine.memory().read().containers.contains_key(&self.id) => return,
                None if self.node.engine.memory().read().containers.get(&self.id).is_some_and(|r| r.last.is_some()) => {
                    return;
                }
                _ => {}
            }
            let current = self.directory.join(format!("{attempt}.log"));
            tokio::select! {
                () = sender.closed() => return,
                _ = changes.changed() => {}
                () = written(&current) => {}
            }
        }
    }
}

/// Where reading goes on: which file, by inode, and how far in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    inode: u64,
    offset: u64,
}

/// The files of an attempt, oldest first.
fn rotated(directory: &Path, attempt: u32) -> Vec<PathBuf> {
    let current = directory.join(format!("{attempt}.log"));
    let mut files = vec![current];
    for number in 1.. {
        let path = directory.join(format!("{attempt}.log.{number}"));
        if !path.exists() {
            break;
        }
        files.push(path);
    }
    files.reverse();
    files
}

fn read_all(files: &[PathBuf], since: Option<jiff::Timestamp>, tail: Option<u64>) -> (Vec<LogLine>, Position) {
    let mut kept: VecDeque<LogLine> = VecDeque::new();
    let tail = tail.and_then(|tail| usize::try_from(tail).ok());
    let mut position = Position::default();
    for path in files {
        let (lines, end) = read_from(path, Position::default());
        position = end;
        for line in lines {
            if since.is_some_and(|since| line.time < since) {
                continue;
            }
            kept.push_back(line);
            if tail.is_some_and(|tail| kept.len() > tail) {
                kept.pop_front();
            }
        }
    }
    (kept.into(), position)
}

/// Whole lines from a position on. A file that was rotated away meanwhile is read to its end first.
fn read_from(path: &Path, position: Position) -> (Vec<LogLine>, Position) {
    use std::os::unix::fs::MetadataExt;
    let mut lines = Vec::new();
    let Ok(file) = File::open(path) else { return (lines, position) };
    let inode = file.metadata().map(|metadata| metadata.ino()).unwrap_or_default();
    let mut offset = position.offset;
    if position.inode != 0 && inode != position.inode {
        let mut older = path.as_os_str().to_owned();
        older.push(".1");
        let older = PathBuf::from(older);
        if let Ok(old) = File::open(&older)
            && old.metadata().is_ok_and(|metadata| metadata.ino() == position.inode)
        {
            read_lines(old, position.offset, &mut lines);
        }
        offset = 0;
    }
    let offset = read_lines(file, offset, &mut lines);
    (lines, Position { inode, offset })
}

/// Reads whole lines; gives where the last one ended.
fn read_lines(file: File, from: u64, lines: &mut Vec<LogLine>) -> u64 {
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let mut offset = from;
    if reader.seek(SeekFrom::Start(from)).is_err() {
        return from;
    }
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = std::io::Read::take(&mut reader, LONGEST).read_until(b'\n', &mut line);
        match read {
            Ok(0) | Err(_) => return offset,
            Ok(_) if line.last() != Some(&b'\n') => return offset,
            Ok(count) => offset += count as u64,
        }
        lines.extend(parse(&line[..line.len() - 1]));
    }
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

/// Until the file grows or is replaced. Where the kernel does not tell, a second.
// The descriptor is owned here and lives as long as its registration, which is all that the deprecation is about.
#[allow(deprecated)]
async fn written(path: &Path) {
    use rustix::fs::inotify;
    let watch = || -> rustix::io::Result<_> {
        let descriptor = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::MOVE_SELF | inotify::WatchFlags::DELETE_SELF;
        inotify::add_watch(&descriptor, path, events)?;
        Ok(descriptor)
    };
    if let Ok(descriptor) = watch()
        && let Ok(waiting) = tokio::io::unix::AsyncFd::with_interest(descriptor, tokio::io::Interest::READABLE)
    {
        // Half a second bounds what a line between reading and watching would wait.
        let _ = tokio::time::timeout(Duration::from_millis(500), waiting.readable()).await;
    } else {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_the_cri_format_has_it() {
        let line = parse(b"2016-10-06T00:17:09.669794202Z stdout P one two").unwrap();
        assert_eq!((line.stream, line.partial, line.text.as_slice()), (LogStream::Stdout, true, &b"one two"[..]));
        assert!(parse(b"rubbish").is_none());
    }

    #[test]
    fn reading_goes_on_over_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.log");
        let line = |text: &str| format!("2016-10-06T00:17:09Z stdout F {text}\n");
        std::fs::write(&path, line("a")).unwrap();
        let (lines, position) = read_from(&path, Position::default());
        assert_eq!(lines.len(), 1);
        std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::fs::write(&path, line("a") + &line("b")).unwrap();
        std::fs::rename(&path, dir.path().join("1.log.1")).unwrap();
        std::fs::write(&path, line("c") + "2016-10-06T00:17:09Z stdout F half").unwrap();
        let (lines, _) = read_from(&path, position);
        let texts: Vec<&[u8]> = lines.iter().map(|line| line.text.as_slice()).collect();
        assert_eq!(texts, [b"b", b"c"]);
    }
}
