//! One blob on its way to a registry: not at all if it is there, by mount if another repository has it,
//! else in chunks that are taken up where they broke.

use std::fs::File;
use std::sync::Arc;

use super::session::Session;
use super::write::{Begun, Body, Part, Upload};
use crate::image::descriptor::Descriptor;
use crate::image::error::RegistryFailure;

/// Hears how many bytes of a blob are on their way; must not block.
pub type Told = Arc<dyn Fn(u64) + Send + Sync>;

/// A blob up to this size is sent by one request.
const SMALL: u64 = 4 << 20;
/// Bytes in a chunk.
const CHUNK: u64 = 32 << 20;
/// How often one blob may begin anew, however far it came each time.
const MAX_BEGINNINGS: u32 = 5;

/// How a blob came to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// It was.
    Existed,
    /// From this repository of the same registry.
    Mounted(String),
    /// By its bytes.
    Uploaded,
}

/// How the bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Chunks,
    /// For registries that take no chunks of ours.
    Whole,
}

impl Session {
    /// Brings a blob into the repository. `mount_from` is a repository of the same registry that may have it.
    pub async fn upload(
        &self,
        descriptor: &Descriptor,
        file: Arc<File>,
        mount_from: Option<&str>,
        told: Told,
    ) -> Result<Sent, RegistryFailure> {
        let mut tries = self.tries();
        loop {
            match self.has_blob(descriptor).await {
                Ok(true) => return Ok(Sent::Existed),
                Ok(false) => break,
                Err(why) => tries.pause(why).await?,
            }
        }
        let mut upload = None;
        if let Some(from) = mount_from {
            match self.begin(Some((&descriptor.digest, from))).await {
                Ok(Begun::Mounted) => return Ok(Sent::Mounted(from.to_owned())),
                Ok(Begun::Upload(begun)) => upload = Some(begun),
                // What cannot be mounted is sent.
                Err(_) => {}
            }
        }
        let way = if descriptor.size <= SMALL { Way::Whole } else { Way::Chunks };
        let mut sending = Sending { session: self, descriptor, file, told, way, upload, broke: false, beginnings: 0 };
        loop {
            let (before, way) = (sending.at(), sending.way);
            let why = match sending.attempt().await {
                Ok(()) => return Ok(Sent::Uploaded),
                Err(why) => why,
            };
            tracing::debug!(blob = %descriptor.digest, at = sending.at(), "upload broke: {why}");
            let far = sending.at() > before;
            let why = sending.mend(why);
            // Another way is none of the tries of this one.
            if far || sending.way != way {
                tries.forgive();
            }
            let gave_up = match sending.beginnings < MAX_BEGINNINGS {
                true => tries.pause(why).await.err(),
                false => Some(why),
            };
            if let Some(why) = gave_up {
                if let Some(upload) = &sending.upload {
                    self.give_up(upload).await;
                }
                return Err(why);
            }
        }
    }
}

struct Sending<'a> {
    session: &'a Session,
    descriptor: &'a Descriptor,
    file: Arc<File>,
    told: Told,
    way: Way,
    upload: Option<Upload>,
    /// The last request ended in the middle: only the registry knows how far it came.
    broke: bool,
    beginnings: u32,
}

impl Sending<'_> {
    fn at(&self) -> u64 {
        self.upload.as_ref().map_or(0, |upload| upload.at)
    }

    fn part(&self, from: u64, length: u64) -> Part {
        Part::new(Arc::clone(&self.file), from, length, Arc::clone(&self.told))
    }

    /// From where it is to the end, or to a failure.
    async fn attempt(&mut self) -> Result<(), RegistryFailure> {
        let session = self.session;
        if std::mem::take(&mut self.broke) {
            self.find_position().await?;
        }
        let mut upload = match self.upload.take() {
            Some(upload) => upload,
            None => {
                self.beginnings += 1;
                match session.begin(None).await? {
                    Begun::Upload(begun) => begun,
                    Begun::Mounted => return Ok(()),
                }
            }
        };
        let result = match self.way {
            Way::Whole if self.descriptor.size == 0 => {
                session.finish(&upload, &self.descriptor.digest, Body::Empty).await
            }
            Way::Whole => {
                let body = Body::Part(self.part(0, self.descriptor.size));
                session.finish(&upload, &self.descriptor.digest, body).await
            }
            Way::Chunks => self.chunks(&mut upload).await,
        };
        if result.is_err() {
            self.broke = true;
            self.upload = Some(upload);
        }
        result
    }

    /// After a break: how much of the upload the registry has. None is left where it cannot be taken up.
    async fn find_position(&mut self) -> Result<(), RegistryFailure> {
        let Some(mut upload) = self.upload.take() else { return Ok(()) };
        if self.way == Way::Whole {
            self.session.give_up(&upload).await;
            return Ok(());
        }
        match self.session.position(&mut upload).await {
            Ok(()) if upload.at <= self.descriptor.size => self.upload = Some(upload),
            Err(why) if why.transient().is_some() => {
                (self.broke, self.upload) = (true, Some(upload));
                return Err(why);
            }
            // It does not know the upload any more.
            _ => {}
        }
        Ok(())
    }

    async fn chunks(&self, upload: &mut Upload) -> Result<(), RegistryFailure> {
        while upload.at < self.descriptor.size {
            let length = CHUNK.max(upload.least).min(self.descriptor.size - upload.at);
            let part = self.part(upload.at, length);
            self.session.chunk(upload, part).await?;
        }
        self.session.finish(upload, &self.descriptor.digest, Body::Empty).await
    }

    /// Failures that another way or another beginning mends, as ones that pass.
    fn mend(&mut self, why: RegistryFailure) -> RegistryFailure {
        let passing = |why: RegistryFailure| RegistryFailure::Broken(why.to_string());
        match &why {
            RegistryFailure::Status { status: 405 | 413 | 501, .. } if self.way == Way::Chunks => {
                (self.way, self.upload) = (Way::Whole, None);
                passing(why)
            }
            // The upload is not known any more, or elsewhere than we think.
            RegistryFailure::NotFound(_) | RegistryFailure::Status { status: 416, .. } if self.upload.is_some() => {
                if matches!(why, RegistryFailure::NotFound(_)) {
                    self.upload = None;
                }
                passing(why)
            }
            _ => why,
        }
    }
}
