//! desired × observed → ordered steps with reasons. Pure: no I/O, no clock, no randomness.
//!
//! Invariant: executing a plan and planning again gives the empty plan; so does planning again after a
//! crash behind any prefix of its steps. `diff` prints what [`plan`] returns and `apply` and the
//! controller execute it. Depends on [`crate::manifest`] types and [`crate::oci`] only.

mod types;

pub use types::*;
