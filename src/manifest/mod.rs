//! YAML and JSON text → typed, defaulted, validated resources, each with its place in the source.
//!
//! Invariant: what leaves here is valid on its own; every finding names file, line and column. No I/O
//! but reading the files it is given; depends on nothing but [`crate::oci`].

pub mod diagnostic;
pub mod model;
mod quantity;

pub use diagnostic::{Diagnostic, Place};
pub use model::*;
