//! Sources of what is wanted, and the loop that brings it about.
//!
//! The directory source is four small machines in a row, each pure but for its one edge:
//! [`watch`] (kernel → hints), [`debounce`] (hints → when to look), [`scan`] (tree → snapshot) and
//! [`directory`] (snapshots → desired resources, problems, held removals). [`follow`] joins the first
//! three. [`queue`] decides what runs when, by [`backoff`].

pub mod backoff;
mod by_hand;
mod daemon;
pub mod debounce;
mod declare;
pub mod directory;
pub mod follow;
mod listing;
mod local;
mod logs;
mod looping;
mod node;
mod progress;
pub mod queue;
mod reconcile;
pub mod scan;
mod service;
mod status;
pub mod watch;

pub use daemon::{Reload, run as run_daemon};
pub use node::Node;
pub use reconcile::Scope;
pub use service::NodeService;
