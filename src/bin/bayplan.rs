//! The `bayplan` binary: the command line, and with `bayplan daemon` the controller.

fn main() {}
