//! Blobs by hand: listed with who needs them, read, taken away.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::api::{BlobInfo, BlobRequest, RemoveBlobRequest, RemovedBlob, Stream, channel};
use crate::error::{Class, Fault, Result};
use crate::image::ImageError;
use crate::oci::{Digest, DigestPrefix};

use super::Node;
use super::image_details::blocking;

/// Bytes of a blob that is read, handed on at once.
const CHUNK: usize = 256 << 10;

impl Node {
    pub(super) async fn blob_infos(self: &Arc<Self>) -> Result<Vec<BlobInfo>> {
        let node = Arc::clone(self);
        blocking("the list of blobs", move || {
            let store = node.engine.images().store();
            let mut users: HashMap<Digest, BTreeSet<String>> = HashMap::new();
            for (target, name) in node.named_targets() {
                for digest in node.engine.images().reachable(&HashSet::from([target]), &mut Vec::new()) {
                    users.entry(digest).or_default().insert(name.clone());
                }
            }
            let mut digests = store.digests()?;
            digests.sort();
            let info = |digest: Digest| BlobInfo {
                size: store.size(&digest).unwrap_or_default(),
                touched: store.modified(&digest).and_then(|time| time.try_into().ok()),
                used_by: users.remove(&digest).unwrap_or_default().into_iter().collect(),
                digest,
            };
            Ok(digests.into_iter().map(info).collect())
        })
        .await
    }

    /// The bytes of a blob. Bytes that turn out not to be the blob's are told at their end.
    pub(super) async fn read_blob(self: &Arc<Self>, request: BlobRequest) -> Result<Stream<Bytes>> {
        let node = Arc::clone(self);
        let (digest, file) = blocking("reading a blob", move || {
            let digest = node.blob_named(&request.digest)?;
            let file = node.engine.images().store().open_blob(&digest)?;
            Ok((digest, file))
        })
        .await?;
        let (sender, stream) = channel(4);
        tokio::task::spawn_blocking(move || {
            if let Err(fault) = send(&digest, file, &sender) {
                let _ = sender.blocking_send(Err(fault));
            }
        });
        Ok(stream)
    }

    /// Takes a blob away. One that something needs only when forced, one that work under way wants never.
    pub(super) async fn remove_blob(self: &Arc<Self>, request: RemoveBlobRequest) -> Result<RemovedBlob> {
        let node = Arc::clone(self);
        blocking("removing a blob", move || {
            let digest = node.blob_named(&request.digest)?;
            let needed_by = node.needs_blob(&digest);
            if !needed_by.is_empty() && !request.force {
                let message = format!("blob {digest} is needed by {}", needed_by.join(", "));
                return Err(
                    Fault::new(Class::Refused, message).help("remove what needs it first, or use content rm -f")
                );
            }
            let size = node.engine.remove_blob(&digest)?;
            node.wake.notify_one();
            Ok(RemovedBlob { digest, size, needed_by })
        })
        .await
    }

    /// Images and containers that reach a blob, as people name them.
    fn needs_blob(&self, digest: &Digest) -> Vec<String> {
        let containers: Vec<(Digest, String)> = {
            let records = self.engine.memory().read();
            let name = |(namespace, name): &(String, String)| format!("container {namespace}/{name}");
            records.containers.iter().map(|(key, record)| (record.image.clone(), name(key))).collect()
        };
        let reaches = |target: &Digest| {
            self.engine.images().reachable(&HashSet::from([target.clone()]), &mut Vec::new()).contains(digest)
        };
        let all = self.named_targets().into_iter().chain(containers);
        all.filter(|(target, _)| reaches(target)).map(|(_, name)| name).collect()
    }

    /// What every reference points at, with its name.
    fn named_targets(&self) -> Vec<(Digest, String)> {
        let records = self.engine.memory().read();
        let name = |(namespace, reference): &(String, crate::oci::Reference)| format!("{namespace}/{reference}");
        records.references.iter().map(|(key, record)| (record.digest.clone(), name(key))).collect()
    }

    /// The one blob that a text means.
    fn blob_named(&self, text: &str) -> Result<Digest> {
        let store = self.engine.images().store();
        let wrong = |error: crate::oci::DigestPrefixError| {
            Fault::new(Class::Usage, error.to_string()).help("bayplan content ls -o wide lists digests in full")
        };
        let prefix: DigestPrefix = text.parse().map_err(wrong)?;
        prefix.pick(store.digests()?).map_err(wrong)?.ok_or_else(|| {
            Fault::new(Class::NotFound, format!("blob {text} is not in the store"))
                .help("bayplan content ls lists what is; content fetch REFERENCE brings an image's")
        })
    }
}

/// Reads to the end, or until nobody listens.
fn send(digest: &Digest, mut file: std::fs::File, to: &mpsc::Sender<Result<Bytes>>) -> Result<()> {
    let failed = |error| ImageError::io(format!("read blob {digest}"), error);
    let mut hasher = Sha256::new();
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        file.by_ref().take(CHUNK as u64).read_to_end(&mut chunk).map_err(failed)?;
        if chunk.is_empty() {
            break;
        }
        hasher.update(&chunk);
        if to.blocking_send(Ok(chunk.into())).is_err() {
            return Ok(());
        }
    }
    let actual = Digest::from_sha256(&hasher.finalize());
    if actual != *digest {
        return Err(Fault::new(Class::No, format!("blob {digest} is corrupt: its digest is {actual}"))
            .help("bayplan image check --repair fetches it again"));
    }
    Ok(())
}
