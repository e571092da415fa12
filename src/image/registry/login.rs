//! Credentials shown to a registry before they are kept.

use super::authorize::{Ask, Asker};
use super::transport::Registries;
use super::trust::Scheme;
use super::{PullOptions, Tries};
use crate::error::{Class, Fault};
use crate::image::error::{ImageError, RegistryFailure};

/// What the registry said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They are right.
    Accepted,
    /// It asks nobody who they are.
    Open,
}

/// Shows the credentials of `options` to a host by `GET /v2/`, as docker and podman do.
pub async fn verify(registries: &Registries, host: &str, options: &PullOptions) -> Result<Verdict, Fault> {
    let failed = |why: RegistryFailure| {
        let error = Fault::from(ImageError::registry(String::new(), host, why));
        let message = error.message.trim_start_matches("image : ").to_owned();
        Fault { message: format!("login at {host}: {message}"), ..error }
    };
    let all = registries.directory.endpoints(host).map_err(|why| failed(RegistryFailure::Config(why)))?;
    let Some(endpoint) = all.iter().find(|endpoint| endpoint.upstream) else {
        return Err(Fault::new(Class::Invalid, format!("nobody is named to be asked for {host}")));
    };
    let asker = Asker { registries, endpoint, options, name: host, repository: None, actions: "" };
    let ask = Ask::new(reqwest::Method::GET, "");
    let mut tries = Tries::new(host.to_owned(), registries.config.timeouts.patience, options.on_wait.clone());
    loop {
        match registries.by_scheme(&asker, &ask).await {
            Ok(_) if asker.has_grant(Scheme::Https) || asker.has_grant(Scheme::Http) => return Ok(Verdict::Accepted),
            Ok(_) => return Ok(Verdict::Open),
            Err(RegistryFailure::Denied { status, message, .. }) => {
                let message = format!("{host} refuses the credentials: {status} {message}");
                return Err(Fault::new(Class::Registry, message).help("nothing was stored; check user and password"));
            }
            Err(why) => tries.pause(why).await.map_err(failed)?,
        }
    }
}
