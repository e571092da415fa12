//! What a host says when it starts a shim, and in which of the three forms it wants the answer.
//!
//! containerd to 1.6 says all by flags and environment and reads a bare address; from 1.7 it sets `MAX_SHIM_VERSION` and
//! reads JSON; from 2.3 it gives a `BootstrapParams` on standard input and reads a `BootstrapResult`. All but the last
//! may give the runtime's options there.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::oci::Options;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::args::Args;
use super::events::Host;
use super::options;

/// Where containerd's shims put sockets, for hosts whose bundles have long paths.
const SOCKET_DIR: &str = "/run/containerd/s";
/// Most that is read from standard input, as containerd has it.
const MAX_INPUT: usize = 10 << 20;
/// A host that says nothing on a standard input that it keeps open says nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest path that a socket address holds.
pub const LONGEST_ADDRESS: usize = 107;

/// How the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Address,
    Json,
    Message,
}

/// See the module.
pub struct Bootstrap {
    form: Form,
    /// Who is told of events.
    pub host: Host,
    /// Where short names for sockets go.
    pub socket_dir: PathBuf,
    /// Control group that the shim is to be in; empty is none.
    pub shim_cgroup: String,
}

impl Bootstrap {
    /// Our own engine knows how to reach us, and wants no events.
    pub fn ours() -> Self {
        Self { form: Form::Address, host: Host::Nobody, socket_dir: SOCKET_DIR.into(), shim_cgroup: String::new() }
    }

    /// Reads standard input and environment.
    pub fn read(args: &Args) -> Result<Self, String> {
        let env = |name: &str| std::env::var(name).unwrap_or_default();
        Self::from_parts(args, &input(), &env)
    }

    fn from_parts(args: &Args, input: &[u8], env: &dyn Fn(&str) -> String) -> Result<Self, String> {
        // The two messages have the same first fields: which one it is, its contents say.
        let params = BootstrapParams::parse_from_bytes(input).ok();
        let params = params.filter(|p| p.instance_id == args.id && p.namespace == args.namespace);
        let or = |text: String, other: &dyn Fn() -> String| if text.is_empty() { other() } else { text };
        let form = match &params {
            Some(_) => Form::Message,
            None if env("MAX_SHIM_VERSION").is_empty() => Form::Address,
            None => Form::Json,
        };
        let (any, params) = match params {
            Some(params) => {
                let mut values = params.extensions.iter().filter_map(|extension| extension.value.as_ref());
                (values.find(|any| any.type_url.ends_with("containerd.runc.v1.Options")).cloned(), params)
            }
            None => (Any::parse_from_bytes(input).ok().filter(|_| !input.is_empty()), BootstrapParams::default()),
        };
        let options = options::read(any.as_ref())?;
        let grpc = or(params.containerd_grpc_address, &|| args.address.clone());
        let beside = || Some(format!("{grpc}.ttrpc")).filter(|path| Path::new(path).exists()).unwrap_or_default();
        let ttrpc = or(params.containerd_ttrpc_address, &|| or(env("TTRPC_ADDRESS"), &beside));
        let ttrpc = ttrpc.strip_prefix("unix://").unwrap_or(&ttrpc);
        let program = or(params.containerd_binary, &|| args.publish_binary.clone());
        let host = match (ttrpc.len(), program.is_empty()) {
            (1..=LONGEST_ADDRESS, _) => Host::Socket(ttrpc.into()),
            (_, false) => Host::Program { program: program.into(), address: grpc },
            _ => Host::Nobody,
        };
        let socket_dir = or(params.socket_dir.unwrap_or_default(), &|| env("SHIM_SOCKET_DIR"));
        let socket_dir = or(socket_dir, &|| SOCKET_DIR.to_owned()).into();
        Ok(Self { form, host, socket_dir, shim_cgroup: options.shim_cgroup })
    }

    /// Where short names go for a host that does not say it otherwise.
    pub fn socket_dir() -> PathBuf {
        std::env::var_os("SHIM_SOCKET_DIR").filter(|dir| !dir.is_empty()).map_or(SOCKET_DIR.into(), PathBuf::from)
    }

    /// What the host reads of a shim that is reached at `address`.
    pub fn answer(&self, address: &str) -> Result<Vec<u8>, String> {
        match self.form {
            Form::Address => Ok(address.into()),
            // The second generation of the Task API is what every host with this form takes, and we answer both.
            Form::Json => serde_json::to_vec(&serde_json::json!({
                "version": 2, "address": address, "protocol": "ttrpc",
            }))
            .map_err(|error| error.to_string()),
            Form::Message => {
                let (address, protocol) = (address.to_owned(), "ttrpc".to_owned());
                let result = BootstrapResult { version: 3, address, protocol, ..Default::default() };
                result.write_to_bytes().map_err(|error| error.to_string())
            }
        }
    }
}

/// Standard input to its end, or as far as somebody writes.
fn input() -> Vec<u8> {
    let stdin = std::io::stdin();
    let mut all = Vec::new();
    if stdin.is_terminal() {
        return all;
    }
    let until = Instant::now() + PATIENCE;
    let mut stdin = stdin.lock();
    let mut chunk = [0; 4096];
    while all.len() < MAX_INPUT {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok();
        let ready = poll(&mut [PollFd::new(&stdin, PollFlags::IN)], left.as_ref());
        if !matches!(ready, Ok(1..)) {
            break;
        }
        match stdin.read(&mut chunk) {
            Ok(length @ 1..) => all.extend_from_slice(&chunk[..length]),
            _ => break,
        }
    }
    all
}

/// `-info`: what this shim is, and what its runtime says of itself where it does (`runc features`, since 1.1).
pub fn info() -> Result<Vec<u8>, String> {
    let any = Any::parse_from_bytes(&input()).ok().filter(|any| !any.type_url.is_empty());
    let options: Options = options::read(any.as_ref())?;
    let binary = options::runtime(&options, "").binary;
    let features = std::process::Command::new(binary).arg("features").stdin(std::process::Stdio::null()).output().ok();
    let features = features.filter(|output| output.status.success()).map(|output| Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/features/Features".to_owned(),
        value: output.stdout,
        ..Default::default()
    });
    let info = RuntimeInfo {
        name: "io.containerd.bayplan.v1".to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        }),
        options: any.into(),
        features: features.into(),
        ..Default::default()
    };
    info.write_to_bytes().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::bootstrap_api::Extension;

    fn args() -> Args {
        let line = "-namespace k8s.io -id x1 -address /nonexistent/c.sock -publish-binary /bin/containerd start";
        super::super::args::parse(line.split(' ').map(str::to_owned)).unwrap()
    }

    fn runc_options() -> Any {
        let options = Options { shim_cgroup: "/shims".into(), ..Default::default() };
        let type_url = "containerd.runc.v1.Options".into();
        Any { type_url, value: options.write_to_bytes().unwrap(), ..Default::default() }
    }

    #[test]
    fn each_generation_of_hosts_is_answered_in_its_own_form() {
        let old =
            Bootstrap::from_parts(&args(), &runc_options().write_to_bytes().unwrap(), &|_| String::new()).unwrap();
        assert_eq!(old.answer("unix:///s").unwrap(), b"unix:///s");
        assert_eq!(old.shim_cgroup, "/shims");
        let (program, address) = ("/bin/containerd".into(), "/nonexistent/c.sock".into());
        assert_eq!(old.host, Host::Program { program, address });

        let env = |name: &str| match name {
            "MAX_SHIM_VERSION" => "2".to_owned(),
            "TTRPC_ADDRESS" => "/run/c.ttrpc".to_owned(),
            _ => String::new(),
        };
        let json = Bootstrap::from_parts(&args(), b"", &env).unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&json.answer("unix:///s").unwrap()).unwrap();
        assert_eq!(answer, serde_json::json!({"version": 2, "address": "unix:///s", "protocol": "ttrpc"}));
        assert_eq!(json.host, Host::Socket("/run/c.ttrpc".into()));

        let params = BootstrapParams {
            instance_id: "x1".into(),
            namespace: "k8s.io".into(),
            containerd_ttrpc_address: "unix:///run/new.ttrpc".into(),
            socket_dir: Some("/run/s".into()),
            extensions: vec![Extension { value: Some(runc_options()).into(), ..Default::default() }],
            ..Default::default()
        };
        let new = Bootstrap::from_parts(&args(), &params.write_to_bytes().unwrap(), &env).unwrap();
        let answer = BootstrapResult::parse_from_bytes(&new.answer("unix:///s").unwrap()).unwrap();
        assert_eq!((answer.version, answer.address.as_str(), answer.protocol.as_str()), (3, "unix:///s", "ttrpc"));
        assert_eq!((new.host, new.shim_cgroup.as_str()), (Host::Socket("/run/new.ttrpc".into()), "/shims"));
        assert_eq!(new.socket_dir, Path::new("/run/s"));
    }
}
