//! `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`, which Kubernetes and Docker give each container.
//!
//! A container with the node's network sees the node's files, read-only; one with its own gets files written
//! into its bundle. Whoever connects the network later writes them again with what it knows: the files are
//! replaced in place, so that a running container sees the change.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::mounts;
use crate::runtime::RuntimeError;

const HOSTNAME: &str = "hostname";
const HOSTS: &str = "hosts";
const RESOLV_CONF: &str = "resolv.conf";

/// What the files say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcFiles {
    /// The host name inside.
    pub hostname: String,
    /// The container's own addresses; none before a network is connected.
    pub addresses: Vec<IpAddr>,
    /// Further names, as lines of `/etc/hosts`.
    pub hosts: Vec<(IpAddr, Vec<String>)>,
    /// The whole of `/etc/resolv.conf`. `None`: the node's as it is now.
    pub resolv_conf: Option<String>,
}

/// Writes the three files into the bundle. Blocking.
pub fn write_etc_files(bundle: &Path, files: &EtcFiles) -> Result<(), RuntimeError> {
    let resolv_conf = match &files.resolv_conf {
        Some(text) => text.clone(),
        None => fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
    };
    for (name, content) in
        [(HOSTNAME, format!("{}\n", files.hostname)), (HOSTS, hosts(files)), (RESOLV_CONF, resolv_conf)]
    {
        let path = bundle.join(name);
        // Not by rename: the container has this very inode mounted. Readable for every user inside, whatever our umask.
        fs::write(&path, content)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o644)))
            .map_err(|error| RuntimeError::io("writing", path, error))?;
    }
    Ok(())
}

fn hosts(files: &EtcFiles) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    let loopback = [IpAddr::from([127, 0, 0, 1])];
    let own = if files.addresses.is_empty() { &loopback[..] } else { &files.addresses };
    // Writing to a String cannot fail.
    for address in own {
        let _ = writeln!(text, "{address}\t{}", files.hostname);
    }
    for (address, names) in &files.hosts {
        let _ = writeln!(text, "{address}\t{}", names.join(" "));
    }
    text
}

/// The mounts that show the files inside.
pub(super) fn etc_mounts(bundle: &Path, host_network: bool) -> Vec<Mount> {
    let own = |name: &str| mounts::bind(&format!("/etc/{name}"), &bundle.join(name), false);
    let of_node = |name: &str| {
        let path = PathBuf::from("/etc").join(name);
        // The file itself, since a container must not follow a link such as systemd-resolved's into its own root.
        let path = fs::canonicalize(path).ok().filter(|path| path.is_file())?;
        Some(mounts::bind(&format!("/etc/{name}"), &path, true))
    };
    if host_network {
        let mut built = vec![own(HOSTNAME)];
        built.extend([HOSTS, RESOLV_CONF].into_iter().filter_map(of_node));
        built
    } else {
        [HOSTNAME, HOSTS, RESOLV_CONF].into_iter().map(own).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_hold_names_and_addresses_and_are_written_in_place() {
        use std::os::unix::fs::MetadataExt;
        let bundle = tempfile::tempdir().unwrap();
        let mut files = EtcFiles { hostname: "web".into(), ..EtcFiles::default() };
        write_etc_files(bundle.path(), &files).unwrap();
        let hosts = bundle.path().join("hosts");
        assert!(fs::read_to_string(&hosts).unwrap().ends_with("127.0.0.1\tweb\n"));
        assert_eq!(fs::read_to_string(bundle.path().join("hostname")).unwrap(), "web\n");
        let before = fs::metadata(&hosts).unwrap().ino();
        files.addresses = vec!["10.1.2.3".parse().unwrap()];
        files.hosts = vec![("10.1.2.4".parse().unwrap(), vec!["db".into(), "db.shop".into()])];
        files.resolv_conf = Some("nameserver 10.1.2.1\n".into());
        write_etc_files(bundle.path(), &files).unwrap();
        assert!(fs::read_to_string(&hosts).unwrap().ends_with("10.1.2.3\tweb\n10.1.2.4\tdb db.shop\n"));
        assert_eq!(fs::metadata(&hosts).unwrap().ino(), before);
        assert_eq!(fs::read_to_string(bundle.path().join("resolv.conf")).unwrap(), "nameserver 10.1.2.1\n");
    }
}
