//! Where output goes: data to one stream, messages to the other.
//!
//! A reader that has gone is no fault: what is left is dropped, and [`Ui::is_closed`] tells those who
//! would otherwise go on for ever. What is drawn stays at the foot of the terminal: whatever else is written
//! takes it away first. The cursor is never hidden, so that no end of this process has to bring it back.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd as _;

use unicode_width::UnicodeWidthStr as _;

use super::render;
use crate::error::{Class, Fault, Result};
use crate::plan::Problem;

/// A stream of its own for a thread that copies.
pub(super) type Raw = Box<dyn Write + Send>;

/// See the module.
pub struct Ui {
    out: Raw,
    err: Raw,
    /// Makes further writers to the two streams.
    raw: fn(&Self) -> io::Result<(Raw, Raw)>,
    /// Escapes may be written to the data stream.
    pub colour_out: bool,
    /// Escapes may be written to the message stream.
    pub colour_err: bool,
    /// Messages go to a terminal, so that progress may be drawn.
    pub draws: bool,
    closed: bool,
    failed: Option<io::Error>,
    /// The widths of the lines at the foot of the terminal.
    drawn: Vec<usize>,
    #[cfg(test)]
    pub(super) caught: Option<tests::Caught>,
}

impl Ui {
    /// This process' own streams.
    pub fn of_process() -> io::Result<Self> {
        let coloured = |choice| choice != anstream::ColorChoice::Never;
        let (out, err) = own_streams()?;
        Ok(Self {
            out: Box::new(io::BufWriter::with_capacity(32 << 10, out)),
            err,
            raw: |_| own_streams(),
            colour_out: coloured(anstream::AutoStream::choice(&io::stdout())),
            colour_err: coloured(anstream::AutoStream::choice(&io::stderr())),
            draws: io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
            closed: false,
            failed: None,
            drawn: Vec::new(),
            #[cfg(test)]
            caught: None,
        })
    }

    /// One line of data. It reaches its reader with [`Self::flush`], a message, or the end.
    pub fn line(&mut self, text: impl Display) {
        self.bytes(format!("{text}\n").as_bytes());
    }

    /// Data as it is.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.erase();
        if !self.closed {
            let written = self.out.write_all(bytes);
            self.check(written);
        }
    }

    /// Data of the kind that belongs on the other stream, in order with what was written before.
    pub fn errors(&mut self, bytes: &[u8]) {
        self.erase();
        self.flush();
        let _ = self.err.write_all(bytes);
    }

    /// One line for the person.
    pub fn note(&mut self, text: impl Display) {
        self.message(&format!("{text}\n"));
    }

    /// Text for the person, as it is.
    pub fn message(&mut self, text: &str) {
        self.erase();
        // On a terminal both are read as one text.
        self.flush();
        let _ = self.err.write_all(text.as_bytes());
    }

    /// Columns and rows of the terminal that messages go to, as they are now.
    pub fn size(&self) -> (usize, usize) {
        let size = rustix::termios::tcgetwinsize(io::stderr()).ok();
        // A terminal that was told no size says 0.
        let or = |given: Option<u16>, other| given.filter(|count| *count > 0).map_or(other, usize::from);
        (or(size.map(|size| size.ws_col), 80), or(size.map(|size| size.ws_row), 24))
    }

    /// Has these lines, and no others, at the foot of the terminal. In one write, and each line over the one
    /// before it, so that nothing flickers.
    pub fn draw(&mut self, lines: &[String]) {
        if lines.is_empty() {
            return self.erase();
        }
        self.flush();
        let mut text = self.back_up();
        for line in lines {
            text.push_str(line);
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J");
        self.drawn = lines.iter().map(|line| anstream::adapter::strip_str(line).to_string().width()).collect();
        let _ = self.err.write_all(text.as_bytes());
    }

    /// Takes away what was drawn.
    pub fn erase(&mut self) {
        if !self.drawn.is_empty() {
            let text = self.back_up() + "\x1b[J";
            self.drawn.clear();
            let _ = self.err.write_all(text.as_bytes());
        }
    }

    /// To where the drawing begins. A terminal that became narrower has wrapped its lines.
    fn back_up(&self) -> String {
        let (columns, _) = self.size();
        let rows: usize = self.drawn.iter().map(|width| width.div_ceil(columns).max(1)).sum();
        if rows == 0 { String::new() } else { format!("\x1b[{rows}A\r") }
    }

    /// A fault, for the person.
    pub fn fault(&mut self, fault: &Fault) {
        let text = render::diagnostic::fault(fault, self.colour_err);
        self.message(&text);
    }

    /// A problem of a plan, for the person.
    pub fn problem(&mut self, problem: &Problem) {
        let text = render::diagnostic::problem(problem, self.colour_err);
        self.message(&text);
    }

    /// Whether nobody reads the data any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Data reaches its reader now.
    pub fn flush(&mut self) {
        if !self.closed {
            let flushed = self.out.flush();
            self.check(flushed);
        }
    }

    fn check(&mut self, written: io::Result<()>) {
        if let Err(error) = written {
            self.closed = true;
            if error.kind() != io::ErrorKind::BrokenPipe {
                self.failed = Some(error);
            }
        }
    }

    /// Writers of their own for copying threads: data, messages.
    pub fn streams(&mut self) -> Result<(Raw, Raw)> {
        self.erase();
        self.flush();
        (self.raw)(self).map_err(|error| Fault::new(Class::Runtime, format!("standard output is not usable: {error}")))
    }

    /// The end: what could not be written is a fault, unless its reader went away.
    pub fn finish(&mut self) -> Result<()> {
        self.erase();
        self.flush();
        match self.failed.take() {
            Some(error) => Err(Fault::new(Class::No, format!("the output could not be written: {error}"))),
            None => Ok(()),
        }
    }
}

fn own_streams() -> io::Result<(Raw, Raw)> {
    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let err = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    Ok((Box::new(out), Box::new(err)))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What was written, by stream.
    #[derive(Clone, Default)]
    pub(crate) struct Caught {
        pub out: Arc<Mutex<Vec<u8>>>,
        pub err: Arc<Mutex<Vec<u8>>>,
    }

    struct Into(Arc<Mutex<Vec<u8>>>);

    impl Write for Into {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Caught {
        pub(crate) fn ui(&self) -> Ui {
            Ui {
                out: Box::new(Into(self.out.clone())),
                err: Box::new(Into(self.err.clone())),
                raw: |ui| {
                    let caught = ui.caught.clone().unwrap();
                    Ok((Box::new(Into(caught.out)), Box::new(Into(caught.err))))
                },
                colour_out: false,
                colour_err: false,
                draws: false,
                closed: false,
                failed: None,
                drawn: Vec::new(),
                caught: Some(self.clone()),
            }
        }

        pub(crate) fn text(&self) -> (String, String) {
            let text = |bytes: &Arc<Mutex<Vec<u8>>>| String::from_utf8(bytes.lock().unwrap().clone()).unwrap();
            (text(&self.out), text(&self.err))
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_fault() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut ui = Caught::default().ui();
        ui.out = Box::new(Gone);
        ui.line("one");
        assert!(ui.is_closed());
        ui.finish().unwrap();
    }
}
