//! The OCI runtime spec and bundle, and the client of the shim.
//!
//! Invariant: a task is adopted, never taken over: its shim stays its only parent, and what is removed
//! (bundle, cgroup) carries our own marks. Container specs and image configurations flow in; runtime
//! specs go to disk, task states flow out. May use [`crate::snapshot`], [`crate::shim`]'s protocol,
//! [`crate::manifest`] types and [`crate::oci`]; knows nothing of plans, the store or the API.
//!
//! [`spec`] is pure but for reading the image's own passwd and group; [`host`] is read once; [`client`],
//! [`bundle`] and [`cgroup`] act.

pub mod bundle;
pub mod cgroup;
pub mod client;
mod error;
pub mod foreign;
pub mod host;
mod launch;
pub mod metrics;
mod mountinfo;
mod processes;
pub mod procfs;
pub mod runc;
pub mod spec;
mod supervisor;
mod task;
mod wedged;

pub use bundle::Bundle;
pub use cgroup::{CgroupDriver, CgroupPath};
pub use client::{ShimClient, read_state, shim_alive};
pub use error::RuntimeError;
pub use foreign::{ForeignShim, ForeignTask};
pub use host::{CgroupMode, HostFacts};
pub use launch::{Launch, check_own_shim, cleanup, is_own, shim_binary_for};
pub use supervisor::Supervisor;
pub use task::{ExitRecord, RootMount, RuncOptions, Stdio, TaskInfo, TaskStatus};
pub use wedged::kill_shim;
