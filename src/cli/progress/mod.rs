//! How far blobs are that move, while a verb waits for them: bars on a terminal, plain lines or JSON elsewhere.
//!
//! [`board`] is pure: moves in, lines out, by a time that it is given. This file decides which way is shown and
//! when; [`Ui`] keeps the bars at the foot of the terminal and out of the way of everything else. All of it goes to
//! the message stream, never among the data. A verb says what moves in its own words, as a [`Moved`].

mod board;

use std::time::{Duration, Instant};

use clap::ValueEnum;
use futures_util::StreamExt as _;
use serde::Serialize;

use super::render::{self, Paint};
use super::ui::Ui;
use crate::api::{BlobState, Client, CreateEvent, CreateRequest, Created, Service as _, Stream, Transfer};
use crate::error::{Class, Fault, Result};

use board::Board;

/// Between two drawings.
const FRAME: Duration = Duration::from_millis(100);

/// The flag.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Flag {
    /// How progress is shown, on standard error
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub progress: How,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum How {
    /// Bars on a terminal, else plain lines.
    #[default]
    Auto,
    /// One line for each blob that is where it belongs.
    Plain,
    /// One JSON object a line, for each move of a blob.
    Json,
    /// Not at all.
    None,
}

/// What [`How`] comes down to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Bars,
    Plain,
    Json,
    None,
}

/// A part of something moved on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moved {
    /// What it is a part of: an image, an archive.
    pub(super) of: String,
    /// Which part, in few characters: the beginning of a digest.
    pub(super) part: String,
    /// Where it is.
    pub(super) stage: Stage,
    /// Bytes done.
    pub(super) done: u64,
    /// Bytes in all; 0 where they are not known.
    pub(super) total: u64,
}

/// Where a part is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its turn has not come.
    Waiting,
    /// Bytes of it move.
    Moving,
    /// It is where it belongs, and being unpacked.
    Unpacking(Way),
    /// It is where it belongs.
    There(Way),
}

/// How a part came to where it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// Its bytes moved; what is said behind them.
    Moved(&'static str),
    /// They did not need to.
    Spared(String),
}

impl Moved {
    /// A blob on its way to the node.
    fn of_transfer(transfer: &Transfer) -> Self {
        let way = || match transfer.fetched {
            true => Way::Moved(""),
            false => Way::Spared("was here".into()),
        };
        let stage = match transfer.state {
            BlobState::Waiting => Stage::Waiting,
            BlobState::Downloading => Stage::Moving,
            BlobState::Done => Stage::There(way()),
            BlobState::Unpacking => Stage::Unpacking(way()),
        };
        let (of, part) = (transfer.key.name.clone(), transfer.digest.short().to_owned());
        Self { of, part, stage, done: transfer.done, total: transfer.total }
    }
}

/// See the module.
pub(super) struct Progress {
    mode: Mode,
    board: Board,
    began: Instant,
    /// When the next drawing is due.
    next: Instant,
}

impl Progress {
    /// For one verb; `quiet` shows nothing whatever the flag says.
    pub(super) fn new(flag: Flag, quiet: bool, ui: &Ui) -> Self {
        let mode = match flag.progress {
            _ if quiet => Mode::None,
            How::Auto if ui.draws => Mode::Bars,
            How::Auto | How::Plain => Mode::Plain,
            How::Json => Mode::Json,
            How::None => Mode::None,
        };
        let now = Instant::now();
        Self { mode, board: Board::default(), began: now, next: now }
    }

    /// A blob of an image moved on.
    pub(super) fn transferred(&mut self, transfer: &Transfer, ui: &mut Ui) {
        self.hear(&Moved::of_transfer(transfer), transfer, ui);
    }

    /// Something moved on; `event` is what is said of it as JSON.
    pub(super) fn hear(&mut self, moved: &Moved, event: &impl Serialize, ui: &mut Ui) {
        match self.mode {
            Mode::None => {}
            Mode::Json => self.json(event, ui),
            Mode::Plain => {
                if let Some(line) = self.board.hear(moved, self.began.elapsed()) {
                    ui.note(line);
                }
            }
            Mode::Bars => {
                self.board.hear(moved, self.began.elapsed());
                self.draw_if_due(ui);
            }
        }
    }

    /// So much of the whole is done: of an archive, which is read from its beginning to its end.
    pub(super) fn whole(&mut self, of: &str, done: u64, total: u64, event: &impl Serialize, ui: &mut Ui) {
        match self.mode {
            Mode::None | Mode::Plain => {}
            Mode::Json => self.json(event, ui),
            Mode::Bars => {
                self.board.whole(of, done, total, self.began.elapsed());
                self.draw_if_due(ui);
            }
        }
    }

    /// All of something is there, or will not come: nothing of it is shown any more.
    pub(super) fn ended(&mut self, of: &str, ui: &mut Ui) {
        if self.board.end(of) && self.mode == Mode::Bars {
            self.draw(ui);
        }
    }

    /// The next event of a stream; bars go on moving while it is waited for.
    pub(super) async fn next<T>(&mut self, events: &mut Stream<T>, ui: &mut Ui) -> Option<Result<T>> {
        loop {
            tokio::select! {
                biased;
                () = self.frame() => self.draw(ui),
                event = events.next() => return event,
            }
        }
    }

    /// Makes a container, and shows meanwhile what is on its way of its image.
    pub(super) async fn create(flag: Flag, node: &Client, request: CreateRequest, ui: &mut Ui) -> Result<Created> {
        let what = format!("{}/{}", request.namespace, request.id);
        let mut events = node.create(request).await?;
        let mut progress = Self::new(flag, false, ui);
        let made = loop {
            match progress.next(&mut events, ui).await {
                Some(Ok(CreateEvent::Progress { transfer })) => progress.transferred(&transfer, ui),
                Some(Ok(CreateEvent::Created(created))) => break Ok(created),
                Some(Err(fault)) => break Err(fault),
                None => {
                    let message = format!("the node ended its report on container {what} early");
                    break Err(Fault::new(Class::Runtime, message).help("see `bayplan status`"));
                }
            }
        };
        ui.erase();
        made
    }

    /// Until the next drawing is due; for ever where nothing is drawn.
    async fn frame(&self) {
        if self.mode == Mode::Bars && !self.board.is_empty() {
            tokio::time::sleep_until(self.next.into()).await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    fn json(&self, event: &impl Serialize, ui: &mut Ui) {
        if let Ok(line) = render::json::line(event) {
            ui.message(&line);
        }
    }

    fn draw_if_due(&mut self, ui: &mut Ui) {
        if Instant::now() >= self.next {
            self.draw(ui);
        }
    }

    fn draw(&mut self, ui: &mut Ui) {
        self.board.tick(self.began.elapsed());
        let lines = self.board.lines(self.began.elapsed(), ui.size(), Paint(ui.colour_err));
        ui.draw(&lines);
        self.next = Instant::now() + FRAME;
    }
}
