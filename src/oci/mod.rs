//! The names of the OCI world: references, digests, platforms.
//!
//! A leaf: every module may use it and it uses none. Invariant: a [`Reference`] or [`Digest`] that
//! exists was parsed, so nothing behind the edge checks one again. Text flows in, values out.

mod digest;
mod platform;
mod reference;

pub use digest::{Digest, DigestError, DigestPrefix, DigestPrefixError};
pub use platform::Platform;
pub use reference::{Reference, ReferenceError};
