//! Sources of what is wanted, and the loop that brings it about.
//!
//! The directory source is four small machines in a row, each pure but for its one edge:
//! [`watch`] (kernel → hints), [`debounce`] (hints → when to look), [`scan`] (tree → snapshot) and
//! [`directory`] (snapshots → desired resources, problems, held removals). [`follow`] joins the first
//! three. [`queue`] decides what runs when, by [`backoff`],
//! and [`pace`] how often is planned.
//!
//! Desired and observed become steps ([`crate::plan`]), and those are carried out by [`crate::engine`], whoever asks.
//! Uses `engine`, `plan`, `manifest`, `config`, records of `store`, `shim::protocol`, types of `image`, and of
//! `runtime` only where `version` looks for the binary (`runtime::host`); implements `api::Service`. Knows nothing of
//! the command line, of snapshots and of networks.

pub mod backoff;
mod by_hand;
mod check_images;
mod content;
mod copy;
mod daemon;
pub mod debounce;
mod declare;
pub mod directory;
mod disk;
pub mod follow;
mod health;
mod image_details;
mod listing;
mod local;
mod logs;
mod looping;
mod moving;
mod node;
pub mod pace;
mod progress;
mod prune;
pub mod queue;
mod reconcile;
mod reload;
mod remove_image;
pub mod scan;
mod service;
mod stats;
mod status;
pub mod watch;

pub use daemon::run as run_daemon;
pub use node::Node;
pub use reconcile::Scope;
pub use reload::{Reload, SetLogLevel};
pub use service::NodeService;
