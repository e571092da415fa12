//! The signals that a session takes instead of this process.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Class, Fault, Result};

/// What arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caught {
    /// A signal by its number, to be passed on.
    Signal(i32),
    /// The window has another size.
    Resized,
    /// This process is to stop, as `kill -TSTP` asks.
    Suspend,
    /// It goes on after a stop.
    Continued,
}

/// See the module. Those of the terminal are taken only while one is raw: else they have their usual meaning.
pub(super) struct Signals {
    passed_on: Vec<Signal>,
    numbers: Vec<i32>,
    terminal: Option<[Signal; 3]>,
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| Fault::new(Class::Runtime, format!("signals cannot be received: {error}")))
}

impl Signals {
    pub(super) fn new() -> Result<Self> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::alarm(),
        ];
        Ok(Self {
            passed_on: kinds.iter().map(|kind| listen(*kind)).collect::<Result<_>>()?,
            numbers: kinds.iter().map(SignalKind::as_raw_value).collect(),
            terminal: None,
        })
    }

    /// Takes those of the terminal as well.
    pub(super) fn of_terminal(&mut self) -> Result<()> {
        let suspend = SignalKind::from_raw(nix::sys::signal::Signal::SIGTSTP as i32);
        let continued = SignalKind::from_raw(nix::sys::signal::Signal::SIGCONT as i32);
        self.terminal = Some([listen(SignalKind::window_change())?, listen(suspend)?, listen(continued)?]);
        Ok(())
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Caught {
        std::future::poll_fn(|context| {
            for (signal, number) in self.passed_on.iter_mut().zip(&self.numbers) {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(Caught::Signal(*number));
                }
            }
            if let Some(signals) = &mut self.terminal {
                let meanings = [Caught::Resized, Caught::Suspend, Caught::Continued];
                for (signal, meaning) in signals.iter_mut().zip(meanings) {
                    if signal.poll_recv(context).is_ready() {
                        return std::task::Poll::Ready(meaning);
                    }
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
