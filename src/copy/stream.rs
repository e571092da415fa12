//! The two ends of a stream on a thread that may wait: bytes that come, and bytes that go.

use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::stream::{BoxStream, StreamExt as _};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::error::{Fault, Result};

/// Bytes as they come; waits for them on its own thread, which must be none of the runtime's.
pub struct Incoming {
    stream: BoxStream<'static, Result<Bytes>>,
    chunk: Bytes,
    handle: Handle,
    patience: Option<Duration>,
    fault: Option<Fault>,
}

impl Incoming {
    /// `patience` is how long nothing may come; `None` waits.
    pub fn new(stream: BoxStream<'static, Result<Bytes>>, handle: Handle, patience: Option<Duration>) -> Self {
        Self { stream, chunk: Bytes::new(), handle, patience, fault: None }
    }

    /// The fault that ended the stream: what it means for who read it says less.
    pub fn fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            let next = self.stream.next();
            let next = match self.patience {
                None => self.handle.block_on(next),
                Some(patience) => self
                    .handle
                    .block_on(async { tokio::time::timeout(patience, next).await })
                    .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, late(patience)))?,
            };
            match next {
                None => return Ok(0),
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(fault)) => {
                    let error = io::Error::other(fault.message.clone());
                    self.fault = Some(fault);
                    return Err(error);
                }
            }
        }
        let count = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Bytes that go, a chunk for each write.
pub struct Outgoing {
    sender: mpsc::Sender<Result<Bytes>>,
    handle: Handle,
    patience: Option<Duration>,
}

impl Outgoing {
    /// `patience` is how long nobody may take any; `None` waits.
    pub fn new(sender: mpsc::Sender<Result<Bytes>>, handle: Handle, patience: Option<Duration>) -> Self {
        Self { sender, handle, patience }
    }
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let sending = self.sender.send(Ok(Bytes::copy_from_slice(bytes)));
        match self.patience {
            None => self.handle.block_on(sending).map_err(|_| gone())?,
            Some(patience) => self
                .handle
                .block_on(async { tokio::time::timeout(patience, sending).await })
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, late(patience)))?
                .map_err(|_| gone())?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn late(patience: Duration) -> String {
    format!("nothing moved for {} s", patience.as_secs())
}
