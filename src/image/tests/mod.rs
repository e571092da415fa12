//! The image side against a real registry, real tools, and a server that does what no registry should.

pub mod archives;
mod certificates;
mod credentials;
mod exports;
pub mod fixture;
mod hostile;
mod hostile_archives;
mod mirrors;
mod platforms;
mod proxies;
mod pulls;
mod pushes;
mod redirects;
pub mod registry;
pub mod server;
mod store;
mod tls;
