//! Follows one task and carries its restart policy out, as our own shim does: one long `Wait`, one clock while it backs
//! off. It ends when its shim dies, or when nobody holds its handle any more; the task is not disturbed by that.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::OptionFuture;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use super::task::{Seen, Wish};
use super::{ForeignShim, clear, finish, press};
use crate::runtime::{Bundle, ExitRecord, RuntimeError, ShimClient, TaskInfo, TaskStatus};
use crate::shim::protocol::{Exit, Supervision, TaskPhase, TaskState};
use crate::shim::record;
use crate::shim::restart::{History, Verdict, Why, after_exit, is_wanted};

/// Between two SIGKILLs to a container that does not end.
const AGAIN: Duration = Duration::from_millis(100);
const SIGKILL: i32 = 9;

/// See the module.
pub(super) struct Supervisor {
    bundle: Bundle,
    shim: ForeignShim,
    supervision: Supervision,
    state: TaskState,
    client: Option<ShimClient>,
    next_start: Option<Instant>,
    stop: Option<Stop>,
    // Until it is opened, nobody sees it.
    seen: Option<watch::Sender<Seen>>,
    wishes: Option<mpsc::Receiver<Wish>>,
}

/// Somebody asked for the end.
struct Stop {
    /// When SIGKILL is due (again).
    deadline: Instant,
    replies: Vec<oneshot::Sender<TaskState>>,
}

/// What comes next.
enum Next {
    /// Whatever the state says.
    Goes,
    /// The shim is dead, or nobody listens.
    Ends,
}

impl Supervisor {
    pub(super) fn new(bundle: &Bundle, shim: ForeignShim, supervision: Supervision, state: TaskState) -> Self {
        let left = |at: Timestamp| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
        let next_start = state.next_start.map(|at| Instant::now() + left(at));
        let bundle = bundle.clone();
        Self { bundle, shim, supervision, state, client: None, next_start, stop: None, seen: None, wishes: None }
    }

    /// Whether the next attempt was counted and had not begun to run when the state was written.
    pub(super) fn is_restarting(&self) -> bool {
        self.state.phase == TaskPhase::BackOff && self.state.next_start.is_none()
    }

    /// Lets others look and ask.
    pub(super) fn open(&mut self) -> (watch::Receiver<Seen>, mpsc::Sender<Wish>) {
        let (seen, look) = watch::channel(Seen { state: self.state.clone(), client: self.client.clone() });
        let (ask, wishes) = mpsc::channel(16);
        (self.seen, self.wishes) = (Some(seen), Some(wishes));
        (look, ask)
    }

    /// The process of this attempt was let go.
    pub(super) fn runs(&mut self, client: ShimClient) {
        self.client = Some(client);
        self.state.phase = TaskPhase::Running;
        self.state.started = Some(Timestamp::now());
        self.state.next_start = None;
        self.state.reason = None;
        self.transition(false);
    }

    /// The same, found out after a crash between its start and its record.
    pub(super) fn runs_as(&mut self, client: ShimClient, pid: u32) {
        self.state.pid = Some(pid);
        self.runs(client);
    }

    /// It is as its state says.
    pub(super) fn goes_on(&mut self, client: ShimClient, info: &TaskInfo) {
        self.client = Some(client);
        let paused = info.status == TaskStatus::Paused;
        if self.state.paused != paused {
            self.state.paused = paused;
            self.transition(false);
        }
    }

    /// What a crash left of an attempt goes; the attempt is made once more, at once.
    pub(super) async fn begins_again(&mut self, path: &Path) -> Result<(), RuntimeError> {
        clear(path).await?;
        self.next_start = Some(Instant::now());
        Ok(())
    }

    /// Writes the state down. `durable`: it survives a power failure once this returns.
    pub(super) fn keep(&mut self, durable: bool) {
        self.state.seq += 1;
        if let Err(error) = record::save(self.bundle.path(), &self.state, durable) {
            tracing::warn!(%error, "the state of a task could not be written");
        }
    }

    /// Writes the state down, then tells who waits for it.
    fn transition(&mut self, durable: bool) {
        self.keep(durable);
        if let Some(seen) = &self.seen {
            seen.send_replace(Seen { state: self.state.clone(), client: self.client.clone() });
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let next = match self.state.phase {
                TaskPhase::Created | TaskPhase::Running => self.running().await,
                TaskPhase::BackOff | TaskPhase::Failed if self.next_start.is_some() => self.resting().await,
                _ => self.ended().await,
            };
            if matches!(next, Next::Ends) {
                return;
            }
        }
    }

    async fn wish(wishes: &mut Option<mpsc::Receiver<Wish>>) -> Option<Wish> {
        match wishes {
            Some(wishes) => wishes.recv().await,
            None => None,
        }
    }

    /// While its process lives.
    async fn running(&mut self) -> Next {
        let Some(client) = self.client.clone() else { return Next::Ends };
        let exit = client.wait();
        tokio::pin!(exit);
        loop {
            let due = self.stop.as_ref().map(|stop| tokio::time::sleep_until(stop.deadline.into()));
            tokio::select! {
                exit = &mut exit => match exit {
                    Ok(exit) => {
                        self.exited(Some(exit)).await;
                        return Next::Goes;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "wait");
                        return Next::Ends;
                    }
                },
                wish = Self::wish(&mut self.wishes) => match wish {
                    None => return Next::Ends,
                    Some(Wish::Reload(reply)) => drop(reply.send(self.reload())),
                    Some(Wish::Freeze(freeze, reply)) => drop(reply.send(self.freeze(&client, freeze).await)),
                    Some(Wish::Stop(signal, grace, reply)) => {
                        if self.asked_to_stop(&client, signal, grace, reply).await.is_err_and(|error| error.is_late()) {
                            return Next::Ends;
                        }
                    }
                },
                Some(()) = OptionFuture::from(due) => {
                    if press(&client).await.is_err_and(|error| error.is_late()) {
                        return Next::Ends;
                    }
                    if let Some(stop) = &mut self.stop {
                        stop.deadline = Instant::now() + AGAIN;
                    }
                }
            }
        }
    }

    async fn asked_to_stop(
        &mut self,
        client: &ShimClient,
        signal: i32,
        grace: Duration,
        reply: oneshot::Sender<TaskState>,
    ) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + grace;
        if let Some(stop) = &mut self.stop {
            // Asked again: the more impatient one counts.
            stop.deadline = stop.deadline.min(deadline);
            stop.replies.push(reply);
            return Ok(());
        }
        self.state.stop_requested = true;
        self.state.reason = Some("a stop was asked for".to_owned());
        // On the disk before the first signal.
        self.transition(true);
        let made_only = self.state.phase == TaskPhase::Created;
        let deadline = if made_only { Instant::now() } else { deadline };
        self.stop = Some(Stop { deadline, replies: vec![reply] });
        if made_only || grace.is_zero() {
            return Ok(());
        }
        match client.kill(signal, false).await {
            Err(error) if error.is_late() => Err(error),
            _ => Ok(()),
        }
    }

    /// Its process ended: written down, told, and only then taken away.
    pub(super) async fn exited(&mut self, exit: Option<ExitRecord>) {
        let exit = exit.unwrap_or(ExitRecord { code: 255, at: None });
        let code = exit.code;
        self.state.oom_kills = self.shim.oom_kills();
        let oom_killed = code == 137 && self.state.oom_kills > 0;
        let signal = oom_killed.then_some(SIGKILL);
        self.state.ended(Exit { code, signal, oom_killed, at: exit.at.unwrap_or_else(Timestamp::now) });
        self.state.pid = None;
        self.state.paused = false;
        let how = if oom_killed {
            "killed by the kernel at its memory limit".to_owned()
        } else {
            format!("exited with status {code}")
        };
        let ran = self.state.started.map(|at| {
            let ran = self.state.exit.as_ref().map_or_else(Timestamp::now, |exit| exit.at).duration_since(at);
            Duration::try_from(ran).unwrap_or_default()
        });
        (self.state.phase, self.state.reason) = match self.judge(code, ran) {
            _ if self.state.stop_requested => (TaskPhase::Stopped, Some(format!("{how}, as was asked for"))),
            Ok(()) => (TaskPhase::BackOff, Some(how)),
            Err(Why::Limit) => (TaskPhase::Exited, Some(format!("{how}; the limit of restarts is reached"))),
            Err(Why::Policy) => (TaskPhase::Exited, Some(how)),
        };
        let client = self.client.take();
        self.transition(true);
        if let Some(client) = client {
            finish(self.bundle.path(), &self.shim, &client).await;
        }
        self.answer();
    }

    fn answer(&mut self) {
        for reply in self.stop.take().map(|stop| stop.replies).unwrap_or_default() {
            let _ = reply.send(self.state.clone());
        }
    }

    /// Asks the policy and keeps its answer; `ran` is how long the attempt did.
    fn judge(&mut self, code: u32, ran: Option<Duration>) -> Result<(), Why> {
        (self.next_start, self.state.next_start) = (None, None);
        if self.state.stop_requested {
            return Err(Why::Policy);
        }
        let now = Instant::now();
        let started = ran.and_then(|ran| now.checked_sub(ran));
        let history = History { in_a_row: self.shim.in_a_row, started };
        match after_exit(&self.supervision.restart, &history, code, now) {
            Verdict::Restart { at, in_a_row } => {
                self.shim.in_a_row = in_a_row;
                if let Err(error) = self.shim.write(self.bundle.path()) {
                    tracing::warn!(%error, "the count of restarts in a row could not be written");
                }
                self.next_start = Some(at);
                self.state.next_start = Timestamp::now().checked_add(at.saturating_duration_since(now)).ok();
                Ok(())
            }
            Verdict::Stay(why) => Err(why),
        }
    }

    /// Until the next attempt.
    async fn resting(&mut self) -> Next {
        let Some(at) = self.next_start else { return Next::Goes };
        tokio::select! {
            () = tokio::time::sleep_until(at.into()) => self.restart().await,
            wish = Self::wish(&mut self.wishes) => match wish {
                None => return Next::Ends,
                Some(Wish::Reload(reply)) => drop(reply.send(self.reload())),
                Some(Wish::Freeze(_, reply)) => drop(reply.send(Err(self.not_running()))),
                Some(Wish::Stop(_, _, reply)) => self.stopped(reply),
            },
        }
        Next::Goes
    }

    /// Nothing of it lives, and nothing is to come.
    fn stopped(&mut self, reply: oneshot::Sender<TaskState>) {
        (self.next_start, self.state.next_start) = (None, None);
        self.state.phase = TaskPhase::Stopped;
        self.state.stop_requested = true;
        self.state.reason = Some("a stop was asked for".to_owned());
        self.transition(true);
        let _ = reply.send(self.state.clone());
    }

    async fn restart(&mut self) {
        let counted = self.is_restarting();
        (self.next_start, self.state.next_start) = (None, None);
        self.state.phase = TaskPhase::BackOff;
        self.state.oom_kills = 0;
        if !counted {
            self.state.restarts = self.state.restarts.saturating_add(1);
            self.state.attempt = self.state.attempt.saturating_add(1);
        }
        self.keep(false);
        let path = self.bundle.path().to_owned();
        let attempt = self.state.attempt;
        let making = {
            let (shim, supervision, path) = (self.shim.clone(), self.supervision.clone(), path.clone());
            async move { shim.make(&path, &supervision, attempt).await }
        };
        tokio::pin!(making);
        loop {
            let made = tokio::select! {
                made = &mut making => made,
                wish = Self::wish(&mut self.wishes) => match wish {
                    // Whoever comes next finds what was begun.
                    None => return,
                    Some(Wish::Reload(reply)) => {
                        drop(reply.send(self.reload()));
                        continue;
                    }
                    Some(Wish::Freeze(_, reply)) => {
                        drop(reply.send(Err(self.not_running())));
                        continue;
                    }
                    Some(Wish::Stop(_, _, reply)) => {
                        self.give_up(&path).await;
                        return self.stopped(reply);
                    }
                },
            };
            match made {
                Ok((client, shim_pid, pid)) => {
                    self.state.shim_pid = shim_pid;
                    self.runs_as(client, pid);
                }
                Err(error) => {
                    self.give_up(&path).await;
                    let message = error.to_string();
                    let verdict = self.judge(1, None);
                    self.state.phase = TaskPhase::Failed;
                    self.state.reason = Some(match verdict {
                        Err(Why::Limit) => format!("{message}; the limit of restarts is reached"),
                        _ => message,
                    });
                    self.transition(true);
                }
            }
            return;
        }
    }

    async fn give_up(&self, path: &Path) {
        if let Err(error) = clear(path).await {
            tracing::warn!(%error, "what a failed restart left");
        }
    }

    /// At its end for good.
    async fn ended(&mut self) -> Next {
        match Self::wish(&mut self.wishes).await {
            None => return Next::Ends,
            Some(Wish::Reload(reply)) => drop(reply.send(self.reload())),
            Some(Wish::Freeze(_, reply)) => drop(reply.send(Err(self.not_running()))),
            Some(Wish::Stop(_, _, reply)) => drop(reply.send(self.state.clone())),
        }
        Next::Goes
    }

    async fn freeze(&mut self, client: &ShimClient, freeze: bool) -> Result<(), RuntimeError> {
        if freeze {
            client.pause().await?
        } else {
            client.resume().await?
        }
        if self.state.paused != freeze {
            self.state.paused = freeze;
            self.transition(false);
        }
        Ok(())
    }

    fn not_running(&self) -> RuntimeError {
        RuntimeError::Refused {
            object: format!("{}/{}", self.bundle.namespace(), self.bundle.id()),
            call: "Pause",
            code: ttrpc::Code::FAILED_PRECONDITION,
            message: "it does not run".to_owned(),
        }
    }

    fn reload(&mut self) -> Result<(), RuntimeError> {
        if let Some(supervision) = self.bundle.read_supervision()? {
            self.supervision = supervision;
            self.reconsider();
        }
        Ok(())
    }

    /// A restart that waits for its time is not for a policy that wants none.
    fn reconsider(&mut self) {
        let code = self.state.exit.as_ref().map_or(1, |exit| exit.code);
        if self.next_start.is_none() || is_wanted(self.supervision.restart.policy, code) {
            return;
        }
        (self.next_start, self.state.next_start) = (None, None);
        if self.state.phase == TaskPhase::BackOff {
            self.state.phase = TaskPhase::Exited;
        }
        self.transition(true);
    }
}
