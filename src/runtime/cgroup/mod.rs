//! The cgroup of each container: its path in a spec, and taking away what is left of it.
//!
//! Invariant: nothing outside `<parent>` is ever looked into, signalled or removed. On v1 and hybrid nodes a
//! container has a directory of the same name in every hierarchy.
//!
//! With the cgroupfs driver the path is `<parent>/<namespace>/<id>`. systemd has no room for a level of
//! namespaces, so there it is `<slice>/bayplan-<namespace>-<id>.scope`, with `-` of the namespace written
//! `_` (which no name holds), so that two containers never share a scope.

mod leftovers;

use std::fmt;
use std::path::{Path, PathBuf};

use super::{HostFacts, RuntimeError};

pub use leftovers::{leftovers, prune, remove};

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// `runc`, by making directories.
    Cgroupfs,
    /// systemd, as transient scopes.
    Systemd,
}

impl CgroupDriver {
    /// What `driver = "auto"` means: systemd where it is the init.
    pub fn auto(host: &HostFacts) -> Self {
        if host.systemd { Self::Systemd } else { Self::Cgroupfs }
    }
}

/// The parent of the cgroups of one bayplan instance: an absolute path of plain names, `/bayplan`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupParent(PathBuf);

impl CgroupParent {
    /// Checks a configured parent: absolute, below the root, without `.` or `..`.
    pub fn new(path: &str) -> Result<Self, RuntimeError> {
        let wrong = || RuntimeError::BadName { what: "cgroup parent", name: path.to_owned() };
        let inner = path.strip_prefix('/').ok_or_else(wrong)?;
        for name in inner.split('/') {
            checked("cgroup parent", name).map_err(|_| wrong())?;
        }
        Ok(Self(PathBuf::from(path)))
    }

    /// What our scopes' names begin with: the slice's name, because units are named for the whole machine and
    /// two instances may have containers of the same name.
    fn scopes(&self) -> String {
        format!("{}-", self.names().map(|name| name.replace('-', "_")).collect::<Vec<_>>().join("-"))
    }

    /// The systemd slice: `/bayplan` is `bayplan.slice`, `/a/b` is `a-b.slice`, which systemd puts into
    /// `a.slice`. A `-` in a name would nest too, so it becomes `_`.
    pub fn slice(&self) -> String {
        let names = self.names().map(|name| name.replace('-', "_")).collect::<Vec<_>>();
        format!("{}.slice", names.join("-"))
    }

    /// Below a hierarchy's mount point.
    fn relative(&self, driver: CgroupDriver) -> PathBuf {
        match driver {
            CgroupDriver::Cgroupfs => self.names().collect(),
            CgroupDriver::Systemd => {
                let mut path = PathBuf::new();
                let mut name = String::new();
                for part in self.names() {
                    if !name.is_empty() {
                        name.push('-');
                    }
                    name.push_str(&part.replace('-', "_"));
                    path.push(format!("{name}.slice"));
                }
                path
            }
        }
    }

    fn names(&self) -> impl Iterator<Item = String> {
        self.0.components().skip(1).map(|part| part.as_os_str().to_string_lossy().into_owned())
    }
}

impl fmt::Display for CgroupParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// A container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupPath {
    parent: CgroupParent,
    namespace: String,
    id: String,
}

impl CgroupPath {
    /// The cgroup of a container below a parent such as `/bayplan`. The names are checked, so that no path
    /// made of them leads elsewhere.
    pub fn new(parent: &str, namespace: &str, id: &str) -> Result<Self, RuntimeError> {
        Self::below(&CgroupParent::new(parent)?, namespace, id)
    }

    /// The same, below a parent that is checked already.
    pub fn below(parent: &CgroupParent, namespace: &str, id: &str) -> Result<Self, RuntimeError> {
        Ok(Self {
            parent: parent.clone(),
            namespace: checked("namespace", namespace)?.to_owned(),
            id: checked("container", id)?.to_owned(),
        })
    }

    /// The container's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `linux.cgroupsPath` of the runtime spec: `/bayplan/shop/web`, or `bayplan.slice:bayplan-shop:web` with
    /// systemd, which becomes `bayplan-shop-web.scope`.
    pub fn for_spec(&self, driver: CgroupDriver) -> String {
        match driver {
            CgroupDriver::Cgroupfs => format!("/{}", self.relative(driver).display()),
            CgroupDriver::Systemd => {
                format!("{}:{}{}:{}", self.parent.slice(), self.parent.scopes(), escaped(&self.namespace), self.id)
            }
        }
    }

    /// Below a hierarchy's mount point.
    fn relative(&self, driver: CgroupDriver) -> PathBuf {
        let parent = self.parent.relative(driver);
        match driver {
            CgroupDriver::Cgroupfs => parent.join(&self.namespace).join(&self.id),
            CgroupDriver::Systemd => {
                parent.join(format!("{}{}-{}.scope", self.parent.scopes(), escaped(&self.namespace), self.id))
            }
        }
    }

    /// Its directories, one a hierarchy, whether they exist or not.
    pub fn everywhere(&self, host: &HostFacts, driver: CgroupDriver) -> Vec<PathBuf> {
        let relative = self.relative(driver);
        host.cgroup_mounts.all().map(|mount| mount.join(&relative)).collect()
    }

    /// Its directories that exist, one a hierarchy.
    pub(crate) fn directories(&self, host: &HostFacts, driver: CgroupDriver) -> Vec<PathBuf> {
        let relative = self.relative(driver);
        host.cgroup_mounts.all().map(|mount| mount.join(&relative)).filter(|path| path.is_dir()).collect()
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.parent, self.namespace, self.id)
    }
}

fn escaped(namespace: &str) -> String {
    namespace.replace('-', "_")
}

/// A name that is one path component and nothing else.
pub(crate) fn checked<'a>(what: &'static str, name: &'a str) -> Result<&'a str, RuntimeError> {
    // NAME_MAX, less what `.scope` and the like add.
    let bad = name.is_empty() || name.len() > 200 || matches!(name, "." | "..") || name.contains(['/', '\0', ':']);
    if bad {
        return Err(RuntimeError::BadName { what, name: name.to_owned() });
    }
    Ok(name)
}

/// The container behind a scope's directory name.
fn of_scope(parent: &CgroupParent, name: &str) -> Option<CgroupPath> {
    let (namespace, id) = name.strip_prefix(&parent.scopes())?.strip_suffix(".scope")?.split_once('-')?;
    CgroupPath::below(parent, &namespace.replace('_', "-"), id).ok()
}

/// Whether a path lies strictly below a parent; the last guard before anything is removed.
fn is_below(path: &Path, parent: &Path) -> bool {
    path != parent && path.starts_with(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_what_runc_and_systemd_expect() {
        for (parent, namespace, cgroupfs, systemd, scope) in [
            (
                "/bayplan",
                "shop",
                "/bayplan/shop/web-1",
                "bayplan.slice:bayplan-shop:web-1",
                "bayplan.slice/bayplan-shop-web-1.scope",
            ),
            (
                "/bayplan-1a2b",
                "my-shop",
                "/bayplan-1a2b/my-shop/web-1",
                "bayplan_1a2b.slice:bayplan_1a2b-my_shop:web-1",
                "bayplan_1a2b.slice/bayplan_1a2b-my_shop-web-1.scope",
            ),
            (
                "/a/b",
                "k8s.io",
                "/a/b/k8s.io/web-1",
                "a-b.slice:a-b-k8s.io:web-1",
                "a.slice/a-b.slice/a-b-k8s.io-web-1.scope",
            ),
        ] {
            let path = CgroupPath::new(parent, namespace, "web-1").unwrap();
            assert_eq!(path.for_spec(CgroupDriver::Cgroupfs), cgroupfs);
            assert_eq!(path.for_spec(CgroupDriver::Systemd), systemd);
            let relative = path.relative(CgroupDriver::Systemd);
            assert_eq!(relative, PathBuf::from(scope));
            let name = relative.file_name().unwrap().to_str().unwrap();
            assert_eq!(of_scope(&path.parent, name).unwrap(), path);
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for (parent, namespace, id) in [
            ("/", "a", "b"),
            ("bayplan", "a", "b"),
            ("/bayplan/..", "a", "b"),
            ("/bayplan//x", "a", "b"),
            ("/bayplan", "..", "b"),
            ("/bayplan", "a/b", "b"),
            ("/bayplan", "a", ""),
            ("/bayplan", "a", "b:c"),
        ] {
            assert!(CgroupPath::new(parent, namespace, id).is_err(), "{parent} {namespace} {id}");
        }
    }
}
