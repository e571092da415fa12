//! One client's connection: bytes in both directions, bounded. A client that says nothing, says half, or does not
//! listen costs its buffer and nothing else.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use super::poll::Poll;
use super::stdio::write_some;
use super::wire::{self, Answer, HEADER, MAX_BODY, Next, Refusal};
use containerd_shim_protos::ttrpc::proto::{Code, Request};

/// A client that lets this much wait for it is cut off.
const MAX_OUTPUT: usize = 8 << 20;
/// Requests of one client that may be unanswered.
const MAX_PENDING: usize = 256;
/// Read per turn, so that one client cannot keep the loop for itself.
const PER_TURN: usize = 1 << 20;

/// See the module.
pub struct Connection {
    fd: OwnedFd,
    /// Its token, and its name in [`super::server::ReplyTo`].
    pub token: u64,
    input: Vec<u8>,
    /// Bytes of an oversized frame that are still to be thrown away.
    skip: usize,
    output: Vec<u8>,
    waiting_to_write: bool,
    /// Requests not answered yet.
    pub pending: usize,
    /// When it last said something.
    pub last_heard: Instant,
    /// Whether it ever asked for something: a crowd that does not pushes out none that did.
    pub asked: bool,
}

/// What a connection brought.
pub struct Heard {
    /// Requests, each with its stream; refusals were answered already.
    pub requests: Vec<(u32, Request)>,
    /// Whether its end came after them.
    pub closed: bool,
}

impl Connection {
    /// Takes an accepted socket over.
    pub fn new(fd: OwnedFd, now: Instant, poll: &mut Poll) -> rustix::io::Result<Self> {
        let token = poll.add(&fd, EventFlags::IN)?;
        let (input, output) = (Vec::new(), Vec::new());
        Ok(Self {
            fd,
            token,
            input,
            skip: 0,
            output,
            waiting_to_write: false,
            pending: 0,
            last_heard: now,
            asked: false,
        })
    }

    /// Reads what there is.
    pub fn hear(&mut self, now: Instant, poll: &mut Poll) -> Heard {
        let mut requests = Vec::new();
        let (mut total, mut closed) = (0, false);
        while total < PER_TURN {
            match poll.read(&self.fd) {
                Ok(length @ 1..) => {
                    total += length;
                    self.last_heard = now;
                    let skipped = self.skip.min(length);
                    self.skip -= skipped;
                    self.input.extend_from_slice(&poll.chunk[skipped..]);
                    self.split(&mut requests);
                }
                Err(Errno::AGAIN) => break,
                Ok(_) | Err(_) => {
                    closed = true;
                    break;
                }
            }
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Heard { requests, closed }
    }

    fn split(&mut self, requests: &mut Vec<(u32, Request)>) {
        let mut at = 0;
        loop {
            match wire::next(&self.input[at..]) {
                Next::Incomplete => break,
                Next::Other { length } => at += length,
                Next::Request { stream, length } => {
                    let body = &self.input[at + HEADER..at + length];
                    at += length;
                    self.pending += 1;
                    let busy =
                        || Refusal::new(Code::RESOURCE_EXHAUSTED, "too many unanswered requests on one connection");
                    match wire::request(body) {
                        _ if self.pending > MAX_PENDING => self.say(stream, Err(busy())),
                        Ok(request) => {
                            self.asked = true;
                            requests.push((stream, request));
                        }
                        Err(refusal) => self.say(stream, Err(refusal)),
                    }
                }
                Next::TooLong { stream, body } => {
                    let message = format!("message length {body} exceed maximum message size of {MAX_BODY}");
                    self.pending += 1;
                    self.say(stream, Err(Refusal::new(Code::RESOURCE_EXHAUSTED, message)));
                    let here = self.input.len() - at - HEADER;
                    let skipped = here.min(body);
                    self.skip = body - skipped;
                    at += HEADER + skipped;
                }
            }
        }
        self.input.drain(..at);
    }

    /// Queues an answer.
    pub fn say(&mut self, stream: u32, answer: Answer) {
        self.pending = self.pending.saturating_sub(1);
        wire::respond(&mut self.output, stream, answer);
    }

    /// Writes what the client takes; false if it has to be cut off.
    pub fn flush(&mut self, poll: &Poll) -> bool {
        if self.output.is_empty() {
            return true;
        }
        let Ok(done) = write_some(&self.fd, &self.output) else { return false };
        self.output.drain(..done);
        let waiting = !self.output.is_empty();
        if !waiting {
            self.output = Vec::new();
        }
        if waiting != self.waiting_to_write {
            self.waiting_to_write = waiting;
            let flags = if waiting { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            if poll.modify(&self.fd, self.token, flags).is_err() {
                return false;
            }
        }
        self.output.len() <= MAX_OUTPUT
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
