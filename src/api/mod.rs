//! HTTP/JSON over a unix socket: the types, the [`Service`] behind them, server and client.
//!
//! Invariant: there is one path. The command line always speaks to the same router, over the socket of
//! a daemon or in its own process, so that both answer alike. Requests flow in as JSON; answers flow
//! out as JSON, or as one JSON value a line where they take time. Decides nothing about containers.

mod client;
#[cfg(test)]
pub(crate) mod fake;
mod listener;
mod server;
mod service;
#[cfg(test)]
mod tests;
mod types;
mod version;

pub use client::Client;
pub use listener::Listener;
pub use server::{router, serve};
pub use service::{Archive, Service, Stream, channel};
pub use types::*;
