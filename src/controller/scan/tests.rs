use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use super::*;

struct Tree {
    dir: tempfile::TempDir,
    scanner: Scanner,
}

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("m")).unwrap();
        let scanner = Scanner::new(dir.path().join("m"));
        Self { dir, scanner }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("m").join(name)
    }

    fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        std::fs::write(self.at(name), text).unwrap();
    }

    fn link(&self, name: &str, target: &str) {
        symlink(target, self.at(name)).unwrap();
    }

    fn scan(&mut self) -> Scan {
        self.scanner.scan(&BTreeSet::new())
    }

    /// `name`, `name: why it is bad`, `name (writing)`.
    fn list(&mut self) -> Vec<String> {
        let word = |(name, file): (&String, &ScannedFile)| match &file.content {
            Content::Read { .. } => name.clone(),
            Content::Writing => format!("{name} (writing)"),
            Content::Bad(why) => format!("{name}: {why}"),
        };
        self.scan().files.iter().map(word).collect()
    }

    fn text(&mut self, name: &str) -> Option<String> {
        match &self.scan().files[name].content {
            Content::Read { text, .. } => text.clone().map(|text| String::from_utf8(text).unwrap()),
            other => panic!("{name}: {other:?}"),
        }
    }

    /// As if nothing had changed for long.
    fn age(&self, name: &str) {
        let old = SystemTime::now() - Duration::from_secs(3600);
        std::fs::File::options().append(true).open(self.at(name)).unwrap().set_modified(old).unwrap();
    }
}

#[test]
fn manifests_are_found_at_any_depth_and_droppings_are_not() {
    let mut tree = Tree::new();
    for name in ["b.yaml", "a.yml", "sub/deep/c.json", "sub.yaml", "x.bak.yaml"] {
        tree.put(name, name);
    }
    for name in [
        ".hidden.yaml",
        ".#lock.yaml",
        "#auto.yaml#",
        "a.yaml~",
        ".a.yaml.swp",
        "a.yaml.swp",
        "4913",
        "a.yaml.bak",
        "a.yaml.orig",
        "a.yaml.tmp",
        "README.md",
        "yaml",
        ".git/config.yaml",
        "a.YAML",
    ] {
        tree.put(name, "not read");
    }
    assert_eq!(tree.list(), ["a.yml", "b.yaml", "sub.yaml", "sub/deep/c.json", "x.bak.yaml"]);
    assert_eq!(tree.text("a.yml").as_deref(), None, "handed out once");
}

#[test]
fn what_is_no_regular_file_is_named_and_never_waited_for() {
    let mut tree = Tree::new();
    nix::unistd::mkfifo(&tree.at("fifo.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(tree.at("socket.yaml")).unwrap();
    std::fs::create_dir(tree.at("dir.yaml")).unwrap();
    tree.link("dangling.yaml", "nowhere");
    tree.link("loop.yaml", "loop.yaml");
    tree.link("outside.yaml", "/etc/passwd");
    tree.link("up.yaml", "../../../../../../../../../etc/passwd");
    tree.link("device.yaml", "null");
    tree.link("to-fifo.yaml", "fifo.yaml");
    tree.put("good.yaml", "good");
    let list = tree.list();
    assert_eq!(
        list,
        [
            "dangling.yaml: is a link to nowhere, which does not exist",
            "device.yaml: is a link to null, which does not exist",
            "dir.yaml: is a directory, not a regular file",
            "fifo.yaml: is a FIFO, not a regular file",
            "good.yaml",
            "loop.yaml: is a link to loop.yaml that cannot be followed: Too many levels of symbolic links (os error 40)",
            "outside.yaml: is a link to /etc/passwd, outside the manifest directory",
            "socket.yaml: is a socket, not a regular file",
            "to-fifo.yaml: is a link to a FIFO, not to a regular file",
            "up.yaml: is a link to ../../../../../../../../../etc/passwd, outside the manifest directory",
        ]
    );
}

#[test]
fn a_file_of_11_mib_is_refused_by_its_size() {
    let mut tree = Tree::new();
    std::fs::File::create(tree.at("large.yaml")).unwrap().set_len(11 << 20).unwrap();
    std::fs::File::create(tree.at("limit.yaml")).unwrap().set_len(MAX_BYTES).unwrap();
    assert_eq!(tree.list(), ["large.yaml: is 11534336 bytes long; a manifest holds at most 4 MiB", "limit.yaml"]);
}

#[test]
fn links_inside_the_tree_are_followed_and_are_no_second_declaration() {
    let mut tree = Tree::new();
    tree.put(".store/real", "web");
    tree.put("plain.yaml", "plain");
    tree.put(".trees/1/sub/deep.yaml", "deep");
    tree.link("link.yaml", ".store/real");
    tree.link("again.yaml", "plain.yaml");
    tree.link("current", ".trees/1");
    tree.link(".trees/1/circle", "..");
    let absolute = tree.at(".store/real");
    tree.link("absolute.yaml", absolute.to_str().unwrap());
    tree.link("outside", "/etc");
    tree.link("note", "/etc/passwd");
    assert_eq!(
        tree.list(),
        [
            "absolute.yaml",
            "current/sub/deep.yaml",
            "link.yaml",
            "outside: is a link to /etc, outside the manifest directory",
            "plain.yaml"
        ]
    );
}

#[test]
fn a_config_map_is_read_through_its_links() {
    let mut tree = Tree::new();
    tree.put("..2024_01/web.yaml", "one");
    tree.link("..data", "..2024_01");
    tree.link("web.yaml", "..data/web.yaml");
    assert_eq!(tree.text("web.yaml").as_deref(), Some("one"));
    tree.put("..2024_02/web.yaml", "two");
    tree.link("..data_tmp", "..2024_02");
    std::fs::rename(tree.at("..data_tmp"), tree.at("..data")).unwrap();
    assert_eq!(tree.text("web.yaml").as_deref(), Some("two"));
    assert_eq!(tree.list(), ["web.yaml"]);
}

#[test]
fn a_directory_that_was_swapped_for_a_link_is_not_left_the_tree_by() {
    let mut tree = Tree::new();
    std::fs::create_dir(tree.dir.path().join("secret")).unwrap();
    std::fs::write(tree.dir.path().join("secret/s.yaml"), "secret").unwrap();
    tree.link("sub", "../secret");
    assert_eq!(tree.list(), ["sub: is a link to ../secret, outside the manifest directory"]);
}

#[test]
fn what_is_open_for_writing_is_left_alone() {
    let mut tree = Tree::new();
    let mut writer = std::fs::File::create(tree.at("a.yaml")).unwrap();
    writer.write_all(b"half").unwrap();
    let _reader = std::fs::File::open(tree.at("a.yaml")).unwrap();
    tree.put("b.yaml", "whole");
    assert_eq!(tree.list(), ["a.yaml (writing)", "b.yaml"]);
    drop(writer);
    assert_eq!(tree.text("a.yaml").as_deref(), Some("half"));
}

#[test]
fn a_rewrite_within_the_clock_s_grain_is_seen() {
    let mut tree = Tree::new();
    tree.put("a.yaml", "one");
    tree.scan();
    let times = std::fs::metadata(tree.at("a.yaml")).unwrap().modified().unwrap();
    tree.put("a.yaml", "two");
    let file = std::fs::File::options().append(true).open(tree.at("a.yaml")).unwrap();
    file.set_modified(times).unwrap();
    drop(file);
    assert_eq!(tree.text("a.yaml").as_deref(), Some("two"));
}

#[test]
fn the_same_text_is_handed_out_once_whatever_happened_to_the_file() {
    let mut tree = Tree::new();
    tree.put("a.yaml", "one");
    assert_eq!(tree.text("a.yaml").as_deref(), Some("one"));
    tree.put("a.yaml", "one");
    assert_eq!(tree.text("a.yaml"), None);
    tree.age("a.yaml");
    assert_eq!(tree.text("a.yaml"), None);
    tree.scanner.forget();
    assert_eq!(tree.text("a.yaml").as_deref(), Some("one"));
}

#[test]
fn the_directory_itself_may_be_missing_or_a_file() {
    let mut tree = Tree::new();
    tree.put("a.yaml", "one");
    let RootState::Present(first) = tree.scan().root else { panic!() };
    std::fs::rename(tree.at(""), tree.dir.path().join("away")).unwrap();
    assert_eq!(tree.scan().root, RootState::Missing);
    std::fs::write(tree.dir.path().join("m"), "").unwrap();
    assert_eq!(tree.scan().root, RootState::Unreadable("Not a directory (os error 20)".into()));
    std::fs::remove_file(tree.dir.path().join("m")).unwrap();
    std::fs::create_dir(tree.at("")).unwrap();
    let RootState::Present(second) = tree.scan().root else { panic!() };
    assert_ne!(first, second);
}

#[test]
fn too_deep_and_too_many_are_out_of_sight_not_gone() {
    let mut tree = Tree::new();
    let deepest = format!("{}x.yaml", "d/".repeat(MAX_DEPTH));
    tree.put(&deepest, "read");
    tree.put(&format!("{}x.yaml", "d/".repeat(MAX_DEPTH + 1)), "not read");
    let scan = tree.scan();
    assert_eq!(scan.files.keys().collect::<Vec<_>>(), [&deepest]);
    assert_eq!(scan.blind.first().unwrap().reason, "is nested deeper than 16 directories and is not read");

    tree.put("one", "text");
    for i in 0..MAX_FILES {
        std::fs::hard_link(tree.at("one"), tree.at(&format!("{i:05}.yaml"))).unwrap();
    }
    let scan = tree.scan();
    assert_eq!(scan.files.len(), MAX_FILES);
    assert!(scan.blind.iter().any(|blind| blind.dir.is_empty()), "the rest counts as unseen");
}

#[test]
fn names_that_are_not_utf_8_are_read_too() {
    use std::os::unix::ffi::OsStrExt;
    let mut tree = Tree::new();
    std::fs::write(tree.at("").join(std::ffi::OsStr::from_bytes(b"\xff.yaml")), "x").unwrap();
    assert_eq!(tree.list(), ["\u{fffd}.yaml"]);
}
