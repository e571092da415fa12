//! Starting a program with descriptors of its own and clean signals.
//!
//! Not `std::process::Command`: it hands the caller's blocked signals on, and what the shim blocks for its signalfd would
//! stay blocked in the runtime and from there in the container.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::fcntl::OFlag;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use rustix::process::Pid;

/// Meant for whoever started the shim; they change what runc does.
const NOT_INHERITED: [&str; 3] = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"];

fn zero_terminated(bytes: Vec<u8>) -> std::io::Result<CString> {
    CString::new(bytes).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))
}

/// Starts `arguments[0]`, found in `PATH` if it has no slash. `streams` become descriptors 0 to 2; `None` is
/// `/dev/null`. Everything else that the shim has open is close-on-exec. The program
/// leads a process group of its own.
pub fn spawn(arguments: &[&OsStr], streams: [Option<OwnedFd>; 3]) -> std::io::Result<Pid> {
    spawn_with(arguments, &streams, None)
}

/// The same with as many descriptors as are given, and, where it is given, with nothing of our environment but `PATH`
/// beside `environment`.
pub fn spawn_with(
    arguments: &[&OsStr],
    streams: &[Option<OwnedFd>],
    environment: Option<&[(&str, &str)]>,
) -> std::io::Result<Pid> {
    let mut actions = PosixSpawnFileActions::init()?;
    // Out of the way of the numbers that are given to others before them.
    let away = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, i32::try_from(streams.len()).unwrap_or(0));
    let copies = streams.iter().map(|stream| stream.as_ref().map(away).transpose());
    let copies: Vec<Option<OwnedFd>> = copies.collect::<Result<_, _>>()?;
    for (copy, number) in copies.iter().zip(0..) {
        match copy {
            Some(fd) => actions.add_dup2(fd.as_raw_fd(), number)?,
            None if number > 2 => {}
            None => actions.add_open(number, "/dev/null", OFlag::O_RDWR, Mode::empty())?,
        }
    }
    let mut attributes = PosixSpawnAttr::init()?;
    let (mask, default) = (PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK, PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF);
    attributes.set_flags(mask | default | PosixSpawnFlags::POSIX_SPAWN_SETPGROUP)?;
    attributes.set_pgroup(nix::unistd::Pid::from_raw(0))?;
    attributes.set_sigmask(&SigSet::empty())?;
    // Rust ignores SIGPIPE, whoever started us may ignore more, and what is ignored stays so across an execution.
    attributes.set_sigdefault(&SigSet::all())?;
    let arguments: Vec<CString> =
        arguments.iter().map(|argument| zero_terminated(argument.as_bytes().to_vec())).collect::<Result<_, _>>()?;
    let inherited = std::env::vars_os().filter(|(name, _)| match environment {
        Some(_) => name == "PATH",
        None => !NOT_INHERITED.iter().any(|not| name == not),
    });
    let given = environment.unwrap_or_default().iter().map(|(name, value)| ((*name).into(), (*value).into()));
    let pair = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        zero_terminated(name.into_vec())
    };
    let environment: Vec<CString> = inherited.chain(given).map(pair).collect::<Result<_, _>>()?;
    let program = arguments.first().cloned().unwrap_or_default();
    let pid = posix_spawnp(&program, &actions, &attributes, &arguments, &environment)?;
    Pid::from_raw(pid.as_raw()).ok_or_else(|| std::io::Error::other("the kernel gave no process id"))
}
