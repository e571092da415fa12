//! ttrpc's framing: ten bytes of header (length, stream, type, flags; big-endian), then a protobuf.
//!
//! Bytes in, frames out, and back; no I/O. The `ttrpc` crate's server wants a thread per connection or
//! tokio, which is more memory than a whole shim may use, so only its message types are used here.

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::proto::{Code, Request, Response, Status};

/// Bytes of a frame's header.
pub const HEADER: usize = 10;
/// Most bytes of a frame's body, as every ttrpc implementation has it.
pub const MAX_BODY: usize = 4 << 20;
const REQUEST: u8 = 1;
/// The type of a frame that answers.
pub const RESPONSE: u8 = 2;

/// Why a request is refused: a status of gRPC's and a sentence.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// gRPC's status code; containerd's clients map it back to their own errors.
    pub code: Code,
    /// What, on which object, why.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// What a request is answered with: a payload, or a refusal.
pub type Answer = Result<Vec<u8>, Refusal>;

/// What stands at the beginning of a buffer.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// Not a whole frame yet.
    Incomplete,
    /// A request on `stream`; the frame takes `length` bytes of the buffer.
    Request {
        /// Stream that the answer goes to.
        stream: u32,
        /// Bytes to take from the buffer.
        length: usize,
    },
    /// A frame that means nothing to a server without streams; skip `length` bytes.
    Other {
        /// Bytes to take from the buffer.
        length: usize,
    },
    /// A body past [`MAX_BODY`]: skip header and body as they come.
    TooLong {
        /// Stream to refuse.
        stream: u32,
        /// Bytes of the body.
        body: usize,
    },
}

/// Looks at the beginning of `buffer`.
pub fn next(buffer: &[u8]) -> Next {
    let Some((header, rest)) = buffer.split_at_checked(HEADER) else { return Next::Incomplete };
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (body, stream, kind) = (word(0) as usize, word(4), header[8]);
    if body > MAX_BODY {
        return Next::TooLong { stream, body };
    }
    if rest.len() < body {
        return Next::Incomplete;
    }
    let length = HEADER + body;
    if kind == REQUEST { Next::Request { stream, length } } else { Next::Other { length } }
}

/// Decodes a request's body.
pub fn request(body: &[u8]) -> Result<Request, Refusal> {
    Request::parse_from_bytes(body)
        .map_err(|error| Refusal::new(Code::INVALID_ARGUMENT, format!("the request is not a ttrpc request: {error}")))
}

/// Appends the response frame for `answer` to `out`.
pub fn respond(out: &mut Vec<u8>, stream: u32, answer: Answer) {
    let mut response = Response::new();
    match answer {
        Ok(payload) => response.payload = payload,
        Err(refusal) => {
            let mut status = Status::new();
            status.set_code(refusal.code);
            status.message = refusal.message;
            response.set_status(status);
        }
    }
    frame(out, stream, RESPONSE, &response);
}

/// Appends the frame of a request to somebody else's service to `out`; they have `patience` to answer.
pub fn call(
    out: &mut Vec<u8>,
    stream: u32,
    service: &str,
    method: &str,
    payload: &impl Message,
    patience: std::time::Duration,
) {
    let mut request = Request::new();
    request.service = service.to_owned();
    request.method = method.to_owned();
    request.payload = payload.write_to_bytes().unwrap_or_default();
    request.timeout_nano = i64::try_from(patience.as_nanos()).unwrap_or(0);
    frame(out, stream, REQUEST, &request);
}

fn frame(out: &mut Vec<u8>, stream: u32, kind: u8, body: &impl Message) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    // Writing to memory fails only past 2 GiB; an empty body then reads as an empty answer.
    let _ = body.write_to_vec(out);
    let length = u32::try_from(out.len() - start - HEADER).unwrap_or(0);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    out[start + 4..start + 8].copy_from_slice(&stream.to_be_bytes());
    out[start + 8] = kind;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: u8, stream: u32, body: &[u8]) -> Vec<u8> {
        let mut out = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        out.extend_from_slice(&stream.to_be_bytes());
        out.extend_from_slice(&[kind, 0]);
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn a_frame_is_seen_when_its_last_byte_is_there_and_not_before() {
        let whole = bytes(REQUEST, 7, b"hello");
        for cut in 0..whole.len() {
            assert_eq!(next(&whole[..cut]), Next::Incomplete, "{cut}");
        }
        assert_eq!(next(&whole), Next::Request { stream: 7, length: 15 });
        assert_eq!(next(&bytes(3, 7, b"data")), Next::Other { length: 14 });
    }

    #[test]
    fn a_length_past_four_mebibytes_is_known_from_the_header_alone() {
        let mut header = bytes(REQUEST, 9, b"");
        header[..4].copy_from_slice(&(64u32 << 20).to_be_bytes());
        assert_eq!(next(&header), Next::TooLong { stream: 9, body: 64 << 20 });
    }

    #[test]
    fn an_answer_reads_back() {
        let mut out = Vec::new();
        respond(&mut out, 3, Err(Refusal::new(Code::NOT_FOUND, "no task x")));
        assert_eq!(&out[4..10], &[0, 0, 0, 3, RESPONSE, 0]);
        let response = Response::parse_from_bytes(&out[HEADER..]).unwrap();
        assert_eq!(response.status().code(), Code::NOT_FOUND);
        assert_eq!(response.status().message, "no task x");
    }
}
