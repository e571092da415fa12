//! The OCI runtime spec and bundle, and the client of the shim.
//!
//! Invariant: a task is adopted, never taken over: its shim stays its only parent. Container specs and
//! image configurations flow in; task states flow out. May use [`crate::snapshot`], [`crate::shim`]'s
//! protocol, [`crate::manifest`] types and [`crate::oci`].
