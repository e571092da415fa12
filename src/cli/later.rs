//! Verbs that other engines have and this one does not, with what to do instead.

use std::ffi::OsString;

use super::context::Context;
use crate::error::{Class, Fault, Result};

/// Takes anything.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<OsString>,
}

/// `build`.
pub async fn build(args: Args, context: &mut Context) -> Result<u8> {
    let instead = "build with buildah, podman or docker, then bring it here: bayplan load FILE, or bayplan pull";
    run("build", instead, args, context).await
}

/// `commit`.
pub async fn commit(args: Args, context: &mut Context) -> Result<u8> {
    let instead = "write a Containerfile and build it; of a tar file an image is made by bayplan image import --rootfs";
    run("commit", instead, args, context).await
}

/// Says what to use.
async fn run(verb: &'static str, instead: &'static str, _: Args, _: &mut Context) -> Result<u8> {
    Err(Fault::new(Class::Usage, format!("bayplan has no {verb}")).help(instead))
}
