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

/// Says what to use.
pub async fn run(verb: &'static str, instead: &'static str, _: Args, _: &mut Context) -> Result<u8> {
    Err(Fault::new(Class::Usage, format!("bayplan has no {verb}")).help(instead))
}
