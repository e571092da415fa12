//! A task in the foreground: its output is ours, our signals are its own, its exit status becomes ours.
//!
//! Output travels through FIFOs that the shim writes to. This end is opened before the task is made, so
//! that nothing written is lost, however short the task lives. Whoever reads our output may go, as `head` does: then
//! the task ends as a process on a broken pipe would.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::{Fuse, FusedFuture as _, FutureExt as _};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::context::Context;
use super::progress::{self, Progress};
use super::ui::{Raw, Ui};
use crate::api::{
    Client, CreateRequest, Created, Ended, KillRequest, RemoveContainerRequest, Service as _, StartRequest, Stdio,
    StopRequest, WaitExitRequest,
};
use crate::error::{Class, Fault, Result};
use crate::fifos::{self, Fifos};

/// bayplan itself failed (Docker's and podman's number).
pub(super) const FAILED: u8 = 125;
/// Nobody reads the output any more: 128 and SIGPIPE.
const BROKEN_PIPE: u8 = 141;
/// The signal of a broken pipe.
const SIGPIPE: i32 = 13;
/// How long a task may live on after SIGPIPE, which the first process of a container does not get by default, and then
/// after its stop signal.
const AFTER_SIGPIPE: Duration = Duration::from_millis(500);
const AFTER_STOP: Duration = Duration::from_secs(2);
/// The command is there and cannot be executed (POSIX sh).
const NOT_EXECUTABLE: u8 = 126;
/// There is no such command (POSIX sh).
const NO_COMMAND: u8 = 127;
/// How long what a task has written may take to arrive once its exit is known.
const LAST_OUTPUT: Duration = Duration::from_secs(5);

/// What is run in the foreground, and how.
pub(super) struct Session {
    /// How it begins.
    pub(super) begin: Begin,
    /// Remove the container after its end.
    pub(super) remove: bool,
    /// Show its output.
    pub(super) output: bool,
    /// Pass standard input on.
    pub(super) input: bool,
    /// Gets the process id.
    pub(super) pid_file: Option<PathBuf>,
}

/// How a foreground task begins.
pub(super) enum Begin {
    /// As a new container.
    Create(Box<CreateRequest>, progress::Flag),
    /// As the task of one that is there.
    Start(StartRequest),
}

impl Begin {
    fn subject(&self) -> (String, String) {
        match self {
            Begin::Create(request, _) => (request.namespace.clone(), request.id.clone()),
            Begin::Start(request) => (request.namespace.clone(), request.name.clone()),
        }
    }
}

/// Runs it to its end. A fault is shown here, because its exit status is not that of its class.
pub(super) async fn run(session: Session, context: &mut Context) -> Result<u8> {
    match follow(session, context).await {
        Ok(status) => Ok(status),
        Err(fault) => {
            context.ui.fault(&fault);
            Ok(status_of(&fault))
        }
    }
}

/// The shell's numbers for a command that could not be started. The runtime's words are all there is to
/// tell by (runc: `exec: "x": executable file not found in $PATH`, `exec /x: permission denied`).
fn status_of(fault: &Fault) -> u8 {
    let message = fault.message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    match fault.class {
        Class::Runtime
            if says(&["executable file not found", "stat ", "no such file or directory"]) && says(&["exec"]) =>
        {
            NO_COMMAND
        }
        Class::Runtime if says(&["exec"]) && says(&["permission denied", "is a directory", "exec format error"]) => {
            NOT_EXECUTABLE
        }
        _ => FAILED,
    }
}

async fn follow(session: Session, context: &mut Context) -> Result<u8> {
    let node = context.node().await?;
    // From here on a signal is the task's: it must not end this process while the directory exists.
    let mut signals = Signals::new()?;
    let (namespace, name) = session.begin.subject();
    let state = state_directory(&node, context).await?;
    fifos::sweep(&state);
    let mut pipes = Pipes::make(&state, session.output, session.input)?;
    let stdio = pipes.stdio();
    // From before it is made: what its runtime says goes the same way, and one that says more than a FIFO holds would
    // wait for this reader for ever.
    let (copied, mut lost) = pipes.copy_output(context)?;
    let mut early = Vec::new();
    let created = {
        let begin = begin(&node, session.begin, stdio, &mut context.ui);
        tokio::pin!(begin);
        loop {
            tokio::select! {
                created = &mut begin => break created?,
                number = signals.next() => {
                    // There is no process to pass it on to yet. A second one means it.
                    if !early.is_empty() {
                        return Ok(128 + u8::try_from(number).unwrap_or(0));
                    }
                    early.push(number);
                }
            }
        }
    };
    write_pid(session.pid_file.as_deref(), created.pid)?;
    pipes.copy_input();
    let kill = |signal, all| {
        let request = KillRequest { namespace: namespace.clone(), name: name.clone(), signal, all };
        let node = node.clone();
        // One that has ended needs no signal; its exit is on its way.
        async move { drop(node.kill(request).await) }
    };
    for number in early {
        kill(number, false).await;
    }
    let request = WaitExitRequest {
        namespace: namespace.clone(),
        name: name.clone(),
        uid: Some(created.uid.clone()),
        attempt: Some(created.attempt),
        removed: session.remove,
    };
    let exit = node.wait_exit(request);
    tokio::pin!(exit);
    let mut unread = None;
    let patience = Fuse::terminated();
    let stop = Fuse::terminated();
    tokio::pin!(patience, stop);
    let Ended { exit, removed } = loop {
        tokio::select! {
            ended = &mut exit => break ended?,
            number = signals.next() => kill(number, false).await,
            Some(error) = lost.recv(), if unread.is_none() => {
                unread = Some(error);
                kill(SIGPIPE, true).await;
                patience.set(tokio::time::sleep(AFTER_SIGPIPE).fuse());
            }
            () = &mut patience => {
                let grace_ms = u64::try_from(AFTER_STOP.as_millis()).ok();
                let request = StopRequest { namespace: namespace.clone(), name: name.clone(), grace_ms };
                stop.set(node.stop(request).fuse());
            }
            stopped = &mut stop => match stopped {
                // It was gone before.
                Err(fault) if fault.class != Class::NotFound => return Err(fault),
                _ => {}
            },
        }
    };
    if !stop.is_terminated() {
        drop(stop.await);
    }
    // A process that outlives the task's may hold a pipe open; it is not waited for.
    let _ = tokio::time::timeout(LAST_OUTPUT, copied).await;
    if session.remove && !removed {
        let request = RemoveContainerRequest { namespace, name, force: false };
        match node.remove_container(request).await {
            Ok(_) => {}
            Err(fault) if fault.class == Class::NotFound => {}
            Err(fault) => context.ui.fault(&fault),
        }
    }
    match unread.or_else(|| lost.try_recv().ok()) {
        None => Ok(u8::try_from(exit.code & 0xff).unwrap_or(FAILED)),
        Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(BROKEN_PIPE),
        Some(error) => Err(Fault::new(Class::No, format!("the output of the task could not be written: {error}"))),
    }
}

async fn begin(node: &Client, begin: Begin, stdio: Stdio, ui: &mut Ui) -> Result<Created> {
    match begin {
        Begin::Create(mut request, flag) => {
            request.stdio = Some(stdio);
            Progress::create(flag, node, *request, ui).await
        }
        Begin::Start(mut request) => {
            request.stdio = Some(stdio);
            node.start(request).await
        }
    }
}

/// The state directory of the node that is asked, which sweeps what a killed command left there.
async fn state_directory(node: &Client, context: &mut Context) -> Result<PathBuf> {
    if node.is_remote() && context.global.address.is_some() && context.global.state.is_none() {
        return Ok(node.info().await?.state);
    }
    Ok(context.config()?.state.clone())
}

/// Writes a process id, as `--pid-file` asks.
pub(super) fn write_pid(file: Option<&Path>, pid: Option<u32>) -> Result<()> {
    let (Some(file), Some(pid)) = (file, pid) else { return Ok(()) };
    fs::write(file, pid.to_string()).map_err(|error| {
        Fault::new(Class::No, format!("the process id {pid} cannot be written to {}: {error}", file.display()))
    })
}

/// The signals that are passed on.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|error| Fault::new(Class::Runtime, format!("signals cannot be received: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    /// The number of the next one.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.hangup.recv() => SignalKind::hangup().as_raw_value(),
            _ = self.quit.recv() => SignalKind::quit().as_raw_value(),
        }
    }
}

/// Tells why the task's output reaches nobody.
type Lost = mpsc::UnboundedReceiver<io::Error>;

/// FIFOs in a directory of their own, removed when dropped.
struct Pipes {
    directory: Fifos,
    /// Open for reading, not blocking yet.
    output: Option<(File, File)>,
    input: bool,
}

impl Pipes {
    fn make(state: &Path, output: bool, input: bool) -> Result<Self> {
        let fault = |error: &dyn std::fmt::Display| {
            Fault::new(Class::Runtime, format!("the pipes in {} cannot be made: {error}", state.join("fifo").display()))
        };
        let own = Fifos::make(state).map_err(|error| fault(&error))?;
        let directory = own.path().to_owned();
        let mut pipes = Self { directory: own, output: None, input };
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
        if input {
            make("stdin")?;
        }
        if output {
            make("stdout")?;
            make("stderr")?;
            pipes.output = Some((open("stdout")?, open("stderr")?));
        }
        Ok(pipes)
    }

    fn stdio(&self) -> Stdio {
        let path = |wanted: bool, name: &str| wanted.then(|| self.directory.path().join(name));
        Stdio {
            stdin: path(self.input, "stdin"),
            stdout: path(self.output.is_some(), "stdout"),
            stderr: path(self.output.is_some(), "stderr"),
            terminal: false,
        }
    }

    /// Begins to pass standard input on. To be called when the task has been made: what nobody was there to take stays
    /// with whoever gave it.
    fn copy_input(&self) {
        if self.input {
            let fifo = self.directory.path().join("stdin");
            std::thread::spawn(move || copy_input(&fifo));
        }
    }

    /// Begins to copy; the future is done when both outputs have ended, and the receiver is told why something could not
    /// be written.
    fn copy_output(&mut self, context: &mut Context) -> Result<(impl Future<Output = ()> + use<>, Lost)> {
        let mut ends = Vec::new();
        let (lost, told) = mpsc::unbounded_channel();
        if let Some((stdout, stderr)) = self.output.take() {
            let (to_stdout, to_stderr) = context.ui.streams()?;
            for (from, to) in [(stdout, to_stdout), (stderr, to_stderr)] {
                rustix::io::ioctl_fionbio(&from, false).map_err(|error| {
                    Fault::new(Class::Runtime, format!("the output of the task cannot be read: {error}"))
                })?;
                let (done, end) = oneshot::channel::<()>();
                let lost = lost.clone();
                std::thread::spawn(move || {
                    if wait_for_writer(&from)
                        && let Err(error) = copy_output(from, to)
                    {
                        let _ = lost.send(error);
                    }
                    drop(done);
                });
                ends.push(end);
            }
        }
        let copied = async move {
            for end in ends {
                let _ = end.await;
            }
        };
        Ok((copied, told))
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

/// Until the end of either side; an error is one of writing.
fn copy_output(mut from: File, mut to: Raw) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(()),
        }
    }
}

fn copy_input(fifo: &Path) {
    if let Ok(mut to) = OpenOptions::new().write(true).open(fifo) {
        let _ = io::copy(&mut io::stdin().lock(), &mut to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_cannot_be_started_has_the_shells_numbers() {
        let runtime = |message: &str| status_of(&Fault::new(Class::Runtime, message));
        assert_eq!(runtime("runc: exec: \"nope\": executable file not found in $PATH"), 127);
        assert_eq!(runtime("runc: exec: \"/nope\": stat /nope: no such file or directory"), 127);
        assert_eq!(runtime("runc: exec: \"/etc\": is a directory"), 126);
        assert_eq!(runtime("runc: exec /etc/passwd: permission denied"), 126);
        assert_eq!(runtime("runc is not installed"), 125);
        assert_eq!(status_of(&Fault::new(Class::Registry, "no such file or directory, exec")), 125);
    }

    #[test]
    fn the_pipes_leave_nothing_behind() {
        let state = tempfile::tempdir().unwrap();
        let pipes = Pipes::make(state.path(), true, true).unwrap();
        assert_eq!(fs::read_dir(pipes.directory.path()).unwrap().count(), 3);
        drop(pipes);
        assert_eq!(fs::read_dir(state.path().join("fifo")).unwrap().count(), 0);
    }
}
