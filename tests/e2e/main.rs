//! End-to-end tests: the real binaries, `runc`, a real registry, real mounts and namespaces.
//!
//! Each test owns a [`node::TestNode`]: a daemon (or none) with its own root, state and manifests, side by
//! side with every other test's. A node that goes away takes everything down and asserts that nothing is left.
//! They need root; `make test` sees to it. Where things are slow, `BAYPLAN_TEST_PATIENCE=5` multiplies deadlines;
//! `BAYPLAN_BIN` runs other binaries than cargo's.

// In test programs a failed unwrap is the report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod containerd;
mod gate;
mod image;
mod leaks;
mod node;
mod registry;
mod terminal;
mod wait;

mod apply;
mod attach;
mod bad_files;
mod broken_runtime;
mod by_hand;
mod cp;
mod crashes;
mod crowd;
mod declared_images;
mod diff_apply;
mod directory;
mod disk_full;
mod entrypoint;
mod exec;
mod foreign;
mod hosted;
mod images;
mod inside;
mod interactive;
mod kill_daemon;
mod logs;
mod main_job;
mod names;
mod no_daemon;
mod old_shim;
mod orphans;
mod peers;
mod prefetch;
mod reboot;
mod reload;
mod restart;
mod seeing;
mod status;
mod store;
mod together;
mod verbs;
mod wire;
