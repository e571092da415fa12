//! `bayplan`: a container engine for one Linux node, driven by a directory of manifests.
//!
//! Data flows one way: manifests → desired → plan ← observed ← node, and a plan's steps → effects.
//! Each module below opens with what it owns, its invariant, and what flows in and out;
//! `docs/ARCHITECTURE.md` leads through them and names what each must not depend on.

pub mod api;
pub mod cli;
pub mod config;
pub mod controller;
pub mod copy;
pub mod engine;
pub mod error;
pub mod fifos;
pub mod heap;
pub mod image;
pub mod manifest;
pub mod network;
pub mod oci;
pub mod plan;
pub mod runtime;
pub mod shim;
pub mod snapshot;
pub mod store;
