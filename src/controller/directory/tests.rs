use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::controller::scan::{Blind, ScannedFile};
use crate::manifest::{Metadata, NamespaceSpec, Place, Resource, Spec};
use crate::plan::Source;

/// One resource a word, `name` or `name=version`; `!` is a syntax error; `>name` needs `name`.
pub(in crate::controller) struct Words;

impl Parser for Words {
    fn parse(&self, file: &str, _: &Path, text: &[u8]) -> Result<Vec<Declared>, Vec<Diagnostic>> {
        let text = std::str::from_utf8(text).unwrap();
        if text.contains('!') {
            return Err(vec![report::file(file, "does not parse")]);
        }
        Ok(text.split_whitespace().enumerate().map(|(line, word)| declared(file, line + 1, word)).collect())
    }

    fn check(&self, set: &[&Declared]) -> Vec<(ResourceKey, Diagnostic)> {
        let missing = |one: &&&Declared| {
            let needs = one.resource.metadata.annotations.get("needs");
            needs.is_some_and(|needs| !set.iter().any(|other| other.resource.metadata.name == *needs))
        };
        set.iter().filter(missing).map(|one| (one.resource.key(), report::file("tag", "points at nothing"))).collect()
    }
}

fn declared(file: &str, line: usize, word: &str) -> Declared {
    let (name, version) = word.split_once('=').unwrap_or((word, ""));
    let mut metadata = Metadata { name: name.replace('>', "to-"), ..Metadata::default() };
    metadata.labels.insert("version".into(), version.into());
    if let Some(needs) = name.strip_prefix('>') {
        metadata.annotations.insert("needs".into(), needs.into());
    }
    Declared {
        resource: Resource { metadata, spec: Spec::Namespace(NamespaceSpec {}) },
        source: Source::Directory(file.into()),
        place: Some(Place { file: file.into(), line: u32::try_from(line).unwrap(), column: 1 }),
        fields: BTreeMap::new(),
    }
}

/// A directory, its source, and a disk that keeps what the source asks to be kept.
struct World {
    source: DirectorySource,
    scan: Scan,
    rows: BTreeMap<String, LastGood>,
    memory: Memory,
}

impl World {
    fn new(files: &[(&str, &str)]) -> Self {
        let root = RootState::Present(RootIdentity { dev: 1, ino: 1 });
        let scan = Scan { root, files: BTreeMap::new(), blind: BTreeSet::new(), recheck: None };
        let mut world =
            Self { source: DirectorySource::default(), scan, rows: BTreeMap::new(), memory: Memory::default() };
        for (name, text) in files {
            world.put(name, text);
        }
        world.look();
        world
    }

    fn put(&mut self, name: &str, text: &str) {
        let text = text.as_bytes().to_vec();
        self.content(name, Content::Read { hash: Digest::of(&text), text: Some(text) });
    }

    fn content(&mut self, name: &str, content: Content) {
        self.scan.files.insert(name.into(), ScannedFile { path: PathBuf::from("/m").join(name), content });
    }

    fn rm(&mut self, name: &str) {
        self.scan.files.remove(name).unwrap();
    }

    fn root(&mut self, ino: u64) {
        self.scan.root = RootState::Present(RootIdentity { dev: 1, ino });
    }

    fn look(&mut self) -> Outcome {
        let outcome = self.source.update(&self.scan.clone(), true, &Words);
        self.keep(outcome)
    }

    fn look_while_events_go_on(&mut self) -> Outcome {
        let outcome = self.source.update(&self.scan.clone(), false, &Words);
        self.keep(outcome)
    }

    fn confirm(&mut self) -> Outcome {
        let outcome = self.source.confirm_removal(&Words);
        self.keep(outcome)
    }

    fn keep(&mut self, outcome: Outcome) -> Outcome {
        for file in &outcome.persist.delete {
            self.rows.remove(file);
        }
        for row in &outcome.persist.save {
            // As it would come back from the database.
            let stored = serde_json::from_str(&serde_json::to_string(row).unwrap()).unwrap();
            self.rows.insert(row.file.clone(), stored);
        }
        if let Some(memory) = &outcome.persist.memory {
            self.memory = serde_json::from_str(&serde_json::to_string(memory).unwrap()).unwrap();
        }
        outcome
    }

    fn restart(&mut self) {
        self.source = DirectorySource::restore(self.rows.values().cloned().collect(), self.memory.clone());
    }

    /// `name` or `name=version`, sorted.
    fn wanted(&self) -> String {
        let word = |one: &Declared| match one.resource.metadata.labels["version"].as_str() {
            "" => one.resource.metadata.name.clone(),
            version => format!("{}={version}", one.resource.metadata.name),
        };
        self.source.desired().values().map(word).collect::<Vec<_>>().join(" ")
    }

    fn held(&self) -> String {
        self.source.held().map(|held| held.to_string()).unwrap_or_default()
    }
}

fn messages(diagnostics: &[Diagnostic]) -> Vec<String> {
    diagnostics.iter().map(|one| one.message.clone()).collect()
}

#[test]
fn files_come_change_and_go() {
    let mut world = World::new(&[("a.yaml", "web db"), ("b.yaml", "cache")]);
    assert_eq!(world.wanted(), "cache db web");
    world.put("a.yaml", "web=2");
    assert!(world.look().changed);
    assert_eq!(world.wanted(), "cache web=2");
    world.rm("b.yaml");
    assert!(world.look().changed);
    assert_eq!(world.wanted(), "web=2");
    world.rm("a.yaml");
    assert!(world.look().changed, "the only file's removal is a removal");
    assert_eq!((world.wanted(), world.held()), (String::new(), String::new()));
    assert!(world.rows.is_empty());
}

#[test]
fn an_unchanged_tree_changes_and_stores_nothing_also_after_a_restart() {
    let mut world = World::new(&[("a.yaml", "web"), ("b.yaml", "web cache"), ("c.yaml", "!")]);
    assert_eq!(world.look(), Outcome::default());
    world.restart();
    let outcome = world.look();
    assert!(!outcome.changed && outcome.persist.is_empty(), "{outcome:?}");
    assert_eq!(outcome.reports.len(), 2, "a new daemon says again what is wrong");
}

#[test]
fn a_bad_file_keeps_its_last_good_resources_and_is_reported_once() {
    let mut world = World::new(&[("a.yaml", "web"), ("b.yaml", "cache")]);
    world.put("a.yaml", "web=2 !");
    world.put("b.yaml", "cache=2");
    let outcome = world.look();
    assert_eq!(messages(&outcome.reports), ["a.yaml does not parse"]);
    assert_eq!(world.wanted(), "cache=2 web");
    assert_eq!(world.look().reports, []);
    assert_eq!(world.source.problems().len(), 1);

    world.restart();
    assert_eq!(world.wanted(), "cache=2 web", "a daemon that starts while a file is broken keeps what ran");
    world.look();
    assert_eq!(world.wanted(), "cache=2 web");

    world.content("a.yaml", Content::Bad("is a FIFO, not a regular file".into()));
    assert_eq!(messages(&world.look().reports), ["a.yaml is a FIFO, not a regular file"]);
    world.put("a.yaml", "web=3");
    assert_eq!(world.look().mended, ["a.yaml"]);
    assert_eq!(world.wanted(), "cache=2 web=3");
    assert_eq!(world.source.problems(), []);
}

#[test]
fn a_file_cut_to_nothing_keeps_its_resources_and_one_with_a_comment_has_none() {
    let mut world = World::new(&[("a.yaml", "a"), ("b.yaml", "b")]);
    world.put("a.yaml", "");
    let outcome = world.look();
    assert_eq!(messages(&outcome.reports), ["a.yaml is empty"]);
    assert_eq!((outcome.changed, world.wanted().as_str()), (false, "a b"));
    // A start that finds it so knows no better.
    world.restart();
    assert_eq!((world.look().changed, world.wanted().as_str()), (false, "a b"));
    world.put("a.yaml", "\n");
    let outcome = world.look();
    assert_eq!((outcome.mended, world.wanted().as_str()), (vec!["a.yaml".to_owned()], "b"));
    // Nothing was lost in this one.
    world.put("a.yaml", "");
    world.put("c.yaml", "");
    assert!(world.look().reports.is_empty() && world.source.problems().is_empty());
}

#[test]
fn mending_a_file_back_to_its_last_good_text_mends_it() {
    let mut world = World::new(&[("a.yaml", "web")]);
    world.put("a.yaml", "!");
    world.look();
    world.put("a.yaml", "web");
    assert_eq!(world.look().mended, ["a.yaml"]);
    assert_eq!(world.source.problems(), []);
}

#[test]
fn a_file_being_written_is_left_alone_and_is_not_gone() {
    let mut world = World::new(&[("a.yaml", "web")]);
    world.content("a.yaml", Content::Writing);
    world.content("new.yaml", Content::Writing);
    let outcome = world.look();
    assert!(!outcome.changed && outcome.reports.is_empty());
    assert_eq!(world.wanted(), "web");
    assert_eq!(world.source.writing().len(), 2);
    world.put("new.yaml", "cache");
    assert!(world.look().changed);
    assert_eq!(world.wanted(), "cache web");
}

#[test]
fn of_a_resource_declared_twice_no_new_version_is_taken() {
    let mut world = World::new(&[("a.yaml", "web=1 db")]);
    world.put("b.yaml", "web=2 cache");
    let outcome = world.look();
    assert_eq!(world.wanted(), "cache db web=1", "others of both files go on");
    let problem = &outcome.reports[0];
    assert_eq!(problem.message, "namespace web is declared twice");
    assert_eq!(problem.place.to_string(), "b.yaml:1:1");
    assert_eq!(problem.other.as_ref().unwrap().to_string(), "a.yaml:1:1");

    world.put("a.yaml", "web=3 db");
    assert_eq!(world.look().reports, [], "said once");
    assert_eq!(world.wanted(), "cache db web=1");
    world.restart();
    world.look();
    assert_eq!(world.wanted(), "cache db web=1", "though no file says so any more");

    world.put("a.yaml", "db");
    world.look();
    assert_eq!(world.wanted(), "cache db web=2", "one of the two went, the other is taken");
    assert_eq!(world.source.problems(), []);
}

#[test]
fn declared_twice_from_the_start_none_is_taken() {
    let mut world = World::new(&[("a.yaml", "web=1 web=2"), ("b.yaml", "db")]);
    assert_eq!(world.wanted(), "db");
    world.restart();
    world.look();
    assert_eq!(world.wanted(), "db");
}

#[test]
fn a_resource_that_is_wrong_among_the_others_harms_only_itself() {
    let mut world = World::new(&[("a.yaml", "web >db"), ("b.yaml", "cache")]);
    assert_eq!(world.wanted(), "cache web");
    assert_eq!(messages(&world.source.problems()), ["tag points at nothing"]);
    world.restart();
    world.look();
    assert_eq!(world.wanted(), "cache web", "what was refused before a restart is refused after it");
    world.put("b.yaml", "cache db");
    world.look();
    assert_eq!(world.wanted(), "cache db to-db web");
    // Its target goes: the version in force stays, and it is said why.
    world.put("b.yaml", "cache");
    world.look();
    assert_eq!(world.wanted(), "cache to-db web");
    world.restart();
    world.look();
    assert_eq!(world.wanted(), "cache to-db web");
}

#[test]
fn all_of_several_vanishing_at_once_is_held_until_a_person_confirms() {
    let mut world = World::new(&[("a.yaml", "web"), ("b.yaml", "db"), ("bad.yaml", "!")]);
    world.scan.files.clear();
    let outcome = world.look();
    assert!(!outcome.changed);
    assert_eq!(outcome.held.unwrap().files, ["a.yaml", "b.yaml"]);
    assert_eq!(
        world.held(),
        "held: 2 files vanished at once: a.yaml, b.yaml; bayplan sync --confirm-removal releases them"
    );
    assert_eq!(world.wanted(), "db web");
    assert_eq!(world.look().held, None, "said once");
    world.restart();
    world.look();
    assert_eq!(world.wanted(), "db web");
    assert_eq!(world.source.held().unwrap().files.len(), 2);

    // A newcomer acts meanwhile, and its removal alone is a removal.
    world.put("c.yaml", "cache");
    world.look();
    assert_eq!(world.wanted(), "cache db web");
    world.rm("c.yaml");
    world.look();
    assert_eq!(world.wanted(), "db web");

    assert!(world.confirm().changed);
    assert_eq!((world.wanted(), world.held()), (String::new(), String::new()));
    assert!(world.rows.is_empty());
}

#[test]
fn held_files_that_come_back_are_as_before() {
    let mut world = World::new(&[("a.yaml", "web"), ("b.yaml", "db")]);
    world.scan.files.clear();
    world.look();
    world.put("a.yaml", "web=2");
    world.look();
    assert_eq!(world.wanted(), "db web=2");
    assert_eq!(world.source.held().unwrap().files, ["b.yaml"]);
    // Another file takes over what is held.
    world.put("c.yaml", "db=2");
    world.look();
    assert_eq!((world.wanted(), world.held()), ("db=2 web=2".into(), String::new()));
    world.restart();
    world.look();
    assert_eq!(world.wanted(), "db=2 web=2");
}

#[test]
fn all_gone_while_the_daemon_was_down_is_held_too() {
    let mut world = World::new(&[("a.yaml", "web"), ("b.yaml", "db")]);
    world.restart();
    world.scan.files.clear();
    world.look();
    assert_eq!(world.wanted(), "db web");
    assert!(world.source.held().is_some());
}

#[test]
fn a_removal_that_takes_longer_than_a_look_is_still_one_removal() {
    let mut world = World::new(&[("a.yaml", "web"), ("b.yaml", "db"), ("c.yaml", "cache")]);
    world.rm("a.yaml");
    assert!(!world.look_while_events_go_on().changed);
    world.rm("b.yaml");
    world.put("d.yaml", "new");
    assert!(world.look_while_events_go_on().changed, "what is new does not wait");
    assert_eq!(world.wanted(), "cache db new web");
    world.rm("c.yaml");
    world.rm("d.yaml");
    world.look();
    assert_eq!(world.source.held().unwrap().files, ["a.yaml", "b.yaml", "c.yaml", "d.yaml"]);
}

#[test]
fn a_directory_that_is_gone_removes_nothing() {
    for root in [RootState::Missing, RootState::Unreadable("Input/output error".into())] {
        let mut world = World::new(&[("only.yaml", "web")]);
        let (there, files) = (world.scan.root.clone(), std::mem::take(&mut world.scan.files));
        world.scan.root = root;
        let outcome = world.look();
        assert_eq!(world.wanted(), "web");
        assert_eq!(outcome.reports.len(), 1);
        assert_eq!(
            world.held(),
            "held: the manifest directory is gone with 1 file: only.yaml; bayplan sync --confirm-removal releases it"
        );
        assert_eq!(world.look().reports, []);
        (world.scan.root, world.scan.files) = (there, files);
        world.look();
        assert_eq!((world.wanted(), world.held()), ("web".into(), String::new()));
        assert_eq!(world.source.problems(), []);
        assert!(!world.rows["only.yaml"].held);
    }
}

#[test]
fn a_replaced_directory_gives_what_it_has_and_removes_nothing() {
    let mut world = World::new(&[("a.yaml", "web"), ("b.yaml", "db"), ("c.yaml", "cache")]);
    world.root(2);
    world.put("a.yaml", "web=2");
    world.rm("b.yaml");
    world.look();
    assert_eq!(world.wanted(), "cache db web=2");
    assert_eq!(world.source.held().unwrap().reason, HeldReason::DirectoryReplaced);
    // From then on it is the directory: single removals are removals.
    world.rm("c.yaml");
    world.look();
    assert_eq!(world.wanted(), "db web=2");
    world.root(1);
    world.put("b.yaml", "db");
    world.look();
    assert_eq!((world.wanted(), world.held()), ("db web=2".into(), String::new()));
}

#[test]
fn a_replaced_directory_with_everything_holds_nothing() {
    let mut world = World::new(&[("a.yaml", "web"), ("b.yaml", "db")]);
    world.root(2);
    let outcome = world.look();
    assert!(!outcome.changed && outcome.held.is_none());
    world.rm("a.yaml");
    world.look();
    assert_eq!(world.wanted(), "db");
}

#[test]
fn what_is_out_of_sight_is_not_gone() {
    let mut world = World::new(&[("sub/a.yaml", "web"), ("subway.yaml", "db"), ("c.yaml", "cache")]);
    world.scan.blind.insert(Blind { dir: "sub".into(), reason: "cannot be read: Permission denied".into() });
    world.rm("sub/a.yaml");
    world.rm("subway.yaml");
    let outcome = world.look();
    assert_eq!(world.wanted(), "cache web");
    assert_eq!(messages(&outcome.reports), ["sub cannot be read: Permission denied"]);
    world.scan.blind.clear();
    assert_eq!(world.look().mended, ["sub"]);
    assert_eq!(world.wanted(), "cache");
}

#[test]
fn a_renamed_file_keeps_its_resources() {
    let mut world = World::new(&[("a.yaml", "web"), ("b.yaml", "db")]);
    world.scan.files.clear();
    world.put("x.yaml", "web");
    world.put("y.yaml", "db=2");
    let outcome = world.look();
    assert_eq!((world.wanted(), world.held()), ("db=2 web".into(), String::new()), "renamed, one of them edited");
    assert!(outcome.changed, "its source is another");
    assert_eq!(world.source.desired().values().next().unwrap().source.to_string(), "dir:y.yaml");
    assert_eq!(world.rows.len(), 2);
}

#[test]
fn a_broken_file_that_is_renamed_keeps_its_last_good_resources() {
    let mut world = World::new(&[("a.yaml", "web"), ("b.yaml", "db")]);
    world.put("a.yaml", "web !");
    world.look();
    world.rm("a.yaml");
    world.put("c.yaml", "web !");
    let outcome = world.look();
    assert_eq!(world.wanted(), "db web");
    assert_eq!(messages(&outcome.reports), ["c.yaml does not parse"]);
    world.restart();
    world.look();
    assert_eq!(world.wanted(), "db web");
}

#[derive(Debug, Clone)]
enum Op {
    Put(usize, usize),
    Remove(usize),
    Clear,
    Restart,
    Look { quiet: bool },
    Root(u64),
    Gone,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0_usize..4, 0_usize..TEXTS.len()).prop_map(|(file, text)| Op::Put(file, text)),
        2 => (0_usize..4).prop_map(Op::Remove),
        1 => Just(Op::Clear),
        2 => Just(Op::Restart),
        4 => any::<bool>().prop_map(|quiet| Op::Look { quiet }),
        1 => (1_u64..3).prop_map(Op::Root),
        1 => Just(Op::Gone),
    ]
}

const TEXTS: [&str; 8] = ["", "web", "web=2 db", "db", "!", "cache >web", "cache cache", "db=2 cache"];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_restart_at_any_moment_changes_nothing_and_a_good_tree_wins_in_the_end(ops in prop::collection::vec(op(), 0..40)) {
        let mut world = World::new(&[]);
        for op in ops {
            match op {
                Op::Put(file, text) => world.put(&format!("{file}.yaml"), TEXTS[text]),
                Op::Remove(file) => { world.scan.files.remove(&format!("{file}.yaml")); }
                Op::Clear => world.scan.files.clear(),
                Op::Root(ino) => world.root(ino),
                Op::Gone => world.scan.root = RootState::Missing,
                Op::Restart => {
                    let (wanted, held) = (world.source.desired().clone(), world.source.held());
                    world.restart();
                    prop_assert_eq!((world.source.desired(), world.source.held()), (&wanted, held));
                }
                Op::Look { quiet: true } => {
                    world.look();
                    prop_assert_eq!(world.look(), Outcome::default(), "a second look at the same tree");
                }
                Op::Look { quiet: false } => {
                    let before: Vec<ResourceKey> = world.source.desired().keys().cloned().collect();
                    let (files, outcome) = (world.scan.files.clone(), world.look_while_events_go_on());
                    if outcome.changed && files.is_empty() {
                        prop_assert!(before.iter().all(|key| world.source.desired().contains_key(key)));
                    }
                }
            }
        }
        // Whatever happened: a good tree, and a person's word for what is held, give exactly that tree.
        world.root(9);
        world.scan.files.clear();
        world.put("z.yaml", "web=9 end");
        world.look();
        world.confirm();
        prop_assert_eq!(world.wanted(), "end web=9");
        prop_assert_eq!(world.source.problems(), []);
        prop_assert_eq!(world.rows.len(), 1);
    }
}
