//! The shim's own log, `shim.log` in its bundle: opened by the first message, so that a shim that has nothing
//! to say has no file.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// File in the bundle, which is the shim's working directory.
pub const FILE: &str = "shim.log";

/// Adds a line with the time. What cannot be written is lost: there is nobody else to tell.
pub fn note(message: impl std::fmt::Display) {
    if let Ok(mut file) = OpenOptions::new().append(true).create(true).mode(0o640).open(FILE) {
        let _ = file.write_all(format!("{:.6} {message}\n", jiff::Timestamp::now()).as_bytes());
    }
}

/// Sends what a panic says to the file: the shim's standard error leads nowhere.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|info| note(format_args!("bug: {info}"))));
}
