//! The terminal that a session is held at: raw while keys go to the process, and as it was at every end.
//!
//! Invariant: whoever makes it raw has noted how it was before; [`restore`] undoes it from anywhere (the end of the
//! session, a panic, a stop of this process), and twice is as good as once.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::sync::{Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr};

use crate::api::TerminalSize;
use crate::error::{Class, Fault, Result};

/// The terminal that is raw now, and how it was.
static RAW: Mutex<Option<(File, Termios)>> = Mutex::new(None);

/// Standard input, where it is a terminal.
pub(super) struct Terminal {
    terminal: File,
}

impl Terminal {
    pub(super) fn of_stdin() -> Option<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        Some(Self { terminal: File::from(stdin.as_fd().try_clone_to_owned().ok()?) })
    }

    /// Every key goes through as it is pressed, until the guard is dropped.
    pub(super) fn make_raw(&self) -> Result<Guard> {
        self.set_raw().map_err(|error| {
            Fault::new(Class::Runtime, format!("the terminal cannot be made raw: {error}"))
                .help("leave -t out, or give it another standard input")
        })?;
        Ok(Guard)
    }

    fn set_raw(&self) -> io::Result<()> {
        let before = tcgetattr(&self.terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        {
            let mut noted = RAW.lock().unwrap_or_else(PoisonError::into_inner);
            // What is raw already was noted before.
            if noted.is_none() {
                *noted = Some((self.terminal.try_clone()?, before));
            }
        }
        Ok(tcsetattr(&self.terminal, OptionalActions::Now, &raw)?)
    }

    /// Raw again, after this process was stopped. Not from the background: the terminal is somebody else's there.
    pub(super) fn raw_again(&self) {
        let ours = tcgetpgrp(&self.terminal).is_ok_and(|group| group == rustix::process::getpgrp());
        if ours && let Err(error) = self.set_raw() {
            tracing::debug!(%error, "the terminal stays as it is");
        }
    }
}

/// Columns and rows of the terminal at any of the standard streams; one that was told none says 0.
pub(super) fn size() -> Option<TerminalSize> {
    let of = |size: rustix::io::Result<rustix::termios::Winsize>| {
        let size = size.ok().filter(|size| size.ws_col > 0 && size.ws_row > 0)?;
        Some(TerminalSize { width: size.ws_col, height: size.ws_row })
    };
    of(tcgetwinsize(io::stdin())).or_else(|| of(tcgetwinsize(io::stdout()))).or_else(|| of(tcgetwinsize(io::stderr())))
}

/// Gives the terminal back when it is dropped.
pub(super) struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        restore();
    }
}

/// The terminal as it was before. Does nothing where none is raw.
pub(in crate::cli) fn restore() {
    // A panic may come while it is held; then it is about to be restored anyway.
    let Ok(mut noted) = RAW.try_lock() else { return };
    if let Some((terminal, before)) = noted.take() {
        // What was typed and not read is dropped with the session: it was meant for the process.
        let _ = tcsetattr(&terminal, OptionalActions::Flush, &before);
    }
}
