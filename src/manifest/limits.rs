//! A container's amounts off the tree: resources, rlimits, log sizes.

use std::collections::HashMap;

use super::model::{Limits, Logs, Quantity, Resources, Rlimit};
use super::names::{RLIMITS, prefixed};
use super::reader::{Fields, Reader};
use super::scalar::ScalarKind;
use super::source::Extent;
use super::tree::{Node, Value};

pub(super) const RESOURCES: Fields = Fields {
    what: "resources",
    known: &["limits", "requests"],
    later: &["claims"],
    hints: &[
        ("memory", "write resources.limits.memory"),
        ("cpu", "write resources.limits.cpu"),
        ("pids", "write resources.limits.pids"),
    ],
};
pub(super) const LIMITS: Fields =
    Fields { what: "resource limits", known: &["memory", "cpu", "pids"], later: &["ephemeral-storage"], hints: &[] };
pub(super) const RLIMIT: Fields =
    Fields { what: "an rlimit", known: &["type", "soft", "hard"], later: &[], hints: &[] };
pub(super) const LOGS: Fields =
    Fields { what: "logs", known: &["maxSize", "maxFiles", "driver"], later: &[], hints: &[] };

impl Reader<'_> {
    fn quantity(&mut self, node: &Node, path: &str) -> Option<Quantity> {
        let quantity: Quantity = self.parsed(node, path, "a quantity, such as 64Mi or 500m")?;
        if quantity.milli() <= 0 {
            self.report(
                node.extent,
                format!("{path} must be more than 0"),
                "not a limit",
                Some("leave it out for no limit".into()),
            );
            return None;
        }
        Some(quantity)
    }

    fn bytes(&mut self, node: &Node, path: &str) -> Option<Quantity> {
        if let Value::Scalar(text, ScalarKind::Text) = &node.value
            && let Some(binary) = dockers_size(text)
        {
            self.mark(path, node.extent);
            let message = format!("{path}: {text:?} is not a quantity");
            self.report(node.extent, message, "Docker's spelling", Some(format!("write {binary}")));
            return None;
        }
        let quantity = self.quantity(node, path)?;
        if quantity.milli() % 1000 != 0 {
            let whole = quantity.to_string();
            let number = whole.trim_end_matches('m');
            let message = format!("{path}: {whole} is a part of a byte");
            let help = Some(format!("m is a thousandth; for mebibytes write {number}Mi"));
            self.report(node.extent, message, "thousandths of a byte", help);
            return None;
        }
        Some(quantity)
    }

    fn limits(&mut self, node: &Node, path: &str) -> Limits {
        let Some(o) = self.object(node, path, &LIMITS) else { return Limits::default() };
        Limits {
            memory: o.get("memory").and_then(|(n, p)| self.bytes(n, &p)),
            cpu: o.get("cpu").and_then(|(n, p)| self.quantity(n, &p)),
            pids: o
                .get("pids")
                .and_then(|(n, p)| self.integer(n, &p, 1, i128::from(i64::MAX)))
                .and_then(|number| i64::try_from(number).ok()),
        }
    }

    pub(super) fn resources(&mut self, node: &Node, path: &str) -> Resources {
        let Some(o) = self.object(node, path, &RESOURCES) else { return Resources::default() };
        let limits = o.get("limits").map(|(n, p)| self.limits(n, &p)).unwrap_or_default();
        let requests = o.get("requests").map(|(n, p)| self.limits(n, &p)).unwrap_or_default();
        let over = [
            ("memory", requests.memory.zip(limits.memory).is_some_and(|(r, l)| r > l)),
            ("cpu", requests.cpu.zip(limits.cpu).is_some_and(|(r, l)| r > l)),
            ("pids", requests.pids.zip(limits.pids).is_some_and(|(r, l)| r > l)),
        ];
        for (field, _) in over.into_iter().filter(|(_, over)| *over) {
            if let Some(n) = node.get("requests").and_then(|requests| requests.get(field)) {
                let message = format!("{path}.requests.{field} is more than its limit");
                self.report(n.extent, message, "asks for more than it may have", None);
            }
        }
        Resources { limits, requests }
    }

    pub(super) fn rlimits(&mut self, node: &Node, path: &str) -> Vec<Rlimit> {
        let mut limits: Vec<Rlimit> = Vec::new();
        let mut first: HashMap<String, Extent> = HashMap::new();
        let help = "write a list of {type, soft, hard}";
        for (item, path) in self.list(node, path, Some(help)).unwrap_or_default() {
            let Some(o) = self.object(item, &path, &RLIMIT) else { continue };
            let kind = self.need(&o, "type", help).and_then(|(n, p)| {
                let text = self.string(n, &p)?;
                let kind = prefixed(&RLIMITS, "RLIMIT_", &text);
                if kind.is_none() {
                    let upper = text.to_ascii_uppercase();
                    let bare = upper.strip_prefix("RLIMIT_").unwrap_or(&upper);
                    let limits = RLIMITS.map(|name| &name["RLIMIT_".len()..]);
                    let help = match self.near(bare, limits) {
                        Some(near) => format!("did you mean {near}?"),
                        None => format!("it is one of {}", limits.join(", ")),
                    };
                    self.report(n.extent, format!("{p}: {text:?} is not a limit"), "unknown limit", Some(help));
                }
                if let (Some(kind), Some(extent)) = (kind, kind.and_then(|k| first.insert(k.to_owned(), n.extent))) {
                    self.report_twice(n.extent, extent, format!("{p}: {kind} is set twice"));
                }
                kind
            });
            let soft = self.need(&o, "soft", help).and_then(|(n, p)| self.rlimit_value(n, &p));
            let hard = self.need(&o, "hard", help).and_then(|(n, p)| self.rlimit_value(n, &p));
            let (Some(kind), Some(soft), Some(hard)) = (kind, soft, hard) else { continue };
            if soft > hard
                && let Some((n, p)) = o.get("soft")
            {
                self.report(n.extent, format!("{p} is more than the hard limit, {hard}"), "must not pass hard", None);
            }
            limits.push(Rlimit { kind: kind.to_owned(), soft, hard });
        }
        limits
    }

    /// A limit; `unlimited` and -1 are `RLIM_INFINITY`.
    fn rlimit_value(&mut self, node: &Node, path: &str) -> Option<u64> {
        if let Value::Scalar(text, _) = &node.value
            && matches!(text.as_str(), "unlimited" | "infinity" | "-1")
        {
            self.mark(path, node.extent);
            return Some(u64::MAX);
        }
        self.integer(node, path, 0, i128::from(u64::MAX)).and_then(|number| u64::try_from(number).ok())
    }

    fn driver(&mut self, node: &Node, path: &str) -> Option<String> {
        let text = self.string(node, path)?;
        match log_driver(&text) {
            Ok(driver) => Some(driver),
            Err(why) => {
                let help = "write file:///var/log/web.log, or binary:///usr/bin/logger?key=value";
                self.report(node.extent, format!("{path} is no driver of logs"), why, Some(help.into()));
                None
            }
        }
    }

    pub(super) fn logs(&mut self, node: &Node, path: &str) -> Logs {
        let default = Logs::default();
        let Some(o) = self.object(node, path, &LOGS) else { return default };
        Logs {
            max_size: o.get("maxSize").and_then(|(n, p)| self.bytes(n, &p)).unwrap_or(default.max_size),
            max_files: o
                .get("maxFiles")
                .and_then(|(n, p)| self.unsigned(n, &p, 1, 10_000))
                .unwrap_or(default.max_files),
            driver: o.get("driver").and_then(|(n, p)| self.driver(n, &p)),
        }
    }
}

/// A driver of logs as it is kept; why it is none. `file://` and `binary://` are containerd's, with an absolute path.
pub fn log_driver(text: &str) -> Result<String, &'static str> {
    if text == "none" {
        return Ok(text.to_owned());
    }
    let Some(path) = text.strip_prefix("file://").or_else(|| text.strip_prefix("binary://")) else {
        return Err("it is neither file:///PATH nor binary:///PATH, nor none");
    };
    match path.split('?').next().unwrap_or_default() {
        path if !path.starts_with('/') || path.ends_with('/') => {
            Err("its path does not begin at the root, or names no file")
        }
        path if path.split('/').any(|part| part == "..") => Err("its path holds .."),
        _ => Ok(text.to_owned()),
    }
}

/// What Docker's `64mb` and `1g` are here. A bare `m` is a valid suffix that means something else.
fn dockers_size(text: &str) -> Option<String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "b" => "",
        "kb" | "kib" => "Ki",
        "mb" | "mib" => "Mi",
        "g" | "gb" | "gib" if !text.ends_with('G') => "Gi",
        _ => return None,
    };
    let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    number.then(|| format!("{digits}{unit}"))
}
