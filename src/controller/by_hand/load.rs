//! Images loaded from an archive, of a path here or of bytes that a client sends.

use std::sync::Arc;

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use crate::api::{Archive, LoadRequest, LoadedImage};
use crate::controller::Node;
use crate::error::{Class, Fault, Result};
use crate::manifest::PullPolicy;
use crate::store::DeclaredRecord;

use super::{by_hand, image_resource};

impl Node {
    pub(in crate::controller) async fn load(
        self: &Arc<Self>,
        request: LoadRequest,
        archive: Archive,
    ) -> Result<Vec<LoadedImage>> {
        let (path, spooled) = match archive {
            Archive::Path(path) => (path, None),
            Archive::Bytes(mut bytes) => {
                let path = self.engine.config().state.join(format!("load-{}", uuid::Uuid::new_v4()));
                let io = |error: std::io::Error| Fault::new(Class::Runtime, format!("{}: {error}", path.display()));
                let mut file = tokio::fs::File::create(&path).await.map_err(io)?;
                let guard = Spooled(path.clone());
                while let Some(chunk) = bytes.next().await {
                    file.write_all(&chunk?).await.map_err(io)?;
                }
                file.flush().await.map_err(io)?;
                (path, Some(guard))
            }
        };
        let imported = self.engine.import_by_hand(&path).await?;
        drop(spooled);
        let mut loaded = Vec::new();
        let mut resources = Vec::new();
        for (reference, target) in imported {
            let reference = reference.or_else(|| {
                let base = request.base_name.as_ref()?;
                format!("{base}@{}", target.digest).parse().ok()
            });
            if let Some(reference) = &reference {
                self.engine.name_target_by_hand(&request.namespace, reference, &target)?;
                resources.push(by_hand(image_resource(&request.namespace, reference, PullPolicy::Never, None)));
            }
            loaded.push(LoadedImage { reference, digest: target.digest });
        }
        if loaded.iter().all(|image| image.reference.is_none()) {
            return Err(Fault::new(Class::Invalid, "the archive names none of its images")
                .help("give them a name: --base-name HOST/PATH"));
        }
        let resources: Vec<DeclaredRecord> =
            resources.into_iter().filter(|record| self.declared(&record.key()).is_none()).collect();
        self.engine.memory().declare(self.engine.store(), resources, &[])?;
        self.wake.notify_one();
        Ok(loaded)
    }
}

/// A file that goes away with its guard.
struct Spooled(std::path::PathBuf);

impl Drop for Spooled {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
