//! Passwords: from a terminal without showing them, or from standard input for scripts. Never from an argument
//! list of our own making, where every process could read it.

use std::io::{IsTerminal as _, Read as _};
use std::os::fd::AsFd as _;

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use super::ui::Ui;
use crate::error::{Class, Fault, Result};

/// Bound of a password in bytes; longer input is a mistake.
const MAX: u64 = 64 << 10;

/// Whether somebody can be asked.
pub(super) fn can_ask() -> bool {
    std::io::stdin().is_terminal()
}

/// Everything on standard input, without the line break at its end.
pub(super) fn of_input(whose: &str) -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .take(MAX)
        .read_to_string(&mut text)
        .map_err(|error| Fault::new(Class::Usage, format!("the password of {whose} cannot be read: {error}")))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Fault::new(Class::Usage, format!("no password for {whose} came on standard input")));
    }
    Ok(password.to_owned())
}

/// Asks on the terminal; the answer is shown only if `visible`.
pub(super) fn ask(ui: &mut Ui, question: &str, visible: bool) -> Result<String> {
    ui.message(question);
    let hidden = if visible { None } else { Hidden::new() };
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    if hidden.is_some() {
        ui.message("\n");
    }
    drop(hidden);
    read.map_err(|error| Fault::new(Class::Usage, format!("the terminal cannot be read: {error}")))?;
    let answer = line.trim_end_matches(['\r', '\n']);
    if answer.is_empty() {
        return Err(Fault::new(Class::Usage, "nothing was entered"));
    }
    Ok(answer.to_owned())
}

/// A terminal without echo until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn new() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd()).ok()?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(stdin.as_fd(), SetArg::TCSAFLUSH, &silent).ok()?;
        Some(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that has gone needs no echo.
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}
