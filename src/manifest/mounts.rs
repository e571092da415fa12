//! A container's mounts, short and long form, as the one long form.

use std::collections::HashMap;

use super::container::clean;
use super::model::{Mount, MountKind};
use super::names::{MOUNT_FLAGS, TMPFS_OPTIONS};
use super::reader::{Fields, Reader};
use super::source::Extent;
use super::tree::{Node, Value};

pub(super) const MOUNT: Fields = Fields {
    what: "a mount",
    known: &["type", "source", "target", "readOnly", "options", "create"],
    later: &["subPath"],
    hints: &[
        ("src", "write source"),
        ("dst", "write target"),
        ("destination", "write target"),
        ("mountPath", "write target"),
        ("hostPath", "write type: bind and source"),
        ("ro", "write readOnly: true"),
    ],
};

#[derive(Clone, Copy)]
enum Type {
    Known(MountKind),
    Later,
}

const TYPES: [(&str, Type); 6] = [
    ("bind", Type::Known(MountKind::Bind)),
    ("tmpfs", Type::Known(MountKind::Tmpfs)),
    ("volume", Type::Later),
    ("image", Type::Later),
    ("secret", Type::Later),
    ("config", Type::Later),
];

impl Reader<'_> {
    pub(super) fn mounts(&mut self, node: &Node, path: &str) -> Vec<Mount> {
        let mut mounts = Vec::new();
        let mut targets: HashMap<String, Extent> = HashMap::new();
        let help = "write a list, such as [\"/srv/data:/data:ro\"]";
        for (item, path) in self.list(node, path, Some(help)).unwrap_or_default() {
            let read = match &item.value {
                Value::Map(_) => self.long_mount(item, &path),
                _ => self.short_mount(item, &path),
            };
            let Some((mount, extent)) = read else { continue };
            if mount.target == "/" {
                self.report(extent, format!("{path}: a mount at / would hide the image"), "the root itself", None);
                continue;
            }
            if let Some(first) = targets.insert(mount.target.clone(), extent) {
                self.report_twice(extent, first, format!("{path}: {} is mounted twice", mount.target));
            }
            mounts.push(mount);
        }
        mounts
    }

    /// `SOURCE:TARGET[:OPTION,…]`.
    fn short_mount(&mut self, node: &Node, path: &str) -> Option<(Mount, Extent)> {
        let text = self.string(node, path)?;
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, options) = match parts.as_slice() {
            [source, target] => (*source, *target, ""),
            [source, target, options] => (*source, *target, *options),
            _ => {
                let help =
                    "write SOURCE:TARGET[:ro,…]; a path with a colon needs the long form {type: bind, source, target}";
                let message = format!("{path}: {text:?} is not a mount");
                self.report(node.extent, message, "not SOURCE:TARGET[:OPTIONS]", Some(help.into()));
                return None;
            }
        };
        let source = self.host_path(source, node.extent, path)?;
        if !target.starts_with('/') || target.split('/').any(|part| part == "..") {
            let message = format!("{path}: the target {target:?} must be an absolute path without ..");
            self.report(node.extent, message, "where it appears in the container", None);
            return None;
        }
        let mut mount = Mount {
            kind: MountKind::Bind,
            source: Some(source),
            target: clean(target),
            read_only: false,
            options: Vec::new(),
            create: false,
        };
        for option in options.split(',').filter(|option| !option.is_empty()) {
            self.mount_option(&mut mount, option, node.extent, path, None)?;
        }
        // The parts of a short form are found where it stands.
        for field in ["source", "target", "readOnly", "options"] {
            self.mark(&format!("{path}.{field}"), node.extent);
        }
        Some((mount, node.extent))
    }

    fn long_mount(&mut self, node: &Node, path: &str) -> Option<(Mount, Extent)> {
        let o = self.object(node, path, &MOUNT)?;
        let (n, p) = self.need(&o, "type", "write type: bind or type: tmpfs")?;
        let kind = match self.mount_type(n, &p)? {
            Type::Known(kind) => kind,
            Type::Later => {
                let message = format!("{p}: mounts of this type are not supported by this version yet");
                self.report(n.extent, message, "later", Some("bind and tmpfs are".into()));
                return None;
            }
        };
        let source = match (kind, o.get("source")) {
            (MountKind::Bind, Some((n, p))) => {
                self.string(n, &p).and_then(|text| self.host_path(&text, n.extent, &p)).map(Some)
            }
            (MountKind::Bind, None) => {
                self.need(&o, "source", "a bind mount needs the host path that it shows");
                None
            }
            (MountKind::Tmpfs, Some((n, p))) => {
                self.report(n.extent, format!("{p}: a tmpfs mount has no source"), "leave it out", None);
                None
            }
            (MountKind::Tmpfs, None) => Some(None),
        };
        let target = self.need(&o, "target", "say where it appears in the container");
        let extent = target.as_ref().map_or(node.extent, |(n, _)| n.extent);
        let target = target.and_then(|(n, p)| self.inner_path(n, &p));
        let read_only = o.get("readOnly").and_then(|(n, p)| self.boolean(n, &p));
        let create = o.get("create").and_then(|(n, p)| {
            let create = self.boolean(n, &p)?;
            if create && kind == MountKind::Tmpfs {
                self.report(n.extent, format!("{p}: a tmpfs mount has nothing to create"), "leave it out", None);
            }
            Some(create)
        });
        let mut mount = Mount {
            kind,
            source: None,
            target: String::new(),
            read_only: read_only.unwrap_or_default(),
            options: Vec::new(),
            create: create.unwrap_or_default(),
        };
        if let Some((n, p)) = o.get("options") {
            for (n, p) in self.list(n, &p, Some("write a list, such as [rbind, noexec]")).unwrap_or_default() {
                if let Some(option) = self.string(n, &p) {
                    self.mount_option(&mut mount, &option, n.extent, &p, read_only);
                }
            }
        }
        mount.source = source?;
        mount.target = target?;
        Some((mount, extent))
    }

    fn mount_type(&mut self, node: &Node, path: &str) -> Option<Type> {
        let known = TYPES.map(|(word, _)| word);
        match &node.value {
            // What later versions know is not offered, but it is no spelling mistake either.
            Value::Scalar(text, _) if known.contains(&text.as_str()) => self.choice(node, path, &TYPES),
            _ => self.choice(node, path, &TYPES[..2]),
        }
    }

    /// One option; `ro` and `rw` become `readOnly`.
    fn mount_option(
        &mut self,
        mount: &mut Mount,
        option: &str,
        extent: Extent,
        path: &str,
        read_only: Option<bool>,
    ) -> Option<()> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        let tmpfs = mount.kind == MountKind::Tmpfs;
        let known = match value {
            None => MOUNT_FLAGS.contains(&name) && !(tmpfs && matches!(name, "bind" | "rbind")),
            Some(value) => tmpfs && TMPFS_OPTIONS.contains(&name) && !value.is_empty() && !value.contains(','),
        };
        if !known {
            let help = if matches!(name, "z" | "Z") {
                "SELinux labels are not supported; leave it out".to_owned()
            } else if !tmpfs && TMPFS_OPTIONS.contains(&name) {
                format!("{name}= is for tmpfs mounts")
            } else {
                match self.near(name, MOUNT_FLAGS.iter().chain(if tmpfs { &TMPFS_OPTIONS[..] } else { &[] }).copied()) {
                    Some(near) if near != name => format!("did you mean {near}?"),
                    _ => "options are those of mount(8), such as ro, rbind, noexec, nosuid, nodev".into(),
                }
            };
            self.report(
                extent,
                format!("{path}: unknown mount option {option:?}"),
                "not an option of this mount",
                Some(help),
            );
            return None;
        }
        match name {
            "ro" | "rw" => {
                let ro = name == "ro";
                if read_only.is_some_and(|said| said != ro) {
                    self.report(extent, format!("{path}: {name} contradicts readOnly"), "says the opposite", None);
                    return None;
                }
                mount.read_only = ro;
            }
            _ => mount.options.push(option.to_owned()),
        }
        Some(())
    }

    /// The host path of a bind mount, absolute.
    fn host_path(&mut self, source: &str, extent: Extent, path: &str) -> Option<String> {
        if source.starts_with('/') || source.starts_with('.') {
            return self.beside(source, extent, path);
        }
        let (message, label, help) = if source.is_empty() {
            (format!("{path}: the source is empty"), "nothing before the colon", "write an absolute host path".into())
        } else if source.starts_with('~') {
            (
                format!("{path}: ~ is not expanded"),
                "whose home is meant is not known here",
                "write the absolute path".to_owned(),
            )
        } else {
            let help = format!("for a host path write ./{source} or an absolute path");
            (format!("{path}: volumes are not supported by this version yet"), "names a volume", help)
        };
        self.report(extent, message, label, Some(help));
        None
    }

    /// A host path; a relative one is taken from the manifest's directory.
    pub(super) fn beside(&mut self, text: &str, extent: Extent, path: &str) -> Option<String> {
        if text.starts_with('/') {
            return Some(clean(text));
        }
        let base = self.base.as_ref().and_then(|base| base.to_str());
        let Some(base) = base else {
            let message = format!("{path}: a relative path needs a manifest file to be relative to");
            self.report(extent, message, "relative to nothing", Some("write the absolute path".into()));
            return None;
        };
        Some(clean(&format!("{base}/{text}")))
    }
}
