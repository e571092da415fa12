//! The `bayplan` binary: the command line, and with `bayplan daemon` the controller.

use std::process::ExitCode;

fn main() -> ExitCode {
    bayplan::cli::main()
}
