//! What the API says, as JSON: camelCase, RFC 3339 times, durations in milliseconds, sizes in bytes.
//!
//! Shared by server, client and rendering. Fields are added, never renamed: scripts read them.

mod apply;
mod content;
mod copy;
mod interactive;
mod item;
mod manual;
mod node;
mod progress;
mod push;
mod rootfs;
mod save;
mod stats;
mod stream;
mod upkeep;

pub use apply::*;
pub use content::*;
pub use copy::*;
pub use interactive::*;
pub use item::*;
pub use manual::*;
pub use node::*;
pub use progress::*;
pub use push::*;
pub use rootfs::*;
pub use save::*;
pub use stats::*;
pub use stream::*;
pub use upkeep::*;
