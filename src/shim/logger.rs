//! `bayplan-shim log …`: the logger that containerd's shims start for a `binary://` URI ("Runtime v2", section Logging).
//! It writes the CRI log of a task whose shim writes none, and hands the output on to the FIFOs of a command in the
//! foreground.
//!
//! A child of that shim, it ends with the container: at the end of both streams, or when it is told to, after what is in
//! the pipes by then. Nobody else's death is noticed. Descriptors 3 and 4 are the streams, 5 is closed when it is ready.

use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::log::{Channel, CriLog};
use super::stdio::{open_nonblocking, write_some};

/// Bytes taken at a time: what a pipe holds.
const CHUNK: usize = 64 << 10;
/// A reader that is there and does not read is waited for so long once the end was asked for.
const LAST: Duration = Duration::from_secs(5);

/// What the URI's parameters say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogArgs {
    dir: PathBuf,
    attempt: u32,
    max_size: u64,
    max_files: u32,
    /// FIFOs beside the log.
    beside: [Option<String>; 2],
}

/// Parses the arguments if they are a logger's: pairs of key and value in any order, as containerd's shims make them out
/// of a URI's parameters.
pub fn parse(arguments: &[String]) -> Option<Result<LogArgs, String>> {
    let pairs: Vec<(&str, &str)> = arguments.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
    if pairs.len() * 2 != arguments.len() || !pairs.iter().any(|(key, _)| *key == "log") {
        return None;
    }
    let mut parsed = LogArgs { max_files: 1, ..LogArgs::default() };
    for (key, value) in pairs {
        let wrong = |_| format!("{key} {value:?} is not a number");
        match key {
            "log" if value.starts_with('/') => parsed.dir = value.into(),
            "log" => return Some(Err(format!("log {value:?} is not an absolute path"))),
            "attempt" => match value.parse().map_err(wrong) {
                Ok(number) => parsed.attempt = number,
                Err(error) => return Some(Err(error)),
            },
            "size" => match value.parse().map_err(wrong) {
                Ok(number) => parsed.max_size = number,
                Err(error) => return Some(Err(error)),
            },
            "files" => match value.parse().map_err(wrong) {
                Ok(number) => parsed.max_files = number,
                Err(error) => return Some(Err(error)),
            },
            "out" => parsed.beside[0] = Some(value.to_owned()),
            "err" => parsed.beside[1] = Some(value.to_owned()),
            _ => return Some(Err(format!("{key} is not known; use log, attempt, size, files, out and err"))),
        }
    }
    Some(Ok(parsed))
}

/// One stream on its way.
struct Stream {
    channel: Channel,
    from: Option<OwnedFd>,
    beside: Option<OwnedFd>,
}

/// Runs until both streams have ended.
pub fn run(args: &LogArgs) -> std::io::Result<()> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
        mask.add(signal);
    }
    mask.thread_block()?;
    mask.remove(Signal::SIGPIPE);
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let [out, err, ready] = inherited()?;
    let mut streams = [(Channel::Out, out, 0), (Channel::Err, err, 1)].map(|(channel, from, index)| {
        let beside = args.beside[index].as_deref();
        Stream {
            channel,
            from: Some(from),
            beside: beside.and_then(|path| open_nonblocking(path, OFlags::WRONLY).ok()),
        }
    });
    for stream in streams.iter().filter_map(|stream| stream.from.as_ref()) {
        rustix::io::ioctl_fionbio(stream, true)?;
    }
    let mut log = CriLog::open(&args.dir, args.attempt, args.max_size, args.max_files);
    drop(ready);
    let (mut chunk, mut text) = (vec![0; CHUNK], Vec::new());
    let mut end = None;
    while streams.iter().any(|stream| stream.from.is_some()) {
        if end.is_none() {
            let mut waited = vec![PollFd::new(&signals, PollFlags::IN)];
            waited.extend(streams.iter().filter_map(|s| Some(PollFd::new(s.from.as_ref()?, PollFlags::IN))));
            match poll(&mut waited, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if signals.read_signal().is_ok_and(|signal| signal.is_some()) {
                end = Some(Instant::now() + LAST);
            }
        }
        let mut came = false;
        for stream in &mut streams {
            let Some(from) = &stream.from else { continue };
            match rustix::io::read(from, &mut chunk[..]) {
                Ok(0) => stream.finish(&mut log, &mut text),
                Ok(length) => {
                    came = true;
                    log.write(stream.channel, &chunk[..length], Timestamp::now(), &mut text);
                    log.flush(&mut text);
                    stream.pass(&chunk[..length], &signals, &mut end);
                }
                Err(Errno::INTR) => came = true,
                Err(Errno::AGAIN) if end.is_none() => {}
                // Nothing is left in the pipe, or nothing can be had from it.
                Err(_) => stream.finish(&mut log, &mut text),
            }
        }
        if end.is_some_and(|end| !came || Instant::now() > end + LAST) {
            streams.iter_mut().filter(|stream| stream.from.is_some()).for_each(|s| s.finish(&mut log, &mut text));
        }
    }
    Ok(())
}

impl Stream {
    /// The end of the stream; a line without its newline is a line.
    fn finish(&mut self, log: &mut CriLog, text: &mut Vec<u8>) {
        log.finish(self.channel, Timestamp::now(), text);
        (self.from, self.beside) = (None, None);
    }

    /// To whoever reads along, who is waited for while it is there.
    fn pass(&mut self, mut bytes: &[u8], signals: &SignalFd, end: &mut Option<Instant>) {
        let Some(beside) = &self.beside else { return };
        loop {
            match write_some(beside, bytes) {
                Ok(done) if done == bytes.len() => return,
                Ok(done) => bytes = &bytes[done..],
                Err(_) => break,
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                break;
            }
            let timeout =
                left.map(|left| Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() });
            let mut waited = vec![PollFd::new(beside, PollFlags::OUT)];
            if end.is_none() {
                waited.push(PollFd::new(signals, PollFlags::IN));
            }
            let _ = poll(&mut waited, timeout.as_ref());
            if end.is_none() && signals.read_signal().is_ok_and(|signal| signal.is_some()) {
                *end = Some(Instant::now() + LAST);
            }
        }
        self.beside = None;
    }
}

/// Descriptors 3, 4 and 5.
fn inherited() -> std::io::Result<[OwnedFd; 3]> {
    for number in 3..6 {
        // They are not ours to take if nobody gave them.
        let path = format!("/proc/self/fd/{number}");
        std::fs::metadata(&path).map_err(|_| {
            std::io::Error::other("no streams were given; containerd's shims start this for binary:// URIs")
        })?;
    }
    #[allow(
        unsafe_code,
        reason = "containerd's shims give these three descriptors to loggers; nothing here owns them yet"
    )]
    Ok([3, 4, 5].map(|number| unsafe { OwnedFd::from_raw_fd(number) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Option<Result<LogArgs, String>> {
        parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn parameters_come_in_any_order() {
        let expected = LogArgs {
            dir: "/var/log/x".into(),
            attempt: 3,
            max_size: 10,
            max_files: 5,
            beside: [Some("/run/out".into()), None],
        };
        for text in [
            "log /var/log/x attempt 3 size 10 files 5 out /run/out",
            "files 5 out /run/out size 10 log /var/log/x attempt 3",
        ] {
            assert_eq!(line(text), Some(Ok(expected.clone())));
        }
    }

    #[test]
    fn what_is_no_loggers_is_left_to_containerds_spelling() {
        for text in ["", "-v", "-id x start", "-namespace a -id log start", "delete"] {
            assert_eq!(line(text), None, "{text}");
        }
        for text in ["log here", "log /x size many", "log /x colour red"] {
            assert!(line(text).is_some_and(|parsed| parsed.is_err()), "{text}");
        }
    }
}
