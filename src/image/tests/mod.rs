//! The image side against a real registry, real tools, and a server that does what no registry should.

pub mod archives;
mod credentials;
pub mod fixture;
mod hostile;
mod pulls;
pub mod registry;
pub mod server;
mod store;
