//! The `bayplan-shim` binary; also answers to `containerd-shim-bayplan-v1`.

fn main() -> std::process::ExitCode {
    bayplan::shim::main()
}
