//! A person at a terminal: `bayplan` on a pty of its own, keys sent, the screen read, the window resized or closed.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::node::{TestNode, signal};
use crate::wait::patience;

/// See the module.
pub struct Terminal {
    /// `None` once the window was closed.
    master: Option<File>,
    child: Child,
    screen: String,
    /// How much of it was expected already.
    seen: usize,
}

/// What became of it.
#[derive(PartialEq)]
enum Screen {
    Changed,
    Same,
    Over,
}

fn window(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Terminal {
    /// `bayplan ARGS` in a window of 80 × 24, as the leader of its session.
    pub fn open(node: &TestNode, args: &[&str]) -> Self {
        // From the beginning nobody inherits it: whoever did would keep the window open.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname_r(&master).unwrap();
        let slave = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(name).unwrap();
        let master = File::from(OwnedFd::from(master));
        tcsetwinsize(&master, window(80, 24)).unwrap();
        let bayplan = node.bare(args);
        // util-linux: a session of its own, with standard input as its terminal.
        let mut command = Command::new("setsid");
        command.arg("-c").arg(bayplan.get_program()).args(bayplan.get_args()).current_dir(node.dir());
        command.env("NO_COLOR", "1").env_remove("TERM");
        command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(Stdio::from(slave));
        let child = command.spawn().unwrap();
        Self { master: Some(master), child, screen: String::new(), seen: 0 }
    }

    fn master(&self) -> &File {
        self.master.as_ref().expect("the window is open")
    }

    /// Types.
    pub fn send(&mut self, keys: &str) {
        self.master().write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is on the screen, behind what was expected before.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(30) * patience();
        loop {
            if let Some(at) = self.screen[self.seen..].find(text) {
                self.seen += at + text.len();
                return;
            }
            let goes_on = self.read() != Screen::Over;
            assert!(goes_on && Instant::now() < deadline, "no {text:?} on the screen:\n{}", self.screen);
        }
    }

    /// Takes what has arrived, waiting for a moment.
    fn read(&mut self) -> Screen {
        let moment = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let mut master = self.master();
        if poll(&mut [PollFd::new(master, PollFlags::IN)], Some(&moment)).unwrap() == 0 {
            return Screen::Same;
        }
        let mut buffer = [0; 4096];
        // EIO: nobody has the other side open any more.
        let Ok(count) = master.read(&mut buffer) else { return Screen::Over };
        self.screen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if count > 0 { Screen::Changed } else { Screen::Over }
    }

    /// Everything that was ever on it.
    pub fn screen(&self) -> &str {
        &self.screen
    }

    /// Another size of the window.
    pub fn resize(&self, columns: u16, rows: u16) {
        tcsetwinsize(self.master(), window(columns, rows)).unwrap();
    }

    /// Whether keys go through as they are pressed.
    pub fn is_raw(&self) -> bool {
        !tcgetattr(self.master()).unwrap().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// Waits until it is raw, or not.
    #[track_caller]
    pub fn becomes_raw(&self, raw: bool) {
        crate::wait::eventually(if raw { "raw" } else { "as it was" }, 20, || (self.is_raw() == raw).then_some(()));
    }

    /// The process at the terminal.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, number: Signal) {
        signal(self.child.id(), number);
    }

    /// Closes the window.
    pub fn close(&mut self) {
        self.master = None;
    }

    /// Waits for the end; its status, 128 + N for a signal. The terminal is as it was.
    #[track_caller]
    pub fn ends(&mut self) -> i32 {
        let deadline = Instant::now() + Duration::from_secs(40) * patience();
        let status = loop {
            if self.master.is_some() {
                while self.read() == Screen::Changed {}
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end; its screen:\n{}", self.screen);
            std::thread::sleep(Duration::from_millis(5));
        };
        if self.master.is_some() {
            while self.read() == Screen::Changed {}
            assert!(!self.is_raw(), "the terminal is left raw");
        }
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
