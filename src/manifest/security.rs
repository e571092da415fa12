//! A container's privileges off the tree.

use super::model::{Capabilities, SecurityContext};
use super::names::{CAPABILITIES, prefixed};
use super::reader::{Fields, Reader};
use super::tree::Node;

pub(super) const SECURITY: Fields = Fields {
    what: "a securityContext",
    known: &["privileged", "capabilities", "readOnlyRootFilesystem", "runAsUser", "runAsGroup", "noNewPrivileges"],
    later: &["seccompProfile", "apparmorProfile", "userns"],
    hints: &[("allowPrivilegeEscalation", "write noNewPrivileges, with the opposite value")],
};
pub(super) const CAPS: Fields = Fields { what: "capabilities", known: &["add", "drop"], later: &[], hints: &[] };

impl Reader<'_> {
    pub(super) fn security(&mut self, node: &Node, path: &str) -> SecurityContext {
        let Some(o) = self.object(node, path, &SECURITY) else { return SecurityContext::default() };
        let boolean = |r: &mut Self, field: &str| o.get(field).and_then(|(n, p)| r.boolean(n, &p));
        SecurityContext {
            privileged: boolean(self, "privileged").unwrap_or_default(),
            capabilities: o.get("capabilities").map(|(n, p)| self.capabilities(n, &p)).unwrap_or_default(),
            read_only_root_filesystem: boolean(self, "readOnlyRootFilesystem").unwrap_or_default(),
            // The highest id means "no change" to the kernel.
            run_as_user: o.get("runAsUser").and_then(|(n, p)| self.unsigned(n, &p, 0, u32::MAX - 1)),
            run_as_group: o.get("runAsGroup").and_then(|(n, p)| self.unsigned(n, &p, 0, u32::MAX - 1)),
            no_new_privileges: boolean(self, "noNewPrivileges"),
        }
    }

    fn capabilities(&mut self, node: &Node, path: &str) -> Capabilities {
        let Some(o) = self.object(node, path, &CAPS) else { return Capabilities::default() };
        Capabilities {
            add: o.get("add").map(|(n, p)| self.capability_list(n, &p)).unwrap_or_default(),
            drop: o.get("drop").map(|(n, p)| self.capability_list(n, &p)).unwrap_or_default(),
        }
    }

    fn capability_list(&mut self, node: &Node, path: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for (n, p) in self.list(node, path, Some("write a list, such as [NET_ADMIN]")).unwrap_or_default() {
            let Some(text) = self.string(n, &p) else { continue };
            let name =
                if text.eq_ignore_ascii_case("all") { Some("ALL") } else { prefixed(&CAPABILITIES, "CAP_", &text) };
            match name {
                Some(name) if names.iter().any(|known| known == name) => {}
                Some(name) => names.push(name.to_owned()),
                None => {
                    let upper = text.to_ascii_uppercase();
                    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
                    let help = self.near(&full, CAPABILITIES).map(|near| format!("did you mean {}?", &near[4..]));
                    let help = help.or_else(|| Some("their names stand in capabilities(7), such as NET_ADMIN".into()));
                    self.report(n.extent, format!("{p}: {text:?} is not a capability"), "unknown capability", help);
                }
            }
        }
        names
    }
}
