//! A logger that the host names by `binary://PATH?ARG=VALUE…`: containerd's protocol (its `binary` IO). It reads standard
//! output at descriptor 3 and standard error at 4, closes descriptor 5 (or writes to it) when it is ready, and knows the
//! container by CONTAINER_ID and CONTAINER_NAMESPACE.
//!
//! Invariant: it outlives the last byte by as long as it needs, within bounds, and never the shim's interest in it.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::poll::Poll;
use super::spawn::spawn_with;
use super::stdio::Whose;

/// How long it may take to be ready.
const READY: Duration = Duration::from_secs(10);
/// How long it has after the end of what it reads, before it is asked to end, and before it is killed: containerd's 12
/// seconds in all.
const FINISH: Duration = Duration::from_secs(2);
const TERMINATE: Duration = Duration::from_secs(10);

/// Whether the process may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It may.
    Ready,
    /// Not yet.
    Waiting,
    /// It never may; says why.
    Failed(String),
}

/// See the module.
pub struct Logger {
    path: String,
    /// Names the process and no other; `None` once it has ended.
    process: Option<(OwnedFd, u64)>,
    pid: Pid,
    ready: Option<(OwnedFd, u64)>,
    pub readiness: Readiness,
    deadline: Option<Instant>,
    /// Signals that it was sent.
    pressed: u32,
}

impl Logger {
    /// Starts it; the write ends of its two pipes come beside.
    pub fn start(uri: &str, whose: Whose<'_>, poll: &mut Poll) -> Result<(Self, [OwnedFd; 2]), String> {
        let (path, arguments) = parse(uri)?;
        let fail = |error: Errno| format!("logger {path}: {error}");
        let (out, to_out) = pipe_with(PipeFlags::CLOEXEC).map_err(fail)?;
        let (err, to_err) = pipe_with(PipeFlags::CLOEXEC).map_err(fail)?;
        let (ready, to_ready) = pipe_with(PipeFlags::CLOEXEC).map_err(fail)?;
        for fd in [&to_out, &to_err, &ready] {
            rustix::io::ioctl_fionbio(fd, true).map_err(fail)?;
        }
        let mut line: Vec<&OsStr> = vec![OsStr::new(&path)];
        line.extend(arguments.iter().map(OsString::as_os_str));
        let environment = [("CONTAINER_ID", whose.id), ("CONTAINER_NAMESPACE", whose.namespace)];
        let streams = [None, None, None, Some(out), Some(err), Some(to_ready)];
        let pid = spawn_with(&line, &streams, Some(&environment)).map_err(|error| format!("logger {path}: {error}"))?;
        drop(streams);
        // Not reaped before the loop's next turn, so the number is still its own.
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(fail)?;
        let process_token = poll.add(&process, EventFlags::IN).map_err(fail)?;
        let ready_token = poll.add(&ready, EventFlags::IN).map_err(fail)?;
        let logger = Self {
            path,
            process: Some((process, process_token)),
            pid,
            ready: Some((ready, ready_token)),
            readiness: Readiness::Waiting,
            deadline: Some(Instant::now() + READY),
            pressed: 0,
        };
        Ok((logger, [to_out, to_err]))
    }

    /// Whether it lives.
    pub fn is_alive(&self) -> bool {
        self.process.is_some()
    }

    /// When [`Self::tick`] is wanted.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.filter(|_| self.is_alive())
    }

    /// Handles an event; false if the token is somebody else's.
    pub fn event(&mut self, token: u64) -> bool {
        if self.process.as_ref().is_some_and(|(_, own)| *own == token) {
            self.process = None;
            if self.readiness == Readiness::Waiting {
                self.look();
            }
            if self.readiness == Readiness::Waiting {
                self.readiness = Readiness::Failed(format!("logger {}: it ended before it was ready", self.path));
            }
            return true;
        }
        if self.ready.as_ref().is_some_and(|(_, own)| *own == token) {
            self.look();
            return true;
        }
        false
    }

    fn look(&mut self) {
        let Some((ready, _)) = &self.ready else { return };
        let word = rustix::io::read(ready, &mut [0u8; 1]);
        if let Err(Errno::AGAIN | Errno::INTR) = word {
            return;
        }
        self.ready = None;
        self.deadline = None;
        // The end that comes with the process is no word of its.
        let spoken = matches!(word, Ok(1)) || self.lives_on();
        self.readiness = match spoken {
            true => Readiness::Ready,
            false => Readiness::Failed(format!("logger {}: it ended before it was ready", self.path)),
        };
    }

    fn lives_on(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec};
        let Some((process, _)) = &self.process else { return false };
        let mut look = [PollFd::new(process, PollFlags::IN)];
        let _ = rustix::event::poll(&mut look, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        look[0].revents().is_empty() && !is_ending(self.pid)
    }

    /// Nothing more is written to it.
    pub fn finish(&mut self, now: Instant) {
        if self.pressed == 0 {
            self.deadline = Some(now + FINISH);
            self.pressed = 1;
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) {
        if self.deadline().is_none_or(|at| now < at) {
            return;
        }
        self.deadline = match (&self.process, self.pressed) {
            (_, 0) => {
                let patience = READY.as_secs();
                let message = format!("logger {}: not ready within {patience} seconds", self.path);
                self.readiness = Readiness::Failed(message);
                None
            }
            (Some((process, _)), pressed) => {
                let signal = if pressed == 1 { Signal::TERM } else { Signal::KILL };
                let _ = rustix::process::pidfd_send_signal(process, signal);
                self.pressed += 1;
                Some(now + TERMINATE)
            }
            (None, _) => None,
        };
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        if let Some((process, _)) = &self.process {
            let _ = rustix::process::pidfd_send_signal(process, Signal::KILL);
        }
    }
}

/// Whether a process is on its way out: the kernel says so before it closes what the process has open (`PF_EXITING` in the
/// flags of proc_pid_stat(5)), and its end a moment after.
fn is_ending(pid: Pid) -> bool {
    const PF_EXITING: u32 = 4;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    // The name before it may hold anything, `)` too.
    let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(6)?.parse::<u32>().ok());
    flags.is_none_or(|flags| flags & PF_EXITING != 0)
}

/// `binary:///path?a=b&c` → the path, and `a`, `b`, `c`: a name without a value is one argument.
fn parse(uri: &str) -> Result<(String, Vec<OsString>), String> {
    let rest = uri.strip_prefix("binary://").unwrap_or(uri);
    let rest = rest.split('#').next().unwrap_or_default();
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = String::from_utf8(unescape(path, false)).map_err(|_| format!("logger {uri}: its path is not text"))?;
    if !path.starts_with('/') {
        return Err(format!("logger {uri}: use binary:///absolute/path"));
    }
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let arguments = pairs.flat_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        std::iter::once(name).chain((!value.is_empty()).then_some(value))
    });
    Ok((path, arguments.map(|argument| OsString::from_vec(unescape(argument, true))).collect()))
}

/// Percent-decoding (RFC 3986, 2.1); `plus`: `+` is a space, as in a form.
pub fn unescape(text: &str, plus: bool) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let ahead = bytes.clone();
        plain.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                match (digit(bytes.next()), digit(bytes.next())) {
                    (Some(high), Some(low)) => u8::try_from(high * 16 + low).unwrap_or(b'%'),
                    _ => {
                        bytes = ahead;
                        b'%'
                    }
                }
            }
            b'+' if plus => b' ',
            byte => byte,
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uri_names_program_and_arguments() {
        let (path, arguments) = parse("binary:///usr/bin/log%20it?--tag=a%2Fb+c&-v&%zz=%&x=").unwrap();
        assert_eq!(path, "/usr/bin/log it");
        assert_eq!(arguments, ["--tag", "a/b c", "-v", "%zz", "%", "x"]);
        assert!(parse("binary://log").is_err());
    }
}
