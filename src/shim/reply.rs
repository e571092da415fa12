//! Small pieces that answers are made of, shared by the container's process and those that are added to it.

use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp as ProtoTime;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::ttrpc::proto::Code;
use jiff::Timestamp;
use rustix::process::{Signal, WaitStatus};

use super::stdio::Streaming;
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
    let small = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    match stdio.resize(small(width), small(height)) {
        Ok(true) => Ok(Vec::new()),
        Ok(false) => Err(precondition(format!("{name} has no terminal"))),
        Err(error) => Err(Refusal::new(Code::INTERNAL, format!("size of the terminal of {name}: {error}"))),
    }
}
