//! How far images are, while a verb waits for them: bars on a terminal, plain lines or JSON elsewhere.
//!
//! [`board`] is pure: moves of blobs in, lines out, by a time that it is given. This file decides which way is
//! shown and when; [`Ui`] keeps the bars at the foot of the terminal and out of the way of everything else. All
//! of it goes to the message stream, never among the data.

mod board;

use std::time::{Duration, Instant};

use clap::ValueEnum;
use futures_util::StreamExt as _;

use super::render::{self, Paint};
use super::ui::Ui;
use crate::api::{Client, CreateRequest, Created, ProgressRequest, Service as _, Stream, Transfer};
use crate::error::Result;
use crate::manifest::ResourceKey;

use board::Board;

/// Between two drawings.
const FRAME: Duration = Duration::from_millis(100);
/// What is done sooner is not asked how far it is.
const PATIENCE: Duration = Duration::from_millis(150);

/// The flag.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Flag {
    /// How the progress of images is shown, on standard error
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub progress: How,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum How {
    /// Bars on a terminal, else plain lines.
    #[default]
    Auto,
    /// One line for each blob that is here.
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

    /// A blob moved on.
    pub(super) fn hear(&mut self, transfer: &Transfer, ui: &mut Ui) {
        if self.mode == Mode::None {
            return;
        }
        if self.mode == Mode::Json {
            if let Ok(line) = render::json::line(transfer) {
                ui.message(&line);
            }
            return;
        }
        let finished = self.board.hear(transfer, self.began.elapsed());
        match self.mode {
            Mode::Bars if Instant::now() >= self.next => self.draw(ui),
            Mode::Plain => {
                if let Some(line) = finished {
                    ui.note(line);
                }
            }
            _ => {}
        }
    }

    /// An image is here, or will not come: nothing of it is shown any more.
    pub(super) fn ended(&mut self, image: &ResourceKey, ui: &mut Ui) {
        if self.board.end(image) && self.mode == Mode::Bars {
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
        let asked =
            ProgressRequest { namespace: Some(request.namespace.clone()), reference: Some(request.spec.image.clone()) };
        Self::new(flag, false, ui).during(node.create(request), node.progress(asked), ui).await
    }

    /// Shows what is on its way until `work` is done. `transfers` is asked for only if that takes a while.
    async fn during<T>(
        &mut self,
        work: impl Future<Output = T>,
        transfers: impl Future<Output = Result<Stream<Transfer>>>,
        ui: &mut Ui,
    ) -> T {
        tokio::pin!(work);
        if self.mode != Mode::None {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(PATIENCE) => {}
            }
            tokio::pin!(transfers);
            let asked = tokio::select! {
                done = &mut work => return done,
                // Who cannot tell is not asked again; the work goes on.
                asked = &mut transfers => asked.ok(),
            };
            if let Some(mut moves) = asked {
                loop {
                    tokio::select! {
                        done = &mut work => {
                            ui.erase();
                            return done;
                        }
                        moved = self.next(&mut moves, ui) => match moved {
                            Some(Ok(transfer)) => self.hear(&transfer, ui),
                            Some(Err(_)) | None => break,
                        },
                    }
                }
            }
        }
        let done = work.await;
        ui.erase();
        done
    }

    /// Until the next drawing is due; for ever where nothing is drawn.
    async fn frame(&self) {
        if self.mode == Mode::Bars && !self.board.is_empty() {
            tokio::time::sleep_until(self.next.into()).await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    fn draw(&mut self, ui: &mut Ui) {
        self.board.tick(self.began.elapsed());
        let lines = self.board.lines(self.began.elapsed(), ui.size(), Paint(ui.colour_err));
        ui.draw(&lines);
        self.next = Instant::now() + FRAME;
    }
}
