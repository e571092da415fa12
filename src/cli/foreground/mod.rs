//! A process in the foreground: its output is ours, our keys and signals are its own, its exit status becomes ours.
//!
//! Bytes travel through FIFOs that the shim opens; this end is opened before the process is made, so that nothing
//! written is lost, however short it lives. A daemon that goes meanwhile is waited for and asked again: the session does
//! not notice. Whoever reads our output may go, as `head` does: then the task ends as a process on a broken pipe would.
//! A terminal that goes takes its task with it; the keys that leave do not.

mod keys;
mod pipes;
mod process;
mod signals;
mod terminal;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, Fuse, FutureExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::Sleep;

use super::context::Context;
use crate::api::{Client, Ended, RemoveContainerRequest, Service as _};
use crate::error::{Class, Fault, Result};
use crate::fifos;

use pipes::{Pipes, Streams, Typed};
use process::{Process, SIGKILL};
use signals::{Caught, Signals};
use terminal::Terminal;

pub(super) use keys::{DEFAULT as DETACH_KEYS, Keys};
pub(super) use process::Begin;
pub(super) use terminal::restore as restore_terminal;

/// bayplan itself failed (Docker's and podman's number).
pub(super) const FAILED: u8 = 125;
/// Nobody reads the output any more: 128 and SIGPIPE.
const BROKEN_PIPE: u8 = 141;
/// Its time was over (the number of coreutils' `timeout`).
const TIMED_OUT: u8 = 124;
/// The command is there and cannot be executed (POSIX sh).
const NOT_EXECUTABLE: u8 = 126;
/// There is no such command (POSIX sh).
const NO_COMMAND: u8 = 127;
const SIGHUP: i32 = 1;
const SIGPIPE: i32 = 13;
const SIGTERM: i32 = 15;
/// How long a process may live on after SIGPIPE or SIGHUP, which the first process of a container does not get by
/// default; after a SIGTERM at a terminal; and then after its stop signal.
const AFTER_SIGPIPE: Duration = Duration::from_millis(500);
const AFTER_SIGHUP: Duration = Duration::from_millis(500);
const AFTER_SIGTERM: Duration = Duration::from_secs(3);
const AFTER_STOP: Duration = Duration::from_secs(2);
/// How long a daemon may be away before the person hears of it, and once the process itself has ended.
const SILENCE: Duration = Duration::from_secs(2);
const LAST_DAEMON: Duration = Duration::from_secs(15);

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
    /// The process has a terminal.
    pub(super) terminal: bool,
    /// What leaves it, at a terminal.
    pub(super) keys: Keys,
    /// What ends a further process.
    pub(super) timeout: Option<Duration>,
    /// Gets the process id.
    pub(super) pid_file: Option<PathBuf>,
}

/// What every verb with a session takes.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct KeysFlag {
    /// Keys that leave the session and let the process go on; "" for none
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    pub(super) detach_keys: Keys,
}

/// Runs it to its end. A fault is shown here, because its exit status is not that of its class.
pub(super) async fn run(session: Session, context: &mut Context) -> Result<u8> {
    let outcome = follow(session, context).await;
    restore_terminal();
    match outcome {
        Ok(status) => Ok(status),
        Err(fault) => {
            context.ui.fault(&fault);
            Ok(status_of(&fault))
        }
    }
}

/// A session that cannot even begin.
pub(super) fn refuse(fault: &Fault, context: &mut Context) -> Result<u8> {
    context.ui.fault(fault);
    Ok(status_of(fault))
}

/// The shell's numbers for a command that could not be started. The runtime's words are all there is to
/// tell by (runc: `exec: "x": executable file not found in $PATH`, `exec /x: permission denied`).
fn status_of(fault: &Fault) -> u8 {
    let message = fault.message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    match fault.class {
        Class::Runtime
            if says(&["executable file not found", "stat ", "no such file or directory"])
                && says(&["exec:", "exec /"]) =>
        {
            NO_COMMAND
        }
        Class::Runtime
            if says(&["exec:", "exec /"]) && says(&["permission denied", "is a directory", "exec format error"]) =>
        {
            NOT_EXECUTABLE
        }
        _ => FAILED,
    }
}

/// What a session waits for beside its process.
struct Meanwhile {
    /// What was asked of the node and is not answered yet.
    asked: FuturesUnordered<BoxFuture<'static, Result<()>>>,
    /// When the process is ended for good, and with which grace.
    patience: Pin<Box<Fuse<Sleep>>>,
    ending: bool,
}

impl Meanwhile {
    fn new() -> Self {
        Self { asked: FuturesUnordered::new(), patience: Box::pin(Fuse::terminated()), ending: false }
    }

    /// Sends a signal, and ends the process when it lives on.
    fn end_after(&mut self, process: &Process, signal: i32, all: bool, patience: Duration) {
        self.asked.push(process.kill(signal, all));
        if !self.ending {
            self.ending = true;
            self.patience.set(tokio::time::sleep(patience).fuse());
        }
    }
}

async fn follow(session: Session, context: &mut Context) -> Result<u8> {
    let node = context.node().await?;
    // From here on a signal is the process's: it must not end this one while the directory exists.
    let mut signals = Signals::new()?;
    let state = state_directory(&node, context).await?;
    fifos::sweep(&state);
    let terminal = Terminal::of_stdin().filter(|_| session.terminal && session.input);
    let streams = Streams { input: session.input, output: session.output, terminal: session.terminal };
    let mut pipes = Pipes::make(&state, streams)?;
    let told_size = terminal::size();
    let stdio = pipes.stdio(told_size);
    // From before it is made: what its runtime says goes the same way, and one that says more than a FIFO holds would
    // wait for this reader for ever.
    let (mut output, mut lost) = pipes.copy_output(context)?;
    let mut early = Vec::new();
    let process = {
        let begin = session.begin.begin(&node, stdio, &mut context.ui);
        tokio::pin!(begin);
        loop {
            tokio::select! {
                begun = &mut begin => break begun?,
                caught = signals.next() => {
                    let Caught::Signal(number) = caught else { continue };
                    // There is no process to pass it on to yet. A second one means it.
                    if !early.is_empty() {
                        return Ok(128 + u8::try_from(number).unwrap_or(0));
                    }
                    early.push(number);
                }
            }
        }
    };
    write_pid(session.pid_file.as_deref(), process.pid)?;
    let mut meanwhile = Meanwhile::new();
    let _raw = match &terminal {
        Some(terminal) => {
            signals.of_terminal()?;
            let raw = terminal.make_raw();
            if raw.is_err() && !process.is_guest {
                drop(process.end(Duration::ZERO).await);
            }
            Some(raw?)
        }
        None => None,
    };
    // One that was there before does not know this window yet; others were told at their start.
    if session.terminal
        && let Some(size) = terminal::size().filter(|size| process.is_guest || Some(*size) != told_size)
    {
        meanwhile.asked.push(process.resize(size));
    }
    let mut typed = pipes.copy_input(terminal.is_some().then_some(session.keys), process.is_guest);
    for number in early {
        meanwhile.asked.push(process.kill(number, false));
    }
    let mut exit = process.exit(session.remove);
    let mut unread = None;
    let mut timed_out = false;
    let timeout = session.timeout.map_or_else(Fuse::terminated, |timeout| tokio::time::sleep(timeout).fuse());
    tokio::pin!(timeout);
    let mut daemon = node.lost();
    let away = Fuse::terminated();
    tokio::pin!(away);
    let mut told_away = false;
    let ended = loop {
        tokio::select! {
            ended = &mut exit => break ended,
            caught = signals.next() => match caught {
                Caught::Signal(SIGHUP) if process.is_guest => return Ok(leave(&process, context)),
                Caught::Signal(SIGTERM) if process.is_guest && terminal.is_some() => return Ok(leave(&process, context)),
                Caught::Signal(SIGHUP) if session.terminal => {
                    meanwhile.end_after(&process, SIGHUP, true, AFTER_SIGHUP);
                }
                Caught::Signal(SIGTERM) if terminal.is_some() => {
                    meanwhile.end_after(&process, SIGTERM, false, AFTER_SIGTERM);
                }
                Caught::Signal(number) => meanwhile.asked.push(process.kill(number, false)),
                Caught::Resized => {
                    if let Some(size) = terminal::size() {
                        meanwhile.asked.push(process.resize(size));
                    }
                }
                Caught::Suspend => {
                    restore_terminal();
                    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
                }
                Caught::Continued => {
                    if let Some(terminal) = &terminal {
                        terminal.raw_again();
                    }
                    if let Some(size) = terminal::size() {
                        meanwhile.asked.push(process.resize(size));
                    }
                }
            },
            Some(typed) = typed.recv() => match typed {
                Typed::Leave => return Ok(leave(&process, context)),
                Typed::HungUp if process.is_guest => return Ok(leave(&process, context)),
                Typed::HungUp => meanwhile.end_after(&process, SIGHUP, true, AFTER_SIGHUP),
                // Another may have more to say.
                Typed::Ended if process.is_guest => {}
                Typed::Ended => meanwhile.asked.push(process.close_input()),
            },
            Some(error) = lost.recv(), if unread.is_none() => {
                unread = Some(error);
                if process.is_guest {
                    break Err(Fault::new(Class::No, "the output is read no more"));
                }
                meanwhile.end_after(&process, SIGPIPE, true, AFTER_SIGPIPE);
            }
            () = &mut meanwhile.patience => meanwhile.asked.push(process.end(AFTER_STOP)),
            () = &mut timeout => {
                timed_out = true;
                meanwhile.asked.push(process.kill(SIGKILL, true));
            }
            Some(answer) = meanwhile.asked.next(), if !meanwhile.asked.is_empty() => answer?,
            Ok(()) = daemon.changed() => {
                let lost = *daemon.borrow_and_update();
                away.set(if lost { tokio::time::sleep(SILENCE).fuse() } else { Fuse::terminated() });
            }
            () = &mut away => {
                if told_away && output.has_ended() {
                    break Err(unknown_end(&process));
                }
                if !told_away {
                    told_away = true;
                    let text = format!("no daemon answers; {} goes on, and its end is waited for", process.name);
                    context.ui.message(&format!("\r{text}\r\n"));
                }
                away.set(tokio::time::sleep(LAST_DAEMON).fuse());
            }
        }
    };
    if let (Err(fault), None) = (&ended, &unread) {
        return Err(fault.clone());
    }
    // What was asked for the end of it is answered before its container is looked at.
    while meanwhile.ending && meanwhile.asked.next().await.is_some() {}
    output.finish().await;
    restore_terminal();
    if session.remove && !ended.as_ref().is_ok_and(|ended| ended.removed) {
        remove(&node, &process, context).await;
    }
    match (unread.or_else(|| lost.try_recv().ok()), ended) {
        (Some(error), _) if error.kind() == io::ErrorKind::BrokenPipe => Ok(BROKEN_PIPE),
        (Some(error), _) => {
            Err(Fault::new(Class::No, format!("the output of the process could not be written: {error}")))
        }
        (None, Ok(_)) if timed_out => {
            let seconds = session.timeout.unwrap_or_default().as_secs_f64();
            context.ui.note(format!("its time of {seconds} s was over: it was killed"));
            Ok(TIMED_OUT)
        }
        (None, Ok(Ended { exit, .. })) => Ok(u8::try_from(exit.code & 0xff).unwrap_or(FAILED)),
        (None, Err(fault)) => Err(fault),
    }
}

/// The session ends, and what it was held with goes on.
fn leave(process: &Process, context: &mut Context) -> u8 {
    restore_terminal();
    let Process { namespace, name, .. } = process;
    let back = match process.is_exec() {
        true => format!("{name}: left; the process goes on"),
        false => format!("{name}: left; bayplan -n {namespace} attach {name} comes back"),
    };
    context.ui.message(&format!("\r\n{back}\n"));
    0
}

fn unknown_end(process: &Process) -> Fault {
    let Process { namespace, name, .. } = process;
    let message = format!("container {namespace}/{name}: the process has ended, but no daemon is there to say how");
    Fault::new(Class::Runtime, message).help(format!("bayplan -n {namespace} get container/{name} says it"))
}

async fn remove(node: &Client, process: &Process, context: &mut Context) {
    let Process { namespace, name, .. } = process.clone();
    match node.remove_container(RemoveContainerRequest { namespace, name, force: false }).await {
        Err(fault) if fault.class != Class::NotFound => context.ui.fault(&fault),
        _ => {}
    }
}

/// The state directory of the node that is asked, which sweeps what a killed command left there.
async fn state_directory(node: &Arc<Client>, context: &mut Context) -> Result<PathBuf> {
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
        assert_eq!(runtime("runc: chdir to cwd (\"/nope\") set in config.json failed: no such file or directory"), 125);
        assert_eq!(runtime("runc is not installed"), 125);
        assert_eq!(status_of(&Fault::new(Class::Registry, "no such file or directory, exec")), 125);
    }
}
