//! Words that other engines have and this one does not, with what to do instead; and slips of those that it has.

use std::ffi::OsString;

use super::args::Cli;
use super::names;
use crate::error::{Class, Fault, Result};

const NO_CHECKPOINT: &str =
    "running processes cannot be put away; stop it, and start it again in the same writable layer";
const SNAPSHOTS: &str = "snapshots come and go with images and containers: bayplan pull, create, rm, rmi";
const NO_NETWORK: &str =
    "a container has loopback only, or with hostNetwork (run --net-host) the node's network; networks come later";
const NO_VOLUME: &str = "mount a directory of the node: run --mount /srv/data:/data, or `mounts` in its manifest";
const NO_PODS: &str = "declare each container; containers that share a network come later";
const APPLY: &str = "declare it: bayplan apply -f FILE; bayplan explain bayplan shows how it is written";

/// What is tried, behind its group, and what to do instead.
const INSTEAD: &[(&str, &str)] = &[
    ("build", "build with buildah, podman or docker, then bring it here: bayplan load FILE, or bayplan pull"),
    ("buildx", "build with buildah, podman or docker, then bring it here: bayplan load FILE, or bayplan pull"),
    ("checkpoint", NO_CHECKPOINT),
    ("commit", "write a Containerfile and build it; of a tar file an image is made by bayplan image import --rootfs"),
    ("compose", APPLY),
    ("container checkpoint", NO_CHECKPOINT),
    ("container commit", "write a Containerfile and build it"),
    ("container cp", "bayplan cp SRC DEST"),
    ("container exec", "bayplan exec NAME COMMAND…, or ctr's form: bayplan task exec --exec-id ID NAME COMMAND…"),
    ("container kill", "bayplan kill NAME"),
    ("container logs", "bayplan logs NAME"),
    ("container prune", "bayplan ps --all shows them; bayplan rm NAME… removes those that are not needed"),
    ("container ps", "bayplan ps"),
    ("container restart", "bayplan restart NAME"),
    ("container restore", NO_CHECKPOINT),
    ("container run", "bayplan run IMAGE NAME [COMMAND…]"),
    ("container start", "bayplan start NAME, or ctr's form: bayplan task start NAME"),
    ("container stats", "bayplan stats"),
    ("container stop", "bayplan stop NAME"),
    ("container top", "bayplan top NAME"),
    ("container wait", "bayplan wait container/NAME --for exited"),
    ("content active", "bayplan get images shows what is on its way"),
    ("content diff", "bayplan snapshot tree shows which layers lie upon which"),
    ("content edit", "blobs are what their digests say; build another image"),
    ("content fetch-object", "bayplan content fetch IMAGE"),
    ("content ingest", "bayplan load FILE brings whole images"),
    ("content label", "blobs carry no labels; images do: bayplan image label"),
    ("content prune", "what nothing needs is collected by itself; at once: bayplan image prune"),
    ("content push-object", "bayplan push IMAGE"),
    ("context", "-a SOCKET names another node's socket"),
    ("cni", NO_NETWORK),
    ("convert", "skopeo copy converts between formats"),
    ("dns", NO_NETWORK),
    ("export", "the files of a container as a tar stream: bayplan cp NAME:/. -"),
    ("farm", "build with buildah, podman or docker, then bring it here: bayplan load FILE"),
    ("generate", "bayplan get container/NAME -o yaml is what can be applied again"),
    ("healthcheck", "bayplan describe container NAME shows whether it is ready"),
    ("image build", "build with buildah, podman or docker, then bring it here: bayplan load FILE, or bayplan pull"),
    (
        "image commit",
        "write a Containerfile and build it; of a tar file an image is made by bayplan image import --rootfs",
    ),
    ("image convert", "skopeo copy converts between formats"),
    ("image diff", "bayplan image tree shows whose layers are whose"),
    ("image history", "bayplan image inspect NAME has the steps that it was built by"),
    ("image scp", "bayplan save - IMAGE | ssh HOST bayplan load"),
    ("image search", "ask the registry: skopeo list-tags docker://HOST/NAME"),
    ("image sign", "sign with cosign"),
    ("image trust", "sign and verify with cosign"),
    ("import", "a root file system: bayplan image import --rootfs FILE; an archive of images: bayplan load FILE"),
    ("init", "no set-up is needed: the first command makes what it needs"),
    ("install", "install packages with the system's own tools"),
    ("kube", "bayplan apply -f FILE; pods come later"),
    ("leases", "what is being brought here is kept by itself"),
    ("lease", "what is being brought here is kept by itself"),
    ("machine", "bayplan runs containers on this machine"),
    ("manifest", "bayplan image inspect NAME shows an image's manifests"),
    ("mount", "an image's files: bayplan image mount IMAGE DIR; a container's: bayplan cp NAME:PATH DEST"),
    ("namespace use", "-n NAME chooses the namespace of a command"),
    ("network", NO_NETWORK),
    ("node", "bayplan is one node; bayplan info describes it"),
    ("oci", "bayplan inspect NAME has the OCI runtime spec of a container"),
    ("play", "bayplan apply -f FILE; pods come later"),
    ("plugin", "bayplan doctor shows what this node can do"),
    ("plugins", "bayplan doctor shows what this node can do"),
    ("pod", NO_PODS),
    ("pods", NO_PODS),
    ("port", "ports are not published yet; with --net-host a container's ports are the node's"),
    ("pprof", "bayplan info and bayplan status describe a running daemon"),
    ("rename", "declare it by its new name; by hand: bayplan rm OLD, bayplan run IMAGE NEW"),
    ("restore", NO_CHECKPOINT),
    ("rollback", "apply the manifest as it was before"),
    ("search", "ask the registry: skopeo list-tags docker://HOST/NAME"),
    ("secret", "secrets come later; until then mount a file that only root can read"),
    ("service", APPLY),
    ("shim", "bayplan describe container NAME shows its shim; it speaks containerd's Task API"),
    ("snapshot commit", SNAPSHOTS),
    ("snapshot diff", "bayplan snapshot tree shows which lie upon which"),
    ("snapshot info", "bayplan snapshot ls -o json has all that is known of each"),
    ("snapshot label", "snapshots carry no labels"),
    ("snapshot mounts", "an image's files: bayplan image mount IMAGE DIR"),
    ("snapshot mount", "an image's files: bayplan image mount IMAGE DIR"),
    ("snapshot prepare", SNAPSHOTS),
    ("snapshot rm", "they go with what needs them: bayplan rm, bayplan rmi; what is left over: bayplan image prune"),
    (
        "snapshot remove",
        "they go with what needs them: bayplan rm, bayplan rmi; what is left over: bayplan image prune",
    ),
    (
        "snapshot delete",
        "they go with what needs them: bayplan rm, bayplan rmi; what is left over: bayplan image prune",
    ),
    ("snapshot unpack", "bayplan pull unpacks what it brings"),
    ("snapshot view", "bayplan image mount IMAGE DIR"),
    ("stack", APPLY),
    ("swarm", APPLY),
    ("system", "bayplan info, bayplan status and bayplan doctor; to free space: bayplan image prune"),
    ("task checkpoint", NO_CHECKPOINT),
    ("task logs", "bayplan logs NAME"),
    ("task stats", "bayplan stats NAME, or bayplan task metrics NAME"),
    ("task top", "bayplan task ps NAME, or bayplan top NAME"),
    ("task update", "change `resources` in its manifest and apply it: limits change while it runs"),
    ("trust", "sign and verify with cosign"),
    ("umount", "bayplan image unmount DIR"),
    ("update", "change `resources` or `restart` in its manifest and apply it: both change while it runs"),
    ("volume", NO_VOLUME),
    ("volumes", NO_VOLUME),
];

/// The hidden verb of a group in which other words are names: what follows it is no verb of ours.
pub const INSTEAD_OF: &str = "instead-of";

/// Whether a word of `group` is one of those, so that there is something to say about it.
pub fn is_told(group: &str, word: &str) -> bool {
    INSTEAD.iter().any(|(tried, _)| tried.split_once(' ') == Some((group, word)))
}

/// Whether a word resembles a verb of `group`.
pub fn is_slip(group: &str, word: &str) -> bool {
    nearest_verb(group, word).is_some()
}

/// What is said of a word that is no verb (of `group`; empty: of bayplan itself).
pub fn unknown(group: &str, words: &[OsString]) -> Fault {
    let word = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let whole = if group.is_empty() { word.clone() } else { format!("{group} {word}") };
    let fault = Fault::new(Class::Usage, format!("bayplan has no {whole}"));
    if let Some((_, instead)) = INSTEAD.iter().find(|(tried, _)| *tried == whole) {
        return fault.help(*instead);
    }
    let before = if group.is_empty() { String::new() } else { format!("{group} ") };
    match nearest_verb(group, &word) {
        Some(near) => fault.help(format!("did you mean bayplan {before}{near}?")),
        None => fault.help(format!("bayplan {before}--help lists what there is")),
    }
}

fn nearest_verb(group: &str, word: &str) -> Option<String> {
    let tree = Cli::tree();
    let level = if group.is_empty() { Some(&tree) } else { tree.find_subcommand(group) };
    let known: Vec<&str> = level
        .into_iter()
        .flat_map(clap::Command::get_subcommands)
        .filter(|verb| !verb.is_hide_set())
        .flat_map(|verb| std::iter::once(verb.get_name()).chain(verb.get_visible_aliases()))
        .collect();
    names::nearest(word, known).map(str::to_owned)
}

/// The fault, for a verb that ends with it.
pub fn run(group: &str, words: &[OsString]) -> Result<u8> {
    Err(unknown(group, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_is_both_there_and_told_to_be_missing() {
        let tree = Cli::tree();
        for (tried, _) in INSTEAD {
            let mut words = tried.split(' ');
            let found = words.try_fold(&tree, |level, word| level.find_subcommand(word));
            assert!(found.is_none(), "bayplan {tried} is there");
        }
    }

    #[test]
    fn slips_are_told_from_strangers() {
        let help = |group: &str, word: &str| unknown(group, &[word.into()]).help.unwrap();
        assert_eq!(help("", "contianer"), "did you mean bayplan container?");
        assert_eq!(help("task", "kil"), "did you mean bayplan task kill?");
        assert_eq!(help("", "frobnicate"), "bayplan --help lists what there is");
        assert!(help("", "network").starts_with("a container has loopback only"));
    }
}
