//! The shim as its hosts see it: the real binary, the real `runc`, a hand-made bundle, and a client that speaks
//! ttrpc by hand. Needs root and the packages `runc` and `busybox-static`. `BAYPLAN_BIN` and `BAYPLAN_TEST_PATIENCE`
//! are as for the end-to-end tests.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails there")]

mod attach;
mod bundle;
mod client;
mod exec;
mod freezer;
mod host;
mod hostile;
mod lifecycle;
mod neighbours;
mod output;
mod supervision;
mod targets;
mod terminal;
mod throughput;
