//! The FIFOs of a session, and the threads that copy between them and the streams of this process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use tokio::sync::{mpsc, oneshot};

use super::keys::{Detector, Keys};
use crate::api::{Stdio, TerminalSize};
use crate::cli::context::Context;
use crate::cli::ui::Raw;
use crate::error::{Class, Fault, Result};
use crate::fifos::Fifos;

/// What ends the input of a terminal (`VEOF`): what `^D` sends.
const END_OF_INPUT: u8 = 4;
/// How soon it is said again, and how seldom in the end.
const SAID_AGAIN: Duration = Duration::from_millis(100);
const SELDOM: Duration = Duration::from_secs(2);
/// How long output may still come once the exit is known, and how long it must be quiet to be over: somebody that
/// outlives the process may hold its streams open, and write, for ever. Time in which our own reader takes nothing does
/// not count.
const LAST_OUTPUT: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(25);

/// Which streams a session has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Streams {
    pub(super) input: bool,
    pub(super) output: bool,
    /// The process has a terminal: its output is one stream.
    pub(super) terminal: bool,
}

/// What the copying of input has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Typed {
    /// The keys that leave.
    Leave,
    /// The terminal is gone.
    HungUp,
    /// No more comes.
    Ended,
}

/// How a process hears that its input has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its pipe closes.
    Closed,
    /// A terminal knows no end but the key for it.
    Key,
    /// The key is lost when it arrives while a program changes the terminal's mode, as a shell does at each prompt: it is
    /// pressed again and again, as a closed pipe says its end at every read.
    KeyForEver,
}

/// Tells why the output of the process reaches nobody.
pub(super) type Lost = mpsc::UnboundedReceiver<io::Error>;

/// FIFOs in a directory of their own, removed when dropped.
pub(super) struct Pipes {
    directory: Fifos,
    streams: Streams,
    /// Open for reading, not blocking yet.
    output: Vec<File>,
}

/// The copying of output, waited for at the end.
pub(super) struct Output {
    ends: Vec<oneshot::Receiver<()>>,
    pipes: Vec<(File, Arc<AtomicBool>)>,
}

impl Output {
    /// Until everything that was written has been copied.
    pub(super) async fn finish(&mut self) {
        let finished = async {
            for end in &mut self.ends {
                let _ = end.await;
            }
        };
        let pipes = &self.pipes;
        let over = async {
            let (mut quiet, mut more) = (Duration::ZERO, Duration::ZERO);
            while quiet < QUIET && more < LAST_OUTPUT {
                tokio::time::sleep(LOOK).await;
                let busy = pipes.iter().any(|(_, busy)| busy.load(Ordering::Relaxed));
                let waits = pipes.iter().any(|(pipe, _)| rustix::io::ioctl_fionread(pipe).is_ok_and(|count| count > 0));
                quiet = if busy || waits { Duration::ZERO } else { quiet + LOOK };
                more += if busy { Duration::ZERO } else { LOOK };
            }
        };
        tokio::select! {
            () = finished => {}
            () = over => {}
        }
    }

    /// Whether every writer has gone and all is copied. Never waits.
    pub(super) fn has_ended(&mut self) -> bool {
        !self.ends.is_empty()
            && self.ends.iter_mut().all(|end| end.try_recv() != Err(oneshot::error::TryRecvError::Empty))
    }
}

impl Pipes {
    pub(super) fn make(state: &Path, streams: Streams) -> Result<Self> {
        let fault = |error: &dyn std::fmt::Display| {
            Fault::new(Class::Runtime, format!("the pipes in {} cannot be made: {error}", state.join("fifo").display()))
        };
        let own = Fifos::make(state).map_err(|error| fault(&error))?;
        let directory = own.path().to_owned();
        let mut pipes = Self { directory: own, streams, output: Vec::new() };
        let make = |name: &str| {
            rustix::fs::mknodat(CWD, directory.join(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                .map_err(|error| fault(&error))
        };
        // Opened for reading without waiting for the writer (fifo(7)); then the writer need not wait either.
        let open = |name: &str| {
            let flags = OFlags::NONBLOCK.bits().cast_signed();
            let file = OpenOptions::new().read(true).custom_flags(flags).open(directory.join(name));
            file.map_err(|error| fault(&error))
        };
        if streams.input {
            make("stdin")?;
        }
        for name in pipes.outputs() {
            make(name)?;
            pipes.output.push(open(name)?);
        }
        Ok(pipes)
    }

    /// The names of the FIFOs that the process writes to.
    fn outputs(&self) -> &'static [&'static str] {
        match (self.streams.output, self.streams.terminal) {
            (false, _) => &[],
            (true, true) => &["stdout"],
            (true, false) => &["stdout", "stderr"],
        }
    }

    pub(super) fn stdio(&self, size: Option<TerminalSize>) -> Stdio {
        let path = |wanted: bool, name: &str| wanted.then(|| self.directory.path().join(name));
        let Streams { input, output, terminal } = self.streams;
        Stdio {
            stdin: path(input, "stdin"),
            stdout: path(output, "stdout"),
            stderr: path(output && !terminal, "stderr"),
            terminal,
            size: size.filter(|_| terminal),
        }
    }

    /// Begins to pass standard input on. To be called when the process has been made: what nobody was there to take stays
    /// with whoever gave it. `keys`: input is a raw terminal, and these leave it. `guest`: others may have more to say.
    pub(super) fn copy_input(&self, keys: Option<Keys>, guest: bool) -> mpsc::UnboundedReceiver<Typed> {
        let (tell, told) = mpsc::unbounded_channel();
        if self.streams.input {
            let fifo = self.directory.path().join("stdin");
            let end = match (self.streams.terminal, guest) {
                (false, _) => End::Closed,
                (true, true) => End::Key,
                (true, false) => End::KeyForEver,
            };
            std::thread::spawn(move || {
                let Ok(from) = io::stdin().as_fd().try_clone_to_owned() else { return };
                let _ = match keys {
                    Some(keys) => copy_keys(File::from(from), &fifo, Detector::new(keys), &tell),
                    None => copy_bytes(File::from(from), &fifo, end, &tell),
                };
            });
        }
        told
    }

    /// Begins to copy; the receiver is told why something could not be written.
    pub(super) fn copy_output(&mut self, context: &mut Context) -> Result<(Output, Lost)> {
        let (mut ends, mut kept) = (Vec::new(), Vec::new());
        let (lost, told) = mpsc::unbounded_channel();
        let pipes = std::mem::take(&mut self.output);
        if !pipes.is_empty() {
            let (to_stdout, to_stderr) = context.ui.streams()?;
            for (from, to) in pipes.into_iter().zip([to_stdout, to_stderr]) {
                let unreadable = |error: io::Error| {
                    Fault::new(Class::Runtime, format!("the output of the process cannot be read: {error}"))
                };
                let busy = Arc::new(AtomicBool::new(false));
                kept.push((from.try_clone().map_err(unreadable)?, Arc::clone(&busy)));
                rustix::io::ioctl_fionbio(&from, false).map_err(|error| unreadable(error.into()))?;
                let (done, end) = oneshot::channel::<()>();
                let lost = lost.clone();
                std::thread::spawn(move || {
                    if wait_for_writer(&from)
                        && let Err(error) = copy_output(from, to, &busy)
                    {
                        let _ = lost.send(error);
                    }
                    drop(done);
                });
                ends.push(end);
            }
        }
        Ok((Output { ends, pipes: kept }, told))
    }
}

/// Until somebody has opened the other end: before that, reading gives an end of file which is none. A FIFO that nobody
/// has written to yet reports no hang-up (Linux, `pipe_poll`), so this waits without a timer.
fn wait_for_writer(from: &File) -> bool {
    loop {
        match rustix::event::poll(&mut [PollFd::new(from, PollFlags::IN)], None) {
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Until the end of either side; an error is one of writing. `busy`: something was taken and not passed on yet.
fn copy_output(mut from: File, mut to: Raw, busy: &AtomicBool) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                busy.store(true, Ordering::Relaxed);
                to.write_all(&buffer[..count])?;
                to.flush()?;
                busy.store(false, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(()),
        }
    }
}

/// Keys from a raw terminal, which has no end but its own.
fn copy_keys(
    mut from: File,
    fifo: &Path,
    mut detector: Detector,
    tell: &mpsc::UnboundedSender<Typed>,
) -> io::Result<()> {
    let mut to = OpenOptions::new().write(true).open(fifo)?;
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                let (pass, leave) = detector.feed(&buffer[..count]);
                // A process that takes no more input may still be left.
                let _ = to.write_all(&pass);
                if leave {
                    let _ = tell.send(Typed::Leave);
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = tell.send(Typed::HungUp);
    Ok(())
}

/// Input from anything else, to its end.
fn copy_bytes(mut from: File, fifo: &Path, end: End, tell: &mpsc::UnboundedSender<Typed>) -> io::Result<()> {
    let mut to = OpenOptions::new().write(true).open(fifo)?;
    let mut buffer = vec![0; 64 << 10];
    let mut last = b'\n';
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                last = buffer[count - 1];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    if end != End::Closed {
        // In the middle of a line the first one only hands that over (termios(3)).
        let ends: &[u8] = if last == b'\n' { &[END_OF_INPUT] } else { &[END_OF_INPUT, END_OF_INPUT] };
        to.write_all(ends)?;
    }
    let mut pause = SAID_AGAIN;
    if end == End::KeyForEver {
        // Until nobody reads any more, or this command has ended.
        loop {
            std::thread::sleep(pause);
            pause = (pause * 2).min(SELDOM);
            to.write_all(&[END_OF_INPUT])?;
        }
    }
    drop(to);
    let _ = tell.send(Typed::Ended);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_pipes_leave_nothing_behind() {
        let state = tempfile::tempdir().unwrap();
        let pipes = Pipes::make(state.path(), Streams { input: true, output: true, terminal: false }).unwrap();
        assert_eq!(fs::read_dir(pipes.directory.path()).unwrap().count(), 3);
        drop(pipes);
        let pipes = Pipes::make(state.path(), Streams { input: true, output: true, terminal: true }).unwrap();
        let stdio = pipes.stdio(Some(TerminalSize { width: 80, height: 24 }));
        assert!(stdio.stdin.is_some() && stdio.stdout.is_some() && stdio.stderr.is_none() && stdio.size.is_some());
        drop(pipes);
        assert_eq!(fs::read_dir(state.path().join("fifo")).unwrap().count(), 0);
    }

    #[test]
    fn the_end_of_input_reaches_a_terminal_as_its_character() {
        let state = tempfile::tempdir().unwrap();
        for (typed, expected) in [("ls\n", &b"ls\n\x04"[..]), ("ls", b"ls\x04\x04"), ("", b"\x04")] {
            let (from, to) = (state.path().join("from"), state.path().join("to"));
            fs::write(&from, typed).unwrap();
            fs::write(&to, "").unwrap();
            let (tell, mut told) = mpsc::unbounded_channel();
            copy_bytes(File::open(&from).unwrap(), &to, End::Key, &tell).unwrap();
            assert_eq!(fs::read(&to).unwrap(), expected);
            assert_eq!(told.try_recv(), Ok(Typed::Ended));
        }
    }

    #[test]
    fn the_end_of_input_is_said_until_nobody_reads_any_more() {
        let state = tempfile::tempdir().unwrap();
        let (from, to) = (state.path().join("from"), state.path().join("to"));
        fs::write(&from, "").unwrap();
        rustix::fs::mknodat(CWD, &to, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let (tell, _told) = mpsc::unbounded_channel();
        let reader = to.clone();
        let reading = std::thread::spawn(move || File::open(reader).unwrap().read_exact(&mut [0; 3]).unwrap());
        let error = copy_bytes(File::open(&from).unwrap(), &to, End::KeyForEver, &tell).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        reading.join().unwrap();
    }
}
