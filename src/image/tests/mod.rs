//! The image side against a real registry, real tools, and a server that does what no registry should.

pub mod archives;
mod certificates;
mod credentials;
pub mod fixture;
mod hostile;
mod mirrors;
mod proxies;
mod pulls;
mod redirects;
mod registry;
pub mod server;
mod store;
mod tls;
