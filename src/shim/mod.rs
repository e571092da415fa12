//! The shim: one small process per container that owns its stdio, log, exits and restarts.
//!
//! Invariant: every exit is durable before it is announced; the container never blocks because nobody
//! reads; a daemon that dies is not noticed. Synchronous and single-threaded: one `epoll` loop, no tokio.
//! Depends on protocol types and [`crate::oci`] only.

pub mod protocol;
