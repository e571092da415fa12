//! Files of containers, out and in.

use bytes::Bytes;
use std::io::BufReader;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use tokio::runtime::Handle;

use crate::api::{Archive, Copied, CopyFromRequest, CopyIntoRequest, Stream, channel};
use crate::copy::{self, CopyError, Incoming, Mode, Options, Outgoing};
use crate::error::{Class, Fault, Result};
use crate::manifest::{Kind, ResourceKey};

use super::Node;

/// Chunks on their way to the reader.
const CHUNKS: usize = 4;

impl Node {
    pub(super) async fn copy_from(self: &Arc<Self>, request: CopyFromRequest) -> Result<Stream<Bytes>> {
        let id = (request.namespace, request.name);
        self.known(&id)?;
        let object = ResourceKey::new(Kind::Container, &id.0, &id.1).to_string();
        let (sender, stream) = channel(CHUNKS);
        let node = Arc::clone(self);
        tokio::spawn(async move {
            let (failed, handle) = (sender.clone(), Handle::current());
            let copied = node.engine.in_root(&id, move |root, patience| {
                copy::pack(root, request.path.as_bytes(), Outgoing::new(sender, handle, patience))
            });
            let fault = match copied.await {
                Ok(Ok(()) | Err(CopyError::Gone)) => return,
                Ok(Err(error)) => error.into_fault(Some(&object)),
                Err(fault) => fault,
            };
            let _ = failed.send(Err(fault)).await;
        });
        Ok(stream)
    }

    pub(super) async fn copy_into(
        self: &Arc<Self>,
        request: CopyIntoRequest,
        archive: Archive,
    ) -> Result<Stream<Copied>> {
        let id = (request.namespace, request.name);
        self.known(&id)?;
        let object = ResourceKey::new(Kind::Container, &id.0, &id.1).to_string();
        let bytes = match archive {
            Archive::Bytes(bytes) => bytes,
            Archive::Path(_) => return Err(Fault::new(Class::Usage, "a copy into a container is a stream")),
        };
        let handle = Handle::current();
        let options = Options {
            mode: if request.extract { Mode::Extract } else { Mode::Place },
            owners: request.owners,
            follow: true,
        };
        let copying = self.engine.in_root(&id, move |root, patience| {
            let mut incoming = Incoming::new(bytes, handle, patience);
            let unpacked = match crate::image::compression::reader(&mut incoming) {
                Ok(reader) => {
                    copy::unpack(root, request.path.as_bytes(), BufReader::with_capacity(256 << 10, reader), options)
                }
                Err(error) => Err(CopyError::Stream(error)),
            };
            unpacked.map_err(|error| incoming.fault().unwrap_or_else(|| error.into_fault(Some(&object))))
        });
        let report = copying.await??;
        let copied = Copied { entries: report.entries, bytes: report.bytes, skipped: report.skipped };
        Ok(stream::iter([Ok(copied)]).boxed())
    }
}
