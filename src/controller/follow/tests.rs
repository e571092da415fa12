//! Real files, the real kernel. Nothing sleeps: conditions are waited for, with a deadline.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;
use crate::controller::directory::DirectorySource;
use crate::controller::directory::tests::Words;
use crate::controller::scan::{Content, RootState};

const WINDOW: Duration = Duration::from_millis(50);
const DEADLINE: Duration = Duration::from_secs(20);

struct World {
    dir: tempfile::TempDir,
    follow: Follow,
    /// What the source would know: the last text of each file that is there.
    files: BTreeMap<String, String>,
    last: Option<Snapshot>,
    looks: usize,
}

impl World {
    async fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("m");
        std::fs::create_dir(&root).unwrap();
        for (name, text) in files {
            std::fs::write(root.join(name), text).unwrap();
        }
        Self::follow(dir, root).await
    }

    async fn follow(dir: tempfile::TempDir, root: PathBuf) -> Self {
        // An hour: what is seen here, the kernel told.
        let follow = Follow::start(&root, WINDOW, Duration::from_secs(3600));
        let mut world = Self { dir, follow, files: BTreeMap::new(), last: None, looks: 0 };
        world.look().await;
        world
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("m").join(name)
    }

    async fn look(&mut self) {
        let snapshot = tokio::time::timeout(DEADLINE, self.follow.next())
            .await
            .unwrap_or_else(|_| panic!("no look: {:?}", self.files));
        self.looks += 1;
        self.files.retain(|name, _| snapshot.scan.files.contains_key(name));
        for (name, file) in &snapshot.scan.files {
            match &file.content {
                Content::Read { text: Some(text), .. } => {
                    self.files.insert(name.clone(), String::from_utf8(text.clone()).unwrap());
                }
                Content::Read { text: None, .. } => {}
                Content::Writing => {
                    self.files.entry(name.clone()).or_insert_with(|| "(writing)".into());
                }
                Content::Bad(why) => {
                    self.files.insert(name.clone(), format!("({why})"));
                }
            }
        }
        self.last = Some(snapshot);
    }

    async fn until(&mut self, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "{:?} {:?}", self.files, self.last);
            self.look().await;
        }
    }

    async fn until_text(&mut self, name: &str, text: &str) {
        self.until(|world| world.files.get(name).is_some_and(|found| found == text)).await;
    }

    fn put_whole(&self, name: &str, text: &str) {
        let temporary = self.dir.path().join("temporary");
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(temporary, self.at(name)).unwrap();
    }

    fn root(&self) -> &RootState {
        &self.last.as_ref().unwrap().scan.root
    }
}

#[tokio::test]
async fn a_renamed_file_is_seen_at_once_and_an_idle_tree_is_not_looked_at() {
    let mut world = World::new(&[("a.yaml", "one")]).await;
    world.until_text("a.yaml", "one").await;
    let started = Instant::now();
    world.put_whole("b.yaml", "two");
    world.until_text("b.yaml", "two").await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    // Reading the tree is an event of its own; answering it would never end.
    let again = tokio::time::timeout(Duration::from_millis(300), world.follow.next()).await;
    assert!(again.is_err(), "{again:?}");
}

#[tokio::test]
async fn a_file_held_open_is_acted_on_when_it_is_closed_and_others_go_on() {
    let mut world = World::new(&[("a.yaml", "old")]).await;
    let mut writer = std::fs::File::create(world.at("a.yaml")).unwrap();
    writer.write_all(b"half").unwrap();
    writer.flush().unwrap();
    world.put_whole("other.yaml", "other");
    world.until_text("other.yaml", "other").await;
    assert_eq!(world.files["a.yaml"], "old");
    assert_eq!(world.last.as_ref().unwrap().scan.files["a.yaml"].content, Content::Writing);
    writer.write_all(b" and half").unwrap();
    world.put_whole("other.yaml", "again");
    world.until_text("other.yaml", "again").await;
    assert_eq!(world.files["a.yaml"], "old");
    drop(writer);
    world.until_text("a.yaml", "half and half").await;
}

#[tokio::test]
async fn editors_never_make_a_file_seem_gone() {
    let mut world = World::new(&[("x.yaml", "0"), ("other.yaml", "o")]).await;
    for round in 1..=5 {
        let text = round.to_string();
        match round % 3 {
            // vim: the old one becomes the backup, a new one is written, the backup goes.
            0 => {
                std::fs::write(world.at("4913"), "").unwrap();
                std::fs::remove_file(world.at("4913")).unwrap();
                std::fs::rename(world.at("x.yaml"), world.at("x.yaml~")).unwrap();
                std::fs::write(world.at("x.yaml"), &text).unwrap();
                std::fs::remove_file(world.at("x.yaml~")).unwrap();
            }
            // sed -i
            1 => {
                std::fs::write(world.at("sedAbCdEf"), &text).unwrap();
                std::fs::rename(world.at("sedAbCdEf"), world.at("x.yaml")).unwrap();
            }
            // In place.
            _ => std::fs::write(world.at("x.yaml"), &text).unwrap(),
        }
        world
            .until(|world| {
                assert!(world.files.contains_key("x.yaml"));
                assert_eq!(world.files.len(), 2, "{:?}", world.files);
                world.files["x.yaml"] == text
            })
            .await;
    }
}

#[tokio::test]
async fn a_new_directory_is_seen_with_what_is_put_into_it_at_once() {
    let mut world = World::new(&[]).await;
    for i in 0..40 {
        let deep = world.at(&format!("d{i}/sub"));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("x.yaml"), "new").unwrap();
        if i % 10 == 0 {
            world.look().await;
        }
    }
    world.until(|world| world.files.len() == 40).await;
    // And what comes later in it is seen too.
    std::fs::write(world.at("d7/sub/later.yaml"), "later").unwrap();
    world.until_text("d7/sub/later.yaml", "later").await;
    std::fs::create_dir(world.dir.path().join("elsewhere")).unwrap();
    std::fs::write(world.dir.path().join("elsewhere/y.yaml"), "y").unwrap();
    std::fs::rename(world.dir.path().join("elsewhere"), world.at("moved")).unwrap();
    world.until_text("moved/y.yaml", "y").await;
    std::fs::write(world.at("moved/y.yaml"), "changed").unwrap();
    world.until_text("moved/y.yaml", "changed").await;
}

#[tokio::test]
async fn a_burst_is_a_look_or_two() {
    let mut world = World::new(&[]).await;
    let before = world.looks;
    for i in 0..500 {
        world.put_whole(&format!("{i}.yaml"), "x");
    }
    world.until(|world| world.files.len() == 500).await;
    assert!(world.looks - before <= 5, "{} looks", world.looks - before);
}

#[tokio::test]
async fn the_directory_swapped_for_another_is_followed() {
    let mut world = World::new(&[("a.yaml", "one")]).await;
    let first = world.root().clone();
    let other = world.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("a.yaml"), "two").unwrap();
    std::fs::rename(world.at(""), world.dir.path().join("old")).unwrap();
    std::fs::rename(&other, world.at("")).unwrap();
    world.until_text("a.yaml", "two").await;
    assert_ne!(*world.root(), first);
    std::fs::write(world.at("b.yaml"), "here").unwrap();
    world.until_text("b.yaml", "here").await;
}

#[tokio::test]
async fn the_directory_removed_and_made_again_is_followed() {
    let mut world = World::new(&[("a.yaml", "one"), ("b.yaml", "two")]).await;
    std::fs::remove_dir_all(world.at("")).unwrap();
    world.until(|world| *world.root() == RootState::Missing).await;
    std::fs::create_dir(world.at("")).unwrap();
    std::fs::write(world.at("a.yaml"), "three").unwrap();
    world.until_text("a.yaml", "three").await;
}

#[tokio::test]
async fn a_directory_several_levels_of_which_are_missing_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("etc/bayplan/m");
    let mut world = World::follow(dir, root.clone()).await;
    assert_eq!(*world.root(), RootState::Missing);
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("a.yaml"), "one").unwrap();
    world.until_text("a.yaml", "one").await;
}

#[tokio::test]
async fn a_root_that_is_a_link_follows_its_swaps() {
    let dir = tempfile::tempdir().unwrap();
    for (tree, text) in [("1", "one"), ("2", "two")] {
        std::fs::create_dir_all(dir.path().join("git").join(tree)).unwrap();
        std::fs::write(dir.path().join("git").join(tree).join("a.yaml"), text).unwrap();
    }
    symlink("1", dir.path().join("git/current")).unwrap();
    symlink("git/current", dir.path().join("m")).unwrap();
    let root = dir.path().join("m");
    let mut world = World::follow(dir, root).await;
    world.until_text("a.yaml", "one").await;
    symlink("2", world.dir.path().join("git/next")).unwrap();
    std::fs::rename(world.dir.path().join("git/next"), world.dir.path().join("git/current")).unwrap();
    world.until_text("a.yaml", "two").await;
    std::fs::write(world.dir.path().join("git/2/a.yaml"), "three").unwrap();
    world.until_text("a.yaml", "three").await;
}

#[tokio::test]
async fn a_config_map_swap_is_one_change() {
    let mut world = World::new(&[]).await;
    let make = |world: &World, version: &str| {
        std::fs::create_dir(world.at(&format!("..{version}"))).unwrap();
        std::fs::write(world.at(&format!("..{version}/web.yaml")), version).unwrap();
        symlink(format!("..{version}"), world.at("..data_tmp")).unwrap();
        std::fs::rename(world.at("..data_tmp"), world.at("..data")).unwrap();
    };
    make(&world, "2024_01");
    symlink("..data/web.yaml", world.at("web.yaml")).unwrap();
    world.until_text("web.yaml", "2024_01").await;
    make(&world, "2024_02");
    std::fs::remove_dir_all(world.at("..2024_01")).unwrap();
    world
        .until(|world| {
            assert!(world.files["web.yaml"].starts_with("2024"), "{:?}", world.files);
            world.files["web.yaml"] == "2024_02"
        })
        .await;
}

#[tokio::test]
async fn what_becomes_readable_or_whole_is_seen_without_its_text_changing() {
    let mut world = World::new(&[]).await;
    symlink("target.data", world.at("link.yaml")).unwrap();
    world.until_text("link.yaml", "(is a link to target.data, which does not exist)").await;
    std::fs::write(world.at("target.data"), "now").unwrap();
    world.until_text("link.yaml", "now").await;
    std::fs::remove_file(world.at("link.yaml")).unwrap();
    nix::unistd::mkfifo(&world.at("link.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    world.until_text("link.yaml", "(is a FIFO, not a regular file)").await;
}

/// Unmounts what a test mounted, also when it panics.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_directory_mounted_over_and_unmounted_is_noticed() {
    let mut world = World::new(&[("a.yaml", "one")]).await;
    let first = world.root().clone();
    let flags = nix::mount::MsFlags::empty();
    if nix::mount::mount(Some("tmpfs"), &world.at(""), Some("tmpfs"), flags, None::<&str>).is_err() {
        return; // Not permitted here; the end-to-end tests run where it is.
    }
    let mounted = Mounted(world.at(""));
    world.until(|world| world.files.is_empty() && *world.root() != first).await;
    std::fs::write(world.at("b.yaml"), "on tmpfs").unwrap();
    world.until_text("b.yaml", "on tmpfs").await;
    drop(mounted);
    world.until(|world| *world.root() == first && world.files.len() == 1).await;
    assert_eq!(world.files["a.yaml"], "one");
}

#[tokio::test]
async fn a_look_by_hand_needs_no_event() {
    let mut world = World::new(&[]).await;
    let before = world.looks;
    world.follow.look_soon();
    world.look().await;
    assert_eq!(world.looks, before + 1);
}

#[tokio::test]
async fn a_look_in_the_middle_of_a_removal_does_not_call_it_done() {
    let mut world = World::new(&[("a.yaml", "a"), ("b.yaml", "b")]).await;
    let mut half = world.last.clone().unwrap().scan;
    half.files.remove("a.yaml");
    let look = |removals| Look { quiet: true, removals, writing: BTreeSet::new() };
    assert!(world.follow.snapshot(half.clone(), &look(true)).quiet, "events of removals had paused");

    world.follow.names.insert("a.yaml".into());
    assert!(!world.follow.snapshot(half, &look(false)).quiet, "made for another reason");
    // The next look comes without an event, and its word counts.
    world.look().await;
    assert!(world.last.as_ref().unwrap().quiet);
}

/// The whole source, as the daemon drives it.
struct Driven {
    world: World,
    source: DirectorySource,
}

impl Driven {
    async fn new(files: &[(&str, &str)]) -> Self {
        let mut driven = Self { world: World::new(files).await, source: DirectorySource::default() };
        driven.take();
        driven
    }

    fn take(&mut self) {
        let snapshot = self.world.last.as_ref().unwrap();
        self.source.update(&snapshot.scan, snapshot.quiet, &Words);
    }

    async fn until(&mut self, condition: impl Fn(&DirectorySource) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !condition(&self.source) {
            assert!(Instant::now() < deadline, "{:?}", self.source);
            self.world.look().await;
            self.take();
        }
    }
}

#[tokio::test]
async fn what_is_removed_at_once_is_held_and_what_is_removed_alone_goes() {
    let mut driven = Driven::new(&[("a.yaml", "a"), ("b.yaml", "b"), ("c.yaml", "c")]).await;
    assert_eq!(driven.source.desired().len(), 3);
    std::fs::remove_file(driven.world.at("a.yaml")).unwrap();
    driven.until(|source| source.desired().len() == 2).await;
    assert!(driven.source.held().is_none());
    for name in ["b.yaml", "c.yaml"] {
        std::fs::remove_file(driven.world.at(name)).unwrap();
    }
    driven.until(|source| source.held().is_some()).await;
    assert_eq!(driven.source.desired().len(), 2);
    std::fs::write(driven.world.at("b.yaml"), "b").unwrap();
    std::fs::write(driven.world.at("c.yaml"), "c=2").unwrap();
    driven.until(|source| source.held().is_none()).await;
    assert_eq!(driven.source.desired().len(), 2);
}

#[tokio::test]
async fn a_tree_that_is_removed_or_swapped_removes_nothing() {
    let mut driven = Driven::new(&[("a.yaml", "a"), ("b.yaml", "b")]).await;
    std::fs::remove_dir_all(driven.world.at("")).unwrap();
    driven.until(|source| source.held().is_some()).await;
    assert_eq!(driven.source.desired().len(), 2);
    std::fs::create_dir(driven.world.at("")).unwrap();
    driven.world.put_whole("a.yaml", "a=2");
    driven.until(|source| source.held().is_some_and(|held| held.files == ["b.yaml"])).await;
    assert_eq!(driven.source.desired().len(), 2);
    driven.world.put_whole("b.yaml", "b");
    driven.until(|source| source.held().is_none()).await;
}

#[tokio::test]
async fn a_file_system_that_does_not_notify_is_looked_at_by_the_clock() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("m");
    for name in ["m", "lower", "upper", "work"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let at = |name: &str| dir.path().join(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
    let flags = nix::mount::MsFlags::empty();
    if nix::mount::mount(Some("overlay"), &root, Some("overlay"), flags, Some(options.as_str())).is_err() {
        return; // Not permitted, or overlay on overlay; the end-to-end tests run where it is.
    }
    let _mounted = Mounted(root.clone());
    std::fs::write(root.join("a.yaml"), "one").unwrap();
    let mut follow = Follow::start(&root, WINDOW, Duration::from_millis(100));
    let mut texts = Vec::new();
    for _ in 0..4 {
        let snapshot = tokio::time::timeout(DEADLINE, follow.next()).await.unwrap();
        texts.extend(snapshot.scan.files.into_values().map(|file| file.content));
    }
    assert_eq!(follow.polling().as_deref(), Some("overlay does not notify of every change"));
    assert!(texts.iter().any(|content| matches!(content, Content::Read { text: Some(_), .. })), "{texts:?}");
}
