//! Small pieces that answers are made of, shared by the container's process and those that are added to it.

use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp as ProtoTime;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::ttrpc::proto::Code;
use jiff::Timestamp;
use rustix::process::{Signal, WaitStatus};

use super::poll::Poll;
use super::protocol::{AttachRequest, AttachResponse};
use super::stdio::{Streaming, Wanted};
use super::wire::{Answer, Refusal};

/// A message as an answer.
pub fn encode(message: &impl Message) -> Answer {
    message.write_to_bytes().map_err(|error| Refusal::new(Code::INTERNAL, format!("the answer: {error}")))
}

/// A time as containerd's messages have it.
pub fn proto_time(at: Timestamp) -> MessageField<ProtoTime> {
    let (seconds, nanos) = (at.as_second(), at.subsec_nanosecond());
    MessageField::some(ProtoTime { seconds, nanos, ..Default::default() })
}

/// It is not where it would have to be for that.
pub fn precondition(message: String) -> Refusal {
    Refusal::new(Code::FAILED_PRECONDITION, message)
}

/// The exit status as a shell has it: 128 + N for signal N.
pub fn exit_code(status: WaitStatus) -> u32 {
    let signal = status.terminating_signal();
    signal.map_or_else(|| status.exit_status().unwrap_or(255), |signal| 128 + signal).unsigned_abs()
}

/// A signal by number, real-time ones included.
pub fn signal(number: u32) -> Result<Signal, Refusal> {
    let number = i32::try_from(number).unwrap_or(0);
    let real_time = || {
        let known = (nix::libc::SIGRTMIN()..=nix::libc::SIGRTMAX()).contains(&number);
        #[allow(
            unsafe_code,
            reason = "rustix keeps libc's own real-time signals out of reach; this one is between libc's limits"
        )]
        known.then(|| unsafe { Signal::from_raw_unchecked(number) })
    };
    Signal::from_named_raw(number).or_else(real_time).ok_or_else(|| {
        Refusal::new(
            Code::INVALID_ARGUMENT,
            format!("signal {number} does not exist; use 1 to {}", nix::libc::SIGRTMAX()),
        )
    })
}

/// Gives `name`'s terminal another size, in characters.
pub fn resize(stdio: &mut Streaming, name: &str, width: u32, height: u32) -> Answer {
    match stdio.resize(width, height) {
        Ok(()) => Ok(Vec::new()),
        Err(message) => Err(precondition(format!("{name}: {message}"))),
    }
}

/// Attaches a client to `name`'s streams.
pub fn attach(stdio: &mut Streaming, name: &str, terminal: bool, request: &AttachRequest, poll: &mut Poll) -> Answer {
    let AttachRequest { stdin, stdout, stderr, .. } = request.clone();
    let client = Wanted { stdin, stdout, stderr, ..Default::default() };
    stdio.attach(&client, poll).map_err(|message| precondition(format!("{name}: {message}")))?;
    let answer = AttachResponse { terminal, stdin: stdio.takes_input() };
    serde_json::to_vec(&answer).map_err(|error| Refusal::new(Code::INTERNAL, format!("{name}: {error}")))
}
