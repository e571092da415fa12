//! A container's spec off the tree, short forms expanded.

use std::collections::HashMap;

use indexmap::IndexMap;

use super::model::{Backoff, ContainerSpec, PullPolicy, RestartPolicy, Span};
use super::names::{SIGNALS, env_fault, signal};
use super::reader::{Fields, Reader};
use super::source::Extent;
use super::tree::{Node, Value};

pub(super) const CONTAINER: Fields = Fields {
    what: "a container's spec",
    known: &[
        "image",
        "imagePullPolicy",
        "command",
        "args",
        "workingDir",
        "env",
        "user",
        "hostname",
        "stdin",
        "tty",
        "mounts",
        "hostNetwork",
        "resources",
        "restart",
        "restartLimit",
        "backoff",
        "stopSignal",
        "terminationGracePeriodSeconds",
        "securityContext",
        "rlimits",
        "logs",
        "runtime",
    ],
    later: &[
        "envFrom",
        "network",
        "networks",
        "ports",
        "aliases",
        "dns",
        "startupProbe",
        "readinessProbe",
        "livenessProbe",
        "minReadySeconds",
        "progressDeadlineSeconds",
        "strategy",
        "dependsOn",
        "sysctls",
        "devices",
        "cdi",
        "protect",
        "suspend",
        "drift",
        "nodeSelector",
    ],
    hints: &[
        ("name", "the name stands in metadata (in a BayPlan it is the key)"),
        ("labels", "labels stand in metadata"),
        ("annotations", "annotations stand in metadata"),
        ("environment", "write env"),
        ("entrypoint", "write command, as Kubernetes does; args holds the arguments"),
        ("cmd", "write args, as Kubernetes does; command replaces the image's ENTRYPOINT"),
        ("restartPolicy", "write restart"),
        ("volumes", "write mounts"),
        ("volumeMounts", "write mounts"),
        ("privileged", "write securityContext.privileged"),
        ("cap_add", "write securityContext.capabilities.add"),
        ("capabilities", "write securityContext.capabilities"),
        ("group", "write user: \"uid:gid\", or securityContext.runAsGroup"),
        ("pullPolicy", "write imagePullPolicy"),
        ("limits", "write resources.limits"),
        ("ulimits", "write rlimits"),
        ("stop_signal", "write stopSignal"),
        ("working_dir", "write workingDir"),
    ],
};
const ENV_ITEM: Fields = Fields { what: "an env entry", known: &["name", "value"], later: &["valueFrom"], hints: &[] };
pub(super) const BACKOFF: Fields = Fields { what: "backoff", known: &["initial", "max"], later: &[], hints: &[] };

pub(super) const PULL: [(&str, PullPolicy); 3] =
    [("Always", PullPolicy::Always), ("IfNotPresent", PullPolicy::IfNotPresent), ("Never", PullPolicy::Never)];
const RESTART: [(&str, RestartPolicy); 3] =
    [("Always", RestartPolicy::Always), ("OnFailure", RestartPolicy::OnFailure), ("Never", RestartPolicy::Never)];

impl Reader<'_> {
    /// A container's spec; `extra` fields of the map are the caller's.
    pub fn container(&mut self, node: &Node, path: &str, fields: &Fields) -> Option<ContainerSpec> {
        let o = self.object(node, path, fields)?;
        let image = self
            .need(&o, "image", "name the image with its host, such as docker.io/library/busybox:1.36")
            .and_then(|(n, p)| self.reference(n, &p));
        // Without an image there is no spec, but the rest is still read for its findings.
        let valid = image.is_some();
        let mut spec = ContainerSpec::of(match image {
            Some(image) => image,
            None => "localhost/none:none".parse().ok()?,
        });
        spec.image_pull_policy = o.get("imagePullPolicy").and_then(|(n, p)| self.choice(n, &p, &PULL));
        spec.command = o.get("command").and_then(|(n, p)| self.words(n, &p));
        if let Some((n, p)) = o.get("command")
            && spec.command.as_ref().and_then(|c| c.first()).is_some_and(String::is_empty)
        {
            self.report(n.extent, format!("{p}[0] is empty"), "the program to run", None);
        }
        spec.args = o.get("args").and_then(|(n, p)| self.words(n, &p));
        spec.working_dir = o.get("workingDir").and_then(|(n, p)| self.inner_path(n, &p));
        spec.env = o.get("env").map(|(n, p)| self.env(n, &p)).unwrap_or_default();
        spec.user = o.get("user").and_then(|(n, p)| self.user(n, &p));
        spec.hostname = o.get("hostname").and_then(|(n, p)| self.hostname(n, &p));
        spec.stdin = o.get("stdin").and_then(|(n, p)| self.boolean(n, &p)).unwrap_or_default();
        spec.tty = o.get("tty").and_then(|(n, p)| self.boolean(n, &p)).unwrap_or_default();
        spec.mounts = o.get("mounts").map(|(n, p)| self.mounts(n, &p)).unwrap_or_default();
        spec.host_network = o.get("hostNetwork").and_then(|(n, p)| self.boolean(n, &p)).unwrap_or_default();
        spec.resources = o.get("resources").map(|(n, p)| self.resources(n, &p)).unwrap_or_default();
        spec.restart = o.get("restart").and_then(|(n, p)| self.restart(n, &p)).unwrap_or_default();
        spec.restart_limit = o.get("restartLimit").and_then(|(n, p)| self.unsigned(n, &p, 1, u32::MAX));
        spec.backoff = o.get("backoff").map(|(n, p)| self.backoff(n, &p)).unwrap_or_default();
        spec.stop_signal = o.get("stopSignal").and_then(|(n, p)| self.signal(n, &p));
        if let Some((n, p)) = o.get("terminationGracePeriodSeconds")
            && let Some(seconds) = self.unsigned(n, &p, 0, u32::MAX)
        {
            spec.termination_grace_period_seconds = seconds;
        }
        spec.security_context = o.get("securityContext").map(|(n, p)| self.security(n, &p)).unwrap_or_default();
        spec.rlimits = o.get("rlimits").map(|(n, p)| self.rlimits(n, &p)).unwrap_or_default();
        spec.logs = o.get("logs").map(|(n, p)| self.logs(n, &p)).unwrap_or_default();
        spec.runtime = o.get("runtime").and_then(|(n, p)| self.runtime(n, &p));
        valid.then_some(spec)
    }

    /// A list of texts; an empty one counts as absent, as in Kubernetes.
    fn words(&mut self, node: &Node, path: &str) -> Option<Vec<String>> {
        let items = self.list(node, path, Some("write a list, such as [\"sh\", \"-c\", \"echo hello\"]"))?;
        let words: Vec<String> = items.into_iter().filter_map(|(n, p)| self.string(n, &p)).collect();
        (!words.is_empty()).then_some(words)
    }

    /// An absolute path inside the container, `.` and double slashes removed.
    pub fn inner_path(&mut self, node: &Node, path: &str) -> Option<String> {
        let text = self.string(node, path)?;
        if !text.starts_with('/') {
            let help = Some(format!("write /{}", text.trim_start_matches("./")));
            self.report(node.extent, format!("{path} must be an absolute path"), "begins without /", help);
            return None;
        }
        if text.split('/').any(|part| part == "..") {
            self.report(node.extent, format!("{path} must not hold .."), "write the path itself", None);
            return None;
        }
        Some(clean(&text))
    }

    fn env(&mut self, node: &Node, path: &str) -> IndexMap<String, String> {
        let mut env = IndexMap::new();
        if let Value::List(_) = &node.value {
            let mut first: HashMap<String, Extent> = HashMap::new();
            for (item, path_of_item) in self.list(node, path, None).unwrap_or_default() {
                if let Value::Scalar(text, _) = &item.value
                    && let Some((name, value)) = text.split_once('=')
                {
                    let help = Some(format!("write a map, {{{name}: {value:?}}}, or a list of {{name, value}}"));
                    self.report(
                        item.extent,
                        format!("{path_of_item} must be a map, not text"),
                        "Compose's list form",
                        help,
                    );
                    continue;
                }
                let Some(o) = self.object(item, &path_of_item, &ENV_ITEM) else { continue };
                let Some((name_node, name_path)) = self.need(&o, "name", "each entry is {name, value}") else {
                    continue;
                };
                let Some(name) = self.string(name_node, &name_path) else { continue };
                let value = match o.get("value") {
                    Some((n, p)) => {
                        let value = self.loose_string(n, &p);
                        self.mark(&format!("{path}.{name}"), n.extent);
                        value
                    }
                    // Kubernetes: a missing value is an empty one.
                    None => Some(String::new()),
                };
                self.env_name(&name, name_node.extent, path);
                if let Some(extent) = first.insert(name.clone(), name_node.extent) {
                    self.report_twice(name_node.extent, extent, format!("{path} sets {name} twice"));
                }
                env.extend(value.map(|value| (name, value)));
            }
            return env;
        }
        for entry in self.map(node, path).unwrap_or_default() {
            self.env_name(&entry.key, entry.extent, path);
            let path = format!("{path}.{}", entry.key);
            env.extend(self.loose_string(&entry.node, &path).map(|value| (entry.key.clone(), value)));
        }
        env
    }

    fn env_name(&mut self, name: &str, extent: Extent, path: &str) {
        if let Some(fault) = env_fault(name) {
            self.report(extent, format!("{path}: {name:?} is not a variable's name"), fault, None);
        }
    }

    fn user(&mut self, node: &Node, path: &str) -> Option<String> {
        // A plain uid is a number to YAML; there is only one thing it can mean.
        let text = match &node.value {
            Value::Scalar(text, super::scalar::ScalarKind::Int) if text.bytes().all(|b| b.is_ascii_digit()) => {
                self.mark(path, node.extent);
                text.clone()
            }
            _ => self.string(node, path)?,
        };
        let mut parts = text.split(':');
        let good = |part: &str| {
            !part.is_empty()
                && match part.bytes().all(|b| b.is_ascii_digit()) {
                    true => part.parse::<u32>().is_ok_and(|id| id != u32::MAX),
                    false => {
                        !part.starts_with('-') && !part.chars().any(|c| c.is_whitespace() || c == '/' || c.is_control())
                    }
                }
        };
        let valid = parts.next().is_some_and(good) && parts.next().is_none_or(good) && parts.next().is_none();
        if !valid {
            let help = Some("write uid, uid:gid, or names from the image, such as \"1000:1000\" or nobody".into());
            self.report(node.extent, format!("{path}: {text:?} is not a user"), "not uid[:gid] or names", help);
            return None;
        }
        Some(text)
    }

    fn hostname(&mut self, node: &Node, path: &str) -> Option<String> {
        let text = self.string(node, path)?;
        let label = |l: &str| super::names::label_fault(&l.to_ascii_lowercase()).is_none();
        if text.len() > 63 || !text.split('.').all(label) {
            let why = "letters, digits, - and . ; at most 63 characters";
            self.report(node.extent, format!("{path}: {text:?} is not a host name"), why, None);
            return None;
        }
        Some(text)
    }

    fn restart(&mut self, node: &Node, path: &str) -> Option<RestartPolicy> {
        // Docker's and Compose's words.
        let help = match &node.value {
            Value::Scalar(text, _) => match text.as_str() {
                "no" => Some("write Never"),
                "unless-stopped" => Some("write Always; what a person stopped stays down"),
                _ => None,
            },
            _ => None,
        };
        match help {
            Some(help) => {
                self.mark(path, node.extent);
                self.report(
                    node.extent,
                    format!("{path} must be Always, OnFailure or Never"),
                    "Docker's word",
                    Some(help.into()),
                );
                None
            }
            None => self.choice(node, path, &RESTART),
        }
    }

    fn span(&mut self, node: &Node, path: &str) -> Option<Span> {
        let span: Span = self.parsed(node, path, "a duration, such as 10ms, 90s or 5m")?;
        if span == Span::from_millis(0) {
            self.report(node.extent, format!("{path} must be more than 0"), "no time at all", None);
            return None;
        }
        Some(span)
    }

    fn backoff(&mut self, node: &Node, path: &str) -> Backoff {
        let default = Backoff::default();
        let Some(o) = self.object(node, path, &BACKOFF) else { return default };
        let initial = o.get("initial").and_then(|(n, p)| self.span(n, &p)).unwrap_or(default.initial);
        let max = o.get("max").and_then(|(n, p)| self.span(n, &p)).unwrap_or(default.max);
        if initial > max
            && let Some((n, p)) = o.get("max").or_else(|| o.get("initial"))
        {
            let message = format!("{p}: the first wait, {initial}, is longer than the longest, {max}");
            self.report(n.extent, message, "initial is more than max", None);
        }
        Backoff { initial, max }
    }

    fn signal(&mut self, node: &Node, path: &str) -> Option<String> {
        let text = match &node.value {
            Value::Scalar(text, super::scalar::ScalarKind::Int) => {
                self.mark(path, node.extent);
                text.clone()
            }
            _ => self.string(node, path)?,
        };
        let name = signal(&text);
        if name.is_none() {
            let upper = text.to_ascii_uppercase();
            let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
            let help = match self.near(&full, SIGNALS) {
                Some(near) => format!("did you mean {near}?"),
                None => "signals are named as SIGTERM, SIGQUIT or SIGRTMIN+3".into(),
            };
            self.report(node.extent, format!("{path}: {text:?} is not a signal"), "unknown signal", Some(help));
        }
        name
    }

    fn runtime(&mut self, node: &Node, path: &str) -> Option<String> {
        let text = self.string(node, path)?;
        if super::names::word_fault(&text).is_some() || text.is_empty() {
            let help = Some(
                "write a configured runtime's name, such as runc, or a shim's, such as io.containerd.kata.v2".into(),
            );
            self.report(
                node.extent,
                format!("{path}: {text:?} is not a runtime's name"),
                "letters, digits, - _ .",
                help,
            );
            return None;
        }
        Some(text)
    }
}

/// A path without `.` components, double and trailing slashes. `..` stays: what it means is the file system's to say.
pub(super) fn clean(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("/{}", parts.join("/"))
}
